"""Simulated futures and their returns.

The return of a future is sum_t (prod_{s<t} discount_s) reward_t, plus the model's value of the last
state weighted by the product of all discounts. An ending step has discount 0: its own reward
counts, and nothing after it, the terminal value included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.returns import discounted_return
from mbrl_core.types import Rollout, Rows
from mbrl_core.world import World, replace


def simulate(
    world: World,
    state: Rows,
    choose: Callable[[int, Rows, Tensor], Rows],
    horizon: int,
    *,
    samples: int,
    interruptible: bool = False,
) -> Rollout:
    """Step B*samples rows `horizon` times; rows that have ended stay where they are, unasked.

    `choose(t, state, moving)` gives the rows' actions at step t; those of rows that are not
    `moving` [R] are noted and have no effect. Where `interruptible`, the rows of a root whose
    budget is spent stay where they are. Returns that the model makes NaN stay NaN: what they mean
    is the planner's to say.
    """
    total = rows.count(state)
    alive = torch.ones(total, dtype=torch.bool, device=world.device)
    moving = alive
    may_stop = world.terminates or interruptible  # else nothing is ever asked of the device
    actions: list[Rows] = []
    rewards: list[Tensor] = []
    discounts: list[Tensor] = []
    for t in range(horizon):
        if interruptible and t > 0:
            moving = alive & world.within_budget().to(alive.device).repeat_interleave(samples)
        action = choose(t, state, moving)
        moved = world.step(state, action, alive=moving if may_stop else None)
        if interruptible:  # a row that waits has not ended: what follows keeps its weight
            waits = alive & ~moving
            moved = moved._replace(discount=torch.where(waits, 1.0, moved.discount))
        state = moved.state
        if world.terminates:
            alive = alive & (moved.discount != 0)
            moving = alive
        actions.append(action)
        rewards.append(_let_go(moved.reward))
        discounts.append(_let_go(moved.discount))
    earned, weights = torch.stack(rewards, -1), torch.stack(discounts, -1)
    value = value_of_living(world, state, alive)
    shape = (world.roots, samples)
    return Rollout(
        actions=actions,
        rewards=earned.view(*shape, -1),
        discounts=weights.view(*shape, -1),
        final=state,
        returns=discounted_return(earned, weights, value).view(shape),
        ended=~alive.view(shape),
    )


def _let_go(numbers: Tensor) -> Tensor:
    """The numbers in memory of their own. A reward that is a column of what a network put out holds
    all of that, and with it the rows of every step, in memory, out of which fall the caches: a
    sixth of the time of a plan with a network of 256 units."""
    return numbers if torch.is_grad_enabled() else numbers.clone()


def simulate_actions(world: World, state: Rows, actions: Tensor) -> Rollout:
    """The futures of N action sequences for each of B root states.

    `actions` [B, N, H, A] (or [B, N, H] where they are discrete).
    """
    samples, horizon = actions.shape[1:3]
    flat = actions.flatten(0, 1)
    start = rows.repeat(state, samples)
    return simulate(world, start, lambda t, _state, _moving: flat[:, t], horizon, samples=samples)


def simulate_policy(world: World, state: Rows, horizon: int, samples: int) -> Rollout:
    """`samples` futures of each of B root states in which the policy draws every action.

    A future that stands still repeats its last action.
    """
    interruptible = not world.unlimited
    may_stop = world.terminates or interruptible
    last: Rows = None

    def draw(t: int, now: Rows, moving: Tensor) -> Rows:
        nonlocal last
        if not may_stop or bool(moving.all()):
            last = world.propose(now, 1).actions
        elif len(index := moving.nonzero().squeeze(1)) > 0:
            drawn = world.propose(rows.take(now, index), 1, index // samples).actions
            last = replace(last, index, drawn)
        return last

    start = rows.repeat(state, samples)
    return simulate(world, start, draw, horizon, samples=samples, interruptible=interruptible)


def value_of_living(world: World, state: Rows, alive: Tensor) -> Tensor | None:
    """The model's value [R] of the rows still alive, 0 for the others; None without a value."""
    if world.model.value is None:
        return None
    if not world.terminates or bool(alive.all()):
        return world.value(state)
    index = alive.nonzero().squeeze(1)
    roots = index // (len(alive) // world.roots)
    value = world.value(rows.take(state, index), roots)
    return value.new_zeros(len(alive)).index_copy(0, index, value)
