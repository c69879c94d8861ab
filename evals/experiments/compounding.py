"""How fast predictions leave the truth, by kind of model and by the data it learned from.

Talvitie 2014, "Model regularization for stable sample rollouts"; Chua et al. 2018 (PETS), section
4; Janner et al. 2019 (MBPO), section 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evals.experiments.agents import noisy, planning_act, random_act
from evals.experiments.command import Cell
from evals.experiments.drawing import Records, curve, estimate, pick, power
from evals.experiments.learned import Still, fit_correction, fit_ensemble, observation
from evals.experiments.plants import Act, Data, Plant, collect, pendulum_plant, play
from evals.experiments.settings import check_settings
from evals.report import Cell as Shown
from evals.report import Section, Table
from mbrl_core import CEM, Dynamics, Model, Rows, generator
from mbrl_core.audit import Recording, compounding_error
from mbrl_core.viewer.charts import LineChart

NAMES = {"random": "random actions", "planned": "planned actions"}
UPDATES = 2000  # of every model at most; the Gaussians may stop early
KINDS = {
    "squares": "least squares",
    "one": "1 Gaussian, mean",
    "mean": "5 Gaussians, their mean",
    "ts_inf": "5, TS-inf, no noise",
    "sampled": "5, TS-inf, noise",
}


@dataclass(frozen=True, kw_only=True)
class Compounding:
    """The settings.

    transitions: that each model learns from, of the pendulum.
    steps: predicted ahead.
    rollouts: recordings of each kind that predictions are compared with.
    noise: added to planned actions, in halves of the action range.
    seeds: models of each kind.
    """

    transitions: int = 1000
    steps: int = 40
    rollouts: int = 24
    noise: float = 0.3
    seeds: int = 8

    def __post_init__(self) -> None:
        check_settings(self)

    def cells(self) -> list[Cell]:
        """See `Experiment`."""
        return [{"trained": data, "seed": s} for data in NAMES for s in range(self.seeds)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """See `Experiment`: median errors, rolled out and, of the mean of 5, of single steps."""
        plant, rng = pendulum_plant(), generator(cell["seed"])
        acts = self._acts(plant, rng)
        recordings = {name: self._recorded(plant, act, rng) for name, act in acts.items()}
        spread = torch.cat([state for each in recordings.values() for state in each.states]).std(0)
        data = collect(plant, acts[cell["trained"]], self.transitions, rng=rng)
        rolled: dict[str, list[float]] = {}
        stepped: dict[str, list[float]] = {}
        for kind, (dynamics, root) in models(plant, data, rng).items():
            for tested, recording in recordings.items():
                errors = growth(dynamics, root, recording, spread, rng)
                rolled[f"{kind} on {tested}"] = errors["rolled"]
                if kind == "mean":
                    stepped[tested] = errors["stepped"]
        return {"rolled": rolled, "stepped": stepped}

    def _acts(self, plant: Plant, rng: torch.Generator) -> dict[str, Act]:
        planner = CEM(horizon=15, samples=64, iterations=3, elites=8, min_std=0.1, output="mean")
        planned = planning_act(planner, plant.model(), rng)
        return {
            "random": random_act(plant.action_space, rng),
            "planned": noisy(planned, plant.action_space, self.noise, rng),
        }

    def _recorded(self, plant: Plant, act: Act, rng: torch.Generator) -> Recording:
        return play(plant, act, plant.start(self.rollouts, rng), rng=rng, steps=self.steps)

    def show(self, records: Records) -> Section:
        """See `Experiment`."""

        def runs(kind: str, trained: str, tested: str) -> list[list[float]]:
            of_data = [r["rolled"] for r in records if r["trained"] == trained]
            return [rolled[f"{kind} on {tested}"] for rolled in of_data]

        def thinned(runs: list[list[float]]) -> list[list[float]]:
            return [run[stride - 1 :: stride] for run in runs]

        stride = max(1, self.steps // 20)
        x = list(range(stride, self.steps + 1, stride))
        own = ("planned", "planned")
        kinds = [curve(name, x, thinned(runs(kind, *own)), "log") for kind, name in KINDS.items()]
        steps = [summed(r["stepped"]["planned"]) for r in pick(records, trained="planned")]
        kinds.append(curve("one-step errors summed", x, thinned(steps), "log"))
        pairs = list(itertools.product(NAMES, NAMES))
        data = [
            curve(f"{trained} to {tested}", x, thinned(runs("mean", trained, tested)), "log")
            for trained, tested in pairs
        ]
        label = "error, log10 of std"
        charts = [
            LineChart(kinds, "steps predicted", label, log_x=False, caption=CAPTIONS[0]),
            LineChart(data, "steps predicted", label, log_x=False, caption=CAPTIONS[1]),
        ]
        looks = [i for i in (1, 5, 10, 20, 40) if i <= self.steps]
        rows: list[list[Shown]] = []
        for kind, (trained, tested) in itertools.product(KINDS, pairs):
            errors = list(zip(*runs(kind, trained, tested), strict=True))
            shown = [power(estimate(errors[i - 1], "log")) for i in looks]
            rows.append([KINDS[kind], NAMES[trained], NAMES[tested], *shown])
        columns = ["model", "trained on", "tested on", *(f"after {i}" for i in looks)]
        caption = f"Median errors, geometric means and 95% intervals over {self.seeds} models"
        return Section(
            "Compounding error",
            TEXT,
            "python -m evals.experiments experiment=compounding",
            charts,
            [Table(columns, rows, caption)],
        )


TEXT = """The pendulum, without noise of its own. A model predicts open loop with the actions of a
recording; the error is the distance to what happened, in standard deviations of the recordings'
observations: the median over recordings. TS-inf follows one member, drawn at the start. All
networks have two layers of 64 units and at most 2,000 updates; the Gaussians learn from bootstrap
samples of nine tenths of the data, as in PETS."""
CAPTIONS = (
    "Kinds of model, trained and tested on planned actions",
    "The mean of 5 Gaussians, by the data it was trained on and that it is tested on",
)


def models(plant: Plant, data: Data, rng: torch.Generator) -> dict[str, tuple[Dynamics, Any]]:
    """The kinds of model fitted to `data`, each with what makes its states of observations."""
    squares = fit_correction(plant, Still(), data, updates=UPDATES, rng=rng)
    epochs = UPDATES // -(-len(data.obs) // 128)
    one = fit_ensemble(plant, data, members=1, epochs=epochs, rng=rng).using(propagation="mean")
    five = fit_ensemble(plant, data, epochs=epochs, rng=rng)
    followed = five.using(propagation="ts_inf", aleatoric=False)
    return {
        "squares": (squares, lambda obs: obs),
        "one": (one, one.root),
        "mean": (five.using(propagation="mean"), five.root),
        "ts_inf": (followed, five.root),
        "sampled": (five.using(propagation="ts_inf", aleatoric=True), five.root),
    }


def growth(
    dynamics: Dynamics, root: Any, recording: Recording, spread: Tensor, rng: torch.Generator
) -> dict[str, list[float]]:
    """Median errors at each step, rolled out and of single steps."""

    def observe(state: Rows) -> Tensor:
        return observation(state) / spread

    found = compounding_error(Model(dynamics), recording, root=root, observe=observe, rng=rng)
    return {
        "rolled": [float(f"{error:.3g}") for error in found.rolled.median(0).values],
        "stepped": [float(f"{error:.3g}") for error in found.stepped.median(0).values],
    }


def summed(errors: Sequence[float]) -> list[float]:
    """The sums of the first so many."""
    return torch.tensor(errors, dtype=torch.float64).cumsum(0).tolist()
