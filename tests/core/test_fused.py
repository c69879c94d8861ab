"""Compiled iterations: the same plans, the same ledger but for rows that have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    MPPI,
    TDMPC,
    Budget,
    CategoricalCEM,
    Discrete,
    GradCEM,
    Model,
    Rng,
    Rows,
    Transition,
    generator,
    in_chunks,
)
from mbrl_core.planners import fused
from mbrl_core.planners.sampling import Population
from tests.worlds import glider, gusty_glider

START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.2, 0.1]]).double()
SMALL: dict[str, Any] = {"horizon": 3, "samples": 24, "iterations": 3, "compiled": True}
PLANNERS: list[Population] = [
    CEM(elites=6, **SMALL),
    ICEM(elites=6, **SMALL),
    MPPI(control_cost=0.1, smooth=3, knots=3, interpolation="cubic", adapt_std=True, **SMALL),
    TDMPC(elites=6, policy_samples=4, **SMALL),
    CategoricalCEM(elites=6, **SMALL),
]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is traced runs as it is: generating and building C++ code would take minutes."""
    real = torch.compile

    def quick(function: Callable[..., Any], *, fullgraph: bool, options: Any) -> Any:
        return real(function, fullgraph=fullgraph, backend="eager")

    fused._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", quick)
    yield
    fused._compiled.cache_clear()


class Ladder:
    """Climb by 1, 2 or 3; the episode ends at the top, 5, and paid is how near to it one steps."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        height = state[:, 0] + action + 1
        reward = torch.where(height <= 5, height / 5, 0.0)
        return Transition(height.unsqueeze(1), reward, torch.where(height < 5, 0.9, 0.0))

    def value(self, state: Tensor) -> Tensor:
        return state[:, 0] / 10


def world_of(planner: Population) -> tuple[Model, Rows]:
    if isinstance(planner, CategoricalCEM):
        ladder = Ladder()
        return Model(ladder, value=ladder, action_space=Discrete(3)), torch.tensor([[0.0], [2.0]])
    return glider(), START


def named(planner: Population) -> str:
    return type(planner).__name__


@pytest.mark.parametrize("planner", PLANNERS, ids=named)
def test_compiled_plans_are_the_plans(planner: Population, traced: None) -> None:
    model, state = world_of(planner)
    ours, carry = planner(model, state, rng=generator(1))
    plain, kept = replace(planner, compiled=False)(model, state, rng=generator(1))
    torch.testing.assert_close(ours.action, plain.action)
    torch.testing.assert_close(ours.value, plain.value)
    torch.testing.assert_close(ours.trace.rewards, plain.trace.rewards)
    torch.testing.assert_close(ours.trace.actions, plain.trace.actions)
    again = planner(model, state, carry, rng=generator(2))[0]
    other = replace(planner, compiled=False)(model, state, kept, rng=generator(2))[0]
    torch.testing.assert_close(again.value, other.value)


@pytest.mark.parametrize("planner", PLANNERS[2:], ids=named)
def test_a_row_is_planned_as_if_alone(planner: Population, traced: None) -> None:
    model, state = world_of(planner)
    together, _ = planner(model, state, rng=[generator(row) for row in range(len(state))])
    for row in range(2):
        alone, _ = planner(model, state[row : row + 1], rng=[generator(row)])
        torch.testing.assert_close(alone.action, together.action[row : row + 1])
        torch.testing.assert_close(alone.value, together.value[row : row + 1])


def test_a_budget_cuts_compiled_plans_alike(traced: None) -> None:
    model, budget = glider(), Budget(steps=150)
    compiled, plain = PLANNERS[1], replace(PLANNERS[1], compiled=False)
    ours, _ = compiled(model, START, rng=generator(0), budget=budget)
    theirs, _ = plain(model, START, rng=generator(0), budget=budget)
    torch.testing.assert_close(ours.value, theirs.value)
    assert ours.cost.steps.tolist() == theirs.cost.steps.tolist()


def test_the_compiler_gives_the_same_plan() -> None:
    planner = CEM(horizon=2, samples=16, iterations=2, elites=4, compiled=True)
    ours = planner(glider(), START, rng=generator(0))[0]
    plain = replace(planner, compiled=False)(glider(), START, rng=generator(0))[0]
    torch.testing.assert_close(ours.value, plain.value, rtol=1e-4, atol=1e-4)
    assert ours.cost.calls == plain.cost.calls


def test_a_model_of_the_same_kind_is_not_compiled_anew(traced: None) -> None:
    planner = PLANNERS[0]
    first, _ = planner(glider(), START, rng=generator(0))
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again, _ = planner(glider(), START, rng=generator(0))  # other objects
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made
    assert torch.equal(first.action, again.action)


def test_chunks_are_compiled_too(traced: None) -> None:
    plain, _ = replace(PLANNERS[0], compiled=False)(glider(), START, rng=generator(0))
    ours, _ = PLANNERS[0](in_chunks(glider(), 10), START, rng=generator(0))
    torch.testing.assert_close(ours.value, plain.value)


def test_what_draws_or_differentiates_is_refused(traced: None) -> None:
    with pytest.raises(ValueError, match="draws no random numbers"):
        PLANNERS[0](gusty_glider(), START, rng=generator(0))
    with pytest.raises(ValueError, match="cannot be compiled"):
        GradCEM(horizon=2, compiled=True)
