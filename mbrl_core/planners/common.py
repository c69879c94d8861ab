"""What all planners share: checks of their settings, unusable returns, the plan of a rollout."""

from __future__ import annotations

import warnings
from numbers import Integral

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
        then=[rows.take(actions, row) for actions in rollout.actions[1:]],
    )


def warn_of_lost(planner: str, plan: Plan, *, stacklevel: int = 4) -> None:
    """Warn of the roots for which nothing with a finite return was found.

    To be called by a planner's `__call__` itself: the warning points at the caller of that, which
    lies one level further out where `__call__` is decorated.
    """
    if not bool(plan.valid.all()):
        lost = (~plan.valid).nonzero().squeeze(1).tolist()
        warnings.warn(
            f"{planner}: no candidate of roots {lost[:8]} had a finite return; an action without a "
            "prediction is returned (Plan.valid is False there)",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def only_finite(returns: Tensor) -> Tensor:
    """Returns with NaN and infinities as -inf, so that a broken candidate is never chosen."""
    return torch.nan_to_num(returns, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def check_counts(planner: object, *names: str, least: int = 1) -> None:
    """Raises ValueError where one of a planner's fields is no whole number of at least `least`."""
    for name in names:
        number = getattr(planner, name)
        if not isinstance(number, Integral) or isinstance(number, bool) or int(number) < least:
            raise ValueError(
                f"{type(planner).__name__}.{name} must be a whole number of at least {least}, "
                f"not {number!r}"
            )


def check_positive(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is not above zero."""
    for name in names:
        number = getattr(planner, name)
        if not number > 0:
            raise ValueError(f"{type(planner).__name__}.{name} must be above 0, not {number!r}")


def check_choice(planner: object, name: str, *choices: str) -> None:
    """Raises ValueError where one of a planner's fields is none of `choices`."""
    choice = getattr(planner, name)
    if choice not in choices:
        raise ValueError(
            f"{type(planner).__name__}.{name} must be {' or '.join(choices)}, not {choice!r}"
        )


def check_share(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is not in [0, 1)."""
    for name in names:
        share = getattr(planner, name)
        if not 0 <= share < 1:
            raise ValueError(f"{type(planner).__name__}.{name} must be in [0, 1), not {share!r}")


def check_unit(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is not in [0, 1]."""
    for name in names:
        number = getattr(planner, name)
        if not 0 <= number <= 1:
            raise ValueError(f"{type(planner).__name__}.{name} must be in [0, 1], not {number!r}")


def check_not_negative(planner: object, *names: str) -> None:
    """Raises ValueError where one of a planner's fields is below zero."""
    for name in names:
        number = getattr(planner, name)
        if not number >= 0:
            raise ValueError(f"{type(planner).__name__}.{name} must be 0 or more, not {number!r}")
