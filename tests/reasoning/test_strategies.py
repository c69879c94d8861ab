"""Each strategy on a scripted model that is likelier wrong than right at every step."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from mbrl_core import Budget, Plan, Rollout, Vote, WeightedVote, generator
from reasoning.engines import Completion, Request, ScriptedEngine
from reasoning.reasoner import Reasoner
from reasoning.strategies import (
    FinalAnswer,
    Strategy,
    best_of_n,
    dvts,
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
from tests.language import Checker, adding, scripted, total_of
from tests.worlds import tensor_answers, tensor_garden, tensor_rows

answers = FinalAnswer()

QUESTIONS = ["3+4+5", "10+20", "1+2+3+4", "7+7+7", "100+200+300", "2+2"]
STRATEGIES = {
    "greedy": greedy(),
    "self_consistency": self_consistency(n=9),
    "best_of_n": best_of_n(n=9),
    "weighted_vote": weighted_vote(n=9),
    "soft_best_of_n": soft_best_of_n(n=9),
    "tree_of_thoughts": tree_of_thoughts(width=3, expand=4),
    "dvts": dvts(width=3, expand=4),
    "tree_of_thoughts_dfs": tree_of_thoughts_dfs(expand=4, max_nodes=24, enough=0.7),
    "particle_filter": particle_filter(particles=9),
    "particle_filter_best": particle_filter(particles=9, weigh="score", choose="best"),
    "mcts": mcts(simulations=24),
    "mcts_vote": mcts(simulations=24, choose="vote"),
    "uct": mcts(simulations=24, selection="uct"),
    "gumbel": mcts(simulations=24, selection="gumbel"),
    "mcts_rollouts": mcts(simulations=8, rollouts=2, selection="uct", choose="vote"),
    "lookahead": lookahead(width=2, expand=3, ahead=2),
    "receding": receding(mcts(simulations=8), steps=6),
    "receding_reuse": receding(mcts(simulations=6, reuse=True), steps=6),
}
SAMPLED = ("greedy", "self_consistency", "best_of_n", "weighted_vote", "soft_best_of_n")
SEARCHES = tuple(name for name in STRATEGIES if name not in SAMPLED)
STOPPABLE = tuple(name for name in SEARCHES if not name.startswith("receding"))
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


class Counting(ScriptedEngine):
    """The adding engine, counting what it generates."""

    def __init__(self) -> None:
        super().__init__(adding)
        self.decoded: Counter[str] = Counter()  # by question

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        completions = super().generate(requests)
        for request, completion in zip(requests, completions, strict=True):
            question = self.decode(request.tokens).split("\n")[0]
            self.decoded[question] += len(completion.tokens) + (completion.finish == "eos")
        return completions


def reasoner(strategy: Strategy, scorer: Any = None, **options: Any) -> Reasoner:
    return Reasoner(engine=scripted(), strategy=strategy, scorer=scorer or Checker(), **options)


def samples(plan: Plan, row: int) -> list[tuple[str | None, float]]:
    """Answer and score of every solution sampled for question `row`."""
    assert isinstance(plan.trace, Rollout)
    number = plan.trace.returns.shape[1]
    thoughts = plan.trace.final[row * number : (row + 1) * number]
    return list(zip(answers(thoughts), plan.trace.returns[row].tolist(), strict=True))


# ------------------------------------------------------------------------------ who finds what


def test_greedy_takes_the_likeliest_and_is_wrong():
    for question, answer in zip(QUESTIONS, reasoner(greedy())(QUESTIONS), strict=True):
        assert answer.answer == str(int(total_of(question)) + question.count("+"))
        assert answer.finished


@pytest.mark.parametrize(
    "strategy",
    [
        tree_of_thoughts(width=3, expand=12),
        dvts(width=3, expand=12),
        tree_of_thoughts_dfs(expand=12, max_nodes=99, enough=0.7),
        particle_filter(particles=60, score_temperature=0.03),
        particle_filter(particles=60, weigh="score", choose="best"),
        mcts(simulations=40, candidates=12),
        mcts(simulations=40, candidates=12, choose="vote"),
        mcts(simulations=40, candidates=12, selection="uct"),
        mcts(simulations=40, candidates=12, selection="gumbel"),
        mcts(simulations=60, candidates=12, rollouts=2, selection="uct"),
        lookahead(width=2, expand=12, ahead=2),
        receding(mcts(simulations=20, candidates=12), steps=6),
        receding(mcts(simulations=20, candidates=12, reuse=True), steps=6),
    ],
    ids=SEARCHES,
)
def test_searches_find_the_right_answer_where_greedy_fails(strategy):
    found = reasoner(strategy)(QUESTIONS)
    assert [answer.answer for answer in found] == [total_of(question) for question in QUESTIONS]


@pytest.mark.filterwarnings("ignore:RandomShooting. no candidate:RuntimeWarning")
@pytest.mark.parametrize("max_tokens", [256, 24])
def test_self_consistency_is_the_majority_of_those_who_answer(max_tokens):
    """Cut solutions abstain; of equally frequent answers the one that came first wins."""
    plan = reasoner(self_consistency(n=12), max_tokens=max_tokens).plan(QUESTIONS)
    abstained = 0
    for row, thought in enumerate(plan.final):
        votes = [answer for answer, _ in samples(plan, row)]
        cast = [vote for vote in votes if vote is not None]
        abstained += len(votes) - len(cast)
        if not cast:
            assert plan.value[row] == 0 and answers([thought]) == [None]
            continue
        ((winner, number),) = Counter(cast).most_common(1)
        assert answers([thought]) == [winner]
        assert plan.value[row].item() == pytest.approx(number / len(cast))
    assert (abstained > 0) == (max_tokens == 24)


def test_best_of_n_is_the_sample_of_highest_score():
    plan = reasoner(best_of_n(n=12)).plan(QUESTIONS)
    for row, thought in enumerate(plan.final):
        best = max(samples(plan, row), key=lambda sample: sample[1])
        assert (answers([thought])[0], plan.value[row].item()) == best


def test_weighted_vote_sums_scores():
    plan = reasoner(weighted_vote(n=12)).plan(QUESTIONS)
    for row, thought in enumerate(plan.final):
        sums: dict[str, float] = {}
        for answer, score in samples(plan, row):
            if answer is not None:
                sums[answer] = sums.get(answer, 0.0) + score
        assert answers([thought])[0] == max(sums, key=lambda answer: sums[answer])
        share = max(sums.values()) / sum(sums.values())
        assert plan.value[row].item() == pytest.approx(share)


@pytest.mark.parametrize("score_temperature", [0.05, 0.5, 1e6])
def test_soft_best_of_n_sums_exponentials_of_scores(score_temperature):
    plan = reasoner(soft_best_of_n(n=12, score_temperature=score_temperature)).plan(QUESTIONS)
    for row, thought in enumerate(plan.final):
        sums: dict[str, float] = {}
        for answer, score in samples(plan, row):
            if answer is not None:
                weight = math.exp((score - 1) / score_temperature)
                sums[answer] = sums.get(answer, 0.0) + weight
        assert answers([thought])[0] == max(sums, key=lambda answer: sums[answer])
        assert plan.value[row].item() == pytest.approx(max(sums.values()) / sum(sums.values()))


def test_dvts_follows_as_many_solutions_as_it_has_subtrees():
    """Each subtree draws first steps of its own, which may be the same."""
    plan = reasoner(dvts(width=3, expand=4), finish=False).plan(["1+2+3+4"])
    assert (plan.trace.depth[0, : int(plan.trace.size)] == 1).sum() == 3 * 4
    tree = plan.trace
    kept = [
        thought
        for thought, visits, below in zip(
            tree.states, tree.visits[0].tolist(), range(tree.parent.shape[1]), strict=True
        )
        if visits and not bool((tree.parent[0] == below).any())
    ]
    assert len(kept) == 3


def test_a_solution_that_is_good_enough_ends_a_depth_first_search():
    eager = reasoner(tree_of_thoughts_dfs(expand=12, enough=0.7)).plan(["3+4+5"])
    thorough = reasoner(tree_of_thoughts_dfs(expand=12)).plan(["3+4+5"])
    assert eager.value[0] >= 0.7
    assert eager.cost.steps[0] < thorough.cost.steps[0]


def test_a_particle_filter_is_right_more_often_for_the_same_tokens():
    """It spends as best-of-N does, and by dropping bad starts finds right answers more often."""
    filtered = reasoner(particle_filter(particles=12, score_temperature=0.05)).plan(QUESTIONS)
    voted = reasoner(self_consistency(n=12)).plan(QUESTIONS)
    right = [total_of(question) for question in QUESTIONS]
    hits = [
        sum(a == b for a, b in zip(answers(plan.final), right, strict=True))
        for plan in (filtered, voted)
    ]
    assert hits[0] > hits[1]
    assert filtered.cost.tokens.decoded.sum() <= voted.cost.tokens.decoded.sum()


def test_mcts_takes_the_best_complete_solution_or_their_vote():
    for choose in ("best", "vote"):
        plan = reasoner(mcts(simulations=30, choose=choose)).plan(["3+4+5"])
        size = int(plan.trace.size[0])
        states, rewards = plan.trace.states[:size], plan.trace.reward[0, :size].tolist()
        sums: dict[str, float] = {}
        complete = [(s, r) for s, r in zip(states, rewards, strict=True) if s.finish == "answered"]
        for state, reward in complete:
            sums[answers([state])[0]] = sums.get(answers([state])[0], 0.0) + reward
        if choose == "best":
            assert plan.value[0].item() == max(reward for _, reward in complete)
        else:
            assert answers(plan.final) == [max(sums, key=lambda answer: sums[answer])]


@pytest.mark.filterwarnings("ignore:RandomShooting. no candidate:RuntimeWarning")
def test_cut_solutions_never_vote_and_earn_nothing():
    plan = reasoner(weighted_vote(n=6), max_tokens=4).plan(QUESTIONS)
    assert {thought.finish for thought in plan.final} == {"cut"}
    assert plan.value.tolist() == [0.0] * len(QUESTIONS)
    found = reasoner(weighted_vote(n=6), max_tokens=4)(QUESTIONS)
    assert [(a.answer, a.finished) for a in found] == [(None, False)] * len(QUESTIONS)


def counting(lines: int) -> ScriptedEngine:
    """Says its one solution of so many lines of nine characters, a line at a time."""

    def script(text: str) -> list[tuple[str, float]]:
        said = text.count("\n") - 1
        return [("12345678\n" if said < lines - 1 else "#### 007\n", 1.0)]

    return ScriptedEngine(script)


@pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
@pytest.mark.parametrize(
    "strategy",
    [
        tree_of_thoughts(2, 2, depth=3),
        mcts(4, 2),
        mcts(8, 2, selection="uct", rollouts=1),
        rap(simulations=3, form="operations", candidates=2, depth=3, answers=2),
    ],
)
def test_a_step_and_a_whole_solution_have_limits_of_their_own(strategy):
    def answer(**limits: int) -> str | None:
        return Reasoner(engine=counting(10), strategy=strategy, **limits)(["q"])[0].answer

    assert answer(step_tokens=20) == answer(max_tokens=90, step_tokens=9) == "7"
    assert answer(max_tokens=20) is None, "steps and solutions alike where nothing else is said"


@pytest.mark.parametrize("depth", [24, 40])
@pytest.mark.parametrize("choose", ["best", "vote"])
def test_a_solution_may_be_longer_than_a_filter_is_deep(depth, choose):
    filtering = particle_filter(3, depth=depth, choose=choose)
    plan = Reasoner(engine=counting(30), strategy=filtering, max_tokens=400).plan(["q"])
    assert plan.final[0].answer == "7" and len(plan.final[0].steps) == 30
    assert plan.trace.depth.max() == min(depth, 30)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="choose must be best or vote, not 'worst'"):
        mcts(choose="worst")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="selection must be one of puct, uct, gumbel, not 'ucb'"):
        mcts(selection="ucb")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ problems apart


def outcome(plan: Plan, row: int) -> dict[str, Any]:
    """All that was found for and spent on one question."""
    trace = plan.trace
    if isinstance(trace, Rollout):
        number = trace.returns.shape[1]
        seen = trace.final[row * number : (row + 1) * number], trace.returns[row].tolist()
    else:
        size, width = int(trace.size[row]), trace.parent.shape[1]
        tables = (trace.parent, trace.slot, trace.visits, trace.value, trace.prior, trace.reward)
        seen = (
            trace.states[row * width : row * width + size],
            [table[row, :size].tolist() for table in tables],
        )
    cost = plan.cost
    ledger = (cost.steps, cost.proposals, cost.values, *cost.tokens)
    return {
        "final": plan.final[row],
        "value": plan.value[row].item(),
        "seen": seen,
        "spent": [amount[row].item() for amount in ledger],
    }


@every_strategy
def test_a_question_is_answered_alike_whatever_is_asked_beside_it(name):
    """Answers, trees and ledgers do not depend on the batch, its order or its size."""
    asking = reasoner(STRATEGIES[name])
    ids = [f"test/{i}" for i in range(len(QUESTIONS))]
    alone = [
        outcome(asking.plan([q], ids=[i], seed=3), 0) for q, i in zip(QUESTIONS, ids, strict=True)
    ]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [4, 2], [1, 0, 5]):
        plan = asking.plan([QUESTIONS[i] for i in order], ids=[ids[i] for i in order], seed=3)
        for row, i in enumerate(order):
            assert outcome(plan, row) == alone[i]


@pytest.mark.parametrize("name", ["best_of_n", "tree_of_thoughts", "mcts"])
def test_the_seed_and_the_id_decide_the_draws(name):
    asking = reasoner(STRATEGIES[name])

    def seen(seed: int, id: str) -> Any:
        return outcome(asking.plan(["1+2+3+4"], ids=[id], seed=seed), 0)["seen"]

    assert seen(0, "a") == seen(0, "a")
    assert seen(0, "a") != seen(1, "a") and seen(0, "a") != seen(0, "b")


# ------------------------------------------------------------------------------ ledgers and budgets


@every_strategy
@pytest.mark.parametrize("budget", [None, Budget(tokens=60)], ids=["free", "limited"])
def test_the_ledger_counts_what_the_engine_generated(name, budget):
    engine = Counting()
    asking = Reasoner(engine=engine, strategy=STRATEGIES[name], scorer=Checker())
    if budget and name not in SEARCHES:
        with pytest.raises(ValueError, match="a token budget cannot stop it"):
            asking.plan(QUESTIONS, budget=budget)
        return
    plan = asking.plan(QUESTIONS, budget=budget)
    assert plan.cost.tokens.decoded.tolist() == [engine.decoded[q] for q in QUESTIONS]


@every_strategy
def test_the_ledger_counts_what_the_scorer_read(name):
    checker = Checker()
    plan = reasoner(STRATEGIES[name], checker).plan(["1+2+3+4"])
    read = sum(
        len(step.tokens) for t, new in checker.asked for step in t.steps[len(t.steps) - new :]
    )
    assert plan.cost.tokens.scored.tolist() == [read]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [(name, tokens) for name in STOPPABLE for tokens in (1, 30, 60, 200)],
)
def test_a_budget_of_tokens_stops_the_search_which_still_answers(name, tokens):
    """One more call may begin just below the limit; what is left open is then said greedily."""
    free = reasoner(STRATEGIES[name]).plan(QUESTIONS)
    search = reasoner(STRATEGIES[name], finish=False).plan(QUESTIONS, budget=Budget(tokens=tokens))
    ahead = 3 if name in ("mcts_rollouts", "lookahead") else 1
    one_call = 4 * 3 * ahead * len("300+300=600\n")  # candidates, of each of the beam's nodes
    assert (search.cost.tokens.decoded < tokens + one_call).all()
    whole = reasoner(STRATEGIES[name]).plan(QUESTIONS, budget=Budget(tokens=tokens))
    assert {thought.finish for thought in whole.final} == {"answered"}
    assert None not in answers(whole.final)
    for row, thought in enumerate(search.final):
        completed = thought.finish == "open"
        more = whole.cost.tokens.decoded[row] - search.cost.tokens.decoded[row]
        assert whole.final[row].steps[: len(thought.steps)] == thought.steps
        assert (more > 0) == completed
    assert (whole.cost.tokens.decoded <= free.cost.tokens.decoded + 100).all()


def test_what_is_left_open_is_completed_greedily_and_charged_to_its_question_alone():
    shallow = tree_of_thoughts(width=2, expand=4, depth=2)
    before = reasoner(shallow, finish=False).plan(QUESTIONS)
    after = reasoner(shallow).plan(QUESTIONS)
    spent = after.cost.tokens.decoded - before.cost.tokens.decoded
    for row, question in enumerate(QUESTIONS):
        done = before.final[row].finish == "answered"
        assert done == (question.count("+") < 2)
        assert (spent[row] == 0) == done
        assert after.final[row].finish == "answered"
        assert after.final[row].text.startswith(before.final[row].text)


# ------------------------------------------------------------------------------ asking


@pytest.mark.parametrize("questions", [["1+1", ""], ["1+1", " \n"]])
def test_an_empty_question_is_refused(questions):
    with pytest.raises(ValueError, match="question 1 is empty"):
        reasoner(greedy())(questions)


def test_ids_that_do_not_match_the_questions_are_refused():
    with pytest.raises(ValueError, match="given 1 generators for 2 root states"):
        reasoner(greedy())(["1+1", "2+2"], ids=["a"])


def test_an_answer_tells_what_it_cost():
    checker = Checker()
    plan = reasoner(best_of_n(n=5), checker).plan(QUESTIONS)
    for row, answer in enumerate(reasoner(best_of_n(n=5))(QUESTIONS)):
        assert answer.text == plan.final[row].text
        assert answer.answer == answers([plan.final[row]])[0]
        assert answer.score == plan.value[row].item()
        assert answer.tokens == plan.cost.tokens.decoded[row]
        assert answer.scored == plan.cost.tokens.scored[row]


def test_listeners_hear_the_search():
    heard: list[str] = []
    reasoner(mcts(simulations=5))(["3+4"], listen=lambda event: heard.append(event.kind))
    assert heard == ["simulation"] * 5


# ------------------------------------------------------------------------------ one planner


@every_strategy
def test_the_same_planner_object_plans_over_tensors(name):
    """Only a vote must be told how to read an answer off a tensor."""
    planner: Any = STRATEGIES[name].planner
    reduce = getattr(planner, "reduce", None)
    if isinstance(reduce, Vote | WeightedVote):
        weigh = {"temperature": 0.5} if isinstance(reduce, WeightedVote) else {}
        reduce = type(reduce)(tensor_answers, **weigh)
        planner = dataclasses.replace(planner, reduce=reduce)
    garden = ["start", "gate", "wall"]
    plan, _ = planner(tensor_garden(), tensor_rows(garden), rng=generator(0))
    assert isinstance(plan.final, torch.Tensor) and plan.final.shape == (3, 3)
    assert plan.valid.all()
    state = [Thought(q, scripted().encode_prompt(q)) for q in QUESTIONS]
    model = reasoner(STRATEGIES[name]).model()
    found, _ = STRATEGIES[name].planner(model, state, rng=generator(0))
    assert all(isinstance(thought, Thought) for thought in found.final)
