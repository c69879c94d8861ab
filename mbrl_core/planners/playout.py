"""Rollouts as a value: how good a state is, found by playing on from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.common import only_finite
from mbrl_core.types import Rows
from mbrl_core.world import World


class Ends(NamedTuple):
    """The n futures of a call of `Rollouts` that came to the end of their episode."""

    row: Tensor  # [n] the state that each began at
    returns: Tensor  # [n] from there on; -inf where not finite
    action: Rows  # n rows: the first action
    final: Rows  # n rows: the last state


class Rollouts(NamedTuple):
    """A state is worth the mean return of `samples` futures of at most `depth` steps, in which the
    model's rollout policy draws every action (its policy, where it has no other).

    A future cut at `depth` counts the model's value where there is one. One without a finite
    return, or that is proposed nothing, counts for nothing; where all are, the state is worth -inf.
    """

    samples: int
    depth: int

    @property
    def steps(self) -> int:
        """Model steps that one state may take."""
        return self.samples * self.depth

    def proposals(self, world: World) -> int:
        """Candidates drawn that one state may take."""
        return self.steps * world.rollout_draws

    @property
    def calls(self) -> int:
        """Calls of policy and dynamics that a batch of states may take."""
        return 2 * self.depth

    def value(self, world: World, state: Rows, roots: Tensor) -> Tensor:
        """Values [R] of R states that belong to `roots` [R]."""
        return self.play(world, state, roots, keep=False)[0]

    def play(
        self, world: World, state: Rows, roots: Tensor, *, keep: bool
    ) -> tuple[Tensor, Ends | None]:
        """As `value`; and the futures that ended, where these are to be kept and there are any."""
        state, roots = rows.repeat(state, self.samples), roots.repeat_interleave(self.samples)
        index = torch.arange(len(roots), device=world.device)
        total = torch.zeros(len(roots), dtype=world.dtype, device=world.device)
        weight = torch.ones_like(total)
        first: Rows = None
        over: list[tuple[Tensor, Rows]] = []
        for _ in range(self.depth):
            proposal = world.roll(state, roots)
            action = proposal.actions
            first = action if first is None else first
            able = proposal.log_prior[:, 0] > -torch.inf
            if not bool(able.all()):
                total[index[~able]] = -torch.inf
                some = able.nonzero().squeeze(1)
                index, weight, roots = index[some], weight[some], roots[some.to(roots.device)]
                state, action = rows.take(state, some), rows.take(action, some)
                if len(some) == 0:
                    break
            moved = world.step_some(state, action, roots)
            total[index] += weight * moved.reward
            ended = moved.discount == 0
            if keep and bool(ended.any()):
                last = ended.nonzero().squeeze(1)
                over.append((index[last], rows.take(moved.state, last)))
            going = (~ended).nonzero().squeeze(1)
            weight = (weight * moved.discount)[going]
            index, roots = index[going], roots[going.to(roots.device)]
            state = rows.take(moved.state, going)
            if len(going) == 0:
                break
        total[index] += weight * world.value(state, roots)
        returns = only_finite(total)
        return _mean_of_finite(returns.view(-1, self.samples)), self._ends(returns, first, over)

    def _ends(self, returns: Tensor, first: Rows, over: list[tuple[Tensor, Rows]]) -> Ends | None:
        if not over:
            return None
        future = torch.cat([index for index, _ in over])
        future, order = future.sort()
        final = rows.take(rows.concat([states for _, states in over]), order)
        return Ends(future // self.samples, returns[future], rows.take(first, future), final)


def _mean_of_finite(returns: Tensor) -> Tensor:
    """The mean [R] of those of `returns` [R, S] that are finite; -inf where none is."""
    finite = returns > -torch.inf
    number = finite.sum(1)
    mean = torch.where(finite, returns, 0.0).sum(1) / number.clamp(min=1)
    return torch.where(number > 0, mean, -torch.inf)
