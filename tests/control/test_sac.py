"""Laws of soft actor-critic: its densities, its targets, its temperature, its resumption."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from control import checkpoints
from control.actor_critic import Actor, Critics
from control.agents.mbpo import MBPO
from control.agents.sac import SAC, SACLearner, SoftActorCritic
from control.agents.svg import SVG
from control.envs import make_env
from control.finite import NotFiniteError
from control.replay import Replay, Steps
from mbrl_core import MPPI, Reflex, draws
from mbrl_core.types import Box, Discrete

D, A = 3, 2
SPACE = Box(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 4.0]))
TINY = SAC(hidden=(16,), batch_size=32)


def made(recipe: SAC = TINY, space: Box = SPACE) -> SoftActorCritic:
    return SoftActorCritic(recipe, D, space, rng=draws.generator(0))


def steps(n: int, seed: int = 1) -> Steps:
    rng = draws.generator(seed)
    unit = torch.rand(n, A, generator=rng)
    return Steps(
        obs=torch.randn(n, D, generator=rng),
        action=SPACE.low + unit * (SPACE.high - SPACE.low),
        reward=torch.randn(n, generator=rng),
        next_obs=torch.randn(n, D, generator=rng),
        terminated=torch.arange(n) % 3 == 0,
    )


def replay_of(steps: Steps, folder: Path) -> Replay:
    """A replay of one environment that took these steps."""
    replay = Replay(folder, D, SPACE)
    for i in range(len(steps.reward)):
        replay.add(Steps(*(part[i : i + 1] for part in steps)), torch.zeros(1, dtype=torch.bool))
    return replay


def weights(sac: SoftActorCritic) -> list[Tensor]:
    modules = (sac.actor, sac.critics, sac.target)
    found = [p.detach().clone() for module in modules for p in module.parameters()]
    return [*found, sac.temperature]


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-1.5, 0.4)])
def test_the_density_of_the_squashed_policy_integrates_to_the_gaussians_distribution(mean, log_std):
    actor = Actor(D, Box(torch.tensor([-3.0]), torch.tensor([1.0])), (4,)).double()
    unit = torch.linspace(-1, 1, 40_001, dtype=torch.float64)[1:-1]
    mu, sigma = torch.tensor(mean).double(), math.exp(log_std)
    noise = (torch.atanh(unit) - mu) / sigma
    drawn = actor.squash(mu, torch.tensor(log_std).double(), noise.unsqueeze(1))
    torch.testing.assert_close(drawn.action[:, 0], -1.0 + 2.0 * unit)
    below = torch.cumulative_trapezoid(drawn.log_prob.exp(), unit)
    chance = torch.special.ndtr(noise)  # P(a < x) is that of the Gaussian before squashing
    torch.testing.assert_close(below, chance[1:] - chance[0], rtol=0, atol=1e-4)


def test_the_density_is_finite_where_tanh_has_rounded_to_one():
    noise = torch.tensor([[50.0, -50.0]])
    drawn = made().actor.squash(torch.zeros(1, A), torch.zeros(1, A), noise)
    assert drawn.action.tolist() == [[1.0, -2.0]]
    expected = sum(-1250 - 0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 50) for _ in range(2))
    torch.testing.assert_close(drawn.log_prob, torch.tensor([expected]))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_batched_critics_equal_the_plain_networks(layer_norm):
    critics = Critics(D, SPACE, (8, 8), draws.generator(0), layer_norm=layer_norm)
    batch = steps(5)
    unit = (batch.action - torch.tensor([0.0, 1.0])) / torch.tensor([1.0, 3.0])
    for e, q in enumerate(critics(batch.obs, batch.action)):
        x = torch.cat([batch.obs, unit], 1)
        layers = list(zip(critics.layers.weights, critics.layers.biases, strict=True))
        for matrix, offset in layers[:-1]:
            x = x @ matrix[e] + offset[e]
            if layer_norm:
                centered = x - x.mean(1, keepdim=True)
                x = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
            x = x.relu()
        torch.testing.assert_close(q, (x @ layers[-1][0][e] + layers[-1][1][e])[:, 0])


def test_normalised_critics_are_bounded_however_far_an_action_is():
    batch = steps(50)
    far = batch.action * 1e4
    for layer_norm in (False, True):
        critics = Critics(D, SPACE, (8, 8), draws.generator(0), layer_norm=layer_norm)
        weight, bias = critics.layers.weights[-1], critics.layers.biases[-1]
        bound = 8**0.5 * weight.norm(dim=1) + bias[:, 0].abs()  # of any layer of variance 1
        assert bool((critics(batch.obs, far).abs() <= bound).all()) == layer_norm


def test_targets_bootstrap_through_everything_but_a_termination():
    sac, batch = made(SAC(hidden=(16,), discount=0.9, temperature=0.3)), steps(9)
    with torch.no_grad():  # critics that say 5 and 7 everywhere
        sac.target.layers.weights[-1].zero_()
        sac.target.layers.biases[-1].copy_(torch.tensor([5.0, 7.0]).view(2, 1, 1))
        log_prob = sac.actor.draw(batch.next_obs, draws.copy(sac.rng)).log_prob
    after = torch.where(batch.terminated, 0.0, 5.0 - 0.3 * log_prob)
    torch.testing.assert_close(sac.targets(batch), batch.reward + 0.9 * after)
    ended = batch._replace(terminated=torch.ones(9, dtype=torch.bool))
    assert torch.equal(sac.targets(ended), batch.reward)


@pytest.mark.parametrize(("entropy", "falls"), [(-1.0, True), (-3.0, False)])
def test_the_temperature_falls_where_entropy_is_above_its_target_and_rises_below(entropy, falls):
    sac = made()  # two action dimensions: the target is -2
    before, log_prob = sac.temperature, torch.full((8,), -entropy)
    for _ in range(3):
        loss = sac.actor(torch.zeros(8, D))[0].sum() * 0.0
        assert sac.fit_actor(loss, log_prob, steps(8)).item() == entropy
    assert (sac.temperature < before) == falls


def test_target_critics_follow_by_their_rate():
    sac = made(SAC(hidden=(16,), target_rate=0.25))
    before = [p.clone() for p in sac.target.parameters()]
    sac.fit_critics(steps(16))
    for old, now, own in zip(
        before, sac.target.parameters(), sac.critics.parameters(), strict=True
    ):
        torch.testing.assert_close(now, torch.lerp(old, own.detach(), 0.25))


def test_it_learns_the_best_action_of_one_step_and_its_worth():
    sac, wish = made(SAC(hidden=(32,), learning_rate=0.01)), torch.tensor([0.4, 2.5])
    for seed in range(400):
        batch = steps(64, seed)
        reward = 2.0 - 2.0 * ((batch.action - wish) / torch.tensor([1.0, 3.0])).square().sum(1)
        sac.update(batch._replace(reward=reward, terminated=torch.ones(64, dtype=torch.bool)))
    obs = steps(20).obs
    action = sac.act(obs, explore=False, rng=draws.generator(0))
    assert (action - wish).abs().mean() < 0.2
    assert (sac.critics(obs, action).amin(0) - 2.0).abs().mean() < 0.3


def test_a_loss_that_is_not_finite_changes_nothing():
    sac, batch = made(), steps(8)
    before = weights(sac)
    with pytest.raises(NotFiniteError, match="the critics' loss is nan") as error:
        sac.update(batch._replace(reward=batch.reward / 0 * 0))
    assert error.value.batch["obs"] is batch.obs
    assert all(map(torch.equal, before, weights(sac)))


def test_resumed_is_never_stopped(tmp_path):
    class Env:
        observation_dim, action_space = D, SPACE

    replay = replay_of(steps(50), tmp_path / "replay")

    def fresh() -> SACLearner:
        return SAC(hidden=(16,), batch_size=8, updates_per_step=0.5).start(
            Env(),  # type: ignore[arg-type]
            None,
            rng=draws.generator(3),
        )

    straight, stopped, resumed = fresh(), fresh(), fresh()
    for learner in (straight, stopped):
        assert learner.learn(replay, 20) == {}
        assert learner.learn(replay, 7)["updates"] == 3
    checkpoints.save(tmp_path / "state.pt", {"kind": "state", **stopped.state_dict()})
    resumed.load_state_dict(checkpoints.load(tmp_path / "state.pt", "state"))
    assert straight.learn(replay, 5) == resumed.learn(replay, 5)
    assert all(map(torch.equal, weights(straight.sac), weights(resumed.sac)))


@pytest.mark.parametrize(
    "space", [Discrete(3), Box(torch.tensor([-torch.inf]), torch.tensor([1.0]))]
)
def test_actions_without_bounds_are_refused(space):
    with pytest.raises(ValueError, match="needs continuous actions between bounds"):
        made(space=space)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 0}, "SAC.batch_size must be a whole number of at least 1, not 0"),
        ({"discount": 1.1}, r"SAC.discount must be in \[0, 1\], not 1.1"),
        ({"temperature": 0.0}, "SAC.temperature"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        SAC(**settings)


def test_actions_lie_between_the_bounds_and_do_not_depend_on_the_evaluation():
    env = make_env("gym/Pendulum-v1", 2)
    learner = TINY.start(env, None, rng=draws.generator(0))
    obs = env.reset([0, 1])
    (one, _), (two, _) = (
        learner.act(obs, None, explore=False, rng=draws.generator(s)) for s in (0, 1)
    )
    assert torch.equal(one, two) and bool((one.abs() <= 2).all())
    drawn, _ = learner.act(obs, None, explore=True, rng=draws.generator(0))
    assert drawn.shape == (2, 1) and not torch.equal(drawn, one)
    assert learner.world_model({}) is None


def test_a_planner_is_refused_where_the_policy_acts():
    env, rng = make_env("gym/Pendulum-v1"), draws.generator(0)
    for recipe in (TINY, MBPO(sac=TINY), SVG(sac=TINY)):
        recipe.start(env, Reflex(), rng=rng)
        with pytest.raises(ValueError, match="acts by its policy, not by MPPI: give planner=pol"):
            recipe.start(env, MPPI(horizon=2), rng=rng)
