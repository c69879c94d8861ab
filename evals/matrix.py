"""One model, every planner: the same trained model under each planner that it can serve.

    python -m evals.matrix model=cartpole-swingup
    python -m evals.matrix model=runs/control/dmc/walker-walk/tdmpc2-tdmpc2-0/model.pt horizon=3

Planners are compared at equal model steps a decision and at equal milliseconds a decision, beside
what needs no planning (zero, random and policy-only actions) and planning with the true simulator.
Every cell is a run of `evals.control` in `out`, so the command continues where it was stopped; it
ends with one page, out/report.html, and its tables as out/matrix.md.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.cli import call
from configs.options import option
from control.ensemble import Propagation
from control.world_model import WorldModel, load_world_model
from evals import control
from evals.records import write_atomically
from evals.report import Cell, Section, Table, document, print_table, write_report
from evals.stats import Estimate
from mbrl_core import ListedActions, RandomActions, RandomShooting, generator
from mbrl_core.viewer.charts import Baseline, Curve, LineChart

Say = Callable[[str], None]
Summary = dict[str, Any]

ITERATION = 32  # least candidates of an iteration before there is a second one
REFITS = 6  # iterations at most, as TD-MPC2 has them
CLIMBERS = 8  # candidates that climb at once
CLIMB = 5  # ascent steps before there is another candidate
TIMED = 64  # candidates of an iteration where time is the limit
ENDLESS = 200  # iterations where time is the limit
TRUE = "true simulator"
TRUE_HORIZON = 16  # model steps planned ahead with it


class Size(NamedTuple):
    """What a planner may spend on a decision."""

    steps: int | None = None  # model steps
    milliseconds: float | None = None  # wall time

    @property
    def folder(self) -> str:
        """Its part of the run folder's name."""
        return f"{self.steps}-steps" if self.steps else f"{self.milliseconds:g}-ms"


class Kind(NamedTuple):
    """A planner of the table."""

    name: str  # as readers see it
    options: Callable[[Size, int], list[str]]  # (size, horizon) to options of `evals.control`
    by_policy: bool = False  # whether it makes sense only where the model has learned a policy


def matrix(
    *,
    model: str = "cartpole-swingup",
    env: str | None = None,
    out: str | Path,
    planners: Sequence[str] | None = None,
    steps: Sequence[int] = (400, 1600, 6400),
    milliseconds: Sequence[float] = (10.0, 40.0),
    simulator: Sequence[int] = (400, 1600),
    horizon: int = 16,
    episodes: int = 10,
    parallel: int = 5,
    seed: int = 0,
    propagation: Propagation | None = None,
    aleatoric: bool | None = None,
    say: Say = print,
) -> Path:
    """Play all cells that are not on record yet and write the page; returns its path.

    Args:
        model: a world-model file, or the name of one that comes with the package.
        env: which environment, where the model knows several; its only one where None.
        out: folder of the runs and of the page.
        planners: of `KINDS`, all that apply where None.
        steps: model steps a decision may take; a step that is differentiated through is one.
        milliseconds: wall time a decision may take, one episode at a time.
        simulator: model steps a decision may take where CEM plans with the true simulator.
        horizon: model steps planned ahead with the learned model.
        episodes: of each cell, the same ones in all.
        parallel: episodes played side by side where steps are the limit.
        seed: of the episodes and the planners' draws.
        propagation, aleatoric: of an ensemble, see `evals.control`.
        say: receives progress lines.

    Raises:
        ValueError: a name that is no planner, one that needs a policy where the model has none of
            its own, a size or horizon that is not above 0, or what `evals.control` refuses.
    """
    _check_positive(horizon=[horizon], steps=steps, milliseconds=milliseconds, simulator=simulator)
    folder, world = Path(out), load_world_model(model, env)
    has_policy = _has_policy(world.model().policy)
    kinds = _chosen(planners, has_policy=has_policy)
    played = [f"env={world.env}", f"episodes={episodes}", f"seed={seed}"]
    settings = {"propagation": propagation, "aleatoric": aleatoric}
    own = [*played, option("model", model)]
    own += [f"{name}={value}".lower() for name, value in settings.items() if value is not None]
    cells: dict[tuple[str, Size], Summary] = {}
    for size in [*(Size(n) for n in steps), *(Size(milliseconds=t) for t in milliseconds)]:
        for key, kind in kinds.items():
            chosen = kind.options(size, horizon)
            if key == "random_shooting" and size.milliseconds:
                chosen += [f"planner.samples={_calibrated(folder, world, settings, size, horizon)}"]
            side = 1 if size.milliseconds else parallel
            options = [*own, *chosen, f"parallel={side}"]
            cells[kind.name, size] = _run(folder / f"{key}-{size.folder}", options, say)
    for number in simulator:
        options = [*played, "model=simulator", f"action_repeat={world.action_repeat}"]
        options += [*_population("cem", Size(number), TRUE_HORIZON), f"parallel={parallel}"]
        cells[TRUE, Size(number)] = _run(folder / f"simulator-{number}-steps", options, say)
    alone = {"zero": ["planner=zero"], "random": ["planner=random"]}
    if has_policy:
        alone["policy"] = ["planner=policy", "planner.action=mode"]
    marks = {
        name: _run(folder / name, [*own, *chosen, f"parallel={parallel}"], say)
        for name, chosen in alone.items()
    }
    return _write(folder, f"{model} ({world.env})", cells, marks, episodes, say)


# ----------------------------------------------------------------------------------------- planners


def _population(file: str, size: Size, horizon: int, *, by_policy: bool = False) -> list[str]:
    """A planner that refits a population: iterations of at least `ITERATION` candidates.

    With `by_policy` one in twenty follows the policy, as in TD-MPC2.
    """
    samples, refits = TIMED, ENDLESS
    if size.steps:
        futures = max(2, size.steps // horizon)
        refits = min(REFITS, max(1, futures // ITERATION))
        samples = futures // refits
    found = [f"planner={file}", f"planner.horizon={horizon}", f"planner.samples={samples}"]
    found += [f"planner.iterations={refits}"]
    if file != "mppi":
        found += [f"planner.elites={max(2, samples // 8)}"]
    if by_policy:
        found += [f"planner.policy_samples={max(1, samples // 20)}"]
    return [*found, *_limit(size)]


def _climbing(size: Size, horizon: int, *, by_policy: bool = False) -> list[str]:
    """Grad-MPC; with `by_policy` half of its candidates start at rollouts of the policy."""
    climbers, climb = CLIMBERS, ENDLESS
    if size.steps:
        futures = max(2, size.steps // horizon)
        climbers = min(CLIMBERS, max(1, futures // (CLIMB + 1)))
        climb = max(1, futures // climbers - 1)
    found = ["planner=grad_mpc", f"planner.horizon={horizon}", f"planner.samples={climbers}"]
    found += [f"planner.iterations={climb}"]
    if by_policy:
        found += [f"planner.policy_samples={(climbers + 1) // 2}", "planner.policy_std=0.1"]
    return [*found, *_limit(size)]


def _shooting(size: Size, horizon: int) -> list[str]:
    samples = [f"planner.samples={max(1, size.steps // horizon)}"] if size.steps else []
    return ["planner=random_shooting", f"planner.horizon={horizon}", *samples]


def _limit(size: Size) -> list[str]:
    if size.steps:
        return [f"budget.steps={size.steps}"]
    assert size.milliseconds is not None
    return [f"budget.seconds={size.milliseconds / 1000:g}"]


KINDS = {
    "random_shooting": Kind("random shooting", _shooting),
    "cem": Kind("CEM", lambda s, h: _population("cem", s, h)),
    "icem": Kind("iCEM", lambda s, h: _population("icem", s, h)),
    "mppi": Kind("MPPI", lambda s, h: _population("mppi", s, h)),
    "tdmpc": Kind("TD-MPC without policy", lambda s, h: _population("tdmpc", s, h)),
    "policy_tdmpc": Kind(
        "TD-MPC", lambda s, h: _population("tdmpc", s, h, by_policy=True), by_policy=True
    ),
    "grad_mpc": Kind("Grad-MPC", _climbing),
    "policy_grad_mpc": Kind(
        "Policy+Grad-MPC", lambda s, h: _climbing(s, h, by_policy=True), by_policy=True
    ),
}


def _chosen(names: Sequence[str] | None, *, has_policy: bool) -> dict[str, Kind]:
    """The planners of the table. Raises ValueError where a name is none or needs a policy."""
    for name in names or ():
        if name not in KINDS:
            raise ValueError(f"no planner {name!r}: choose among {', '.join(KINDS)}")
        if KINDS[name].by_policy and not has_policy:
            raise ValueError(f"planner {name} needs a model with a policy of its own")
    listed = KINDS if names is None else {name: KINDS[name] for name in names}
    return {name: kind for name, kind in listed.items() if has_policy or not kind.by_policy}


def _check_positive(**numbers: Sequence[float]) -> None:
    """Raise ValueError, naming the option, for a number that is not above 0."""
    for name, given in numbers.items():
        for number in given:
            if not number > 0:
                raise ValueError(f"{name} must be above 0, not {number}")


def _has_policy(policy: object) -> bool:
    """Whether a model's policy was learned."""
    return policy is not None and not isinstance(policy, RandomActions | ListedActions)


def _calibrated(
    folder: Path, world: WorldModel, settings: Mapping[str, Any], size: Size, horizon: int
) -> int:
    """How many candidates random shooting, which has no iterations to stop after, may draw.

    Measured once, with the model that is played with, on this machine, and kept in the folder so
    that a run can be continued. Raises ValueError where what was kept is damaged.
    """
    assert size.milliseconds is not None
    path = folder / "calibration.json"
    try:
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: delete it, and it is measured again") from error
    key = f"{size.milliseconds:g} ms, horizon {horizon}"
    if key not in known:
        model, root = control.wrapping(world, None, None, None)(world.model(**settings), world.root)
        state = root(world.make_env(1).reset([0]))
        few, many = (_seconds(model, state, n, horizon) for n in (64, 1024))
        each = max((many - few) / (1024 - 64), 1e-9)
        known[key] = max(1, round(64 + (size.milliseconds / 1000 - few) / each))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known, indent=2) + "\n")
    return known[key]


def _seconds(model: Any, state: Any, samples: int, horizon: int) -> float:
    """Of one plan: the best of a few, which a busy machine disturbs least."""
    planner, spent = RandomShooting(samples=samples, horizon=horizon, actions="uniform"), []
    for number in range(7):
        started = time.perf_counter()
        planner(model, state, rng=generator(number))
        spent.append(time.perf_counter() - started)
    return min(spent)


def _run(folder: Path, options: list[str], say: Say) -> Summary:
    """The summary of one cell; what is on record is not played again."""
    say(f"{folder.name}")
    given = [*options, option("out", folder)]
    found = call("evals_control", control.evaluate, given, say=lambda line: say(f"  {line}"))
    return found | {"command": shlex.join(["python", "-m", "evals.control", *given])}


# ------------------------------------------------------------------------------------------ showing


def _write(
    folder: Path,
    title: str,
    cells: dict[tuple[str, Size], Summary],
    marks: dict[str, Summary],
    episodes: int,
    say: Say,
) -> Path:
    """The page, the Markdown tables, and the tables on the terminal."""
    by_steps = {key: run for key, run in cells.items() if key[1].steps}
    by_time = {key: run for key, run in cells.items() if not key[1].steps}
    sections = [
        Section(
            "Equal model steps",
            "Every planner may step the model equally often for a decision. Gradient planners "
            "differentiate through most of their steps, which costs about two steps more each; "
            "what a decision took on this machine is in the last column.\n\n"
            f"Mean return over the same {episodes} episodes with 95% intervals (Student's t).",
            figures=[_chart(by_steps, marks, "steps_per_decision", 1, "model steps per decision")],
            tables=[_table(by_steps, marks, "model steps allowed")],
        )
    ]
    if by_time:
        sections.append(
            Section(
                "Equal milliseconds",
                "Every planner may take equally long for a decision, one episode at a time. It "
                "begins no iteration that would end too late, so the time is used up to one "
                "iteration.",
                figures=[_chart(by_time, marks, "seconds_per_decision", 1e3, "ms per decision")],
                tables=[_table(by_time, marks, "milliseconds allowed")],
            )
        )
    commands = [run["command"] for run in [*cells.values(), *marks.values()]]
    sections.append(Section("Commands", "Each cell alone.", command="\n".join(commands)))
    for section in sections:
        for table in section.tables:
            say("")
            print_table(table)
    write_atomically(folder / "matrix.md", document([f"# {title}"], sections[:-1]))
    page = write_report(folder / "report.html", "One model, every planner", sections, title)
    say(f"\nwrote {page} and {folder / 'matrix.md'}")
    return page


def _chart(
    cells: dict[tuple[str, Size], Summary],
    marks: dict[str, Summary],
    measure: str,
    scale: float,
    label: str,
) -> LineChart:
    curves = []
    for name in dict.fromkeys(name for name, _ in cells):
        runs = [run for (planner, _), run in cells.items() if planner == name]
        runs = [run for run in runs if run[measure] > 0]  # the axis is logarithmic
        if not runs:
            continue
        spent = [scale * run[measure] for run in runs]
        curves.append(Curve(name, spent, *zip(*(_return(run) for run in runs), strict=True)))
    lines = [Baseline(_mark(name), run["return"]["mean"]) for name, run in marks.items()]
    return LineChart(curves, label, "return", lines)


def _table(
    cells: dict[tuple[str, Size], Summary], marks: dict[str, Summary], allowed: str
) -> Table:
    rows: list[list[Cell]] = [
        [name, size.steps or size.milliseconds, *_cells(run)]
        for (name, size), run in sorted(cells.items(), key=lambda item: _order(item[0][1]))
    ]
    rows += [[_mark(name), None, *_cells(run)] for name, run in marks.items()]
    measured = ["model steps", "differentiated", "ms a decision"]
    return Table(["planner", allowed, "return", *measured], rows)


def _cells(run: Summary) -> list[Cell]:
    steps, gradients = run["steps_per_decision"], run["gradients_per_decision"]
    return [_return(run), round(steps), round(gradients), 1e3 * run["seconds_per_decision"]]


def _return(run: Summary) -> Estimate:
    return Estimate(**run["return"])


def _order(size: Size) -> tuple[int, float]:
    return (size.steps or 0, size.milliseconds or 0.0)


def _mark(name: str) -> str:
    return {"zero": "zero action", "random": "random actions", "policy": "policy only"}[name]


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("matrix", matrix, __doc__ or ""))
