"""Laws of value gradients through a model: the gradient, ends, what an update leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from control import checkpoints
from control.agents.sac import SAC, SoftActorCritic
from control.agents.svg import SVG, SVGLearner, soft_return
from control.ensemble import EnsembleState
from control.envs import make_env
from control.learned_model import ModelRecipe
from control.types import Recipe
from mbrl_core import draws
from mbrl_core.types import Box, Rng, Transition
from tests.control.learners import replay_of_random_steps

D, A = 3, 2
SPACE = Box(-torch.ones(A), 2 * torch.ones(A))
TINY = SVG(
    sac=SAC(hidden=(16,), batch_size=16, random_frames=0),
    model=ModelRecipe(members=3, elites=2, hidden=(8,), epochs=2, fit_every=20),
    horizon=2,
)


class Seen(NamedTuple):
    """A state that is its observation."""

    obs: Tensor  # [R, D]


@dataclass(frozen=True)
class Linear:
    """s' = s A + a B + noise, reward -|s'|^2; it ends where the first number exceeds `limit`."""

    limit: float = torch.inf
    discount: float = 0.9

    def step(self, state: Seen, action: Tensor, *, rng: Rng) -> Transition:
        first, second = torch.randn(D + A, D, generator=draws.generator(7)).double().split([D, A])
        noise = draws.normal(rng, len(action), D).to(action)
        obs = state.obs @ (0.4 * first) + action @ second + 0.1 * noise
        ended = obs[:, 0] > self.limit
        discount = torch.where(ended, 0.0, self.discount).to(obs)
        return Transition(Seen(obs), -obs.square().sum(1), discount)


def made(**settings: object) -> SoftActorCritic:
    """Soft actor-critic in double precision."""
    recipe = SAC(hidden=(8,), temperature=0.3, **settings)
    sac = SoftActorCritic(recipe, D, SPACE, rng=draws.generator(0))
    for module in (sac.actor, sac.critics):
        module.double()
    return sac


START = Seen(torch.randn(6, D, generator=draws.generator(1)).double())


def objective(sac: SoftActorCritic, model: Linear, horizon: int) -> Tensor:
    return soft_return(sac, model, START, horizon, rng=draws.generator(5))[0].sum()


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("limit", [torch.inf, 0.5])
def test_the_gradient_is_that_of_finite_differences_on_a_linear_model(horizon, limit):
    sac, model, step = made(), Linear(limit), 1e-6
    parameters = list(sac.actor.parameters())
    gradients = torch.autograd.grad(objective(sac, model, horizon), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 5)):
            kept, sides = flat[i].item(), []
            for shift in (step, -step):
                flat[i] = kept + shift
                sides.append(objective(sac, model, horizon).item())
            flat[i] = kept
            expected = (sides[0] - sides[1]) / (2 * step)
            assert gradient.view(-1)[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_one_step_is_reward_and_what_the_critics_say_of_the_next_state():
    sac, model, rng = made(), Linear(), draws.generator(5)
    worth, log_prob = soft_return(sac, model, START, 1, rng=draws.copy(rng))
    first = sac.actor.draw(START.obs, rng)
    moved = model.step(START, first.action, rng=rng)
    then = sac.actor.draw(moved.state.obs, rng)
    soft = sac.critics(moved.state.obs, then.action).amin(0) - 0.3 * then.log_prob
    torch.testing.assert_close(worth, moved.reward - 0.3 * first.log_prob + 0.9 * soft)
    torch.testing.assert_close(log_prob, first.log_prob)


def test_nothing_is_earned_after_an_end_and_no_entropy_either():
    sac, model = made(), Linear(limit=-torch.inf)  # the first step ends every future
    one, _ = soft_return(sac, model, START, 1, rng=draws.generator(5))
    many, _ = soft_return(sac, model, START, 5, rng=draws.generator(5))
    torch.testing.assert_close(one, many)
    rng = draws.generator(5)
    first = sac.actor.draw(START.obs, rng)
    reward = model.step(START, first.action, rng=rng).reward
    torch.testing.assert_close(one, reward - 0.3 * first.log_prob)


def learner(recipe: Recipe = TINY) -> SVGLearner:
    return recipe.start(make_env("gym/Pendulum-v1"), None, rng=draws.generator(2))


def test_an_update_of_the_policy_leaves_model_and_critics_alone(tmp_path: Path):
    svg = learner()
    replay = replay_of_random_steps("gym/Pendulum-v1", 40, tmp_path)
    svg.learn(replay, 1)
    model = {name: x.clone() for name, x in svg.model.dynamics.state_dict().items()}
    batch = replay.sample(16, svg.rng)
    for p in svg.sac.critics.parameters():
        p.grad = None
    state = svg.model.dynamics.root(batch.obs)
    worth, log_prob = soft_return(svg.sac, svg.model.dynamics, state, 3, rng=svg.rng)
    svg.sac.fit_actor(-worth.mean(), log_prob, batch)
    assert all(p.grad is None for p in svg.sac.critics.parameters())
    assert all(torch.equal(model[n], x) for n, x in svg.model.dynamics.state_dict().items())
    assert isinstance(state, EnsembleState)


def test_resumed_is_never_stopped(tmp_path: Path):
    replay = replay_of_random_steps("gym/Pendulum-v1", 60, tmp_path / "replay")
    straight, stopped, resumed = learner(), learner(), learner()
    for svg in (straight, stopped):
        assert "updates" not in svg.learn(replay, 3)
        svg.learn(replay, 2)
    checkpoints.save(tmp_path / "state.pt", {"kind": "state", **stopped.state_dict()})
    resumed.load_state_dict(checkpoints.load(tmp_path / "state.pt", "state"))
    assert straight.learn(replay, 5) == resumed.learn(replay, 5)
    for one, other in zip(
        straight.sac.actor.parameters(), resumed.sac.actor.parameters(), strict=True
    ):
        assert torch.equal(one, other)
