"""CEM and MPPI of stable-worldmodel."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import torch
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.worker import Job, serve


class Costs:
    """The control world as the library's solvers ask for it."""

    def __init__(self, width: int) -> None:
        self.world = worlds.ControlWorld(width)

    def get_cost(self, info: dict[str, Tensor], actions: Tensor) -> Tensor:
        """Costs [B, N] of action sequences [B, N, H, A] from `info["state"]` [B, N, STATE]."""
        state = info["state"].flatten(0, 1)
        cost = torch.zeros(len(state))
        for action in actions.flatten(0, 1).unbind(1):
            state = self.world.next(state, action)
            cost = cost - state[:, 0]
        return cost.view(actions.shape[:2])


@cache
def solvers() -> ModuleType:
    """The solvers without the rest of the library.

    Its own `__init__` imports data formats that need a torchvision built for the very same torch.
    """
    spec = importlib.util.find_spec("stable_worldmodel")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("stable_worldmodel is not installed")
    package = ModuleType("stable_worldmodel")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["stable_worldmodel"] = package
    return importlib.import_module("stable_worldmodel.solver")


def prepare(settings: Mapping[str, Any]) -> Job:
    """One call of the solver for all roots."""
    roots = settings["roots"]
    make = getattr(solvers(), f"{settings['planner']}Solver")
    solver = make(
        Costs(settings["width"]),
        batch_size=roots,
        num_samples=settings["samples"],
        n_steps=settings["iterations"],
        topk=settings["elites"],
        var_scale=0.5,
    )
    space = gymnasium.spaces.Box(-1.0, 1.0, (roots, numbers.ACTION))
    config = SimpleNamespace(horizon=settings["horizon"], action_block=1)
    solver.configure(action_space=space, n_envs=roots, config=config)
    return Job(partial(solver.solve, {"state": torch.from_numpy(numbers.states(roots))}))


if __name__ == "__main__":
    serve(prepare)
