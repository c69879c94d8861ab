"""Laws of the searches that keep several partial plans or come back to them: beam, DVTS, DFS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mbrl_core import (
    BeamSearch,
    Budget,
    DepthFirstSearch,
    Event,
    ListedActions,
    Model,
    ParticleFilter,
    Plan,
    Planner,
    Proposal,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Transition,
    Tree,
    generator,
)
from tests.trees import Leaf, RandomTree
from tests.worlds import Quadratic, metered_garden, text_garden

DEPTH = 3
FULL = 3**DEPTH
seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)
PLANNERS: dict[str, Callable[[], Planner]] = {
    "beam": lambda: BeamSearch(width=2, expand=3, depth=DEPTH),
    "wide": lambda: BeamSearch(width=2, expand=2, depth=DEPTH, root_expand=3),
    "dvts": lambda: BeamSearch(width=4, expand=2, depth=DEPTH, groups=2),
    "dfs": lambda: DepthFirstSearch(expand=3, depth=DEPTH, max_nodes=12),
    "pruning": lambda: DepthFirstSearch(expand=3, depth=DEPTH, max_nodes=12, prune_below=0.0),
    "particles": lambda: ParticleFilter(particles=4, depth=DEPTH, temperature=0.5),
}
every_planner = pytest.mark.parametrize("name", PLANNERS)


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


def best_leaf(world: RandomTree, depth: int = DEPTH) -> Leaf:
    """The optimum by enumeration; there is none where every path is a dead end."""
    leaves = list(world.leaves(depth))
    assume(leaves)
    return max(leaves, key=lambda leaf: leaf.value)


# Against enumeration


@given(seed=seeds, dead_ends=st.sampled_from([0.0, 0.3]))
@few
def test_a_beam_of_full_width_is_exhaustive(seed: int, dead_ends: float) -> None:
    world = RandomTree(seed, dead_ends=dead_ends)
    best = best_leaf(world)
    planner = BeamSearch(width=FULL, expand=3, depth=DEPTH)
    plan, _ = planner(world.model(), [""], rng=generator(0))
    assert plan.value.item() == best.value
    assert best.value == next(x.value for x in world.leaves(DEPTH) if x.path == plan.final[0])


@given(seed=seeds)
@few
def test_a_beam_of_one_with_one_candidate_follows_the_policy(seed: int) -> None:
    world = RandomTree(seed)
    one, _ = BeamSearch(width=1, expand=1, depth=DEPTH)(world.model(), [""], rng=generator(7))
    drawn, _ = RandomShooting(samples=1, horizon=DEPTH)(world.model(), [""], rng=generator(7))
    assert (one.action, one.final) == (drawn.action, drawn.final)
    assert torch.equal(one.value, drawn.value)


@given(seed=seeds, width=st.integers(1, 4))
@few
def test_a_beam_keeps_the_first_of_the_best_at_every_level(seed: int, width: int) -> None:
    """Each level is the stable sort of what the last one leads to; checked by enumeration."""
    world = RandomTree(seed)
    heard: list[Event] = []
    planner = BeamSearch(width=width, expand=3, depth=DEPTH)
    plan, _ = planner(world.model(), [""], rng=generator(0), listen=heard.append)
    kept = [""]
    for event in heard:
        pool = []
        for path in kept:
            ended = path != "" and world.arrive(path)[1] == 0
            pool += [path] if ended else [path + a for a, _ in world.options(path)]
        kept = sorted(pool, key=lambda path: -world.score(path))[:width]
        nodes = event.data["beam"][0][event.data["present"][0]].tolist()
        assert [tree_of(plan).states[node] for node in nodes] == kept


@given(seed=seeds, width=st.integers(1, 3))
@few
def test_the_root_alone_is_asked_for_more(seed: int, width: int) -> None:
    world = RandomTree(seed, endings=0.0)
    planner = BeamSearch(width=width, expand=2, depth=DEPTH, root_expand=3)
    heard: list[Event] = []
    plan, _ = planner(world.model(), [""], rng=generator(0), listen=heard.append)
    kept = [""]
    for event in heard:
        asked = 2 if event.number else 3
        pool = [path + a for path in kept for a, _ in world.options(path)[:asked]]
        kept = sorted(pool, key=lambda path: -world.score(path))[:width]
        nodes = event.data["beam"][0][event.data["present"][0]].tolist()
        assert [tree_of(plan).states[node] for node in nodes] == kept


def test_the_root_is_asked_for_as_many_as_can_be_paid_for() -> None:
    planner = BeamSearch(width=1, expand=1, depth=1, root_expand=3)
    for limit, made in ((1, 1), (2, 2), (9, 3)):
        budget = Budget(proposals=limit)
        plan, _ = planner(RandomTree(1).model(), [""], rng=generator(0), budget=budget)
        assert int(tree_of(plan).size) == 1 + made
    with pytest.raises(ValueError, match=r"BeamSearch\.root_expand must be a whole number"):
        BeamSearch(width=1, expand=1, depth=1, root_expand=0)


# Groups: diverse verifier tree search


class Dealt(RandomTree):
    """A tree whose root proposes only every `groups`-th candidate, from number `group` on."""

    def __init__(self, seed: int, group: int, groups: int) -> None:
        super().__init__(seed)
        self.group, self.groups = group, groups

    def options(self, path: str) -> list[tuple[str, float]]:
        found = super().options(path)
        return found if path else found[self.group :: self.groups]


@given(seed=seeds, groups=st.sampled_from([2, 3]), size=st.integers(1, 3))
@few
def test_groups_are_beams_of_their_own(seed: int, groups: int, size: int) -> None:
    world = RandomTree(seed)
    heard: list[Event] = []
    together = BeamSearch(width=groups * size, expand=3, depth=DEPTH, groups=groups)
    plan, _ = together(world.model(), [""], rng=generator(0), listen=heard.append)
    last, states = heard[-1].data, tree_of(plan).states
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        mine = [states[n] for n in last["beam"][0, part][last["present"][0, part]].tolist()]
        alone = Dealt(seed, group, groups)
        if not alone.options(""):
            assert mine in ([], [""])
            continue
        own: list[Event] = []
        beam = BeamSearch(width=size, expand=3, depth=DEPTH)
        found, _ = beam(alone.model(), [""], rng=generator(0), listen=own.append)
        nodes = own[-1].data["beam"][0][own[-1].data["present"][0]].tolist()
        assert mine == [tree_of(found).states[node] for node in nodes]


def test_as_many_groups_as_places_keep_one_plan_for_each_first_step() -> None:
    heard: list[Event] = []
    planner = BeamSearch(width=3, expand=3, depth=4, groups=3)
    plan, _ = planner(text_garden(), ["start", "wall"], rng=generator(0), listen=heard.append)
    tree = tree_of(plan)
    for event in heard:
        for b, beam in enumerate(event.data["beam"]):
            paths = [tree.states[b * tree.parent.shape[1] + node] for node in beam.tolist()]
            assert len({path.split(">")[1] for path in paths}) == 3
    crowded, _ = BeamSearch(width=3, expand=3, depth=4)(text_garden(), ["wall"], rng=generator(0))
    assert crowded.value.item() >= plan.value[1].item()


def test_the_root_is_asked_once_for_the_candidates_of_all_groups() -> None:
    asked: list[int] = []

    class Asked(RandomTree):
        def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
            asked.append(num)
            return super().propose(state, num, rng=rng)

    planner = BeamSearch(width=4, expand=2, depth=2, groups=4)
    planner(Asked(1, endings=0.0).model(), [""], rng=generator(0))
    assert asked == [8, 2]
    asked.clear()
    world = Asked(1, endings=0.0).model()
    planner(world, [""], rng=generator(0), budget=Budget(proposals=5))
    assert asked[0] == 4, "two groups can be paid for"


def test_a_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width must be a multiple of BeamSearch\.groups"):
        BeamSearch(width=4, expand=2, depth=2, groups=3)


# What holds for all of them


@every_planner
@given(seed=seeds, order=st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_roots_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    world, roots = RandomTree(seed), ["", "ab", "c", "ba"]

    def plan(rows: list[int]) -> Plan:
        rng = [generator(row) for row in rows]
        return PLANNERS[name]()(world.model(), [roots[row] for row in rows], rng=rng)[0]

    one, other = plan(list(range(4))), plan(order)
    for place, row in enumerate(order):
        assert other.final[place] == one.final[row]
        assert other.action[place] == one.action[row]
        assert torch.equal(other.value[place], one.value[row])


@every_planner
def test_both_precisions_find_the_same_plan(name: str) -> None:
    """Well separated candidates, so that rounding cannot change an order."""

    def plan(dtype: torch.dtype) -> Plan:
        push = torch.tensor([[-1.0], [0.25], [1.5]], dtype=dtype)
        matrices = ([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.3]], [[1.0, 0.0], [0.0, 0.5]], [[0.1]])
        car = Quadratic(*(torch.tensor(matrix, dtype=dtype) for matrix in matrices))
        state = torch.tensor([[1.0, 0.3], [-0.5, 0.8]], dtype=dtype)
        model = Model(car, ListedActions(push), car)
        return PLANNERS[name]()(model, state, rng=generator(3))[0]

    single, double = plan(torch.float32), plan(torch.float64)
    assert double.value.dtype == torch.float64
    assert torch.equal(single.action.double(), double.action)
    torch.testing.assert_close(single.value.double(), double.value, atol=1e-5, rtol=1e-5)


class Mined(RandomTree):
    """Some places bring a NaN reward, and everything below "c" does."""

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        mined = [path.startswith("c") or path.endswith("ab") for path in moved.state]
        return moved._replace(reward=torch.where(torch.tensor(mined), torch.nan, moved.reward))


@every_planner
def test_a_broken_candidate_is_never_chosen_and_lost_roots_are_named(name: str) -> None:
    class Letters(Mined):
        def options(self, path: str) -> list[tuple[str, float]]:
            return [(letter, 1 / 3) for letter in "abc"]

    world = Letters(3).model()
    for seed in range(5):
        with pytest.warns(RuntimeWarning, match=r"no candidate of roots \[1\] had a finite return"):
            plan, _ = PLANNERS[name]()(world, ["", "c"], rng=generator(seed))
        assert plan.valid.tolist() == [True, False]
        assert torch.isfinite(plan.value[0]) and "ab" not in plan.final[0]
        assert plan.action[1] in "abc", "a fallback is an action that was tried"


@every_planner
def test_a_root_without_candidates_does_not_stop_the_others(name: str) -> None:
    class Blocked(RandomTree):
        def options(self, path: str) -> list[tuple[str, float]]:
            return [] if path.startswith("!") else super().options(path)

    world = Blocked(5)
    with pytest.warns(RuntimeWarning, match=r"roots \[0\]"):
        plan, _ = PLANNERS[name]()(world.model(), ["!", ""], rng=[generator(1), generator(2)])
    alone, _ = PLANNERS[name]()(world.model(), [""], rng=[generator(2)])
    assert plan.valid.tolist() == [False, True]
    assert plan.final == ["!", alone.final[0]] and plan.value[1] == alone.value[0]
    with pytest.warns(RuntimeWarning, match=r"roots \[0\]"):
        blocked, _ = PLANNERS[name]()(world.model(), ["!"], rng=generator(0))
    assert blocked.valid.tolist() == [False] and blocked.final == ["!"]


@every_planner
@pytest.mark.parametrize("unit", ["steps", "proposals", "calls", "tokens"])
def test_a_budget_is_never_exceeded(name: str, unit: str) -> None:
    def spent(plan: Plan) -> int:
        if unit == "tokens":
            return int(plan.cost.tokens.decoded.max())
        return plan.cost.calls if unit == "calls" else int(getattr(plan.cost, unit).max())

    planner, roots = PLANNERS[name](), ["start", "gate"]
    full = spent(planner(metered_garden(), roots, rng=generator(0))[0])
    limits = range(0, full + 1, 1 + full // 15)
    planned = 0
    for limit in limits:
        try:
            budget = Budget(**{unit: limit})
            plan, _ = planner(metered_garden(), roots, rng=generator(0), budget=budget)
        except ValueError as error:
            assert "budget does not allow" in str(error)
            continue
        # Tokens are known when a call returns: one call per root may pass the limit, of at most
        # eight words of five letters.
        assert spent(plan) <= limit + (40 if unit == "tokens" else 0)
        planned += 1
    assert planned > len(limits) // 4


@every_planner
def test_step_level_search_commits_one_step_at_a_time(name: str) -> None:
    world: Any = RandomTree(2, endings=0.0)
    planner = RecedingHorizon(planner=PLANNERS[name](), steps=3)
    plan, _ = planner(world.model(), ["", "b"], rng=generator(0))
    assert [len(path) for path in plan.final] == [3, 4]
    assert plan.valid.all()
