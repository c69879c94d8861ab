"""Grad-MPC: gradient ascent on the predicted return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import check_positive, only_finite
from mbrl_core.planners.trajectory import Search, TrajectoryPlanner, keep_best
from mbrl_core.rollouts import simulate_actions
from mbrl_core.types import Event, Listener, Rollout, Rows
from mbrl_core.world import Bounds, World


@dataclass(frozen=True, kw_only=True)
class GradMPC(TrajectoryPlanner):
    """Gradient-based planning: J = `samples` candidates, I = `iterations` ascent steps each.

    a_j <- clip(a_j + learning_rate * g_j), g_j = d return / d a_j through the model. Algorithm 1 of
    Jyothir S V et al. 2023, "Gradient-based planning with world models". Added to it: the
    candidates stay inside the action bounds after every step, each candidate's gradient is clipped
    to `max_gradient` (2-norm over its whole sequence), one candidate starts at the warm start, the
    best sequence ever evaluated is kept, and a stochastic model draws the same noise at every step,
    so that the objective stands still. `learning_rate` and the gradient are taken in units of half
    the action range (absolute where a bound is infinite). Every ascent step costs one evaluation of
    all candidates, and one more without gradient comes last.
    """

    samples: int = 8
    iterations: int = 10
    learning_rate: float = 0.1
    optimizer: Literal["adam", "sgd"] = "adam"
    max_gradient: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "learning_rate", "max_gradient")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"GradMPC.optimizer must be adam or sgd, not {self.optimizer!r}")
        if self.output != "best":
            raise ValueError(
                "GradMPC.output must be best: its candidates are not samples of one mean"
            )

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """See `TrajectoryPlanner.improve`."""
        samples = self.affordable(world, self.samples)
        if samples < 1:
            return search, None
        noise = draws.normal(world.rng, world.roots, samples, *search.mean.shape[1:]).to(
            search.mean
        )
        noise[:, 0] = 0
        actions = bounds.clip(search.mean.unsqueeze(1) + search.std.unsqueeze(1) * noise)
        ascent = _Ascent(self.optimizer, self.learning_rate, actions)
        frozen, rollout = draws.fork(world.rng), None
        for i in range(self.iterations + 1):
            last = i == self.iterations or not self._two_more(world, samples)
            self.book(world, samples, gradients=0 if last else self.horizon * self.particles)
            world.rng = draws.copy(frozen)
            rollout, gradient = self._evaluate(world, state, actions, with_gradient=not last)
            returns = only_finite(rollout.returns)
            search = keep_best(search, actions, returns, rollout.final)
            if listen:
                listen(Event("iteration", i, {"actions": actions, "returns": returns}))
            if gradient is None:
                break
            step = ascent.step(self._clip(gradient * bounds.half))
            actions = bounds.clip(actions + bounds.half * step)
        return search, rollout

    def _two_more(self, world: World, samples: int) -> bool:
        """Whether the budget allows an ascent step and the evaluation of what it gives."""
        cost = self.horizon * self.particles
        calls = 2 * (self.horizon + (world.model.value is not None))
        return world.affordable(
            samples, steps=2 * cost, gradients=cost
        ) == samples and world.calls_left(calls)

    def _evaluate(
        self, world: World, state: Rows, actions: Tensor, *, with_gradient: bool
    ) -> tuple[Rollout, Tensor | None]:
        """The candidates' rollout and, where wanted, d return / d actions [B, J, H, A]."""
        if not with_gradient:
            return simulate_actions(world, state, actions, self.particles), None
        with torch.enable_grad():
            actions = actions.detach().requires_grad_()
            rollout = simulate_actions(world, state, actions, self.particles)
            if not rollout.returns.requires_grad:
                raise ValueError(
                    "GradMPC needs a model whose reward can be differentiated with respect to the "
                    "action, and this one returned rewards without a gradient"
                )
            (gradient,) = torch.autograd.grad(rollout.returns.sum(), actions)
        detached = rollout._replace(
            actions=[a.detach() for a in rollout.actions],
            rewards=rollout.rewards.detach(),
            discounts=rollout.discounts.detach(),
            final=rows.detach(rollout.final),
            returns=rollout.returns.detach(),
        )
        return detached, gradient

    def _clip(self, gradient: Tensor) -> Tensor:
        """Each candidate's gradient scaled to at most `max_gradient`; 0 where it is not finite."""
        norm = gradient.flatten(2).norm(dim=2)[:, :, None, None]
        scale = (self.max_gradient / norm.clamp(min=1e-12)).clamp(max=1)
        return torch.where(torch.isfinite(norm), gradient * scale, 0.0)


class _Ascent:
    """Steps up a gradient; per element, so candidates never mix."""

    def __init__(self, kind: str, rate: float, like: Tensor) -> None:
        self.kind, self.rate = kind, rate
        self.first = torch.zeros_like(like)
        self.second = torch.zeros_like(like)
        self.count = 0

    def step(self, gradient: Tensor) -> Tensor:
        """The move for `gradient`: rate * g, or Adam's (Kingma and Ba 2015, algorithm 1)."""
        if self.kind == "sgd":
            return self.rate * gradient
        self.count += 1
        self.first = torch.lerp(gradient, self.first, 0.9)
        self.second = torch.lerp(gradient.square(), self.second, 0.999)
        first = self.first / (1 - 0.9**self.count)
        second = self.second / (1 - 0.999**self.count)
        return self.rate * first / (second.sqrt() + 1e-8)
