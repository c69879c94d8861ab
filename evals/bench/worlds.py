"""The models of the benchmark as planners meet them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from evals.bench import numbers
from evals.bench.numbers import ACTION, GAMMA, STATE
from mbrl_core import Box, Discrete, Game, Model, Proposal, Rng, Rows, Transition, draws

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
        return proposal_of(state.logits, num, rng)

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
        return proposal_of(self.logits[state], num, rng)

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


def network(layers: numbers.Layers) -> nn.Sequential:
    """The network of these layers, with SiLU between them, not to be trained."""
    parts: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape)
        linear.weight.data = torch.from_numpy(weight.T.copy())
        linear.bias.data = torch.from_numpy(bias)
        parts += [linear, nn.SiLU()]
    return nn.Sequential(*parts[:-1]).requires_grad_(False)


def proposal_of(logits: Tensor, num: int, rng: Rng) -> Proposal:
    """All A actions for each state where `num` allows, else `num` drawn without replacement from
    the softmax of `logits` [R, A]."""
    if num >= logits.shape[1]:
        return Proposal(torch.arange(logits.shape[1]).repeat(len(logits)), logits)
    drawn = (logits + draws.gumbel(rng, *logits.shape)).topk(num).indices
    return Proposal(drawn.flatten(), logits.gather(1, drawn))


def control_model(world: ControlWorld) -> Model:
    """A control world as planners take it, with actions in [-1, 1]."""
    agent = world if isinstance(world, LatentWorld) else None
    return Model(world, agent, agent, Box(-torch.ones(ACTION), torch.ones(ACTION)))


def search_problem(
    world: str, actions: int, roots: int, *, width: int = 0, seconds: float = 0.0
) -> tuple[Model, Rows]:
    """A game as planners take it and its first states [B]: a `network`, a `table`, or the same
    table as `rules`."""
    if world == "rules":
        game = Game(TableRules(*numbers.table(actions)), actions, terminates=False)
        return game.model, torch.from_numpy(numbers.places(roots)).unsqueeze(1)
    called = GameWorld(actions, width) if world == "network" else TableWorld(actions, seconds)
    return Model(called, called, called, Discrete(actions)), called.root(roots)
