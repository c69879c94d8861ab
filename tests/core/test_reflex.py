"""Actions without looking ahead: what they are, and that they cost nothing."""

from __future__ import annotations

import pytest
import torch

from mbrl_core import (
    Box,
    Budget,
    Discrete,
    Model,
    Particles,
    RandomActions,
    Reflex,
    generator,
)
from tests.worlds import glider

STATE = torch.zeros(4, 2, dtype=torch.float64)


def bounded(low: float, high: float) -> Model:
    space = Box(torch.tensor([low]), torch.tensor([high]))
    return glider()._replace(action_space=space, policy=RandomActions(space))


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(-1.0, 1.0, 0.0), (0.5, 2.0, 0.5), (-3.0, -0.25, -0.25)]
)
def test_no_force_is_zero_or_the_bound_nearest_to_it(low, high, zero):
    plan, carry = Reflex(action="zero")(bounded(low, high), STATE, rng=generator(0))
    assert plan.action.tolist() == [[zero]] * 4 and carry is None
    discrete = glider()._replace(action_space=Discrete(3), policy=None)
    plan, _ = Reflex(action="zero")(discrete, STATE, rng=generator(0))
    assert plan.action.tolist() == [0] * 4 and plan.action.dtype == torch.int64


def test_random_actions_fill_the_bounds_and_the_policy_is_followed():
    state = torch.zeros(4000, 2, dtype=torch.float64)
    for action in ("random", "policy"):
        plan, _ = Reflex(action=action)(bounded(0.0, 2.0), state, rng=generator(0))
        assert float(plan.action.min()) >= 0 and float(plan.action.max()) <= 2
        assert float(plan.action.mean()) == pytest.approx(1, abs=0.03)
        assert float(plan.action.std()) == pytest.approx(2 / 12**0.5, abs=0.03)
        assert int(plan.cost.steps.sum()) == 0
        assert plan.cost.proposals.tolist() == [int(action == "policy")] * 4000


def test_the_mode_of_a_policy_is_its_action_without_a_draw():
    class Settled(RandomActions):
        def mode(self, state):
            return state[:, :1] + 5

    model = bounded(0.0, 2.0)
    plan, _ = Reflex(action="mode")(
        model._replace(policy=Settled(model.action_space)), STATE, rng=generator(0)
    )
    assert plan.action.tolist() == [[2.0]] * 4  # inside the bounds
    assert plan.cost.proposals.tolist() == [1] * 4 and plan.cost.calls == 1
    cloud = Particles(model._replace(policy=Settled(model.action_space)), 3)
    first, _ = Reflex(action="mode")(cloud.model(), cloud.root(STATE), rng=generator(0))
    assert torch.equal(first.action, plan.action)
    with pytest.raises(ValueError, match="RandomActions has no `mode`"):
        Reflex(action="mode")(model, STATE, rng=generator(0))


def test_a_policy_that_may_not_be_asked_is_refused():
    with pytest.raises(ValueError, match="budget does not allow"):
        Reflex()(bounded(0.0, 1.0), STATE, rng=generator(0), budget=Budget(calls=0))
    with pytest.raises(ValueError, match=r"needs Model\.policy"):
        Reflex()(bounded(0.0, 1.0)._replace(policy=None), STATE, rng=generator(0))
    with pytest.raises(ValueError, match=r"Reflex.action must be policy or mode or random or zero"):
        Reflex(action="none")  # type: ignore[arg-type]
