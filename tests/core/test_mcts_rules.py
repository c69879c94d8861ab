"""The rules of tree search as formulas, and the unit cases published with the mctx library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    CompletedQ,
    Gumbel,
    MinMaxQ,
    Model,
    Plan,
    Proposal,
    RawQ,
    Rng,
    Selection,
    SiblingsQ,
    Transition,
    Tree,
    draws,
    generator,
)
from mbrl_core.planners.selection import due_visits, mixed_value, open_node
from mbrl_core.planners.tree import edge_type, node_type
from mbrl_core.policies import at_temperature, only_legal
from tests.golden import golden_files

# The rules run as plain Python here; the compiled search is held to the same numbers elsewhere.


class Stats:
    """A root and its candidates."""

    def __init__(
        self, logits: list[float], visits: list[int], q: list[float], value: float = 0.0
    ) -> None:
        self.node = np.zeros(1, node_type(np.float64)).view(np.recarray)[0]
        self.edges = np.zeros(len(logits), edge_type(np.float64)).view(np.recarray)
        open_node(self.node, self.edges, np.array(logits))
        self.edges["visits"], self.edges["q"] = visits, q
        self.node.value = self.node.raw_value = value
        self.node.visits = 1 + sum(visits)

    def scores(self, rule: Selection, turn: int = 0, total: int = 8, depth: int = 0) -> list[float]:
        """Scores while searching, without noise."""
        self.node.depth = depth
        out, noise = np.zeros(len(self.edges)), np.zeros(len(self.edges))
        rule.score(self.node, self.edges, noise, turn, total, out)
        return out.tolist()

    def q(self, transform: Any) -> list[float]:
        out = np.zeros(len(self.edges))
        transform.fill(self.node, self.edges, out)
        return out.tolist()


def test_uct_is_its_published_formula() -> None:
    score = Stats([0.0] * 3, [4, 1, 0], [0.5, 0.25, 0.0]).scores(UCT(exploration=2.0))
    log = np.log(5)
    assert score[:2] == pytest.approx([0.5 + 2 * np.sqrt(log / 4), 0.25 + 2 * np.sqrt(log)])
    assert score[2] == np.inf, "every candidate is tried once first"


def test_puct_is_its_published_formula() -> None:
    # torchrl's case: w/n + c p sqrt(N) / (1 + n), with c = 5 and N = 50.
    q = [10 / 15, 5 / 10, 20 / 25]
    stats = Stats(np.log([0.4, 0.3, 0.3]).tolist(), [15, 10, 25], q)
    stats.node.visits = 50
    score = stats.scores(PUCT(c_init=5.0, c_base=1e9, q=RawQ()))
    expected = [1.550550143149851, 1.4642365197998375, 1.207946219915316]
    assert score == pytest.approx(expected, abs=1e-5)


def test_gumbel_below_the_root_is_its_published_formula() -> None:
    logits, visits, q = [0.0, 1.0, 2.0], [2, 1, 0], [0.5, -0.25, 0.0]
    stats = Stats(logits, visits, q, 0.1)
    completed = torch.tensor(stats.q(CompletedQ()))
    expected = (torch.tensor(logits) + completed).softmax(0) - torch.tensor(visits) / 4
    assert stats.scores(Gumbel(), depth=1) == pytest.approx(expected.tolist(), abs=1e-6)


def test_gumbel_at_the_root_ranks_the_candidates_whose_turn_it_is() -> None:
    logits, visits = [0.0, 1.0, -3.0, 2.0], [1, 1, 0, 1]
    stats = Stats(logits, visits, [0.5, -0.25, 0.0, 0.1])
    score = stats.scores(Gumbel(considered=3), turn=3, total=12)
    completed = stats.q(CompletedQ())
    assert score[2] == -np.inf
    for k in (0, 1, 3):
        assert score[k] == pytest.approx(logits[k] - 2.0 + completed[k])


@given(shift=st.floats(-8, 8), scale=st.floats(0.1, 8))
@settings(max_examples=30, deadline=None)
def test_siblings_q_forgets_shift_and_scale(shift: float, scale: float) -> None:
    q = [0.5, -0.25, 0.0]
    node = Stats([0.0] * 3, [2, 1, 0], q, 0.1)
    moved = Stats([0.0] * 3, [2, 1, 0], [scale * x + shift for x in q], 0.1 * scale + shift)
    assert node.q(SiblingsQ()) == pytest.approx(moved.q(SiblingsQ()), abs=1e-6)


@given(shift=st.floats(-8, 8))
@settings(max_examples=30, deadline=None)
def test_a_shift_of_all_values_leaves_the_order_of_completed_q(shift: float) -> None:
    q = [0.5, -0.25, 0.0]
    node = Stats([0.0, 1.0, 2.0], [2, 1, 0], q, 0.1)
    moved = Stats([0.0, 1.0, 2.0], [2, 1, 0], [x + shift for x in q], 0.1 + shift)
    assert node.q(CompletedQ()) == pytest.approx(moved.q(CompletedQ()), abs=1e-6)


def test_the_bounds_of_min_max_q() -> None:
    stats = Stats([0.0] * 3, [2, 1, 0], [3.0, -1.0, 9.0])
    assert stats.q(MinMaxQ(-1.0, 3.0)) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="low < high"):
        MinMaxQ(1.0, 1.0)


def test_gumbel_noise_is_standard() -> None:
    noise = Gumbel().noise(torch.zeros(200, 100), generator(0))
    assert bool(torch.isfinite(noise).all())
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(1.6449, abs=0.06)


def test_gumbel_with_noise_samples_the_prior() -> None:
    # One simulation takes argmax(g + logit): a sample from softmax(logits).
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = Gumbel().noise(logits.expand(20_000, 3), generator(0))
    share = torch.bincount((noise + logits).argmax(1), minlength=3) / 20_000
    torch.testing.assert_close(share, logits.softmax(0), atol=0.015, rtol=0)


def test_dirichlet_noise_is_over_the_candidates_there_are() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0]).expand(20_000, 4)
    alpha = 0.6
    noise = PUCT(dirichlet_fraction=0.25, dirichlet_alpha=alpha).noise(logits, generator(0))
    assert bool((noise[:, 1] == -torch.inf).all())
    drawn = noise[:, [0, 2, 3]]
    torch.testing.assert_close(drawn.sum(1), torch.ones(20_000))
    assert drawn.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)  # of a component of Dir(alpha, alpha, alpha)
    assert drawn.var(0).tolist() == pytest.approx([variance] * 3, abs=0.005)


def test_dirichlet_noise_is_mixed_into_the_root_prior_alone() -> None:
    stats = Stats([0.0, 0.0], [1, 1], [0.0, 0.0])
    noisy, plain = PUCT(dirichlet_fraction=0.25), PUCT()
    assert stats.scores(noisy, depth=1) == stats.scores(plain, depth=1)
    stats.node.depth, out = 0, np.zeros(2)
    noisy.score(stats.node, stats.edges, np.array([0.0, 1.0]), 0, 8, out)
    assert out / np.array(stats.scores(plain)) == pytest.approx([0.75, 1.25])


# Cases published with the mctx library

UNIT_CASES = golden_files("mctx_unit_cases.json")


@pytest.mark.parametrize("file", UNIT_CASES)
def test_halving_schedules_are_those_published(file: Path) -> None:
    for case in json.loads(file.read_text())["seq_halving"]["cases"]:
        size, total = case["max_considered"], case["sims"]
        assert [due_visits(size, i, total) for i in range(total)] == case["expected"]


@pytest.mark.parametrize("file", UNIT_CASES)
def test_the_mixed_value_is_that_published(file: Path) -> None:
    for case in json.loads(file.read_text())["mixed_value"]["cases"]:
        logits = [float(x) for x in case["prior_logits"]]
        stats = Stats(logits, case["visit_counts"], case["qvalues"], case["raw_value"])
        assert mixed_value(stats.node, stats.edges) == pytest.approx(case["expected"], abs=1e-5)


@pytest.mark.parametrize("file", UNIT_CASES)
def test_temperature_and_masks_are_those_published(file: Path) -> None:
    for case in json.loads(file.read_text())["temperature_and_masks"]["cases"]:
        logits = torch.tensor([[float(x) for x in case["logits"]]])
        expected = torch.tensor([[float(x) for x in case["expected"]]])
        if case["fn"] == "apply_temperature":
            found = at_temperature(logits, case["temperature"])
        else:
            found = only_legal(logits, ~torch.tensor([case["invalid"]]).bool()).softmax(1)
        torch.testing.assert_close(found, expected, rtol=case.get("rtol", 1e-5), atol=1e-6)


class Bandit:
    """Rewards by action, the same at every node; what follows a step counts for next to nothing.

    mctx searches on below a discount of 0; here 0 means ended, so it is all but 0.
    """

    def __init__(
        self, rewards: list[float], logits: list[list[float]], root_values: list[float]
    ) -> None:
        self.rewards = torch.tensor(rewards, dtype=torch.float32)
        self.logits = torch.tensor(logits, dtype=torch.float32)
        self.root_values = torch.tensor(root_values)

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        row, depth = state.unbind(1)
        discount = torch.full((len(state),), 1e-12)
        return Transition(torch.stack([row, depth + 1], 1), self.rewards[action], discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        row, depth = state.unbind(1)
        logits = torch.where((depth == 0).unsqueeze(1), self.logits[row], 0.0)
        return Proposal(torch.arange(4).repeat(len(state)), logits)

    def value(self, state: Tensor) -> Tensor:
        row, depth = state.unbind(1)
        return torch.where(depth == 0, self.root_values[row], 0.0)

    def search(self, planner: MCTS) -> Plan:
        number = len(self.logits)
        start = torch.stack([torch.arange(number), torch.zeros(number, dtype=torch.int64)], 1)
        return planner(Model(self, self, self), start, rng=generator(0))[0]


class Fated(Bandit):
    """As `Bandit`, but every action leads to a chance node with one certain outcome of five.

    An outcome's number is above those of the actions.
    """

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        row, depth = state.unbind(1)
        chosen = action >= 4
        reward = torch.where(chosen, self.rewards[action % 4], 0.0)
        discount = torch.where(chosen, 1e-12, 1.0)
        return Transition(torch.stack([row, depth + 1], 1), reward, discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        proposal = super().propose(state, 4, rng=rng)
        chance = state[:, 1] % 2 == 1
        certain = torch.tensor([0.0, *[-torch.inf] * 4])
        padded = torch.nn.functional.pad(proposal.log_prior, (0, 1), value=-torch.inf)
        logits = torch.where(chance.unsqueeze(1), certain, padded)
        actions = torch.arange(5) + 4 * chance.long().unsqueeze(1)
        return Proposal(actions.flatten(), logits, chance=chance)


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


def weights_of(plan: Plan) -> Tensor:
    root = tree_of(plan).root
    assert root is not None
    return root.weights


def masked(logits: list[float], invalid: list[int]) -> list[float]:
    return [-torch.inf if bad else x for x, bad in zip(logits, invalid, strict=True)]


@pytest.mark.parametrize("file", UNIT_CASES)
def test_one_simulation_of_muzero_is_that_published(file: Path) -> None:
    case = json.loads(file.read_text())["muzero_one_sim"]
    logits = masked(case["prior_logits"], case["invalid"])
    bandit = Bandit(case["rewards"], [logits], [case["root_value"]])
    plan = bandit.search(MCTS(simulations=case["num_simulations"], candidates=4))
    assert plan.action.item() == case["expected"]["action"]
    assert weights_of(plan)[0].tolist() == case["expected"]["action_weights"]


@pytest.mark.parametrize("file", UNIT_CASES)
def test_the_gumbel_bandit_is_that_published(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads(file.read_text())["gumbel_bandit"]
    options = record["settings"]
    drawn = torch.tensor([record["gumbel_jax_prngkey0"]])
    monkeypatch.setattr(draws, "gumbel", lambda rng, *shape: drawn)
    selection = Gumbel(
        considered=options["max_num_considered_actions"],
        q=CompletedQ(options["value_scale"], options["maxvisit_init"], options["rescale_values"]),
    )
    planner = MCTS(
        simulations=options["num_simulations"],
        candidates=4,
        selection=selection,
        max_depth=options["max_depth"],
    )
    for case in record["cases"]:
        logits = masked(record["prior_logits"], case["invalid"])
        plan = Bandit(record["rewards"], [logits], [record["root_value"]]).search(planner)
        tree, expected = tree_of(plan), case["expected"]
        assert tree.root is not None
        assert plan.action.item() == expected["action"]
        assert tree.root.visits[0].tolist() == expected["visit_counts"]
        assert tree.root.weights[0].tolist() == pytest.approx(expected["action_weights"], abs=1e-5)
        if deepest := expected.get("deepest_leaf"):
            bottom = tree.depth[0] == tree.depth[0].max()
            assert tree.depth[0].max() == deepest["depth"]
            assert tree.visits[0][bottom].max() == deepest["node_visits"]


@pytest.mark.parametrize("file", UNIT_CASES)
def test_certain_chance_nodes_change_nothing_but_the_number_of_simulations(file: Path) -> None:
    case = json.loads(file.read_text())["stochastic_equivalence"]
    logits = [masked(*pair) for pair in zip(case["prior_logits"], case["invalid"], strict=True)]
    number = case["N"]
    plain = Bandit([0.0] * 4, logits, case["root_value"])
    fated = Fated([0.0] * 4, logits, case["root_value"])
    one = plain.search(MCTS(simulations=number, candidates=4))
    other = fated.search(MCTS(simulations=2 * number, candidates=5))
    assert one.action.tolist() == other.action.tolist()
    torch.testing.assert_close(weights_of(one), weights_of(other)[:, :4])
