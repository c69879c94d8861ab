"""How a tree search chooses among a node's candidates: UCT, PUCT, Gumbel with sequential halving.

A selection is all that differs between these searches; `MCTS` is one loop. Scores are over the K
candidates of n nodes; -inf marks an empty slot, and equal scores go to the lower candidate number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.types import Rng


class NodeStats(NamedTuple):
    """What is known of n nodes and their K candidates."""

    logits: Tensor  # [n, K] log prior up to a constant; -inf = empty slot
    visits: Tensor  # [n, K] of the candidates' children, 0 where none has been made
    q: Tensor  # [n, K] reward + discount * value of the child; 0 where unvisited
    value: Tensor  # [n] present value of the node
    raw_value: Tensor  # [n] what the model's value said
    node_visits: Tensor  # [n] own evaluation included


class Selection(Protocol):
    """The choices of a tree search."""

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """Root noise [B, K], drawn once per search; -inf where there is no candidate."""
        ...

    def root(self, stats: NodeStats, noise: Tensor, simulation: int, total: int) -> Tensor:
        """Scores [n, K] at the root in simulation `simulation` of `total`."""
        ...

    def inner(self, stats: NodeStats) -> Tensor:
        """Scores [n, K] at any other node."""
        ...

    def decide(self, stats: NodeStats, noise: Tensor) -> Tensor:
        """Scores [B, K] of the root's candidates when the search is over."""
        ...


# Q transforms: bring Q to a scale on which it can be compared with a prior or a bonus.


class QTransform(Protocol):
    """Q as selections use it."""

    def __call__(self, stats: NodeStats) -> Tensor:
        """Transformed Q [n, K]; an unvisited candidate has a value too."""
        ...


@dataclass(frozen=True)
class RawQ:
    """Q as it is; `unvisited` where there is none."""

    unvisited: float = 0.0

    def __call__(self, stats: NodeStats) -> Tensor:
        """See `QTransform`."""
        return torch.where(stats.visits > 0, stats.q, self.unvisited)


@dataclass(frozen=True)
class MinMaxQ:
    """(Q - low) / (high - low) for known bounds of Q; the unvisited count as `low`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"MinMaxQ needs low < high, not {self.low} and {self.high}")

    def __call__(self, stats: NodeStats) -> Tensor:
        """See `QTransform`."""
        q = torch.where(stats.visits > 0, stats.q, self.low)
        return (q - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class SiblingsQ:
    """Q scaled to [0, 1] by the least and greatest of the node's value and its visited candidates'
    Q.

    The unvisited count as the least. MuZero's normalisation (Schrittwieser et al. 2020, eq. 5)
    taken over one node, as in the mctx library.
    """

    def __call__(self, stats: NodeStats) -> Tensor:
        """See `QTransform`."""
        visited = stats.visits > 0
        low = torch.where(visited, stats.q, torch.inf).amin(1).minimum(stats.value).unsqueeze(1)
        high = torch.where(visited, stats.q, -torch.inf).amax(1).maximum(stats.value).unsqueeze(1)
        q = torch.where(visited, stats.q, low)
        return (q - low) / (high - low).clamp(min=1e-8)


@dataclass(frozen=True)
class CompletedQ:
    """Completed Q, scaled: `value_scale` * (`visit_offset` + max visits) * Q.

    The unvisited are given the mixed value (raw + N * sum_visited p q / sum_visited p) / (N + 1), N
    the sum of the candidates' visits (Danihelka et al. 2022, "Policy improvement by planning with
    Gumbel", eq. 8 and 33). `rescale` first brings the completed Q of the node to [0, 1].
    """

    value_scale: float = 0.1
    visit_offset: float = 50.0
    rescale: bool = True

    def __call__(self, stats: NodeStats) -> Tensor:
        """See `QTransform`."""
        visited, real = stats.visits > 0, stats.logits > -torch.inf
        prior = stats.logits.softmax(1).clamp(min=torch.finfo(stats.logits.dtype).tiny)
        seen = torch.where(visited, prior, 0.0)
        mean = (seen * stats.q).sum(1) / seen.sum(1).clamp(min=torch.finfo(prior.dtype).tiny)
        number = stats.visits.sum(1)
        mixed = (stats.raw_value + number * mean) / (number + 1)
        q = torch.where(visited, stats.q, mixed.unsqueeze(1))
        if self.rescale:
            low = torch.where(real, q, torch.inf).amin(1, keepdim=True)
            high = torch.where(real, q, -torch.inf).amax(1, keepdim=True)
            q = (q - low) / (high - low).clamp(min=1e-8)
        most = stats.visits.amax(1, keepdim=True)
        return (self.visit_offset + most) * self.value_scale * q


class _NoNoise:
    """A selection that is deterministic at the root."""

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """See `Selection`."""
        return torch.where(logits > -torch.inf, 0.0, logits)


@dataclass(frozen=True)
class UCT(_NoNoise):
    """Upper confidence bounds for trees: Q + c sqrt(ln N / n), every candidate tried once first.

    Kocsis and Szepesvari 2006; N is the number of times one of the candidates was chosen, n this
    one's. The final choice is the most visited.
    """

    exploration: float = math.sqrt(2)
    q: QTransform = field(default_factory=RawQ)

    def root(self, stats: NodeStats, noise: Tensor, simulation: int, total: int) -> Tensor:
        """See `Selection`."""
        return self.inner(stats)

    def inner(self, stats: NodeStats) -> Tensor:
        """See `Selection`."""
        total = stats.visits.sum(1, keepdim=True).clamp(min=1).to(stats.q)
        bonus = self.exploration * torch.sqrt(total.log() / stats.visits.clamp(min=1))
        score = torch.where(stats.visits > 0, self.q(stats) + bonus, torch.inf)
        return _real(score, stats)

    def decide(self, stats: NodeStats, noise: Tensor) -> Tensor:
        """See `Selection`."""
        return _real(stats.visits.to(stats.q), stats)


@dataclass(frozen=True)
class PUCT(_NoNoise):
    """Prior-weighted bounds: Q + p sqrt(N) / (1 + n) * (c_init + ln((N + c_base + 1) / c_base)).

    AlphaZero and MuZero (Schrittwieser et al. 2020, eq. 2); N is the node's visits with its own
    evaluation, n the candidate's. The final choice is the most visited.
    """

    c_init: float = 1.25
    c_base: float = 19652.0
    q: QTransform = field(default_factory=SiblingsQ)

    def root(self, stats: NodeStats, noise: Tensor, simulation: int, total: int) -> Tensor:
        """See `Selection`."""
        return self.inner(stats)

    def inner(self, stats: NodeStats) -> Tensor:
        """See `Selection`."""
        number = stats.node_visits.to(stats.q).unsqueeze(1)
        rate = self.c_init + torch.log((number + self.c_base + 1) / self.c_base)
        bonus = number.sqrt() * rate * stats.logits.softmax(1) / (stats.visits + 1)
        return _real(self.q(stats) + bonus, stats)

    def decide(self, stats: NodeStats, noise: Tensor) -> Tensor:
        """See `Selection`."""
        return _real(stats.visits.to(stats.q), stats)


@dataclass(frozen=True)
class Gumbel:
    """Gumbel MuZero: sequential halving at the root, a deterministic rule below it.

    Danihelka et al. 2022: the root draws g ~ `scale` * Gumbel(0) once, considers the `considered`
    candidates of highest g + logit, and halves them by g + logit + q in phases of equal visits
    (algorithm 2). Elsewhere argmax_a pi'(a) - n(a) / (1 + N) with pi' = softmax(logits + q) (eq.
    14). The final choice is the best by g + logit + q of the most visited.
    """

    considered: int = 16
    scale: float = 1.0
    q: QTransform = field(default_factory=CompletedQ)

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """See `Selection`."""
        noise = torch.zeros_like(logits)
        if self.scale > 0:
            noise = self.scale * draws.gumbel(rng, *logits.shape).to(logits)
        return torch.where(logits > -torch.inf, noise, -torch.inf)

    def root(self, stats: NodeStats, noise: Tensor, simulation: int, total: int) -> Tensor:
        """See `Selection`."""
        # The schedule is that of the candidates there were at first, which the noise remembers.
        sizes = (noise > -torch.inf).sum(1).clamp(max=self.considered).tolist()
        turn = [halving_schedule(size, total)[simulation] for size in sizes]
        visits = torch.tensor(turn, device=noise.device).unsqueeze(1)
        # A candidate that proved broken left: where its turn comes, the next ones move up.
        waiting = (stats.logits > -torch.inf) & (stats.visits >= visits)
        late = stats.visits.amax(1, keepdim=True)
        return self._among(stats, noise, torch.where(waiting, stats.visits, late).amin(1))

    def inner(self, stats: NodeStats) -> Tensor:
        """See `Selection`."""
        improved = (stats.logits + self.q(stats)).softmax(1)
        share = stats.visits / (1 + stats.visits.sum(1, keepdim=True))
        return _real(improved - share, stats)

    def decide(self, stats: NodeStats, noise: Tensor) -> Tensor:
        """See `Selection`."""
        return self._among(stats, noise, stats.visits.amax(1))

    def _among(self, stats: NodeStats, noise: Tensor, visits: Tensor) -> Tensor:
        """g + logit + q of the candidates that have exactly `visits` [n] visits."""
        logits = stats.logits - stats.logits.amax(1, keepdim=True)
        score = (noise + logits + self.q(stats)).clamp(min=-1e9)
        return _real(torch.where(stats.visits == visits.unsqueeze(1), score, -torch.inf), stats)


@lru_cache(maxsize=256)
def halving_schedule(considered: int, simulations: int) -> tuple[int, ...]:
    """How many visits the candidate tried in each simulation must have had before.

    Sequential halving (Karnin et al. 2013) as used by Danihelka et al. 2022, algorithm 2: the
    phases share the simulations equally, each phase visits its candidates in turn and halves them,
    down to 2.
    """
    if considered <= 1:
        return tuple(range(simulations))
    phases = math.ceil(math.log2(considered))
    schedule: list[int] = []
    size, done = considered, 0  # candidates of this phase, visits each of them has had
    while len(schedule) < simulations:
        for _ in range(max(1, simulations // (phases * size))):
            schedule += [done] * size
            done += 1
        size = max(2, size // 2)
    return tuple(schedule[:simulations])


def _real(score: Tensor, stats: NodeStats) -> Tensor:
    return torch.where(stats.logits > -torch.inf, score, -torch.inf)
