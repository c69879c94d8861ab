"""The plan step of TD-MPC2, re-stated plainly: one root at a time, as published.

Hansen et al. 2024, "TD-MPC2: scalable, robust world models for continuous control", section 3.2,
with the settings of its appendix: of N candidates `PROPOSED` follow the policy, the rest a
Gaussian; mean and std are refit to the elites, weighted by exp(temperature * (value - best)); a
candidate's value is its return plus two of five action values, averaged, at the policy's action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.numbers import ACTION
from evals.bench.worker import Job, serve

PROPOSED, TEMPERATURE, MIN_STD, MAX_STD, DISCOUNT = 24, 0.5, 0.05, 2.0, 1.0


def prepare(settings: Mapping[str, Any]) -> Job:
    """One plan per root."""
    world = worlds.LatentWorld(settings["width"])
    states = torch.from_numpy(numbers.states(settings["roots"]))
    shape = {name: settings[name] for name in ("samples", "horizon", "iterations", "elites")}
    return Job(lambda: [plan(world, state, **shape) for state in states])


@torch.inference_mode()
def plan(
    world: worlds.LatentWorld,
    state: Tensor,
    *,
    samples: int,
    horizon: int,
    iterations: int,
    elites: int,
) -> Tensor:
    """The action [A] for one state [S], without a warm start."""
    proposed = _proposed(world, state, horizon)
    start = state.expand(samples, -1)
    mean, std = torch.zeros(horizon, ACTION), torch.full((horizon, ACTION), MAX_STD)
    actions = torch.empty(horizon, samples, ACTION)
    actions[:, :PROPOSED] = proposed
    for _ in range(iterations):
        noise = torch.randn(horizon, samples - PROPOSED, ACTION)
        drawn = mean.unsqueeze(1) + std.unsqueeze(1) * noise
        actions[:, PROPOSED:] = drawn.clamp(-1, 1)
        value = _value(world, start, actions).nan_to_num(0)
        top, index = value.topk(elites)
        best = actions[:, index]
        score = torch.exp(TEMPERATURE * (top - top.max()))
        score = (score / score.sum()).view(1, -1, 1)
        mean = (score * best).sum(1)
        std = (score * (best - mean.unsqueeze(1)) ** 2).sum(1).sqrt().clamp(MIN_STD, MAX_STD)
    chosen = torch.multinomial(score.flatten(), 1).item()
    return best[0, int(chosen)].clamp(-1, 1)


def _proposed(world: worlds.LatentWorld, state: Tensor, horizon: int) -> Tensor:
    """Action sequences [H, PROPOSED, A] that follow the policy."""
    state = state.expand(PROPOSED, -1)
    actions = []
    for _ in range(horizon):
        actions.append(world.act(state, torch.randn(PROPOSED, ACTION)))
        state = world.next(state, actions[-1])
    return torch.stack(actions)


def _value(world: worlds.LatentWorld, state: Tensor, actions: Tensor) -> Tensor:
    """Values [N] of action sequences [H, N, A]."""
    total, weight = torch.zeros(len(state)), 1.0
    for action in actions:
        state = world.next(state, action)
        total = total + weight * state[:, 0]
        weight *= DISCOUNT
    heads = torch.randperm(worlds.HEADS)[:2].tolist()
    return total + weight * world.worth(state, torch.randn(len(state), ACTION), heads)


if __name__ == "__main__":
    serve(prepare)
