"""Planners against linear-quadratic control, where the optimum is known.

Convention: x+ = A x + B u, cost sum x'Qx + u'Ru over H steps plus the terminal x'Qx. So the model's
reward is minus the cost of a step, its value -x'Qx, and the best return minus the golden cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    LQR,
    MPPI,
    Box,
    GradMPC,
    Model,
    Rng,
    Transition,
    WarmStart,
    dare,
    generator,
)
from mbrl_core.planners.trajectory import TrajectoryPlanner
from mbrl_core.rollouts import simulate_actions
from mbrl_core.world import World
from tests.golden import golden_files
from tests.worlds import Quadratic


class Case(NamedTuple):
    """One regulator problem and its solution."""

    name: str
    model: Model
    start: Tensor  # [1, S]
    actions: Tensor  # [1, 1, H, A] the optimal ones
    cost: float
    convex: bool


def cases_in(file: Path) -> list[Case]:
    return [case_of(record) for record in json.loads(file.read_text())["discrete"]]


def case_of(record: dict[str, Any]) -> Case:
    A, B, Q, R, start = (
        torch.tensor(record[key], dtype=torch.float64) for key in ("A", "B", "Q", "R", "x0")
    )
    quadratic, unbounded = Quadratic(A, B, Q, R), torch.full((B.shape[1],), torch.inf)
    solution = record["finite_horizon"]
    return Case(
        name=record["name"],
        model=Model(quadratic, None, quadratic, Box(-unbounded, unbounded)),
        start=start.unsqueeze(0),
        actions=torch.tensor(solution["actions"], dtype=torch.float64)[None, None],
        cost=solution["cost"],
        convex=bool(torch.linalg.eigvalsh(Q).min() >= 0),
    )


def returns(case: Case, actions: Tensor) -> Tensor:
    """Returns [1, N] of `actions` [1, N, H, A]."""
    world = World("test", case.model, case.start, rng=generator(0))
    return simulate_actions(world, case.start, actions).returns


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_the_golden_actions_have_the_golden_cost(file: Path) -> None:
    for case in cases_in(file):
        assert returns(case, case.actions).item() == pytest.approx(-case.cost, rel=1e-9), case.name


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_the_gradient_is_zero_at_the_golden_actions(file: Path) -> None:
    # Stationary is all that one case is: where Q is indefinite the Riccati recursion still finds a
    # point without gradient, but no minimum of the cost, so no planner is asked to approach it.
    for case in cases_in(file):
        actions = case.actions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(returns(case, actions).sum(), actions)
        nearby = (case.actions + 0.01).requires_grad_()
        (away,) = torch.autograd.grad(returns(case, nearby).sum(), nearby)
        assert gradient.norm() <= 1e-8 * max(1.0, away.norm().item() / 0.01), case.name


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_where_the_cost_is_convex_no_other_actions_are_better(file: Path) -> None:
    for case in cases_in(file):
        if case.convex:
            shape = (1, 200, *case.actions.shape[2:])
            nearby = case.actions + 0.1 * torch.randn(*shape, generator=generator(0)).double()
            assert returns(case, nearby).max().item() <= -case.cost + 1e-9, case.name


# The Riccati equation and the regulator


class Limit(NamedTuple):
    """The matrices of a problem and its solution over an infinite horizon."""

    matrices: tuple[Tensor, Tensor, Tensor, Tensor]
    P: Tensor
    K: Tensor
    radii: Tensor  # ascending
    cost: float


def limit_of(record: dict[str, Any]) -> Limit:
    def matrix(name: str, source: dict[str, Any] = record) -> Tensor:
        return torch.tensor(source[name], dtype=torch.float64)

    solution = record["infinite_horizon"]
    return Limit(
        (matrix("A"), matrix("B"), matrix("Q"), matrix("R")),
        matrix("P", solution),
        matrix("K", solution),
        matrix("abs_closed_loop_eigs", solution).sort().values,
        solution["cost_x0"],
    )


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_the_riccati_equation_has_the_golden_solution(file: Path) -> None:
    for record in json.loads(file.read_text())["discrete"]:
        (A, B, Q, R), P, K, radii, _ = limit_of(record)
        found = dare(A, B, Q, R)
        torch.testing.assert_close(found, P, rtol=1e-9, atol=1e-11)
        gain = torch.linalg.solve(R + B.mT @ found @ B, B.mT @ found @ A)
        torch.testing.assert_close(gain, K, rtol=1e-9, atol=1e-11)
        closed = torch.linalg.eigvals(A - B @ gain).abs().sort().values
        torch.testing.assert_close(closed, radii, rtol=1e-6, atol=1e-7)  # double roots


def test_a_batch_of_riccati_equations_is_each_alone() -> None:
    A = (
        torch.randn(5, 4, 4, generator=generator(0)).double()
        * torch.linspace(0.1, 1, 5)[:, None, None]
    )
    B, Q = torch.randn(4, 2, generator=generator(1)).double(), torch.eye(4).double()
    R = torch.eye(2).double()
    P = dare(A, B, Q, R)
    alone = torch.stack([dare(a, B, Q, R) for a in A])
    torch.testing.assert_close(P, alone, rtol=1e-12, atol=1e-12)
    gain = torch.linalg.solve(R + B.mT @ P @ B, B.mT @ P @ A)
    torch.testing.assert_close(Q + A.mT @ P @ (A - B @ gain), P, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(P, P.mT)


def test_where_no_action_reaches_what_grows_there_is_no_solution() -> None:
    A = torch.tensor([[[0.5, 0.0], [0.0, 0.9]], [[0.5, 0.0], [0.0, 1.1]]]).double()
    B, eye = torch.tensor([[1.0], [0.0]]).double(), torch.eye(2).double()
    assert dare(A, B, eye, eye[:1, :1]).isnan().flatten(1).any(1).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"dare needs A and Q \[S, S\]"):
        dare(A, B.mT, eye, eye)


@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_the_regulator_takes_the_golden_actions(file: Path) -> None:
    for record in json.loads(file.read_text())["discrete"]:
        case, limit = case_of(record), limit_of(record)
        plan, _ = LQR()(case.model, case.start, rng=generator(0))
        torch.testing.assert_close(plan.action, -case.start @ limit.K.mT, rtol=1e-9, atol=1e-9)
        assert -plan.value.item() == pytest.approx(limit.cost, rel=1e-9), case.name
        if case.convex:
            plan, _ = LQR(horizon=case.actions.shape[2])(case.model, case.start, rng=generator(0))
            assert -plan.value.item() == pytest.approx(case.cost, rel=1e-9), case.name
            taken = torch.stack([plan.action, *plan.then], 1)
            torch.testing.assert_close(taken, case.actions[0], rtol=1e-6, atol=1e-8)


class Tracking:
    """Two carts on a line are pushed, against a wind, to two goals that are part of the state, and
    effort costs: an affine problem with linear, mixed and constant terms."""

    terminates = False

    def __init__(self, discount: float, wind: float = 0.0) -> None:
        self.discount, self.wind = discount, wind

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        at, goal = state.split(2, 1)
        miss = at - goal
        reward = -miss.square().sum(1) - 0.5 * (action + 0.2 * miss).square().sum(1)
        after = torch.cat([at + 0.5 * action + self.wind, goal], 1)
        return Transition(after, reward - self.wind, torch.full_like(reward, self.discount))

    def model(self) -> Model:
        unbounded = torch.full((2,), torch.inf).double()
        return Model(self, None, None, Box(-unbounded, unbounded))


STATES = 3 * torch.randn(4, 4, generator=generator(3)).double()


@pytest.mark.parametrize(("discount", "wind"), [(0.9, 0.3), (0.99, -0.5), (1.0, 0.0)])
def test_for_ever_is_the_limit_of_long_horizons(discount: float, wind: float) -> None:
    model = Tracking(discount, wind).model()
    plan, _ = LQR()(model, STATES, rng=generator(0))
    long, _ = LQR(horizon=60 if discount == 1 else 1500)(model, STATES, rng=generator(0))
    torch.testing.assert_close(plan.action, long.action, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(plan.value, long.value, rtol=1e-6, atol=1e-6)


def test_what_a_steady_state_costs_for_ever_is_left_out() -> None:
    model = Tracking(1.0, 0.3).model()
    plan, _ = LQR()(model, STATES, rng=generator(0))
    some, more = (LQR(horizon=h)(model, STATES, rng=generator(0))[0] for h in (60, 61))
    steady = more.value - some.value
    torch.testing.assert_close(steady, steady[:1].expand(4))
    assert steady[0].item() < -0.3
    torch.testing.assert_close(plan.action, some.action, rtol=1e-7, atol=1e-7)
    # Over 60 steps the last ones need not hold against the wind: that is the same for all.
    rest = some.value - 60 * steady - plan.value
    torch.testing.assert_close(rest, rest[:1].expand(4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("effort", "horizon"), [(-4.0, None), (0.0, None), (0.0, 5)])
def test_a_cost_that_has_no_curvature_in_the_actions_is_given_some(
    effort: float, horizon: int | None
) -> None:
    one, unbounded = torch.ones(1, 1).double(), torch.full((1,), torch.inf).double()
    quadratic = Quadratic(one, one, one, effort * one)
    model = Model(quadratic, None, quadratic, Box(-unbounded, unbounded))
    plan, _ = LQR(horizon=horizon)(model, 2 * one, rng=generator(0))
    assert bool(plan.valid) and plan.action.item() == pytest.approx(-2.0, abs=1e-4)


def refine(case: Case, planners: Sequence[TrajectoryPlanner]) -> float:
    """Cost of the plan when each planner begins where the one before it ended."""
    carry, rng = None, generator(0)
    horizon = case.actions.shape[2]
    for planner in planners:
        plan, warm = replace(planner, horizon=horizon)(case.model, case.start, carry, rng=rng)
        same_step = torch.cat([plan.action.unsqueeze(1), warm.mean[:, :-1]], 1)
        carry = WarmStart(same_step, torch.tensor([False]))
    return -plan.value.item()


def falling(first: float, last: float, number: int) -> list[float]:
    """A geometric sequence."""
    return [first * (last / first) ** (i / (number - 1)) for i in range(number)]


# The Hessians of the two unstable cases have condition numbers far above 1e4, which is hard on
# planners that see one coordinate at a time: a search that narrows once stops early, so each is
# restarted with a spread (or a step) that falls. One setting serves all cases.
#
# Two bounds: the excess over the optimal cost, and the same as a share of what doing nothing costs
# more than the optimum.
REFINEMENTS: dict[str, tuple[list[TrajectoryPlanner], float, float]] = {
    "cem": (
        [
            CEM(
                horizon=1,
                samples=500,
                elites=25,
                momentum=0.3,
                iterations=15,
                init_std=s,
                min_std=0,
            )
            for s in falling(1.0, 0.005, 18)
        ],
        0.05,
        0.004,
    ),
    "mppi": (
        [
            MPPI(horizon=1, samples=500, temperature=0.2, iterations=10, init_std=s, output="best")
            for s in falling(0.5, 0.001, 18)
        ],
        0.1,
        0.006,
    ),
    # One climb: momentum remembers the valley's floor, and the falling rate ends its swinging. With
    # Adam at four constant rates two cases stay 15 and 42 % above the optimum.
    "grad_mpc": (
        [
            GradMPC(
                horizon=1,
                samples=1,
                iterations=200,
                optimizer="momentum",
                learning_rate=0.05,
                last_rate=0.0,
            )
        ],
        0.03,
        0.002,
    ),
}

WELL_CONDITIONED = {"scalar_golden_ratio": 1e-5, "pytorch_mppi_test_env": 2e-3}


@pytest.mark.parametrize("name", REFINEMENTS)
@pytest.mark.parametrize("file", golden_files("lqr_cases*.json"))
def test_planners_approach_the_optimum_from_above(file: Path, name: str) -> None:
    planners, of_optimum, of_nothing = REFINEMENTS[name]
    for case in cases_in(file):
        if not case.convex:
            continue
        cost = refine(case, planners)
        excess = cost - case.cost
        still = -returns(case, torch.zeros_like(case.actions)).item()
        said = f"{name} on {case.name}: {cost}, optimum {case.cost}, doing nothing {still}"
        assert excess >= -1e-9, said
        assert excess <= WELL_CONDITIONED.get(case.name, of_optimum) * case.cost, said
        assert excess <= of_nothing * (still - case.cost), said
