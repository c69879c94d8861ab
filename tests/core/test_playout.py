"""Rollouts as a value: what a state is worth, and the solutions that are found on the way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    MCTS,
    UCT,
    Argmax,
    BeamSearch,
    Budget,
    CVaR,
    Discrete,
    Model,
    Particles,
    Plan,
    Proposal,
    Rng,
    Transition,
    Tree,
    generator,
)
from mbrl_core.planners.playout import Rollouts
from mbrl_core.world import World
from tests.core.test_mcts_laws import Maze
from tests.worlds import tensor_garden, tensor_rows


class Always:
    """A policy of one action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        total = len(state)
        return Proposal(torch.full((total,), self.action), torch.zeros(total, 1))


def ahead(maze: Maze, at: int, action: int, steps: int) -> float:
    """The return of taking `action` so often, with the value of the last place."""
    total, weight = 0.0, 1.0
    for _ in range(steps):
        total += weight * maze.reward[at, action].item()
        weight *= maze.discount[at, action].item()
        at = int(maze.next[at, action])
        if weight == 0:
            return total
    return total + weight * maze.values[at].item()


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


@pytest.mark.parametrize("steps", [1, 3])
def test_a_beam_that_looks_ahead_values_a_node_by_what_it_leads_to(steps: int) -> None:
    """The rollout policy plays on, not the policy whose candidates are searched."""
    maze = Maze(3)
    model = maze.model._replace(rollout=Always(2))
    planner = BeamSearch(width=4, expand=3, depth=3, rollouts=1, rollout_depth=steps)
    tree = tree_of(planner(model, maze.roots(), rng=generator(0))[0])
    for b in range(4):
        for node in range(1, int(tree.size[b])):
            at = int(tree.states.view(4, -1)[b, node])
            ended = tree.discount[b, node] == 0
            expected = 0.0 if ended else ahead(maze, at, 2, steps)
            assert tree.raw_value[b, node].item() == pytest.approx(expected, abs=1e-5)


def test_a_beam_that_does_not_look_ahead_is_a_beam() -> None:
    maze = Maze(5)
    plain = BeamSearch(width=4, expand=3, depth=3)
    model = maze.model._replace(rollout=Always(0))
    for planner in (plain, BeamSearch(width=4, expand=3, depth=3, rollouts=0, rollout_depth=7)):
        one, _ = planner(maze.model, maze.roots(), rng=generator(0))
        other, _ = plain(model, maze.roots(), rng=generator(0))
        assert torch.equal(one.value, other.value) and torch.equal(one.final, other.final)


def test_a_tree_search_may_take_a_solution_that_a_rollout_found() -> None:
    """The plan is the best of all that ended, in the tree or in a rollout; its first action is the
    one that leads there, and the futures on record are those that were played."""
    maze = Maze(7, ends=0.2)
    planner = MCTS(
        simulations=12, candidates=3, selection=UCT(), rollouts=2, rollout_depth=9, reduce=Argmax()
    )
    taken = 0
    for seed in range(12):
        roots = maze.roots(6) + seed
        model = maze.model._replace(rollout=Shuffled(maze))
        plan, _ = planner(model, roots, rng=generator(seed))
        tree = tree_of(plan)
        assert tree.played is not None
        played = tree.played
        assert bool((played.root.diff() >= 0).all())
        for b in range(6):
            ended = (tree.discount[b] == 0) & (torch.arange(tree.parent.shape[1]) < tree.size[b])
            paths = [earned(tree, b, node) for node in ended.nonzero().flatten().tolist()]
            mine = (played.root == b).nonzero().flatten().tolist()
            futures = played.returns[mine].tolist()
            assert plan.value[b].item() == pytest.approx(max(paths + futures), abs=1e-5)
            if max(futures, default=-math.inf) > max(paths, default=-math.inf):
                taken += 1
                best = mine[futures.index(max(futures))]
                assert torch.equal(plan.final[b], played.final[best])
                node = int(played.node[best])
                expected = played.action[best] if node == 0 else first_step(tree, b, node)
                assert int(plan.action[b]) == int(expected)
    assert taken > 10


class Shuffled:
    """A policy that draws among all choices."""

    def __init__(self, maze: Maze) -> None:
        self.maze = maze

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        from mbrl_core.draws import integers

        return Proposal(integers(rng, 3, len(state)), torch.zeros(len(state), 1))


def earned(tree: Tree, b: int, node: int) -> float:
    """The discounted reward on the way to a node."""
    if node == 0:
        return 0.0
    way = []
    while node:
        way.append(node)
        node = int(tree.parent[b, node])
    total, weight = 0.0, 1.0
    for at in reversed(way):
        total += weight * tree.reward[b, at].item()
        weight *= tree.discount[b, at].item()
    return total


def first_step(tree: Tree, b: int, node: int) -> int:
    while tree.depth[b, node] > 1:
        node = int(tree.parent[b, node])
    return int(tree.slot[b, node])


class Broken(Maze):
    """Earns NaN in place of every reward above a bound."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        reward = torch.where(moved.reward > 0.5, torch.nan, moved.reward)
        return moved._replace(reward=reward)


def test_a_future_without_a_return_counts_for_nothing() -> None:
    maze = Broken(1, ends=0.0)
    model = maze.model._replace(rollout=Shuffled(maze))
    world = World("test", model, maze.roots(8), rng=generator(0))
    value = Rollouts(4, 1).value(world, maze.roots(8), torch.arange(8))
    seen = 0
    for b in range(8):
        rewards = maze.reward[b]
        outcomes = rewards + maze.discount[b] * maze.values[maze.next[b]]
        usable = outcomes[rewards <= 0.5]
        if len(usable) == 0:
            assert value[b] == -math.inf
        elif len(usable) < 3:
            seen += 1
            assert usable.min() - 1e-5 <= value[b] <= usable.max() + 1e-5 or value[b] == -math.inf
    assert seen > 2


@pytest.mark.parametrize("unit", ["steps", "proposals", "calls"])
def test_looking_ahead_keeps_inside_a_budget(unit: str) -> None:
    planner = BeamSearch(width=3, expand=3, depth=3, rollouts=2, rollout_depth=2)
    model, roots = tensor_garden(), tensor_rows(["start", "gate>left", "wall"])
    for limit in (16, 31, 60):
        plan, _ = planner(model, roots, rng=generator(0), budget=Budget(**{unit: limit}))
        spent = getattr(plan.cost, unit)
        assert int(spent if unit == "calls" else spent.max()) <= limit


def test_particles_ask_the_rollout_policy_too() -> None:
    maze = Maze(2, ends=0.0)
    cloud = Particles(maze.model._replace(rollout=Always(1)), 2, CVaR(0.5))
    planner = MCTS(simulations=2, candidates=1, rollouts=1, rollout_depth=3)
    plan, _ = planner(cloud.model(), cloud.root(maze.roots()), rng=generator(0))
    found = tree_of(plan).raw_value[:, 0].tolist()
    assert found == pytest.approx([ahead(maze, b, 1, 3) for b in range(4)], abs=1e-5)


def test_a_model_without_a_rollout_policy_is_played_by_its_policy() -> None:
    maze = Maze(4)
    explicit = Model(maze, maze, maze, Discrete(3), rollout=maze)
    planner = MCTS(simulations=6, candidates=3, rollouts=1, rollout_depth=4)
    one, _ = planner(maze.model, maze.roots(), rng=generator(0))
    other, _ = planner(explicit, maze.roots(), rng=generator(0))
    assert torch.equal(tree_of(one).value, tree_of(other).value)
    assert torch.equal(one.cost.proposals, other.cost.proposals)
