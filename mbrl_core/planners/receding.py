"""Receding-horizon control inside the model: plan, take the first action, plan again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import check_counts
from mbrl_core.rollouts import discounted_return, value_of_living
from mbrl_core.types import (
    Budget,
    Carry,
    Cost,
    Listener,
    Model,
    Plan,
    Planner,
    Rng,
    Rollout,
    Rows,
    Transition,
)
from mbrl_core.world import World, replace


@dataclass(frozen=True, kw_only=True)
class RecedingHorizon:
    """Run `planner` at every one of `steps` model steps and commit only its first action.

    In control this simulates a whole episode of model-predictive control; over text it is
    step-level search: search, commit one reasoning step, search again. The inner planner's carry
    warm-starts its next call. A budget is shared out in equal parts over the steps, so that no
    root's end changes what another may spend. To act in a real environment call the inner planner
    once per step instead, passing on its carry.
    """

    planner: Planner
    steps: int

    def __post_init__(self) -> None:
        check_counts(self, "steps")

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
        """See `Planner`. The trace is the one future that was played; the carry is the inner one.

        Raises ValueError where the budget does not allow the steps that are committed.
        """
        world = World("RecedingHorizon", model, state, rng=rng, budget=budget)
        share = _share(world.budget, self.steps, final_calls=int(model.value is not None))
        alive = torch.ones(world.roots, dtype=torch.bool, device=world.device)
        valid, spent = alive.clone(), world.cost()
        actions: list[Rows] = []
        played: list[Transition] = []
        for _ in range(self.steps):
            index = alive.nonzero().squeeze(1)
            if len(index) == 0 or (actions and world.out_of_time()):
                break
            everyone = len(index) == world.roots
            here = state if everyone else rows.take(state, index)
            warm = carry if everyone or carry is None else rows.take(carry, index)
            plan, warm = self.planner(
                model, here, warm, rng=draws.take(rng, index), budget=share, listen=listen
            )
            carry = warm if everyone or warm is None else replace(carry, index, warm)
            actions.append(plan.action if everyone else replace(actions[-1], index, plan.action))
            moved = world.step(state, actions[-1], alive=alive)
            spent = spent + plan.cost._replace(seconds=0.0).spread(index, world.roots)
            valid = valid.index_copy(0, index, valid[index] & plan.valid)
            state, alive = moved.state, alive & (moved.discount != 0)
            played.append(moved)
        return _episode(world, state, alive, valid, spent, actions, played), carry


def _share(budget: Budget, steps: int, final_calls: int) -> Budget:
    """What each of `steps` plans may spend, one model step of each share kept for the commitment
    and `final_calls` of the whole for the value of the last state."""
    limits = {name: limit // steps for name, limit in budget._asdict().items() if limit is not None}
    if budget.calls is not None:
        limits["calls"] = (budget.calls - final_calls) // steps
    if budget.seconds is not None:
        limits["seconds"] = budget.seconds / steps
    for name in ("steps", "calls"):
        if name in limits:
            limits[name] -= 1
            if limits[name] < 0:
                raise ValueError(
                    f"RecedingHorizon: the budget does not allow its own {steps} model steps"
                )
    return Budget(**limits)


def _episode(
    world: World,
    state: Rows,
    alive: Tensor,
    valid: Tensor,
    spent: Cost,
    actions: list[Rows],
    played: list[Transition],
) -> Plan:
    rewards = torch.stack([moved.reward for moved in played], -1)
    discounts = torch.stack([moved.discount for moved in played], -1)
    value = discounted_return(rewards, discounts, value_of_living(world, state, alive))
    trace = Rollout(
        actions=actions,
        rewards=rewards.unsqueeze(1),
        discounts=discounts.unsqueeze(1),
        final=state,
        returns=value.unsqueeze(1),
        ended=~alive.unsqueeze(1),
    )
    return Plan(actions[0], value, state, trace, spent + world.cost(), valid)
