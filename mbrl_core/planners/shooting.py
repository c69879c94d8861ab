"""Random shooting: draw N futures, reduce them to one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import check_counts, only_finite, plan_of, warn_of_lost
from mbrl_core.reducers import Argmax, Reducer
from mbrl_core.rollouts import simulate_actions, simulate_policy
from mbrl_core.types import (
    Budget,
    BudgetError,
    Carry,
    Discrete,
    Event,
    Listener,
    Model,
    Plan,
    Rng,
    Rows,
)
from mbrl_core.world import World, bounds_of


@dataclass(frozen=True, kw_only=True)
class RandomShooting:
    """N independent futures, one chosen by `reduce`.

    With `actions="policy"` the policy draws every action: over text this is best-of-N (`Argmax`) or
    self-consistency (`Vote`). With `actions="uniform"` whole sequences are drawn at once from the
    action space (Rao 2009, "A survey of numerical methods for optimal control"; uniform between the
    bounds, normal with standard deviation 1 where one is infinite: around 0, or 1 inside the
    other). `horizon` counts model steps, `samples` is N.
    """

    samples: int
    horizon: int
    actions: Literal["policy", "uniform"] = "policy"
    reduce: Reducer = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_counts(self, "samples", "horizon")
        if self.actions not in ("policy", "uniform"):
            raise ValueError(
                f"RandomShooting.actions must be policy or uniform, not {self.actions!r}"
            )

    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: Carry = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, Carry]:
        """See `Planner`. There is no warm start: the carry is None.

        Raises BudgetError where the budget does not allow a single future.
        """
        open_loop = self.actions == "uniform"
        needs = ("action_space",) if open_loop else ("policy",)
        world = World("RandomShooting", model, state, rng=rng, budget=budget, needs=needs)
        cost = {
            "steps": self.horizon,
            "proposals": 0 if open_loop else self.horizon,
        }
        if world.budget.tokens is not None and self.horizon == 1:
            raise ValueError(
                "RandomShooting of horizon 1 draws all its samples in one step, where a token "
                "budget cannot stop it: set samples instead"
            )
        calls = self.horizon * (1 if open_loop else 2) + (model.value is not None)
        samples = world.affordable(self.samples, **cost)
        if samples < 1 or not world.calls_left(calls):
            raise BudgetError(
                "RandomShooting: the budget does not allow one future of this horizon"
            )
        if open_loop:
            sequences = uniform_sequences(world, samples, self.horizon)
            rollout = simulate_actions(world, state, sequences)
        else:
            rollout = simulate_policy(world, state, self.horizon, samples)
        returns = only_finite(rollout.returns)
        if listen:
            listen(Event("iteration", 0, {"returns": returns}))
        chosen, value = self.reduce(returns, rollout.final)
        plan = plan_of(world, rollout, returns, chosen, value)
        warn_of_lost(world.planner, plan)
        return plan, None


def uniform_sequences(world: World, samples: int, horizon: int) -> Tensor:
    """Sequences [B, N, H, A] from the action space, or [B, N, H] where it is discrete: uniform
    between the bounds, normal around their centre where one is infinite."""
    space = world.model.action_space
    shape = (world.roots, samples, horizon)
    if isinstance(space, Discrete):
        return draws.integers(world.rng, space.n, *shape).to(world.device)
    bounds = bounds_of(world)
    wide = (*shape, len(bounds.low))
    noise = 2 * draws.uniform(world.rng, *wide).to(bounds.low) - 1
    if not bool(torch.isfinite(bounds.high - bounds.low).all()):
        normal = draws.normal(world.rng, *wide).to(bounds.low)
        noise = torch.where(torch.isfinite(bounds.high - bounds.low), noise, normal)
    return bounds.clip(bounds.center + bounds.half * noise)
