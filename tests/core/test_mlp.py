"""Networks as compiled code: what PyTorch computes, and a search that never leaves it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbrl_core import (
    MCTS,
    CompiledMLP,
    Discrete,
    Game,
    Model,
    Proposal,
    Rng,
    Transition,
    Tree,
    compiled_mlp,
    generator,
    run_mlp,
)

ACTIVATIONS = [nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Mish]
SIZE, ACTIONS = 3, 4


class Echo(NamedTuple):
    """Its one action runs a network on the state: a way into compiled code from outside."""

    net: CompiledMLP

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        run_mlp(self.net, state, after)
        return 0.0, 1.0

    def prior(self, state: Any, out: Any) -> None:
        out[:] = 0

    def worth(self, state: Any) -> float:
        return 0.0


def run(net: nn.Module, x: Tensor) -> Tensor:
    action = torch.zeros(len(x), dtype=torch.int64)
    return Game(Echo(compiled_mlp(net)), 1).step(x, action, rng=generator(0)).state


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_a_network_is_what_it_is_in_pytorch(activation: type[nn.Module], scale: float) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(17, 33), activation(), nn.Dropout(0.5))
    layers = [nn.Linear(6, 17), nn.LayerNorm(17), activation(), inner]
    net = nn.Sequential(*layers, nn.Linear(33, 6, bias=False)).eval()
    nn.init.normal_(net[1].weight)
    x = scale * torch.randn(50, 6)
    with torch.no_grad():
        assert torch.allclose(run(net, x), net(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_out_and_broken_numbers(activation: type[nn.Module]) -> None:
    line = nn.Linear(6, 6, bias=False)
    nn.init.eye_(line.weight)
    net = nn.Sequential(line, activation())
    x = torch.tensor([[-1e4, -200.0, -50.0, 50.0, 200.0, 1e4]])
    with torch.no_grad():
        assert torch.allclose(run(net, x), net(x), atol=1e-6, rtol=1e-6)
        x[0, 0] = torch.nan
        assert torch.isnan(run(net, x)).all(), "the product spreads it"


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), "compiled_mlp takes .* not GELU"),
        (nn.Sequential(nn.Linear(2, 2), nn.ELU(alpha=0.5)), "alpha 1"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((2, 2))), "over one axis"),
        (nn.Linear(2, 2, dtype=torch.float64), "float32"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2)), "2 inputs follows one of 3"),
        (nn.Sequential(nn.ReLU()), "a Linear layer"),
    ],
)
def test_what_is_not_understood_is_refused(net: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiled_mlp(net)


class Learned(NamedTuple):
    """A MuZero-like world: one call of the network gives the next state, and all about it."""

    net: CompiledMLP

    def advance(self, state: Any, action: int, after: Any) -> tuple[float, float]:
        x, out = np.zeros(SIZE + ACTIONS, np.float32), np.empty(SIZE + 2 + ACTIONS, np.float32)
        x[:SIZE] = state[:SIZE]
        x[SIZE + action] = 1
        run_mlp(self.net, x, out)
        after[:] = out[1:]
        return out[0], 0.9

    def prior(self, state: Any, out: Any) -> None:
        out[:] = state[SIZE + 1 :]

    def worth(self, state: Any) -> float:
        return state[SIZE]


class Called:
    """The same world in PyTorch."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        chosen = nn.functional.one_hot(action, ACTIONS).float()
        out = self.net(torch.cat([state[:, :SIZE], chosen], 1))
        return Transition(out[:, 1:], out[:, 0], torch.full((len(out),), 0.9))

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        return Proposal(torch.arange(ACTIONS).repeat(len(state)), state[:, SIZE + 1 :])

    def value(self, state: Tensor) -> Tensor:
        return state[:, SIZE]


def test_a_search_of_a_learned_world_is_the_same_compiled() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(SIZE + ACTIONS, 32), nn.Mish(), nn.Linear(32, SIZE + 2 + ACTIONS))
    game, called = Game(Learned(compiled_mlp(net)), ACTIONS), Called(net)
    state = torch.randn(5, SIZE + 1 + ACTIONS)
    planner = MCTS(simulations=60, candidates=ACTIONS)
    one, _ = planner(game.model, state, rng=generator(0))
    other, _ = planner(Model(called, called, called, Discrete(ACTIONS)), state, rng=generator(0))
    assert isinstance(one.trace, Tree) and isinstance(other.trace, Tree)
    assert one.trace.parent.equal(other.trace.parent) and one.trace.slot.equal(other.trace.slot)
    assert torch.allclose(one.trace.value, other.trace.value, atol=1e-5)
    assert one.cost.calls == other.cost.calls and one.cost.steps.equal(other.cost.steps)
