"""How far to look ahead, and what a value at the end of the horizon replaces.

Lowrey et al. 2019, "Plan online, learn offline" (arXiv:1811.01848), and Hansen et al. 2022 (TD-MPC,
arXiv:2203.04955) end short plans with a learned value. Here it is the critic of SAC, whose own
policy is the mark without planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evals.experiments.agents import Stage, planning_act, random_act, train_sac
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick
from evals.experiments.learned import fit_ensemble
from evals.experiments.plants import PLANTS, Act, Plant, play
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import CEM, Model, generator
from mbrl_core.viewer.charts import Baseline, LineChart

WORLDS = {"true": "truth", "learned": "learned"}
VALUES = {"none": "no value", "early": "early critic", "late": "late critic"}


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The settings.

    plants: to control.
    horizons: of CEM, in steps (0.05 s of the pendulum, 0.02 s of the cart-pole).
    early, late: real steps of SAC after which its critic is taken; the learned model is an ensemble
        fitted to the same `early` steps.
    samples, iterations: of CEM.
    episodes: played with each, side by side.
    limit: steps of an episode at most.
    seeds: of SAC, the model and the episodes.
    """

    plants: Sequence[str] = ("pendulum", "cartpole")
    horizons: Sequence[int] = (5, 15, 30)
    early: int = 1000
    late: int = 3000
    samples: int = 48
    iterations: int = 3
    episodes: int = 5
    limit: int = 150
    seeds: int = 5

    def __post_init__(self) -> None:
        check_settings(self, plants=PLANTS)
        if self.early >= self.late:
            raise ValueError(f"experiment.early={self.early} must be below late={self.late}")

    def cells(self) -> list[Cell]:
        """See `Experiment`."""
        return [{"plant": name, "seed": s} for name in self.plants for s in range(self.seeds)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`."""
        plant, rng = PLANTS[cell["plant"]](), generator(cell["seed"])
        plant = plant._replace(steps=min(plant.steps, self.limit))
        early, late = train_sac(plant, (self.early, self.late), cell["seed"])
        ensemble = fit_ensemble(plant, early.data, rng=rng).using(propagation="mean")
        critics = {"none": None, "early": early.critic, "late": late.critic}
        worlds = {"true": (plant.dynamics, lambda obs: obs), "learned": (ensemble, ensemble.root)}
        start = plant.start(self.episodes, rng)
        found: dict[str, float] = {}
        for world, values in (("true", VALUES), ("learned", ("none", "early"))):
            dynamics, root = worlds[world]
            for value in values:
                model = Model(dynamics, None, critics[value], plant.action_space)
                for horizon in self.horizons:
                    act = planning_act(self._planner(horizon), model, rng, root)
                    found[f"{world}, {value}, {horizon}"] = score(plant, act, start, rng)
        return {"returns": found | self._marks(plant, (early, late), start, rng)}

    def _planner(self, horizon: int) -> CEM:
        return CEM(
            horizon=horizon, samples=self.samples, iterations=self.iterations,
            elites=max(1, self.samples // 8), min_std=0.1, output="mean",
        )  # fmt: skip

    def _marks(
        self, plant: Plant, stages: Sequence[Stage], start: Any, rng: torch.Generator
    ) -> dict[str, float]:
        """SAC's policies and chance, on the same first states."""
        acts = zip(self._policies(), stages, strict=True)
        marks = {name: score(plant, stage.act, start, rng) for name, stage in acts}
        return marks | {"random": score(plant, random_act(plant.action_space, rng), start, rng)}

    def show(self, records: Records) -> Section:
        """See `Experiment`."""
        columns = ["plant", "planned with", *(f"H = {h}" for h in self.horizons)]
        absolute: list[list[Shown]] = []
        relative: list[list[Shown]] = []
        charts: list[LineChart] = []
        for plant in self.plants:
            runs = [r["returns"] for r in pick(records, plant=plant)]
            keys = self._planned() | {mark: mark for mark in (*self._policies(), "random")}
            found = {name: self._points(runs, key) for name, key in keys.items()}
            reference = [run[f"true, none, {max(self.horizons)}"] for run in runs]
            differences = {name: _less(points, reference) for name, points in found.items()}
            charts.append(self._chart(plant, differences))
            for rows, numbers in ((absolute, found), (relative, differences)):
                for name, points in numbers.items():
                    rows.append([plant, name, *map(estimate, zip(*points, strict=True))])
        over = f"means and 95% intervals over {self.seeds} seeds"
        tables = [
            Table(columns, absolute, f"Returns, {over}"),
            Table(columns, relative, f"The {self._label()}, seed by seed; {over}"),
        ]
        command = "python -m evals.experiments experiment=horizon"
        return Section("Horizon and terminal value", TEXT, command, charts, tables)

    def _planned(self) -> dict[str, str]:
        """What plans are made with, to the keys of their returns."""
        pairs = [("true", value) for value in VALUES]
        pairs += [("learned", value) for value in ("none", "early")]
        return {f"{WORLDS[w]}, {VALUES[v]}": f"{w}, {v}, {{}}" for w, v in pairs}

    def _policies(self) -> list[str]:
        return [f"SAC, {steps:,} steps" for steps in (self.early, self.late)]

    def _points(self, runs: Sequence[dict[str, float]], key: str) -> list[list[float]]:
        """The returns [seeds, horizons]; those of a mark are the same at every horizon."""
        return [[run[key.format(horizon)] for horizon in self.horizons] for run in runs]

    def _label(self) -> str:
        return f"return above that of the true model without value at H = {max(self.horizons)}"

    def _chart(self, plant: str, found: dict[str, list[list[float]]]) -> LineChart:
        """Curves of plans, lines of policies; random actions are far below."""
        curves = [curve(name, self.horizons, found[name]) for name in self._planned()]
        lines = [
            Baseline(name, estimate(row[0] for row in found[name]).mean)
            for name in self._policies()
        ]
        caption = f"{plant}: {self._label()}"
        return LineChart(curves, "horizon, steps", "return gained", lines, caption=caption)


def _less(points: list[list[float]], reference: Sequence[float]) -> list[list[float]]:
    return [[x - own for x in row] for row, own in zip(points, reference, strict=True)]


TEXT = """CEM plans at every step. The value at the end of the horizon is SAC's critic after few or
more real steps; the learned model is an ensemble fitted to the transitions of the few. SAC's
policy, taken at its mean, is the mark without planning, and does not depend on the horizon.
Within a seed all act from the same first states."""


def score(plant: Plant, act: Act, start: Any, rng: torch.Generator) -> float:
    """The mean return of whole episodes."""
    return round(float(play(plant, act, start, rng=rng).rewards.sum(1).mean()), 2)
