"""Planners that climb the predicted return: Grad-MPC, and CEM with gradient steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import (
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    check_unit,
    only_finite,
)
from mbrl_core.planners.sampling import CEM
from mbrl_core.planners.trajectory import Search, TrajectoryPlanner, WarmStart, keep_best
from mbrl_core.rollouts import Futures, simulate_actions
from mbrl_core.types import Event, Listener, Rollout, Rows
from mbrl_core.world import Bounds, World

Optimizer = Literal["adam", "sgd", "momentum", "rmsprop"]


@dataclass(frozen=True, kw_only=True)
class GradientPlanner(TrajectoryPlanner):
    """What planners share that follow the gradient of the predicted return.

    learning_rate: step length. It and the gradient are in units of half the action range (absolute
        where a bound is infinite).
    last_rate: share of the learning rate left at the last step; it falls there along a cosine
        (Loshchilov and Hutter 2017). 1 keeps it.
    optimizer: how a gradient becomes a step, per element: `sgd`, `momentum` (0.9), `rmsprop` (0.99)
        or `adam` (0.9, 0.999).
    max_gradient: each candidate's gradient is scaled to at most this 2-norm over its sequence.
    """

    learning_rate: float = 0.1
    last_rate: float = 1.0
    optimizer: Optimizer = "adam"
    max_gradient: float = 10.0

    differentiates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "learning_rate", "max_gradient")
        check_choice(self, "optimizer", "adam", "sgd", "momentum", "rmsprop")
        check_unit(self, "last_rate")

    def climb(
        self, world: World, bounds: Bounds, state: Rows, ascent: Ascent, sequences: Tensor
    ) -> tuple[Tensor, Rollout]:
        """Candidates [B, N, L, A] after one step up, and their rollout before it."""
        rollout, gradient = self._gradient(world, bounds, state, sequences)
        step = ascent.step(clip_norm(gradient * bounds.half, self.max_gradient))
        return bounds.clip(sequences + bounds.half * step), rollout

    def ascent(self, sequences: Tensor, steps: int) -> Ascent:
        """The optimiser at the first of so many steps."""
        return Ascent(self.optimizer, self.learning_rate, self.last_rate, steps, sequences)

    def _gradient(
        self, world: World, bounds: Bounds, state: Rows, sequences: Tensor
    ) -> tuple[Rollout, Tensor]:
        """The candidates' rollout and d return / d sequences [B, N, L, A]."""
        with torch.enable_grad():
            sequences = sequences.detach().requires_grad_()
            rollout = simulate_actions(world, state, self.decode(bounds, sequences))
            gradient = None
            if rollout.returns.requires_grad:
                total = rollout.returns.sum()
                (gradient,) = torch.autograd.grad(total, sequences, allow_unused=True)
            if gradient is None:
                raise ValueError(
                    f"{world.planner} needs a model whose reward can be differentiated with "
                    "respect to the action, and this one returned rewards without a gradient"
                )
        detached = rollout._replace(
            actions=[a.detach() for a in rollout.actions],
            rewards=rollout.rewards.detach(),
            discounts=rollout.discounts.detach(),
            final=rows.detach(rollout.final),
            returns=rollout.returns.detach(),
        )
        return detached, gradient


@dataclass(frozen=True, kw_only=True)
class GradMPC(GradientPlanner):
    """Gradient-based planning: J = `samples` candidates, I = `iterations` ascent steps each.

    a_j <- clip(a_j + learning_rate * g_j), g_j = d return / d a_j through the model. Algorithm 1 of
    Jyothir S V et al. 2023, "Gradient-based planning with world models". Added to it: the
    candidates stay inside the action bounds after every step, one candidate starts at the warm
    start (unless all start at the policy), the best sequence ever evaluated is kept, and a
    stochastic model draws the same noise at every step, so that the objective stands still. Every
    ascent step costs one evaluation of all candidates, and one more without gradient comes last.

    policy_samples: so many candidates start at rollouts of the model's policy (Policy+Grad-MPC of
        the same paper), all but the first with noise of `policy_std` added, which is a fraction of
        half the action range. The other starts are the warm start and draws around it; where
        `policy_samples` is `samples` there are none, and the carry is not used.
    """

    samples: int = 8
    iterations: int = 10
    policy_samples: int = 0
    policy_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "policy_samples", least=0)
        check_not_negative(self, "policy_std")
        if self.policy_samples > self.samples:
            raise ValueError(
                f"GradMPC.policy_samples ({self.policy_samples}) cannot exceed GradMPC.samples "
                f"({self.samples})"
            )

    def outputs(self) -> tuple[str, ...]:
        """See `SequencePlanner.outputs`: the candidates are not samples of one mean."""
        return ("best",)

    def needs(self) -> tuple[str, ...]:
        """See `SequencePlanner.needs`."""
        return (*super().needs(), "policy") if self.policy_samples else super().needs()

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """See `TrajectoryPlanner.begin`."""
        search = super().begin(world, bounds, state, carry)
        if self.policy_samples == 0:
            return search
        return search._replace(kept=self.policy_sequences(world, state, self.policy_samples))

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """See `SequencePlanner.improve`."""
        samples = self.affordable(world, self.samples)
        if samples < 1:
            return search, None
        actions = self._starts(world, bounds, search, samples)
        ascent = self.ascent(actions, self.iterations)
        frozen, rollout = draws.fork(world.rng), None
        for i in range(self.iterations + 1):
            if not world.time_for(1):
                break
            last = i == self.iterations or not self._two_more(world, samples)
            self.book(world, samples, gradients=0 if last else self.horizon)
            world.rng, tried = draws.copy(frozen), actions
            with world.iteration():
                if last:
                    rollout = simulate_actions(world, state, actions)
                else:
                    actions, rollout = self.climb(world, bounds, state, ascent, actions)
                returns = only_finite(rollout.returns)
                search = keep_best(search, tried, returns, rollout.final)
            if listen:
                listen(Event("iteration", i, {"actions": tried, "returns": returns}))
            if last:
                break
        return search, rollout

    def _starts(self, world: World, bounds: Bounds, search: Search, samples: int) -> Tensor:
        """Where the candidates [B, J, H, A] begin: the warm start, draws around it, the policy."""
        noise = draws.normal(world.rng, world.roots, samples, *search.mean.shape[1:])
        noise = noise.to(search.mean)
        kept = search.mean[:, None][:, :0] if search.kept is None else search.kept[:, :samples]
        number = samples - kept.shape[1]
        noise[:, 0] = 0
        noise[:, number : number + 1] = 0  # the first rollout of the policy, where there is one
        around = search.mean.unsqueeze(1) + search.std.unsqueeze(1) * noise[:, :number]
        drafted = kept + self.policy_std * bounds.half * noise[:, number:]
        return bounds.clip(torch.cat([around, drafted], 1))

    def _two_more(self, world: World, samples: int) -> bool:
        """Whether the budget allows an ascent step and the evaluation of what it gives."""
        calls = 2 * (self.horizon + (world.model.value is not None))
        fits = world.affordable(samples, steps=2 * self.horizon, gradients=self.horizon) == samples
        return fits and world.calls_left(calls) and world.time_for(2)


@dataclass(frozen=True, kw_only=True)
class GradCEM(GradientPlanner, CEM):
    """CEM whose candidates take `gradient_steps` up the predicted return before they are judged.

    Bharadhwaj, Xie and Shkurti 2020, "Model-predictive control via cross-entropy and gradient-based
    optimization". One evaluation of all candidates per gradient step comes on top of CEM's own; a
    stochastic model draws the same noise in all evaluations of one iteration.
    """

    gradient_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "gradient_steps")
        if self.compiled:
            raise ValueError("GradCEM differentiates the model and cannot be compiled")

    def evaluations(self) -> int:
        """See `SequencePlanner.evaluations`."""
        return 1 + self.gradient_steps

    def affordable(self, world: World, samples: int, **more: int) -> int:
        """See `SequencePlanner.affordable`."""
        gradients = self.gradient_steps * self.horizon
        return super().affordable(world, samples, gradients=gradients, **more)

    def book(self, world: World, samples: int, **more: int) -> None:
        """See `SequencePlanner.book`."""
        gradients = self.gradient_steps * self.horizon
        super().book(world, samples, gradients=gradients, **more)

    def evaluate(
        self, world: World, bounds: Bounds, state: Rows, search: Search, sequences: Tensor
    ) -> tuple[Search, Tensor, Futures]:
        """See `Population.evaluate`. A step may overshoot: the best before it is kept, too."""
        rng, frozen = world.rng, draws.copy(world.rng)
        ascent = self.ascent(sequences, self.gradient_steps)
        for _ in range(self.gradient_steps):
            world.rng = draws.copy(frozen)
            climbed, rollout = self.climb(world, bounds, state, ascent, sequences)
            search = keep_best(search, sequences, only_finite(rollout.returns), rollout.final)
            sequences = climbed
        world.rng = rng
        return super().evaluate(world, bounds, state, search, sequences)


class Ascent:
    """Steps up a gradient; per element, so candidates never mix."""

    def __init__(
        self, kind: Optimizer, rate: float, last_rate: float, steps: int, like: Tensor
    ) -> None:
        self.kind, self.rate, self.last_rate, self.steps = kind, rate, last_rate, steps
        self.first = torch.zeros_like(like)
        self.second = torch.zeros_like(like)
        self.count = 0

    def step(self, gradient: Tensor) -> Tensor:
        """The move for `gradient` g: the present rate times

        g (sgd), v = 0.9 v + g (momentum, Polyak 1964), g / sqrt(s) with s = 0.99 s + 0.01 g^2
        (rmsprop, Hinton 2012), or Adam's (Kingma and Ba 2015, algorithm 1).
        """
        rate = self._rate()
        self.count += 1
        if self.kind == "sgd":
            return rate * gradient
        if self.kind == "momentum":
            self.first = 0.9 * self.first + gradient
            return rate * self.first
        if self.kind == "rmsprop":
            self.second = torch.lerp(gradient.square(), self.second, 0.99)
            return rate * gradient / (self.second.sqrt() + 1e-8)
        self.first = torch.lerp(gradient, self.first, 0.9)
        self.second = torch.lerp(gradient.square(), self.second, 0.999)
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        return rate * first / (second.sqrt() + 1e-8)

    def _rate(self) -> float:
        """From `rate` at the first step down half a cosine to `last_rate * rate` at the last."""
        progress = self.count / max(self.steps - 1, 1)
        share = (1 + math.cos(math.pi * progress)) / 2
        return self.rate * (self.last_rate + (1 - self.last_rate) * share)


def clip_norm(gradient: Tensor, largest: float) -> Tensor:
    """Each candidate's gradient [B, N, L, A] scaled to a 2-norm of at most `largest`; 0 where it is
    not finite."""
    norm = gradient.flatten(2).norm(dim=2)[:, :, None, None]
    scale = (largest / norm.clamp(min=1e-12)).clamp(max=1)
    return torch.where(torch.isfinite(norm), gradient * scale, 0.0)
