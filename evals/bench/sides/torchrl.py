"""CEM and MPPI of torchrl."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import ModelBasedEnvBase
from torchrl.modules import CEMPlanner, MPPIPlanner

from evals.bench import numbers, worlds
from evals.bench.worker import Job, serve


class Next(nn.Module):
    """The control world as a module that torchrl can call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.world = worlds.ControlWorld(width)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Next state and reward of rows with any leading axes."""
        moved = state + self.world.net(torch.cat([state, action], -1))
        return moved, moved[..., :1]


class Env(ModelBasedEnvBase):
    """The control world as an environment."""

    def __init__(self, width: int) -> None:
        keys = (["observation", "action"], ["observation", "reward"])
        super().__init__(TensorDictModule(Next(width), *keys), device="cpu")
        self.observation_spec = Composite(observation=Unbounded((numbers.STATE,)))
        self.state_spec = Composite(observation=Unbounded((numbers.STATE,)))
        self.action_spec = Bounded(-1.0, 1.0, (numbers.ACTION,))
        self.reward_spec = Unbounded((1,))

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        raise NotImplementedError("a planner begins where it is")


class Return(nn.Module):
    """The undiscounted return of each future, in the place of torchrl's advantage modules."""

    def forward(self, futures: TensorDictBase) -> TensorDictBase:
        """Adds `advantage` [..., H, 1], of which the planner reads the first entry."""
        reward = futures["next", "reward"]
        return futures.set("advantage", reward.sum(-2, keepdim=True).expand_as(reward))


def prepare(settings: Mapping[str, Any]) -> Job:
    """One call of the planner for all roots."""
    env = Env(settings["width"])
    shape = (
        settings["horizon"],
        settings["iterations"],
        settings["samples"],
        settings["elites"],
    )
    if settings["planner"] == "CEM":
        planner = CEMPlanner(env, *shape)
    else:
        planner = MPPIPlanner(env, Return(), 1.0, *shape)
    roots = settings["roots"]
    start = TensorDict({"observation": torch.from_numpy(numbers.states(roots))}, [roots])
    start = start.update(env.full_done_spec.zero((roots,)))
    return Job(partial(_plan, planner, start))


@torch.inference_mode()
def _plan(planner: Any, start: TensorDictBase) -> None:
    planner.planning(start)


if __name__ == "__main__":
    serve(prepare)
