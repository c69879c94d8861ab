"""iLQR and DDP: known optima, exact derivatives, bounds, noise, ends, and what they refuse."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    ILQR,
    LQR,
    Box,
    Budget,
    GradMPC,
    Model,
    Rng,
    Transition,
    draws,
    generator,
    rows,
)
from mbrl_core.planners.ilqr import box_program
from mbrl_core.planners.quadratic import expand, expand_value, riccati
from mbrl_core.testing import check_planner
from mbrl_core.world import World
from tests.core.test_lqr import cases_in
from tests.golden import golden_files
from tests.worlds import glider, tensor_garden, tensor_rows, text_garden


def box(size: int, bound: float) -> Box:
    limit = torch.full((size,), bound, dtype=torch.float64)
    return Box(-limit, limit)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_one_iteration_is_the_optimum_of_a_linear_quadratic_problem(
    file: Path, second_order: bool
) -> None:
    for case in cases_in(file):
        if case.convex:
            horizon = case.actions.shape[2]
            planner = ILQR(horizon=horizon, iterations=1, second_order=second_order)
            plan, _ = planner(case.model, case.start, rng=generator(0))
            assert -plan.value.item() == pytest.approx(case.cost, rel=1e-9), case.name
            taken = torch.stack([plan.action, *plan.then], 1)
            torch.testing.assert_close(taken, case.actions[0], rtol=1e-5, atol=1e-6)


# Swinging up


class Pendulum:
    """The pendulum of hydrax: states (angle, velocity), hanging at 0; torque 2u, |u| <= 1."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        (angle, velocity), u = state.unbind(1), action[:, 0]
        inertia = 0.087959 + 0.25
        velocity = velocity + 0.02 * (2 * u - 9.81 * 0.5 * torch.sin(angle)) / inertia
        state = torch.stack([angle + 0.02 * velocity, velocity], 1)
        reward = -0.02 * (self.cost(state) + 0.001 * u**2)
        return Transition(state, reward, torch.ones_like(reward))

    def cost(self, state: Tensor) -> Tensor:
        angle, velocity = state.unbind(1)
        above = angle - math.pi
        return (torch.cos(above) - 1) ** 2 + torch.sin(above) ** 2 + 0.01 * velocity**2

    def value(self, state: Tensor) -> Tensor:
        return -self.cost(state)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("file", golden_files("planner_unit_cases*.json"))
def test_the_pendulum_swings_up_at_the_best_known_cost(file: Path, second_order: bool) -> None:
    case = json.loads(file.read_text()).get("hydrax_pendulum_open_loop")
    if case is None:
        pytest.skip(f"{file.name} has no pendulum")
    dynamics, rng = Pendulum(), [generator(seed) for seed in range(3)]
    model, hanging = Model(dynamics, None, dynamics, box(1, 1.0)), torch.zeros(3, 2).double()
    planner = ILQR(horizon=50, iterations=6, second_order=second_order)
    plan, _ = planner(model, hanging, rng=rng)
    best, idle = (
        case["computed_here"][name] for name in ("best_found_11_knots", "zero_control_cost")
    )
    assert bool((-plan.value < best + 1e-5).all()) and best < 7.05
    # Without a draw beside it, the warm start hangs at rest, where there is no gradient.
    still = ILQR(horizon=50, iterations=6, samples=1)
    assert -still(model, hanging, rng=rng)[0].value[0].item() == pytest.approx(idle)


class TrajaxPendulum:
    """The pendulum of trajax' front page: m = l = 1, steps of 10 ms by Runge-Kutta."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        def slope(x: Tensor) -> Tensor:
            return torch.stack([x[:, 1], action[:, 0] - 9.81 * torch.sin(x[:, 0])], 1)

        half = 0.005
        first = slope(state)
        second = slope(state + half * first)
        third = slope(state + half * second)
        last = slope(state + 2 * half * third)
        after = state + half / 3 * (first + 2 * second + 2 * third + last)
        reward = -self.cost(state) - action[:, 0] ** 2
        return Transition(after, reward, torch.ones_like(reward))

    def cost(self, state: Tensor) -> Tensor:
        above = state[:, 0] - math.pi
        above = torch.atan2(torch.sin(above), torch.cos(above))
        return 10 * (above**2 + state[:, 1] ** 2)

    def value(self, state: Tensor) -> Tensor:
        return -100 * self.cost(state)


@pytest.mark.slow
@pytest.mark.parametrize("file", golden_files("planner_unit_cases*.json"))
def test_the_pendulum_of_trajax_ends_upright(file: Path) -> None:
    if "pendulum_trajax_readme" not in json.loads(file.read_text()):
        pytest.skip(f"{file.name} has no such pendulum")
    dynamics, start = TrajaxPendulum(), torch.tensor([[-0.9, 0.0]]).double()
    model = Model(dynamics, None, dynamics, box(1, torch.inf))
    plan, _ = ILQR(horizon=300, iterations=60)(model, start, rng=generator(0))
    angle, velocity = plan.final[0].tolist()
    assert abs(math.remainder(angle - math.pi, 2 * math.pi)) <= 0.1 and abs(velocity) <= 0.1


class Acrobot:
    """Sutton's acrobot as trajax has it: Euler steps of 0.1 s towards (pi, 0, 0, 0)."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        t1, t2, w1, w2 = state.unbind(1)
        sin, cos = torch.sin(t2), torch.cos(t2)
        d1, d2 = 3.5 + cos, 1.25 + 0.5 * cos
        phi2 = 4.9 * torch.sin(t1 + t2)
        phi1 = -0.5 * w2**2 * sin - w2 * w1 * sin + 14.7 * torch.sin(t1) + phi2
        a2 = (action[:, 0] + d2 / d1 * phi1 - 0.5 * w1**2 * sin - phi2) / (1.25 - d2**2 / d1)
        a1 = -(d2 * a2 + phi1) / d1
        reward = -0.05 * self.distance(state) - 0.005 * action[:, 0] ** 2
        after = state + 0.1 * torch.stack([w1, w2, a1, a2], 1)
        return Transition(after, reward, torch.ones_like(reward))

    def distance(self, state: Tensor) -> Tensor:
        return (state - torch.tensor([math.pi, 0, 0, 0], dtype=state.dtype)).square().sum(1)

    def value(self, state: Tensor) -> Tensor:
        return -500 * self.distance(state)


@pytest.mark.parametrize("file", golden_files("planner_unit_cases*.json"))
def test_the_acrobot_of_trajax_is_below_its_bound(file: Path) -> None:
    case = json.loads(file.read_text()).get("acrobot_trajax")
    if case is None:
        pytest.skip(f"{file.name} has no acrobot")
    dynamics, rest = Acrobot(), torch.zeros(1, 4).double()
    model = Model(dynamics, None, dynamics, box(1, torch.inf))
    idle, _ = ILQR(horizon=50, samples=1, iterations=1)(
        model, rest, rng=generator(0), budget=Budget(gradients=0)
    )
    assert -idle.value.item() == pytest.approx(case["objective_at_zero_controls"], rel=1e-8)
    plan, _ = ILQR(horizon=50, iterations=25)(model, rest, rng=generator(0))
    assert -plan.value.item() < 51.0


# Derivatives and the local problem


class Bent:
    """Everything depends on everything: next state, reward, and the discount, too."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        push = action.sum(1, keepdim=True)
        after = state + 0.3 * torch.sin(state.flip(1) * push) + 0.1 * push**2
        reward = torch.cos(state).sum(1) - action.square().sum(1) * (1 + 0.1 * state[:, 0] ** 2)
        return Transition(after, reward, torch.sigmoid(2 + state[:, 1] * action[:, 0]))

    def value(self, state: Tensor) -> Tensor:
        return torch.sin(state).sum(1) + state.prod(1)


def bent(bound: float = torch.inf) -> tuple[Model, Tensor]:
    dynamics = Bent()
    state = torch.randn(3, 2, generator=generator(1)).double()
    return Model(dynamics, None, dynamics, box(2, bound)), state


def test_one_step_ahead_the_local_problem_is_the_exact_taylor_expansion() -> None:
    model, state = bent()
    action = torch.randn(3, 2, generator=generator(2)).double()
    world = World("test", model, state, rng=generator(0))

    def cost(u: Tensor, x: Tensor) -> Tensor:
        moved = model.dynamics.step(x[None], u[None], rng=generator(0))
        assert model.value is not None
        return -(moved.reward + moved.discount * model.value.value(moved.state))[0]

    seen: list[tuple[Tensor, ...]] = []

    def solve(t: int, *parts: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(parts)
        return torch.zeros_like(parts[1]), torch.zeros_like(parts[2])

    stage = expand(world, state, action, second_order=True)
    last = expand_value(world, stage.next, torch.ones(3, dtype=torch.bool))
    _, root = riccati(lambda t: stage, last, 1, solve)
    curve, slope, cross = seen[0]
    for b in range(3):
        u, x = action[b], state[b]
        torch.testing.assert_close(root.value[b], cost(u, x))
        gradients = torch.func.grad(cost, argnums=(0, 1))(u, x)
        torch.testing.assert_close((slope[b], root.slope[b]), gradients)
        (uu, ux), (_, xx) = torch.func.hessian(cost, argnums=(0, 1))(u, x)
        torch.testing.assert_close((curve[b], cross[b], root.curve[b]), (uu, ux, xx))


def test_ddp_converges_with_second_order_near_the_optimum() -> None:
    model, state = bent(bound=1.0)

    def reached(iterations: int, second_order: bool) -> Tensor:
        planner = ILQR(horizon=6, samples=6, iterations=iterations, second_order=second_order)
        return planner(model, state, rng=[generator(b) for b in range(3)])[0].value

    best = reached(8, True)
    climbed = GradMPC(horizon=6, samples=8, iterations=100, learning_rate=0.05)
    assert bool((best >= climbed(model, state, rng=generator(0))[0].value - 1e-9).all())
    # The digits that are right double with each iteration of DDP; of iLQR's each adds the same.
    assert bool((best - reached(2, True) < 1e-3).all() and (best - reached(3, True) < 1e-6).all())
    assert bool((best - reached(4, True) < 1e-12).all())
    assert bool((best - reached(4, False) > 1e-6).all())
    assert bool((best - reached(20, False) < 1e-10).all())


# Bounds


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_box_program_meets_the_conditions_of_an_optimum(size: int) -> None:
    root = torch.randn(200, size, size, generator=generator(0)).double()
    curve = root @ root.mT + 1e-3 * torch.eye(size)
    slope = 3 * torch.randn(200, size, generator=generator(1)).double()
    low = -torch.rand(200, size, generator=generator(2)).double()
    high = torch.rand(200, size, generator=generator(3)).double()
    low[::3], high[1::3], low[2::7] = 0.0, torch.inf, -torch.inf
    x, free = box_program(curve, slope, low, high)
    gradient = slope + (curve @ x.unsqueeze(2)).squeeze(2)
    assert bool(((low <= x) & (x <= high)).all())
    scale = 1 + slope.abs().amax(1, keepdim=True)
    assert bool((gradient.abs() <= 1e-6 * scale)[free].all())
    held = ~free
    assert bool((((x == low) & (gradient > 0)) | ((x == high) & (gradient < 0)))[held].all())
    alone = torch.cat(
        [box_program(*(p[b : b + 1] for p in (curve, slope, low, high)))[0] for b in range(200)]
    )
    torch.testing.assert_close(x, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_inside_bounds_the_plan_is_stationary_and_no_clipped_optimum(file: Path) -> None:
    for case in cases_in(file):
        if not case.convex:
            continue
        limit = 0.3 * case.actions.abs().amax((0, 1, 2))
        model = case.model._replace(action_space=Box(-limit, limit))
        horizon = case.actions.shape[2]
        plan, _ = ILQR(horizon=horizon, iterations=15)(model, case.start, rng=generator(0))
        actions = torch.stack([plan.action, *plan.then], 1)
        held = actions.abs() >= limit
        assert bool(held.any()), case.name
        actions.requires_grad_()
        world = World("test", model, case.start, rng=generator(0))
        total = _return_of(world, case.start, actions)
        (gradient,) = torch.autograd.grad(total, actions)
        scale = gradient.abs().max()
        assert bool((gradient[~held].abs() <= 1e-5 * scale).all()), case.name
        assert bool((gradient * actions.sign() >= 0)[held].all()), case.name


def _return_of(world: World, state: Tensor, actions: Tensor) -> Tensor:
    total = state.new_zeros(())
    for t in range(actions.shape[1]):
        moved = world.step(state, actions[:, t])
        total, state = total + moved.reward.sum(), moved.state
    return total + world.value(state).sum()


# Noise, ends, states of several parts, and numbers that fail


class Drifting(NamedTuple):
    """A state of two parts: where it is, and a number of steps that is not differentiated."""

    at: Tensor  # [R, 2]
    steps: Tensor  # [R] int64


class Windy:
    """A glider in gusts, over when it has gone far enough or after five steps."""

    def step(self, state: Drifting, action: Tensor, *, rng: Rng) -> Transition:
        gust = 0.3 * draws.normal(rng, len(state.at), 2).to(state.at)
        at = torch.tanh(state.at) + torch.cat([action, -action], 1) + gust
        reward = -at.square().sum(1) - 0.1 * action.square().sum(1)
        steps = state.steps + 1
        over = (steps >= 5) | (at[:, 0].detach() > 0.9)
        return Transition(Drifting(at, steps), reward, torch.where(over, 0.0, 0.9).double())


def windy() -> tuple[Model, Drifting]:
    at = torch.randn(3, 2, generator=generator(0)).double()
    return Model(Windy(), None, None, box(1, 1.0)), Drifting(at, torch.tensor([0, 2, 3]))


@pytest.mark.parametrize(
    "planner", [ILQR(horizon=4, samples=4, iterations=3), LQR(horizon=4), LQR()]
)
def test_noise_ends_and_composite_states_keep_the_contract(planner: Any) -> None:
    check_planner(planner, *windy())


def test_under_frozen_noise_more_iterations_are_never_worse() -> None:
    model, state = windy()
    values = [
        ILQR(horizon=6, samples=5, iterations=i)(model, state, rng=generator(3))[0].value
        for i in (1, 2, 4, 8)
    ]
    for few, many in pairwise(values):
        assert bool((many >= few).all())
    assert bool((values[-1] > values[0]).any())


def test_the_world_is_expanded_where_and_with_the_noise_that_the_path_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watched(world: World, state: Any, action: Tensor, **options: Any) -> Any:
        stage = expand(world, state, action, **options)
        seen.append((rows.vector(state), stage.next, options["alive"]))
        return stage

    monkeypatch.setattr("mbrl_core.planners.ilqr.expand", watched)
    model, state = windy()
    ILQR(horizon=5, samples=4, iterations=4)(model, state, rng=generator(0))
    assert len(seen) == 4
    for here, there, alive in seen:
        before, after = here.unflatten(0, (3, 5))[:, 1:], there.unflatten(0, (3, 5))[:, :-1]
        going = alive.unflatten(0, (3, 5))[:, 1:]
        assert bool(going.any())
        torch.testing.assert_close(after[going], before[going], rtol=1e-9, atol=1e-9)


class Cliff(Pendulum):
    """NaN where the velocity is too high."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        return moved._replace(reward=moved.reward + torch.where(state[:, 1] > 1.0, torch.nan, 0.0))


def test_a_root_that_fails_keeps_its_plan_and_leaves_the_others_alone() -> None:
    dynamics = Cliff()
    model = Model(dynamics, None, dynamics, box(1, 1.0))
    state = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]]).double()
    rng = [generator(b) for b in range(3)]
    with pytest.warns(RuntimeWarning, match=r"roots \[1\]"):
        plan, carry = ILQR(horizon=20, iterations=4)(model, state, rng=rng)
    assert plan.valid.tolist() == [True, False, True]
    assert bool(torch.isfinite(plan.action).all() and torch.isfinite(carry.mean).all())
    alone, _ = ILQR(horizon=20, iterations=4)(model, state[2:], rng=[generator(2)])
    torch.testing.assert_close(plan.action[2:], alone.action)
    for regulator in (LQR(horizon=5), LQR()):
        with pytest.warns(RuntimeWarning, match=r"roots \[1\]"):
            plan, _ = regulator(model, state, rng=rng)
        assert plan.valid.tolist() == [True, False, True]
        assert bool(torch.isfinite(plan.action).all())


def test_a_warm_start_saves_iterations() -> None:
    model, state = bent(bound=1.0)
    first, carry = ILQR(horizon=6, iterations=8)(model, state, rng=generator(0))
    after = model.dynamics.step(state, first.action, rng=generator(0)).state
    one_more = ILQR(horizon=6, iterations=1, samples=4)
    warm, _ = one_more(model, after, carry, rng=generator(0))
    cold, _ = one_more(model, after, rng=generator(0))
    assert bool((warm.value > cold.value).all())


def test_single_precision_gives_the_plan_of_double_precision() -> None:
    dynamics = Pendulum()
    plans = [
        ILQR(horizon=20, iterations=4, init_std=1e-3)(
            Model(dynamics, None, dynamics, box(1, 5.0)), state, rng=generator(0)
        )[0]
        for state in (torch.tensor([[2.5, 0.0]]), torch.tensor([[2.5, 0.0]]).double())
    ]
    assert plans[0].action.dtype == torch.float32
    torch.testing.assert_close(plans[0].action.double(), plans[1].action, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(plans[0].value.double(), plans[1].value, rtol=1e-5, atol=1e-5)


def test_a_state_of_several_parts_is_one_vector_and_back() -> None:
    state = (torch.arange(6.0).view(2, 3), [1, 2], {"n": torch.tensor([3, 4]), "x": torch.ones(2)})
    vector = rows.vector(state)
    assert vector.tolist() == [[0, 1, 2, 1], [3, 4, 5, 1]]
    back = rows.with_vector(state, 2 * vector)
    assert back[0].tolist() == [[0, 2, 4], [6, 8, 10]] and back[2]["x"].tolist() == [2, 2]
    assert back[1] == [1, 2] and back[2]["n"].tolist() == [3, 4]


def test_rows_of_equal_seed_draw_equal_numbers() -> None:
    rng = draws.Seeded(torch.tensor([5, 7, 5]), torch.device("cpu"))
    first, second = draws.normal(rng, 3, 2), draws.normal(rng, 3, 2)
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    assert torch.equal(second[0], second[2]) and not torch.equal(first, second)
    assert torch.equal(first[1], draws.normal(generator(7), 1, 2)[0])


# Refusals


class Opaque(Pendulum):
    """Returns nothing with a gradient."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        with torch.no_grad():
            return super().step(state, action, rng=rng)


@pytest.mark.parametrize("planner", [ILQR(horizon=2), LQR(horizon=2), LQR()])
def test_text_and_models_without_gradient_are_refused(planner: Any) -> None:
    name = type(planner).__name__
    with pytest.raises(ValueError, match=f"^{name} needs Model.action_space"):
        planner(text_garden(), ["start"], rng=generator(0))
    with pytest.raises(ValueError, match=f"^{name} needs continuous actions"):
        planner(tensor_garden(), tensor_rows(["start"]), rng=generator(0))
    words = glider()._replace(dynamics=Windy())
    with pytest.raises(ValueError, match="tensor in floating point"):
        expand(World("test", words, ["start"], rng=generator(0)), ["start"], torch.zeros(1, 1))
    with pytest.raises(ValueError, match=f"^{name} needs a model that can be differentiated"):
        planner(Model(Opaque(), None, None, box(1, 1.0)), torch.zeros(1, 2), rng=generator(0))
