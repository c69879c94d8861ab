"""iCEM: the cross-entropy method made sample-efficient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core.planners.common import check_share
from mbrl_core.planners.sampling import CEM, Noise, select_elites
from mbrl_core.planners.trajectory import Search, WarmStart, fresh_nowhere, next_step, shifted
from mbrl_core.types import Rows
from mbrl_core.world import Bounds, World


class EliteStart(NamedTuple):
    """The carry of iCEM: a `WarmStart` with the elites that begin the next search."""

    mean: Tensor  # [B, H, A] last plan, moved on by one step
    elites: Tensor  # [B, E, H, A] best sequences, moved on by one step
    fresh: Tensor  # [B] bool: rows that begin anew

    def reset(self, mask: Tensor) -> EliteStart:
        """Forget the rows where `mask` [B] is true."""
        return self._replace(fresh=self.fresh | mask.to(self.fresh.device))

    def shift(self, steps: int) -> EliteStart:
        """See `WarmStart.shift`."""
        return self._replace(mean=shifted(self.mean, steps), elites=shifted(self.elites, steps))


@dataclass(frozen=True, kw_only=True)
class ICEM(CEM):
    """Sample-efficient CEM (Pinneri et al. 2020, "Sample-efficient cross-entropy method for
    real-time planning", algorithm 1): CEM with

    - noise of colour `beta` along time,
    - a share `keep_elites` of the elites evaluated again in the next iteration and, moved on by one
      step, in the first of the next plan (they come on top of `samples`),
    - a population divided by `shrink` after every iteration, never below twice the elites,
    - the mean as a candidate in the last iteration only, and the best sequence as the plan.

    With these options off (0, 0, 1, always) it is CEM.
    """

    samples: int = 128
    elites: int = 10
    beta: float = 2.0
    keep_elites: float = 0.3
    shrink: float = 1.25
    keep_mean: Literal["always", "last", "never"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "keep_elites")
        if not self.shrink >= 1:
            raise ValueError(f"ICEM.shrink must be 1 or more, not {self.shrink!r}")
        if 2 * self.elites > self.samples:
            raise ValueError(
                f"ICEM.samples ({self.samples}) must be at least twice ICEM.elites ({self.elites})"
            )

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """See `TrajectoryPlanner.begin`. Rows without carried elites draw new ones."""
        search = super().begin(world, bounds, state, carry)
        number = self._number_kept()
        if number == 0:
            return search
        kept = self.scatter(bounds, search, self.gaussian(world, search, number))
        if isinstance(carry, EliteStart):
            carried = self.encode(bounds, bounds.clip(carry.elites.to(kept)))[:, :number]
            same = kept[:, : carried.shape[1]]  # a budget may have left fewer
            chosen = torch.where(carry.fresh.view(-1, 1, 1, 1), same, carried)
            kept = torch.cat([chosen, kept[:, carried.shape[1] :]], 1)
        return search._replace(kept=kept)

    def population(self, iteration: int) -> int:
        """See `Population.population`."""
        drawn = max(round(self.samples / self.shrink**iteration), 2 * self.elites)
        return drawn + self._number_kept()

    def number_of_elites(self, candidates: int) -> int:
        """All of them, unless a budget has left fewer than twice as many candidates."""
        return min(self.elites, max(1, candidates // 2))

    def learn(
        self,
        bounds: Bounds,
        search: Search,
        noise: Noise,
        sequences: Tensor,
        returns: Tensor,
        final: Rows,
    ) -> Search:
        """See `Population.learn`."""
        search = super().learn(bounds, search, noise, sequences, returns, final)
        if search.kept is None:
            return search
        number = min(self._number_kept(), returns.shape[1])
        return search._replace(kept=select_elites(sequences, returns, number)[0])

    def warm_start(self, bounds: Bounds, search: Search, plan: Tensor) -> EliteStart:  # type: ignore[override]
        """See `SequencePlanner.warm_start`."""
        mean = next_step(bounds, self.decode(bounds, plan))
        kept = search.best.unsqueeze(1)[:, :0] if search.kept is None else search.kept
        elites = next_step(bounds, self.decode(bounds, kept))
        return EliteStart(mean, elites, fresh_nowhere(plan))

    def _number_kept(self) -> int:
        return round(self.keep_elites * self.elites)
