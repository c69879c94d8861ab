"""The main job: one planning core, two worlds, quality against planning compute.

Plans with the shipped world model in the real DMControl cart-pole, answers held-out word problems
with the embedded language model, and writes one self-contained page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.cli import call
from evals import control, reasoning
from evals.charts import Baseline, Curve, LineChart
from evals.records import load_run
from evals.report import (
    CartPole,
    Cell,
    Section,
    Table,
    TreeView,
    print_table,
    tree_view,
    write_report,
)
from evals.stats import Estimate, best_of_k, maj_at_k, mean_interval
from mbrl_core import Rollout
from reasoning.embedded import folder_of
from reasoning.engines import TransformersEngine
from reasoning.reasoner import Reasoner
from reasoning.strategies import mcts
from reasoning.tasks import load_task

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
    say("reasoning: answering held-out word problems with the embedded language model")
    answered = _reason(out, problems, seed, say)
    sections = [
        _control_section(played, _control(out, "random", 1, episodes, seed, say), episodes, seed),
        _reasoning_section(answered, problems, seed),
        _episode_section(out, max(played, key=lambda key: played[key]["return"]["mean"])),
        _tree_section(problems, seed),
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
        "problems with a language model; more planning buys more in both.",
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
    return call("evals_control", control.evaluate, [*options, f"out={folder}"], say=_indent(say))


def _control_options(planner: str, budget: int | str, episodes: int, seed: int) -> list[str]:
    chosen = (
        ["planner=random_shooting", "planner.samples=1", "planner.horizon=1"]
        if planner == "random"
        else [f"planner={planner}", f"budget.steps={budget}"]
    )
    return [*chosen, "aleatoric=false", f"episodes={episodes}", f"seed={seed}"]


def _reason(out: Path, problems: int, seed: int, say: Say) -> dict[str, list[dict[str, Any]]]:
    """The records of every reasoning run, by name."""
    runs = {"greedy": "strategy=greedy", "sampled": f"strategy=best_of_n n={SAMPLES}"}
    for strategy, sizes in TREES.items():
        runs |= {f"{strategy}-{i}": f"strategy={strategy} {size}" for i, size in enumerate(sizes)}
    found = {}
    for name, options in runs.items():
        say(f"  {options.replace('strategy=', '')}")
        folder = out / "reasoning" / name
        given = [*options.split(), f"limit={problems}", f"seed={seed}", f"out={folder}"]
        call("evals_reasoning", reasoning.evaluate, given, say=_indent(say))
        found[name] = sorted(load_run(folder)[1], key=lambda record: record["id"])
    return found


def _indent(say: Say) -> Say:
    return lambda line: say(f"    {line}")


# ---------------------------------------------------------------------------------------- showing


def _control_section(
    played: dict[tuple[str, int], dict[str, Any]], random: dict[str, Any], episodes: int, seed: int
) -> Section:
    curves: list[Curve] = []
    rows: list[list[Cell]] = []
    for planner, label in PLANNERS.items():
        runs = [run for (name, _), run in played.items() if name == planner]
        estimates = [Estimate(**run["return"]) for run in runs]
        steps = [run["steps_per_decision"] for run in runs]
        curves.append(_curve(label, steps, estimates))
        rows += [
            [label, estimate, round(step), run["seconds_per_decision"] * 1e3]
            for estimate, step, run in zip(estimates, steps, runs, strict=True)
        ]
    base = random["return"]["mean"]
    rows.append(["random actions", Estimate(**random["return"]), 0, None])
    budgets = ",".join(str(budget) for budget in dict.fromkeys(b for _, b in played))
    return Section(
        "Control: return against planning compute",
        "Swing up a pole on a cart (DMControl cartpole-swingup, 1000 frames, at most 1000 points). "
        "Every planner searches the same learned ensemble of neural networks; the actions are "
        "played in the real simulator. Compute is what a planner asks of the model per decision."
        f"\n\nMean over {episodes} episodes with 95% bootstrap intervals.",
        f"python -m evals.control --multirun planner={','.join(PLANNERS)} "
        f"budget.steps={budgets} aleatoric=false episodes={episodes} seed={seed}",
        [
            LineChart(
                curves,
                "model steps per decision",
                "return",
                [Baseline("random actions", base)],
            )
        ],
        [Table(["planner", "return", "model steps a decision", "ms a decision"], rows)],
    )


def _reasoning_section(
    answered: dict[str, list[dict[str, Any]]], problems: int, seed: int
) -> Section:
    points = _sampled_points(answered["sampled"])
    points["greedy"] = [_point(answered["greedy"])]
    for strategy in TREES:
        points[_TREE_NAMES[strategy]] = [
            _point(records) for name, records in answered.items() if name.startswith(strategy)
        ]
    curves = [
        _curve(name, [tokens for tokens, _, _ in line], [estimate for _, _, estimate in line])
        for name, line in points.items()
    ]
    rows: list[list[Cell]] = [
        [name, estimate, round(tokens), round(scored)]
        for name, line in points.items()
        for tokens, scored, estimate in line
    ]
    any_right = [any(s["correct"] for s in record["samples"]) for record in answered["sampled"]]
    return Section(
        "Reasoning: accuracy against tokens",
        "Grade-school word problems of two to four steps from templates that the model never saw, "
        "answered by a language model of a few million parameters trained from scratch. "
        "Random shooting, beam search and tree search are the classes that control uses; only the "
        "world differs. Self-consistency and best-of-N at n < "
        f"{SAMPLES} are computed exactly from the {SAMPLES} samples of each problem."
        f"\n\nMean over {len(any_right)} problems with 95% bootstrap intervals. Some sample of "
        f"{SAMPLES} is right on {np.mean(any_right):.0%} of them.",
        f"python -m evals.reasoning strategy=best_of_n n={SAMPLES} limit={problems} seed={seed}\n"
        f"python -m evals.reasoning --multirun strategy=mcts strategy.simulations=8,24 "
        f"limit={problems} seed={seed}",
        [LineChart(curves, "decoded tokens per problem", "accuracy", percent=True)],
        [
            Table(
                ["strategy", "accuracy", "decoded tokens a problem", "scorer tokens a problem"],
                rows,
            )
        ],
    )


_TREE_NAMES = {"tree_of_thoughts": "tree of thoughts (beam)", "mcts": "MCTS"}

Point = tuple[float, float, Estimate]  # decoded tokens, scorer tokens, accuracy


def _point(records: list[dict[str, Any]]) -> Point:
    """What one run gave."""
    correct = [float(record["numeric"]) for record in records]
    tokens, scored = (np.mean([r[name] for r in records]) for name in ("tokens", "scored"))
    return float(tokens), float(scored), mean_interval(correct, np.random.default_rng(0))


def _sampled_points(records: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """Self-consistency and best-of-k for k = 2 .. n from n samples of each problem."""
    rng = np.random.default_rng(0)
    samples = [record["samples"] for record in records]
    correct = [[s["correct"] for s in row] for row in samples]
    scores = [[s["value"] for s in row] for row in samples]
    # The reference is replaced by what a right sample says, so that 18 and 18.0 are one answer.
    answers = [
        [record["reference"] if s["correct"] else s["answer"] for s in row]
        for record, row in zip(records, samples, strict=True)
    ]
    truth = [record["reference"] for record in records]
    tokens, scored = (np.mean([r[name] for r in records]) for name in ("tokens", "scored"))
    lines: dict[str, list[Point]] = {"self-consistency": [], "best of n": []}
    k = 2
    while k <= SAMPLES:
        share = k / SAMPLES
        voted = mean_interval(maj_at_k(answers, truth, k, rng), rng)
        best = mean_interval(best_of_k(scores, correct, k), rng)
        lines["self-consistency"].append((float(tokens * share), 0.0, voted))
        lines["best of n"].append((float(tokens * share), float(scored * share), best))
        k *= 2
    return lines


def _curve(name: str, x: Sequence[float], estimates: Sequence[Estimate]) -> Curve:
    return Curve(name, x, *zip(*estimates, strict=True))


def _episode_section(out: Path, best: tuple[str, int]) -> Section:
    planner, budget = best
    run = load_run(out / "control" / f"{planner}-{budget}")[1]
    record = next(r for r in run if "trace" in r)
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
    return Section(
        "One control episode",
        "What the best planner of the chart did in one of its episodes.",
        " ".join(["python -m evals.control", *_control_options(planner, budget, 1, 0)]),
        [figure],
    )


def _tree_section(problems: int, seed: int) -> Section:
    """The search tree of the first problem on which tree search is right and greedy is not."""
    question, view = _search_tree(problems, seed)
    return Section(
        "One search tree",
        "Monte Carlo tree search over the reasoning steps of one problem. Each node is a step the "
        "language model proposed; its prior is how often it was sampled, its score the step "
        f"scorer's.\n\n{question}",
        f"python -m evals.reasoning strategy=mcts strategy.simulations=24 limit={problems}",
        [view],
    )


def _search_tree(problems: int, seed: int) -> tuple[str, TreeView]:
    problem = load_task("generated", limit=problems)[0]
    reasoner = Reasoner(
        engine=TransformersEngine(folder_of("embedded", "lm")),
        scorer=reasoning.load_scorer("embedded"),
        strategy=mcts(simulations=24),
    )
    plan = reasoner.plan([problem.question], ids=[problem.id], seed=seed)
    tree = plan.trace
    assert not isinstance(tree, Rollout)
    chosen = _path_to(tree.parent[0], tree.states, plan.final[0])
    view = tree_view(
        tree,
        0,
        lambda node: tree.states[node].steps[-1].text if node else problem.question,
        score=lambda node: tree.states[node].scores[-1] if node else None,
        chosen=chosen,
        caption=f"The right answer is {problem.answer}.",
    )
    return problem.question, view


def _path_to(parent: torch.Tensor, states: Sequence[Any], final: Any) -> list[int]:
    """Node numbers from the root's child to the node whose state is `final`."""
    node = next(i for i, state in enumerate(states) if state is final)
    path = []
    while node > 0:
        path.append(node)
        node = int(parent[node])
    return path[::-1]


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("demo", demo, __doc__ or ""))
