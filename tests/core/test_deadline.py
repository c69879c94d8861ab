"""A deadline in seconds is kept: no iteration begins that would end too late."""

from __future__ import annotations

import pytest
import torch

from mbrl_core import (
    CEM,
    ICEM,
    MPPI,
    TDMPC,
    Budget,
    CategoricalCEM,
    Dynamics,
    GradCEM,
    GradMPC,
    Planner,
    Rng,
    Rows,
    Transition,
    generator,
    world,
)
from mbrl_core.planners.trajectory import SequencePlanner
from mbrl_core.wrapper import Wrapper
from tests.worlds import glider, tensor_garden, tensor_rows

NAP = 0.01  # seconds that one call of the model takes


class Clock:
    """Time that passes only while the model is called, however busy the machine."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(world, "time", clock)
    return clock


class Slow(Wrapper):
    """Dynamics that take their time."""

    def __init__(self, dynamics: Dynamics, clock: Clock) -> None:
        self.dynamics, self.clock = dynamics, clock

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        self.clock.now += NAP
        return self.dynamics.step(state, action, rng=rng)


@pytest.mark.parametrize(
    "planner",
    [
        CEM(horizon=3, samples=8, elites=2, iterations=1000),
        CEM(horizon=3, samples=8, elites=2, iterations=1000, output="mean"),
        ICEM(horizon=3, samples=8, elites=2, iterations=1000),
        MPPI(horizon=3, samples=8, iterations=1000),
        TDMPC(horizon=3, samples=8, elites=2, policy_samples=2, iterations=1000),
        GradMPC(horizon=3, samples=2, iterations=1000),
        GradCEM(horizon=3, samples=4, elites=2, iterations=1000),
        CategoricalCEM(horizon=3, samples=8, elites=2, iterations=1000),
    ],
    ids=lambda planner: f"{type(planner).__name__}-{planner.output}",
)
def test_the_overshoot_is_less_than_one_model_call(planner: SequencePlanner, clock: Clock) -> None:
    deadline = 0.3
    if isinstance(planner, CategoricalCEM):
        model, state = tensor_garden(), tensor_rows(["start"])
    else:
        model, state = glider(), torch.ones(1, 2).double()
    model = model._replace(dynamics=Slow(model.dynamics, clock))
    plan, _ = planner(model, state, rng=generator(0), budget=Budget(seconds=deadline))
    assert plan.valid.all()
    assert deadline / 3 < plan.cost.seconds < deadline + NAP


def test_without_a_deadline_all_iterations_run() -> None:
    planner: Planner = CEM(horizon=2, samples=4, elites=2, iterations=3)
    for budget in (None, Budget(seconds=60)):
        plan, _ = planner(
            glider()._replace(value=None),
            torch.ones(1, 2).double(),
            rng=generator(0),
            budget=budget,
        )
        assert plan.cost.calls == 6
