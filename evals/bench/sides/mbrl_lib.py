"""CEM and MPPI of mbrl-lib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mbrl.planning import CEMOptimizer, MPPIOptimizer
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.worker import Job, serve

DEVICE = torch.device("cpu")


def prepare(settings: Mapping[str, Any]) -> Job:
    """One optimisation per root."""
    world, horizon = worlds.ControlWorld(settings["width"]), settings["horizon"]
    bounds = {
        "lower_bound": [[-1.0] * numbers.ACTION] * horizon,
        "upper_bound": [[1.0] * numbers.ACTION] * horizon,
    }
    samples, iterations = settings["samples"], settings["iterations"]
    if settings["planner"] == "CEM":
        share = settings["elites"] / samples
        make = partial(CEMOptimizer, iterations, share, samples, alpha=0.1, device=DEVICE, **bounds)
    else:
        make = partial(MPPIOptimizer, iterations, samples, 1.0, 0.5, 0.0, device=DEVICE, **bounds)
    state = torch.from_numpy(numbers.states(settings["roots"]))
    return Job(partial(_plan, make, world, state, torch.zeros(horizon, numbers.ACTION)))


@torch.inference_mode()
def _plan(
    make: Callable[[], Any], world: worlds.ControlWorld, states: Tensor, mean: Tensor
) -> None:
    for state in states:
        make().optimize(partial(_returns, world, state), x0=mean)


def _returns(world: worlds.ControlWorld, start: Tensor, actions: Tensor) -> Tensor:
    """Returns [N] of action sequences [N, H, A]."""
    state = start.expand(len(actions), -1)
    total = torch.zeros(len(actions))
    for action in actions.unbind(1):
        state = world.next(state, action)
        total = total + state[:, 0]
    return total


if __name__ == "__main__":
    serve(prepare)
