"""The template of planners that improve action sequences.

A subclass says in `improve` how a search gets better. Everything else is here: warm start, bounds,
the fallback where no candidate is usable, the budget, keeping the best, the ledger.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.common import check_counts, check_positive, only_finite
from mbrl_core.rollouts import simulate_actions
from mbrl_core.types import Budget, Listener, Model, Plan, Rng, Rollout, Rows
from mbrl_core.world import Bounds, World, bounds_of


class WarmStart(NamedTuple):
    """The carry of a trajectory planner: where the next plan begins its search."""

    mean: Tensor  # [B, H, A] last plan, moved on by one step; its last action is the box's centre
    fresh: Tensor  # [B] bool: rows that begin anew, ignoring `mean`

    def reset(self, mask: Tensor) -> WarmStart:
        """Forget the rows where `mask` [B] is true."""
        return self._replace(fresh=self.fresh | mask.to(self.fresh.device))

    def shift(self, steps: int, fill: Tensor | float = 0.0) -> WarmStart:
        """Move on by `steps` more steps, where a controller executes several actions of one
        plan."""
        tail = torch.zeros_like(self.mean[:, :steps]) + fill
        return self._replace(mean=torch.cat([self.mean[:, steps:], tail], 1))


class Search(NamedTuple):
    """The state of one search for B roots."""

    mean: Tensor  # [B, H, A]
    std: Tensor  # [B, H, A]
    best: Tensor  # [B, H, A] best sequence evaluated so far
    best_return: Tensor  # [B]; -inf before any
    best_final: Rows  # B rows


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlanner:
    """Search over action sequences [B, H, A] of a continuous space.

    horizon: model steps planned ahead, H.
    samples: candidates per root and iteration, N.
    iterations: evaluations of N candidates.
    init_std: standard deviation with which every call begins, as a fraction of half the action
        range (absolute where a bound is infinite).
    particles: simulations averaged per candidate, for stochastic models.
    output: return the `best` sequence evaluated, or the final `mean`, which costs one more
        evaluation and is steadier where a learned model is noisy (the best is returned where the
        mean has no finite return). Either way `Plan.value` is the predicted return of the very
        sequence that is returned.
    """

    horizon: int
    samples: int = 256
    iterations: int = 6
    init_std: float = 0.5
    particles: int = 1
    output: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        check_counts(self, "horizon", "samples", "iterations", "particles")
        check_positive(self, "init_std")
        if self.output not in ("best", "mean"):
            raise ValueError(
                f"{type(self).__name__}.output must be best or mean, not {self.output!r}"
            )

    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: WarmStart | None = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, WarmStart]:
        """See `Planner`. The carry returned is ready for the next control step."""
        name = type(self).__name__
        world = World(name, model, state, rng=rng, budget=budget, needs=("action_space",))
        bounds = bounds_of(world)
        with torch.no_grad():
            search = self.begin(world, bounds, state, carry)
            search, rollout = self.improve(world, bounds, state, search, listen)
            return self._finish(world, bounds, state, search, rollout)

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """Run the iterations that the budget allows; the last rollout becomes the plan's trace."""
        raise TypeError(f"{type(self).__name__} does not say how it improves a plan")

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """The search before its first iteration: the carried mean, full standard deviation."""
        shape = (world.roots, self.horizon, len(bounds.low))
        mean = bounds.center.expand(shape)
        if carry is not None:
            if carry.mean.shape != shape:
                raise ValueError(
                    f"{world.planner} was given a carry for [B, H, A] = {list(carry.mean.shape)}, "
                    f"but plans {list(shape)}: pass None to begin anew"
                )
            mean = torch.where(carry.fresh.view(-1, 1, 1), mean, carry.mean.to(mean))
        mean = bounds.clip(mean)
        std = (self.init_std * bounds.half).expand(shape)
        return Search(mean, std, mean, mean.new_full((world.roots,), -torch.inf), state)

    def affordable(self, world: World, samples: int, **more: int) -> int:
        """How many candidates of the next iteration fit, keeping back what the mean will cost."""
        rows_each = self.horizon * self.particles
        reserve = 1 if self.output == "mean" else 0
        calls = (1 + reserve) * (self.horizon + (world.model.value is not None))
        if not world.calls_left(calls):
            return 0
        return world.affordable(samples + reserve, steps=rows_each, **more) - reserve

    def book(self, world: World, samples: int, **more: int) -> None:
        """Set aside what an iteration of `samples` candidates may cost."""
        world.book(samples, steps=self.horizon * self.particles, **more)

    def _finish(
        self, world: World, bounds: Bounds, state: Rows, search: Search, rollout: Rollout | None
    ) -> tuple[Plan, WarmStart]:
        valid = search.best_return > -torch.inf
        if not bool(valid.all()):
            lost = (~valid).nonzero().squeeze(1).tolist()
            warnings.warn(
                f"{world.planner}: no candidate of roots {lost[:8]} had a finite return within the "
                "budget; their carried plan is returned (Plan.valid is False there)",
                RuntimeWarning,
                stacklevel=4,
            )
        plan, value, final = search.best, search.best_return, search.best_final
        if self.output == "mean" and rollout is not None:
            own = simulate_actions(world, state, search.mean.unsqueeze(1), self.particles)
            returns = only_finite(own.returns[:, 0])
            usable = valid & (returns > -torch.inf)  # between two good sequences may lie a bad one
            plan = torch.where(usable.view(-1, 1, 1), search.mean, search.best)
            value = torch.where(usable, returns, search.best_return)
            final = rows.where(usable, own.final, search.best_final)
        centre = bounds.clip(bounds.center)
        warm = WarmStart(plan, torch.zeros_like(valid)).shift(1, centre)
        return (
            Plan(
                action=plan[:, 0],
                value=value,
                final=final,
                trace=rollout or _nothing_tried(world, state, plan),
                cost=world.cost(),
                valid=valid,
            ),
            warm,
        )


def keep_best(search: Search, actions: Tensor, returns: Tensor, final: Rows) -> Search:
    """The search with its best sequence replaced wherever a candidate beats it."""
    samples = returns.shape[1]
    top, index = returns.max(1)
    row = torch.arange(len(top), device=top.device) * samples + index
    better = top > search.best_return
    best = torch.where(better.view(-1, 1, 1), actions.flatten(0, 1)[row], search.best)
    return search._replace(
        best=best,
        best_return=torch.where(better, top, search.best_return),
        best_final=rows.where(better, rows.take(final, row), search.best_final),
    )


def _nothing_tried(world: World, state: Rows, plan: Tensor) -> Rollout:
    """The trace of a search whose budget allowed no candidate."""
    none = plan.new_zeros((world.roots, 0, plan.shape[1]))
    return Rollout([], none, none, state, none[..., 0], none[..., 0].bool())
