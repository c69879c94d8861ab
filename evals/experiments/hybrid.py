"""Equations, a network, or equations and a network: a pendulum with friction nobody wrote down.

Johannink et al. 2019, "Residual reinforcement learning for robot control", and Zeng et al. 2020,
"TossingBot", learn what known physics leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evals.experiments.agents import planning_act, random_act
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick
from evals.experiments.learned import Still, fit_correction
from evals.experiments.plants import Data, Plant, collect, pendulum_plant, play
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import CEM, Dynamics, GradMPC, Model, Planner, generator
from mbrl_core.audit import compounding_error
from mbrl_core.viewer.charts import Baseline, LineChart

LEARNED = ("learned", "hybrid")
MODELS = {
    "true": "true model",
    "equations": "equations alone",
    "learned": "network alone",
    "hybrid": "equations + network",
}
PLANNERS = {"cem": "CEM", "gradient": "Grad-MPC"}


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """The settings.

    friction: dry torque in N m that the equations leave out; the motor has 2.
    drag: torque per rate in N m s, left out, too.
    transitions: that models learn from, of random actions in episodes of `length` steps.
    length: steps of the episodes that are learned from.
    horizon: planned ahead.
    episodes, steps: that are played with each planner.
    seeds: of data and models.
    """

    friction: float = 0.5
    drag: float = 0.1
    transitions: Sequence[int] = (100, 300, 1000, 3000)
    length: int = 50
    horizon: int = 15
    episodes: int = 6
    steps: int = 60
    seeds: int = 5

    def __post_init__(self) -> None:
        check_settings(self)

    def cells(self) -> list[Cell]:
        """See `Experiment`: 0 transitions are the equations alone."""
        learned = [(name, n) for name in LEARNED for n in self.transitions]
        return [
            {"model": model, "transitions": number, "seed": seed}
            for model, number in [("true", 0), ("equations", 0), *learned]
            for seed in range(self.seeds)
        ]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`."""
        real, known = pendulum_plant(self.friction, self.drag), pendulum_plant()
        rng = generator(cell["seed"])
        act = random_act(real.action_space, rng, hold=0.8)
        data = collect(real, act, max(self.transitions), rng=rng, steps=self.length)
        start = real.start(self.episodes, rng)
        tested = play(real, act, real.start(64, rng), rng=rng, steps=20)
        dynamics = self._dynamics(cell, real, known, data, rng)
        model = Model(dynamics, action_space=real.action_space)
        errors = compounding_error(model, tested, rng=rng)
        planners: dict[str, Planner] = {
            "cem": CEM(
                horizon=self.horizon, samples=64, iterations=3, elites=8, min_std=0.1, output="mean"
            ),
            "gradient": GradMPC(horizon=self.horizon, samples=4, iterations=3, learning_rate=0.2),
        }
        played = {
            name: play(real, planning_act(planner, model, rng), start, rng=rng, steps=self.steps)
            for name, planner in planners.items()
        }
        scores = {name: float(p.rewards.sum(1).mean()) for name, p in played.items()}
        return {
            "one_step": round(float(errors.stepped.square().mean().sqrt()), 5),
            "twenty_steps": round(float(errors.rolled[:, -1].median()), 5),
            **{name: round(score, 2) for name, score in scores.items()},
        }

    def _dynamics(
        self, cell: Cell, real: Plant, known: Plant, data: Data, rng: torch.Generator
    ) -> Dynamics:
        """The model of a cell."""
        if cell["model"] in ("true", "equations"):
            return (real if cell["model"] == "true" else known).dynamics
        base = Still() if cell["model"] == "learned" else known.dynamics
        return fit_correction(real, base, data.first(cell["transitions"]), rng=rng)

    def show(self, records: Records) -> Section:
        """See `Experiment`."""
        charts = [self._chart(records, "twenty_steps", "error after 20 steps, log10", "log")]
        charts += [
            self._chart(records, planner, f"{name}: return below the truth's")
            for planner, name in PLANNERS.items()
        ]
        rows: list[list[Shown]] = []
        for model, number in dict.fromkeys((r["model"], r["transitions"]) for r in records):
            errors = pick(records, model=model, transitions=number)
            shown = [estimate(r[what] for r in errors) for what in ("one_step", "twenty_steps")]
            lost = [estimate(self._found(records, model, number, name)) for name in PLANNERS]
            rows.append([MODELS[model], number, *shown, *lost])
        columns = ["model", "transitions", "one-step error", "after 20 steps"]
        columns += [f"{name} loses" for name in PLANNERS.values()]
        true = {
            name: estimate(r[planner] for r in pick(records, model="true")).mean
            for planner, name in PLANNERS.items()
        }
        caption = (
            f"Means and 95% intervals over {self.seeds} seeds. Lost is return against planning in "
            f"the true model, seed by seed, which brings {true['CEM']:.1f} by CEM and "
            f"{true['Grad-MPC']:.1f} by Grad-MPC"
        )
        return Section(
            "Equations and a learned residual",
            TEXT,
            "python -m evals.experiments experiment=hybrid",
            charts,
            [Table(columns, rows, caption)],
        )

    def _found(self, records: Records, model: str, number: int, what: str) -> list[float]:
        """Of each seed: an error, or what a planner loses against the true model."""
        own = [pick(records, model=model, transitions=number, seed=s)[0] for s in range(self.seeds)]
        if what not in PLANNERS:
            return [r[what] for r in own]
        true = [pick(records, model="true", seed=s)[0] for s in range(self.seeds)]
        return [best[what] - r[what] for r, best in zip(own, true, strict=True)]

    def _chart(
        self, records: Records, what: str, axis: str, scale: Literal["linear", "log"] = "linear"
    ) -> LineChart:
        """Curves of what is learned, and a line for the equations alone."""
        curves = []
        for model in LEARNED:
            columns = [self._found(records, model, n, what) for n in self.transitions]
            runs = list(map(list, zip(*columns, strict=True)))
            curves.append(curve(MODELS[model], self.transitions, runs, scale))
        alone = estimate(self._found(records, "equations", 0, what), scale).mean
        lines = [Baseline(MODELS["equations"], alone)]
        return LineChart(curves, "real transitions", axis, lines)


TEXT = """The real pendulum has dry friction and drag; the equations know neither. Networks of the
same size learn the whole change of a step, or what the equations get wrong. Errors are distances of
observations (cos, sin, rad/s) in recordings of random actions: root mean square of one step, median
after 20. Both planners plan in the model and act in the real pendulum."""
