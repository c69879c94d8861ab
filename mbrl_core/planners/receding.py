"""Receding-horizon control inside the model: plan, take the first action, plan again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.paths import first_actions
from mbrl_core.planners.common import check_counts
from mbrl_core.returns import discounted_return
from mbrl_core.types import (
    Budget,
    BudgetError,
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
    """Run `planner`, commit the first `execute` actions of its plan, plan again; `steps` in all.

    In control this simulates a whole episode of model-predictive control; over text it is
    step-level search: search, commit one reasoning step, search again. The inner planner's carry
    warm-starts its next call. A budget is shared out in equal parts over the plans, so that no
    root's end changes what another may spend. To act in a real environment call the inner planner
    once per step instead, passing on its carry; or once per chunk of n actions, which are
    `plan.action` and `plan.then[:n - 1]`, passing on `carry.shift(n - 1)`.
    """

    planner: Planner
    steps: int
    execute: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "steps", "execute")

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

        Raises ValueError where the budget does not allow the steps that are committed, or where the
        inner planner's plans hold fewer actions than are to be executed.
        """
        world = World("RecedingHorizon", model, state, rng=rng, budget=budget, games=True)
        share = self._share(world, final_calls=int(model.value is not None))
        alive = torch.ones(world.roots, dtype=torch.bool, device=world.device)
        valid, spent = alive.clone(), world.cost()
        actions: list[Rows] = []
        played: list[Transition] = []
        while len(played) < self.steps:
            index = alive.nonzero().squeeze(1)
            if len(index) == 0 or (actions and world.out_of_time()):
                break
            everyone = len(index) == world.roots
            here = state if everyone else rows.take(state, index)
            warm = carry if everyone or carry is None else rows.take(carry, index)
            plan, warm = self.planner(
                model, here, warm, rng=draws.take(rng, index), budget=share, listen=listen
            )
            chunk = self._chunk(plan, min(self.execute, self.steps - len(played)))
            for action in chunk:
                actions.append(action if everyone else replace(actions[-1], index, action))
                moved = world.step(state, actions[-1], alive=alive)
                state, alive = moved.state, alive & (moved.discount != 0)
                played.append(moved)
            if len(chunk) > 1 and warm is not None:
                warm = warm.shift(len(chunk) - 1)
            carry = warm if everyone or warm is None else replace(carry, index, warm)
            spent = spent + plan.cost._replace(seconds=0.0).spread(index, world.roots)
            valid = valid.index_copy(0, index, valid[index] & plan.valid)
        return _episode(world, state, alive, valid, spent, actions, played), carry

    def _share(self, world: World, final_calls: int) -> Budget:
        """What each plan may spend, the model steps that are committed kept back, and of the whole
        `final_calls` for the value of the last state."""
        budget, plans = world.budget, -(-self.steps // self.execute)
        limits = {
            name: limit // plans for name, limit in budget._asdict().items() if limit is not None
        }
        if budget.calls is not None:
            limits["calls"] = (budget.calls - final_calls) // plans
        if budget.seconds is not None:
            limits["seconds"] = budget.seconds / plans
        committed = min(self.execute, self.steps)
        for name, each in {"steps": world.step_rows, "calls": 1}.items():
            if name in limits:
                limits[name] -= committed * each
                if limits[name] < 0:
                    raise BudgetError(
                        "RecedingHorizon: the budget does not allow its own "
                        f"{self.steps} model steps"
                    )
        return Budget(**limits)

    def _chunk(self, plan: Plan, number: int) -> list[Rows]:
        """The first `number` actions of a plan.

        One that has come to an end need not go on; where the episode does, its last action is
        repeated, which is what a root gets whose plan ends before those of the others.
        """
        chunk, planned = first_actions(plan, number)
        short = (planned < number) & plan.valid.cpu()
        if bool((short & ~_ended(plan).cpu()).any()):
            raise ValueError(
                f"RecedingHorizon.execute is {self.execute}, but {type(self.planner).__name__} "
                f"planned no more than {int(planned[short].min())} actions ahead"
            )
        return chunk + chunk[-1:] * (number - len(chunk))


def _ended(plan: Plan) -> Tensor:
    """Whether each root's plan [B] comes to the end of the episode."""
    if isinstance(plan.trace, Rollout):
        return plan.trace.ended.all(1)
    assert plan.node is not None
    return plan.trace.discount.gather(1, plan.node.unsqueeze(1)).squeeze(1) == 0


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
    value = discounted_return(rewards, discounts, world.value_of_living(state, alive))
    trace = Rollout(
        actions=actions,
        rewards=rewards.unsqueeze(1),
        discounts=discounts.unsqueeze(1),
        final=state,
        returns=value.unsqueeze(1),
        ended=~alive.unsqueeze(1),
    )
    cost = spent + world.cost()
    return Plan(actions[0], value, state, trace, cost, valid, then=actions[1:])
