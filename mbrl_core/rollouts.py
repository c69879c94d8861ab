"""Simulated futures and their returns.

The return of a future is sum_t (prod_{s<t} discount_s) reward_t, plus the model's value of the last
state weighted by the product of all discounts. An ending step has discount 0: its own reward
counts, and nothing after it, the terminal value included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.returns import return_of
from mbrl_core.types import Rollout, Rows
from mbrl_core.world import World, replace

LIGHT = 4096  # numbers


class Futures(NamedTuple):
    """N simulated futures of each of B roots as they were stepped: what a `Rollout` is made of."""

    actions: list[Rows]  # H entries of B*N rows
    rewards: list[Tensor]  # H entries [B*N]
    discounts: list[Tensor]  # H entries [B*N]
    final: Rows  # B*N rows
    alive: Tensor  # [B*N] bool: not ended
    returns: Tensor  # [B, N]

    def rollout(self) -> Rollout:
        """The record of these futures."""
        shape = self.returns.shape
        return Rollout(
            actions=self.actions,
            rewards=torch.stack(self.rewards, -1).view(*shape, -1),
            discounts=torch.stack(self.discounts, -1).view(*shape, -1),
            final=self.final,
            returns=self.returns,
            ended=~self.alive.view(shape),
        )


def follow(
    world: World,
    state: Rows,
    choose: Callable[[int, Rows, Tensor], Rows],
    horizon: int,
    *,
    samples: int,
    interruptible: bool = False,
    valued: bool = True,
    stuck: Tensor | None = None,
) -> Futures:
    """Step B*samples rows `horizon` times; rows that have ended stay where they are, unasked.

    `choose(t, state, moving)` gives the rows' actions at step t; those of rows that are not
    `moving` [R] are noted and have no effect. Where `interruptible`, the rows of a root whose
    budget is spent stay where they are. Where not `valued`, the last states are given no value.
    `choose` may mark rows in `stuck` [R] bool for which there is nothing to do: they stay where
    they are, and their return is -inf.
    Returns that the model makes NaN stay NaN: what they mean is the planner's to say.
    """
    total = rows.count(state)
    moving = alive = torch.ones(total, dtype=torch.bool, device=world.device)
    may_stop = world.terminates or interruptible  # else nothing is ever asked of the device
    actions: list[Rows] = []
    rewards: list[Tensor] = []
    discounts: list[Tensor] = []
    for t in range(horizon):
        if interruptible and t > 0:
            moving = alive & world.within_budget().to(alive.device).repeat_interleave(samples)
        action = choose(t, state, moving)
        if stuck is not None:
            alive, moving = alive & ~stuck, moving & ~stuck
        moved = world.step(state, action, alive=moving if may_stop else None)
        if interruptible:  # a row that waits has not ended: what follows keeps its weight
            waits = alive & ~moving
            moved = moved._replace(discount=torch.where(waits, 1.0, moved.discount))
        state = moved.state
        if world.terminates:
            alive = alive & (moved.discount != 0)
            moving = alive
        actions.append(action)
        rewards.append(_let_go(moved.reward, total))
        discounts.append(_let_go(moved.discount, total))
    value = world.value_of_living(state, alive) if valued else None
    returns = return_of(rewards, discounts, value)
    if stuck is not None:
        returns = returns.masked_fill(stuck, -torch.inf)
    returns = returns.view(world.roots, samples)
    return Futures(actions, rewards, discounts, state, alive, returns)


def _let_go(numbers: Tensor, total: int) -> Tensor:
    """The numbers [R], copied where they hold much memory. A reward that is a column of what a
    network put out holds all of that, and with it the rows of every step; the caches overflow,
    which took a sixth of the time of a plan with a network of 256 units."""
    light = numbers.stride(0) * total <= LIGHT or torch.is_grad_enabled()
    return numbers if light else numbers.contiguous()


def follow_actions(world: World, state: Rows, actions: Tensor) -> Futures:
    """The futures of N action sequences for each of B root states.

    `actions` [B, N, H, A] (or [B, N, H] where they are discrete).
    """
    samples, horizon = actions.shape[1:3]
    # A network reads its inputs fastest where the rows of one step lie together.
    steps = actions.movedim(2, 0).flatten(1, 2).contiguous().unbind()
    start = world.copies(state, samples)
    return follow(world, start, lambda t, _state, _moving: steps[t], horizon, samples=samples)


def follow_policy(
    world: World, state: Rows, horizon: int, samples: int, *, valued: bool = True
) -> Futures:
    """`samples` futures of each of B root states in which the policy draws every action.

    A future that stands still repeats its last action; that of one which is proposed nothing (but
    in a world that never ends) returns -inf. `valued` as in `follow`.
    """
    interruptible = not world.unlimited
    may_stop = world.terminates or interruptible
    last: Rows = None
    start = world.copies(state, samples)
    stuck = torch.zeros(rows.count(start), dtype=torch.bool, device=world.device)

    def draw(t: int, now: Rows, moving: Tensor) -> Rows:
        nonlocal last
        if not may_stop:
            last = world.propose(now, 1).actions
        elif bool(moving.all()):
            drawn = world.propose(now, 1)
            last = drawn.actions
            torch.eq(drawn.log_prior[:, 0], -torch.inf, out=stuck)
        elif len(index := moving.nonzero().squeeze(1)) > 0:
            drawn = world.propose(rows.take(now, index), 1, index // samples)
            last = replace(last, index, drawn.actions)
            stuck[index] = drawn.log_prior[:, 0] == -torch.inf
        return last

    return follow(
        *(world, start, draw, horizon),
        samples=samples,
        interruptible=interruptible,
        valued=valued,
        stuck=stuck if may_stop else None,
    )


def simulate(
    world: World,
    state: Rows,
    choose: Callable[[int, Rows, Tensor], Rows],
    horizon: int,
    *,
    samples: int,
    interruptible: bool = False,
) -> Rollout:
    """The record of what `follow` does."""
    return follow(
        world, state, choose, horizon, samples=samples, interruptible=interruptible
    ).rollout()


def simulate_actions(world: World, state: Rows, actions: Tensor) -> Rollout:
    """The record of what `follow_actions` does."""
    return follow_actions(world, state, actions).rollout()


def simulate_policy(world: World, state: Rows, horizon: int, samples: int) -> Rollout:
    """The record of what `follow_policy` does."""
    return follow_policy(world, state, horizon, samples).rollout()
