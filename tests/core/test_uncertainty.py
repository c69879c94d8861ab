"""Particles and penalties: what a path is worth under uncertainty, whatever planner takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    ILQR,
    MCTS,
    MPPI,
    TDMPC,
    UCT,
    ActionRepeat,
    BeamSearch,
    Box,
    Budget,
    CVaR,
    DepthFirstSearch,
    Discrete,
    GradCEM,
    GradMPC,
    Gumbel,
    ListedActions,
    Mean,
    MeanStd,
    Model,
    ParticleFilter,
    Particles,
    Penalised,
    Plan,
    Planner,
    RandomShooting,
    RecedingHorizon,
    Risk,
    Rng,
    Rows,
    Transition,
    Worst,
    all_actions,
    draws,
    generator,
    penalised,
    rows,
)
from mbrl_core.chunks import Chunked
from mbrl_core.hybrid import Residual, ResidualNet
from mbrl_core.rollouts import simulate_actions
from mbrl_core.testing import check_model
from mbrl_core.world import World, step_rows
from tests.worlds import (
    TensorGarden,
    glider,
    gusty_glider,
    metered_garden,
    tensor_garden,
    tensor_rows,
    text_garden,
)

PATHS = ["start", "gate>left", "start>right"]
RISKS: list[Risk] = [Mean(), Worst(), CVaR(0.4), MeanStd(0.5)]
TREES: list[Planner] = [
    RandomShooting(samples=4, horizon=4),
    BeamSearch(width=2, expand=3, depth=3),
    DepthFirstSearch(expand=3, depth=3, max_nodes=10),
    ParticleFilter(particles=4, depth=3, temperature=0.5),
    MCTS(simulations=10, candidates=3),
    MCTS(simulations=10, candidates=3, selection=UCT()),
    MCTS(simulations=10, candidates=3, selection=Gumbel()),
    RecedingHorizon(planner=MCTS(simulations=5, candidates=2), steps=2),
]
SEQUENCES: list[Planner] = [
    RandomShooting(samples=4, horizon=3, actions="uniform"),
    CEM(horizon=3, samples=12, elites=4, iterations=2),
    MPPI(horizon=3, samples=12, iterations=2),
    GradMPC(horizon=3, samples=2, iterations=3),
    ICEM(horizon=3, samples=12, elites=4, iterations=2),
    TDMPC(horizon=3, samples=12, elites=4, policy_samples=3, iterations=2),
    GradCEM(horizon=3, samples=8, elites=3, iterations=2),
    ILQR(horizon=3, samples=4, iterations=3),
]


def name(x: object) -> str:
    return type(x).__name__


def glider_states(number: int = 3) -> Tensor:
    return torch.randn(number, 2, generator=generator(0)).double()


# Risk measures


@given(seed=st.integers(0, 99), number=st.integers(1, 9), share=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_the_worst_is_at_most_cvar_and_cvar_at_most_the_mean(
    seed: int, number: int, share: float
) -> None:
    x = torch.randn(5, number, generator=generator(seed), dtype=torch.float64)
    worst, cvar, mean = Worst()(x), CVaR(share)(x), Mean()(x)
    assert bool((worst <= cvar + 1e-12).all() and (cvar <= mean + 1e-12).all())
    torch.testing.assert_close(CVaR(1.0)(x), mean)
    torch.testing.assert_close(CVaR(1e-9)(x), worst)
    torch.testing.assert_close(MeanStd(0.0)(x), mean)


def test_cvar_weighs_the_return_at_the_edge_of_the_tail_by_its_part() -> None:
    x = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert CVaR(0.5)(x).item() == 1.5
    assert CVaR(0.625)(x).item() == pytest.approx((1 + 2 + 0.5 * 3) / 2.5)


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_a_risk_moves_with_its_argument_and_shows_what_is_broken(risk: Risk) -> None:
    x = torch.randn(6, 5, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(risk(3 * x + 2), 3 * risk(x) + 2)
    assert risk(x[:, :1]).equal(x[:, 0])
    x[2, 3] = torch.nan
    assert risk(x).isnan().tolist() == [r == 2 for r in range(6)]


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_a_risk_has_a_gradient_where_all_particles_agree(risk: Risk) -> None:
    for number in (1, 3, 4, 7):  # 0.1 is not always the mean of 0.1s
        x = torch.full((2, number), 0.1, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(risk(x).sum(), x)
        torch.testing.assert_close(gradient.sum(1), torch.ones(2).double())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"CVaR\.share must be in"):
        CVaR(share)


# The return of a path


def separately(model: Model, state: Rows, actions: Tensor, particles: int, seed: int = 5) -> Tensor:
    """The returns [B, N, P] of P simulations of each of N sequences, as rows of the bare model."""
    samples = actions.shape[1]
    start = rows.repeat(state, samples * particles)
    world = World("test", model, start, rng=generator(seed))
    copies = rows.repeat(actions.flatten(0, 1), particles).unsqueeze(1)
    returns = simulate_actions(world, start, copies).returns
    return returns.view(*actions.shape[:2], particles)


def together(
    model: Model, state: Rows, actions: Tensor, particles: int, risk: Risk, seed: int = 5
) -> tuple[Tensor, World]:
    cloud = Particles(model, particles, risk)
    start = cloud.root(state)
    world = World("test", cloud.model(), start, rng=generator(seed))
    return simulate_actions(world, start, actions).returns, world


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_a_path_is_worth_the_risk_measure_of_its_particles_returns(risk: Risk) -> None:
    gusts = torch.rand(3, 4, 5, 1, generator=generator(2)).double() - 0.5
    returns, _ = together(gusty_glider(), glider_states(), gusts, 6, risk)
    apart = separately(gusty_glider(), glider_states(), gusts, 6)
    assert bool((apart.std(2) > 0.01).all())
    torch.testing.assert_close(returns, risk(apart), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_particles_that_end_early_do_not_cut_the_others(risk: Risk) -> None:
    garden, roots = tensor_garden(0.25), tensor_rows(PATHS)
    moves = torch.randint(2, (3, 8, 5), generator=generator(3))
    returns, world = together(garden, roots, moves, 5, risk)
    torch.testing.assert_close(returns, risk(separately(garden, roots, moves, 5)))
    stepped = int(world.cost().steps.sum())
    assert stepped < 3 * 8 * 5 * 4  # some had ended before the garden does


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_where_nothing_is_random_all_risks_are_the_bare_return(risk: Risk) -> None:
    actions = torch.rand(3, 4, 5, 1, generator=generator(2)).double() - 0.5
    returns, _ = together(glider(), glider_states(), actions, 4, risk)
    bare = separately(glider(), glider_states(), actions, 1)[:, :, 0]
    torch.testing.assert_close(returns, bare, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("risk", RISKS, ids=name)
def test_the_gradient_of_a_risk_equals_finite_differences(risk: Risk) -> None:
    def worth(actions: Tensor) -> Tensor:
        return together(gusty_glider(), glider_states(), actions, 5, risk)[0]

    actions = torch.rand(3, 2, 4, 1, generator=generator(4)).double() - 0.5
    actions.requires_grad_()
    (gradient,) = torch.autograd.grad(worth(actions).sum(), actions)
    for index in [(0, 0, 0, 0), (1, 1, 2, 0), (2, 0, 3, 0)]:
        bump = torch.zeros_like(actions)
        bump[index] = 1e-6
        slope = (worth(actions + bump) - worth(actions - bump)).sum() / 2e-6
        torch.testing.assert_close(gradient[index], slope.detach(), rtol=1e-6, atol=1e-8)


def test_single_precision_agrees_with_double() -> None:
    garden, roots = tensor_garden(0.25), tensor_rows(PATHS)
    cloud = Particles(garden, 7, CVaR(0.3))
    start, moves = cloud.root(roots), torch.tensor([0, 1, 1])
    wide = start._replace(gain=start.gain.double(), weight=start.weight.double())
    for t in range(2):
        narrow = cloud.step(start, moves, rng=generator(t))
        exact = cloud.step(wide, moves, rng=generator(t))
        torch.testing.assert_close(narrow.reward.double(), exact.reward, rtol=1e-6, atol=1e-6)
        start, wide = narrow.state, exact.state


# Every planner


def same_plan(one: Plan, other: Plan, final: Callable[[Rows], Rows]) -> None:
    for what in ("action", "value", "valid"):
        mine, yours = getattr(one, what), getattr(other, what)
        assert torch.equal(mine, yours) if isinstance(mine, Tensor) else mine == yours
    end = final(other.final)
    assert torch.equal(one.final, end) if isinstance(end, Tensor) else one.final == end
    for count in ("calls", "steps", "proposals", "values", "gradients"):
        mine, yours = getattr(one.cost, count), getattr(other.cost, count)
        assert torch.equal(mine, yours) if isinstance(mine, Tensor) else mine == yours


@pytest.mark.parametrize("risk", RISKS, ids=name)
@pytest.mark.parametrize(
    ("planner", "model", "state"),
    [(planner, tensor_garden(0.25), tensor_rows(PATHS)) for planner in TREES]
    + [(planner, text_garden(0.25), PATHS) for planner in TREES]
    + [(planner, gusty_glider(), glider_states()) for planner in TREES + SEQUENCES],
)
def test_one_particle_is_the_bare_model_bit_for_bit(
    planner: Planner, model: Model, state: Rows, risk: Risk
) -> None:
    cloud = Particles(model, 1, risk)
    bare, _ = planner(model, state, rng=generator(6))
    alone, _ = planner(cloud.model(), cloud.root(state), rng=generator(6))
    same_plan(bare, alone, lambda final: rows.unpack(final.states))


class Gamble:
    """Move 0 pays 0.4 for sure; move 1 pays 1 or nothing; after `length` moves it ends."""

    def __init__(self, length: int) -> None:
        self.length = length

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        luck = draws.integers(rng, 2, len(state)).double()
        state = state + 1
        discount = torch.where(state[:, 0] >= self.length, 0.0, 0.9)
        return Transition(state, torch.where(action == 0, 0.4, luck), discount)


@pytest.mark.parametrize(
    "planner",
    [
        RandomShooting(samples=16, horizon=2, actions="uniform"),
        BeamSearch(width=4, expand=2, depth=2),
        MCTS(simulations=40, candidates=2, selection=UCT()),
        MCTS(simulations=40, candidates=2, selection=Gumbel()),
    ],
    ids=name,
)
def test_the_measure_decides_whether_a_gamble_is_taken(planner: Planner) -> None:
    space = Discrete(2)
    model = Model(Gamble(2), all_actions(space), None, space)
    state = torch.zeros(4, 1).double()
    values = {}
    for risk in (Mean(), CVaR(0.2), Worst()):
        cloud = Particles(model, 2000, risk)
        plan, _ = planner(cloud.model(), cloud.root(state), rng=generator(7))
        assert plan.action.tolist() == [int(risk == Mean())] * 4, risk
        values[name(risk)] = plan.value
    if not isinstance(planner, MCTS):  # whose values are averages over what it tried
        sure = torch.full((4,), 0.4 + 0.9 * 0.4).double()
        torch.testing.assert_close(values["Worst"], sure)
        torch.testing.assert_close(values["CVaR"], sure)
        assert bool(((values["Mean"] - 0.95).abs() < 0.1).all())


def test_gradient_steps_climb_the_worst_case() -> None:
    cloud = Particles(gusty_glider(), 8, CVaR(0.25))
    start = cloud.root(glider_states())
    planned, _ = GradMPC(horizon=4, samples=3, iterations=15)(
        cloud.model(), start, rng=generator(0)
    )
    shot, _ = RandomShooting(samples=3, horizon=4, actions="uniform")(
        cloud.model(), start, rng=generator(0)
    )
    assert bool((planned.value > shot.value).all())
    assert planned.cost.gradients.tolist() == [15 * 3 * 4 * 8] * 3


# The ledger


class Counting:
    """A garden that counts the rows it is asked for."""

    def __init__(self, model: Model) -> None:
        self.below, self.steps, self.values, self.ended = model, 0, 0, False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        self.steps += len(state)
        return self.below.dynamics.step(state, action, rng=rng)

    def value(self, state: Tensor) -> Tensor:
        assert self.below.value is not None
        self.values += len(state)
        return self.below.value.value(state)


@pytest.mark.parametrize("planner", [*TREES, SEQUENCES[0]], ids=name)
@pytest.mark.parametrize("budget", [None, Budget(steps=120)])
def test_the_ledger_counts_what_the_model_below_was_asked(
    planner: Planner, budget: Budget | None
) -> None:
    garden = tensor_garden(0.25)
    counting = Counting(garden)
    cloud = Particles(garden._replace(dynamics=counting, value=counting), 5)
    state = cloud.root(tensor_rows(PATHS))
    plan, _ = planner(cloud.model(), state, rng=generator(8), budget=budget)
    assert int(plan.cost.steps.sum()) == counting.steps > 0
    assert int(plan.cost.values.sum()) == counting.values
    if budget:
        assert int(plan.cost.steps.max()) <= 120


def test_a_budget_below_the_particles_of_one_step_is_refused() -> None:
    cloud = Particles(tensor_garden(), 20)
    state = cloud.root(tensor_rows(PATHS))
    with pytest.raises(ValueError, match="budget does not allow"):
        TREES[1](cloud.model(), state, rng=generator(0), budget=Budget(steps=19))
    with pytest.raises(ValueError, match="budget does not allow its own 2 model steps"):
        TREES[-1](cloud.model(), state, rng=generator(0), budget=Budget(steps=39))


def test_tokens_of_all_particles_are_counted() -> None:
    cloud = Particles(metered_garden(), 3)
    moved = cloud.step(cloud.root(PATHS), ["left", "stop", "right"], rng=generator(0))
    assert moved.tokens is not None
    assert moved.tokens.scored.tolist() == [12, 12, 15]
    assert isinstance(moved.state.states[0], tuple) and len(moved.state.states[0]) == 3
    again = cloud.step(moved.state, ["left", "left", "left"], rng=generator(0))
    assert again.tokens is not None
    assert again.tokens.scored.tolist() == [12, 0, 0]  # the other two have ended


def test_particles_of_particles_are_particles() -> None:
    inner = Particles(gusty_glider(), 3)
    outer = Particles(inner.model(), 4)
    start = outer.root(inner.root(glider_states()))
    actions = torch.zeros(3, 1, 2, 1).double()
    world = World("test", outer.model(), start, rng=generator(5))
    nested = simulate_actions(world, start, actions)
    assert world.cost().steps.tolist() == [24] * 3
    flat, _ = together(gusty_glider(), glider_states(), actions, 12, Mean())
    torch.testing.assert_close(nested.returns, flat)


def test_the_policy_is_asked_at_a_particle_that_has_not_ended() -> None:
    asked: list[Tensor] = []

    class Nosy(ListedActions):
        def propose(self, state: Any, num: int, *, rng: Rng) -> Any:
            asked.append(state)
            return super().propose(state, num, rng=rng)

    cloud = Particles(Model(Gamble(9), Nosy(torch.tensor([0, 1]))), 3)
    state = cloud.root(torch.tensor([[1.0], [2.0]]))
    states = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    weight = torch.tensor([[0.0, 1.5, 1.5], [3.0, 0.0, 0.0]])
    cloud.propose(state._replace(states=states, weight=weight), 2, rng=generator(0))
    assert asked[0].tolist() == [[2.0], [4.0]]


@pytest.mark.parametrize("number", [0, -1, 2.0, True])
def test_particles_are_a_whole_number_above_zero(number: Any) -> None:
    with pytest.raises(ValueError, match="particles must be a whole number"):
        Particles(tensor_garden(), number)


# Penalties


class Foggy:
    """States [R, 1] move by the action and pay 1 a step; what is far from 0 is not known."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        ones = torch.ones(len(state), dtype=state.dtype)
        return Transition(state + action, ones, ones)

    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        return (state + action).abs().sum(1)


@pytest.mark.parametrize("planner", [SEQUENCES[1], SEQUENCES[3]], ids=name)
@pytest.mark.parametrize("particles", [1, 3])
def test_the_sign_of_the_weight_shuns_or_seeks_what_is_not_known(
    planner: Planner, particles: int
) -> None:
    box = Box(torch.tensor([-1.0]), torch.tensor([1.0]))
    state = torch.tensor([[0.5], [-0.25]])
    for weight in (2.0, -2.0):
        cloud = Particles(penalised(Model(Foggy(), action_space=box), weight), particles)
        plan, _ = planner(cloud.model(), cloud.root(state), rng=generator(9))
        moved = (state + plan.action).abs()
        assert bool((moved < state.abs()).all() if weight > 0 else (moved > state.abs()).all())


class Growing(Foggy):
    """A wrapper whose step takes the more rows the further it is."""

    def step_rows(self, state: Tensor) -> Tensor:
        return 1 + state.abs().long().sum(1)


class Negative(Foggy):
    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        return -super().disagreement(state, action)


@pytest.mark.parametrize(
    ("dynamics", "law"),
    [
        (Growing(), r"Dynamics\.step_rows must be at least 1 and never grow"),
        (Negative(), r"Dynamics\.disagreement must return numbers of at least 0"),
    ],
    ids=["step_rows", "disagreement"],
)
def test_check_model_knows_the_optional_members(dynamics: Foggy, law: str) -> None:
    state = torch.tensor([[0.5], [2.0]])
    check_model(Model(Foggy()), state, action=torch.ones(2, 1))
    with pytest.raises(AssertionError, match=law):
        check_model(Model(dynamics), state, action=torch.ones(2, 1))


class Knowing(Foggy):
    """Has every optional member."""

    size = 0

    def step_rows(self, state: Tensor) -> Tensor:
        return torch.full((len(state),), 3)

    def dealt(self, size: int) -> Knowing:
        other = Knowing()
        other.size = size
        return other


@pytest.mark.parametrize(
    ("wrap", "times"),
    [
        (lambda inside: Chunked(inside, 2), 1),
        (lambda inside: ActionRepeat(inside, 2), 2),
        (lambda inside: Penalised(inside, 1.0), 1),
        (lambda inside: Residual(inside, ResidualNet(1, 1)), 1),
    ],
    ids=["chunked", "repeat", "penalised", "residual"],
)
def test_wrappers_pass_on_the_optional_members(wrap: Callable[..., Any], times: int) -> None:
    state, action = torch.tensor([[0.5], [2.0], [-4.0]]), torch.ones(3, 1)
    wrapped = wrap(Knowing())
    check_model(Model(wrapped), state, action=action)
    assert wrapped.step_rows(state).tolist() == [3 * times] * 3
    assert not wrapped.terminates
    assert wrapped.dealt(5).dynamics.size == 5 and type(wrapped.dealt(5)) is type(wrapped)
    assert wrapped.disagreement(state, action).tolist() == [1.5, 3.0, 3.0]
    priced = penalised(Model(wrapped), 2.0).dynamics.step(state, action, rng=generator(0))
    bare = wrapped.step(state, action, rng=generator(0))
    assert torch.equal(priced.reward, bare.reward - 2 * torch.tensor([1.5, 3.0, 3.0]))
    plain = wrap(TensorGarden())
    assert not hasattr(plain, "disagreement") and plain.terminates
    assert step_rows(Model(plain), state) == times


def test_a_penalty_is_taken_off_the_reward() -> None:
    state, action = torch.tensor([[0.5], [2.0]]), torch.tensor([[1.0], [-1.0]])
    moved = Penalised(Foggy(), 0.5).step(state, action, rng=generator(0))
    assert moved.reward.tolist() == [1 - 0.5 * 1.5, 1 - 0.5 * 1.0]
    assert not Penalised(Foggy(), 0.5).terminates
    with pytest.raises(ValueError, match="Glider has none"):
        penalised(glider(), 1.0)
