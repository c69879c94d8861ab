"""Small worlds for tests. The garden is written twice, over tensors and over text.

A garden has three gates, three moves and paths of at most `DEPTH` moves. Every number is a multiple
of a power of two, so sums are exact in any order and two searches can be compared bit by bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

import mbrl_core
from mbrl_core import Box, Discrete, Model, Proposal, Rng, Tokens, Transition, draws

GATES = ("start", "gate", "wall")
MOVES = ("left", "right", "stop")
DEPTH = 4
GAMMA = 0.875


def exported_planners() -> set[type]:
    """The planner classes of the public interface."""
    public = (getattr(mbrl_core, name) for name in mbrl_core.__all__)
    settings = {"model", "state", "carry"}
    return {
        kind
        for kind in public
        if isinstance(kind, type)
        and kind.__module__.startswith("mbrl_core.planners.")
        and settings <= set(inspect.signature(kind.__call__).parameters)
    }


class TensorGarden:
    """States [R, 3] int64: gate, number of moves made, the moves as the digits 1 to 3 in base 4.

    With probability `slip` a move leads where the next one in `MOVES` leads.
    """

    def __init__(self, slip: float = 0.0) -> None:
        self.slip = slip

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        slips = draws.uniform(rng, len(state)) < self.slip
        move = torch.where(slips, (action + 1) % 3, action)
        gate, depth, code = state.unbind(1)
        depth, code = depth + 1, 4 * code + 1 + move
        reward = ((37 * code + 11 * gate + 5 * depth) % 19 - 9) / 8
        ended = (move == 2) | (depth == DEPTH) | ((depth >= 2) & (code % 5 == 0))
        discount = torch.where(ended, 0.0, GAMMA)
        return Transition(torch.stack([gate, depth, code], 1), reward, discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        gate, depth, code = state.unbind(1)
        moves = torch.arange(3, device=state.device)
        logits = -((code.unsqueeze(1) + gate.unsqueeze(1) + moves) % 3) / 2
        logits[:, 2] = torch.where((code + depth) % 4 == 3, -torch.inf, logits[:, 2])
        wishes = logits + draws.uniform(rng, len(state), 3)
        order = torch.sort(wishes, dim=1, descending=True, stable=True).indices[:, :num]
        return Proposal(order.flatten(), logits.gather(1, order))

    def value(self, state: Tensor) -> Tensor:
        gate, _, code = state.unbind(1)
        return ((13 * code + 5 * gate) % 17) / 16 - 0.25


class TextGarden:
    """States such as "start>left>right", actions such as "left"."""

    def __init__(self, slip: float = 0.0) -> None:
        self.slip = slip

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        slips = (draws.uniform(rng, len(state)) < self.slip).tolist()
        paths, rewards, discounts = [], [], []
        for path, word, slip in zip(state, action, slips, strict=True):
            if slip:
                word = {"left": "right", "right": "stop", "stop": "left"}[word]
            path = f"{path}>{word}"
            gate, depth, code = read(path)
            paths.append(path)
            rewards.append(((37 * code + 11 * gate + 5 * depth) % 19 - 9) / 8)
            ended = word == "stop" or depth == DEPTH or (depth >= 2 and code % 5 == 0)
            discounts.append(0.0 if ended else GAMMA)
        return Transition(paths, torch.tensor(rewards), torch.tensor(discounts))

    def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
        wishes = draws.uniform(rng, len(state), 3)
        words: list[str] = []
        priors = []
        for path, wish in zip(state, wishes, strict=True):
            gate, depth, code = read(path)
            logits = [-((code + gate + a) % 3) / 2 for a in range(3)]
            if (code + depth) % 4 == 3:
                logits[MOVES.index("stop")] = -torch.inf
            total = torch.tensor(logits) + wish
            order = sorted(range(3), key=lambda a: -total[a].item())[:num]
            words += [MOVES[a] for a in order]
            priors.append([logits[a] for a in order])
        return Proposal(words, torch.tensor(priors))

    def value(self, state: list[str]) -> Tensor:
        paths = [read(path) for path in state]
        return torch.tensor([((13 * code + 5 * gate) % 17) / 16 - 0.25 for gate, _, code in paths])


def read(path: str) -> tuple[int, int, int]:
    """Gate, number of moves and code of a text state: a row of the tensor garden."""
    gate, *words = path.split(">")
    code = 0
    for word in words:
        code = 4 * code + 1 + MOVES.index(word)
    return GATES.index(gate), len(words), code


def tensor_garden(slip: float = 0.0) -> Model:
    garden = TensorGarden(slip)
    return Model(garden, garden, garden, Discrete(3))


class DoubleRewards(TensorGarden):
    """A garden whose rewards are of another precision than planning over whole numbers is."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        return moved._replace(reward=moved.reward.double(), discount=moved.discount.double())


def double_rewards() -> Model:
    garden = DoubleRewards()
    return Model(garden, garden, garden, Discrete(3))


def text_garden(slip: float = 0.0) -> Model:
    garden = TextGarden(slip)
    return Model(garden, garden, garden)


def tensor_rows(paths: list[str]) -> Tensor:
    return torch.tensor([read(path) for path in paths])


def text_answers(state: list[str]) -> list[int | None]:
    """What each path votes for; some abstain."""
    codes = [read(path)[2] for path in state]
    return [None if code % 7 == 0 else code % 3 for code in codes]


def tensor_answers(state: Tensor) -> list[int | None]:
    """As `text_answers`."""
    return [None if code % 7 == 0 else code % 3 for code in state[:, 2].tolist()]


class Future(NamedTuple):
    """A complete path through the garden, or one cut at a depth."""

    moves: tuple[str, ...]
    value: float  # discounted return, with the value of the last place where it has not ended


def futures(root: str, depth: int) -> Iterator[Future]:
    """Every path that the policy allows from `root`, by brute force; no move ever slips."""
    garden, rng = TextGarden(), torch.Generator()

    def extend(path: str, moves: tuple[str, ...], earned: float, weight: float) -> Iterator[Future]:
        if len(moves) == depth:
            yield Future(moves, earned + weight * garden.value([path]).item())
            return
        proposal = garden.propose([path], 3, rng=rng)
        for word, prior in zip(proposal.actions, proposal.log_prior[0].tolist(), strict=True):
            if prior == -torch.inf:
                continue
            moved = garden.step([path], [word], rng=rng)
            total = earned + weight * moved.reward.item()
            if moved.discount.item() == 0:
                yield Future((*moves, word), total)
            else:
                deeper = weight * moved.discount.item()
                yield from extend(moved.state[0], (*moves, word), total, deeper)

    return extend(root, (), 0.0, 1.0)


def optimum(root: str, depth: int = DEPTH) -> Future:
    """The best path from `root` within `depth` moves; its first when several are equally good."""
    return max(futures(root, depth), key=lambda future: future.value)


class Metered:
    """A garden over text that also reports tokens: one decoded per letter of a word drawn."""

    def __init__(self) -> None:
        self.garden = TextGarden()

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        spent = torch.tensor([len(word) for word in action])
        none = torch.zeros_like(spent)
        tokens = Tokens(decoded=none, prefilled=none, scored=spent)
        return self.garden.step(state, action, rng=rng)._replace(tokens=tokens)

    def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
        proposal = self.garden.propose(state, num, rng=rng)
        number = proposal.log_prior.shape[1]
        lengths = torch.tensor([len(word) for word in proposal.actions]).view(-1, number)
        read_in = torch.tensor([len(path) for path in state])
        tokens = Tokens(lengths.sum(1), read_in, torch.zeros_like(read_in))
        return proposal._replace(tokens=tokens)


def metered_garden() -> Model:
    metered = Metered()
    return Model(metered, metered, metered.garden)


class Glider(nn.Module):
    """A small learned-looking model: states [R, 2], actions [R, 1]; differentiable, never ends."""

    terminates = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
            self.critic = nn.Linear(2, 1).double()

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        state = state + 0.5 * self.net(torch.cat([state, action], 1))
        reward = -state.square().sum(1) - 0.1 * action.square().sum(1)
        return Transition(state, reward, torch.full_like(reward, 0.95))

    def value(self, state: Tensor) -> Tensor:
        return self.critic(state).squeeze(1)


def glider() -> Model:
    net, box = Glider(), Box(torch.tensor([-1.0]).double(), torch.tensor([0.5]).double())
    return Model(net, Nudges(), net, box)


class Gusty(Glider):
    """A glider in a wind that is drawn anew at every step."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        gust = 0.3 * draws.normal(rng, len(state), 2).to(state)
        return moved._replace(state=moved.state + gust)


def gusty_glider() -> Model:
    net = Gusty()
    return glider()._replace(dynamics=net, value=net)


class Nudges:
    """A policy of continuous actions: uniform draws in the glider's box."""

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        unit = draws.uniform(rng, len(state) * num, 1).double()
        return Proposal(unit * 1.5 - 1, unit.new_zeros((len(state), num), dtype=torch.float32))


class Quadratic:
    """x+ = A x + B u with reward -(x'Qx + u'Ru) and value -x'Qx: linear-quadratic control."""

    terminates = False

    def __init__(self, A: Tensor, B: Tensor, Q: Tensor, R: Tensor) -> None:
        self.A, self.B, self.Q, self.R = A, B, Q, R

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        cost = _form(state, self.Q) + _form(action, self.R)
        return Transition(state @ self.A.T + action @ self.B.T, -cost, torch.ones_like(cost))

    def value(self, state: Tensor) -> Tensor:
        return -_form(state, self.Q)


def _form(x: Tensor, M: Tensor) -> Tensor:
    return ((x @ M) * x).sum(1)
