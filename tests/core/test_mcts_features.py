"""What tree search can do besides: rollouts, sampled actions, widening, reuse, games, chance."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import mbrl_core
from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Budget,
    Discrete,
    Gumbel,
    MinMaxQ,
    Model,
    Plan,
    Proposal,
    RawQ,
    RecedingHorizon,
    Rng,
    Selection,
    Transition,
    Tree,
    Widening,
    generator,
)
from mbrl_core.policies import numbered, only_legal, sampled, sampled_prior
from tests.core.test_mcts_laws import CHOICES, Maze
from tests.worlds import MOVES, optimum, tensor_garden, tensor_rows, text_garden

PATHS = ["start", "gate>left", "wall"]


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


def weights_of(plan: Plan) -> Tensor:
    root = tree_of(plan).root
    assert root is not None
    return root.weights


# Rollouts


def test_a_leaf_is_worth_the_mean_of_its_rollouts() -> None:
    maze = Maze(2, ends=0.0)
    planner = MCTS(simulations=3, candidates=1, rollouts=4, rollout_depth=5)
    tree = tree_of(planner(maze.model, maze.roots(), rng=generator(0))[0])
    for b in range(4):
        for node in range(4):
            # The maze's policy, asked for one candidate, always takes the first.
            at, total, weight = int(tree.states.view(4, -1)[b, node]), 0.0, 1.0
            for _ in range(5):
                total += weight * maze.reward[at, 0].item()
                weight *= maze.discount[at, 0].item()
                at = int(maze.next[at, 0])
            total += weight * maze.values[at].item()
            assert tree.raw_value[b, node].item() == pytest.approx(total, abs=1e-5)


def test_rollouts_in_the_true_garden_find_the_optimum() -> None:
    roots = ["start>right", "gate>left", "wall>left"]
    model = tensor_garden()._replace(value=None)
    planner = MCTS(
        simulations=300, candidates=3, selection=UCT(exploration=2.0), rollouts=2, rollout_depth=4
    )
    plan, _ = planner(model, tensor_rows(roots), rng=generator(0))
    best = [optimum(root, 3) for root in roots]
    assert plan.action.tolist() == [MOVES.index(future.moves[0]) for future in best]


def test_rollouts_keep_inside_a_budget_of_steps() -> None:
    planner = MCTS(simulations=30, candidates=3, selection=UCT(), rollouts=2, rollout_depth=4)
    plan, _ = planner(
        tensor_garden(), tensor_rows(PATHS), rng=generator(0), budget=Budget(steps=50)
    )
    assert int(plan.cost.steps.max()) <= 50
    assert int(plan.cost.steps.max()) > 30


# Sampled actions


@pytest.mark.parametrize(
    "budget",
    [Budget(steps=21), Budget(steps=40), Budget(proposals=22), Budget(calls=15), Budget(calls=20)],
)
def test_rollouts_of_the_root_leave_a_simulation_to_be_paid(budget: Budget) -> None:
    """One simulation takes a step and 4 * 5 of its rollouts; 41 steps pay for the root's, too."""
    maze = Maze(2, ends=0.0)
    planner = MCTS(simulations=9, candidates=2, rollouts=4, rollout_depth=5)
    plan, _ = planner(maze.model, maze.roots(), rng=generator(0), budget=budget)
    assert tree_of(plan).size.tolist() == [2] * 4
    assert tree_of(plan).raw_value[:, 0].tolist() == [0.0] * 4
    for name, limit in budget._asdict().items():
        assert limit is None or int(torch.as_tensor(getattr(plan.cost, name)).max()) <= limit
    both, _ = planner(maze.model, maze.roots(), rng=generator(0), budget=Budget(steps=41))
    assert tree_of(both).raw_value[:, 0].ne(0).all() and tree_of(both).size.tolist() == [2] * 4


class Dear:
    """A rollout policy that draws a hundred candidates where another draws one."""

    def __init__(self, maze: Maze) -> None:
        self.maze = maze

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        proposal = self.maze.propose(state, num, rng=rng)
        return proposal._replace(drawn=torch.where(state.squeeze(1) == 0, 100, 1))


def test_a_root_that_cannot_pay_takes_nothing_from_another() -> None:
    maze = Maze(2, ends=0.0)
    model = maze.model._replace(rollout=Dear(maze))
    planner = MCTS(
        simulations=2, candidates=CHOICES, selection=Gumbel(), rollouts=1, rollout_depth=1
    )
    budget = Budget(proposals=2 * (CHOICES + 1))
    both = maze.roots(2)
    beside, _ = planner(model, both, rng=[generator(1), generator(2)], budget=budget)
    alone, _ = planner(model, both[1:], rng=[generator(2)], budget=budget)
    assert beside.valid.tolist() == [False, True]
    for name in ("parent", "slot", "visits", "value"):
        one, two = getattr(tree_of(alone), name)[0], getattr(tree_of(beside), name)[1]
        assert one.tolist() == two[: len(one)].tolist()
    assert weights_of(alone)[0].tolist() == weights_of(beside)[1].tolist()


def test_the_sampled_prior_is_unbiased() -> None:
    gen = generator(0)
    policy = torch.randn(8, generator=gen).softmax(0)
    sampling = torch.randn(8, generator=gen).softmax(0)
    f = torch.randn(8, generator=gen)
    draws = torch.multinomial(sampling, 20_000 * 5, replacement=True, generator=gen).view(-1, 5)
    proposal = sampled(draws.unsqueeze(2), policy.log()[draws], sampling.log()[draws])
    estimate = (proposal.log_prior.exp() * f[draws]).sum(1)
    error, truth = estimate.std().item() / math.sqrt(20_000), (policy * f).sum().item()
    assert estimate.mean().item() == pytest.approx(truth, abs=4 * error)
    assert error < 0.02


def test_equal_draws_are_merged() -> None:
    drawn = torch.tensor([[[2], [5], [2], [2]], [[1], [2], [3], [1]]])
    proposal = sampled(drawn, torch.zeros(2, 4))
    assert proposal.drawn is not None and proposal.drawn.tolist() == [4, 4]
    expected = [[0.75, 0.25, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]]
    assert proposal.log_prior.exp().tolist() == expected


def test_with_every_action_drawn_the_search_is_the_full_one() -> None:
    class Sampling(Maze):
        """Every action once, from a uniform proposal."""

        def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
            full = super().propose(state, num, rng=rng)
            uniform = torch.full_like(full.log_prior, -math.log(CHOICES))
            counts = torch.ones_like(full.log_prior)
            prior = sampled_prior(full.log_prior.log_softmax(1), uniform, counts)
            return full._replace(log_prior=prior)

    planner = MCTS(simulations=40, candidates=CHOICES)
    one, other = (
        tree_of(planner(maze.model, maze.roots(), rng=generator(0))[0])
        for maze in (Maze(4), Sampling(4))
    )
    assert torch.equal(one.parent, other.parent) and torch.equal(one.visits, other.visits)


# Progressive widening


def test_a_node_shows_as_many_candidates_as_its_visits_allow() -> None:
    widening = Widening(scale=1.0, power=0.5)
    maze = Maze(6, ends=0.0)
    planner = MCTS(simulations=60, candidates=CHOICES, selection=UCT(), widening=widening)
    tree = tree_of(planner(maze.model, maze.roots(), rng=generator(0))[0])
    for b in range(4):
        for node in range(int(tree.size[b])):
            slots = tree.slot[b][tree.parent[b] == node].tolist()
            # The last visit below the node came when it had one visit less.
            shown = math.ceil(widening.scale * (int(tree.visits[b, node]) - 1) ** widening.power)
            at = int(tree.states.view(4, -1)[b, node])
            likeliest = maze.logits[at].argsort(descending=True).tolist()
            assert set(slots) <= set(likeliest[: max(shown, 1)])
    assert (tree.visits[:, 0] > 4).all()


def test_empty_slots_are_not_shown() -> None:
    class Gaps(Maze):
        """The first candidate is missing everywhere; the others are equally likely."""

        def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
            full = super().propose(state, num, rng=rng)
            gaps = torch.tensor([-torch.inf, 0.0, 0.0]).expand_as(full.log_prior)
            return full._replace(log_prior=gaps)

    maze = Gaps(6, ends=0.0)
    narrow = Widening(scale=1.0, power=1e-6)  # one candidate at the first visit, then two
    planner = MCTS(simulations=4, candidates=CHOICES, selection=UCT(), widening=narrow)
    tree = tree_of(planner(maze.model, maze.roots(), rng=generator(0))[0])
    assert tree.slot[:, 1].tolist() == [1] * 4  # equal priors leave the order as it is
    assert set(tree.slot[:, 1:].flatten().tolist()) == {1, 2}


def test_wide_open_is_not_widening() -> None:
    maze = Maze(6)
    plain, wide = (
        tree_of(
            MCTS(simulations=40, candidates=CHOICES, widening=widening)(
                maze.model, maze.roots(), rng=generator(0)
            )[0]
        )
        for widening in (None, Widening(scale=CHOICES))
    )
    assert torch.equal(plain.parent, wide.parent)


# Going on in the same tree


def after(model: Model, state: Any, plan: Plan) -> Any:
    """Where the planned action leads."""
    return model.dynamics.step(state, plan.action, rng=generator(0)).state


@pytest.mark.parametrize("selection", [UCT(), PUCT()])
def test_what_was_found_below_the_move_is_kept_unchanged(selection: Selection) -> None:
    maze = Maze(8, ends=0.0)
    planner = MCTS(simulations=50, candidates=CHOICES, selection=selection, reuse=True)
    plan, carry = planner(maze.model, maze.roots(), rng=generator(0))
    old = tree_of(plan)
    reached = after(maze.model, maze.roots(), plan)
    again, _ = planner(maze.model, reached, carry, rng=generator(0))
    new = tree_of(again)
    for b in range(4):
        moves = old.actions.view(4, -1)[b]
        child = int(((old.parent[b] == 0) & (moves == plan.action[b])).nonzero()[0])
        inside = [child]
        for i in range(child + 1, 51):
            if int(old.parent[b, i]) in inside:
                inside.append(i)
        size = len(inside)
        assert int(old.visits[b, child]) == size
        # The first `size` nodes are the old ones in their old order; the search only added visits.
        assert int(new.visits[b, 0]) == size + 50
        assert torch.equal(new.raw_value[b, :size], old.raw_value[b, inside])
        assert torch.equal(new.reward[b, 1:size], old.reward[b, inside[1:]])
        places = {i: k for k, i in enumerate(inside)}
        parents = [places[int(old.parent[b, i])] for i in inside[1:]]
        assert new.parent[b, 1:size].tolist() == parents
        states = old.states.view(4, -1)[b, inside]
        assert torch.equal(new.states.view(4, -1)[b, :size], states)
        assert bool((new.visits[b, :size] >= old.visits[b, inside]).all())
    assert int(again.cost.steps.max()) <= 50


def test_a_kept_tree_is_a_tree_of_its_own() -> None:
    """Visits and values add up over old and new simulations alike."""
    maze = Maze(9, ends=0.0)
    planner = MCTS(simulations=30, candidates=CHOICES, selection=UCT(), reuse=True)
    state, carry = maze.roots(), None
    for _ in range(4):
        plan, carry = planner(maze.model, state, carry, rng=generator(0))
        state = after(maze.model, state, plan)
        tree = tree_of(plan)
        for b in range(4):
            for node in range(int(tree.size[b])):
                below = (tree.parent[b] == node).nonzero().squeeze(1)
                q = tree.reward[b, below] + tree.discount[b, below] * tree.value[b, below]
                total = tree.raw_value[b, node] + (q * tree.visits[b, below]).sum()
                expected = total / tree.visits[b, node]
                torch.testing.assert_close(tree.value[b, node], expected, atol=1e-5, rtol=1e-5)
    assert int(tree.visits[:, 0].min()) > 31


def test_reuse_is_the_same_on_tensors_and_text() -> None:
    planner = MCTS(simulations=20, candidates=3, selection=PUCT(), reuse=True)
    model, text = tensor_garden(), text_garden()
    state, paths = tensor_rows(PATHS), list(PATHS)
    carry = text_carry = None
    for _ in range(2):
        rng = [generator(b) for b in range(3)]
        plan, carry = planner(model, state, carry, rng=rng)
        rng = [generator(b) for b in range(3)]
        text_plan, text_carry = planner(text, paths, text_carry, rng=rng)
        tree, text_tree = tree_of(plan), tree_of(text_plan)
        assert torch.equal(tree.visits, text_tree.visits)
        assert torch.equal(tree.value, text_tree.value)
        assert [MOVES[a] for a in plan.action.tolist()] == text_plan.action
        assert torch.equal(plan.cost.steps, text_plan.cost.steps)
        state, paths = after(model, state, plan), after(text, paths, text_plan)
    assert int(tree.visits[:, 0].max()) > 21, "something was kept"


def test_a_state_that_was_not_predicted_starts_anew() -> None:
    maze = Maze(8, ends=0.0)
    planner = MCTS(simulations=20, candidates=CHOICES, reuse=True)
    plan, carry = planner(maze.model, maze.roots(), rng=generator(0))
    reached = after(maze.model, maze.roots(), plan)
    reached[1] = 63.0
    mask = torch.tensor([False, False, True, False])
    again, _ = planner(maze.model, reached, mbrl_core.reset(carry, mask), rng=generator(0))
    fresh, _ = planner(maze.model, reached, rng=generator(0))
    visits = tree_of(again).visits[:, 0].tolist()
    assert visits[1] == visits[2] == 21 and visits[0] > 21 and visits[3] > 21
    for b in (1, 2):
        assert torch.equal(tree_of(again).value[b, :20], tree_of(fresh).value[b, :20])


def test_a_tree_is_kept_through_the_move_of_an_opponent() -> None:
    game, planner = TicTacToe(), MCTS(simulations=60, candidates=9, selection=UCT(), reuse=True)
    board = torch.zeros(1, 9, dtype=torch.int64)
    plan, carry = planner(game.model, board, rng=generator(0))
    board = after(game.model, board, plan)
    reply = tree_of(plan)
    child = int((tree_of(plan).states == board).all(1).nonzero()[0])
    answers = (reply.parent[0] == child).nonzero().squeeze(1)
    board = reply.states[answers[:1]]
    again, _ = planner(game.model, board, carry, rng=generator(0))
    assert int(tree_of(again).visits[0, 0]) == 60 + int(reply.visits[0, answers[0]])


def test_step_level_search_goes_on_in_its_tree() -> None:
    inner = MCTS(simulations=8, candidates=3, selection=PUCT(), reuse=True)
    plan, carry = RecedingHorizon(planner=inner, steps=3)(
        text_garden(), list(PATHS), rng=generator(0)
    )
    assert bool(plan.valid.all()) and len(carry.trees) == 3


def test_gumbel_refuses_to_go_on() -> None:
    with pytest.raises(ValueError, match=r"MCTS\.reuse .* sequential halving"):
        MCTS(simulations=8, candidates=3, selection=Gumbel(), reuse=True)


def test_gumbel_refuses_to_widen() -> None:
    with pytest.raises(ValueError, match=r"MCTS\.widening .* sequential halving"):
        MCTS(simulations=8, candidates=3, selection=Gumbel(), widening=Widening())


# Games of two players


class TicTacToe:
    """Boards [R, 9] as the player to move sees them: 1 own, -1 the other's. Discount -1."""

    LINES = torch.tensor(
        [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]]
    )

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        board = state.clone()
        board[torch.arange(len(board)), action] = 1
        won = (board[:, self.LINES] == 1).all(2).any(1)
        over = won | (board != 0).all(1)
        return Transition(-board, won.float(), torch.where(over, 0.0, -1.0))

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        return numbered(only_legal(torch.zeros(len(state), 9), state == 0), num, rng=rng)

    @property
    def model(self) -> Model:
        return Model(self, self, None, Discrete(9))


@cache
def minimax(board: tuple[int, ...]) -> dict[int, float]:
    """What each legal move is worth to the player who makes it."""
    worth = {}
    for move in (i for i, mark in enumerate(board) if mark == 0):
        moved = TicTacToe().step(torch.tensor([board]), torch.tensor([move]), rng=generator(0))
        worth[move] = moved.reward.item()
        if moved.discount.item():
            worth[move] -= max(minimax(tuple(moved.state[0].tolist())).values())
    return worth


@pytest.mark.parametrize(
    "planner",
    [
        MCTS(simulations=600, candidates=9, selection=UCT(exploration=1.0)),
        MCTS(simulations=600, candidates=9, selection=PUCT(q=MinMaxQ(-1.0, 1.0))),
        MCTS(simulations=300, candidates=9, selection=UCT(), rollouts=1, rollout_depth=9),
        MCTS(simulations=600, candidates=9, selection=UCT(exploration=1.0), leaves=4),
    ],
    ids=["uct", "puct", "rollouts", "leaves"],
)
def test_moves_in_a_game_of_two_are_optimal(planner: MCTS) -> None:
    boards = [
        (1, 1, 0, -1, -1, 0, 0, 0, 0),  # win at once
        (1, 0, 0, -1, -1, 0, 0, 0, 1),  # stop the other
        (-1, 0, 0, 0, 1, 0, 0, 0, -1),  # a corner loses, a side holds
        (1, 0, 0, 0, -1, 0, 0, 0, 0),
        (1, -1, 0, 0, 0, 0, 0, 0, 0),  # a win by force
    ]
    plan, _ = planner(TicTacToe().model, torch.tensor(boards), rng=generator(0))
    for board, move in zip(boards, plan.action.tolist(), strict=True):
        worth = minimax(board)
        assert worth[move] == max(worth.values()), f"{move} on {board}: {worth}"


# The final choice


def test_at_a_temperature_the_choice_is_drawn_by_visits() -> None:
    maze = Maze(1, ends=0.0)
    roots, temperature = torch.zeros(4000, 1), 0.5
    planner = MCTS(simulations=12, candidates=CHOICES, temperature=temperature)
    plan, _ = planner(maze.model, roots, rng=generator(0))
    weights = weights_of(plan)[0]
    expected = weights ** (1 / temperature) / (weights ** (1 / temperature)).sum()
    share = torch.bincount(plan.action, minlength=CHOICES) / 4000
    assert share.tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert expected.max() < 0.99


def test_the_weights_are_a_policy_over_the_roots_candidates() -> None:
    maze = Maze(1)
    for selection in (UCT(), PUCT(), Gumbel()):
        planner = MCTS(simulations=20, candidates=CHOICES, selection=selection)
        plan, _ = planner(maze.model, maze.roots(), rng=generator(0))
        root = tree_of(plan).root
        assert root is not None
        torch.testing.assert_close(root.weights.sum(1), torch.ones(4))
        torch.testing.assert_close(root.logits, maze.logits[:4])
        assert root.actions.tolist() == list(range(CHOICES)) * 4
        assert root.visits.sum(1).tolist() == [20] * 4
        if not isinstance(selection, Gumbel):
            torch.testing.assert_close(root.weights, root.visits / 20)


def test_noise_at_the_root_widens_the_search() -> None:
    maze = Maze(1)
    sure = torch.tensor([20.0, 0.0, 0.0]).expand(64, 3)
    maze.logits = sure
    tried = []
    for fraction in (0.0, 0.5):
        selection = PUCT(q=RawQ(), dirichlet_fraction=fraction, dirichlet_alpha=1.0)
        planner = MCTS(simulations=30, candidates=CHOICES, selection=selection)
        root = tree_of(planner(maze.model, maze.roots(32), rng=generator(0))[0]).root
        assert root is not None
        tried.append(int((root.visits > 0).sum()))
    assert tried[1] > tried[0]


# Chance


class Dice:
    """Bet or pass, then nature rolls; three rounds. States [R, 3]: round, fate drawn, bet.

    A bet of b in round t pays `PAYS[t][b][o]` at outcome o, which has probability `ODDS[b][o]`.
    """

    ODDS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    PAYS = torch.tensor(
        [
            [[1.0, 0.0, 0.5], [3.0, 2.0, -0.5]],
            [[0.0, 1.0, 1.0], [4.0, -1.0, 1.0]],
            [[2.0, 0.0, -1.0], [0.0, 0.5, 0.25]],
        ]
    )

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        turn, fate, bet = state.unbind(1)
        rolled = fate == 1
        pay = self.PAYS[turn, bet, action.clamp(max=2)]
        reward = torch.where(rolled, pay, 0.0)
        after_roll = torch.stack([turn + 1, fate * 0, bet * 0], 1)
        after_bet = torch.stack([turn, fate * 0 + 1, action.clamp(max=1)], 1)
        moved = torch.where(rolled.unsqueeze(1), after_roll, after_bet)
        return Transition(moved, reward, torch.where(rolled & (turn == 2), 0.0, 1.0))

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        chance = state[:, 1] == 1
        bets = torch.tensor([0.0, 0.0, -torch.inf])
        logits = torch.where(chance.unsqueeze(1), self.ODDS[state[:, 2]].log(), bets)
        return Proposal(torch.arange(3).repeat(len(state)), logits, chance=chance)

    def expectimax(self) -> list[float]:
        """The expected reward of each bet in round 0 and the best play after it."""
        later = 0.0
        for turn in (2, 1):
            later += float((self.ODDS * self.PAYS[turn]).sum(1).max())
        return ((self.ODDS * self.PAYS[0]).sum(1) + later).tolist()


def test_expectations_over_chance_are_found() -> None:
    dice = Dice()
    planner = MCTS(simulations=6000, candidates=3, selection=UCT(exploration=2.0))
    state = torch.zeros(1, 3, dtype=torch.int64)
    plan, _ = planner(Model(dice, dice), state, rng=generator(0))
    tree, best = tree_of(plan), dice.expectimax()
    assert tree.root is not None
    assert plan.action.item() == best.index(max(best))
    assert plan.value.item() == pytest.approx(max(best), abs=0.15)
    chosen = int(plan.action)
    assert tree.root.q[0, chosen].item() == pytest.approx(best[chosen], abs=0.1)
    # Nature's outcomes come up in their proportions.
    fate = int(((tree.parent[0] == 0) & (tree.slot[0] == chosen)).nonzero())
    below = tree.parent[0] == fate
    share = tree.visits[0][below] / tree.visits[0][below].sum()
    torch.testing.assert_close(share, dice.ODDS[chosen][tree.slot[0][below]], atol=0.01, rtol=0)


# A rule of one's own


class Greedy(UCT):
    """UCT that tries every candidate once and then follows the best."""

    def score(self, node: Any, edges: Any, noise: Any, turn: int, total: int, out: Any) -> None:
        for k in range(len(edges)):
            out[k] = edges[k].q if edges[k].visits > 0 else math.inf


def test_a_rule_of_ones_own_is_compiled_like_the_others() -> None:
    maze = Maze(3, ends=0.0)
    planner = MCTS(simulations=30, candidates=CHOICES, selection=Greedy())
    tree = tree_of(planner(maze.model, maze.roots(), rng=generator(0))[0])
    unexploring = MCTS(simulations=30, candidates=CHOICES, selection=UCT(exploration=0.0))
    same = tree_of(unexploring(maze.model, maze.roots(), rng=generator(0))[0])
    assert torch.equal(tree.parent, same.parent)


def test_a_rule_that_cannot_be_compiled_is_refused() -> None:
    class Rule:
        pass

    with pytest.raises(ValueError, match="must be a NamedTuple"):
        MCTS(simulations=8, candidates=3, selection=Rule())  # type: ignore[arg-type]


def test_chance_of_the_wrong_shape_is_refused() -> None:
    class Wide(Maze):
        def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
            return super().propose(state, num, rng=rng)._replace(chance=torch.zeros(99).bool())

    with pytest.raises(ValueError, match=r"chance \[4\]"):
        MCTS(simulations=8, candidates=3)(Wide(0).model, Wide(0).roots(), rng=generator(0))
