"""CEM and MPPI: two ways to refit a Gaussian over action sequences to its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import check_counts, check_positive, only_finite
from mbrl_core.planners.trajectory import Search, TrajectoryPlanner, keep_best
from mbrl_core.rollouts import simulate_actions
from mbrl_core.types import Event, Listener, Rollout, Rows
from mbrl_core.world import Bounds, World

FEW = 16


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner(TrajectoryPlanner):
    """Sample N sequences from a Gaussian, evaluate them, refit the Gaussian; `iterations` times.

    A subclass says in `refit` what the candidates teach. `min_std` keeps the standard deviation
    from collapsing, as a fraction of half the action range.
    """

    min_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_std >= 0:
            raise ValueError(f"{type(self).__name__}.min_std must be 0 or more, not {self.min_std}")

    def refit(self, search: Search, actions: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """New mean and std [B, H, A] from candidates [B, N, H, A] with returns [B, N].

        A candidate of return -inf must have no say. Rows in which all are -inf keep what they had.
        """
        raise TypeError(f"{type(self).__name__} does not say how it refits its Gaussian")

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """See `TrajectoryPlanner.improve`."""
        rollout = None
        for i in range(self.iterations):
            # A budget is spread over the iterations left, in no smaller parts than FEW candidates.
            most = self.affordable(world, self.samples * (self.iterations - i))
            samples = min(self.samples, most, max(most // (self.iterations - i), FEW))
            if samples < 1:
                break
            self.book(world, samples)
            actions = self._sample(world, bounds, search, samples)
            rollout = simulate_actions(world, state, actions, self.particles)
            returns = only_finite(rollout.returns)
            search = keep_best(search, actions, returns, rollout.final)
            mean, std = self.refit(search, actions, returns)
            std = torch.maximum(std, self.min_std * bounds.half)
            usable = (returns > -torch.inf).any(1).view(-1, 1, 1)
            search = search._replace(
                mean=torch.where(usable, mean, search.mean),
                std=torch.where(usable, std, search.std),
            )
            if listen:
                data = {
                    "actions": actions,
                    "returns": returns,
                    "mean": search.mean,
                    "std": search.std,
                }
                listen(Event("iteration", i, data))
        return search, rollout

    def _sample(self, world: World, bounds: Bounds, search: Search, samples: int) -> Tensor:
        """Candidates [B, N, H, A] inside the bounds; the first is the present mean."""
        noise = draws.normal(world.rng, world.roots, samples, *search.mean.shape[1:])
        noise = noise.to(search.mean)
        noise[:, 0] = 0
        return bounds.clip(torch.addcmul(search.mean.unsqueeze(1), search.std.unsqueeze(1), noise))


@dataclass(frozen=True, kw_only=True)
class CEM(SamplingPlanner):
    """Cross-entropy method: refit mean and std to the `elites` of highest return.

    mean <- momentum * mean + (1 - momentum) * mean of the elites, and std likewise. De Boer et al.
    2005, "A tutorial on the cross-entropy method", section 3; for control as in PETS (Chua et al.
    2018).
    """

    elites: int = 32
    momentum: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "elites")
        if self.elites > self.samples:
            raise ValueError(
                f"CEM.elites ({self.elites}) cannot exceed CEM.samples ({self.samples})"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"CEM.momentum must be in [0, 1), not {self.momentum}")

    def refit(self, search: Search, actions: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `SamplingPlanner.refit`."""
        # A budget may have cut the candidates: the elites stay the same share of them. One alone
        # would leave no spread.
        share = self.elites * returns.shape[1] // self.samples
        top, index = returns.topk(min(self.elites, returns.shape[1], max(2, share)), 1)
        weights = (top > -torch.inf).to(actions)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        index = index[:, :, None, None].expand(-1, -1, *actions.shape[2:])
        mean, std = weighted_moments(actions.gather(1, index), weights)
        return torch.lerp(mean, search.mean, self.momentum), torch.lerp(
            std, search.std, self.momentum
        )


@dataclass(frozen=True, kw_only=True)
class MPPI(SamplingPlanner):
    """Model-predictive path integral control: average all candidates, weighted by exp(return / T).

    mean <- sum_n w_n a_n with w = softmax(returns / temperature) (Williams et al. 2017,
    "Information theoretic MPC for model-based reinforcement learning", eq. 26, where the control
    cost is left to the model's reward). `temperature` is in units of return, or of the standard
    deviation of the candidates' returns where `normalize`. The std stays as it began unless
    `adapt_std` refits it too. At temperature to 0 one iteration is random shooting.
    """

    temperature: float = 0.5
    normalize: bool = True
    adapt_std: bool = False
    output: Literal["best", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")

    def refit(self, search: Search, actions: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `SamplingPlanner.refit`."""
        mean, std = weighted_moments(actions, self.weights(returns))
        return mean, std if self.adapt_std else search.std

    def weights(self, returns: Tensor) -> Tensor:
        """w [B, N] summing to 1; 0 where a return is -inf (all, where all are)."""
        finite = returns > -torch.inf
        above = torch.where(finite, returns - returns.amax(1, keepdim=True), 0.0)
        if self.normalize:
            number = finite.sum(1, keepdim=True).clamp(min=1)
            centred = torch.where(finite, above - above.sum(1, keepdim=True) / number, 0.0)
            spread = (centred.square().sum(1, keepdim=True) / number).sqrt()
            above = above / spread.clamp(min=1e-8)
        weights = torch.where(finite, torch.exp(above / self.temperature), 0.0)
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-30)


def weighted_moments(actions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation [B, H, A] of `actions` [B, N, H, A], `weights` [B,
    N]."""
    mean = torch.einsum("bn,bnha->bha", weights, actions)
    deviation = (actions - mean.unsqueeze(1)).square()
    return mean, torch.einsum("bn,bnha->bha", weights, deviation).sqrt()
