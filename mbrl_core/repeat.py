"""Action repeat: a model in which every action is taken several times."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import check_counts
from mbrl_core.types import Dynamics, Model, Rng, Rows, Tokens, Transition
from mbrl_core.world import absorb
from mbrl_core.wrapper import Wrapper


class ActionRepeat(Wrapper):
    """Dynamics whose one step is `times` steps of `dynamics` with the same action.

    reward = sum_i (prod_{j<i} d_j) r_i and discount = prod_i d_i over the steps inside, so a plan's
    return is that of the plan with each action written `times` times. A row whose episode ends
    inside stays where it ended and is stepped no more. The ledger counts the steps inside: `times`
    for a row that ends early, too, as what a step costs must be known beforehand. A `disagreement`
    is that of the first step.
    """

    def __init__(self, dynamics: Dynamics, times: int) -> None:
        """Raises ValueError where `times` is no positive whole number."""
        self.dynamics = dynamics
        self.times = times
        check_counts(self, "times")

    def around(self, dynamics: Dynamics) -> ActionRepeat:
        """See `Wrapper`."""
        return ActionRepeat(dynamics, self.times)

    def step_rows(self, state: Rows) -> Tensor | int:
        """See `Dynamics`."""
        return self.times * super().step_rows(state)

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        """See `Dynamics.step`."""
        moved = self.dynamics.step(state, action, rng=rng)
        for _ in range(self.times - 1):
            after = self._next(moved, action, rng)
            moved = Transition(
                after.state,
                moved.reward + moved.discount * after.reward,
                moved.discount * after.discount,
                _both(moved.tokens, after.tokens),
            )
        return moved

    def _next(self, moved: Transition, action: Rows, rng: Rng) -> Transition:
        """One more step of the rows that go on; the others earn nothing."""
        going = (moved.discount != 0).nonzero().squeeze(1) if self.terminates else None
        if going is None or len(going) == len(moved.discount):
            return self.dynamics.step(moved.state, action, rng=rng)
        if len(going) == 0:
            return moved._replace(reward=torch.zeros_like(moved.reward), tokens=None)
        if not isinstance(rng, torch.Generator):
            rng = draws.take(rng, going * len(rng) // len(moved.discount))
        some = self.dynamics.step(rows.take(moved.state, going), rows.take(action, going), rng=rng)
        tokens = None
        if some.tokens is not None:
            none = torch.zeros_like(moved.discount, dtype=torch.int64)
            tokens = Tokens(*(none.index_copy(0, going, spent) for spent in some.tokens))
        return absorb(moved.state, going, some)._replace(tokens=tokens)


def _both(one: Tokens | None, other: Tokens | None) -> Tokens | None:
    if one is None or other is None:
        return one or other
    return Tokens(*(a + b for a, b in zip(one, other, strict=True)))


def repeat_actions(model: Model, times: int) -> Model:
    """The model with every action taken `times` times; its policy and value stay as they are."""
    return model._replace(dynamics=ActionRepeat(model.dynamics, times))
