"""Does the chosen action change when the horizon is cut, with and without a value at its end?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evals.experiments.agents import train_sac
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick
from evals.experiments.plants import PLANTS, play
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import CEM, Model, generator
from mbrl_core.audit import horizon_audit
from mbrl_core.viewer.charts import Baseline, LineChart

VALUES = {"none": "no value", "critic": "SAC's critic"}


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """The settings.

    plants: to control, with their true models.
    horizons: of CEM; the longest is what the others are compared with, value by value.
    steps: real steps that SAC learned from.
    samples, iterations: of CEM, enough that plans differ little by their draws.
    roots: states to plan from, as SAC's policy meets them.
    seeds: of SAC and the states.
    """

    plants: Sequence[str] = ("pendulum", "cartpole")
    horizons: Sequence[int] = (1, 2, 3, 5, 8, 12, 20, 30)
    steps: int = 2500
    samples: int = 256
    iterations: int = 6
    roots: int = 16
    seeds: int = 5

    def __post_init__(self) -> None:
        check_settings(self, plants=PLANTS)

    def cells(self) -> list[Cell]:
        """See `Experiment`."""
        return [{"plant": name, "seed": s} for name in self.plants for s in range(self.seeds)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`: distances of actions in halves of their range, means over the roots."""
        plant, rng = PLANTS[cell["plant"]](), generator(cell["seed"])
        (stage,) = train_sac(plant, (self.steps,), cell["seed"])
        start = play(plant, stage.act, plant.start(self.roots, rng), rng=rng, steps=20).states[-1]
        planner = CEM(
            horizon=1, samples=self.samples, iterations=self.iterations,
            elites=max(1, self.samples // 8), output="mean",
        )  # fmt: skip
        space, found = plant.action_space, {}
        half = float((space.high - space.low)[0] / 2)
        for name, value in (("none", None), ("critic", stage.critic)):
            model = Model(plant.dynamics, None, value, space)
            audit = horizon_audit(planner, model, start, self.horizons, rng=generator(cell["seed"]))
            found[name] = {
                "distance": [round(float(d) / half, 4) for d in audit.distance.mean(1)],
                "changed": [round(float(share), 4) for share in audit.changed],
                "redrawn": round(float(audit.redrawn.mean()) / half, 4),
            }
        return found

    def show(self, records: Records) -> Section:
        """See `Experiment`."""
        charts: list[LineChart] = []
        rows: list[list[Shown]] = []
        horizons = sorted(set(self.horizons))
        for plant in self.plants:
            runs = pick(records, plant=plant)
            curves, marks = [], []
            for value, name in VALUES.items():
                distance = [r[value]["distance"] for r in runs]
                curves.append(curve(name, horizons, distance))
                redrawn = estimate(r[value]["redrawn"] for r in runs)
                marks.append(Baseline(f"{name}, redrawn", redrawn.mean))
                rows.append([plant, name, *map(estimate, zip(*distance, strict=True)), redrawn])
            axis = f"action moved, {plant}"
            caption = f"{plant}; dashed: how far other draws move it"
            charts.append(LineChart(curves, "horizon, steps", axis, marks, caption=caption))
        columns = ["plant", "value", *(f"H = {h}" for h in horizons), "redrawn"]
        caption = (
            "Distance from the action of the longest horizon, in halves of the action range: means "
            f"and 95% intervals over {self.seeds} seeds"
        )
        return Section(
            "Does a shorter horizon act alike?",
            TEXT,
            "python -m evals.experiments experiment=terminal",
            charts,
            [Table(columns, rows, caption)],
        )


TEXT = """CEM plans in the true model, from the same states with the same draws, with every horizon.
Where the value at the end does its work the chosen action stays what it is at the longest horizon
with the same value. Redrawn is how far the longest horizon's own action moves with other draws."""
