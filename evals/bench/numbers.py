"""The numbers that the models are made of, the same on both sides of a cell. Needs NumPy alone."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, TypeAlias

import numpy as np

STATE, ACTION = 24, 6  # dimensions of the control model
PLACES = 1024  # states of the tabular game
GAMMA = 0.97

Array: TypeAlias = np.ndarray[Any, Any]
Layers: TypeAlias = list[tuple[Array, Array]]


class Table(NamedTuple):
    """A game of `PLACES` states with A actions, all of it at random."""

    next: Array  # [S, A] int64
    reward: Array  # [S, A] in [0, 1)
    logits: Array  # [S, A]
    value: Array  # [S] in [0, 1)


def layers(*sizes: int, seed: int = 0) -> Layers:
    """Weights [in, out] and zero biases [out] of a network, scaled to keep its signals' size."""
    rng = np.random.default_rng(seed)
    return [
        (
            (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32),
            np.zeros(columns, np.float32),
        )
        for rows, columns in itertools.pairwise(sizes)
    ]


def control_layers(width: int) -> Layers:
    """Two hidden layers from state and action to the change of the state."""
    return layers(STATE + ACTION, width, width, STATE)


def game_layers(actions: int, width: int) -> Layers:
    """Two hidden layers from state and one-hot action to the change of the state, the reward, the
    new state's value and its logits."""
    return layers(STATE + actions, width, width, STATE + 2 + actions, seed=1)


def table(actions: int) -> Table:
    """The tabular game with A actions."""
    rng = np.random.default_rng(2)
    shape = (PLACES, actions)
    return Table(
        next=rng.integers(PLACES, size=shape),
        reward=rng.random(shape).astype(np.float32),
        logits=rng.standard_normal(shape).astype(np.float32),
        value=rng.random(PLACES).astype(np.float32),
    )


def states(roots: int) -> Array:
    """Root states [B, STATE]."""
    return np.random.default_rng(3).standard_normal((roots, STATE)).astype(np.float32)


def root_logits(roots: int, actions: int) -> Array:
    """Prior logits [B, A] of the root states where the network has none for them."""
    return np.random.default_rng(5).standard_normal((roots, actions)).astype(np.float32)


def places(roots: int) -> Array:
    """Root states [B] of the tabular game, int64."""
    return np.random.default_rng(4).integers(PLACES, size=roots)
