"""Worlds small enough to be compiled: a search of one runs from end to end without Python.

Board games, tables and true simulators in plain numbers. What `MCTS` finds, and what it books, is
the same as if it had called the world batch by batch; only the time differs. A small network takes
part as the numbers that `compiled_mlp` makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mbrl_core.planners.selection import walk
from mbrl_core.planners.tree import grow
from mbrl_core.policies import numbered
from mbrl_core.types import Discrete, Model, Proposal, Rng, Transition

if TYPE_CHECKING:
    from mbrl_core.planners.compiled import GameLoops


class Rules(Protocol):
    """A world with actions 0 .. A-1: a NamedTuple of numbers and numpy arrays with these methods.

    They are compiled by numba, as those of a `Selection`: loops and `math` over one state [D].
    """

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        """Write the next state to `after` [D]: the reward and the discount, 0 at the end."""
        ...

    def prior(self, state: Any, out: Any) -> None:
        """Write the actions' log priors to `out` [A]; -inf is illegal."""
        ...

    def worth(self, state: Any) -> float:
        """The value of a state that has not ended."""
        ...


@dataclass(frozen=True)
class Game:
    """Dynamics, policy and value of `rules` with `actions` actions, over states [R, D].

    `terminates` False promises that no discount is 0. The rules are compiled anew in every process.
    """

    rules: Rules
    actions: int
    terminates: bool = True

    @property
    def model(self) -> Model:
        """The game as planners take it."""
        return Model(self, self, self, Discrete(self.actions))

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        state = _checked(state)
        after = torch.empty_like(state)
        reward, discount = torch.empty((2, len(state)), dtype=_real(state))
        numbers = (x.numpy() for x in (state, action.contiguous(), after, reward, discount))
        self.loops.step_all(self.rules, *numbers)
        return Transition(after, reward, discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        logits = torch.empty((len(state), self.actions), dtype=_real(state))
        self.loops.prior_all(self.rules, _checked(state).numpy(), logits.numpy())
        return numbered(logits, num, rng=rng)

    def value(self, state: Tensor) -> Tensor:
        """See `Value`."""
        value = torch.empty(len(state), dtype=_real(state))
        self.loops.worth_all(self.rules, _checked(state).numpy(), value.numpy())
        return value

    @property
    def loops(self) -> GameLoops:
        """The compiled loops."""
        return _loops()


@lru_cache
def _loops() -> GameLoops:
    from mbrl_core.planners.compiled import game_loops

    return game_loops()


def _checked(state: Tensor) -> Tensor:
    if not isinstance(state, Tensor) or state.dim() != 2 or not state.is_cpu:
        raise ValueError("the states of a Game must be one tensor [R, D] on the CPU")
    return state.contiguous()


def _real(state: Tensor) -> torch.dtype:
    return torch.float64 if state.dtype == torch.float64 else torch.float32


# Calls to a method by the type of the rules; `compiled.py` resolves them.


def advance(rules: Any, state: Any, action: int, after: Any) -> tuple[float, float]:
    """`rules.advance(...)`."""
    return rules.advance(state, action, after)


def prior(rules: Any, state: Any, out: Any) -> None:
    """`rules.prior(...)`."""
    rules.prior(state, out)


def worth(rules: Any, state: Any) -> float:
    """`rules.worth(...)`."""
    return rules.worth(state)


# The model's parts over R rows


def step_all(rules: Any, state: Any, action: Any, after: Any, reward: Any, discount: Any) -> None:
    """One step of each row."""
    for r in range(len(state)):
        reward[r], discount[r] = advance(rules, state[r], action[r], after[r])


def prior_all(rules: Any, state: Any, logits: Any) -> None:
    """Log priors [R, A]."""
    for r in range(len(state)):
        prior(rules, state[r], logits[r])


def worth_all(rules: Any, state: Any, value: Any) -> None:
    """Values [R]."""
    for r in range(len(state)):
        value[r] = worth(rules, state[r])


# The search as one loop


def search_game(
    rules: Any,
    actions: int,
    search: Any,
    nodes: Any,
    edges: Any,
    noise: Any,
    begun: Any,
    size: Any,
    most: Any,
    leaf: Any,
    ask: Any,
    place: Any,
    moves: Any,
    states: Any,
    options: Any,
    spent: Any,
) -> int:
    """Simulate until nothing is due, one tree after the other so that each stays in the cache.

    Fills the rows of `states` and of the candidates `options`; adds the model rows of each root to
    `spent` [3, B]: steps, proposals, values. Returns how many batched calls that would have been
    with all trees side by side.
    """
    called = np.zeros((search.simulations, 3), np.bool_)
    capacity, number = edges.shape[1:]
    for b in range(len(nodes)):
        first, last = b * capacity, (b + 1) * capacity
        search_tree(
            rules, actions, search, nodes[b : b + 1], edges[b : b + 1], noise[b : b + 1],
            begun[b : b + 1], size[b : b + 1], most[b : b + 1], leaf, ask, place, moves,
            states[first:last], options[first * number : last * number], spent[:, b], called,
        )  # fmt: skip
    return called.sum()


def search_tree(
    rules: Any,
    actions: int,
    search: Any,
    nodes: Any,
    edges: Any,
    noise: Any,
    begun: Any,
    size: Any,
    most: Any,
    leaf: Any,
    ask: Any,
    place: Any,
    moves: Any,
    states: Any,
    options: Any,
    spent: Any,
    called: Any,
) -> None:
    """As `search_game`, for the one tree in tables [1, M]; `spent` [3] is its own.

    `called` [rounds, 3] is told which rounds proposed, stepped and valued.
    """
    certain = np.zeros(0, np.bool_)
    log_prior = np.empty((most[0], actions), noise.dtype)
    moved = np.empty((3, most[0]), noise.dtype)
    for turn in range(len(called)):
        found, asks, made = walk(
            search, nodes, edges, noise, begun, size, most, 0,
            leaf, 0, ask, log_prior, certain, place, moves,
        )  # fmt: skip
        if found == 0:
            return
        if asks > 0:
            called[turn, 0] = True
            tell_priors(rules, ask[:asks], states, log_prior, options, spent)
            found, asks, made = walk(
                search, nodes, edges, noise, begun, size, most, found,
                leaf, asks, ask, log_prior, certain, place, moves,
            )  # fmt: skip
        going = make_moves(rules, moves[:, :made], states, options, moved, spent)
        called[turn, 1] |= made > 0
        called[turn, 2] |= going > 0
        grow(search.best, nodes, edges, leaf, found, moved[0], moved[1], moved[2])


def tell_priors(
    rules: Any, ask: Any, states: Any, log_prior: Any, options: Any, spent: Any
) -> None:
    """Write down the candidates of the nodes in the rows `ask` [n] of one tree."""
    number = len(options) // len(states)
    for i in range(len(ask)):
        prior(rules, states[ask[i]], log_prior[i])
        for k in range(log_prior.shape[1]):
            options[ask[i] * number + k] = k
            spent[1] += log_prior[i, k] > -np.inf


def make_moves(rules: Any, moves: Any, states: Any, options: Any, moved: Any, spent: Any) -> int:
    """Step along `moves` [4, n] of a walk; `moved` [3, n] is given rewards, discounts and values.

    Returns how many have not ended.
    """
    going = 0
    for i in range(moves.shape[1]):
        row, option, new = moves[1, i], moves[2, i], moves[3, i]
        moved[0, i], moved[1, i] = advance(rules, states[row], options[option], states[new])
        lives = moved[1, i] != 0
        moved[2, i] = worth(rules, states[new]) if lives else 0.0
        going += lives
    spent[0] += moves.shape[1]
    spent[2] += going
    return going
