"""Whole episodes in the real environment, for learning and for judging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from control.envs import VectorEnv
from control.replay import Steps
from control.types import Act
from mbrl_core import draws
from mbrl_core.types import Box, Discrete


class Episodes(NamedTuple):
    """One episode of each of B environments."""

    steps: Steps  # all rows of environment 0, then of environment 1, ...
    returns: Tensor  # [B] undiscounted
    frames: Tensor  # [B] int64 simulator frames
    decisions: Tensor  # [B] int64


def run_episodes(env: VectorEnv, act: Act, seeds: Sequence[int] | None = None) -> Episodes:
    """Play every environment's episode to its end; rows that have ended wait for the others.

    Raises ValueError where episodes have no time limit.
    """
    check_limited(env)
    obs, carry = env.reset(seeds), None
    records: list[tuple[Steps, Tensor]] = []
    frames = torch.zeros(env.num_envs, dtype=torch.int64)
    while not bool(env.done.all()):
        alive = ~env.done
        action, carry = act(obs, carry)
        moved = env.step(action)
        records.append((Steps(obs, action, moved.reward, moved.obs, moved.terminated), alive))
        frames += moved.frames
        obs = moved.obs
    lived = torch.stack([alive for _, alive in records], 1)  # [B, T]
    padded = [torch.stack(parts, 1) for parts in zip(*(steps for steps, _ in records), strict=True)]
    steps = Steps(*(part[lived] for part in padded))
    return Episodes(steps, padded[2].sum(1), frames, lived.sum(1))


def check_limited(env: VectorEnv) -> None:
    """Raise ValueError where episodes of `env` have no time limit, and so perhaps no end."""
    if env.frames_per_episode is None:
        raise ValueError(f"episodes of {env.name} have no time limit: give max_frames")


def random_actions(space: Box | Discrete, num: int, rng: torch.Generator) -> Tensor:
    """Uniform actions: [num, A], or int64 [num] if discrete, on the CPU wherever `rng` lies.

    Infinite bounds count as one unit.
    """
    if isinstance(space, Discrete):
        return draws.integers(rng, space.n, num).cpu()
    low = torch.where(space.low.isfinite(), space.low, -1.0)
    high = torch.where(space.high.isfinite(), space.high, 1.0)
    return low + (high - low) * draws.uniform(rng, num, len(low)).to(low)
