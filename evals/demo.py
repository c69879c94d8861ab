"""The main job: one planning core, two worlds, quality against planning compute.

Plans with the shipped world model in the real DMControl cart-pole, answers held-out word problems
with the embedded language model, and writes one self-contained page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.cli import call
from configs.options import option
from evals import control, reasoning
from evals.records import load_run
from evals.report import (
    CartPole,
    Cell,
    Section,
    Table,
    TreeView,
    print_table,
    write_report,
)
from evals.stats import (
    Estimate,
    best_of_k,
    maj_at_k,
    mean_interval,
    paired_difference,
    wilson_interval,
)
from mbrl_core.viewer.charts import Baseline, Curve, LineChart
from reasoning.embedded import folder_of
from reasoning.engines import TransformersEngine
from reasoning.grading import shortest
from reasoning.reasoner import Reasoner
from reasoning.strategies import mcts
from reasoning.tasks import Problem, load_task

Say = Callable[[str], None]

PLANNERS = {
    "random_shooting": "random shooting",
    "cem": "CEM",
    "mppi": "MPPI",
    "grad_mpc": "Grad-MPC",
}
BUDGETS = (400, 1600, 6400)  # model steps per decision
SAMPLES = 16
TREES: dict[str, tuple[str, ...]] = {
    "tree_of_thoughts": (
        "strategy.width=2 strategy.expand=2",
        "strategy.width=3 strategy.expand=4",
    ),
    "mcts": ("strategy.simulations=8", "strategy.simulations=24"),
}


def demo(
    *,
    out: str | Path = "runs/demo",
    episodes: int = 4,
    problems: int = 80,
    seed: int = 0,
    budgets: Sequence[int] = BUDGETS,
    say: Say = print,
) -> Path:
    """Run everything that is not on record in `out` yet and write `out`/report.html.

    Args:
        out: the folder of the page and of the runs behind it.
        episodes: per planner and budget.
        problems: per strategy.
        seed: decides everything random.
        budgets: model steps per control decision.
        say: receives progress lines.
    """
    started, out = time.perf_counter(), Path(out)
    say("control: planning with a learned model of dmc/cartpole-swingup, in the real simulator")
    played = {
        (planner, budget): _control(out, planner, budget, episodes, seed, say)
        for planner in PLANNERS
        for budget in budgets
    }
    random = _control(out, "random", 1, episodes, seed, say)
    best = max(played, key=lambda key: played[key]["return"]["mean"])
    say("reasoning: answering held-out word problems with the embedded language model")
    answered = _reason(out, problems, seed, say)
    sections = [
        _control_section(out, played, random, episodes, seed),
        _reasoning_section(out, answered, problems, seed),
        _episode_section(out, best, episodes, seed),
        _tree_section(answered, problems, seed),
    ]
    for section in sections:
        for table in section.tables:
            say("")
            print_table(table)
    minutes = (time.perf_counter() - started) / 60
    page = write_report(
        out / "report.html",
        "One planner, two worlds",
        sections,
        "The same planner objects act in a simulator with a learned world model and solve word "
        "problems with a language model. What does more planning buy in each?",
    )
    say(f"\nwrote {page} in {minutes:.1f} minutes")
    return page


# ---------------------------------------------------------------------------------------- running


def _control(
    out: Path, planner: str, budget: int, episodes: int, seed: int, say: Say
) -> dict[str, Any]:
    """The summary of one planner at one budget; `random` is a planner that looks one step ahead
    at a single random action."""
    options = _control_options(planner, budget, episodes, seed)
    folder = out / "control" / f"{planner}-{budget}"
    say(f"  {planner} with {budget} model steps a decision")
    return call(
        "evals_control", control.evaluate, [*options, option("out", folder)], say=_indent(say)
    )


def _control_options(planner: str, budget: int | str, episodes: int, seed: int) -> list[str]:
    chosen = (
        ["planner=random_shooting", "planner.samples=1", "planner.horizon=1"]
        if planner == "random"
        else [f"planner={planner}", f"budget.steps={budget}"]
    )
    return [*chosen, "aleatoric=false", f"episodes={episodes}", f"seed={seed}"]


def _reason(out: Path, problems: int, seed: int, say: Say) -> dict[str, list[dict[str, Any]]]:
    """The records of every reasoning run, by name."""
    found = {}
    for name, options in _runs().items():
        say(f"  {options.replace('strategy=', '')}")
        folder = out / "reasoning" / name
        given = [*options.split(), f"limit={problems}", f"seed={seed}", option("out", folder)]
        call("evals_reasoning", reasoning.evaluate, given, say=_indent(say))
        found[name] = sorted(load_run(folder)[1], key=lambda record: record["id"])
    return found


def _runs() -> dict[str, str]:
    """The options of every reasoning run, by name."""
    runs = {"greedy": "strategy=greedy", "sampled": f"strategy=best_of_n n={SAMPLES}"}
    for strategy, sizes in TREES.items():
        runs |= {f"{strategy}-{i}": f"strategy={strategy} {size}" for i, size in enumerate(sizes)}
    return runs


def _indent(say: Say) -> Say:
    return lambda line: say(f"    {line}")


# ---------------------------------------------------------------------------------------- showing


def _control_section(
    out: Path,
    played: dict[tuple[str, int], dict[str, Any]],
    random: dict[str, Any],
    episodes: int,
    seed: int,
) -> Section:
    curves: list[Curve] = []
    rows: list[list[Cell]] = []
    for planner, label in PLANNERS.items():
        runs = [run for (name, _), run in played.items() if name == planner]
        estimates = [Estimate(**run["return"]) for run in runs]
        curves.append(_curve(label, [_model_work(run) for run in runs], estimates))
        rows += [
            [
                label,
                estimate,
                round(run["steps_per_decision"]),
                round(run["gradients_per_decision"]),
                run["seconds_per_decision"] * 1e3,
            ]
            for estimate, run in zip(estimates, runs, strict=True)
        ]
    rows.append(["random actions", Estimate(**random["return"]), 0, 0, None])
    return Section(
        "Control: return against planning compute",
        "Swing up a pole on a cart (DMControl cartpole-swingup, 1000 frames, at most 1000 points). "
        "Every planner searches the same learned ensemble of neural networks; the actions are "
        "played in the real simulator. Compute is what a planner asks of the model for one "
        "decision: a model step counts one, and two more where it is differentiated through."
        f"\n\nMean over {episodes} episodes with 95% intervals (Student's t).",
        "\n".join(
            " ".join(["python -m evals.control", *_control_options(*key, episodes, seed)])
            + f" out={out / 'control'}/{key[0]}-{key[1]}"
            for key in played
        ),
        [
            LineChart(
                curves,
                "model steps per decision (differentiated ones count three)",
                "return",
                [Baseline("random actions", random["return"]["mean"])],
            )
        ],
        [
            Table(
                ["planner", "return", "model steps", "of these differentiated", "ms a decision"],
                rows,
                "Steps and milliseconds are of one decision of one episode.",
            )
        ],
    )


def _model_work(run: dict[str, Any]) -> float:
    """Model steps of a decision; the backward pass of a network costs about two forward ones."""
    return run["steps_per_decision"] + 2 * run["gradients_per_decision"]


def _reasoning_section(
    out: Path, answered: dict[str, list[dict[str, Any]]], problems: int, seed: int
) -> Section:
    points = _sampled_points(answered["sampled"])
    points["greedy"] = [_point(answered["greedy"])]
    for strategy, label in TREE_NAMES.items():
        points[label] = [
            _point(records) for name, records in answered.items() if name.startswith(strategy)
        ]
    curves = [
        _curve(name, [point.tokens for point in line], [point.accuracy for point in line])
        for name, line in points.items()
    ]
    rows: list[list[Cell]] = [
        [name, point.accuracy, round(point.tokens), round(point.prefilled), round(point.scored)]
        for name, line in points.items()
        for point in line
    ]
    return Section(
        "Reasoning: accuracy against tokens",
        "Grade-school word problems from sentence templates that the model never saw, "
        "answered by a language model of 1.8 million parameters trained from scratch. "
        "Random shooting, beam search and tree search are the classes that control uses; only the "
        "world differs. A solution is worth the mean probability of its tokens, and nothing where "
        "a calculator finds one of its equations wrong. Voting and best-of-n with fewer than "
        f"{SAMPLES} samples are computed from the {SAMPLES} samples of each problem."
        f"\n\n{_comparison(answered, problems)}",
        "\n".join(
            f"python -m evals.reasoning {options} limit={problems} seed={seed} "
            f"out={out / 'reasoning' / name}"
            for name, options in _runs().items()
        ),
        [LineChart(curves, "decoded tokens per problem", "accuracy", percent=True)],
        [
            Table(
                ["strategy", "accuracy", "decoded", "prefilled", "scored"],
                rows,
                "Tokens of one problem: decoded by the model, computed as its prompts, read by the "
                "scorer. The chart counts the first alone.",
            )
        ],
    )


def _comparison(answered: dict[str, list[dict[str, Any]]], problems: int) -> str:
    """What the paired records say of best-of-n against greedy."""
    greedy, sampled = answered["greedy"], answered["sampled"]
    gain = paired_difference(
        [float(record["correct"]) for record in sampled],
        [float(record["correct"]) for record in greedy],
        np.random.default_rng(0),
    )
    right = np.mean([any(s["correct"] for s in record["samples"]) for record in sampled])
    return (
        f"{problems} problems, 95% intervals. Best of {SAMPLES} by mean token probability and "
        f"calculator minus greedy, paired by problem: {100 * gain.mean:+.1f} points "
        f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]. Some sample of {SAMPLES} is right on "
        f"{right:.0%} of the problems: what a perfect choice would reach."
    )


TREE_NAMES = {"tree_of_thoughts": "tree of thoughts (beam)", "mcts": "MCTS"}


class Point(NamedTuple):
    """One strategy at one size: tokens of a problem, and accuracy."""

    tokens: float
    prefilled: float
    scored: float
    accuracy: Estimate


def _costs(records: list[dict[str, Any]]) -> list[float]:
    names = ("tokens", "prefilled", "scored")
    return [float(np.mean([record[name] for record in records])) for name in names]


def _point(records: list[dict[str, Any]]) -> Point:
    """What one run gave."""
    right = sum(record["correct"] for record in records)
    tokens, prefilled, scored = _costs(records)
    return Point(tokens, prefilled, scored, wilson_interval(right, len(records)))


def _sampled_points(records: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """Voting and best-of-k for k = 2, 4 .. n from n samples of each problem."""
    rng = np.random.default_rng(0)
    samples = [record["samples"] for record in records]
    correct = [[s["correct"] for s in row] for row in samples]
    scores = np.array([[-np.inf if s["value"] is None else s["value"] for s in r] for r in samples])
    answers = [[s["answer"] for s in row] for row in samples]
    truth = [shortest(record["reference"]) for record in records]
    tokens, prefilled, scored = _costs(records)
    lines: dict[str, list[Point]] = {"self-consistency": [], "weighted vote": [], "best of n": []}
    k = 2
    while k <= SAMPLES:
        share = k / SAMPLES
        weights = np.where(np.isfinite(scores), scores, 0.0)
        right = {
            "self-consistency": maj_at_k(answers, truth, k, rng),
            "weighted vote": maj_at_k(answers, truth, k, rng, weights=weights),
            "best of n": best_of_k(scores, correct, k),
        }
        for name, chances in right.items():
            read = 0.0 if name == "self-consistency" else scored * share
            estimate = mean_interval(chances, rng)
            lines[name].append(Point(tokens * share, prefilled, read, estimate))
        k *= 2
    return lines


def _curve(name: str, x: Sequence[float], estimates: Sequence[Estimate]) -> Curve:
    return Curve(name, x, *zip(*estimates, strict=True))


def _episode_section(out: Path, best: tuple[str, int], episodes: int, seed: int) -> Section:
    planner, budget = best
    folder = out / "control" / f"{planner}-{budget}"
    record = next(record for record in load_run(folder)[1] if "trace" in record)
    obs = np.array(record["trace"]["obs"])  # cart position, cos and sin of the angle, velocities
    figure = CartPole(
        position=obs[:, 0].tolist(),
        angle=np.arctan2(obs[:, 2], obs[:, 1]).tolist(),
        reward=record["trace"]["reward"],
        action=[action[0] for action in record["trace"]["action"]],
        seconds=10.0 / len(obs),
        caption=f"{PLANNERS[planner]}, {budget} model steps a decision: "
        f"return {record['return']:.0f}.",
    )
    options = _control_options(planner, budget, episodes, seed)
    return Section(
        "One control episode",
        "What the best planner of the chart did in its first episode.",
        " ".join(["python -m evals.control", *options, f"out={folder}"]),
        [figure],
    )


def _tree_section(answered: dict[str, list[dict[str, Any]]], problems: int, seed: int) -> Section:
    """The tree of the first problem that tree search gets right and greedy does not, if any."""
    pairs = zip(answered["greedy"], answered[f"mcts-{len(TREES['mcts']) - 1}"], strict=True)
    gained = [
        searched["id"] for greedy, searched in pairs if searched["correct"] > greedy["correct"]
    ]
    found = load_task("generated", limit=problems)
    problem = next((p for p in found if p.id in gained), found[0])
    return Section(
        "One search tree",
        "Monte Carlo tree search over the reasoning steps of one problem"
        + (", which greedy decoding gets wrong" if gained else "")
        + ". Each node is a step the language model proposed; its prior is how often it was "
        f"sampled, its value the search's estimate of the final score.\n\n{problem.question}",
        f"python -m evals.demo problems={problems} seed={seed}",
        [_search_tree(problem, seed)],
    )


def _search_tree(problem: Problem, seed: int) -> TreeView:
    reasoner = Reasoner(
        engine=TransformersEngine(folder_of("embedded", "lm")),
        strategy=mcts(simulations=24, temperature=0.8),
        calculator=False,
    )
    plan = reasoner.plan([problem.question], ids=[problem.id], seed=seed)
    return TreeView(plan, reasoning.describe, f"The right answer is {problem.answer}.")


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("demo", demo, __doc__ or ""))
