"""Dyna-Q on FrozenLake: what planning in a learned table is worth, and what a wrong one costs.

Sutton and Barto 2018, sections 8.2 (Dyna-Q), 8.3 (when the model is wrong) and 8.4 (prioritised
sweeping).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from control.known_models import TabularDynamics
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import DynaQ, draws
from mbrl_core.draws import generator
from mbrl_core.dyna import Tables, value_iteration
from mbrl_core.viewer.charts import Baseline, LineChart

LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")  # Gymnasium's 4x4
WEST = ("SHFF", "FHFH", "FFFH", "HFFG")  # the way along the west shore alone is open
EAST = ("SFFF", "HHFH", "HFFH", "HFFG")  # the way along the north shore alone
DISCOUNT = 0.99
EPISODE = 100  # steps after which Gymnasium cuts an episode


class Lake(NamedTuple):
    """A course of the experiment: the maps before and after its middle."""

    title: str
    maps: tuple[Sequence[str], Sequence[str]]
    slippery: bool
    learners: dict[str, dict[str, Any]]  # name to what differs from plain Dyna-Q

    def chart(self, x: Sequence[float], runs: dict[str, list[list[float]]]) -> LineChart:
        """The values [seeds, n] of each learner after `x` real steps."""
        curves = [curve(name, x, values) for name, values in runs.items()]
        best = Baseline("best policy", optimum(table(self.maps[1], self.slippery)))
        return LineChart(curves, "real steps", "value", [best], log_x=False, caption=self.title)


PLANNING: dict[str, dict[str, Any]] = {
    "k = 0": {"planning": 0},
    "k = 5": {"planning": 5},
    "k = 50": {"planning": 50},
    "k = 5, sweeping": {"planning": 5, "order": "sweep"},
}
COVERAGE: dict[str, dict[str, Any]] = {
    f"k = 50, knows {round(100 * share)}%": {"planning": 50, "coverage": share}
    for share in (0.25, 0.5, 1.0)
}
CHANGED: dict[str, dict[str, Any]] = {
    "k = 0": {"planning": 0},
    "k = 5, counts": {"planning": 5},
    "k = 50, counts": {"planning": 50},
    "k = 50, last seen": {"planning": 50, "model": "last"},
    "k = 50, sweeping, last": {"planning": 50, "model": "last", "order": "sweep"},
}
LAKES = {
    "firm": Lake("Firm ice", (LAKE, LAKE), False, PLANNING),
    "slippery": Lake("Slippery ice", (LAKE, LAKE), True, PLANNING),
    "partial": Lake(
        "A model of part of the lake", (LAKE, LAKE), False, {"k = 0": {"planning": 0}, **COVERAGE}
    ),
    "changed": Lake("The lake changes half way", (WEST, EAST), False, CHANGED),
}


@dataclass(frozen=True, kw_only=True)
class Dyna:
    """The settings.

    lakes: of firm, slippery, partial, changed.
    steps: real steps of each run.
    every: real steps between two looks at what was learned.
    seeds: runs of each learner.
    """

    lakes: Sequence[str] = ("firm", "slippery", "partial", "changed")
    steps: int = 4000
    every: int = 200
    seeds: int = 12

    def __post_init__(self) -> None:
        check_settings(self, lakes=LAKES)
        if self.every > self.steps:
            raise ValueError(f"experiment.every must be at most steps={self.steps}")

    def cells(self) -> list[Cell]:
        """See `Experiment`."""
        return [
            {"lake": lake, "learner": learner, "seed": seed}
            for lake in self.lakes
            for learner in LAKES[lake].learners
            for seed in range(self.seeds)
        ]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`."""
        lake = LAKES[cell["lake"]]
        worlds = [table(rows, lake.slippery) for rows in lake.maps]
        settings = dict(lake.learners[cell["learner"]])
        coverage = settings.pop("coverage", 1.0)
        rng = generator(cell["seed"])
        known = draws.uniform(rng, 16).argsort() < round(16 * coverage)
        learner = Learner(DynaQ(states=16, actions=4, **settings), known, rng)
        values = []
        for step in range(self.steps):
            world = worlds[2 * step >= self.steps]
            learner.step(world)
            if (step + 1) % self.every == 0:
                values.append(round(greedy_value(world, learner.tables.q), 4) + 0.0)  # no -0.0
        return {"values": values}

    def show(self, records: Records) -> Section:
        """See `Experiment`."""
        x = list(range(self.every, self.steps + 1, self.every))
        looks = sorted({max(len(x) // 10 - 1, 0), len(x) // 2 - 1, len(x) - 1})
        charts: list[LineChart] = []
        rows: list[list[Shown]] = []
        for name in self.lakes:
            lake = LAKES[name]
            runs = {
                learner: [r["values"] for r in pick(records, lake=name, learner=learner)]
                for learner in lake.learners
            }
            charts.append(lake.chart(x, runs))
            for learner, values in runs.items():
                shown = [estimate(run[i] for run in values) for i in looks]
                means = estimate(sum(run) / len(run) for run in values)
                rows.append([lake.title, learner, *shown, means])
        columns = ["lake", "learner", *(f"value after {x[i]:,}" for i in looks), "mean of the run"]
        return Section(
            "Dyna-Q on FrozenLake",
            TEXT,
            "python -m evals.experiments experiment=dyna",
            charts,
            [Table(columns, rows, f"Means and 95% intervals over {self.seeds} seeds")],
        )


TEXT = f"""The value is that of the greedy policy at the start, exact from the lake's own rules,
discount {DISCOUNT}. A learner makes k updates from its model after each real step.

A model that knows part of the lake may only be asked of those states, drawn at random for each
seed. Where the lake changes half way, the only way to the goal closes and another opens."""


class Learner:
    """Dyna-Q in one episode after another, planning only where its model is allowed to know."""

    def __init__(self, dyna: DynaQ, known: Tensor, rng: torch.Generator) -> None:
        """`known` [S] bool are the states that the model covers."""
        self.dyna, self.known, self.rng = dyna, known.double().unsqueeze(1), rng
        self.real = DynaQ(
            states=dyna.states, actions=dyna.actions, planning=0, order=dyna.order,
            model=dyna.model, epsilon=dyna.epsilon, learning_rate=dyna.learning_rate,
        )  # fmt: skip
        self.tables: Tables = dyna.start()
        self.state, self.age = torch.zeros(1, dtype=torch.int64), 0

    def step(self, world: TabularDynamics) -> None:
        """One real step and the planning that follows it."""
        action = self.dyna.act(self.tables, self.state, rng=self.rng)
        moved = world.step(self.state, action, rng=self.rng)
        self.real.learn(self.tables, self.state, action, moved, rng=self.rng)
        covered = self.tables._replace(visits=self.tables.visits * self.known)
        self.dyna.plan(covered, rng=self.rng)
        self.state, self.age = moved.state, self.age + 1
        if bool(moved.discount == 0) or self.age >= EPISODE:
            self.state, self.age = torch.zeros(1, dtype=torch.int64), 0


def table(rows: Sequence[str], slippery: bool) -> TabularDynamics:
    """FrozenLake by Gymnasium's own rules, on a map."""
    import gymnasium

    env = gymnasium.make("FrozenLake-v1", desc=list(rows), is_slippery=slippery)
    native: Any = env.unwrapped
    return TabularDynamics(native.P, discount=DISCOUNT)


def expected(world: TabularDynamics) -> tuple[Tensor, Tensor]:
    """Expected rewards [S, A], and probabilities times discounts [S, A, S]."""
    weight = world.probability * DISCOUNT * ~world.ended
    leads = torch.zeros(*world.probability.shape[:2], len(world.probability)).double()
    return (world.probability * world.reward).sum(2), leads.scatter_add(2, world.next_state, weight)


def greedy_value(world: TabularDynamics, q: Tensor) -> float:
    """The value at the start of the policy that is greedy in `q` [S, A], ties shared evenly."""
    earned, leads = expected(world)
    best = (q == q.amax(1, keepdim=True)).double()
    policy = best / best.sum(1, keepdim=True)
    through = torch.einsum("sa,sat->st", policy, leads)
    return float(torch.linalg.solve(torch.eye(len(q)) - through, (policy * earned).sum(1))[0])


def optimum(world: TabularDynamics) -> float:
    """The value at the start of the best policy."""
    return float(value_iteration(*expected(world))[0].amax())
