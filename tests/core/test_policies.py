"""Policies that need no learning, and the boxes that they and planners draw from."""

from __future__ import annotations

import pytest
import torch

from mbrl_core import (
    CEM,
    MPPI,
    Box,
    Discrete,
    Model,
    RandomActions,
    RandomShooting,
    Reflex,
    Transition,
    generator,
    grid_actions,
    uniform_policy,
)

INFINITE = torch.inf


class Still:
    terminates = False

    def step(self, state: torch.Tensor, action: torch.Tensor, *, rng: object) -> Transition:
        return Transition(
            state, -action.square().sum(1).to(state), torch.ones(len(state)).to(state)
        )


def box(low: float, high: float) -> Box:
    return Box(torch.tensor([low]), torch.tensor([high]))


def test_bounds_of_whole_numbers_are_those_of_real_actions() -> None:
    whole = Box(torch.tensor([-2]), torch.tensor([2]))
    drawn = uniform_policy(whole).propose(torch.zeros(1, 1), 1000, rng=generator(0)).actions
    assert drawn.dtype == torch.float32 and drawn.min() < -1.9 and drawn.max() > 1.9
    assert drawn.unique().numel() > 900
    grid = grid_actions(whole, 5).actions.squeeze(1)
    assert grid.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("space", [box(-INFINITE, INFINITE), box(0.0, INFINITE)])
def test_nothing_is_uniform_between_infinite_bounds(space: Box) -> None:
    with pytest.raises(ValueError, match=r"uniform draws need finite bounds, not low="):
        RandomActions(space)
    with pytest.raises(ValueError, match=r"a grid of actions .* finite bounds"):
        grid_actions(space, 3)


@pytest.mark.parametrize(
    ("low", "high", "centre"),
    [
        (-INFINITE, INFINITE, 0.0),
        (5.0, INFINITE, 6.0),
        (0.0, INFINITE, 1.0),
        (-9.0, INFINITE, 0.0),
        (-INFINITE, -3.0, -4.0),
    ],
)
def test_between_infinite_bounds_draws_are_normal_around_a_place_inside(
    low: float, high: float, centre: float
) -> None:
    model = Model(Still(), action_space=box(low, high))
    plan, _ = Reflex(action="random")(model, torch.zeros(20_000, 1), rng=generator(0))
    drawn = plan.action.squeeze(1)
    assert drawn.median().item() == pytest.approx(centre, abs=0.05)
    below, above = ((side < 1e-6).float().mean().item() for side in (drawn - low, high - drawn))
    assert below + above == pytest.approx(0.159 if centre not in (0.0,) else 0.0, abs=0.02)


def test_a_search_between_half_infinite_bounds_finds_the_best_action() -> None:
    model = Model(Still(), action_space=box(5.0, INFINITE))
    plan, _ = CEM(horizon=1, samples=64, elites=8)(model, torch.zeros(1, 1), rng=generator(0))
    assert plan.action.item() == pytest.approx(5.0, abs=0.01)
    shot, _ = RandomShooting(samples=64, horizon=1, actions="uniform")(
        model, torch.zeros(1, 1), rng=generator(0)
    )
    assert shot.trace.returns.unique().numel() > 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "planner", [CEM(horizon=2, samples=32, elites=4), MPPI(horizon=2, samples=32)]
)
def test_planning_is_in_the_precision_of_the_states(
    planner: CEM | MPPI, dtype: torch.dtype
) -> None:
    model = Model(Still(), action_space=box(-1.0, 1.0))
    plan, _ = planner(model, torch.zeros(2, 1, dtype=dtype), rng=generator(0))
    assert plan.action.dtype == plan.value.dtype == dtype
    assert plan.action.abs().max() < 0.3


def test_all_actions_of_a_discrete_space_are_whole_numbers() -> None:
    found = uniform_policy(Discrete(3)).propose(torch.zeros(2, 1), 3, rng=generator(0))
    assert found.actions.tolist() == [0, 1, 2, 0, 1, 2]
