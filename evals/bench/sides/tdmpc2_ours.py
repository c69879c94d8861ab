"""Our side: one update, or one planned decision, of `control.agents.tdmpc2`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from control.agents.tdmpc2 import TDMPC2, Batch, TDMPC2Learner
from evals.bench import numbers, training
from evals.bench.worker import Job, serve
from mbrl_core import Box, generator


def prepare(settings: Mapping[str, Any]) -> Job:
    """The job that the cell names, of the size that it names."""
    torch.manual_seed(0)
    learner = learner_of(settings["size"], compiled=settings["compiled"])

    def count(_: object) -> int:
        return sum(p.numel() for p in learner.updates.world.parameters())

    if settings["planner"] == "update":
        return Job(partial(learner.updates.update, batch_of()), count)
    return Job(_Decisions(learner), count)


def learner_of(size: str, *, compiled: bool = False) -> TDMPC2Learner:
    """A learner with random weights for a made-up environment."""
    bound = torch.ones(numbers.ACTION)
    env: Any = SimpleNamespace(
        name="dmc/benchmark",
        observation_dim=numbers.STATE,
        action_space=Box(-bound, bound),
        action_repeat=1,
        frames_per_episode=training.EPISODE,
        num_envs=1,
    )
    recipe = TDMPC2(size=size, horizon=training.HORIZON, compiled=compiled)
    return recipe.start(env, None, rng=generator(0))


def batch_of() -> Batch:
    """What every update learns from."""
    obs, action, reward = map(torch.from_numpy, training.batch())
    discount = torch.tensor(0.99)
    return Batch(obs, action, reward, torch.zeros_like(reward), discount)


class _Decisions:
    """Decisions one after the other, each with the warm start of the one before."""

    def __init__(self, learner: TDMPC2Learner) -> None:
        self.learner, self.rng, self.carry = learner, generator(0), None
        self.obs = torch.from_numpy(numbers.states(1))

    def __call__(self) -> torch.Tensor:
        action, self.carry = self.learner.act(self.obs, self.carry, explore=True, rng=self.rng)
        return action


if __name__ == "__main__":
    serve(prepare)
