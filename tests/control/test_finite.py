"""Losses that are not finite: their updates are left out, the others made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from control.agents.mbpo import MBPO
from control.agents.sac import SAC, SoftActorCritic
from control.agents.svg import SVG, SVGLearner
from control.agents.tdmpc2 import TDMPC2, Updates
from control.envs import make_env
from control.finite import Attempts, NotFiniteError, check_finite, unharmed
from control.latent import Size
from control.learned_model import ModelRecipe
from mbrl_core import draws
from tests.control.learners import replay_of_random_steps

PENDULUM = "gym/Pendulum-v1"
SMALL = SAC(hidden=(8,), batch_size=8, random_frames=0)
MODEL = ModelRecipe(members=2, elites=1, hidden=(8,), epochs=1, fit_every=20)
WILD = ModelRecipe(members=2, elites=1, hidden=(8,), fit_every=20, learning_rate=1e30)
LEARNERS = {
    "sac": (SMALL, SoftActorCritic),
    "mbpo": (MBPO(sac=SMALL, model=MODEL, rollouts_per_step=2, rollout_every=5), SoftActorCritic),
    "svg": (SVG(sac=SMALL, model=MODEL), SVGLearner),
    "tdmpc2": (
        TDMPC2(size=Size(encoder=16, hidden=16, latent=16, heads=2, bins=11), batch_size=8),
        Updates,
    ),
}


def test_attempts_make_what_can_be_made_and_say_what_cannot():
    def inverse(x: float) -> float:
        check_finite(torch.tensor(1 / x if x else torch.nan), {"x": torch.tensor(x)}, "1 / x")
        return 1 / x

    attempts = Attempts()
    assert attempts.each(inverse, [1.0, 2.0]) == [1.0, 0.5]
    assert attempts.result({"updates": 2.0}) == {"updates": 2.0}
    assert attempts.each(inverse, [0.0, 4.0, 0.0]) == [0.25]
    with pytest.raises(NotFiniteError, match="1 / x is nan") as error:
        attempts.result({"updates": 3.0})
    assert (error.value.left_out, error.value.logged) == (2, {"updates": 3.0})
    with pytest.raises(ZeroDivisionError), attempts:
        _ = 1 / 0


def test_what_is_unharmed_is_as_before_only_where_a_loss_is_not_finite():
    layer = nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    with pytest.raises(NotFiniteError), unharmed(layer):
        layer.weight.data.add_(1)
        check_finite(torch.tensor(torch.inf), {}, "the loss")
    assert layer.weight.equal(before)
    with unharmed(layer):
        layer.weight.data.add_(1)
    assert layer.weight.equal(before + 1)


@pytest.mark.parametrize("name", LEARNERS)
def test_one_update_is_left_out_and_the_others_that_are_due_are_made(name, tmp_path, monkeypatch):
    recipe, owner = LEARNERS[name]
    update, calls = owner.update, []

    def failing(self, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise NotFiniteError("the loss is nan", {})
        return update(self, batch)

    monkeypatch.setattr(owner, "update", failing)
    learner = recipe.start(make_env(PENDULUM), None, rng=draws.generator(0))
    replay = replay_of_random_steps(PENDULUM, 19, tmp_path)
    first = learner.learn(replay, 2) if name != "tdmpc2" else {}
    assert not calls and "updates" not in first
    with pytest.raises(NotFiniteError) as error:
        learner.learn(replay, 10)
    assert error.value.left_out == 1 and error.value.logged["updates"] == 9 and len(calls) == 10


@pytest.mark.parametrize("agent", [MBPO, SVG])
def test_a_failed_fit_leaves_the_model_alone_and_waits_for_more_data(agent, tmp_path):
    learner = agent(sac=SMALL, model=WILD).start(make_env(PENDULUM), None, rng=draws.generator(0))
    model, replay = learner.model, replay_of_random_steps(PENDULUM, 20, tmp_path)
    before = {name: x.clone() for name, x in model.ensemble.state_dict().items()}
    with pytest.raises(NotFiniteError, match="the ensemble's loss in epoch"):
        learner.learn(replay, 20)
    assert all(x.equal(before[name]) for name, x in model.ensemble.state_dict().items())
    assert not model.fitted and model.due == 40
    assert learner.learn(replay, 3) == {}  # neither another fit nor updates without a model
