"""Laws of tree search: a plain reference, invariances, precision."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Budget,
    Discrete,
    Gumbel,
    Model,
    Proposal,
    RandomShooting,
    Rng,
    Selection,
    SiblingsQ,
    Transition,
    Tree,
    generator,
)
from tests.worlds import tensor_garden, tensor_rows

CHOICES = 3


class Maze:
    """A table of random transitions between 64 places; a state [R, 1] holds its place's number."""

    def __init__(
        self,
        seed: int,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
        gamma: float = 0.9,
        ends: float = 0.1,
        dtype: torch.dtype = torch.float32,
        choices: int = CHOICES,
    ) -> None:
        gen, shape = generator(seed), (64, choices)
        self.next = torch.randint(64, shape, generator=gen)
        self.reward = (scale * torch.randn(shape, generator=gen)).to(dtype)
        ended = torch.rand(shape, generator=gen) < ends
        self.discount = torch.where(ended, 0.0, gamma).to(dtype)
        self.logits = torch.randn(shape, generator=gen).to(dtype)
        self.values = (scale * torch.randn(64, generator=gen)).to(dtype) + shift
        self.dtype = dtype

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        at = (state.squeeze(1).long(), action)
        there = self.next[at].unsqueeze(1).to(self.dtype)
        return Transition(there, self.reward[at], self.discount[at])

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        logits = self.logits[state.squeeze(1).long()][:, :num]
        return Proposal(torch.arange(logits.shape[1]).repeat(len(state)), logits)

    def value(self, state: Tensor) -> Tensor:
        return self.values[state.squeeze(1).long()]

    @property
    def model(self) -> Model:
        return Model(self, self, self, Discrete(self.logits.shape[1]))

    def roots(self, number: int = 4) -> Tensor:
        return torch.arange(number, dtype=self.dtype).unsqueeze(1)


def search(maze: Maze, planner: MCTS, roots: Tensor | None = None) -> Tree:
    plan, _ = planner(maze.model, maze.roots() if roots is None else roots, rng=generator(0))
    assert isinstance(plan.trace, Tree)
    return plan.trace


# A plain tree search, one root, one simulation at a time


class Place(NamedTuple):
    """A node, its place in the maze and what led to it."""

    at: int
    reward: float
    discount: float
    raw: float
    found: list[float]  # every return backed up here
    children: dict[int, Place]

    @property
    def value(self) -> float:
        return sum(self.found) / len(self.found)


class Reference:
    """UCT or PUCT written down as in a textbook, for one root of a maze."""

    def __init__(self, maze: Maze, root: int, selection: UCT | PUCT) -> None:
        self.maze, self.selection = maze, selection
        self.root = self.place(root, 0.0, 1.0)
        self.order = [self.root]

    def place(self, at: int, reward: float, discount: float) -> Place:
        raw = 0.0 if discount == 0 else self.maze.values[at].item()
        return Place(at, reward, discount, raw, [raw], {})

    def q(self, node: Place, action: int) -> float:
        child = node.children[action]
        return child.reward + child.discount * child.value

    def score(self, node: Place, action: int) -> float:
        number = {a: len(child.found) for a, child in node.children.items()}
        tried = number.get(action, 0)
        if isinstance(self.selection, UCT):
            if not tried:
                return math.inf
            bonus = math.sqrt(math.log(sum(number.values())) / tried)
            return self.q(node, action) + self.selection.exploration * bonus
        prior = self.maze.logits[node.at].double().softmax(0)[action].item()
        total = len(node.found)
        rate = self.selection.c_init
        rate += math.log((total + self.selection.c_base + 1) / self.selection.c_base)
        known = [node.value, *(self.q(node, a) for a in node.children)]
        low, high = min(known), max(known)
        q = ((self.q(node, action) if tried else low) - low) / max(high - low, 1e-8)
        return q + rate * math.sqrt(total) * prior / (1 + tried)

    def simulate(self) -> None:
        path = [self.root]
        while True:
            node = path[-1]
            if node.discount == 0:
                found = 0.0
                break
            action = max(range(CHOICES), key=lambda a: (self.score(node, a), -a))
            if action in node.children:
                path.append(node.children[action])
                continue
            maze = self.maze
            there = int(maze.next[node.at, action])
            reward, discount = maze.reward[node.at, action], maze.discount[node.at, action]
            child = self.place(there, reward.item(), discount.item())
            node.children[action] = child
            self.order.append(child)
            found = child.reward + child.discount * child.raw
            break
        if node.discount == 0:
            node.found.append(found)
            found = node.reward + node.discount * found
            path.pop()
        for node in reversed(path):
            node.found.append(found)
            found = node.reward + node.discount * found


@given(
    seed=st.integers(0, 10_000),
    selection=st.one_of(
        st.floats(0.1, 4).map(lambda c: UCT(exploration=c)),
        st.floats(0.1, 4).map(lambda c: PUCT(c_init=c)),
    ),
)
@settings(max_examples=20, deadline=None)
def test_the_search_is_the_textbook_one(seed: int, selection: UCT | PUCT) -> None:
    maze = Maze(seed, dtype=torch.float64)
    tree = search(maze, MCTS(simulations=40, candidates=CHOICES, selection=selection))
    for b in range(4):
        reference = Reference(maze, b, selection)
        for _ in range(40):
            reference.simulate()
        number = len(reference.order)
        assert int(tree.size[b]) == number
        assert tree.visits[b, :number].tolist() == [len(node.found) for node in reference.order]
        values = [node.value for node in reference.order]
        assert tree.value[b, :number].tolist() == pytest.approx(values, abs=1e-9)


# Invariances

SELECTIONS: dict[str, Selection] = {"uct": UCT(), "puct": PUCT(), "gumbel": Gumbel()}
every_selection = pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)


@every_selection
@pytest.mark.parametrize("leaves", [1, 3])
def test_permuted_roots_give_permuted_plans(selection: Selection, leaves: int) -> None:
    planner = MCTS(simulations=24, candidates=3, selection=selection, leaves=leaves)
    paths = ["start", "gate>left", "wall", "start>right"]
    order = torch.tensor([2, 0, 3, 1])
    states = tensor_rows(paths)
    plan, _ = planner(tensor_garden(0.25), states, rng=[generator(b) for b in range(4)])
    rng = [generator(b) for b in order.tolist()]
    moved, _ = planner(tensor_garden(0.25), states[order], rng=rng)
    assert isinstance(plan.trace, Tree) and isinstance(moved.trace, Tree)
    assert torch.equal(plan.action[order], moved.action)
    assert torch.equal(plan.value[order], moved.value)
    assert torch.equal(plan.trace.visits[order], moved.trace.visits)


@given(seed=st.integers(0, 10_000), power=st.integers(-6, 6))
@settings(max_examples=15, deadline=None)
def test_the_unit_of_reward_does_not_matter_to_normalised_q(seed: int, power: int) -> None:
    planner = MCTS(simulations=40, candidates=CHOICES, selection=PUCT(q=SiblingsQ()))
    one, other = search(Maze(seed), planner), search(Maze(seed, scale=2.0**power), planner)
    assert torch.equal(one.parent, other.parent)
    assert torch.equal(one.visits, other.visits)
    torch.testing.assert_close(one.value * 2.0**power, other.value)


@given(seed=st.integers(0, 10_000), shift=st.integers(-8, 8))
@settings(max_examples=15, deadline=None)
def test_a_shift_of_all_values_does_not_matter_to_normalised_q(seed: int, shift: int) -> None:
    # Without discount and without ends every return shifts alike.
    mazes = [
        Maze(seed, gamma=1.0, ends=0.0, shift=float(by), dtype=torch.float64) for by in (0, shift)
    ]
    planner = MCTS(simulations=40, candidates=CHOICES, selection=PUCT(q=SiblingsQ()))
    one, other = (search(maze, planner) for maze in mazes)
    assert torch.equal(one.parent, other.parent)
    torch.testing.assert_close(one.value + shift, other.value)


@every_selection
def test_single_precision_searches_like_double(selection: Selection) -> None:
    planner = MCTS(simulations=40, candidates=CHOICES, selection=selection)
    single, double = (
        search(Maze(3, dtype=dtype), planner) for dtype in (torch.float32, torch.float64)
    )
    assert single.value.dtype == torch.float32 and double.value.dtype == torch.float64
    assert torch.equal(single.parent, double.parent)
    torch.testing.assert_close(single.value.double(), double.value, atol=1e-5, rtol=1e-5)


def test_with_one_action_the_search_is_a_rollout() -> None:
    maze = Maze(5, ends=0.0)
    tree = search(maze, MCTS(simulations=12, candidates=1))
    plan, _ = RandomShooting(samples=1, horizon=12)(maze.model, maze.roots(), rng=generator(0))
    weight = tree.discount[:, 1:].cumprod(1)
    before = torch.cat([torch.ones(4, 1), weight[:, :-1]], 1)
    returns = (before * tree.reward[:, 1:]).sum(1) + weight[:, -1] * tree.raw_value[:, -1]
    assert tree.depth.tolist() == [list(range(13))] * 4
    torch.testing.assert_close(returns, plan.value)


def test_gumbel_without_noise_does_not_draw() -> None:
    planner = MCTS(simulations=20, candidates=CHOICES, selection=Gumbel(scale=0.0))
    maze, rng = Maze(0), generator(0)
    before = rng.get_state()
    planner(maze.model, maze.roots(), rng=rng)
    assert torch.equal(before, rng.get_state())


# Several leaves at once


@every_selection
@pytest.mark.parametrize("leaves", [1, 4])
def test_a_node_may_be_worth_the_best_found_below_it(selection: Selection, leaves: int) -> None:
    planner = MCTS(
        simulations=40, candidates=CHOICES, selection=selection, leaves=leaves, backup="max"
    )
    maze = Maze(7)
    plan, _ = planner(maze.model, maze.roots(), rng=generator(0))
    tree = plan.trace
    assert isinstance(tree, Tree)
    for b in range(4):
        for node in range(int(tree.size[b])):
            below = (tree.parent[b] == node).nonzero().squeeze(1)
            q = tree.reward[b, below] + tree.discount[b, below] * tree.value[b, below]
            best = torch.cat([tree.raw_value[b, node].view(1), q]).max()
            torch.testing.assert_close(tree.value[b, node], best)


@every_selection
@pytest.mark.parametrize("leaves", [2, 5, 40])
def test_leaves_at_once_lose_no_simulation(selection: Selection, leaves: int) -> None:
    planner = MCTS(simulations=40, candidates=CHOICES, selection=selection, leaves=leaves)
    maze = Maze(7, ends=0.0)
    plan, _ = planner(maze.model, maze.roots(), rng=generator(0))
    tree = plan.trace
    assert isinstance(tree, Tree)
    assert tree.size.tolist() == [41] * 4, "no edge is expanded twice, nothing is left out"
    assert tree.visits[:, 0].tolist() == [41] * 4
    for b in range(4):
        for node in range(41):
            below = (tree.parent[b] == node).nonzero().squeeze(1)
            assert int(tree.visits[b, node]) == 1 + int(tree.visits[b, below].sum())
            q = tree.reward[b, below] + tree.discount[b, below] * tree.value[b, below]
            total = tree.raw_value[b, node] + (q * tree.visits[b, below]).sum()
            torch.testing.assert_close(tree.value[b, node], total / tree.visits[b, node])


def test_more_leaves_take_fewer_calls() -> None:
    calls = {}
    for leaves in (1, 4):
        planner = MCTS(simulations=40, candidates=CHOICES, selection=UCT(), leaves=leaves)
        plan, _ = planner(Maze(7).model, Maze(7).roots(), rng=generator(0))
        calls[leaves] = plan.cost.calls
        assert int(plan.cost.steps.max()) <= 40
    assert calls[4] < calls[1] / 2


# Rounds of sequential halving


def by_path(tree: Tree, root: int) -> dict[tuple[int, ...], list[float]]:
    """Visits, value and raw value of each node of one tree, by the candidates that lead there."""
    paths: list[tuple[int, ...]] = [()]
    for node in range(1, int(tree.size[root])):
        parent, slot = int(tree.parent[root, node]), int(tree.slot[root, node])
        paths.append((*paths[parent], slot))
    numbers = torch.stack([tree.visits[root], tree.value[root], tree.raw_value[root]], 1)
    return dict(zip(paths, numbers.tolist(), strict=False))


@pytest.mark.parametrize(
    ("choices", "considered", "simulations"), [(4, 16, 50), (18, 16, 50), (18, 7, 61), (5, 3, 2)]
)
def test_candidates_of_a_round_side_by_side_are_one_by_one(
    choices: int, considered: int, simulations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    maze = Maze(11, choices=choices)
    planner = MCTS(
        simulations=simulations, candidates=choices, selection=Gumbel(considered=considered)
    )
    together, _ = planner(maze.model, maze.roots(16), rng=generator(0))
    monkeypatch.setattr(
        MCTS, "_affordable", lambda self, world, at_once: np.ones(world.roots, np.int64)
    )
    alone, _ = planner(maze.model, maze.roots(16), rng=generator(0))
    assert isinstance(together.trace, Tree) and isinstance(alone.trace, Tree)
    for root in range(16):
        one, other = by_path(together.trace, root), by_path(alone.trace, root)
        assert one.keys() == other.keys()
        for path, numbers in one.items():
            assert numbers == pytest.approx(other[path], abs=1e-5)
    assert together.action.equal(alone.action)
    assert together.cost.steps.equal(alone.cost.steps)
    assert together.cost.calls < alone.cost.calls


def test_a_budget_cuts_a_round() -> None:
    maze = Maze(11, choices=18)
    planner = MCTS(simulations=50, candidates=18, selection=Gumbel())
    plan, _ = planner(maze.model, maze.roots(), rng=generator(0), budget=Budget(steps=21))
    assert plan.cost.steps.tolist() == [21] * 4
