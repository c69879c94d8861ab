"""Laws that all planners over action sequences keep, and those of CEM, MPPI and Grad-MPC."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mbrl_core import (
    CEM,
    ICEM,
    MPPI,
    TDMPC,
    Box,
    Budget,
    Event,
    GradCEM,
    GradMPC,
    Model,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Transition,
    WarmStart,
    draws,
    generator,
    reset,
)
from mbrl_core.planners.sampling import SamplingPlanner
from mbrl_core.planners.trajectory import Search, TrajectoryPlanner
from mbrl_core.rollouts import follow_actions
from mbrl_core.world import World
from tests.worlds import Glider, glider

H, N = 3, 24
TRAJECTORY: dict[str, TrajectoryPlanner] = {
    "cem": CEM(horizon=H, samples=N, elites=6, iterations=4),
    "cem_mean": CEM(horizon=H, samples=N, elites=6, iterations=4, output="mean"),
    "mppi": MPPI(horizon=H, samples=N, iterations=4),
    "icem": ICEM(horizon=H, samples=N, elites=6, iterations=4),
    "knots": CEM(horizon=H, samples=N, elites=6, iterations=4, knots=2, interpolation="linear"),
    "tdmpc": TDMPC(horizon=H, samples=N, elites=6, iterations=4, policy_samples=0),
    "grad_cem": GradCEM(horizon=H, samples=8, elites=3, iterations=3),
    "grad_mpc": GradMPC(horizon=H, samples=3, iterations=6),
}
every_planner = pytest.mark.parametrize("planner", TRAJECTORY.values(), ids=TRAJECTORY)
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.2, 0.1]]).double()


class Watched:
    """A model that remembers the actions it was stepped with."""

    terminates = False

    def __init__(self) -> None:
        self.inner = Glider()
        self.actions: list[Tensor] = []

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        self.actions.append(action.detach())
        return self.inner.step(state, action, rng=rng)


@every_planner
def test_the_model_never_sees_an_action_outside_the_bounds(planner: TrajectoryPlanner) -> None:
    watched, box = Watched(), Box(torch.tensor([-0.125]), torch.tensor([0.375]))
    wild = replace(planner, init_std=20.0)
    plan, carry = wild(Model(watched, None, None, box), START, rng=generator(0))
    plan, _ = wild(
        Model(watched, None, None, box),
        START,
        carry._replace(mean=carry.mean + 5),
        rng=generator(0),
    )
    seen = torch.cat([*watched.actions, plan.action])
    assert seen.min() >= -0.125 and seen.max() <= 0.375


@every_planner
def test_the_value_is_the_return_of_the_plan_that_is_returned(planner: TrajectoryPlanner) -> None:
    model = glider()
    plan, _ = planner(model, START, rng=generator(0))
    sequence = torch.stack([plan.action, *plan.then], 1)
    state, total, weight = START, torch.zeros(3).double(), 1.0
    with torch.no_grad():
        for t in range(H):
            moved = model.dynamics.step(state, sequence[:, t], rng=generator(0))
            total, weight, state = total + weight * moved.reward, weight * 0.95, moved.state
        total = total + weight * model.value.value(state)
    torch.testing.assert_close(plan.value, total)
    torch.testing.assert_close(plan.final, state)


class Poisoned(Glider):
    """A glider whose reward is NaN for some actions, or wherever a root is marked."""

    def __init__(self, above: float = torch.inf) -> None:
        super().__init__()
        self.above = above

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        bad = (action[:, 0] > self.above) | (state[:, 0] > 50)
        return moved._replace(reward=torch.where(bad, torch.nan, moved.reward))


@every_planner
def test_candidates_that_are_nan_are_never_elite(planner: TrajectoryPlanner) -> None:
    model = glider()._replace(dynamics=Poisoned(above=0.0))
    plan, carry = planner(model, START, rng=generator(0))
    assert plan.valid.all() and bool(torch.isfinite(plan.value).all())
    assert bool((plan.action <= 0).all()) and bool((carry.mean <= 0).all())


@every_planner
def test_a_root_whose_candidates_are_all_nan_keeps_its_carried_plan(
    planner: TrajectoryPlanner,
) -> None:
    model = glider()._replace(dynamics=Poisoned())
    poisoned = START.clone()
    poisoned[1] = 99.0
    carried = torch.linspace(-0.4, 0.4, 3 * H).view(3, H, 1).double()
    carry = WarmStart(carried, torch.zeros(3, dtype=torch.bool))

    def generators() -> list[torch.Generator]:
        return [generator(b) for b in range(3)]

    with pytest.warns(RuntimeWarning, match=r"no candidate of roots \[1\]"):
        plan, warm = planner(model, poisoned, carry, rng=generators())
    healthy, _ = planner(model, START, carry, rng=generators())
    assert plan.valid.tolist() == [True, False, True]
    torch.testing.assert_close(plan.action[1], carried[1, 0])
    torch.testing.assert_close(warm.mean[1, :-1], carried[1, 1:])
    others = torch.tensor([0, 2])
    torch.testing.assert_close(plan.action[others], healthy.action[others])
    torch.testing.assert_close(plan.value[others], healthy.value[others])


class Islands:
    """Only actions close to -1 or to 1 have a return; between them, where a mean may lie, NaN."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        height = action.abs().sum(1)
        reward = torch.where(height > 0.9, height, torch.nan)
        return Transition(state, reward, torch.ones_like(reward))


def test_a_mean_that_is_nan_gives_way_to_the_best_candidate() -> None:
    box = Box(torch.tensor([-1.0]), torch.tensor([1.0]))
    planner = MPPI(horizon=1, samples=64, iterations=1, init_std=1.0)
    plan, _ = planner(Model(Islands(), None, None, box), torch.zeros(2, 1), rng=generator(0))
    assert plan.valid.all()
    assert bool(torch.isfinite(plan.value).all()) and bool((plan.action.abs() > 0.9).all())


@every_planner
def test_the_warm_start_is_the_plan_moved_on_by_one_step(planner: TrajectoryPlanner) -> None:
    plan, carry = planner(glider(), START, rng=generator(0))
    assert torch.equal(carry.mean[:, -1], torch.full((3, 1), -0.25).double())  # the box's centre
    if not isinstance(planner, TDMPC):  # which carries its mean, whatever it returns
        assert torch.equal(carry.mean[:, :-1], torch.stack(plan.then, 1))
    twice = carry.shift(1)
    assert torch.equal(twice.mean[:, :-1], carry.mean[:, 1:])
    assert torch.equal(twice.mean[:, -1], carry.mean[:, -1])
    assert carry.mean.shape == (3, H, 1) and not carry.fresh.any()


def test_a_warm_start_is_where_the_search_begins() -> None:
    carried = torch.full((3, H, 1), 0.3).double()
    heard: list[Event] = []
    planner = CEM(horizon=H, samples=N, elites=6, iterations=1)
    carry = WarmStart(carried, torch.tensor([False, True, False]))
    planner(glider(), START, carry, rng=generator(0), listen=heard.append)
    first = heard[0].data["actions"][:, 0]  # candidate 0 is the mean the search began with
    assert torch.equal(first[[0, 2]], carried[[0, 2]])
    assert torch.equal(first[1], torch.full((H, 1), -0.25).double())


@every_planner
def test_resetting_one_row_leaves_the_others(planner: TrajectoryPlanner) -> None:
    _, carry = planner(glider(), START, rng=generator(0))
    forgotten = reset(carry, torch.tensor([False, True, False]))
    assert forgotten.fresh.tolist() == [False, True, False]
    assert torch.equal(forgotten.mean, carry.mean)
    assert not carry.fresh.any()
    assert reset(None, torch.tensor([True])) is None


def test_a_carry_of_another_shape_is_refused() -> None:
    _, carry = CEM(horizon=2, samples=8, elites=2)(glider(), START, rng=generator(0))
    with pytest.raises(ValueError, match=r"carry for \[B, H, A\] = \[3, 2, 1\], but plans"):
        CEM(horizon=3, samples=8, elites=2)(glider(), START, carry, rng=generator(0))


@every_planner
@pytest.mark.parametrize("unit", ["steps", "gradients", "calls"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_budget_is_never_exceeded(planner: TrajectoryPlanner, unit: str, share: float) -> None:
    full, _ = planner(glider(), START, rng=generator(0))
    used = getattr(full.cost, unit)
    limit = int(share * (used if unit == "calls" else used.max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        plan, _ = planner(glider(), START, rng=generator(0), budget=Budget(**{unit: limit}))
    spent = getattr(plan.cost, unit)
    assert (spent if unit == "calls" else spent.max()) <= limit
    assert plan.action.shape == (3, 1)


@every_planner
def test_without_budget_the_carried_plan_is_returned(planner: TrajectoryPlanner) -> None:
    carry = WarmStart(torch.full((3, H, 1), 0.3).double(), torch.zeros(3, dtype=torch.bool))
    with pytest.warns(RuntimeWarning, match="within the budget"):
        plan, _ = planner(glider(), START, carry, rng=generator(0), budget=Budget(steps=0))
    assert plan.cost.calls == 0 and not plan.valid.any()
    torch.testing.assert_close(plan.action, carry.mean[:, 0])


@every_planner
def test_without_time_one_iteration_is_evaluated(planner: TrajectoryPlanner) -> None:
    plan, _ = planner(glider(), START, rng=generator(0), budget=Budget(seconds=0))
    assert plan.valid.all()
    rounds = planner.evaluations() + (planner.output == "mean")
    assert plan.cost.calls == rounds * (H + 1)


def test_gradients_are_counted_where_only_the_state_is_rewarded() -> None:
    class StateOnly(Glider):
        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            moved = super().step(state, action, rng=rng)
            return moved._replace(reward=-state.square().sum(1))

    model = Model(StateOnly().requires_grad_(False), None, None, glider().action_space)
    plan, _ = GradMPC(horizon=H, samples=2, iterations=5)(model, START, rng=generator(0))
    assert plan.cost.gradients.tolist() == [2 * 5 * H] * 3


class Asked(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")
        self.times += op.overloadpacket.__name__ in waits
        return op(*args, **(kwargs or {}))


@every_planner
def test_no_iteration_waits_for_the_device(planner: TrajectoryPlanner) -> None:
    def waits(iterations: int) -> int:
        with Asked() as asked:
            replace(planner, iterations=iterations)(glider(), START, rng=generator(0))
        return asked.times

    assert waits(6) == waits(2) < 10


# Refits


def test_futures_of_a_policy_that_never_end_wait_for_no_device() -> None:
    def waits(horizon: int) -> int:
        with Asked() as asked:
            RandomShooting(samples=4, horizon=horizon)(glider(), START, rng=generator(0))
        return asked.times

    assert waits(2) == waits(7)


def search(*shape: int) -> Search:
    zero = torch.zeros(shape)
    return Search(zero, torch.ones(shape), zero, torch.full(shape[:1], -torch.inf), zero)


def test_cem_with_all_elites_and_no_momentum_takes_the_sample_mean() -> None:
    actions, returns = torch.randn(2, 10, H, 1), torch.randn(2, 10)
    planner = CEM(horizon=H, samples=10, elites=10, momentum=0.0)
    mean, std = planner.refit(search(2, H, 1), actions, returns)
    torch.testing.assert_close(mean, actions.mean(1))
    torch.testing.assert_close(std, actions.std(1, correction=0))


def test_cem_with_one_elite_has_no_spread_and_no_nan() -> None:
    actions, returns = torch.randn(2, 10, H, 1), torch.randn(2, 10)
    planner = CEM(horizon=H, samples=10, elites=1, momentum=0.0)
    mean, std = planner.refit(search(2, H, 1), actions, returns)
    assert torch.equal(mean, actions[torch.arange(2), returns.argmax(1)])
    assert torch.equal(std, torch.zeros(2, H, 1))


def test_cem_averages_its_elites_alone() -> None:
    # trajax's case: half the samples are zeros of return 0, half are ones of return 1.
    actions = torch.cat([torch.zeros(1, 200, 20, 1), torch.ones(1, 200, 20, 1)], 1)
    planner = CEM(horizon=20, samples=400, elites=40, momentum=0.0)
    mean, std = planner.refit(search(1, 20, 1), actions, actions[:, :, 0, 0])
    torch.testing.assert_close(mean, torch.ones(1, 20, 1))
    torch.testing.assert_close(std, torch.zeros(1, 20, 1))


def test_cem_momentum_keeps_its_share_of_the_old_mean() -> None:
    actions, returns = torch.ones(1, 10, H, 1), torch.zeros(1, 10)
    mean, std = CEM(horizon=H, samples=10, elites=5, momentum=0.75).refit(
        search(1, H, 1), actions, returns
    )
    torch.testing.assert_close(mean, torch.full((1, H, 1), 0.25))
    torch.testing.assert_close(std, torch.full((1, H, 1), 0.75))


def test_elites_without_a_return_have_no_say() -> None:
    actions = torch.stack([torch.full((H, 1), float(n)) for n in range(10)]).unsqueeze(0)
    returns = torch.full((1, 10), -torch.inf)
    returns[0, 3] = -1e6
    mean, _ = CEM(horizon=H, samples=10, elites=5, momentum=0.0).refit(
        search(1, H, 1), actions, returns
    )
    assert torch.equal(mean, torch.full((1, H, 1), 3.0))


def test_the_spread_never_falls_below_its_floor() -> None:
    heard: list[Event] = []
    planner = CEM(horizon=H, samples=N, elites=2, iterations=30, momentum=0.0, min_std=0.04)
    planner(glider(), START, rng=generator(0), listen=heard.append)
    assert heard[-1].data["std"].min().item() == pytest.approx(0.04 * 0.75)  # half the range


@pytest.mark.parametrize("normalize", [False, True])
def test_mppi_weights_do_not_change_when_returns_are_shifted(normalize: bool) -> None:
    planner = MPPI(horizon=1, normalize=normalize)
    returns = torch.randn(3, 12, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(planner.weights(returns), planner.weights(returns - 1e3))


def test_normalised_mppi_weights_do_not_change_when_returns_are_scaled() -> None:
    planner = MPPI(horizon=1)
    returns = torch.randn(3, 12, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(planner.weights(returns), planner.weights(returns * 1e3))


def test_mppi_weights_are_the_published_softmax() -> None:
    # The worked example of pytorch_mppi: total costs, temperature 0.5, weights.
    costs = torch.tensor([[2.98, 1.12, 2.0, 4.8]])
    expected = torch.tensor([[0.02024702, 0.83548120, 0.14374025, 0.00053153]])
    weights = MPPI(horizon=1, temperature=0.5, normalize=False).weights(-costs)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)


def test_mppi_gives_no_weight_to_what_has_no_return() -> None:
    returns = torch.tensor([[-torch.inf, -5.0, -5.0], [-torch.inf] * 3])
    weights = MPPI(horizon=1).weights(returns)
    assert torch.equal(weights, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]))


def test_mppi_at_temperature_zero_is_random_shooting_on_the_same_samples() -> None:
    heard: list[Event] = []
    cold = MPPI(horizon=H, samples=N, iterations=1, temperature=1e-9)
    plan, _ = cold(glider(), START, rng=generator(5), listen=heard.append)
    actions, returns = heard[0].data["actions"], heard[0].data["returns"]
    best = returns.argmax(1)
    torch.testing.assert_close(plan.action, actions[torch.arange(3), best, 0])
    torch.testing.assert_close(plan.value, returns.amax(1))
    greedy, _ = replace(cold, temperature=1.0, output="best")(glider(), START, rng=generator(5))
    torch.testing.assert_close(plan.action, greedy.action)


def test_hot_mppi_averages_all_candidates() -> None:
    actions, returns = torch.randn(2, 10, H, 1), torch.randn(2, 10)
    mean, _ = MPPI(horizon=H, temperature=1e9).refit(search(2, H, 1), actions, returns)
    torch.testing.assert_close(mean, actions.mean(1))


@pytest.mark.parametrize("low", [-torch.inf, -3.0])
def test_uniform_shooting_covers_its_box(low: float) -> None:
    box = Box(torch.tensor([-1.0, low]), torch.tensor([0.5, torch.inf]))

    class Sideways(Glider):
        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            return Transition(state, -action[:, 0], torch.ones(len(state)))

    planner = RandomShooting(samples=2000, horizon=1, actions="uniform")
    plan, _ = planner(Model(Sideways(), None, None, box), torch.zeros(1, 1), rng=generator(0))
    actions = plan.trace.actions[0]
    assert actions[:, 0].min() >= -1 and actions[:, 0].max() <= 0.5
    assert abs(actions[:, 0].mean().item() + 0.25) < 0.05
    assert abs(actions[:, 1].std().item() - 1) < 0.1  # standard normal, as good as never clipped
    assert plan.action[0, 0] < -0.99


class Noisy(Glider):
    """A glider in the wind."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        return moved._replace(state=moved.state + 0.3 * draws.normal(rng, *state.shape).double())


def test_grad_mpc_climbs_a_return_that_stands_still() -> None:
    # The noise is the same at every step, so small plain steps can only go up.
    model = glider()._replace(dynamics=Noisy())
    heard: list[Event] = []
    planner = GradMPC(horizon=H, samples=4, iterations=20, learning_rate=0.01, optimizer="sgd")
    planner(model, START, rng=generator(0), listen=heard.append)
    returns = torch.stack([event.data["returns"] for event in heard])
    assert bool((returns.diff(dim=0) >= -1e-9).all())


def test_grad_mpc_leaves_the_model_without_gradients() -> None:
    model = glider()
    TRAJECTORY["grad_mpc"](model, START, rng=generator(0))
    assert all(weight.grad is None for weight in model.dynamics.parameters())


def test_grad_mpc_takes_no_step_longer_than_its_gradient_allows() -> None:
    heard: list[Event] = []
    planner = GradMPC(
        horizon=H, samples=2, iterations=5, learning_rate=0.1, optimizer="sgd", max_gradient=0.5
    )
    planner(glider(), 100 * START, rng=generator(0), listen=heard.append)
    actions = torch.stack([event.data["actions"] for event in heard])
    moved = actions.diff(dim=0).flatten(3).norm(dim=3)
    assert moved.max() <= 0.1 * 0.5 * 0.75 + 1e-9  # rate, gradient, half the range


# One template, any planner


class Stubborn(SamplingPlanner):
    """Learns nothing from its samples: all that a new planner has to write is `refit`."""

    def refit(self, search: Search, actions: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        return search.mean, search.std


def test_a_new_sampling_planner_writes_only_its_refit() -> None:
    plan, _ = Stubborn(horizon=H, samples=N, iterations=2)(glider(), START, rng=generator(0))
    assert plan.valid.all() and plan.cost.steps.tolist() == [2 * H * N] * 3


@every_planner
def test_a_receding_horizon_of_one_step_takes_the_action_of_its_planner(
    planner: TrajectoryPlanner,
) -> None:
    outer, carry = RecedingHorizon(planner=planner, steps=1)(glider(), START, rng=generator(0))
    inner, warm = planner(glider(), START, rng=generator(0))
    assert torch.equal(outer.action, inner.action)
    assert torch.equal(carry.mean, warm.mean)


def test_a_receding_horizon_carries_its_warm_start() -> None:
    heard: list[Event] = []
    planner = CEM(horizon=H, samples=N, elites=6, iterations=1)
    episode, carry = RecedingHorizon(planner=planner, steps=2)(
        glider(), START, rng=generator(0), listen=heard.append
    )
    _, warm = planner(glider(), START, rng=generator(0))
    assert torch.equal(heard[1].data["actions"][:, 0], warm.mean)
    assert carry.mean.shape == warm.mean.shape
    assert episode.trace.rewards.shape == (3, 1, 2)


@pytest.mark.parametrize("unit", ["steps", "calls"])
def test_a_receding_horizon_without_budget_for_its_own_steps_says_so(unit: str) -> None:
    planner = RecedingHorizon(planner=TRAJECTORY["cem"], steps=4)
    with pytest.raises(ValueError, match="does not allow its own 4 model steps"):
        planner(glider(), START, rng=generator(0), budget=Budget(**{unit: 3}))


# What is kept from call to call, or from step to step


@every_planner
def test_a_plan_in_inference_mode_is_the_same_and_leaves_nothing_behind(
    planner: TrajectoryPlanner,
) -> None:
    model = glider()
    if not isinstance(planner, GradMPC | GradCEM):  # these differentiate
        with torch.inference_mode():
            first, _ = planner(model, START, rng=generator(0))
        plan, _ = planner(model, START, rng=generator(0))
        assert torch.equal(first.action, plan.action) and torch.equal(first.value, plan.value)
    TRAJECTORY["grad_mpc"](model, START, rng=generator(0))


def test_bounds_that_change_in_place_are_followed() -> None:
    model, planner = glider(), TRAJECTORY["cem"]
    planner(model, START, rng=generator(0))
    model.action_space.low.fill_(0.25)
    plan, _ = planner(model, START, rng=generator(0))
    assert torch.stack([plan.action, *plan.then]).min() >= 0.25
    model.action_space.low.fill_(0.75)
    with pytest.raises(ValueError, match="low < high"):
        planner(model, START, rng=generator(0))


def test_root_states_whose_sum_overflows_are_finite() -> None:
    huge = torch.full((1, 2), 2e38)
    model = glider()._replace(dynamics=Idle(), value=None)
    plan, _ = CEM(horizon=1, samples=4, elites=2, iterations=1)(model, huge, rng=generator(0))
    assert plan.valid.all()


class Idle:
    """Stays where it is."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        return Transition(state, torch.zeros(len(state)), torch.ones(len(state)))


class Wide:
    """A model whose reward and discount are columns of what it puts out."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        out = torch.ones(len(state), 1000)
        return Transition(state, out[:, 0], out[:, 1])


def test_a_rollout_holds_no_more_of_a_wide_output_than_its_columns() -> None:
    world = World("test", Model(Wide()), torch.zeros(1, 1), rng=generator(0))
    with torch.no_grad():
        futures = follow_actions(world, torch.zeros(1, 1), torch.zeros(1, 50, 3, 1))
    held = [*futures.rewards, *futures.discounts]
    assert all(each.untyped_storage().nbytes() == 50 * 4 for each in held)
    assert futures.returns.tolist() == [[3.0] * 50]
