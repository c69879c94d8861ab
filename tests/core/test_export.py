"""A plan as a graph: the same nodes, numbers and paths as its tables and its world."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple

import networkx
import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    MCTS,
    UCT,
    Argmax,
    BeamSearch,
    Budget,
    ListedActions,
    Model,
    Plan,
    Planner,
    RandomShooting,
    RecedingHorizon,
    Reflex,
    Rng,
    Rollout,
    Rows,
    Transition,
    Tree,
    Vote,
    generator,
    to_networkx,
)
from tests.worlds import glider, tensor_garden, tensor_rows, text_answers, text_garden

PATHS = ["start", "gate>left", "wall"]
WORLDS: dict[str, tuple[Model, Rows]] = {
    "text": (text_garden(), PATHS),
    "tensors": (tensor_garden(), tensor_rows(PATHS)),
}
TREES: dict[str, Planner] = {
    "puct": MCTS(simulations=40, candidates=3),
    "best_solution": MCTS(simulations=40, candidates=2, selection=UCT(), reduce=Argmax()),
    "beam": BeamSearch(width=2, expand=3, depth=4),
}
FUTURES: dict[str, Planner] = {
    "policy": RandomShooting(samples=7, horizon=4),
    "vote": RandomShooting(samples=7, horizon=4, reduce=Vote(text_answers)),
    "one_future": RecedingHorizon(planner=TREES["puct"], steps=2),
}
in_both_worlds = pytest.mark.parametrize("world", WORLDS)
every_tree = pytest.mark.parametrize("planner", TREES.values(), ids=TREES)


def plan_of(planner: Planner, world: str) -> Plan:
    return planner(*WORLDS[world], rng=generator(0))[0]


def path_to(graph: networkx.DiGraph, node: int) -> list[int]:
    return networkx.shortest_path(graph, 0, node)


def leaves(graph: networkx.DiGraph) -> list[int]:
    return [node for node in graph if graph.out_degree(node) == 0]


# Trees


@in_both_worlds
@every_tree
def test_a_graph_is_the_tree_of_its_tables(planner: Planner, world: str) -> None:
    tree = plan_of(planner, world).trace
    assert isinstance(tree, Tree)
    for b in range(len(PATHS)):
        graph = to_networkx(tree, b)
        size = int(tree.size[b])
        assert networkx.is_arborescence(graph)
        assert list(graph) == list(range(size)) and graph.number_of_edges() == size - 1
        assert all(tree.parent[b, child] == parent for parent, child in graph.edges)
        same = ("depth", "slot", "visits", "value", "raw_value", "prior", "reward", "discount")
        for name in same:
            column = [graph.nodes[node][name] for node in graph]
            assert column == getattr(tree, name)[b, :size].tolist(), name
        q = (tree.reward + tree.discount * tree.value)[b, 1:size]
        assert [graph.nodes[node]["q"] for node in range(1, size)] == pytest.approx(q.tolist())
        assert graph.nodes[0]["q"] == tree.value[b, 0].item()


@every_tree
def test_paths_of_the_graph_are_paths_of_the_world(planner: Planner) -> None:
    """The actions on the way to a node, played in the garden, give its state and its score."""
    tree = plan_of(planner, "text").trace
    assert isinstance(tree, Tree)
    garden = text_garden()
    for b, root in enumerate(PATHS):
        actions = to_networkx(tree, b, describe=lambda _state, action: action or "")
        states = to_networkx(tree, b, describe=lambda state, _action: state)
        for node in actions:
            moves = [actions.nodes[step]["text"] for step in path_to(actions, node)[1:]]
            assert states.nodes[node]["text"] == ">".join([root, *moves])
            place, earned, weight = root, 0.0, 1.0
            for move in moves:
                moved = garden.dynamics.step([place], [move], rng=generator(0))
                earned += weight * moved.reward.item()
                weight *= moved.discount.item()
                (place,) = moved.state
            assert garden.value is not None
            score = earned + weight * garden.value.value([place]).item()
            assert actions.nodes[node]["score"] == score


@in_both_worlds
@pytest.mark.parametrize("name", ["puct", "best_solution"])
def test_a_node_is_visited_once_and_as_often_as_its_children(name: str, world: str) -> None:
    graph = to_networkx(plan_of(TREES[name], world), 0)
    visits = dict(graph.nodes(data="visits"))
    assert visits[0] == 41
    for node in graph:
        children = list(graph.successors(node))
        if children:
            assert visits[node] == 1 + sum(visits[child] for child in children)


@in_both_worlds
@every_tree
def test_the_chosen_path_is_that_of_the_plan(planner: Planner, world: str) -> None:
    plan = plan_of(planner, world)
    for b in range(len(PATHS)):
        texts = to_networkx(plan, b, describe=lambda state, action: f"{state}|{action}")
        path = [node for node in texts if texts.nodes[node]["chosen"]]
        assert path == path_to(texts, path[-1])
        final, action = plan.final[b], plan.action[b]
        assert texts.nodes[path[-1]]["text"].startswith(f"{final}|")
        assert texts.nodes[path[1]]["text"].endswith(f"|{action}")


def test_without_a_plan_the_chosen_path_is_the_most_visited() -> None:
    tree = plan_of(TREES["puct"], "text").trace
    graph = to_networkx(tree, 1)
    chosen = [node for node in graph if graph.nodes[node]["chosen"]]
    node = 0
    for step in chosen[1:]:
        assert step in graph.successors(node)
        most = max(graph.nodes[child]["visits"] for child in graph.successors(node))
        assert graph.nodes[step]["visits"] == most
        node = step
    assert not list(graph.successors(node))


def test_a_final_state_completed_after_the_search_is_not_in_the_tree() -> None:
    plan = plan_of(TREES["puct"], "text")
    finished = plan._replace(final=["elsewhere"] * len(PATHS))
    assert dict(to_networkx(finished, 1).nodes) == dict(to_networkx(plan.trace, 1).nodes)


# Rollouts


@pytest.mark.parametrize(
    ("world", "name"),
    [("text", "vote"), *((w, n) for w in WORLDS for n in ("policy", "one_future"))],
)
def test_each_future_is_a_chain_up_to_its_end(name: str, world: str) -> None:
    plan = plan_of(FUTURES[name], world)
    rollout = plan.trace
    assert isinstance(rollout, Rollout)
    number, horizon = rollout.rewards.shape[1:]
    for b in range(len(PATHS)):
        graph = to_networkx(plan, b, describe=lambda state, action: f"{state}|{action}")
        assert networkx.is_arborescence(graph)
        ends = leaves(graph)
        assert len(ends) == number == graph.out_degree(0)
        for n, leaf in enumerate(ends):
            steps = path_to(graph, leaf)[1:]
            data = [graph.nodes[step] for step in steps]
            assert [each["candidate"] for each in data] == [n] * len(steps)
            assert [each["depth"] for each in data] == list(range(1, len(steps) + 1))
            assert all(each["discount"] for each in data[:-1])
            assert data[-1]["discount"] == 0 or len(steps) == horizon
            assert [each["reward"] for each in data] == rollout.rewards[b, n, : len(steps)].tolist()
            assert data[-1]["score"] == rollout.returns[b, n].item()
            final, first = rollout.final[b * number + n], rollout.actions[0][b * number + n]
            assert data[-1]["text"].startswith(f"{final}|")
            assert data[0]["text"].endswith(f"|{first}")
            if data[-1]["chosen"]:
                assert str(final) == str(plan.final[b]) and str(first) == str(plan.action[b])
        assert sum(graph.nodes[leaf]["chosen"] for leaf in ends) == 1


def test_the_best_future_is_the_chosen_one_where_the_plan_is_none_of_them() -> None:
    model, state = glider(), torch.zeros(2, 2).double()
    plan, _ = CEM(horizon=3, samples=16, elites=4, iterations=2)(model, state, rng=generator(0))
    moved = plan._replace(final=plan.final + 1)
    graph = to_networkx(moved, 1)
    best = max(leaves(graph), key=lambda leaf: graph.nodes[leaf]["score"])
    assert all(graph.nodes[step]["chosen"] for step in path_to(graph, best))


# What may be in a trace


class Pair(NamedTuple):
    place: Tensor
    names: list[str]


class Composite:
    """States are a tensor and a name together; a step of -1 breaks the model."""

    def step(self, state: Pair, action: dict[str, Tensor], *, rng: Any) -> Transition:
        place = state.place + action["by"]
        reward = torch.where(action["by"] < 0, torch.nan, place[:, 0])
        names = [f"{name}+" for name in state.names]
        return Transition(Pair(place, names), reward, torch.ones(len(names)))


def test_rows_are_described_one_by_one_whatever_they_consist_of() -> None:
    state = Pair(torch.tensor([[1.0, 2.0]]), ["a"])
    size = torch.tensor([2])
    one = torch.ones(1, 2)
    moved = Composite().step(state, {"by": torch.tensor(-1.0)}, rng=None)
    tree = Tree(
        size=size,
        parent=torch.tensor([[-1, 0]]),
        slot=torch.tensor([[-1, 0]]),
        depth=torch.tensor([[0, 1]]),
        visits=torch.tensor([[2, 1]]),
        value=one,
        raw_value=torch.tensor([[0.5, torch.inf]]),
        prior=one,
        reward=torch.tensor([[0.0, moved.reward.item()]]),
        discount=one,
        states=Pair(torch.cat([state.place, moved.state.place]), ["a", *moved.state.names]),
        actions={"by": torch.tensor([0.0, -1.0])},
    )
    seen: list[Any] = []

    def note(state: Pair, action: dict[str, Tensor] | None) -> str:
        seen.append((state.place.tolist(), state.names, action and action["by"].item()))
        return state.names  # type: ignore[return-value]

    graph = to_networkx(tree, describe=note)
    assert seen == [([1.0, 2.0], "a", None), ([0.0, 1.0], "a+", -1.0)]
    assert graph.nodes[1]["score"] != graph.nodes[1]["score"]  # NaN stays NaN
    assert graph.nodes[1]["chosen"]
    alone = to_networkx(tree._replace(size=torch.tensor([1])))
    assert list(alone) == [0] and alone.nodes[0]["chosen"]
    plain = to_networkx(tree)
    assert [plain.nodes[n]["text"] for n in plain] == ["1, 2; a", "by: -1"]


def test_long_rows_are_cut_short() -> None:
    tree = plan_of(TREES["puct"], "text").trace
    assert isinstance(tree, Tree)
    wide = tree._replace(states=torch.arange(12.0).repeat(len(tree.states), 1))
    assert to_networkx(wide).nodes[0]["text"] == "0, 1, 2, 3, 4, 5, 6, 7, …"


def test_attributes_are_plain_enough_for_every_writer() -> None:
    graph = to_networkx(plan_of(TREES["beam"], "tensors"))
    text = io.BytesIO()
    networkx.write_graphml(graph, text)
    text.seek(0)
    again = networkx.read_graphml(text, node_type=int)
    assert dict(again.nodes) == dict(graph.nodes) and list(again.edges) == list(graph.edges)
    json.dumps(networkx.node_link_data(graph, edges="edges"), allow_nan=False)


def test_a_plan_for_which_nothing_was_tried_is_a_root_alone() -> None:
    state = torch.zeros(2, 2).double()
    reflex, _ = Reflex(action="zero")(glider(), state, rng=generator(0))
    with pytest.warns(RuntimeWarning):
        spent, _ = CEM(horizon=2)(glider(), state, rng=generator(0), budget=Budget(steps=1))
    for plan in (reflex, spent):
        assert to_networkx(plan, 1).number_of_nodes() == 1


def test_what_cannot_be_shown_is_refused_in_one_sentence() -> None:
    plan = plan_of(TREES["beam"], "text")
    for root in (3, -1):
        with pytest.raises(ValueError, match=f"roots 0 to 2, and no root {root}"):
            to_networkx(plan, root)
    with pytest.raises(TypeError, match="not a list"):
        to_networkx([plan])  # type: ignore[arg-type]


class Pacing:
    """A walk on a line, where every place is met on many ways."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        state = state + action
        return Transition(state, state.sin()[:, 0], torch.full((len(state),), 0.9))


def test_the_chosen_path_is_the_most_visited_where_states_are_met_again():
    model = Model(Pacing(), ListedActions(torch.tensor([[-0.5], [0.0], [0.5]])))
    plan, _ = MCTS(simulations=200, candidates=3)(model, torch.zeros(1, 1), rng=generator(0))
    assert isinstance(plan.trace, Tree)
    graph, visits = to_networkx(plan), plan.trace.visits[0]
    node, path = 0, [0]
    while below := sorted(graph.successors(node)):
        node = max(below, key=lambda n: (visits[n].item(), -graph.nodes[n]["slot"]))
        path.append(node)
    assert [n for n in graph if graph.nodes[n]["chosen"]] == sorted(path) and len(path) > 10
