"""Laws of the probabilistic ensemble."""

from __future__ import annotations

import pytest
import torch

from control.ensemble import (
    Ensemble,
    EnsembleState,
    balanced_members,
    empty_split,
    extend_split,
    fit,
)
from control.ensemble import loss as ensemble_loss
from control.finite import NotFiniteError
from mbrl_core import CEM, CVaR, GradMPC, Particles, draws, penalised, repeat_actions
from mbrl_core.testing import check_model, check_planner
from mbrl_core.types import Box, Discrete, Model

D, A, E = 3, 2, 4
SPACE = Box(-torch.ones(A), torch.ones(A))


def fitted(seed: int = 0, **settings: object) -> Ensemble:
    """An ensemble with random weights and normalisers of a random system."""
    rng = draws.generator(seed)
    settings = {"members": E, "hidden": (16, 16), "rng": rng} | settings
    model = Ensemble(D, settings.pop("space", SPACE), **settings)
    width = model.inputs.mean.numel()
    model.inputs.fit(1.0 + 2.0 * torch.randn(200, width, generator=rng))
    model.targets.fit(0.3 * torch.randn(200, model.target_dim, generator=rng))
    return model.requires_grad_(False)


def batch(rows: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = draws.generator(seed)
    return torch.randn(rows, D, generator=rng), 2 * torch.rand(rows, A, generator=rng) - 1


def members_over_steps(model: Ensemble, rows: int, steps: int) -> list[torch.Tensor]:
    obs, action = batch(rows)
    state, rng, seen = model.root(obs), draws.generator(0), []
    for _ in range(steps):
        state = model.step(state, action, rng=rng).state
        seen.append(state.member)
    return seen


def test_ts_inf_holds_the_member_and_ts_1_draws_it_anew():
    held = members_over_steps(fitted(propagation="ts_inf"), 40, 5)
    assert all(torch.equal(member, held[0]) for member in held)
    assert held[0].bincount().tolist() == [10] * E
    redrawn = members_over_steps(fitted(propagation="ts_1"), 40, 5)
    assert all(not torch.equal(member, redrawn[0]) for member in redrawn[1:])
    assert all(member.bincount().tolist() == [10] * E for member in redrawn)


@pytest.mark.parametrize("rows", [1, 7, 20])
@pytest.mark.parametrize("aleatoric", [False, True])
def test_grouped_rows_equal_the_plain_loop_over_members(rows, aleatoric):
    model = fitted(aleatoric=aleatoric)
    obs, action = batch(rows)
    member = torch.randint(E, (rows,), generator=draws.generator(2))  # not balanced
    moved = model.step(EnsembleState(obs, member), action, rng=draws.generator(3))
    noise = draws.normal(draws.generator(3), rows, D)
    for r in range(rows):
        x = model.features(obs[r], action[r])
        mean, log_var = (out[member[r], 0] for out in model(x.expand(E, 1, -1)))
        if aleatoric:
            mean = mean.clone()
            mean[:D] += (0.5 * log_var[:D]).exp() * noise[r]
        change = mean * model.targets.std + model.targets.mean
        torch.testing.assert_close(moved.state.obs[r], obs[r] + change[:D], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moved.reward[r], change[D], rtol=1e-4, atol=1e-5)
    assert torch.equal(moved.state.member, member)


def test_runs_of_rows_follow_all_members():
    member = balanced_members(12, E, draws.generator(0))
    assert all(sorted(run.tolist()) == list(range(E)) for run in member.split(E))
    rngs = [draws.generator(s) for s in range(3)]
    member = balanced_members(18, E, rngs).view(3, 6)  # no multiple of E: runs cut short
    assert all(len(set(root[:E].tolist())) == E for root in member)
    first = torch.stack([balanced_members(1, E, draws.generator(s)) for s in range(400)])
    assert first.flatten().bincount(minlength=E).min() > 60  # each has 1 in 4


@pytest.mark.parametrize("particles", [1, 2, 3, 4, 5, 6, 7, 8, 20])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts_1"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_members_are_dealt_evenly_to_the_particles_of_every_row(propagation, particles, repeats):
    ensemble = fitted(propagation=propagation)
    model = penalised(Model(ensemble, action_space=SPACE), 1.0)
    cloud = Particles(repeat_actions(model, repeats), particles)
    obs, action = batch(6)
    state, rngs = cloud.root(ensemble.root(obs)), [draws.generator(b) for b in (0, 1)]
    seen = []
    for _ in range(3):
        state = cloud.step(state, action, rng=rngs).state
        seen.append(state.states.member)
        for members in seen[-1]:
            count = members.bincount(minlength=E)
            assert int(count.max() - count.min()) <= 1 and int(count.sum()) == particles
    held = all(torch.equal(member, seen[0]) for member in seen)
    assert held if propagation == "ts_inf" else not held or particles == 1


def test_held_members_are_grouped_once_per_rollout_of_particles():
    cloud = Particles(Model(fitted(), action_space=SPACE), 8)
    obs, action = batch(5)
    state, rng = cloud.root(cloud.inner.dynamics.root(obs)), draws.generator(0)
    state = cloud.step(state, action, rng=rng).state
    grouping = cloud.dynamics._grouping
    state = cloud.step(state, action, rng=rng).state
    assert cloud.dynamics._grouping is grouping
    state.states.member.add_(1).remainder_(E)  # written to: the old grouping is no longer true
    cloud.step(state, action, rng=rng)
    assert cloud.dynamics._grouping is not grouping


def test_the_mean_over_particles_is_the_mean_over_members():
    ensemble = fitted(aleatoric=False)
    cloud = Particles(Model(ensemble, action_space=SPACE), 2 * E)
    obs, action = batch(5)
    moved = cloud.step(cloud.root(ensemble.root(obs)), action, rng=draws.generator(0))
    mean = ensemble.using(propagation="mean").step(
        ensemble.root(obs), action, rng=draws.generator(0)
    )
    torch.testing.assert_close(moved.reward, mean.reward, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved.state.states.obs.mean(1), mean.state.obs)


def test_disagreement_is_the_spread_of_the_members_means():
    model = fitted()
    obs, action = batch(7)
    x = model.features(obs, action)
    means = torch.stack([model(x.expand(E, -1, -1))[0][e] for e in range(E)])
    expected = means.var(0, unbiased=False).mean(1).sqrt()
    torch.testing.assert_close(model.disagreement(model.root(obs), action), expected)
    assert bool((expected > 0).all())
    alone = fitted(members=1)
    action.requires_grad_()
    agreed = alone.disagreement(alone.root(obs), action)
    (gradient,) = torch.autograd.grad(agreed.sum(), action)
    assert agreed.tolist() == [0] * 7 and bool((gradient == 0).all())


def test_disagreement_grows_away_from_the_data():
    obs, action, reward, next_obs = system(400, 0.1)
    rng = draws.generator(0)
    model = Ensemble(D, SPACE, members=3, hidden=(32,), rng=rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    split = extend_split(empty_split(3), 400, holdout=0.1, rng=rng)
    fit(model, optimizer, obs, action, reward, next_obs, split, rng=rng, epochs=15)
    spread = 8 * (obs - obs.mean(0))
    with torch.no_grad():
        near = model.disagreement(model.root(obs), action)
        far = model.disagreement(model.root(obs.mean(0) + spread), action)
    assert far.median() > 3 * near.median()


@pytest.mark.parametrize("propagation", ["ts_inf", "ts_1"])
def test_rows_with_generators_of_their_own_do_not_see_other_roots(propagation):
    model = fitted(propagation=propagation)
    obs, action = batch(12)

    def roll(chosen: list[int]) -> torch.Tensor:
        rngs = [draws.generator(root) for root in chosen]
        index = torch.cat([torch.arange(4 * root, 4 * root + 4) for root in chosen])
        state = model.root(obs[index])
        for _ in range(3):
            state = model.step(state, action[index], rng=rngs).state
        return state.obs.view(len(chosen), 4, D)

    together, alone = roll([0, 1, 2]), roll([2])
    torch.testing.assert_close(together[2], alone[0], rtol=1e-5, atol=1e-6)


def test_a_root_that_has_no_member_yet_draws_as_it_would_alone():
    model = fitted(aleatoric=False)
    obs, action = batch(8)
    held = torch.tensor([0, 1, 2, 3, -1, -1, -1, -1])
    rngs = [draws.generator(0), draws.generator(1)]
    moved = model.step(EnsembleState(obs, held), action, rng=rngs)
    alone = model.step(model.root(obs[4:]), action[4:], rng=[draws.generator(1)])
    assert moved.state.member[:4].tolist() == [0, 1, 2, 3]
    assert torch.equal(moved.state.member[4:], alone.state.member)
    assert torch.equal(rngs[0].get_state(), draws.generator(0).get_state())


def test_mean_propagation_is_the_average_of_the_members_and_draws_nothing():
    model = fitted(propagation="mean")
    obs, action = batch(6)
    rng = draws.generator(0)
    before = rng.get_state()
    moved = model.step(model.root(obs), action, rng=rng)
    single = model.using(propagation="ts_inf", aleatoric=False)
    each = [
        single.step(EnsembleState(obs, torch.full((6,), e)), action, rng=rng).state.obs
        for e in range(E)
    ]
    torch.testing.assert_close(moved.state.obs, torch.stack(each).mean(0))
    assert torch.equal(rng.get_state(), before)
    assert single.weights[0] is model.weights[0]


@pytest.mark.parametrize("propagation", ["mean", "ts_inf"])
def test_action_gradients_through_a_rollout_equal_finite_differences(propagation):
    model = fitted(propagation=propagation).double()
    obs, _ = batch(4)
    actions = torch.rand(4, 5, A, generator=draws.generator(5), dtype=torch.float64) - 0.5

    def total(actions: torch.Tensor) -> torch.Tensor:
        state, rng, reward = model.root(obs.double()), draws.generator(6), torch.zeros(4).double()
        for t in range(5):
            moved = model.step(state, actions[:, t], rng=rng)
            state, reward = moved.state, reward + moved.reward
        return reward.sum()

    actions.requires_grad_()
    (gradient,) = torch.autograd.grad(total(actions), actions)
    step = 1e-6
    for index in [(0, 0, 0), (1, 2, 1), (3, 4, 0)]:
        bump = torch.zeros_like(actions)
        bump[index] = step
        numeric = (total(actions + bump) - total(actions - bump)) / (2 * step)
        torch.testing.assert_close(gradient[index], numeric.detach(), rtol=1e-5, atol=1e-8)


def test_log_variances_stay_within_the_soft_bounds_which_are_penalised():
    model = fitted()
    x = 1e3 * torch.randn(E, 50, D + A)
    log_var = model(x)[1]
    assert (log_var <= model.max_log_var + 0.01).all()
    assert (log_var >= model.min_log_var - 0.01).all()
    y = torch.zeros(E, 50, D + 1)
    before = ensemble_loss(model, x, y)
    mean, log_var = model(x)
    by_hand = sum(
        (((mean[e] - y[e]) ** 2) / log_var[e].exp() + log_var[e]).mean() for e in range(E)
    ) + 0.01 * (model.max_log_var.sum() - model.min_log_var.sum())
    torch.testing.assert_close(before, by_hand)


def test_bootstrap_samples_grow_but_never_change():
    rng = draws.generator(0)
    early = extend_split(empty_split(E), 100, holdout=0.1, rng=rng)
    late = extend_split(early, 150, holdout=0.1, rng=rng)
    assert torch.equal(late.train[:, :90], early.train) and late.train.shape == (E, 135)
    assert torch.equal(late.holdout[:10], early.holdout) and len(late.holdout) == 15
    assert not set(late.train.flatten().tolist()) & set(late.holdout.tolist())
    assert late.train[:, 90:].min() >= 100
    assert len(early.train[0].unique()) < 80  # with replacement
    assert not torch.equal(early.train[0].sort()[0], early.train[1].sort()[0])
    assert extend_split(late, 150, holdout=0.1, rng=rng) is late


def system(rows: int, noise: float) -> tuple[torch.Tensor, ...]:
    """x' = x + M [x, a] + N(0, noise^2), reward = first coordinate of x; offset, badly scaled."""
    rng = draws.generator(7)
    obs = torch.randn(rows, D, generator=rng) * torch.tensor([1.0, 10.0, 0.1]) + 5.0
    action = 2 * torch.rand(rows, A, generator=rng) - 1
    matrix = 0.1 * torch.randn(D + A, D, generator=rng)
    next_obs = obs + torch.cat([obs, action], 1) @ matrix
    next_obs = next_obs + noise * torch.randn(rows, D, generator=rng)
    return obs, action, obs[:, 0].clone(), next_obs


def test_fit_recovers_a_linear_gaussian_system():
    noise = 0.3
    obs, action, reward, next_obs = system(1700, noise)
    rng = draws.generator(0)
    model = Ensemble(D, SPACE, members=3, hidden=(32,), propagation="mean", rng=rng)
    train = [part[:1500] for part in (obs, action, reward, next_obs)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    split = extend_split(empty_split(3), 1500, holdout=0.1, rng=rng)
    result = fit(model, optimizer, *train, split, rng=rng, epochs=30, patience=20)
    assert result.best_epoch > 0
    with torch.no_grad():
        moved = model.step(model.root(obs[1500:]), action[1500:], rng=rng)
        error = (moved.state.obs - next_obs[1500:]).std(0)
        assert (error < 1.25 * noise).all()  # the noise itself, and little else
        assert (moved.reward - reward[1500:]).std() < 0.1
        log_var = model(model.features(obs, action).expand(3, -1, -1))[1]
    predicted = (0.5 * log_var[..., :D]).exp().mean((0, 1)) * model.targets.std[:D]
    torch.testing.assert_close(predicted, torch.full((D,), noise), rtol=0.2, atol=0)


def test_fit_keeps_the_best_epoch_and_normalises_first():
    obs, action, reward, next_obs = system(300, 0.1)
    rng = draws.generator(0)
    model = Ensemble(D, SPACE, members=2, hidden=(8,), rng=rng)
    with pytest.raises(ValueError, match="never fitted"):
        model.root(obs)
    split = extend_split(empty_split(2), 300, holdout=0.2, rng=rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)  # so large that it gets worse
    before = [weight.clone() for weight in model.weights]
    result = fit(model, optimizer, obs, action, reward, next_obs, split, rng=rng, patience=3)
    assert result.epochs <= result.best_epoch + 3
    if result.best_epoch == 0:
        assert all(torch.equal(a, b) for a, b in zip(before, model.weights, strict=True))
    x = model.features(obs, action)
    torch.testing.assert_close(x.mean(0), torch.zeros(D + A), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(D + A), atol=1e-2, rtol=0)


def test_a_loss_that_is_not_finite_stops_the_fit_and_shows_its_batch():
    obs, action, reward, next_obs = system(100, 0.1)
    reward[17] = torch.nan
    model = Ensemble(D, SPACE, members=2, hidden=(8,))
    split = extend_split(empty_split(2), 100, holdout=0.0, rng=draws.generator(0))
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(NotFiniteError, match=r"loss in epoch 1, batch 1 is nan") as error:
        fit(model, optimizer, obs, action, reward, next_obs, split, rng=draws.generator(0))
    assert error.value.batch["x"].shape[0] == 2


def test_given_rewards_ends_and_the_discount():
    model = fitted(
        reward=lambda obs, action, after: after[:, 0],
        terminated=lambda obs, action, after: obs[:, 1] > 0,
        discount=0.9,
    )
    obs, action = batch(10)
    assert model.terminates and not fitted().terminates
    moved = model.step(model.root(obs), action, rng=draws.generator(0))
    assert torch.equal(moved.reward, moved.state.obs[:, 0])
    torch.testing.assert_close(moved.discount, torch.where(obs[:, 1] > 0, 0.0, 0.9))


def test_discrete_actions_enter_one_hot():
    model = fitted(space=Discrete(3))
    obs, _ = batch(6)
    moved = model.step(model.root(obs), torch.tensor([0, 1, 2, 0, 1, 2]), rng=draws.generator(0))
    assert moved.state.obs.shape == (6, D)
    assert model.features(obs, torch.zeros(6).long()).shape == (6, D + 3)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts_1", "mean"])
def test_the_contracts_of_models_and_planners(propagation):
    ensemble = fitted(propagation=propagation)
    model = Model(ensemble, action_space=SPACE)
    roots = ensemble.root(batch(5)[0])
    check_model(model, roots)
    inside = ensemble.step(roots, batch(5)[1], rng=draws.generator(0)).state
    check_model(model, inside)
    planner = CEM(horizon=3, samples=6, iterations=2, elites=2)
    check_planner(planner, model, roots, tolerance=1e-3)
    check_planner(GradMPC(horizon=2, samples=2, iterations=2), model, roots, tolerance=1e-3)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_contracts_of_particles_of_an_ensemble(weight):
    ensemble = fitted()
    model = penalised(Model(ensemble, action_space=SPACE), weight)
    cloud = Particles(model, 6, CVaR(0.5))
    roots = cloud.root(ensemble.root(batch(3)[0]))
    check_model(cloud.model(), roots)
    planner = CEM(horizon=3, samples=6, iterations=2, elites=2)
    check_planner(planner, cloud.model(), roots, tolerance=1e-3)
    check_planner(GradMPC(horizon=2, samples=2, iterations=2), cloud.model(), roots, tolerance=1e-3)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="propagation must be one of"):
        fitted(propagation="ts-inf")
    with pytest.raises(ValueError, match="at least 1"):
        fitted(members=0)
