"""MPPI of pytorch-mppi."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pytorch_mppi import mppi
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.worker import Job, serve


def prepare(settings: Mapping[str, Any]) -> Job:
    """As many commands as there are iterations, for one root or for a batch of them."""
    world, roots = worlds.ControlWorld(settings["width"]), settings["roots"]
    state = torch.from_numpy(numbers.states(roots))
    one = torch.ones(numbers.ACTION)
    make = mppi.MPPI if roots == 1 else partial(mppi.MPPI_Batched, num_envs=roots)
    planner = make(
        world.next,
        lambda state, action: -state[:, 0],
        numbers.STATE,
        noise_sigma=0.25 * torch.diag(one),
        num_samples=settings["samples"],
        horizon=settings["horizon"],
        u_min=-one,
        u_max=one,
    )
    return Job(partial(_plan, planner, state[0] if roots == 1 else state, settings["iterations"]))


@torch.inference_mode()
def _plan(planner: Any, state: Tensor, iterations: int) -> None:
    for _ in range(iterations):
        planner.command(state, shift_nominal_trajectory=False)


if __name__ == "__main__":
    serve(prepare)
