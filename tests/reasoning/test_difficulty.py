"""Compute-optimal choice: what is estimated, who is asked, and what is counted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mbrl_core import Budget, Tree
from reasoning.difficulty import (
    Choice,
    ComputeOptimal,
    Fitted,
    _Branch,
    _joined,
    choice_record,
    compute_optimal,
    ease,
    paths,
)
from reasoning.reasoner import Reasoner
from reasoning.strategies import (
    FinalAnswer,
    best_of_n,
    greedy,
    lookahead,
    mcts,
    particle_filter,
    rap,
    receding,
    self_consistency,
    soft_best_of_n,
    tree_of_thoughts,
    tree_of_thoughts_dfs,
    weighted_vote,
)
from reasoning.world import Thought
from tests.language import Checker
from tests.reasoning import test_rap as sub_questions
from tests.reasoning.test_strategies import QUESTIONS, Counting, outcome

TREE = Choice(tree_of_thoughts(width=2, expand=3))
EASY = Choice(self_consistency(n=6))


def choosing(*choices: Choice, edges=(), probe: int = 4, by="score") -> ComputeOptimal:
    return ComputeOptimal(probe=probe, temperature=1.0, by=by, edges=edges, choices=choices)


def asking(strategy, engine=None) -> Reasoner:
    return Reasoner(engine=engine or Counting(), strategy=strategy, scorer=Checker())


def texts_of(plan, row: int) -> list[str]:
    size, width = int(plan.trace.size[row]), plan.trace.parent.shape[1]
    return [thought.text for thought in plan.trace.states[row * width : row * width + size]]


def test_ease_is_a_mean_score_or_the_majoritys_share():
    values, answers = [0.9, 0.3, -math.inf, 0.0], ["4", "4", None, "5"]
    assert ease(values, answers, "score") == pytest.approx(0.3)
    assert ease(values, answers, "vote") == 0.5
    assert ease([], [], "score") == ease([-math.inf], [None], "vote") == 0.0
    with pytest.raises(ValueError, match="by must be score or vote, not 'luck'"):
        ease(values, answers, "luck")


@pytest.mark.parametrize(
    "strategy",
    [best_of_n(n=9), self_consistency(n=9), weighted_vote(n=9), soft_best_of_n(n=9)],
    ids=["best_of_n", "self_consistency", "weighted_vote", "soft_best_of_n"],
)
@pytest.mark.parametrize("probe", [1, 4, 9])
def test_sampling_goes_on_from_the_probe(strategy, probe):
    """With one strategy for all the choice is that strategy: the same samples, answers and cost."""
    chosen = asking(choosing(Choice(strategy), probe=probe)).plan(QUESTIONS, seed=3)
    plain = asking(strategy).plan(QUESTIONS, seed=3)
    assert chosen.final == plain.final and chosen.action == plain.action
    assert chosen.value.tolist() == pytest.approx(plain.value.tolist())
    for mine, theirs in zip(
        (chosen.cost.steps, chosen.cost.proposals, *chosen.cost.tokens[::2]),
        (plain.cost.steps, plain.cost.proposals, *plain.cost.tokens[::2]),
        strict=True,
    ):
        assert mine.tolist() == theirs.tolist()
    number = plain.trace.returns.shape[1]
    for row in range(len(QUESTIONS)):
        samples = plain.trace.final[row * number : (row + 1) * number]
        assert texts_of(chosen, row)[1:] == [sample.text for sample in samples]


def test_a_search_is_charged_the_probe_on_top():
    engine, alone = Counting(), Counting()
    chosen = asking(choosing(TREE), engine).plan(QUESTIONS, seed=3)
    probe = asking(best_of_n(n=4), alone).plan(QUESTIONS, seed=3)
    assert chosen.cost.tokens.decoded.tolist() == [engine.decoded[q] for q in QUESTIONS]
    assert (chosen.cost.tokens.decoded > probe.cost.tokens.decoded).all()
    for row in range(len(QUESTIONS)):
        sampled = [thought.text for thought in probe.trace.final[4 * row : 4 * row + 4]]
        assert texts_of(chosen, row)[1:5] == sampled


def test_each_question_goes_where_its_ease_says():
    plain = asking(best_of_n(n=4)).plan(QUESTIONS, seed=3)
    eases = [
        ease(values, FinalAnswer()(plain.trace.final[4 * row : 4 * row + 4]), "score")
        for row, values in enumerate(plain.trace.returns.tolist())
    ]
    edge = sorted(eases)[3]
    strategy = choosing(TREE, EASY, edges=(edge,))
    plan = asking(strategy).plan(QUESTIONS, seed=3)
    for row, value in enumerate(eases):
        whole = plan.trace.depth[row].max() == 1
        assert whole == (value >= edge)
        alone = choosing(EASY if value >= edge else TREE)
        alone = asking(alone).plan([QUESTIONS[row]], seed=3)
        assert plan.final[row] == alone.final[0]


MIXED = choosing(
    Choice(mcts(simulations=6, rollouts=1), Budget(tokens=80)),
    TREE,
    Choice(greedy()),
    EASY,
    Choice(receding(lookahead(width=2, expand=2), steps=4)),
    edges=(0.2, 0.3, 0.45, 0.5),
)


def test_a_question_is_answered_alike_whatever_is_asked_beside_it():
    alone = [outcome(asking(MIXED).plan([q], seed=5), 0) for q in QUESTIONS]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [4, 2]):
        engine = Counting()
        plan = asking(MIXED, engine).plan([QUESTIONS[i] for i in order], seed=5)
        assert [outcome(plan, row) for row in range(len(order))] == [alone[i] for i in order]
        spent = [engine.decoded[QUESTIONS[i]] for i in order]
        assert plan.cost.tokens.decoded.tolist() == spent


def test_the_trace_is_a_tree_of_all_that_was_looked_at():
    plan = asking(MIXED).plan(QUESTIONS, seed=5)
    tree = plan.trace
    assert isinstance(tree, Tree)
    for row in range(len(QUESTIONS)):
        texts = texts_of(plan, row)
        assert texts[0] == "" and plan.final[row].text in texts
        for node in range(1, len(texts)):
            parent = int(tree.parent[row, node])
            assert parent < node and texts[node].startswith(texts[parent])
            action = tree.actions[row * tree.parent.shape[1] + node]
            assert texts[parent] + "".join(s.text for s in action.steps) == texts[node]
            assert tree.depth[row, node] == tree.depth[row, parent] + 1


def test_limits_are_kept():
    limited = asking(choosing(Choice(mcts(simulations=99), Budget(steps=5))))
    assert (limited.plan(QUESTIONS).cost.steps <= 4 + 5 + 1).all()
    plan = asking(choosing(EASY)).plan(QUESTIONS, budget=Budget(steps=5))
    assert plan.cost.steps.tolist() == [5] * len(QUESTIONS)
    with pytest.raises(ValueError, match="compute_optimal samples its probe in one go"):
        asking(choosing(TREE)).plan(QUESTIONS, budget=Budget(tokens=100))


SPENT = [Budget(steps=2), Budget(calls=3), Budget(proposals=2)]


@pytest.mark.parametrize("budget", SPENT)
@pytest.mark.parametrize(
    "strategy",
    [
        tree_of_thoughts(width=2, expand=3),
        mcts(simulations=5, rollouts=1),
        lookahead(width=2, expand=2),
        tree_of_thoughts_dfs(),
        particle_filter(),
        receding(lookahead(width=2, expand=2), steps=4),
        best_of_n(n=9, temperature=0.5),
    ],
    ids=["beam", "mcts", "lookahead", "dfs", "particles", "receding", "sampling"],
)
def test_where_nothing_is_left_the_best_of_the_probe_answers(strategy, budget):
    chosen = asking(choosing(Choice(strategy))).plan(QUESTIONS, seed=3, budget=budget)
    probe = asking(best_of_n(n=4)).plan(QUESTIONS, seed=3, budget=budget)
    assert chosen.final == probe.final and chosen.value.tolist() == probe.value.tolist()
    assert chosen.cost.tokens.decoded.tolist() == probe.cost.tokens.decoded.tolist()
    assert chosen.cost.calls == probe.cost.calls
    for row in range(len(QUESTIONS)):
        number = probe.trace.returns.shape[1]
        sampled = probe.trace.final[number * row : number * (row + 1)]
        assert texts_of(chosen, row)[1 : 1 + number] == [thought.text for thought in sampled]


@pytest.mark.parametrize("strategy", [best_of_n(n=9), self_consistency(n=9)])
@pytest.mark.parametrize("budget", [*SPENT, Budget(seconds=0.0)])
def test_sampling_answers_with_the_probe_where_nothing_is_left(strategy, budget):
    chosen = asking(choosing(Choice(strategy))).plan(QUESTIONS, seed=3, budget=budget)
    four = replace(strategy, planner=replace(strategy.planner, samples=4))
    probe = asking(four).plan(QUESTIONS, seed=3, budget=budget)
    assert chosen.final == probe.final and chosen.cost.steps.tolist() == probe.cost.steps.tolist()


@pytest.mark.parametrize("strategy", [mcts(simulations=5), greedy()])
def test_where_the_time_is_up_the_best_of_the_probe_answers(strategy):
    chosen = asking(choosing(Choice(strategy))).plan(QUESTIONS, budget=Budget(seconds=0.0))
    assert chosen.final == asking(best_of_n(n=4)).plan(QUESTIONS).final


def test_what_rollouts_completed_is_earned_once_in_the_trace():
    """The path to a played solution in the tree of all has the return that the search gave it."""
    plan = sub_questions.asking().plan(sub_questions.QUESTIONS, seed=1)
    assert plan.trace.played is not None
    (tree,) = [_joined([Thought("x", ())], [[_Branch(plan, 0)]])]
    size, own = int(plan.trace.size[0]), plan.trace.played.root == 0
    earned, _ = paths(tree, 0)
    assert earned[:size] == pytest.approx(paths(plan.trace, 0)[0])
    assert earned[size:] == pytest.approx(plan.trace.played.returns[own].tolist())
    assert plan.trace.played.node[own].max() > 0


def table(tmp_path, **changes):
    entry = choice_record("mcts", {"simulations": 8, "temperature": 1.0}, {"tokens": 64})
    other = choice_record("best_of_n", {"n": 8, "temperature": 1.0}, {})
    data = {
        "probe": {"samples": 2, "temperature": 1.0, "by": "vote"},
        "sizes": {"8": {"edges": [0.5], "choices": [entry, other]}},
        **changes,
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(data))
    return path


def test_a_table_says_who_is_asked(tmp_path):
    assert compute_optimal(table(tmp_path), 8) == ComputeOptimal(
        probe=2,
        temperature=1.0,
        by="vote",
        edges=(0.5,),
        choices=(
            Choice(mcts(simulations=8, temperature=1.0), Budget(tokens=64)),
            Choice(best_of_n(n=8, temperature=1.0)),
        ),
    )


def test_a_table_says_what_it_was_fitted_with(tmp_path):
    fitted = Fitted("a", "b", "min", 0.5, True)
    read = compute_optimal(table(tmp_path, fitted_on={"task": "x", **fitted._asdict()}), 8)
    assert read.fitted_on == fitted
    earlier = compute_optimal(table(tmp_path, fitted_on={"task": "x", "model": "a"}), 8)
    assert earlier.fitted_on is None


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no table at"):
        compute_optimal(tmp_path / "none.json", 8)
    with pytest.raises(ValueError, match="holds the sizes 8, not 16"):
        compute_optimal(table(tmp_path), 16)
    with pytest.raises(ValueError, match="is no table of strategies"):
        compute_optimal(table(tmp_path, probe={}), 8)
    with pytest.raises(ValueError, match="there is no strategy 'magic'"):
        choice_record("magic", {}, {})
    with pytest.raises(ValueError, match="has no such option"):
        choice_record("mcts", {"n": 3}, {})
    with pytest.raises(ValueError, match="1 rising edges need 2 choices"):
        choosing(EASY, edges=(0.5,))
    with pytest.raises(ValueError, match="has another world: Rap"):
        choosing(Choice(rap()))
    with pytest.raises(ValueError, match="temperature must be 0 or more"):
        ComputeOptimal(probe=4, temperature=-1.0, by="score", edges=(), choices=(EASY,))
    with pytest.raises(ValueError, match="give receding a search over steps"):
        receding(choosing(EASY))
