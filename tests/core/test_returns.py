"""Returns, ends, and the futures a model is stepped through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_core import (
    MPPI,
    BeamSearch,
    Box,
    Budget,
    Model,
    Proposal,
    RandomShooting,
    Rng,
    Tokens,
    Transition,
    generator,
)
from mbrl_core.returns import discounted_return
from mbrl_core.rollouts import simulate_actions
from mbrl_core.world import World
from tests.worlds import Nudges, tensor_garden, tensor_rows


class Countdown:
    """States [R, 1] count down by one a step and end at 0; each step earns what the action says."""

    def __init__(self) -> None:
        self.stepped: list[Tensor] = []

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        self.stepped.append(state)
        after = state - 1
        discount = torch.where(after[:, 0] <= 0, 0.0, 0.5)
        return Transition(after, action.sum(1), discount)

    def value(self, state: Tensor) -> Tensor:
        return torch.full((len(state),), 64.0)


@given(seed=st.integers(0, 99), horizon=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_discounted_return_is_the_backward_recursion(seed: int, horizon: int) -> None:
    gen = generator(seed)
    rewards = torch.randn(3, horizon, generator=gen, dtype=torch.float64)
    discounts = torch.rand(3, horizon, generator=gen, dtype=torch.float64) * 2 - 1
    discounts = torch.where(torch.rand(3, horizon, generator=gen) < 0.2, 0.0, discounts)
    value = torch.randn(3, generator=gen, dtype=torch.float64)
    expected = value
    for t in reversed(range(horizon)):
        expected = rewards[:, t] + discounts[:, t] * expected
    torch.testing.assert_close(discounted_return(rewards, discounts, value), expected)


def test_without_a_value_the_tail_counts_as_zero() -> None:
    rewards, discounts = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.9]])
    assert discounted_return(rewards, discounts).item() == 2.0


def countdown(state: list[float], actions: Tensor) -> tuple[Countdown, World, Tensor]:
    """Roll `actions` [B, N, H, 1] out: the model, its ledger and the returns."""
    model, start = Countdown(), torch.tensor(state).unsqueeze(1)
    world = World("test", Model(model, None, model), start, rng=generator(0))
    return model, world, simulate_actions(world, start, actions).returns


def test_the_ending_step_counts_and_nothing_after_it() -> None:
    # Ends after two steps: 1 + 0.5 * 1, neither the later rewards nor the value of 64.
    _, _, returns = countdown([2.0], torch.ones(1, 1, 5, 1))
    assert returns.item() == 1.5


def test_the_value_counts_where_a_future_has_not_ended() -> None:
    _, _, returns = countdown([9.0], torch.ones(1, 1, 2, 1))
    assert returns.item() == 1 + 0.5 + 0.25 * 64


def test_a_finished_candidate_does_not_cut_the_others() -> None:
    _, _, returns = countdown([1.0, 4.0], torch.ones(2, 1, 4, 1))
    assert returns.flatten().tolist() == [1.0, 1 + 0.5 + 0.25 + 0.125]


def test_ended_rows_are_never_stepped() -> None:
    model, world, _ = countdown([1.0, 3.0, 2.0], torch.ones(3, 2, 5, 1))
    assert all(bool((state > 0).all()) for state in model.stepped)
    assert world.cost().steps.tolist() == [2, 6, 4]
    assert [len(state) for state in model.stepped] == [6, 4, 2]
    assert world.cost().values.tolist() == [0, 0, 0]


class Bottomless:
    """Text that never ends, at three tokens a step."""

    terminates = False

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        ones = torch.ones(len(state))
        moved = [path + word for path, word in zip(state, action, strict=True)]
        return Transition(moved, ones, ones)

    def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
        assert len(state) > 0, "a model must never be called for no row at all"
        spent = torch.full((len(state),), 3 * num)
        none = torch.zeros_like(spent)
        priors = torch.zeros(len(state), num)
        return Proposal(["."] * (len(state) * num), priors, Tokens(spent, none, none))


def test_a_rollout_whose_tokens_are_spent_waits_even_where_nothing_ever_ends() -> None:
    model = Bottomless()
    planner = RandomShooting(samples=2, horizon=10)
    plan, _ = planner(Model(model, model), ["a", "b"], rng=generator(0), budget=Budget(tokens=13))
    # Two rows of three tokens a step: the limit is passed in the third step and seen before the
    # fourth.
    assert plan.cost.tokens.decoded.tolist() == [18, 18]
    assert plan.cost.steps.tolist() == [6, 6]
    assert plan.final == ["a...", "b..."]


class Faulty:
    """Rewards the action, but is NaN (or worse) where the action is above `limit`."""

    terminates = False

    def __init__(self, limit: float, fault: float = torch.nan) -> None:
        self.limit, self.fault = limit, fault

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        reward = -state.sum(1) * action.sum(1)
        return Transition(
            state,
            torch.where(action.sum(1) > self.limit, self.fault, reward - 100),
            torch.ones(len(state)),
        )


UNIT = Box(torch.tensor([-1.0]), torch.tensor([1.0]))


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_candidate_is_never_chosen(fault: float) -> None:
    model = Model(Faulty(0.0, fault), Nudges(), None, UNIT)
    state = -torch.ones(2, 1)  # the more the better, but for the fault
    for planner in (
        RandomShooting(samples=64, horizon=1, actions="uniform"),
        MPPI(horizon=1, samples=64, iterations=3),
        BeamSearch(width=2, expand=8, depth=2),
    ):
        plan, _ = planner(model, state, rng=generator(0))
        assert plan.valid.all() and bool(torch.isfinite(plan.value).all())
        assert bool((plan.action <= 0).all())


def test_where_no_future_is_usable_the_plan_says_so() -> None:
    model = Model(Faulty(-9.0), Nudges(), None, UNIT)
    plan, _ = RandomShooting(samples=4, horizon=2)(model, torch.ones(2, 1), rng=generator(0))
    assert plan.valid.tolist() == [False, False]


def test_a_garden_of_ended_paths_costs_nothing_more() -> None:
    # Paths end after at most four moves, so a longer horizon changes nothing.
    roots = tensor_rows(["start", "gate"])
    long, short = (
        RandomShooting(samples=6, horizon=h)(tensor_garden(), roots, rng=generator(3))[0]
        for h in (9, 4)
    )
    assert torch.equal(long.value, short.value)
    assert torch.equal(long.cost.steps, short.cost.steps)
