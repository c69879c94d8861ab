"""The models of the benchmark as planners meet them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evals.bench import numbers
from evals.bench.numbers import ACTION, GAMMA, STATE
from mbrl_core import (
    Box,
    CompiledMLP,
    Discrete,
    Game,
    Model,
    Proposal,
    Rng,
    Rows,
    Transition,
    compiled_mlp,
    draws,
    run_mlp,
)
from mbrl_core.policies import numbered

WORLDS = ("table", "table rules", "network", "network rules")
HEADS = 5  # of the ensemble of values, of which `LatentWorld` averages 2


class ControlWorld:
    """One network from state and action to the next state; the reward is its first number."""

    terminates = False

    def __init__(self, width: int) -> None:
        self.net = network(numbers.control_layers(width))
        self.one = torch.ones(())

    def next(self, state: Tensor, action: Tensor) -> Tensor:
        """States [R, STATE] and actions [R, ACTION] to the next states [R, STATE]."""
        return state + self.net(torch.cat([state, action], 1))

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        moved = self.next(state, action)
        return Transition(moved, moved[:, 0], self.one.expand(len(moved)))


class LatentWorld(ControlWorld):
    """A control world with a Gaussian policy and an ensemble of action values, as in TD-MPC2."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.actor = network(numbers.layers(STATE, width, width, 2 * ACTION, seed=5))
        sizes = (STATE + ACTION, width, width, 1)
        self.critics = [network(numbers.layers(*sizes, seed=6 + i)) for i in range(HEADS)]

    def act(self, state: Tensor, noise: Tensor) -> Tensor:
        """Actions [R, ACTION] in (-1, 1) for standard normal `noise` of that shape."""
        mean, log_std = self.actor(state).chunk(2, 1)
        return torch.tanh(mean + noise * log_std.tanh().exp())

    def worth(self, state: Tensor, noise: Tensor, heads: Sequence[int] = (0, 1)) -> Tensor:
        """Mean [R] of two action values at the policy's action."""
        both = torch.cat([state, self.act(state, noise)], 1)
        one, other = (self.critics[head](both).squeeze(1) for head in heads)
        return (one + other) / 2

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        repeated = state.repeat_interleave(num, 0)
        actions = self.act(repeated, draws.normal(rng, len(repeated), ACTION))
        return Proposal(actions, torch.zeros(len(state), num))

    def value(self, state: Tensor) -> Tensor:
        """See `Value`."""
        return self.worth(state, torch.zeros(len(state), ACTION))


class Latent(NamedTuple):
    """States of `GameWorld`: what the network says of a state comes with the state."""

    state: Tensor  # [R, STATE]
    value: Tensor  # [R]
    logits: Tensor  # [R, A]


class GameWorld:
    """A MuZero-like network: one call gives the next state, the reward, the value and the prior."""

    terminates = False

    def __init__(self, actions: int, width: int) -> None:
        self.net = network(numbers.game_layers(actions, width))
        self.actions = actions
        self.gamma = torch.tensor(GAMMA)

    def root(self, roots: int) -> Latent:
        """The first states, with value 0."""
        state = torch.from_numpy(numbers.states(roots))
        logits = torch.from_numpy(numbers.root_logits(roots, self.actions))
        return Latent(state, torch.zeros(roots), logits)

    def step(self, state: Latent, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        chosen = functional.one_hot(action, self.actions).to(state.state)
        out = self.net(torch.cat([state.state, chosen], 1))
        moved = Latent(state.state + out[:, :STATE], out[:, STATE + 1], out[:, STATE + 2 :])
        return Transition(moved, out[:, STATE], self.gamma.expand(len(out)))

    def propose(self, state: Latent, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        return numbered(state.logits, num, rng=rng)

    def value(self, state: Latent) -> Tensor:
        """See `Value`."""
        return state.value


class TableWorld:
    """A tabular game. `seconds` is what every step costs beside, however many rows it has."""

    terminates = False

    def __init__(self, actions: int, seconds: float = 0.0) -> None:
        table = numbers.table(actions)
        self.next, self.reward, self.logits, self.values = map(torch.from_numpy, table)
        self.gamma = torch.tensor(GAMMA)
        self.seconds = seconds

    def root(self, roots: int) -> Tensor:
        """The first states [B]."""
        return torch.from_numpy(numbers.places(roots))

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        done = time.perf_counter() + self.seconds
        moved, reward = self.next[state, action], self.reward[state, action]
        while time.perf_counter() < done:
            pass
        return Transition(moved, reward, self.gamma.expand(len(moved)))

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        return numbered(self.logits[state], num, rng=rng)

    def value(self, state: Tensor) -> Tensor:
        """See `Value`."""
        return self.values[state]


class TableRules(NamedTuple):
    """The tabular game as rules that are compiled with the search: states [R, 1]."""

    next: numbers.Array
    reward: numbers.Array
    logits: numbers.Array
    values: numbers.Array

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        """See `Rules`."""
        after[0] = self.next[state[0], action]
        return self.reward[state[0], action], GAMMA

    def prior(self, state: Any, out: Any) -> None:
        """See `Rules`."""
        for k in range(len(out)):
            out[k] = self.logits[state[0], k]

    def worth(self, state: Any) -> float:
        """See `Rules`."""
        return self.values[state[0]]


class NetworkRules(NamedTuple):
    """The network as rules that are compiled with the search: states [R, STATE + 1 + A] that hold
    what the network says of them, its value and its logits."""

    net: CompiledMLP

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        """See `Rules`."""
        out = np.empty(len(state) + 1, np.float32)
        for i in range(len(state)):  # `after` has room for the input: the state and the action
            after[i] = state[i] if i < STATE else i == STATE + action
        run_mlp(self.net, after, out)
        for i in range(STATE):
            after[i] = state[i] + out[i]
        for i in range(STATE, len(state)):
            after[i] = out[i + 1]
        return out[STATE], GAMMA

    def prior(self, state: Any, out: Any) -> None:
        """See `Rules`."""
        for k in range(len(out)):
            out[k] = state[STATE + 1 + k]

    def worth(self, state: Any) -> float:
        """See `Rules`."""
        return state[STATE]


def network(layers: numbers.Layers) -> nn.Sequential:
    """The network of these layers, with SiLU between them, not to be trained."""
    parts: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape)
        linear.weight.data = torch.from_numpy(weight.T.copy())
        linear.bias.data = torch.from_numpy(bias)
        parts += [linear, nn.SiLU()]
    return nn.Sequential(*parts[:-1]).requires_grad_(False)


def control_model(world: ControlWorld) -> Model:
    """A control world as planners take it, with actions in [-1, 1]."""
    agent = world if isinstance(world, LatentWorld) else None
    return Model(world, agent, agent, Box(-torch.ones(ACTION), torch.ones(ACTION)))


def search_problem(
    world: str, actions: int, roots: int, *, width: int = 0, seconds: float = 0.0
) -> tuple[Model, Rows]:
    """A game as planners take it and its first states [B]: a `table` or a `network`, or the same as
    rules: `table rules`, `network rules`.

    Raises ValueError where there is no such game.
    """
    if world not in WORLDS:
        raise ValueError(f"no game {world!r}: choose among {', '.join(WORLDS)}")
    if world == "table rules":
        rules = Game(TableRules(*numbers.table(actions)), actions, terminates=False)
        return rules.model, torch.from_numpy(numbers.places(roots)).unsqueeze(1)
    called = TableWorld(actions, seconds) if world == "table" else GameWorld(actions, width)
    root = called.root(roots)
    if world == "network rules":
        assert isinstance(called, GameWorld) and isinstance(root, Latent)
        rules = Game(NetworkRules(compiled_mlp(called.net)), actions, terminates=False)
        return rules.model, torch.cat([root.state, root.value.unsqueeze(1), root.logits], 1)
    return Model(called, called, called, Discrete(actions)), root
