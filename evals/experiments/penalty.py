"""What a planner finds in a model of too little data, and what charging for disagreement does.

MOPO (Yu et al. 2020, arXiv:2005.13239, eq. 8) takes a multiple of the model's uncertainty off every
reward, so that plans stay where the model has data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from control.ensemble import Ensemble
from evals.experiments.agents import noisy, planning_act, random_act
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick, power
from evals.experiments.learned import fit_ensemble
from evals.experiments.plants import Data, Plant, pendulum_plant, play, transitions
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import CEM, Model, generator, penalised
from mbrl_core.audit import record
from mbrl_core.returns import discounted_return
from mbrl_core.viewer.charts import Baseline, Curve, LineChart

NAMES = {"random": "random", "narrow": "controller"}
STARTS = {"anywhere": "from anywhere", "seen": "from its data"}


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """The settings.

    data: where the transitions come from: `random` actions, or `narrow`: a good controller with a
        little noise, which shows next to nothing of what happens elsewhere.
    transitions: in all, of the pendulum; 200 are one episode.
    weights: of the penalty, per unit of disagreement (standard deviations of the targets).
    roots: first states of plans, anywhere and as many among those of the data.
    horizon, samples, iterations: of CEM.
    seeds: models of each kind of data.
    """

    data: Sequence[Literal["random", "narrow"]] = ("random", "narrow")
    transitions: int = 200
    weights: Sequence[float] = (0.0, 3.0, 10.0, 30.0, 100.0)
    roots: int = 32
    horizon: int = 30
    samples: int = 48
    iterations: int = 4
    seeds: int = 16

    def __post_init__(self) -> None:
        check_settings(self, data=("random", "narrow"))
        if 0.0 not in self.weights or max(self.weights) <= 0:
            raise ValueError("weights need 0, the plan without a penalty, and one above it")

    def cells(self) -> list[Cell]:
        """See `Experiment`."""
        return [{"data": data, "seed": s} for data in self.data for s in range(self.seeds)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`."""
        plant, rng = pendulum_plant(), generator(cell["seed"])
        data = gathered(plant, cell["data"], self.transitions, rng)
        ensemble = fit_ensemble(plant, data, rng=rng).using(propagation="mean")
        seen = torch.randperm(len(data.obs), generator=rng)[: self.roots]
        starts = {"anywhere": plant.start(self.roots, rng), "seen": data.obs[seen]}
        found: dict[str, Any] = {}
        for name, start in starts.items():
            chance = self._by_chance(plant, start, rng)
            found[name] = [
                self._plans(plant, ensemble, weight, start, chance, rng) for weight in self.weights
            ]
        return found

    def _by_chance(self, plant: Plant, start: Tensor, rng: torch.Generator) -> Tensor:
        """What random actions bring [B], the mean of 8 tries."""
        act = random_act(plant.action_space, rng)
        tries = [[act(start, None)[0] for _ in range(self.horizon)] for _ in range(8)]
        return torch.stack([returns(plant.model(), start, each, rng) for each in tries]).mean(0)

    def _plans(
        self,
        plant: Plant,
        ensemble: Ensemble,
        weight: float,
        start: Tensor,
        by_chance: Tensor,
        rng: torch.Generator,
    ) -> dict[str, float]:
        """What plans from all roots promise and bring, under one weight of the penalty."""
        planner = CEM(
            horizon=self.horizon, samples=self.samples, iterations=self.iterations,
            elites=max(1, self.samples // 8), min_std=0.1,
        )  # fmt: skip
        model, root = Model(ensemble, action_space=plant.action_space), ensemble.root(start)
        plan, _ = planner(penalised(model, weight) if weight else model, root, rng=rng)
        actions = [plan.action, *plan.then]
        promised = returns(model, root, actions, rng)
        brought = returns(plant.model(), start, actions, rng)
        return {
            "weight": weight,
            "brought": round(float(brought.mean()), 3),
            "off": round(float((promised - brought).abs().median()), 3),
            "catastrophic": round(float((brought < by_chance).double().mean()), 4),
        }

    def show(self, records: Records) -> Section:
        """See `Experiment`."""
        rows: list[list[Shown]] = []
        more: list[Curve] = []
        gains: list[Curve] = []
        none = self.weights.index(0.0)
        above = [i for i, weight in enumerate(self.weights) if weight > 0]
        for data, start in itertools.product(self.data, STARTS):
            runs = [r[start] for r in pick(records, data=data)]
            name, x = f"{NAMES[data]}, {STARTS[start]}", [self.weights[i] for i in above]

            def change(what: str, scale: float, runs: list[Any] = runs) -> list[list[float]]:
                """Of a measurement against no penalty, model by model."""
                return [[scale * (run[i][what] - run[none][what]) for i in above] for run in runs]

            more.append(curve(name, x, change("catastrophic", 100)))
            gains.append(curve(name, x, change("brought", 1)))
            for i, weight in enumerate(self.weights):
                share, brought = (
                    estimate(run[i][what] for run in runs) for what in ("catastrophic", "brought")
                )
                off = power(estimate((run[i]["off"] for run in runs), "log"))
                rows.append([NAMES[data], STARTS[start], weight, share, brought, off])
        label, mark = "weight of the penalty", [Baseline("no penalty", 0.0)]
        charts = [
            LineChart(more, label, "catastrophic plans, points", mark, caption=CAPTIONS[0]),
            LineChart(gains, label, "return gained", mark, caption=CAPTIONS[1]),
        ]
        columns = ["data", "planned", "weight", "catastrophic", "return", "prediction off by"]
        return Section(
            "A penalty for what the model does not know",
            TEXT,
            "python -m evals.experiments experiment=penalty",
            charts,
            [Table(columns, rows, f"Means and 95% intervals over {self.seeds} models")],
        )


TEXT = """An ensemble learns the pendulum from one episode, of random actions or of a good
controller with a little noise. CEM plans open loop, from states anywhere or among those of the
data, its rewards less the penalty; the plans are then carried out.

A plan is catastrophic where it brings less than random actions do from the same state on average.
Both plots are differences to no penalty, model by model. A prediction, in which the penalty is left
out, is off by its distance from what happened: the median over states, of which the table has the
geometric mean over models, as some leave all bounds."""
CAPTIONS = (
    "Percentage points of plans that turned catastrophic; above 0 the penalty hurts",
    "Discounted return of 30 steps; above 0 the penalty helps",
)


def gathered(plant: Plant, data: str, number: int, rng: torch.Generator) -> Data:
    """So many transitions of whole episodes."""
    act = random_act(plant.action_space, rng)
    if data == "narrow":
        good = CEM(horizon=15, samples=64, iterations=3, elites=8, min_std=0.1, output="mean")
        planned = planning_act(good, plant.model(), rng)
        act = noisy(planned, plant.action_space, 0.1, rng)
    episodes = -(-number // plant.steps)
    played = play(plant, act, plant.start(episodes, rng), rng=rng, steps=min(number, plant.steps))
    return transitions(played).first(number)


def returns(model: Model, start: Any, actions: Sequence[Tensor], rng: torch.Generator) -> Tensor:
    """The discounted returns [B] of given actions."""
    played = record(model.dynamics, start, actions, rng=rng)
    return discounted_return(played.rewards, played.discounts)
