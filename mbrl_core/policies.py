"""Policies that need no learning: every action, a grid of actions, random actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.types import Box, Discrete, Proposal, Rng, Rows


@dataclass(frozen=True)
class ListedActions:
    """The same `actions` [n, ...] everywhere, all equally likely.

    Asked for fewer than n candidates it draws that many without replacement.
    """

    actions: Tensor

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        total, size = rows.count(state), len(self.actions)
        if num >= size:
            chosen = torch.arange(size).repeat(total, 1)
        else:
            chosen = draws.uniform(rng, total, size).argsort(1)[:, :num].cpu()
        actions = self.actions[chosen.flatten().to(self.actions.device)]
        return Proposal(actions, torch.zeros(chosen.shape, device=self.actions.device))


def all_actions(space: Discrete) -> ListedActions:
    """Every action of a discrete space."""
    return ListedActions(torch.arange(space.n))


def grid_actions(space: Box, points: int) -> ListedActions:
    """A grid of `points` values per dimension, bounds included: points**A actions.

    Raises ValueError where a bound is infinite or `points` is below 2.
    """
    if points < 2:
        raise ValueError(f"a grid needs at least 2 points per dimension, not {points}")
    if not bool((torch.isfinite(space.low) & torch.isfinite(space.high)).all()):
        raise ValueError("a grid of actions needs finite bounds")
    ramps = [torch.linspace(0, 1, points, dtype=space.low.dtype)] * len(space.low)
    unit = torch.cartesian_prod(*ramps).view(-1, len(space.low)).to(space.low.device)
    return ListedActions(space.low + unit * (space.high - space.low))


@dataclass(frozen=True)
class RandomActions:
    """Uniform draws from a space with finite bounds."""

    space: Box | Discrete

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        total = rows.count(state)
        if isinstance(self.space, Discrete):
            actions = draws.integers(rng, self.space.n, total * num)
        else:
            low, high = self.space
            unit = draws.uniform(rng, total * num, len(low)).to(low)
            actions = low + unit * (high - low)
        return Proposal(actions, torch.zeros((total, num), device=actions.device))
