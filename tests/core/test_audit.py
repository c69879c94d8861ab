"""The measurements of models and planners, on worlds whose answers are known."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    MCTS,
    BeamSearch,
    Box,
    Budget,
    CVaR,
    Discrete,
    Model,
    Particles,
    Plan,
    RandomShooting,
    Rng,
    Transition,
    all_actions,
    generator,
)
from mbrl_core.audit import (
    Recording,
    compounding_error,
    deadlines,
    elite_stability,
    exploitation_gap,
    horizon_audit,
    random_gap,
    record,
)
from tests.worlds import glider, gusty_glider, tensor_garden, tensor_rows

PATHS = ["start", "gate>left", "start>right"]
BOX = Box(-torch.ones(2).double(), torch.ones(2).double())


class Drift:
    """x' = growth x + a + bias, reward (sum of x') + bonus; ends where the first number is 9."""

    def __init__(self, growth: float = 1.0, bias: float = 0.0, bonus: float = 0.0) -> None:
        self.growth, self.bias, self.bonus = growth, bias, bonus

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        after = self.growth * state + action + self.bias
        discount = torch.where(after[:, 0] >= 9, 0.0, 0.9).double()
        return Transition(after, after.sum(1) + self.bonus, discount)


def still(steps: int, rows: int = 3) -> list[Tensor]:
    return [torch.zeros(rows, 2).double()] * steps


def test_a_constant_bias_adds_up_step_by_step() -> None:
    state = torch.randn(3, 2, generator=generator(0)).double()
    recording = record(Drift(), state, still(5), rng=generator(0))
    errors = compounding_error(Model(Drift(bias=0.1)), recording, rng=generator(0))
    each = 0.1 * 2**0.5
    steps = torch.arange(1, 6).double()
    torch.testing.assert_close(errors.rolled, (each * steps).expand(3, 5))
    torch.testing.assert_close(errors.stepped, torch.full((3, 5), each).double())
    torch.testing.assert_close(errors.reward, (0.2 * steps).expand(3, 5))
    none = compounding_error(Model(Drift()), recording, rng=generator(0))
    assert not any(bool(error.any()) for error in none)


def test_a_wrong_growth_feeds_on_itself() -> None:
    recording = record(Drift(1.1), torch.ones(1, 2).double(), still(6, 1), rng=generator(0))
    errors = compounding_error(Model(Drift(1.2)), recording, rng=generator(0))
    h = torch.arange(1, 7).double()
    torch.testing.assert_close(errors.rolled[0], (1.2**h - 1.1**h) * 2**0.5)
    torch.testing.assert_close(errors.stepped[0], 0.1 * 1.1 ** (h - 1) * 2**0.5)


def test_what_lies_past_the_end_is_not_judged() -> None:
    state = torch.tensor([[0.0, 0.0], [7.5, 0.0]]).double()
    right = [torch.tensor([[1.0, 0.0]] * 2).double()] * 3
    recording = record(Drift(), state, right, rng=generator(0))
    assert recording.happened.tolist() == [[True] * 3, [True, True, False]]
    assert recording.states[3][1].tolist() == [9.5, 0.0]
    errors = compounding_error(Model(Drift(bias=0.1)), recording, rng=generator(0))
    for error in errors:
        assert error.isnan().tolist() == [[False] * 3, [False, False, True]]


class Wrapped(NamedTuple):
    """A state with more in it than is observed."""

    obs: Tensor
    hidden: Tensor


class Inner:
    """A drift over wrapped states."""

    def step(self, state: Wrapped, action: Tensor, *, rng: Rng) -> Transition:
        moved = Drift(bias=0.1).step(state.obs, action, rng=rng)
        return moved._replace(state=Wrapped(moved.state, state.hidden))


def test_states_of_another_kind_are_compared_by_what_is_observed() -> None:
    state = torch.zeros(2, 2).double()
    logged = record(Drift(), state, still(3, 2), rng=generator(0))
    errors = compounding_error(
        Model(Inner()),
        Recording(list(logged.states), logged.actions, logged.rewards, logged.discounts),
        root=lambda obs: Wrapped(obs, torch.ones(len(obs))),
        observe=lambda state: state.obs,
        rng=generator(0),
    )
    torch.testing.assert_close(errors.rolled[:, 2], torch.full((2,), 0.3 * 2**0.5).double())


@pytest.mark.parametrize(
    ("planner", "model", "state"),
    [
        (MCTS(simulations=8, candidates=3), tensor_garden(), tensor_rows(PATHS)),
        (
            CEM(horizon=3, samples=16, elites=4, iterations=2),
            glider(),
            torch.randn(3, 2, generator=generator(1)).double(),
        ),
    ],
    ids=["garden", "glider"],
)
def test_a_model_that_is_right_has_no_gap(planner: Any, model: Model, state: Tensor) -> None:
    found = exploitation_gap(planner, model, model.dynamics, state, steps=3, rng=generator(2))
    assert torch.equal(found.predicted, found.realised) and bool(found.predicted.any())
    assert bool(
        (random_gap(model, model.dynamics, state, steps=3, rng=generator(2)).gap == 0).all()
    )


def test_a_promise_of_more_per_step_is_the_gap() -> None:
    model = Model(Drift(bonus=0.5), action_space=BOX)
    planner = CEM(horizon=2, samples=16, elites=4, iterations=2)
    for found in (
        exploitation_gap(
            planner, model, Drift(), torch.zeros(3, 2).double(), steps=3, rng=generator(0)
        ),
        random_gap(model, Drift(), torch.zeros(3, 2).double(), steps=3, rng=generator(0)),
    ):
        torch.testing.assert_close(found.gap, torch.full((3,), 0.5 * (1 + 0.9 + 0.81)).double())
        assert len(found.actions) == 3


def test_nothing_is_expected_of_reality_beyond_the_end_in_the_model() -> None:
    model = Model(Drift(bias=1.0), action_space=BOX)  # ends a step sooner than reality
    state = torch.tensor([[7.5, -20.0]]).double()
    planner = RandomShooting(samples=4, horizon=2, actions="uniform")
    found = exploitation_gap(planner, model, Drift(), state, steps=4, rng=generator(0))
    torch.testing.assert_close(
        record(Drift(), state, found.actions, rng=generator(0)).rewards.shape[1], len(found.actions)
    )
    assert len(found.actions) < 4


class Flattering(Drift):
    """Pays much for what never pays in truth: the first number of the action near its bound."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        return moved._replace(reward=moved.reward + 10 * (action[:, 0] < -0.9))


def test_planning_finds_the_fault_that_chance_does_not() -> None:
    model, state = Model(Flattering(), action_space=BOX), torch.zeros(5, 2).double()
    planner = CEM(horizon=3, samples=64, elites=8, iterations=4)
    planned = exploitation_gap(
        planner, model, Drift(), state, steps=3, rng=generator(0), budget=Budget(steps=1000)
    )
    chance = random_gap(model, Drift(), state, steps=3, rng=generator(0))
    assert planned.gap.mean() > 3 * chance.gap.mean()
    assert bool((planned.gap > 10).all())


class Later:
    """Move 1 costs 1 at once and pays 10 two steps later; states [R, 3]: time, paid, unused."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        first = state[:, 0] == 0
        invested = torch.where(first, action.double(), state[:, 1])
        reward = torch.where(first, -action.double(), 0.0)
        reward = reward + 10 * invested * (state[:, 0] == 2)
        after = torch.stack([state[:, 0] + 1, invested, state[:, 2]], 1)
        return Transition(after, reward, torch.ones(len(state)).double())

    def value(self, state: Tensor) -> Tensor:
        return 10 * state[:, 1] * ((state[:, 0] >= 1) & (state[:, 0] <= 2))


@pytest.mark.parametrize(("value", "changed"), [(False, [1, 1, 0, 0]), (True, [0, 0, 0, 0])])
def test_a_short_horizon_acts_alike_where_the_value_knows_the_rest(
    value: bool, changed: list[int]
) -> None:
    later, space = Later(), Discrete(2)
    model = Model(later, all_actions(space), later if value else None, space)
    planner = BeamSearch(width=16, expand=2, depth=4)
    found = horizon_audit(
        planner, model, torch.zeros(3, 3).double(), [4, 1, 2, 3], field="depth", rng=generator(0)
    )
    assert found.horizons.tolist() == [1, 2, 3, 4]
    assert found.changed.tolist() == changed
    assert found.distance.tolist() == [[c] * 3 for c in changed]
    assert found.redrawn.tolist() == [0] * 3


def test_a_horizon_is_cut_by_its_name() -> None:
    with pytest.raises(ValueError, match="BeamSearch has no field 'horizon'"):
        horizon_audit(
            BeamSearch(width=1, expand=1, depth=1),
            glider(),
            torch.zeros(1, 2),
            [1],
            rng=generator(0),
        )


CHOOSER = RandomShooting(samples=32, horizon=2, actions="uniform")


def test_without_noise_the_best_stay_the_best() -> None:
    model, state = gusty_glider(), torch.randn(3, 2, generator=generator(1)).double()
    found = elite_stability(
        CHOOSER, model, state, 0.0, horizon=2, samples=64, top=8, rng=generator(0)
    )
    assert found.overlap.tolist() == [1] * 3 and found.spread.tolist() == [0] * 3


def test_where_the_state_does_not_matter_noise_does_not_either() -> None:
    model, state = Model(Drift(), action_space=BOX), torch.zeros(3, 2).double()
    found = elite_stability(
        CHOOSER, model, state, 0.5, horizon=2, samples=64, top=8, rng=generator(0)
    )
    assert found.overlap.tolist() == [1] * 3 and found.spread.tolist() == [0] * 3


class Sign(Drift):
    """The sign of the state decides which way pays."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        ones = torch.ones(len(state)).double()
        return Transition(state, (state.sign() * action).sum(1), ones)


def test_noise_that_hides_the_state_leaves_chance() -> None:
    model, state = Model(Sign(), action_space=BOX), torch.full((50, 2), 1e-6).double()
    found = elite_stability(
        CHOOSER, model, state, 1.0, horizon=1, samples=64, top=32, repeats=16, rng=generator(0)
    )
    # A quarter keeps the elites, a quarter turns them round, half exchanges one axis: 1/2 is left.
    assert abs(found.overlap.mean().item() - 0.5) < 0.05
    assert bool((found.spread > 0.5).all())
    with pytest.raises(ValueError, match="top must be between 1 and samples"):
        elite_stability(CHOOSER, model, state, 1.0, horizon=1, samples=4, top=5, rng=generator(0))


class Cracked(Sign):
    """Pays by the second number of the action; which of the bad earn NaN the state decides."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        broken = (action[:, 1] < 0) & (action[:, 0] * state[:, 0] > 0)
        reward = torch.where(broken, torch.nan, action[:, 1])
        return super().step(state, action, rng=rng)._replace(reward=reward)


def test_candidates_without_a_return_are_not_among_the_best() -> None:
    model, state = Model(Cracked(), action_space=BOX), torch.full((5, 2), 1e-6).double()
    found = elite_stability(
        CHOOSER, model, state, 1.0, horizon=1, samples=64, top=8, rng=generator(0)
    )
    assert found.overlap.tolist() == [1] * 5


def test_states_need_not_lie_in_memory_in_their_order() -> None:
    class Boards:
        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            after = state.transpose(1, 2)
            return Transition(after, after.sum((1, 2)), torch.ones(len(state)))

    state = torch.randn(2, 3, 3, generator=generator(0)).transpose(1, 2)
    recording = record(Boards(), state, [torch.zeros(2)] * 2, rng=generator(0))
    found = compounding_error(Model(Boards()), recording, rng=generator(0))
    assert found.rolled.tolist() == [[0.0, 0.0]] * 2


class Sleeper:
    """Random shooting that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, *given: Any, **options: Any) -> tuple[Plan, Any]:
        time.sleep(self.seconds)
        return CHOOSER(*given, **{**options, "budget": None})


def test_deadlines_are_held_against_the_clock() -> None:
    model = Model(Drift(), action_space=BOX)
    state = torch.zeros(3, 2).double()
    found = deadlines(Sleeper(0.02), model, Drift(), state, [0.005, 5.0], steps=3, rng=generator(0))
    assert found.taken.shape == found.overshoot.shape == (2, 3)
    assert bool((found.overshoot[0] >= 0.015).all()) and not bool(found.overshoot[1].any())
    torch.testing.assert_close(found.overshoot[0], found.taken[0] - 0.005)
    assert torch.equal(found.returns[0], found.returns[1])  # the same draws, the same plans


def test_returns_under_a_deadline_are_those_of_reality() -> None:
    model = Model(Drift(bonus=7.0), action_space=BOX)
    cloud = Particles(model, 2, CVaR(0.5))
    state = torch.zeros(2, 2).double()
    planner = CEM(horizon=2, samples=32, elites=4, iterations=3)
    found = deadlines(
        planner, cloud.model(), Drift(), state, [10.0], steps=2, root=cloud.root, rng=generator(0)
    )
    # All to the upper bound: 2 after a step, 4 after two.
    assert bool((found.returns > 0.8 * (2 + 0.9 * 4)).all())
    assert bool((found.returns <= 2 + 0.9 * 4).all())


def test_random_actions_need_bounds() -> None:
    state = torch.zeros(1, 2).double()
    endless = Model(Drift(), action_space=Box(-torch.ones(2) / 0, torch.ones(2) / 0))
    with pytest.raises(ValueError, match="finite bounds"):
        random_gap(endless, Drift(), state, steps=1, rng=generator(0))
    with pytest.raises(ValueError, match=r"need Model\.action_space"):
        random_gap(Model(Drift()), Drift(), state, steps=1, rng=generator(0))
