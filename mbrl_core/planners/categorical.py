"""The cross-entropy method over discrete actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl_core import draws
from mbrl_core.planners.common import check_share, check_unit
from mbrl_core.planners.sampling import (
    Noise,
    Population,
    check_elites,
    equal_weights,
    scaled_elites,
    select_elites,
    weighted_mean,
)
from mbrl_core.planners.trajectory import Search, WarmStart, fresh_nowhere, next_step
from mbrl_core.types import Discrete, Rows
from mbrl_core.world import Bounds, World


@dataclass(frozen=True, kw_only=True)
class CategoricalCEM(Population):
    """Cross-entropy method over sequences of discrete actions.

    Each step of the sequence has a categorical distribution of its own, p [B, H, n]:

        p <- momentum * p + (1 - momentum) * frequencies among the elites,

    then floor / n + (1 - floor) * p, so that no action's probability reaches zero (Rubinstein and
    Kroese 2004, "The cross-entropy method", section 4.3, with smoothed updating). The candidates
    are draws from p, the first its mode; `output="mean"` returns the mode. The next plan begins at
    p moved on by one step and drawn a share of `renew` towards uniform.
    """

    elites: int = 32
    momentum: float = 0.1
    floor: float = 0.05
    renew: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self, self.elites)
        check_share(self, "momentum", "floor")
        check_unit(self, "renew")

    def bounds(self, world: World) -> Bounds:
        """The box of probabilities; its centre is uniform."""
        space = world.model.action_space
        if not isinstance(space, Discrete):
            raise ValueError(
                f"{world.planner} needs discrete actions: Model.action_space must be a "
                f"Discrete(n), not {space!r}"
            )
        zero = torch.zeros(space.n, dtype=world.dtype, device=world.device)
        return Bounds(zero, zero + 1, zero + 1 / space.n, zero + 1 / 2)

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """See `SequencePlanner.begin`."""
        carried = self.recall(world, bounds, carry)
        p = torch.lerp(carried, bounds.center.expand_as(carried), self.renew)
        return Search(p, torch.zeros_like(p), p, p.new_full((len(p),), -torch.inf), state)

    def noise(self, world: World, search: Search, samples: int, iteration: int) -> Noise:
        """See `Population.noise`: uniform, one number for each action."""
        uniform = draws.uniform(world.rng, world.roots, samples, self.horizon)
        return Noise(uniform.to(search.mean))

    def sample(self, bounds: Bounds, search: Search, noise: Noise) -> Tensor:
        """Candidates [B, N, H, n], each action one-hot; the first is the mode."""
        below = search.mean.cumsum(-1)[:, None, :, :-1] <= noise.candidates.unsqueeze(-1)
        action = below.sum(-1)
        action[:, 0] = search.mean.argmax(-1)
        return one_hot(action, len(bounds.low)).to(search.mean)

    def decode(self, bounds: Bounds, sequences: Tensor) -> Tensor:
        """See `SequencePlanner.decode`."""
        return sequences.argmax(-1)

    def refit(self, search: Search, sequences: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `Population.refit`."""
        number = scaled_elites(self.elites, returns.shape[1], self.samples)
        best, top = select_elites(sequences, returns, number)
        frequency = weighted_mean(best, equal_weights(top))
        p = torch.lerp(frequency, search.mean, self.momentum)
        return (1 - self.floor) * p + self.floor / p.shape[-1], search.std

    def warm_start(self, bounds: Bounds, search: Search, plan: Tensor) -> WarmStart:
        """See `SequencePlanner.warm_start`."""
        return WarmStart(next_step(bounds, search.mean), fresh_nowhere(plan))
