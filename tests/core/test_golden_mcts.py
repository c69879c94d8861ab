"""The search trees published with the mctx library (Apache-2.0), node for node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    MCTS,
    PUCT,
    CompletedQ,
    Gumbel,
    MinMaxQ,
    Model,
    Proposal,
    Selection,
    SiblingsQ,
    Transition,
    generator,
)
from tests.golden import golden_files


class Node(NamedTuple):
    """One expanded node of a golden tree."""

    path: tuple[int, ...]
    record: dict[str, Any]


class Replay:
    """A model that only knows the transitions of one golden tree; leaving it is an error."""

    def __init__(self, tree: dict[str, Any], discount: float) -> None:
        self.nodes: list[Node] = [Node((), tree)]
        for node in self.nodes:
            for child in node.record["child_stats"]:
                if child["child_stats"]:
                    self.nodes.append(Node((*node.path, child["action"]), child))
        self.nodes.sort(key=lambda node: node.record["evaluation_index"])
        self.by_path = {node.path: i for i, node in enumerate(self.nodes)}
        self.discount = discount

    def step(self, state: Tensor, action: Tensor, *, rng: torch.Generator) -> Transition:
        there = []
        for s, a in zip(state.tolist(), action.tolist(), strict=True):
            path = (*self.nodes[s].path, a)
            assert path in self.by_path, f"the search left the golden tree by {path}"
            there.append(self.by_path[path])
        reward = torch.tensor([self.nodes[n].record["reward"] for n in there])
        return Transition(torch.tensor(there), reward, torch.full((len(there),), self.discount))

    def propose(self, state: Tensor, num: int, *, rng: torch.Generator) -> Proposal:
        children = [self.nodes[s].record["child_stats"] for s in state.tolist()]
        priors = torch.tensor([[child["prior"] for child in row] for row in children])
        actions = torch.tensor([[child["action"] for child in row] for row in children])
        return Proposal(actions.flatten(), priors.log())

    def value(self, state: Tensor) -> Tensor:
        return torch.tensor([self.nodes[s].record["raw_value_view"] for s in state.tolist()])


def selection_of(case: dict[str, Any]) -> Selection:
    config = case["algorithm_config"]
    options = config["qtransform_kwargs"]
    if case["algorithm"] == "gumbel_muzero":
        q = CompletedQ(options["value_scale"], options["maxvisit_init"], options["rescale_values"])
        return Gumbel(config["max_num_considered_actions"], config["gumbel_scale"], q)
    by_bounds = config["qtransform"] == "qtransform_by_min_max"
    q = MinMaxQ(options["min_value"], options["max_value"]) if by_bounds else SiblingsQ()
    return PUCT(config["pb_c_init"], config["pb_c_base"], q)


@pytest.mark.parametrize("file", golden_files("*_tree.json"))
def test_tree_is_reproduced_node_for_node(file: Path) -> None:
    case = json.loads(file.read_text())
    replay = Replay(case["tree"], case["env_config"]["discount"])
    simulations = case["tree"]["visit"] - 1
    planner = MCTS(
        simulations=simulations,
        candidates=len(case["tree"]["child_stats"]),
        selection=selection_of(case),
    )
    # Two equal roots: nothing may leak between the rows of a batch.
    plan, _ = planner(Model(replay, replay, replay), torch.tensor([0, 0]), rng=generator(0))
    tree = plan.trace
    assert tree.size.tolist() == [simulations + 1] * 2
    for row in range(2):
        # Node i of the search is evaluation i of the golden tree: the replay's states say so.
        assert tree.states.view(2, -1)[row].tolist() == list(range(simulations + 1))
        for i, node in enumerate(replay.nodes):
            record = node.record
            assert tree.visits[row, i] == record["visit"]
            assert tree.value[row, i].item() == pytest.approx(record["value_view"], abs=1e-5)
            if i:
                q = tree.reward[row, i] + tree.discount[row, i] * tree.value[row, i]
                golden_q = record["reward"] + replay.discount * record["value_view"]
                assert q.item() == pytest.approx(golden_q, abs=1e-5)
                assert tree.prior[row, i].item() == pytest.approx(record["prior"], abs=1e-5)
