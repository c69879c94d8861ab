"""What tests of agents share."""

from __future__ import annotations

from pathlib import Path

from control.envs import make_env
from control.episodes import random_actions
from control.replay import Replay, Steps
from mbrl_core import draws


def replay_of_random_steps(env: str, steps: int, folder: Path, num_envs: int = 1) -> Replay:
    """A replay of so many steps per environment, with random actions."""
    world, rng = make_env(env, num_envs), draws.generator(11)
    replay = Replay(folder, world.observation_dim, world.action_space, num_envs=num_envs)
    obs = world.reset()
    for _ in range(steps):
        action = random_actions(world.action_space, num_envs, rng)
        moved = world.step(action)
        replay.add(Steps(obs, action, moved.reward, moved.obs, moved.terminated), moved.truncated)
        obs = world.reset(mask=world.done) if bool(world.done.any()) else moved.obs
    return replay
