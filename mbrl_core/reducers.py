"""From many candidate futures to one: argmax, vote, weighted vote.

A reducer is called with `returns` [B, N] (-inf marks a candidate that is not to be chosen) and the
candidates' last states (B*N rows), and gives the chosen candidate [B] and the value of that choice
[B]. All ties go to the lower candidate number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.types import Rows

Key = Callable[[Rows], Sequence[Hashable | None] | Tensor]
"""What each row votes for (its answer, say), or a tensor [n] of numbers; None abstains."""


class Reducer(Protocol):
    """Chooses among the N candidate futures of each root."""

    def __call__(self, returns: Tensor, final: Rows) -> tuple[Tensor, Tensor]:
        """Returns [B, N] and B*N last states to the chosen candidate [B] and its value [B]."""
        ...


@dataclass(frozen=True)
class Argmax:
    """The candidate of highest return (best-of-N)."""

    def __call__(self, returns: Tensor, final: Rows) -> tuple[Tensor, Tensor]:
        """See `Reducer`."""
        value, index = first_max(returns)
        return index, value


@dataclass(frozen=True)
class Vote:
    """The candidate of highest return among those whose key most candidates share.

    Self-consistency (Wang et al. 2022). The value is the winning share of the votes cast. Where
    nobody votes the candidate of highest return is chosen, with value 0.
    """

    key: Key

    def __call__(self, returns: Tensor, final: Rows) -> tuple[Tensor, Tensor]:
        """See `Reducer`."""
        return _vote(self.key, returns, final, lambda finite: torch.ones_like(finite))


@dataclass(frozen=True)
class WeightedVote:
    """As `Vote`, each vote weighted by the candidate's return, or by exp(return / temperature).

    Where all votes weigh 0 it is `Vote`: the majority wins, with value 0. Without a temperature
    this is weighted majority voting (Li et al. 2023, "Making Language Models Better Reasoners with
    Step-Aware Verifier"); with one it is MPPI's weighting of samples.
    """

    key: Key
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"WeightedVote.temperature must be above 0, not {self.temperature}")

    def __call__(self, returns: Tensor, final: Rows) -> tuple[Tensor, Tensor]:
        """See `Reducer`. Raises ValueError on a negative return where no temperature is set."""
        return _vote(self.key, returns, final, self._weights)

    def _weights(self, finite: Tensor) -> Tensor:
        if self.temperature is not None:
            return torch.exp((finite - finite.max()) / self.temperature)
        if bool((finite < 0).any()):
            raise ValueError(
                "WeightedVote weights by the return itself, and one is negative: set a temperature"
            )
        return finite


def first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum along the last axis and its first position."""
    index = x.argmax(-1)
    return x.gather(-1, index.unsqueeze(-1)).squeeze(-1), index


def _vote(
    key: Key, returns: Tensor, final: Rows, weigh: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    best, chosen = first_max(returns)
    value = torch.zeros_like(best)
    for b, candidates in enumerate(returns):
        index = (candidates > -torch.inf).nonzero().squeeze(1)
        if len(index) == 0:
            continue
        ballots = key(rows.take(final, index + b * returns.shape[1]))
        if isinstance(ballots, Tensor):  # whose elements are alike by identity alone
            ballots = ballots.tolist()
        votes = [(k, i) for k, i in zip(ballots, range(len(index)), strict=True) if k is not None]
        if not votes:
            continue
        weights = weigh(candidates[index]).tolist()
        tally: dict[Hashable, float] = {}
        for k, i in votes:
            tally[k] = tally.get(k, 0.0) + weights[i]
        total = sum(tally.values())
        decides: Mapping[Hashable, float] = tally if total > 0 else Counter(k for k, _ in votes)
        winner = max(tally, key=lambda k: decides[k])
        mine = torch.tensor([i for k, i in votes if k == winner], device=index.device)
        chosen[b] = index[mine[first_max(candidates[index[mine]])[1]]]
        value[b] = tally[winner] / total if total > 0 else 0.0
    return chosen, value
