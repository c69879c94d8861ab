"""iCEM, the planner of TD-MPC, categorical CEM, CEM with gradients and the options of MPPI."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    MPPI,
    TDMPC,
    Box,
    Budget,
    CategoricalCEM,
    EliteStart,
    Event,
    GradCEM,
    GradMPC,
    Model,
    Proposal,
    Rng,
    Rows,
    draws,
    generator,
    reset,
)
from mbrl_core.planners.gradient import Ascent, Optimizer
from mbrl_core.planners.series import savitzky_golay, spline
from mbrl_core.planners.trajectory import Search, SequencePlanner
from mbrl_core.rollouts import simulate_actions, simulate_policy
from mbrl_core.world import World
from tests.worlds import Glider, glider, tensor_garden, tensor_rows

UNBOUNDED = Box(torch.tensor([-torch.inf]).double(), torch.tensor([torch.inf]).double())
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.2, 0.1]]).double()
PATHS = ["start", "gate>left", "start>right"]


def heard(
    planner: SequencePlanner, model: Model, state: Rows, carry: object = None, seed: int = 0
) -> list[dict[str, Tensor]]:
    """What each iteration of a plan tells its listener."""
    events: list[Event] = []
    planner(model, state, carry, rng=generator(seed), listen=events.append)  # type: ignore[arg-type]
    return [event.data for event in events]


def search(mean: Tensor, std: Tensor | float = 1.0) -> Search:
    std = torch.as_tensor(std).expand(mean.shape)
    return Search(mean, std, mean, torch.full(mean.shape[:1], -torch.inf), mean)


# iCEM


def test_icem_with_everything_off_is_cem() -> None:
    off = ICEM(
        horizon=3,
        samples=24,
        elites=6,
        iterations=4,
        beta=0.0,
        keep_elites=0.0,
        shrink=1.0,
        keep_mean="always",
    )
    cem = CEM(horizon=3, samples=24, elites=6, iterations=4)
    ours, carry = off(glider(), START, rng=generator(0))
    theirs, warm = cem(glider(), START, rng=generator(0))
    assert torch.equal(ours.trace.returns, theirs.trace.returns)
    assert torch.equal(ours.action, theirs.action) and torch.equal(carry.mean, warm.mean)
    assert carry.elites.shape == (3, 0, 3, 1)


def test_icem_evaluates_the_published_population() -> None:
    # max(N / gamma^i, 2 K) draws and a share of K elites on top.
    planner = ICEM(horizon=2, samples=40, elites=6, iterations=5, keep_elites=0.5, shrink=1.5)
    sizes = [data["returns"].shape[1] for data in heard(planner, glider(), START)]
    assert sizes == [40 + 3, 27 + 3, 18 + 3, 12 + 3, 12 + 3]


def test_icem_evaluates_its_elites_again() -> None:
    planner = ICEM(horizon=3, samples=20, elites=4, iterations=4, keep_elites=0.5)
    for before, after in zip(*[iter(heard(planner, glider(), START))] * 2, strict=True):
        best = before["returns"].topk(2).indices
        kept = before["actions"][torch.arange(3).unsqueeze(1), best]
        assert torch.equal(after["actions"][:, -2:], kept)


def test_icem_evaluates_its_mean_in_the_last_iteration() -> None:
    planner = ICEM(horizon=3, samples=20, elites=4, iterations=3, beta=0.0)
    first, second, third = heard(planner, glider(), START)
    present = [
        bool((now["actions"] - before["mean"].unsqueeze(1)).abs().sum((2, 3)).amin() == 0)
        for before, now in [(first, second), (second, third)]
    ]
    assert present == [False, True]


def test_icem_begins_with_the_elites_of_the_last_plan_moved_on() -> None:
    planner = ICEM(horizon=3, samples=20, elites=4, iterations=2, keep_elites=0.5)
    _, carry = planner(glider(), START, rng=generator(0))
    last = heard(planner, glider(), START)[-1]
    best = last["returns"].topk(2).indices
    kept = last["actions"][torch.arange(3).unsqueeze(1), best]
    assert isinstance(carry, EliteStart)
    assert torch.equal(carry.elites[:, :, :-1], kept[:, :, 1:])
    forgotten = reset(carry, torch.tensor([False, True, False]))
    first = heard(planner, glider(), START, forgotten, seed=1)[0]["actions"]
    assert torch.equal(first[[0, 2], -2:], carry.elites[[0, 2]])
    assert not torch.isclose(first[1, -2:], carry.elites[1]).any(-1).any(-1).any()


def test_icem_goes_on_from_a_plan_whose_budget_left_few_elites() -> None:
    planner = ICEM(horizon=3, samples=20, elites=6, iterations=2, keep_elites=0.5)
    limit = Budget(steps=2 * 3)
    _, carry = planner(glider(), START, rng=generator(0), budget=limit)
    assert carry.elites.shape[1] == 2
    first = heard(planner, glider(), START, carry, seed=1)[0]["actions"]
    assert torch.equal(first[:, -3:-1], carry.elites)


def test_coloured_noise_makes_smoother_candidates() -> None:
    def roughness(beta: float) -> float:
        planner = ICEM(horizon=16, samples=64, elites=4, iterations=1, beta=beta, init_std=0.2)
        return heard(planner, glider(), START)[0]["actions"].diff(dim=2).square().mean().item()

    white, pink, red = map(roughness, (0.0, 1.0, 3.0))
    assert red < 0.3 * white and red < pink < white


# TD-MPC


class Steering:
    """A policy with one action for each state."""

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        action = torch.tanh(-0.7 * state[:, :1] + 0.2 * state[:, 1:])
        return Proposal(action.repeat_interleave(num, 0), torch.zeros(len(state), num))


def published_plan(
    model: Model, z: Tensor, planner: TDMPC, mean: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of TD-MPC for one root z [2] and actions in [-1, 1], written with loops.

    Returns the action and the mean [H, 1].
    """
    H, N, P = planner.horizon, planner.samples, planner.policy_samples
    now, policy_actions = z.expand(P, -1), torch.zeros(H, P, 1).double()
    for t in range(H):
        policy_actions[t] = Steering().propose(now, 1, rng=rng).actions
        now = model.dynamics.step(now, policy_actions[t], rng=rng).state
    std = torch.full_like(mean, planner.init_std)
    for _ in range(planner.iterations):
        noise = torch.randn(1, N - P, H, 1, generator=rng).double()[0].transpose(0, 1)
        drawn = (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)
        actions = torch.cat([drawn, policy_actions], 1)
        value, weight, now = torch.zeros(N).double(), 1.0, z.expand(N, -1)
        for t in range(H):
            moved = model.dynamics.step(now, actions[t], rng=rng)
            value, weight, now = value + weight * moved.reward, weight * 0.95, moved.state
        value = value + weight * model.value.value(now)
        elite = value.topk(planner.elites).indices
        score = torch.exp((value[elite] - value.max()) / planner.temperature)
        score = score / score.sum()
        best = actions[:, elite]
        mean = (score.view(1, -1, 1) * best).sum(1)
        variance = (score.view(1, -1, 1) * (best - mean.unsqueeze(1)) ** 2).sum(1)
        std = variance.sqrt().clamp(planner.min_std, planner.init_std)
        threshold = torch.rand(1, generator=rng)
        chosen = int((score.cumsum(0) <= threshold).sum())
    return best[0, chosen], mean


def test_tdmpc_plans_as_published() -> None:
    box = Box(torch.tensor([-1.0]).double(), torch.tensor([1.0]).double())
    model = glider()._replace(policy=Steering(), action_space=box)
    planner = TDMPC(horizon=3, iterations=4, samples=64, elites=12, policy_samples=5)
    state, rngs, twins = START, *([generator(b) for b in range(3)] for _ in range(2))
    carry, means = None, [torch.zeros(3, 1).double()] * 3
    for _ in range(3):
        plan, carry = planner(model, state, carry, rng=rngs)
        with torch.no_grad():
            for b in range(3):
                action, mean = published_plan(model, state[b], planner, means[b], twins[b])
                torch.testing.assert_close(plan.action[b], action)
                means[b] = torch.cat([mean[1:], torch.zeros(1, 1)])
                torch.testing.assert_close(carry.mean[b], means[b])
            state = model.dynamics.step(state, plan.action, rng=generator(0)).state


def test_tdmpc_has_the_published_settings() -> None:
    planner = TDMPC(horizon=3)
    assert (planner.samples, planner.elites, planner.policy_samples) == (512, 64, 24)
    assert (planner.horizon, planner.iterations, 1 / planner.temperature) == (3, 6, 0.5)
    assert (planner.min_std, planner.init_std) == (0.05, 2.0)


def test_tdmpc_explores_around_the_elite_it_drew() -> None:
    quiet = TDMPC(horizon=2, samples=16, elites=4, iterations=2, policy_samples=0)
    model = glider()._replace(action_space=UNBOUNDED)
    plan, carry = quiet(model, START, rng=generator(0))
    loud, same = replace(quiet, explore=0.5)(model, START, rng=generator(0))
    assert torch.equal(carry.mean, same.mean) and torch.equal(plan.value, loud.value)
    assert not torch.isclose(plan.action, loud.action).any()


def test_tdmpc_draws_better_elites_more_often() -> None:
    # Four actions with returns 0, 1, 2 and 3: the elite's frequency is softmax(return / T).
    class Rungs(Glider):
        def step(self, state: Tensor, action: Tensor, *, rng: Rng):  # type: ignore[no-untyped-def]
            return super().step(state, action, rng=rng)._replace(reward=state[:, 0])

    planner = TDMPC(horizon=1, samples=4, elites=4, iterations=1, policy_samples=0, temperature=1.5)
    returns = torch.tensor([0.0, 1.0, 2.0, 3.0]).double().expand(20000, 4)
    zero = torch.zeros(20000, 1, 1).double()
    model = Model(Rungs(), None, None, glider().action_space)
    world = World("test", model, zero[:, 0], rng=generator(0))
    sequences = torch.arange(4.0).double().view(1, 4, 1, 1).expand(20000, 4, 1, 1)
    begun = Search(zero, zero + 1, zero, zero[:, 0, 0] - torch.inf, zero[:, 0])
    bounds = planner.bounds(world)
    noise = planner.noise(world, begun, 4, 0)
    learnt = planner.learn(bounds, begun, noise, sequences, returns, sequences.reshape(-1, 1))
    frequency = (learnt.best[:, 0] == torch.arange(4)).double().mean(0)
    torch.testing.assert_close(frequency, (returns[0] / 1.5).softmax(0), atol=0.01, rtol=0)
    assert torch.equal(learnt.best_return, learnt.best[:, 0, 0])
    assert torch.equal(learnt.best_final, learnt.best[:, 0])


def test_tdmpc_never_draws_an_elite_without_a_return() -> None:
    planner = TDMPC(horizon=1, samples=4, elites=3, iterations=1, policy_samples=0)
    returns = torch.tensor([[-torch.inf, 1.0, -torch.inf, -torch.inf]]).double().expand(500, 4)
    zero = torch.zeros(500, 1, 1).double()
    world = World("test", glider(), zero[:, 0], rng=generator(0))
    sequences = torch.arange(4.0).double().view(1, 4, 1, 1).expand(500, 4, 1, 1)
    begun = Search(zero, zero + 1, zero, zero[:, 0, 0] - torch.inf, zero[:, 0])
    noise = planner.noise(world, begun, 4, 0)
    learnt = planner.remember(begun, noise, sequences, returns, sequences.reshape(-1, 1))
    assert (learnt.best_return == 1).all() and (learnt.best == 1).all()


# Policies as a source of candidates


@pytest.mark.parametrize(
    "planner",
    [
        TDMPC(horizon=3, samples=16, elites=4, iterations=2, policy_samples=3),
        GradMPC(horizon=3, samples=5, iterations=2, policy_samples=3),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_rollouts_of_the_policy_are_among_the_candidates(planner: SequencePlanner) -> None:
    model = glider()._replace(policy=Steering())
    now, expected = START, []
    with torch.no_grad():
        for _ in range(3):
            action = Steering().propose(now, 1, rng=generator(0)).actions.clamp(-1, 0.5)
            now = model.dynamics.step(now, action, rng=generator(0)).state
            expected.append(action)
    first = heard(planner, model, START)[0]["actions"]
    drafted = torch.stack(expected, 1).unsqueeze(1).expand(3, 3, 3, 1)
    torch.testing.assert_close(first[:, -3:], drafted)
    with pytest.raises(ValueError, match=r"needs Model\.policy"):
        planner(model._replace(policy=None), START, rng=generator(0))


def test_starts_of_grad_mpc_at_the_policy_are_spread_but_for_the_first() -> None:
    planner = GradMPC(horizon=3, samples=4, iterations=1, policy_samples=4, policy_std=0.1)
    model = glider()._replace(policy=Steering(), action_space=UNBOUNDED)
    spread = heard(planner, model, START)[0]["actions"]
    alike = heard(replace(planner, policy_std=0.0), model, START)[0]["actions"]
    assert torch.equal(spread[:, 0], alike[:, 0])
    assert not torch.isclose(spread[:, 1:], alike[:, 1:]).any()


def test_a_policy_that_ends_every_episode_still_gives_whole_sequences() -> None:
    class Doomed(Glider):
        terminates = True

        def step(self, state: Tensor, action: Tensor, *, rng: Rng):  # type: ignore[no-untyped-def]
            moved = super().step(state, action, rng=rng)
            return moved._replace(discount=torch.zeros_like(moved.reward))

    model = glider()._replace(dynamics=Doomed(), policy=Steering())
    planner = TDMPC(horizon=3, samples=16, elites=4, iterations=2, policy_samples=3)
    plan, _ = planner(model, START, rng=generator(0))
    assert plan.valid.all() and len(plan.then) == 2


def test_what_has_ended_repeats_its_last_action() -> None:
    class Short(Glider):
        """Rows whose first number is above 0 end at once."""

        terminates = True

        def step(self, state: Tensor, action: Tensor, *, rng: Rng):  # type: ignore[no-untyped-def]
            moved = super().step(state, action, rng=rng)
            return moved._replace(discount=torch.where(state[:, 0] > 0, 0.0, moved.discount))

    for root in ([1.0, -0.5], [-9.0, 0.3]):
        state = torch.tensor([root, [-9.0, 0.3]]).double()
        world = World("test", glider()._replace(dynamics=Short()), state, rng=generator(0))
        future = simulate_policy(world, state, 3, 2)
        actions = torch.stack(future.actions, 1).view(2, 2, 3)
        assert torch.equal(
            actions[0, :, 1:] == actions[0, :, :1], future.ended[0, :, None].expand(2, 2)
        )
        assert not future.ended[1].any() and (actions[1].diff(dim=1) != 0).all()


# Categorical CEM


def best_sequences(model: Model, state: Tensor, horizon: int) -> Tensor:
    """The highest return [B] of all n^H sequences."""
    moves = torch.tensor(list(product(range(3), repeat=horizon)))
    world = World("test", model, state, rng=generator(0))
    everything = moves.expand(len(state), *moves.shape)
    return simulate_actions(world, state, everything).returns.amax(1)


def test_categorical_cem_finds_the_best_of_all_sequences() -> None:
    model, state = tensor_garden(), tensor_rows(PATHS)
    planner = CategoricalCEM(horizon=4, samples=60, elites=6, iterations=5)
    plan, _ = planner(model, state, rng=generator(0))
    assert torch.equal(plan.value, best_sequences(model, state, 4))


def test_categorical_cem_refits_to_the_frequencies_of_its_elites() -> None:
    actions = torch.tensor([[[0, 2], [0, 1], [1, 1], [2, 2]]])
    sequences = torch.nn.functional.one_hot(actions, 3).float()
    planner = CategoricalCEM(horizon=2, samples=4, elites=2, momentum=0.25, floor=0.1)
    before = torch.full((1, 2, 3), 1 / 3)
    p, _ = planner.refit(search(before), sequences, torch.tensor([[3.0, 4.0, 1.0, 2.0]]))
    frequency = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]])
    expected = 0.9 * (0.75 * frequency + 0.25 / 3) + 0.1 / 3
    torch.testing.assert_close(p, expected)
    torch.testing.assert_close(p.sum(-1), torch.ones(1, 2))


def test_categorical_candidates_follow_their_distribution() -> None:
    model, state = tensor_garden(), tensor_rows(["start"])
    planner = CategoricalCEM(horizon=2, samples=40001, elites=10)
    world = World("test", model, state, rng=generator(0))
    p = torch.tensor([[[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]]])
    noise = planner.noise(world, search(p), 40001, 0)
    drawn = planner.sample(planner.bounds(world), search(p), noise)
    assert torch.equal(drawn[0, 0].argmax(-1), p[0].argmax(-1))  # the first is the mode
    torch.testing.assert_close(drawn[:, 1:].mean(1), p, atol=0.01, rtol=0)
    assert drawn[0, :, 1, 0].sum() == 0


def test_the_categorical_warm_start_moves_on_and_towards_uniform() -> None:
    model, state = tensor_garden(), tensor_rows(PATHS)
    planner = CategoricalCEM(horizon=3, samples=12, elites=3, iterations=2, renew=0.25)
    _, carry = planner(model, state, rng=generator(0))
    last = heard(planner, model, state)[-1]["mean"]
    torch.testing.assert_close(carry.mean[:, :-1], last[:, 1:])
    torch.testing.assert_close(carry.mean[:, -1], torch.full((3, 3), 1 / 3))
    world = World("test", model, state, rng=generator(0))
    forgetful = reset(carry, torch.tensor([True, False, False]))
    begun = planner.begin(world, planner.bounds(world), state, forgetful).mean
    torch.testing.assert_close(begun[1:], 0.75 * carry.mean[1:] + 0.25 / 3)
    torch.testing.assert_close(begun[0], torch.full((3, 3), 1 / 3))


def test_categorical_cem_refuses_continuous_actions() -> None:
    with pytest.raises(ValueError, match="CategoricalCEM needs discrete actions"):
        CategoricalCEM(horizon=2)(glider(), START, rng=generator(0))


# MPPI


def test_the_control_cost_charges_deviations_along_the_mean() -> None:
    mean = torch.tensor([[[0.4], [-0.2]]])
    std = torch.tensor([[[0.5], [0.25]]])
    sequences = mean.unsqueeze(1) + torch.randn(1, 6, 2, 1, generator=generator(0))
    returns = torch.randn(1, 6, generator=generator(1))
    planner = MPPI(horizon=2, temperature=0.7, normalize=False, control_cost=0.3)
    got, _ = planner.refit(search(mean, std), sequences, returns)
    charge = torch.zeros(6)
    for n in range(6):
        for t in range(2):
            deviation = sequences[0, n, t, 0] - mean[0, t, 0]
            charge[n] += 0.3 * mean[0, t, 0] * deviation / std[0, t, 0] ** 2
    weights = ((returns[0] - charge) / 0.7).softmax(0)
    torch.testing.assert_close(got[0], (weights.view(-1, 1, 1) * sequences[0]).sum(0))


def test_mppi_smooths_its_mean_and_stays_inside_the_bounds() -> None:
    sequences = torch.randn(2, 12, 7, 1, generator=generator(0))
    returns = torch.randn(2, 12, generator=generator(1))
    rough, _ = MPPI(horizon=7).refit(search(torch.zeros(2, 7, 1)), sequences, returns)
    smooth, _ = MPPI(horizon=7, smooth=5).refit(search(torch.zeros(2, 7, 1)), sequences, returns)
    torch.testing.assert_close(smooth, savitzky_golay(5, 7).float() @ rough)
    wild = MPPI(horizon=7, smooth=5, init_std=9.0, temperature=0.01, iterations=3, samples=16)
    for data in heard(wild, glider(), START):
        assert data["mean"].min() >= -1 and data["mean"].max() <= 0.5


# Knots


@pytest.mark.parametrize("kind", ["zero", "linear"])
def test_candidates_lie_on_the_splines_of_their_knots(kind: str) -> None:
    planner = CEM(
        horizon=9, samples=12, elites=4, iterations=2, knots=3, interpolation=kind, beta=1.0
    )
    there = spline(kind, 3, 9)  # type: ignore[arg-type]
    for data in heard(planner, glider(), START):
        projected = there @ (torch.linalg.pinv(there) @ data["actions"])
        torch.testing.assert_close(projected, data["actions"])
        assert data["mean"].shape == (3, 3, 1)


def test_as_many_knots_as_steps_are_no_knots() -> None:
    plain = CEM(horizon=4, samples=16, elites=4, iterations=3)
    ours, _ = replace(plain, knots=4, interpolation="linear")(glider(), START, rng=generator(0))
    theirs, _ = plain(glider(), START, rng=generator(0))
    torch.testing.assert_close(ours.action, theirs.action)


# Gradients


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, maximize=True)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, maximize=True)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.1, maximize=True)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, maximize=True)),
    ],
)
def test_each_optimiser_is_torchs(kind: Optimizer, theirs: object) -> None:
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = theirs([x])  # type: ignore[operator]
    ours, ascent = torch.zeros(4).double(), Ascent(kind, 0.1, 1.0, 6, x.detach())
    for _ in range(6):
        x.grad = torch.cos(x.detach()) * torch.tensor([1.0, -2.0, 0.1, 30.0])
        ours = ours + ascent.step(torch.cos(ours) * torch.tensor([1.0, -2.0, 0.1, 30.0]))
        optimizer.step()
        torch.testing.assert_close(ours, x.detach())


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    one = torch.ones(1)
    ascent = Ascent("sgd", 0.4, 0.25, 5, one)
    rates = [ascent.step(one).item() for _ in range(5)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([one], lr=0.4), T_max=4, eta_min=0.1
    )
    expected = []
    for _ in range(5):
        expected += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_cem_with_a_vanishing_learning_rate_is_cem() -> None:
    settings = {"horizon": 3, "samples": 12, "elites": 4, "iterations": 1}
    plain, _ = CEM(**settings)(glider(), START, rng=generator(0))
    climbing = GradCEM(**settings, learning_rate=1e-12, gradient_steps=2)
    plan, _ = climbing(glider(), START, rng=generator(0))
    torch.testing.assert_close(plan.action, plain.action)
    assert plan.cost.steps.tolist() == (3 * plain.cost.steps).tolist()
    assert plan.cost.gradients.tolist() == [2 * 12 * 3] * 3


def test_a_gradient_step_raises_every_candidate_of_cem() -> None:
    settings = {"horizon": 3, "samples": 12, "elites": 4, "iterations": 1, "init_std": 0.1}
    plain = heard(CEM(**settings), glider(), START)[0]["returns"]
    climbing = GradCEM(**settings, learning_rate=0.01, optimizer="sgd", gradient_steps=3)
    climbed = heard(climbing, glider(), START)[0]["returns"]
    assert bool((climbed > plain).all())


def test_cem_with_gradients_sees_one_noise_per_iteration() -> None:
    seen: list[Tensor] = []

    class Windy(Glider):
        def step(self, state: Tensor, action: Tensor, *, rng: Rng):  # type: ignore[no-untyped-def]
            wind = draws.normal(rng, *state.shape).double()
            seen.append(wind)
            moved = super().step(state, action, rng=rng)
            return moved._replace(state=moved.state + 0.1 * wind)

    model = glider()._replace(dynamics=Windy())
    planner = GradCEM(horizon=2, samples=4, elites=2, iterations=2, gradient_steps=1)
    planner(model, START, rng=generator(0))
    first, second = torch.stack(seen).unflatten(0, (2, 2, 2))
    assert torch.equal(first[0], first[1]) and torch.equal(second[0], second[1])
    assert not torch.isclose(first[0], second[0]).any()
