"""Acting without looking ahead: the marks that planners are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbrl_core.planners.common import check_choice, warn_of_lost
from mbrl_core.planners.shooting import uniform_sequences
from mbrl_core.types import (
    Budget,
    BudgetError,
    Carry,
    Discrete,
    Listener,
    Model,
    Plan,
    Proposal,
    Rng,
    Rollout,
    Rows,
)
from mbrl_core.world import World, bounds_of


@dataclass(frozen=True, kw_only=True)
class Reflex:
    """An action without a step of the model, so that its gain over this is what planning is worth.

    action: `policy`, one draw from the model's policy; `mode`, its likeliest action or its mean,
        where it tells it, as is usual in evaluation; `random`, as
        `uniform_sequences` draws them; or `zero`, no force: 0, or the bound nearest to
        it, and action 0 of a discrete space.

    `Plan.value` is 0: nothing is predicted.
    """

    action: Literal["policy", "mode", "random", "zero"] = "policy"

    def __post_init__(self) -> None:
        check_choice(self, "action", "policy", "mode", "random", "zero")

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

        Raises BudgetError where the budget does not allow to ask the policy once.
        """
        follows = self.action in ("policy", "mode")
        needs = ("policy",) if follows else ("action_space",)
        world = World("Reflex", model, state, rng=rng, budget=budget, needs=needs, games=True)
        nothing = torch.zeros(world.roots, dtype=world.dtype, device=world.device)
        valid = torch.ones_like(nothing, dtype=torch.bool)
        if follows:
            proposal = _asked(world, state, draw=self.action == "policy")
            action, valid = proposal.actions, proposal.log_prior[:, 0] > -torch.inf
        elif self.action == "random":
            action = uniform_sequences(world, 1, 1)[:, 0, 0]
        else:
            action = _zero(world)
        none = nothing.view(-1, 1, 1)[:, :, :0]
        ended = torch.zeros_like(valid).unsqueeze(1)
        trace = Rollout([], none, none, state, nothing.unsqueeze(1), ended)
        plan = Plan(action, nothing, state, trace, world.cost(), valid)
        warn_of_lost("Reflex", plan)
        return plan, None


def _asked(world: World, state: Rows, *, draw: bool) -> Proposal:
    """What the policy does at each root."""
    if world.affordable(1, proposals=1) < 1 or not world.calls_left(1):
        raise BudgetError("Reflex: the budget does not allow to ask the policy once")
    return world.propose(state, 1) if draw else world.mode(state)


def _zero(world: World) -> Tensor:
    """The action [B, A] nearest to zero, or [B] of a discrete space."""
    if isinstance(world.model.action_space, Discrete):
        return torch.zeros(world.roots, dtype=torch.int64, device=world.device)
    bounds = bounds_of(world)
    return bounds.clip(torch.zeros_like(bounds.low).expand(world.roots, -1))
