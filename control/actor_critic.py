"""The networks of soft actor-critic: a Gaussian policy squashed into its bounds, and twin critics.

`ActorPolicy` and `CriticValue` are the same networks as planners take them: the `Policy` and the
`Value` of a `Model`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_core import draws
from mbrl_core.types import Box, Proposal, Rng, Rows

LOG_STD = (-5.0, 2.0)  # bounds of the log standard deviation before squashing


class Layers(nn.Module):
    """E perceptrons at once as batched matrix products, with ReLU between the layers."""

    def __init__(
        self,
        networks: int,
        sizes: Sequence[int],
        rng: torch.Generator | None,
        *,
        normalized: bool = False,
    ) -> None:
        """Weights and biases are drawn uniformly from +-1 / sqrt(inputs).

        `normalized`: what enters each ReLU has mean 0 and variance 1 over the units (layer
        normalisation without weights of its own, Ba et al. 2016, arXiv:1607.06450).
        """
        super().__init__()
        self.normalized = normalized
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
            for kind, rows in ((self.weights, inputs), (self.biases, 1)):
                unit = torch.rand(networks, rows, outputs, generator=rng)
                kind.append(nn.Parameter((2 * unit - 1) / inputs**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Rows [n, in] for every network to [E, n, out]."""
        x = x.expand(len(self.weights[0]), *x.shape)
        *inner, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for matrix, offset in inner:
            x = torch.baddbmm(offset, x, matrix)
            x = (F.layer_norm(x, x.shape[-1:]) if self.normalized else x).relu_()
        return torch.baddbmm(bias, x, weight)


class Draw(NamedTuple):
    """Actions drawn from a policy."""

    action: Tensor  # [R, A] between the bounds
    log_prob: Tensor  # [R] log-density, in units of half the action range per dimension


class Actor(nn.Module):
    """A Gaussian squashed by tanh into the action bounds.

        a = center + reach tanh(u),  u ~ N(mu(s), sigma(s)^2)
        log pi(a | s) = sum_i log N(u_i; mu_i, sigma_i^2) - log(1 - tanh(u_i)^2)

    Haarnoja et al. 2018, arXiv:1812.05905, appendix C; the density is that of (a - center) / reach,
    so that a target entropy means the same in every action space.
    """

    center: Tensor
    reach: Tensor

    def __init__(
        self,
        observation_dim: int,
        space: Box,
        hidden: Sequence[int],
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        self.layers = Layers(1, [observation_dim, *hidden, 2 * len(space.low)], rng)
        self.register_buffer("center", (space.low + space.high) / 2)
        self.register_buffer("reach", (space.high - space.low) / 2)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Observations [R, D] to mean and log standard deviation [R, A] before squashing."""
        mean, raw = self.layers(obs)[0].chunk(2, dim=-1)
        low, high = LOG_STD
        return mean, low + (high - low) / 2 * (1 + torch.tanh(raw))

    def mean(self, obs: Tensor) -> Tensor:
        """The squashed mean [R, A]: how the policy acts when it does not explore."""
        return self.center + self.reach * torch.tanh(self(obs)[0])

    def draw(self, obs: Tensor, rng: Rng) -> Draw:
        """One action for each of R observations; gradients flow through it."""
        mean, log_std = self(obs)
        noise = draws.normal(rng, *mean.shape).to(mean)
        return self.squash(mean, log_std, noise)

    def squash(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> Draw:
        """The action that standard normal `noise` [R, A] leads to, and its log-density."""
        u = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        shrinking = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log(1 - tanh(u)^2), stable
        return Draw(self.center + self.reach * torch.tanh(u), (gaussian - shrinking).sum(-1))


class Critics(nn.Module):
    """Several networks Q(s, a) of the soft return; two in soft actor-critic.

    `layer_norm` normalises their layers, which bounds what they say of actions far from those they
    were fitted to (Ball et al. 2023, arXiv:2302.02948, section 4.2).
    """

    center: Tensor
    reach: Tensor

    def __init__(
        self,
        observation_dim: int,
        space: Box,
        hidden: Sequence[int],
        rng: torch.Generator | None = None,
        *,
        networks: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [observation_dim + len(space.low), *hidden, 1]
        self.layer_norm = layer_norm
        self.layers = Layers(networks, sizes, rng, normalized=layer_norm)
        self.register_buffer("center", (space.low + space.high) / 2)
        self.register_buffer("reach", (space.high - space.low) / 2)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Observations [R, D] and actions [R, A] to Q of every network [E, R]."""
        unit = (action - self.center) / self.reach
        return self.layers(torch.cat([obs, unit], -1))[..., 0]


def observed(state: Rows) -> Tensor:
    """The observations [R, D] in the states of a model of observations, such as an ensemble."""
    return state.obs


@dataclass(frozen=True)
class ActorPolicy:
    """The `Policy` of an actor.

    `observe` reads observations [R, D] out of the states that a planner holds.
    """

    actor: Actor
    observe: Callable[[Rows], Tensor]

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`: `num` draws, equally likely because they are draws."""
        mean, log_std = self.actor(self.observe(state))
        noise = draws.normal(rng, len(mean), num, mean.shape[1]).to(mean)
        drawn = self.actor.squash(mean.unsqueeze(1), log_std.unsqueeze(1), noise)
        return Proposal(drawn.action.flatten(0, 1), mean.new_zeros(len(mean), num))

    def mode(self, state: Rows) -> Rows:
        """See `Policy`: the squashed mean."""
        return self.actor.mean(self.observe(state))


@dataclass(frozen=True)
class CriticValue:
    """The `Value` of an actor and its critics: V(s) = min_i Q_i(s, a), a the squashed mean.

    The critics' returns are soft: those of soft actor-critic hold the entropy still to come.
    """

    actor: Actor
    critics: Critics
    observe: Callable[[Rows], Tensor]

    def value(self, state: Rows) -> Tensor:
        """See `Value`."""
        obs = self.observe(state)
        return self.critics(obs, self.actor.mean(obs)).amin(0)
