"""A failed request is neither an exception nor a wrong answer."""

from __future__ import annotations

import math

import pytest
import torch

from mbrl_core import generator
from reasoning.engines import ScriptedEngine, failure
from reasoning.reasoner import Reasoner
from reasoning.strategies import (
    best_of_n,
    greedy,
    lookahead,
    mcts,
    particle_filter,
    receding,
    tree_of_thoughts,
)
from reasoning.world import Continuation, LanguagePolicy, Step, TextWorld, Thought
from tests.language import Checker, adding

pytestmark = pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
QUESTIONS = ["3+4+5", "10+20", "1+2+3+4"]
STRATEGIES = [
    greedy(),
    best_of_n(n=4),
    tree_of_thoughts(width=2, expand=2, depth=6),
    particle_filter(particles=4, depth=6),
    mcts(simulations=8, candidates=3),
    mcts(simulations=4, candidates=3, rollouts=1),
    lookahead(width=2, expand=2, depth=6),
    receding(mcts(simulations=4, candidates=2), steps=4),
]


class Flaky(ScriptedEngine):
    """Fails for requests whose text holds `bad`."""

    def __init__(self, bad: str) -> None:
        super().__init__(adding)
        self.bad = bad

    def generate(self, requests):
        made = super().generate(requests)
        return [
            failure(f"no {self.bad} today") if self.bad in self.decode(request.tokens) else c
            for request, c in zip(requests, made, strict=True)
        ]


class Deaf(Checker):
    """Fails to score any solution of a question."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def score(self, thoughts, added):
        scores, read = super().score(thoughts, added)
        deaf = [thought.question == self.question for thought in thoughts]
        return [(math.nan,) * len(s) if d else s for s, d in zip(scores, deaf, strict=True)], read


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s.planner).__name__)
def test_a_failure_is_told_of_its_question_and_touches_no_other(strategy):
    whole = Reasoner(engine=ScriptedEngine(adding), strategy=strategy, scorer=Checker())
    flaky = Reasoner(engine=Flaky("10+20"), strategy=strategy, scorer=Checker())
    sound, broken = whole.attempt(QUESTIONS), flaky.attempt(QUESTIONS)
    assert sound.failed == [None] * 3
    assert broken.failed == [None, "no 10+20 today", None]
    assert broken.plan.final[1].finish == "failed" or not broken.plan.final[1].steps
    for row in (0, 2):
        assert broken.plan.final[row] == sound.plan.final[row]
        assert broken.plan.value[row] == sound.plan.value[row]
    assert [answer.failed for answer in flaky(QUESTIONS)] == broken.failed


def test_one_question_that_is_not_in_a_list_is_refused():
    reasoner = Reasoner(engine=ScriptedEngine(adding), strategy=greedy())
    for ask in (reasoner, reasoner.plan, reasoner.attempt):
        with pytest.raises(ValueError, match=r"questions must be a list: ask \['1\+2'\]"):
            ask("1+2")


def test_one_failed_sample_of_many_is_told_even_where_nobody_descends_to_it():
    """A search that a failure made narrower than it was to be says nothing of the strategy."""

    class Third(ScriptedEngine):
        def generate(self, requests):
            made = super().generate(requests)
            return [*made[:2], failure("one too many"), *made[3:]] if len(made) > 2 else made

    strategy = mcts(simulations=1, candidates=8)
    asked = Reasoner(engine=Third(adding), strategy=strategy, scorer=Checker())
    plan, (reason,) = asked.attempt(["3+4+5"])
    assert reason == "one too many" and plan.final[0].finish != "failed"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s.planner).__name__)
def test_a_failed_score_is_a_failure(strategy):
    asked = Reasoner(engine=ScriptedEngine(adding), strategy=strategy, scorer=Deaf("10+20"))
    outcome = asked.attempt(QUESTIONS)
    assert outcome.failed == [None, "the scorer failed", None]
    assert [t.finish == "answered" for t in outcome.plan.final] == [True, False, True]


def test_a_failed_continuation_ends_a_thought_that_is_never_chosen():
    thought = Thought("?", (65,), (Step((66,), "1+1=2\n"),), (0.9,))
    actions = [Continuation((), "failed", 0.0), Continuation((Step((67,), "#### 2\n"),), "eos", 0)]
    scorer = Checker()
    moved = TextWorld(scorer).step([thought] * 2, actions, rng=generator(0))
    assert [t.finish for t in moved.state] == ["failed", "answered"]
    assert moved.reward[0] == -torch.inf and moved.reward[1] > 0
    assert moved.discount.tolist() == [0.0, 0.0]
    assert [n for _, n in scorer.asked] == [0, 1]


def test_a_failed_candidate_is_not_merged_with_an_empty_one():
    class Half(ScriptedEngine):
        def generate(self, requests):
            made = super().generate(requests)
            return [failure("gone") if i % 2 else c for i, c in enumerate(made)]

    policy = LanguagePolicy(Half(lambda text: [("\0", 1.0)]), merge=True)
    proposal = policy.propose([Thought("?", (65,))], 4, rng=generator(0))
    assert sorted(action.finish for action in proposal.actions) == ["eos", "failed"]
    assert policy.failures == {(65,): "gone"}


def test_an_engine_that_tells_no_probabilities_counts_all_solutions_alike():
    thought = Thought("?", (65,), (Step((66,), "#### 2\n"),), logprob=math.nan)
    assert TextWorld().score(thought) == 0.5
