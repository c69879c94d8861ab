"""Laws of the planners over action sequences, on random problems."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    MPPI,
    TDMPC,
    Box,
    CategoricalCEM,
    GradCEM,
    GradMPC,
    Model,
    Plan,
    Rng,
    Transition,
    WarmStart,
    generator,
)
from mbrl_core.planners.sampling import equal_weights, exponential_weights, select_elites
from mbrl_core.planners.trajectory import SequencePlanner
from tests.worlds import glider, tensor_garden, tensor_rows

SMALL = {"horizon": 3, "samples": 12, "iterations": 2}
RANKING: dict[str, SequencePlanner] = {  # these look at the order of returns only
    "cem": CEM(**SMALL, elites=4),
    "icem": ICEM(**SMALL, elites=4),
    "knots": CEM(**SMALL, elites=4, knots=2, beta=1.0, interpolation="cubic"),
}
CONTINUOUS = RANKING | {
    "mppi": MPPI(**SMALL),
    "tdmpc": TDMPC(**SMALL, elites=4, policy_samples=0),
    "grad_mpc": GradMPC(horizon=3, samples=3, iterations=3),
    "grad_cem": GradCEM(**SMALL, elites=4),
}
seeds = st.integers(0, 2**31)
few = settings(max_examples=8, deadline=None)


def some_returns(seed: int, lost: int = 0) -> Tensor:
    returns = torch.randn(3, 12, generator=generator(seed)).double()
    returns[:, :lost] = -torch.inf
    return returns


def some_states(seed: int) -> Tensor:
    return torch.randn(3, 2, generator=generator(seed)).double()


class Priced:
    """A glider whose rewards are scaled and shifted."""

    terminates = False

    def __init__(self, scale: float, shift: float) -> None:
        self.inner = glider().dynamics
        self.scale = scale
        self.shift = shift

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = self.inner.step(state, action, rng=rng)
        return moved._replace(reward=self.scale * moved.reward + self.shift)


def plan_of(
    planner: SequencePlanner, state: Tensor, scale: float = 1.0, shift: float = 0.0
) -> Plan:
    model = Model(Priced(scale, shift), None, None, glider().action_space)
    return planner(model, state, rng=generator(0))[0]


# Weights


@given(seeds, st.integers(0, 11))
@few
def test_cold_weights_choose_the_best(seed: int, lost: int) -> None:
    returns = some_returns(seed, lost)
    best = torch.nn.functional.one_hot(returns.argmax(1), 12).double()
    for normalize in (False, True):
        torch.testing.assert_close(exponential_weights(returns, 1e-9, normalize=normalize), best)


@given(seeds, st.integers(0, 11))
@few
def test_hot_weights_are_those_of_a_plain_mean(seed: int, lost: int) -> None:
    returns = some_returns(seed, lost)
    for normalize in (False, True):
        hot = exponential_weights(returns, 1e9, normalize=normalize)
        torch.testing.assert_close(hot, equal_weights(returns))


@given(seeds, st.floats(0.01, 100), st.floats(-1e3, 1e3), st.floats(0.05, 5))
@few
def test_weights_move_with_the_units_of_return(
    seed: int, scale: float, shift: float, temperature: float
) -> None:
    returns = some_returns(seed, 3)
    plain = exponential_weights(returns, temperature)
    torch.testing.assert_close(exponential_weights(returns + shift, temperature), plain)
    scaled = exponential_weights(returns * scale, temperature * scale)
    torch.testing.assert_close(scaled, plain)
    normal = exponential_weights(returns, temperature, normalize=True)
    other = exponential_weights(returns * scale + shift, temperature, normalize=True)
    torch.testing.assert_close(other, normal, atol=1e-9, rtol=1e-6)


@given(seeds, st.integers(1, 12))
@few
def test_elites_do_not_depend_on_the_order_of_candidates(seed: int, number: int) -> None:
    returns = some_returns(seed)
    sequences = torch.randn(3, 12, 2, 1, generator=generator(seed + 1)).double()
    order = torch.randperm(12, generator=generator(seed))
    one = select_elites(sequences, returns, number)
    other = select_elites(sequences[:, order], returns[:, order], number)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Whole plans


@pytest.mark.parametrize("planner", RANKING.values(), ids=RANKING)
@given(seed=seeds, scale=st.sampled_from([2.0**-7, 0.5, 4.0, 2.0**10]))
@few
def test_a_ranking_planner_does_not_see_the_scale_of_rewards(
    planner: SequencePlanner, seed: int, scale: float
) -> None:
    state = some_states(seed)
    plain, scaled = plan_of(planner, state), plan_of(planner, state, scale)
    assert torch.equal(plain.action, scaled.action)  # powers of two scale without rounding
    assert torch.equal(plain.value * scale, scaled.value)


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "tdmpc", "grad_mpc", "grad_cem"])
@given(seed=seeds, shift=st.floats(-20, 20))
@few
def test_a_shift_of_all_rewards_shifts_the_value_only(name: str, seed: int, shift: float) -> None:
    state = some_states(seed)
    plain, shifted = (plan_of(CONTINUOUS[name], state, shift=s) for s in (0.0, shift))
    torch.testing.assert_close(plain.action, shifted.action, atol=1e-6, rtol=1e-6)
    total = shift * (1 + 0.95 + 0.95**2)
    torch.testing.assert_close(plain.value + total, shifted.value)


@given(seed=seeds, scale=st.floats(0.01, 100))
@few
def test_normalised_mppi_does_not_see_the_scale_of_rewards(seed: int, scale: float) -> None:
    state = some_states(seed)
    plain, scaled = (plan_of(CONTINUOUS["mppi"], state, s) for s in (1.0, scale))
    torch.testing.assert_close(plain.action, scaled.action, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("planner", CONTINUOUS.values(), ids=CONTINUOUS)
@given(seed=seeds, order=st.permutations(range(3)))
@few
def test_roots_in_another_order_get_their_plans_in_that_order(
    planner: SequencePlanner, seed: int, order: list[int]
) -> None:
    state = some_states(seed)
    plain, _ = planner(glider(), state, rng=[generator(b) for b in range(3)])
    turned, _ = planner(glider(), state[order], rng=[generator(b) for b in order])
    torch.testing.assert_close(plain.action[order], turned.action)
    torch.testing.assert_close(plain.value[order], turned.value)


@given(seed=seeds, order=st.permutations(range(3)))
@few
def test_discrete_roots_in_another_order_get_their_plans_in_that_order(
    seed: int, order: list[int]
) -> None:
    planner = CategoricalCEM(**SMALL, elites=4)
    state = tensor_rows(["start", "gate>left", "start>right"])
    plain, _ = planner(tensor_garden(), state, rng=[generator(seed + b) for b in range(3)])
    turned, _ = planner(tensor_garden(), state[order], rng=[generator(seed + b) for b in order])
    assert torch.equal(plain.action[order], turned.action)
    assert torch.equal(plain.value[order], turned.value)


class Bowl:
    """One step towards a point in the plane: reward -(x + u - goal)^2; any precision."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        state = state + action
        reward = -(state - torch.tensor([0.3, -0.2]).to(state)).square().sum(1)
        return Transition(state, reward, torch.ones_like(reward))


def bowl(dtype: torch.dtype = torch.float64) -> Model:
    return Model(Bowl(), None, None, Box(torch.full((2,), -1.0).to(dtype), torch.ones(2).to(dtype)))


@pytest.mark.parametrize("planner", CONTINUOUS.values(), ids=CONTINUOUS)
@given(seed=seeds)
@few
def test_single_and_double_precision_agree(planner: SequencePlanner, seed: int) -> None:
    state = some_states(seed)
    double, _ = planner(bowl(), state, rng=generator(0))
    single, _ = planner(bowl(torch.float32), state.float(), rng=generator(0))
    assert single.action.dtype == single.value.dtype == torch.float32
    torch.testing.assert_close(single.action.double(), double.action, atol=2e-3, rtol=0)
    torch.testing.assert_close(single.value.double(), double.value, atol=2e-3, rtol=1e-3)


ENOUGH = {"horizon": 1, "samples": 200, "iterations": 12, "init_std": 1.0}
ONE_STEP: dict[str, SequencePlanner] = {
    "cem": CEM(**ENOUGH, elites=20, min_std=0.0),
    "icem": ICEM(**ENOUGH, elites=20, min_std=0.0),
    "one_knot": CEM(**ENOUGH, elites=20, min_std=0.0, knots=1),
    "mppi": MPPI(**ENOUGH, temperature=0.05, adapt_std=True, min_std=0.0),
    "tdmpc": TDMPC(
        **ENOUGH, elites=40, policy_samples=0, temperature=0.1, min_std=0.0, output="mean"
    ),
    "grad_mpc": GradMPC(
        horizon=1, samples=1, iterations=60, learning_rate=0.2, optimizer="momentum", last_rate=0.0
    ),
    "grad_cem": GradCEM(
        **(ENOUGH | {"samples": 20}), elites=5, min_std=0.0, learning_rate=0.2, optimizer="sgd"
    ),
}


@pytest.mark.parametrize("planner", ONE_STEP.values(), ids=ONE_STEP)
@given(seed=seeds)
@settings(max_examples=3, deadline=None)
def test_with_one_step_the_optimum_is_the_nearest_point_in_the_box(
    planner: SequencePlanner, seed: int
) -> None:
    state = 0.8 * some_states(seed)
    plan, _ = planner(bowl(), state, rng=generator(seed))
    expected = (torch.tensor([0.3, -0.2]).double() - state).clamp(-1, 1)
    torch.testing.assert_close(plan.action, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("planner", CONTINUOUS.values(), ids=CONTINUOUS)
@given(seed=seeds)
@few
def test_planning_on_is_never_worse_than_the_plan_carried_on(
    planner: SequencePlanner, seed: int
) -> None:
    # With the mean among the candidates the warm start itself is one of them.
    if isinstance(planner, MPPI) or getattr(planner, "keep_mean", "always") != "always":
        return
    state = some_states(seed)
    before, carry = planner(bowl(), state, rng=generator(seed))
    same_step = torch.cat([before.action.unsqueeze(1), carry.mean[:, :-1]], 1)
    warm = WarmStart(same_step, torch.zeros(3, dtype=torch.bool))
    after, _ = planner(bowl(), state, warm, rng=generator(seed + 1))
    assert bool((after.value >= before.value - 1e-6).all())


def test_more_iterations_on_the_same_draws_never_give_a_worse_best() -> None:
    for planner in (RANKING["cem"], CONTINUOUS["grad_mpc"]):
        values = [
            replace(planner, iterations=n)(bowl(), some_states(0), rng=generator(0))[0].value
            for n in (1, 2, 4, 8)
        ]
        assert bool((torch.stack(values).diff(dim=0) >= 0).all())
