"""Laws of depth-first search with pruning and backtracking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mbrl_core import Budget, DepthFirstSearch, Event, Model, Plan, Tree, Vote, generator
from tests.trees import RandomTree
from tests.worlds import DEPTH, futures, optimum, text_garden

seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


class Signs(RandomTree):
    """Two moves everywhere, no rewards; a place is worth what `worths` says, else 0.5."""

    def __init__(self, worths: dict[str, float], *, ends: tuple[str, ...] = ()) -> None:
        super().__init__(0)
        self.worths, self.ends = worths, ends

    def options(self, path: str) -> list[tuple[str, float]]:
        return [("a", 0.5), ("b", 0.5)]

    def arrive(self, path: str) -> tuple[float, float]:
        return (self.worth(path), 0.0) if path in self.ends else (0.0, 1.0)

    def worth(self, path: str) -> float:
        return self.worths.get(path, 0.5)


def search(world: RandomTree, roots: list[str], **options: Any) -> tuple[Plan, list[list[str]]]:
    """The plan, and the places each root's search visited, in order."""
    heard: list[Event] = []
    budget = options.pop("budget", None)
    plan, _ = DepthFirstSearch(**options)(
        world.model(), roots, rng=generator(0), budget=budget, listen=heard.append
    )
    assert isinstance(plan.trace, Tree)
    room = plan.trace.parent.shape[1]
    visited: list[list[str]] = [[] for _ in roots]
    for event in heard:
        nodes = zip(event.data["roots"].tolist(), event.data["leaf"].tolist(), strict=True)
        for root, node in nodes:
            visited[root].append(plan.trace.states[root * room + node])
    return plan, visited


# The order


def test_each_child_is_followed_down_before_the_next() -> None:
    _, visited = search(Signs({}), [""], expand=2, depth=3, max_nodes=99)
    assert " ".join(visited[0]) == "a aa aaa aab ab aba abb b ba baa bab bb bba bbb"


def test_the_likeliest_comes_first_and_equals_in_the_order_proposed() -> None:
    class Leaning(Signs):
        def options(self, path: str) -> list[tuple[str, float]]:
            return [("a", 0.2), ("b", 0.4), ("c", 0.4)]

    _, visited = search(Leaning({}), [""], expand=3, depth=1, max_nodes=9)
    assert visited[0] == ["b", "c", "a"]


def test_a_pruned_place_is_left_at_once() -> None:
    world = Signs({"a": 0.1, "ba": 0.1, "bb": 0.9})
    plan, visited = search(world, [""], expand=2, depth=3, max_nodes=99, prune_below=0.3)
    assert visited[0] == ["a", "b", "ba", "bb", "bba", "bbb"]
    visits = dict(zip(plan.trace.states, plan.trace.visits[0].tolist(), strict=True))  # type: ignore[union-attr]
    assert visits == {"": 5, "a": 0, "b": 4, "ba": 0, "bb": 3, "bba": 1, "bbb": 1}
    assert plan.final == ["bba"], "of equals the first"


def test_roots_walk_at_their_own_pace() -> None:
    world = Signs({"a": 0.1, "!a": 0.9, "!b": 0.1})
    options = {"expand": 2, "depth": 2, "max_nodes": 99, "prune_below": 0.3}
    _, together = search(world, ["", "!"], **options)
    assert together == [["a", "b", "ba", "bb"], ["!a", "!aa", "!ab", "!b"]]
    assert [search(world, [root], **options)[1][0] for root in ("", "!")] == together


def test_a_search_ends_at_the_first_plan_that_is_good_enough() -> None:
    world = Signs({"aab": 0.9, "ba": 0.95}, ends=("ba",))
    plan, visited = search(world, [""], expand=2, depth=3, max_nodes=99, enough=0.8)
    assert visited[0] == ["a", "aa", "aaa", "aab"] and plan.final == ["aab"]
    plan, visited = search(world, [""], expand=2, depth=3, max_nodes=99, enough=0.92)
    assert visited[0][-2:] == ["b", "ba"] and plan.final == ["ba"]


@pytest.mark.parametrize("number", [1, 2, 5, 13])
def test_the_number_of_nodes_cuts_the_same_walk_short(number: int) -> None:
    _, whole = search(Signs({}), ["", "x"], expand=2, depth=3, max_nodes=99)
    plan, cut = search(Signs({}), ["", "x"], expand=2, depth=3, max_nodes=number)
    assert cut == [visited[:number] for visited in whole]
    assert plan.cost.steps.tolist() == [number] * 2
    budget = Budget(steps=number)
    _, limited = search(Signs({}), ["", "x"], expand=2, depth=3, max_nodes=99, budget=budget)
    assert limited == cut


# What is chosen


@given(seed=seeds, dead_ends=st.sampled_from([0.0, 0.3]))
@few
def test_without_pruning_and_with_nodes_for_all_it_is_exhaustive(
    seed: int, dead_ends: float
) -> None:
    world = RandomTree(seed, dead_ends=dead_ends)
    leaves = list(world.leaves(3))
    assume(leaves)
    plan, visited = search(world, [""], expand=3, depth=3, max_nodes=3 + 9 + 27)
    best = max(leaves, key=lambda leaf: leaf.value)
    assert plan.value.item() == best.value and plan.final == [best.path]
    paths = {leaf.path for leaf in leaves}
    assert [path for path in visited[0] if path in paths] == [leaf.path for leaf in leaves]


def test_it_finds_the_optimum_of_the_garden() -> None:
    roots = ["start", "gate", "wall"]
    planner = DepthFirstSearch(expand=3, depth=DEPTH, max_nodes=3 + 9 + 27 + 81)
    plan, _ = planner(text_garden(), roots, rng=generator(0))
    assert plan.value.tolist() == [optimum(root).value for root in roots]


@given(seed=seeds, bar=st.sampled_from([-1.0, -0.25, 0.25]))
@few
def test_nothing_below_a_pruned_place_is_visited(seed: int, bar: float) -> None:
    world = RandomTree(seed)
    _, free = search(world, [""], expand=3, depth=3, max_nodes=99)
    _, visited = search(world, [""], expand=3, depth=3, max_nodes=99, prune_below=bar)
    pruned = [p for p in visited[0] if world.score(p) < bar and world.arrive(p)[1] != 0]
    expected = [p for p in free[0] if not any(p.startswith(x) and p != x for x in pruned)]
    assert visited[0] == expected


def test_complete_plans_come_before_open_ones_and_these_before_pruned_ones() -> None:
    options = {"expand": 2, "depth": 3, "prune_below": 0.3}
    world = Signs({"a": 0.9, "b": 0.2})
    complete, _ = search(world, [""], max_nodes=3, **options)
    assert complete.final == ["aaa"], "though a itself is worth more"
    opened, _ = search(world, [""], max_nodes=2, **options)
    assert opened.final == ["a"]
    hopeless, _ = search(Signs({"a": 0.1, "b": 0.2}), [""], max_nodes=9, **options)
    assert hopeless.final == ["b"] and hopeless.valid.all()


def test_a_vote_is_among_the_complete_plans() -> None:
    planner = DepthFirstSearch(
        expand=3, depth=DEPTH, max_nodes=120, reduce=Vote(lambda paths: [p[-1] for p in paths])
    )
    plan, _ = planner(text_garden(), ["start"], rng=generator(0))
    endings = [future.moves[-1][-1] for future in futures("start", DEPTH)]
    most = max(set(endings), key=endings.count)
    assert plan.value.item() == pytest.approx(endings.count(most) / len(endings))
    assert plan.final[0][-1] == most


def test_pruning_needs_a_value() -> None:
    world = RandomTree(0)
    with pytest.raises(ValueError, match=r"DepthFirstSearch needs Model\.value"):
        DepthFirstSearch(expand=2, depth=2, max_nodes=3, prune_below=0.5)(
            Model(world, world), [""], rng=generator(0)
        )


def test_a_walk_needs_no_more_calls_than_its_slowest_root() -> None:
    """One propose, one step and one value at most for every node of the largest tree."""
    world, options = Signs({}), {"expand": 2, "depth": 3, "max_nodes": 99}
    many, _ = search(world, ["", "x", "y", "z"], **options)
    one, _ = search(world, [""], **options)
    assert many.cost.calls == one.cost.calls
    assert torch.equal(many.cost.steps, one.cost.steps.expand(4))
