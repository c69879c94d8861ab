"""Compiled games: the same search, the same ledger, without Python in between."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mbrl_core import MCTS, PUCT, Discrete, Game, Gumbel, Model, Selection, Tree, generator
from mbrl_core.testing import check_model, check_planner
from tests.core.test_keystone import assert_same


class Walk(NamedTuple):
    """A table of transitions; state [place, steps so far]; every fifth place ends the walk."""

    next: np.ndarray
    reward: np.ndarray
    logits: np.ndarray
    values: np.ndarray

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        there = self.next[state[0], action]
        after[0], after[1] = there, state[1] + 1
        return self.reward[state[0], action], 0.0 if there % 5 == 0 else 0.9

    def prior(self, state: Any, out: Any) -> None:
        for k in range(len(out)):
            out[k] = self.logits[state[0], k]

    def worth(self, state: Any) -> float:
        return self.values[state[0]]


def walk(actions: int = 4, places: int = 64) -> Game:
    draw = np.random.default_rng(0)
    shape = (places, actions)
    logits = draw.normal(size=shape).astype(np.float32)
    logits[::3, 1] = -np.inf
    rewards = draw.normal(size=shape).astype(np.float32)
    values = draw.normal(size=places).astype(np.float32)
    return Game(Walk(draw.integers(places, size=shape), rewards, logits, values), actions)


def roots(number: int = 5) -> torch.Tensor:
    return torch.stack([torch.arange(1, number + 1), torch.zeros(number, dtype=torch.int64)], 1)


SELECTIONS: dict[str, Selection] = {"puct": PUCT(), "gumbel": Gumbel()}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_a_compiled_search_is_the_batched_one_bit_for_bit(selection: Selection) -> None:
    game = walk()

    class Batched:
        """The same game, to be called from outside."""

        step, propose, value = game.step, game.propose, game.value

    for leaves in (1, 3):
        planner = MCTS(simulations=50, candidates=5, selection=selection, leaves=leaves)
        model = Model(Batched(), Batched(), Batched(), Discrete(4))
        one, _ = planner(game.model, roots(), rng=generator(0))
        other, _ = planner(model, roots(), rng=generator(0))
        assert isinstance(one.trace, Tree) and isinstance(other.trace, Tree)
        assert_same(one._replace(trace=()), other._replace(trace=()), "plan")
        for name in Tree._fields:
            if name not in ("actions", "root"):
                assert_same(getattr(one.trace, name), getattr(other.trace, name), name)
        assert_same(one.trace.root, other.trace.root, "root")


def test_games_keep_the_contract() -> None:
    game = walk()
    check_model(game.model, roots(3))
    check_planner(MCTS(simulations=10, candidates=4), game.model, roots(3))


def test_states_that_are_no_table_of_numbers_are_refused() -> None:
    game = walk()
    with pytest.raises(ValueError, match=r"tensor \[R, D\]"):
        MCTS(simulations=4, candidates=4)(game.model, torch.arange(3), rng=generator(0))
