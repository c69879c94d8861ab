"""Planners that sample sequences, evaluate them and learn from them: CEM and MPPI.

`Population` is the loop, `SamplingPlanner` a Gaussian in it; a planner adds the `refit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import (
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
    only_finite,
)
from mbrl_core.planners.fused import Advance, fused
from mbrl_core.planners.series import (
    INTERPOLATIONS,
    Interpolation,
    along_time,
    colour,
    nearest_knots,
    savitzky_golay,
    spline,
)
from mbrl_core.planners.trajectory import (
    Search,
    SequencePlanner,
    TrajectoryPlanner,
    WarmStart,
    first_rows,
    keep_best,
)
from mbrl_core.rollouts import Futures, follow_actions
from mbrl_core.types import Event, Listener, Rollout, Rows
from mbrl_core.world import Bounds, World

FEW = 16
HOT = 1e38  # a temperature at which all returns weigh the same


class Noise(NamedTuple):
    """The random numbers of one iteration, drawn before it; what follows computes with tensors."""

    candidates: Tensor  # [B, n, ...] what n candidates are made of
    choice: Tensor | None = None  # [B, 1] uniform; which candidate is returned, where that is drawn


@dataclass(frozen=True, kw_only=True)
class Population(SequencePlanner):
    """The loop of planners that sample N candidates, evaluate them and learn from them.

    compiled: run each iteration, the model's steps included, as one function made by
        `torch.compile`; see `planners/fused.py`. Pays where the model is small or on a GPU. The
        first plan of each shape takes up to a minute. The model must draw no random numbers, and
        rows that have ended are computed, and counted, to the horizon.
    """

    compiled: bool = False

    def noise(self, world: World, search: Search, samples: int, iteration: int) -> Noise:
        """The random numbers for an iteration of so many candidates."""
        raise TypeError(f"{type(self).__name__} does not say what it draws")

    def sample(self, bounds: Bounds, search: Search, noise: Noise) -> Tensor:
        """Candidates [B, N, L, A]."""
        raise TypeError(f"{type(self).__name__} does not say how it samples")

    def refit(self, search: Search, sequences: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """New mean and std [B, L, A] from candidates [B, N, L, A] with returns [B, N].

        A candidate of return -inf must have no say. Rows in which all are -inf keep what they had.
        """
        raise TypeError(f"{type(self).__name__} does not say how it refits its distribution")

    def population(self, iteration: int) -> int:
        """How many candidates an iteration evaluates."""
        return self.samples

    def evaluate(
        self, world: World, bounds: Bounds, state: Rows, search: Search, sequences: Tensor
    ) -> tuple[Search, Tensor, Futures]:
        """Simulate candidates [B, N, L, A]: the search, the candidates and their futures, of which
        a subclass may change all."""
        return search, sequences, follow_actions(world, state, self.decode(bounds, sequences))

    def learn(
        self,
        bounds: Bounds,
        search: Search,
        noise: Noise,
        sequences: Tensor,
        returns: Tensor,
        final: Rows,
    ) -> Search:
        """The search after candidates [B, N, L, A] with returns [B, N] and last states `final`."""
        search = self.remember(search, noise, sequences, returns, final)
        mean, std = self.refit(search, sequences, returns)
        usable = (returns.amax(1) > -torch.inf).view(-1, 1, 1)
        return search._replace(
            mean=torch.where(usable, mean, search.mean),
            std=torch.where(usable, std, search.std),
        )

    def remember(
        self, search: Search, noise: Noise, sequences: Tensor, returns: Tensor, final: Rows
    ) -> Search:
        """The search with what a plan would return after these candidates: the best so far."""
        return keep_best(search, sequences, returns, final)

    def advance(
        self, world: World, bounds: Bounds, state: Rows, search: Search, noise: Noise
    ) -> tuple[Search, Tensor, Futures]:
        """One iteration: the search after it, its candidates and their futures."""
        sequences = self.sample(bounds, search, noise)
        search, sequences, futures = self.evaluate(world, bounds, state, search, sequences)
        returns = only_finite(futures.returns)
        return (
            self.learn(bounds, search, noise, sequences, returns, futures.final),
            sequences,
            futures,
        )

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """See `SequencePlanner.improve`."""
        advance: Advance = fused(self, world) if self.compiled else self.advance
        futures = None
        for i in range(self.iterations):
            samples = self._next_population(world, i)
            if samples < 1:
                break
            self.book(world, samples)
            if search.kept is not None and search.kept.shape[1] >= samples:
                search = search._replace(kept=search.kept[:, : samples - 1])
            with world.iteration():
                noise = self.noise(world, search, samples, i)
                search, sequences, futures = advance(world, bounds, state, search, noise)
            if listen:
                data = {
                    "actions": self.decode(bounds, sequences),
                    "returns": only_finite(futures.returns),
                    "mean": search.mean,
                    "std": search.std,
                }
                listen(Event("iteration", i, data))
        return search, futures.rollout() if futures else None

    def _next_population(self, world: World, iteration: int) -> int:
        """A budget is spread over the iterations left, in no smaller parts than FEW candidates."""
        if world.unlimited:
            return self.population(iteration)
        wanted = [self.population(i) for i in range(iteration, self.iterations)]
        most = self.affordable(world, sum(wanted))
        return min(wanted[0], most, max(most * wanted[0] // sum(wanted), FEW))


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner(Population, TrajectoryPlanner):
    """Sample N sequences from a Gaussian, evaluate them, refit the Gaussian; `iterations` times.

    A subclass says in `refit` what the candidates teach.

    min_std: floor of the standard deviation, as a fraction of half the action range.
    keep_mean: whether the present mean is one of the candidates: always, in the last iteration
        only, or never.
    beta: colour of the noise along time: its power falls as frequency^-beta. 0 is white.
    knots: search over so many values per action dimension, at equal distances in time, and simulate
        the `interpolation` between them; None searches over every step.
    """

    min_std: float = 0.02
    keep_mean: Literal["always", "last", "never"] = "always"
    beta: float = 0.0
    knots: int | None = None
    interpolation: Interpolation = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "min_std", "beta")
        check_choice(self, "keep_mean", "always", "last", "never")
        check_choice(self, "interpolation", *INTERPOLATIONS)
        if self.knots is not None:
            check_counts(self, "knots")
            if self.knots > self.horizon:
                name = type(self).__name__
                raise ValueError(
                    f"{name}.knots ({self.knots}) cannot exceed {name}.horizon ({self.horizon})"
                )

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """See `TrajectoryPlanner.begin`."""
        search = super().begin(world, bounds, state, carry)
        if self.knots is None:
            return search
        mean = self.encode(bounds, search.mean)
        return search._replace(mean=mean, best=mean, std=search.std[:, : self.knots])

    def encode(self, bounds: Bounds, actions: Tensor) -> Tensor:
        """The sequences [..., L, A] of the search that come nearest to `actions` [..., H, A]."""
        if self.knots is None:
            return actions
        knots = along_time(actions, nearest_knots, self.interpolation, self.knots, self.horizon)
        return bounds.clip(knots)

    def decode(self, bounds: Bounds, sequences: Tensor) -> Tensor:
        """See `SequencePlanner.decode`."""
        if self.knots is None:
            return sequences
        return bounds.clip(
            along_time(sequences, spline, self.interpolation, self.knots, self.horizon)
        )

    def noise(self, world: World, search: Search, samples: int, iteration: int) -> Noise:
        """See `Population.noise`: standard normal, 0 where the present mean is a candidate."""
        kept = 0 if search.kept is None else search.kept.shape[1]
        noise = self.gaussian(world, search, samples - kept)
        last = iteration == self.iterations - 1
        if self.keep_mean == "always" or (last and self.keep_mean == "last"):
            noise.select(1, 0).zero_()
        return Noise(noise)

    def gaussian(self, world: World, search: Search, number: int) -> Tensor:
        """Standard normal numbers [B, n, L, A] of colour `beta`."""
        noise = draws.normal(world.rng, world.roots, number, *search.mean.shape[1:])
        noise = noise.to(search.mean)
        if self.beta == 0:
            return noise
        return along_time(noise, colour, self.beta, noise.shape[2]).contiguous()

    def sample(self, bounds: Bounds, search: Search, noise: Noise) -> Tensor:
        """Candidates [B, N, L, A] inside the bounds: draws, and those kept."""
        sequences = self.scatter(bounds, search, noise.candidates)
        if search.kept is None:
            return sequences
        return torch.cat([sequences, search.kept], 1)

    def scatter(self, bounds: Bounds, search: Search, noise: Tensor) -> Tensor:
        """Draws [B, n, L, A] from the Gaussian, inside the bounds; `noise` is overwritten."""
        mean, std = search.mean.unsqueeze(1), search.std.unsqueeze(1)
        return bounds.clip_(torch.addcmul(mean, std, noise, out=noise))

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
        return search._replace(
            mean=bounds.clip(search.mean),
            std=torch.maximum(search.std, self.min_std * bounds.half),
        )


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
        check_elites(self, self.elites)
        check_share(self, "momentum")

    def refit(self, search: Search, sequences: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `Population.refit`."""
        best, top = select_elites(sequences, returns, self.number_of_elites(returns.shape[1]))
        mean, std = weighted_moments(best, equal_weights(top))
        return torch.lerp(mean, search.mean, self.momentum), torch.lerp(
            std, search.std, self.momentum
        )

    def number_of_elites(self, candidates: int) -> int:
        """How many of so many candidates are elite."""
        return scaled_elites(self.elites, candidates, self.samples)


@dataclass(frozen=True, kw_only=True)
class MPPI(SamplingPlanner):
    """Model-predictive path integral control: average all candidates, weighted by exp(return / T).

    mean <- sum_n w_n a_n with w = softmax(returns / temperature) (Williams et al. 2017,
    "Information theoretic MPC for model-based reinforcement learning", eq. 26). The std stays as it
    began unless `adapt_std` refits it too. At temperature to 0 one iteration is random shooting.

    temperature: in units of return, or of the standard deviation of the candidates' returns where
        `normalize`.
    control_cost: gamma of the same paper, algorithm 2, in units of return: every candidate is
        charged gamma * sum_t u_t' Sigma^-1 e_t, where u is the mean, e the candidate's deviation
        from it and Sigma the diagonal of squared standard deviations. The sum runs over all that
        is searched over, steps after the end of an episode too. 0 leaves the cost of control to the
        model's reward.
    smooth: smooth every new mean by parabolas fitted to so many neighbouring values, an odd number
        (Savitzky and Golay 1964); 1 does nothing.
    """

    temperature: float = 0.5
    normalize: bool = True
    adapt_std: bool = False
    control_cost: float = 0.0
    smooth: int = 1
    output: Literal["best", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")
        check_not_negative(self, "control_cost")
        check_counts(self, "smooth")
        longest = self.knots or self.horizon
        if self.smooth % 2 == 0 or self.smooth > longest:
            raise ValueError(
                f"MPPI.smooth must be an odd number of at most {longest} values, not {self.smooth}"
            )

    def refit(self, search: Search, sequences: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `Population.refit`."""
        if self.control_cost:
            price = search.mean / search.std.square().clamp(min=1e-12)
            charged = torch.einsum("bla,bnla->bn", price, sequences - search.mean.unsqueeze(1))
            returns = returns - self.control_cost * charged
        weights = self.weights(returns)
        if self.adapt_std:
            mean, std = weighted_moments(sequences, weights)
        else:
            mean, std = weighted_mean(sequences, weights), search.std
        if self.smooth > 1:
            mean = along_time(mean, savitzky_golay, self.smooth, mean.shape[1])
        return mean, std

    def weights(self, returns: Tensor) -> Tensor:
        """w [B, N] summing to 1; 0 where a return is -inf (all, where all are)."""
        return exponential_weights(returns, self.temperature, normalize=self.normalize)


def check_elites(planner: SequencePlanner, elites: int) -> None:
    """Raises ValueError where the number of elites is none or more than there are candidates."""
    check_counts(planner, "elites")
    if elites > planner.samples:
        name = type(planner).__name__
        raise ValueError(
            f"{name}.elites ({elites}) cannot exceed {name}.samples ({planner.samples})"
        )


def scaled_elites(elites: int, candidates: int, samples: int) -> int:
    """The elites stay the same share of candidates that a budget has cut; one alone, where there
    were more, would leave no spread."""
    return min(elites, candidates, max(2, elites * candidates // samples))


def select_elites(sequences: Tensor, returns: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` best candidates [B, E, ...] and their returns [B, E], the best first."""
    top, index = returns.topk(number, 1)
    root = first_rows(len(index), 1, index.device).unsqueeze(1)
    return sequences[root, index], top


def equal_weights(returns: Tensor) -> Tensor:
    """Weights [B, N] of 1/n for the n candidates that have a return; 0 for the others."""
    return torch.softmax(returns / HOT, 1).nan_to_num(0.0)


def exponential_weights(returns: Tensor, temperature: float, *, normalize: bool = False) -> Tensor:
    """softmax(returns / temperature) over the N candidates: weights [B, N] summing to 1.

    The temperature is in units of return, or of the returns' standard deviation where `normalize`.
    The weight is 0 where a return is -inf, all weights where all are.
    """
    above = returns - returns.amax(1, keepdim=True)  # NaN where all are -inf
    if normalize:
        above = above / _spread(above).clamp(min=1e-8)
    return torch.softmax(above / temperature, 1).nan_to_num(0.0)


def _spread(values: Tensor) -> Tensor:
    """The (biased) standard deviation [B, 1] of those of the values [B, N] that are finite."""
    finite = values > -torch.inf
    number = finite.sum(1, keepdim=True).clamp(min=1).to(values)
    values = torch.where(finite, values, 0.0)
    deviation = torch.where(finite, values - values.sum(1, keepdim=True) / number, 0.0)
    return torch.linalg.vector_norm(deviation, dim=1, keepdim=True) / number.sqrt()


def weighted_mean(sequences: Tensor, weights: Tensor) -> Tensor:
    """The mean [B, L, A] of sequences [B, N, L, A] under weights [B, N]."""
    mean = torch.bmm(weights.unsqueeze(1), sequences.flatten(2))
    return mean.view(len(mean), *sequences.shape[2:])


def weighted_moments(sequences: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation [B, L, A] of sequences [B, N, L, A]."""
    flat, weights = sequences.flatten(2), weights.unsqueeze(1)
    mean = torch.bmm(weights, flat)
    variance = torch.bmm(weights, (flat - mean).square_())
    shape = (len(mean), *sequences.shape[2:])
    return mean.view(shape), variance.sqrt_().view(shape)
