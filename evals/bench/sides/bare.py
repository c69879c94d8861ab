"""The model calls of a plan and nothing else: what no planner can save."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.sides.ours import game_problem
from evals.bench.worker import Job, serve
from mbrl_core import Model, Rows, generator, rows

RNG = generator(0)  # which the models of the benchmark never draw from


def prepare(settings: Mapping[str, Any]) -> Job:
    """The calls that the cell's planner makes, at its batch shape."""
    if settings["planner"] == "MCTS":
        model, root = game_problem(settings)
        return Job(partial(_simulate, model, root, settings["actions"], settings["simulations"]))
    world = worlds.ControlWorld(settings["width"])
    state = torch.from_numpy(numbers.states(settings["roots"]))
    start = state.repeat_interleave(settings["samples"], 0)
    action = torch.zeros(len(start), numbers.ACTION)
    return Job(partial(_roll, world, start, action, settings["horizon"], settings["iterations"]))


@torch.inference_mode()
def _roll(
    world: worlds.ControlWorld, start: Tensor, action: Tensor, horizon: int, iterations: int
) -> None:
    for _ in range(iterations):
        state = start
        for _ in range(horizon):
            state = world.step(state, action, rng=RNG).state


@torch.no_grad()
def _simulate(model: Model, root: Rows, actions: int, simulations: int) -> None:
    """One step, proposal and value of every root's new node per simulation."""
    assert model.policy is not None and model.value is not None
    state, action = root, torch.zeros(rows.count(root), dtype=torch.int64)
    for _ in range(simulations):
        model.policy.propose(state, actions, rng=RNG)
        state = model.dynamics.step(state, action, rng=RNG).state
        model.value.value(state)


if __name__ == "__main__":
    serve(prepare)
