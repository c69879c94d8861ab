"""Our training runs against published results, at equal simulator frames.

    python -m evals.references
    python -m evals.references page=docs/results.md references=[more_results.csv]

Reads the records below records/control (see `evals.keep`), writes a page with tables and learning
curves and the same tables as Markdown. Every task with a record is in it, whatever came out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from evals.kept import RECORDS, Mark, Training, read_marks, read_trainings
from evals.records import write_atomically
from evals.report import Cell, Section, Table, document, print_table, write_report
from evals.stats import Estimate, t_interval, welch_interval
from mbrl_core.viewer.charts import Baseline, Curve, LineChart

PUBLISHED = Path(__file__).with_name("published.csv")
NEAR = 0.025  # an evaluation counts for a number of frames if it is off by this share at most
GOAL = "tdmpc2"  # the published method that ours are measured against
MODEL_FREE = "sb3_sac"  # our agent that learns no model, which those that do are measured against
OPENING, CLOSING = "<!-- references -->", "<!-- /references -->"
NOT_LEARNT_FROM = (
    "seed", "compiled", "device", "eval_frames", "eval_episodes", "log_frames", "nan",
)  # fmt: skip
IDLE = ("discrete_entropy",)  # options that decide nothing where actions are continuous, as in dmc/
TASKS = {"ball-in-cup-catch": "cup-catch"}  # names that publications shorten
Say = Callable[[str], None]


class Published(NamedTuple):
    """A mean over seeds that somebody published."""

    task: str
    method: str
    frames: int
    mean: float
    std: float | None  # over seeds
    seeds: int | None
    action_repeat: str
    source: str


class Ours(NamedTuple):
    """Runs that differ in their seeds alone."""

    env: str
    agent: str
    runs: list[Training]

    @property
    def task(self) -> str:
        """The task as publications name it."""
        return task_of(self.env)

    def at(self, frames: float) -> dict[int, float]:
        """Return by seed of the evaluations at so many frames, of the seeds that have one."""
        found = {}
        for run in self.runs:
            near = min(run.evaluations, key=lambda e: abs(e[0] - frames), default=(math.inf, 0.0))
            if abs(near[0] - frames) <= NEAR * frames:
                found[run.seed] = near[1]
        return found


def references(
    *,
    records: str | Path = RECORDS,
    references: Sequence[str | Path] = (),
    out: str | Path = "runs/references",
    frames: Sequence[int] = (100_000, 500_000),
    methods: Sequence[str] | None = None,
    page: str | Path | None = None,
    say: Say = print,
) -> Path:
    """Write the tables and the page; returns the page's path.

    Args:
        records: folder of what was kept of our runs.
        references: CSV files of published results besides those that come with the package, with
            columns task, method, step or frames, mean, and std, n_seeds, action_repeat, source
            where they are known. A file that is not there is noted and left out.
        out: folder of the page (report.html) and of the tables (references.md).
        frames: simulator frames at which returns are compared.
        methods: published methods that get a column; all where None.
        page: a Markdown file; what lies between its lines `<!-- references -->` and
            `<!-- /references -->` is replaced by the tables.
        say: receives progress lines.

    Raises:
        ValueError: there are no records, runs of one name differ in more than their seeds, a file
            of results lacks a column or all rows, no run was evaluated at any of `frames`, nobody
            published one of `methods`, or `page` lacks its two lines.
    """
    ours = _grouped(run for run in read_trainings(records) if run.evaluations)
    if not ours:
        raise ValueError(f"{records} holds no training run: keep some with evals.keep")
    published, notes = _published([PUBLISHED, *map(Path, references)], methods)
    marks = read_marks(records)
    compared = [n for n in frames if any(group.at(n) for group in ours)]
    if not compared:
        raise ValueError(f"no run below {records} was evaluated at frames={list(frames)}")
    notes += [f"No run was evaluated at {n:,} frames." for n in frames if n not in compared]
    sections = [_compared(n, ours, published, marks) for n in compared]
    if (learning := _beside_model_free(ours)) is not None:
        sections.append(learning)
    details = [_runs(ours), _sources(published, {group.task for group in ours})]
    sections.append(Section("Runs and sources", "\n\n".join(notes), tables=details))
    for section in sections:
        for table in section.tables:
            say("")
            print_table(table)
    text = document([], sections, "###")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "references.md", text)
    curves = Section("Learning curves", CURVES, figures=_curves(ours, published, marks))
    written = write_report(
        folder / "report.html", "Our runs and published results", [*sections, curves]
    )
    if page:
        _insert(Path(page), text)
    say(f"\nwrote {written} and {page or folder / 'references.md'}")
    return written


def task_of(env: str) -> str:
    """`dmc/ball-in-cup-catch` to `cup-catch`."""
    task = env.partition("/")[2]
    return TASKS.get(task, task)


# ------------------------------------------------------------------------------------------ reading


def _grouped(runs: Iterable[Training]) -> list[Ours]:
    """Runs by environment and agent. Raises ValueError where their recipes differ."""
    groups = []
    for (env, agent), found in groupby(runs, key=lambda run: (run.env, run.agent)):
        group = Ours(env, agent, list(found))
        first = _recipe(group.runs[0])
        for run in group.runs[1:]:
            other = _recipe(run)
            # An option that is in one of them alone came with a later version, which keeps what
            # was by its default.
            differ = [n for n in sorted(first.keys() & other.keys()) if first[n] != other[n]]
            if differ:
                raise ValueError(
                    f"{agent} on {env}: seeds {group.runs[0].seed} and {run.seed} differ in "
                    f"{', '.join(differ)}, too: keep them under two names"
                )
        groups.append(group)
    return groups


def _recipe(run: Training) -> dict[str, Any]:
    """What makes the results of two seeds comparable: not the seed, nor what computes or watches
    them."""
    idle = IDLE if run.env.startswith("dmc/") else ()
    options = _leaves(run.about.get("arguments", {}))
    return {name: value for name, value in options if name.rpartition(".")[2] not in idle}


def _leaves(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        elif name not in NOT_LEARNT_FROM:
            yield f"{path}{name}", value


def _published(
    paths: Sequence[Path], methods: Sequence[str] | None
) -> tuple[list[Published], list[str]]:
    """What the files hold, and notes on those that are missing; of two equal cells the first."""
    found: dict[tuple[str, str, int], Published] = {}
    notes = []
    for path in paths:
        if not path.exists():
            notes.append(f"{path} is not there: its published results are left out.")
            continue
        for row in _results(path):
            found.setdefault((row.task, row.method, row.frames), row)
    known = list(dict.fromkeys(method for _, method, _ in found))
    for method in methods or ():
        if method not in known:
            raise ValueError(
                f"nobody published a method {method!r}: choose from {', '.join(known)}"
            )
    return [row for row in found.values() if methods is None or row.method in methods], notes


def _results(path: Path) -> list[Published]:
    """The rows of one file that are about states and a number of frames.

    Raises ValueError, naming the file, where it has none, or one that is no result.
    """
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
        if not listed:
            raise ValueError(f"{path} is no table of published results: it has no row")
        for row in listed:
            try:
                frames = row.get("frames") or row.get("requested_step") or row["step"]
                if row.get("obs", "state") != "state" or not _is_number(frames):
                    continue
                std, seeds = row.get("std"), row.get("seeds") or row.get("n_seeds")
                rows.append(
                    Published(
                        row["task"],
                        row["method"],
                        int(float(frames)),
                        _finite(row["mean"]),
                        _finite(std) if std else None,
                        int(seeds) if seeds else None,
                        row.get("action_repeat") or "",
                        row.get("source") or path.name,
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no table of published results: {error!r}") from error
    return rows


def _is_number(text: str) -> bool:
    """Whether a step is a number; others, such as `final`, are of no number of frames."""
    try:
        return float(text) >= 0
    except ValueError:
        return False


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no return")
    return number


# ------------------------------------------------------------------------------------------- tables


def _compared(
    frames: int, ours: Sequence[Ours], published: Sequence[Published], marks: Sequence[Mark]
) -> Section:
    """One row per task: ours, the marks, what is published, and how our `GOAL` compares to it."""
    there = [group for group in ours if group.at(frames)]
    envs = list(dict.fromkeys(group.env for group in there))
    agents = sorted({group.agent for group in there})
    known = {(p.task, p.method): p for p in published if p.frames == frames}
    tasks = {task_of(env) for env in envs}
    methods = list(dict.fromkeys(p.method for p in published if (p.task, p.method) in known))
    methods = [m for m in methods if any((task, m) in known for task in tasks)]
    names = list(dict.fromkeys(mark.name for mark in marks if mark.env in envs))
    rows: list[list[Cell]] = []
    for env in envs:
        task = task_of(env)
        means = {g.agent: _shown(g.at(frames)) for g in there if g.env == env}
        level = {m.name: _short(t_interval(m.returns).mean) for m in marks if m.env == env}
        row: list[Cell] = [env, *(means.get(agent) for agent in agents)]
        row += [level.get(name) for name in names]
        row += [_plus_minus(known.get((task, method))) for method in methods]
        own = next((g.at(frames) for g in there if (g.env, g.agent) == (env, GOAL)), {})
        rows.append([*row, _verdict(own, known.get((task, GOAL)))])
    columns = ["task", *agents, *names, *(f"{method}, published" for method in methods)]
    return Section(
        f"At {frames:,} simulator frames",
        "Ours: mean over the seeds named, with the 95% interval of Student's t where there are "
        "several; each is the mean of an evaluation's episodes, apart from training. Published: "
        f"mean ± standard deviation over seeds. Last: how far our {GOAL} is above the published, "
        "with Welch's 95% interval where we have two seeds.",
        tables=[Table([*columns, f"our {GOAL} less the published"], rows)],
    )


def _shown(by_seed: dict[int, float]) -> str | None:
    """`839.4 [801.2, 877.6], seeds 0, 1, 2`."""
    if not by_seed:
        return None
    mean, low, high = t_interval(list(by_seed.values()))
    named = f"seed{'s' if len(by_seed) > 1 else ''} {', '.join(map(str, sorted(by_seed)))}"
    interval = f" [{_short(low)}, {_short(high)}]" if len(by_seed) > 1 else ""
    return f"{_short(mean)}{interval}, {named}"


def _short(value: float) -> str:
    """A return, to one decimal."""
    return f"{value:,.1f}"


def _plus_minus(result: Published | None) -> str | None:
    if result is None:
        return None
    spread = "" if result.std is None else f" ± {_short(result.std)}"
    return f"{_short(result.mean)}{spread}"


def _verdict(by_seed: dict[int, float], goal: Published | None) -> str | None:
    """`-12.2 [-33.1, 8.7]: level`; a single seed has no interval and no word."""
    if goal is None or not by_seed:
        return None
    values = list(by_seed.values())
    if len(values) < 2 or goal.std is None or (goal.seeds or 0) < 2:
        return f"{t_interval(values).mean - goal.mean:+.1f}"
    return _worded(welch_interval(values, goal.mean, goal.std, goal.seeds or 0))


def _worded(found: Estimate) -> str:
    word = "ahead" if found.low > 0 else "behind" if found.high < 0 else "level"
    return f"{found.mean:+.1f} [{_short(found.low)}, {_short(found.high)}]: {word}"


def _beside_model_free(ours: Sequence[Ours]) -> Section | None:
    """How far our agents are above the one without a model at each of its evaluations, by task;
    None where it has no seeds to compare with."""
    rows: list[list[Cell]] = []
    for free in ours:
        if free.agent != MODEL_FREE or len(free.runs) < 2:
            continue
        for frames, _ in free.runs[0].evaluations:
            theirs = list(free.at(frames).values())
            for group in ours:
                own = list(group.at(frames).values())
                if group is free or group.env != free.env or min(len(own), len(theirs)) < 2:
                    continue
                found = welch_interval(own, mean(theirs), stdev(theirs), len(theirs))
                means = _short(mean(own)), _short(mean(theirs))
                rows.append([free.env, group.agent, f"{frames:,.0f}", *means, _worded(found)])
    if not rows:
        return None
    rows.sort(key=lambda row: row[:2])
    columns = ["task", "agent", "frames", "mean", f"mean of {MODEL_FREE}", "difference"]
    return Section(
        f"While learning, beside {MODEL_FREE}",
        "Means over seeds at each evaluation, and the difference with Welch's 95% interval, its "
        "degrees of freedom rounded down.",
        tables=[Table(columns, rows)],
    )


def _runs(ours: Sequence[Ours]) -> Table:
    """How ours were made."""
    rows: list[list[Cell]] = []
    for group in ours:
        about = [run.about for run in group.runs]
        rows.append(
            [
                group.env,
                group.agent,
                ", ".join(str(run.seed) for run in group.runs),
                about[0].get("action_repeat"),
                about[0].get("parameters"),
                f"{max(run.rows[-1]['frames'] for run in group.runs):,.0f}",
                ", ".join(f"{one.get('hours', 0):.1f}" for one in about),
                "; ".join(dict.fromkeys(str(one.get("machine")) for one in about)),
            ]
        )
    columns = ["task", "agent", "seeds", "action repeat", "weights", "frames", "hours", "machine"]
    return Table(columns, rows, "Our runs; weights: numbers in the world model's networks.")


def _sources(published: Sequence[Published], tasks: set[str]) -> Table:
    """Where the published means come from."""
    rows: list[list[Cell]] = []
    listed = sorted((p for p in published if p.task in tasks), key=lambda p: (p.method, p.source))
    for method, found in groupby(listed, key=lambda p: p.method):
        results = list(found)
        seeds = sorted({p.seeds for p in results if p.seeds})
        repeats = sorted({p.action_repeat for p in results if p.action_repeat})
        sources = dict.fromkeys(_folder(p.source) for p in results)
        rows.append([method, _range(seeds), ", ".join(repeats) or None, "; ".join(sources)])
    return Table(["method", "seeds", "action repeat", "source"], rows, "Published results.")


def _folder(source: str) -> str:
    """A source without the name of its task's file."""
    return source.rpartition("/")[0] if source.endswith(".csv") and "/" in source else source


def _range(numbers: Sequence[int]) -> str | None:
    if not numbers:
        return None
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first} to {last}"


def _insert(path: Path, text: str) -> None:
    """Put the tables between the page's two lines. Raises ValueError where it lacks them."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, opening, rest = page.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise ValueError(f"{path} needs the two lines {OPENING} and {CLOSING}")
    write_atomically(path, f"{before}{OPENING}\n{text}{CLOSING}{after}")


# ------------------------------------------------------------------------------------------- curves

CURVES = (
    "Returns of evaluations against simulator frames: the mean over seeds with the 95% interval of "
    "Student's t, and published means with their standard deviation over seeds."
)


def _curves(
    ours: Sequence[Ours], published: Sequence[Published], marks: Sequence[Mark]
) -> list[LineChart]:
    """One chart per environment."""
    charts = []
    for env, found in groupby(ours, key=lambda group: group.env):
        curves = [_curve(group) for group in found]
        last = max(max(curve.x) for curve in curves)
        curves += _published_curves([p for p in published if p.task == task_of(env)], last)
        levels = [
            Baseline(mark.name, t_interval(mark.returns).mean) for mark in marks if mark.env == env
        ]
        charts.append(
            LineChart(curves, "simulator frames", "return", levels, log_x=False, caption=env)
        )
    return charts


def _curve(group: Ours) -> Curve:
    """The mean over those seeds that have an evaluation at each number of frames."""
    frames = sorted({at for run in group.runs for at, _ in run.evaluations})
    by_seed = {at: group.at(at) for at in frames}
    most = max(len(found) for found in by_seed.values())
    kept = [at for at in frames if len(by_seed[at]) == most]
    estimates: list[Estimate] = [t_interval(list(by_seed[at].values())) for at in kept]
    return Curve(f"{group.agent}, ours", kept, *zip(*estimates, strict=True))


def _published_curves(results: Sequence[Published], last: float) -> list[Curve]:
    """Each method's means up to the frames of our longest run."""
    curves = []
    for method in dict.fromkeys(result.method for result in results):
        points = sorted((p for p in results if p.method == method), key=lambda p: p.frames)
        points = [p for p in points if p.frames <= last * (1 + NEAR)]
        if points:
            spreads = [p.std or 0.0 for p in points]
            curves.append(
                Curve(
                    f"{method}, published",
                    [p.frames for p in points],
                    [p.mean for p in points],
                    [p.mean - s for p, s in zip(points, spreads, strict=True)],
                    [p.mean + s for p, s in zip(points, spreads, strict=True)],
                )
            )
    return curves


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("references", references, __doc__ or ""))
