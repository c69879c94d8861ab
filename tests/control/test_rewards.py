"""Known rewards are the simulators' own."""

from __future__ import annotations

import pytest
import torch

from control.envs import make_env
from control.episodes import random_actions, run_episodes
from control.rewards import known_task, repeated


@pytest.mark.parametrize(
    "name", ["dmc/cartpole-swingup", "dmc/cartpole-balance", "gym/Pendulum-v1", "gym/CartPole-v1"]
)
def test_given_rewards_and_ends_equal_the_simulators(name):
    env = make_env(name, num_envs=3, max_frames=200)
    rng = torch.Generator().manual_seed(0)
    steps = run_episodes(
        env, lambda obs, carry: (random_actions(env.action_space, len(obs), rng), None), [0, 1, 2]
    ).steps
    task = known_task(name)
    reward = task.reward(steps.obs, steps.action, steps.next_obs)
    torch.testing.assert_close(reward, steps.reward, rtol=1e-4, atol=1e-4)
    if task.terminated is not None:
        ended = task.terminated(steps.obs, steps.action, steps.next_obs)
        assert torch.equal(ended, steps.terminated) and ended.any()
    else:
        assert not steps.terminated.any()


def test_repeat_multiplies_the_reward():
    reward = known_task("dmc/cartpole-swingup").reward
    obs, action = torch.rand(4, 5), torch.rand(4, 1)
    torch.testing.assert_close(repeated(reward, 8)(obs, action, obs), 8 * reward(obs, action, obs))
    assert repeated(reward, 1) is reward


def test_unknown_rewards_are_refused():
    with pytest.raises(ValueError, match="no reward function is known for 'dmc/walker-walk'"):
        known_task("dmc/walker-walk")
