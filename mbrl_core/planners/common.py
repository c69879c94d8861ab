"""What all planners share: checks of their settings, unusable returns, the plan of a rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.types import Plan, Rollout
from mbrl_core.world import World


def plan_of(world: World, rollout: Rollout, returns: Tensor, chosen: Tensor, value: Tensor) -> Plan:
    """The plan that follows candidate `chosen` [B] of a rollout."""
    samples = returns.shape[1]
    row = torch.arange(world.roots, device=chosen.device) * samples + chosen
    return Plan(
        action=rows.take(rollout.actions[0], row),
        value=value,
        final=rows.take(rollout.final, row),
        trace=rollout,
        cost=world.cost(),
        valid=(returns > -torch.inf).any(1),
    )


def only_finite(returns: Tensor) -> Tensor:
    """Returns with NaN and infinities as -inf, so that a broken candidate is never chosen."""
    return torch.where(torch.isfinite(returns), returns, -torch.inf)


def check_counts(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is no positive whole number."""
    for name in names:
        number = getattr(planner, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{type(planner).__name__}.{name} must be a whole number of at least 1, "
                f"not {number!r}"
            )


def check_positive(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is not above zero."""
    for name in names:
        number = getattr(planner, name)
        if not number > 0:
            raise ValueError(f"{type(planner).__name__}.{name} must be above 0, not {number!r}")
