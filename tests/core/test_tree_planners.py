"""Laws of beam search and Monte Carlo tree search."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Argmax,
    BeamSearch,
    Budget,
    Gumbel,
    Model,
    Plan,
    Planner,
    Proposal,
    RecedingHorizon,
    Rng,
    Selection,
    Transition,
    Tree,
    Vote,
    generator,
)
from tests.worlds import (
    DEPTH,
    MOVES,
    futures,
    metered_garden,
    optimum,
    tensor_garden,
    tensor_rows,
    text_answers,
    text_garden,
)

ROOTS = ["start", "gate", "wall"]
SELECTIONS: dict[str, Selection] = {
    "uct": UCT(exploration=2.0),
    "puct": PUCT(),
    "gumbel": Gumbel(),
}
every_selection = pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


# Against brute force


def test_a_beam_as_wide_as_the_world_finds_the_optimum() -> None:
    planner = BeamSearch(width=3**DEPTH, expand=3, depth=DEPTH)
    plan, _ = planner(text_garden(), ROOTS, rng=generator(0))
    for b, root in enumerate(ROOTS):
        best = optimum(root)
        assert plan.value[b].item() == best.value
        assert plan.final[b] == ">".join((root, *best.moves))
        assert plan.action[b] == best.moves[0]


def test_a_shallow_beam_counts_the_value_of_where_it_stops() -> None:
    plan, _ = BeamSearch(width=9, expand=3, depth=2)(text_garden(), ROOTS, rng=generator(0))
    assert plan.value.tolist() == [optimum(root, 2).value for root in ROOTS]


@every_selection
def test_tree_search_with_many_simulations_finds_the_optimum(selection: Selection) -> None:
    roots = ["start>right", "gate>left", "wall>left"]
    planner = MCTS(simulations=150, candidates=3, selection=selection)
    plan, _ = planner(tensor_garden(), tensor_rows(roots), rng=generator(0))
    best = [optimum(root, DEPTH - 1) for root in roots]
    assert plan.action.tolist() == [MOVES.index(future.moves[0]) for future in best]


@pytest.mark.parametrize("selection", [UCT(exploration=50.0), PUCT(c_init=500.0)])
def test_the_best_solution_met_is_the_optimum_once_all_were_met(selection: Selection) -> None:
    # So much exploration visits every path of so small a garden.
    planner = MCTS(simulations=200, candidates=3, selection=selection, reduce=Argmax())
    plan, _ = planner(text_garden(), ROOTS, rng=generator(0))
    for b, root in enumerate(ROOTS):
        best = optimum(root)
        assert plan.value[b].item() == best.value
        assert plan.final[b] == ">".join((root, *best.moves))


# Beam search


def greedy(root: str) -> tuple[list[str], float]:
    """Follow the best score one move at a time, by brute force."""
    garden, path, earned, weight, score = text_garden().dynamics, root, 0.0, 1.0, 0.0
    moves: list[str] = []
    for _ in range(DEPTH):
        options = []
        for future in futures(path, 1):
            moved = garden.step([path], [future.moves[0]], rng=generator(0))
            options.append((earned + weight * future.value, future.moves[0], moved))
        score, word, moved = max(options, key=lambda option: option[0])
        moves.append(word)
        earned, weight = earned + weight * moved.reward.item(), weight * moved.discount.item()
        path = moved.state[0]
        if weight == 0:
            break
    return moves, score


def test_a_beam_of_one_is_greedy() -> None:
    plan, _ = BeamSearch(width=1, expand=3, depth=DEPTH)(text_garden(), ROOTS, rng=generator(0))
    for b, root in enumerate(ROOTS):
        moves, score = greedy(root)
        assert plan.final[b] == ">".join((root, *moves))
        assert plan.value[b].item() == score


class Level:
    """Every move is worth the same: what is chosen shows how ties are broken."""

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        moved = [path + move for path, move in zip(state, action, strict=True)]
        return Transition(moved, torch.zeros(len(state)), torch.ones(len(state)))

    def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
        return Proposal(list("abc"[:num]) * len(state), torch.zeros(len(state), min(num, 3)))


def test_ties_in_a_beam_keep_the_order_of_parents_and_candidates() -> None:
    level = Level()
    planner = BeamSearch(width=4, expand=3, depth=2)
    plan, _ = planner(Model(level, level), [""], rng=generator(0))
    tree = tree_of(plan)
    kept = [path for path, seen in zip(tree.states, tree.visits[0], strict=True) if seen]
    assert [path for path in kept if len(path) == 2] == ["aa", "ab", "ac", "ba"]
    assert plan.final == ["aa"]


def test_a_finished_node_stays_in_the_beam() -> None:
    model, roots = text_garden(), ["start"]
    shallow, _ = BeamSearch(width=27, expand=3, depth=1)(model, roots, rng=generator(0))
    deep, _ = BeamSearch(width=27, expand=3, depth=DEPTH)(model, roots, rng=generator(0))
    ended = (tree_of(shallow).discount[0] == 0).nonzero().squeeze(1)
    assert len(ended) > 0
    assert bool((tree_of(deep).visits[0, ended] == 1).all())


# Monte Carlo tree search


@every_selection
@pytest.mark.parametrize("max_depth", [None, 2])
def test_visits_add_up(selection: Selection, max_depth: int | None) -> None:
    planner = MCTS(simulations=50, candidates=3, selection=selection, max_depth=max_depth)
    plan, _ = planner(tensor_garden(), tensor_rows(ROOTS), rng=generator(0))
    tree = tree_of(plan)
    assert tree.visits[:, 0].tolist() == [51] * 3
    for b in range(3):
        for node in range(int(tree.size[b])):
            below = tree.visits[b][tree.parent[b] == node]
            leaf = tree.discount[b, node] == 0 or int(tree.depth[b, node]) == max_depth
            own = int(tree.visits[b, node] - below.sum())
            assert own >= 1 if leaf else own == 1, "only a leaf is evaluated again"


@every_selection
def test_values_are_the_mean_of_what_was_found_below(selection: Selection) -> None:
    planner = MCTS(simulations=40, candidates=3, selection=selection)
    tree = tree_of(planner(tensor_garden(), tensor_rows(ROOTS), rng=generator(0))[0])
    for b in range(3):
        for node in range(int(tree.size[b])):
            below = (tree.parent[b] == node).nonzero().squeeze(1)
            q = tree.reward[b, below] + tree.discount[b, below] * tree.value[b, below]
            total = tree.raw_value[b, node] + (q * tree.visits[b, below]).sum()
            if tree.discount[b, node] != 0:
                expected = total / tree.visits[b, node]
                torch.testing.assert_close(tree.value[b, node], expected)


def test_with_one_action_the_tree_is_a_chain() -> None:
    level = Level()
    planner = MCTS(simulations=5, candidates=1)
    plan, _ = planner(Model(level, level), ["", "x"], rng=generator(0))
    tree = tree_of(plan)
    assert tree.parent.tolist() == [[-1, 0, 1, 2, 3, 4]] * 2
    assert tree.visits.tolist() == [[6, 5, 4, 3, 2, 1]] * 2
    assert plan.final == ["aaaaa", "xaaaaa"]


def test_max_depth_is_not_passed() -> None:
    planner = MCTS(simulations=40, candidates=3, max_depth=2)
    tree = tree_of(planner(text_garden(), ROOTS, rng=generator(0))[0])
    assert tree.depth.max() == 2


def test_a_tree_votes_with_its_ended_nodes_alone() -> None:
    planner = MCTS(simulations=60, candidates=3, selection=UCT(), reduce=Vote(text_answers))
    plan, _ = planner(text_garden(), ROOTS, rng=generator(0))
    tree = tree_of(plan)
    table = list(zip(tree.states, tree.discount.flatten().tolist(), strict=True))
    for b in range(3):
        own = table[b * tree.parent.shape[1] :][: int(tree.size[b])]
        votes = text_answers([path for path, discount in own if discount == 0])
        tally = {vote: votes.count(vote) for vote in votes if vote is not None}
        assert plan.value[b].item() == pytest.approx(max(tally.values()) / sum(tally.values()))
        assert text_answers([plan.final[b]])[0] == max(tally, key=lambda key: tally[key])


# Broken worlds


class Minefield(Level):
    """As `Level`, with a NaN reward for the moves in `mines`."""

    def __init__(self, mines: str, at: int = 1) -> None:
        self.mines, self.at = mines, at

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        steps_on = [len(path) <= self.at and path[-1] in self.mines for path in moved.state]
        return moved._replace(reward=torch.where(torch.tensor(steps_on), torch.nan, moved.reward))


@every_selection
def test_a_candidate_without_a_return_is_never_chosen(selection: Selection) -> None:
    mines = Minefield("b")
    planner = MCTS(simulations=16, candidates=3, selection=selection)
    for seed in range(5):
        plan, _ = planner(Model(mines, mines), [""], rng=generator(seed))
        tree = tree_of(plan)
        assert plan.valid.all() and bool(torch.isfinite(plan.value).all())
        visits = dict(zip(tree.states, tree.visits.flatten().tolist(), strict=True))
        assert min(visits["a"], visits["c"]) > 0, "one broken candidate must not starve others"
        assert visits["b"] == 0
        assert visits[""] == 16, "the simulation that met it is not counted, and no other is lost"


PLANNERS: dict[str, Callable[[], Planner]] = {
    "beam": lambda: BeamSearch(width=2, expand=3, depth=2),
    "uct": lambda: MCTS(simulations=8, candidates=3, selection=UCT()),
    "gumbel": lambda: MCTS(simulations=8, candidates=3, selection=Gumbel()),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_where_nothing_has_a_return_the_plan_says_so_and_has_an_action(name: str) -> None:
    class Half(Minefield):
        def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
            moved = super().step(state, action, rng=rng)
            bad = torch.tensor([path.startswith("!") for path in state])
            return moved._replace(reward=torch.where(bad, torch.nan, moved.reward))

    model = Half("")
    plan, _ = PLANNERS[name]()(Model(model, model), ["", "!"], rng=generator(0))
    assert plan.valid.tolist() == [True, False]
    assert plan.action[1] in "abc", "a fallback is an action that was tried"


@pytest.mark.parametrize("name", PLANNERS)
def test_an_infinite_root_value_does_no_harm(name: str) -> None:
    class Endless(Level):
        def value(self, state: list[str]) -> Tensor:
            return torch.tensor([torch.inf if path == "" else 1.0 for path in state])

    model = Endless()
    plan, _ = PLANNERS[name]()(Model(model, model, model), [""], rng=generator(0))
    assert abs(plan.value.item()) <= 1


# Budgets


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("unit", ["steps", "proposals", "calls", "tokens"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_budget_is_never_exceeded(name: str, unit: str, share: float) -> None:
    def spent(plan: Plan) -> int:
        cost = plan.cost
        if unit == "tokens":
            return int(cost.tokens.decoded.max())
        return cost.calls if unit == "calls" else int(getattr(cost, unit).max())

    planner = PLANNERS[name]()
    limit = int(share * spent(planner(metered_garden(), ROOTS, rng=generator(0))[0]))
    try:
        plan, _ = planner(metered_garden(), ROOTS, rng=generator(0), budget=Budget(**{unit: limit}))
    except ValueError as error:
        assert "budget does not allow" in str(error)
        return
    # Tokens are known when a call returns: one call per root may pass the limit, none begins past
    # it. A call draws at most `width * expand` words of five letters.
    assert spent(plan) <= limit + (2 * 3 * 5 if unit == "tokens" else 0)


@pytest.mark.parametrize("name", PLANNERS)
def test_without_time_the_search_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="budget does not allow"):
        PLANNERS[name]()(text_garden(), ROOTS, rng=generator(0), budget=Budget(seconds=0))


def test_step_level_search_stays_inside_its_budget() -> None:
    planner = RecedingHorizon(planner=PLANNERS["beam"](), steps=3)
    full, _ = planner(text_garden(), ROOTS, rng=generator(0))
    for unit in ("steps", "calls"):
        used = full.cost.calls if unit == "calls" else int(full.cost.steps.max())
        for limit in range(used // 2, used + 1):
            try:
                plan, _ = planner(
                    text_garden(), ROOTS, rng=generator(0), budget=Budget(**{unit: limit})
                )
            except ValueError as error:
                assert "budget does not allow" in str(error)
                continue
            spent = plan.cost.calls if unit == "calls" else int(plan.cost.steps.max())
            assert spent <= limit
