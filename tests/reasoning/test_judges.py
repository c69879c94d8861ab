"""The language model as its own judge."""

from __future__ import annotations

import math

import pytest

from mbrl_core import generator
from reasoning.engines import ScriptedEngine, failure
from reasoning.scorers import JUDGES, AnswerLikelihood, SelfCritique, Verdicts, Votes, make_judge
from reasoning.world import LanguagePolicy, Step, TextWorld, Thought
from tests.language import scripted


def thought_of(*lines: str, question: str = "2+2") -> Thought:
    steps = tuple(Step((1,), line, -0.5) for line in lines)
    ended = bool(lines) and lines[-1].startswith("####")
    return Thought(question, (1,), steps, finish="answered" if ended else "open")


RIGHT, WRONG = thought_of("2+2=4\n", "#### 4\n"), thought_of("2+2=5\n", "#### 5\n")


def believing(text: str, option: str) -> float:
    """A model that says " Yes" nine times out of ten where no line holds a 5."""
    yes = 0.2 if "5" in text else 0.9
    return yes if option == "Y" else 1 - yes


def critic() -> SelfCritique:
    return SelfCritique(ScriptedEngine(lambda _: [("", 1.0)], believing))


def verdict(text: str) -> list[tuple[str, float]]:
    """Mostly sure of what holds no 5, mostly sure against what does."""
    sure = 1.0 if "5" in text else 8.0
    return [("Hm.\nSure.\0", sure), ("likely\0", 3.0), ("impossible\0", 2.0), ("who knows\0", 1.0)]


def likes_4(text: str) -> list[tuple[str, float]]:
    """Votes for the choice that holds a 4, now and then for the first or for none."""
    after = text.split("Choice ")[1:]
    best = next(i for i, choice in enumerate(after, 1) if "=4" in choice)
    return [
        (f"The best choice is {best}\0", 6.0),
        ("The best choice is 1\0", 2.0),
        ("None of them.\0", 1.0),
    ]


JUDGING = {"critique": critic, "verdicts": lambda: Verdicts(ScriptedEngine(verdict))}


@pytest.mark.parametrize("name", JUDGING)
def test_a_potential_is_of_a_state_alone(name):
    judge = JUDGING[name]()
    assert (judge.kind, judge.aggregate) == ("potential", "last")
    (whole, other, none), read = judge.score([RIGHT, WRONG, RIGHT], [2, 2, 0])
    assert none == () and read[2] == 0 < min(read[:2])
    assert judge.score([RIGHT], [2])[0] == [whole]
    (first,), _ = judge.score([thought_of("2+2=4\n")], [1])
    (last,), _ = judge.score([RIGHT._replace(scores=first)], [1])
    assert first + last == pytest.approx(whole)
    assert all(0 <= score <= 1 for score in whole + other)
    assert TextWorld(judge).score(RIGHT._replace(scores=whole)) == whole[-1]


def test_self_critique_is_the_probability_of_yes():
    (right, wrong), read = critic().score([RIGHT, WRONG], [1, 1])
    assert (right, wrong) == (pytest.approx((0.9,)), pytest.approx((0.2,)))
    prompt = critic().ask("2+2", "2+2=4\n#### 4")
    assert read[0] == len(prompt) + 1  # the space before the answer


def test_words_that_begin_alike_are_refused():
    with pytest.raises(ValueError, match="begins the other"):
        SelfCritique(ScriptedEngine(lambda _: [("", 1.0)]), yes="No", no="Not at all")


def test_verdicts_weigh_as_in_the_paper():
    said = iter(["sure", "likely", "sure", "impossible", "dunno", "likely\nimpossible"])
    engine = ScriptedEngine(lambda _: [(next(said) + "\0", 1.0)])
    judge = Verdicts(engine, samples=6)
    ((score,), _) = judge.score([RIGHT], [1])
    assert score == pytest.approx(((20 + 1 + 20 + 0.001 + 0 + 0.001) / 120,))
    ((score,), _) = Verdicts(
        ScriptedEngine(lambda _: [("Good\0", 1.0)]), weights={"good": 2.0, "bad": 0.0}
    ).score([RIGHT], [1])
    assert score == (1.0,)


def test_verdicts_draw_by_the_state_and_the_seed():
    def judge(seed):
        return Verdicts(ScriptedEngine(verdict), samples=9, seed=seed)

    thoughts = [RIGHT, WRONG, thought_of("9-5=4\n")]
    both, _ = judge(0).score(thoughts, [2, 2, 1])
    assert both == [
        judge(0).score([t], [n])[0][0] for t, n in zip(thoughts, [2, 2, 1], strict=True)
    ]
    assert any(judge(seed).score(thoughts, [2, 2, 1])[0] != both for seed in range(1, 4))


def test_votes_are_shares_among_the_candidates_of_a_question():
    judge = Votes(ScriptedEngine(likes_4), samples=60)
    alone = thought_of("3+3=6\n", question="3+3")
    (wrong, single, right), _ = judge.score([WRONG, alone, RIGHT], [2, 1, 1])
    assert single == (1.0,) and len(wrong) == 2
    assert wrong[0] == pytest.approx(2 / 9, abs=0.15) and right[0] == pytest.approx(6 / 9, abs=0.15)
    assert wrong[0] + right[0] < 1  # votes for none of them count for none
    assert judge.score([WRONG, RIGHT], [2, 1])[0] == [wrong, right]  # whatever else is asked


def test_a_vote_reads_the_whole_number():
    names = [thought_of(f"2+2={n}\n") for n in range(12)]
    judge = Votes(ScriptedEngine(lambda _: [("The best choice is 11.\0", 1.0)]), samples=2)
    scores, _ = judge.score(names, [1] * 12)
    assert [score == (1.0,) for score in scores] == [number == 11 for number in range(1, 13)]


class Failing(ScriptedEngine):
    def generate(self, requests):
        return [failure("it fell") for _ in requests]


@pytest.mark.parametrize("judge", [Verdicts, Votes])
def test_a_failure_is_told_apart(judge):
    scores, _ = judge(Failing(lambda _: [("", 1.0)])).score([RIGHT, WRONG], [1, 1])
    assert all(math.isnan(number) for score in scores for number in score)


class Narrow(ScriptedEngine):
    context = 20


@pytest.mark.parametrize("judge", [SelfCritique, Verdicts, Votes])
def test_what_does_not_fit_is_not_read(judge):
    made = judge(Narrow(lambda _: [("", 1.0)]))
    assert made.score([RIGHT, WRONG], [1, 1]) == ([None, None], [0, 0])


def test_the_likelihood_of_the_answer_is_of_its_last_line():
    judge = AnswerLikelihood()
    assert judge.kind == "terminal"
    wide = RIGHT._replace(steps=(RIGHT.steps[0], Step((1, 2), "#### 4\n", 2 * math.log(0.3))))
    scores, read = judge.score(
        [wide, thought_of("2+2=4\n"), wide._replace(scores=(0.1,))], [2, 1, 1]
    )
    assert scores == [(pytest.approx(0.3),), (), ()] and read == [0, 0, 0]


def test_steps_know_what_they_cost_the_writer():
    policy = LanguagePolicy(scripted(), unit="solution")
    proposal = policy.propose([Thought("3+4", tuple(map(ord, "3+4\n")))], 5, rng=generator(0))
    for action in proposal.actions:
        assert sum(step.logprob for step in action.steps) == pytest.approx(action.logprob)
        first = {"3+4=8\n": 5, "3+4=7\n": 4, "3+4=6\n": 2}[action.steps[0].text] / 11
        assert action.steps[0].logprob == pytest.approx(math.log(first))


def test_an_unjudged_state_of_a_terminal_scorer_is_worth_a_half():
    world = TextWorld(AnswerLikelihood())
    assert world.score(thought_of("2+2=4\n")) == 0.5
    assert world.score(RIGHT._replace(scores=(0.7,))) == 0.7


def test_judges_by_name():
    engine = scripted()
    assert set(JUDGES) == {"critique", "verdicts", "votes", "likelihood"}
    made = make_judge("verdicts", engine, {"samples": 7})
    assert isinstance(made, Verdicts) and made.samples == 7
    with pytest.raises(ValueError, match="no such option"):
        make_judge("votes", engine, {"sample": 7})
    with pytest.raises(ValueError, match="'likelihood' has no such option"):
        make_judge("likelihood", engine, {"foo": 1})


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("verdicts", {"samples": "abc"}, "samples must be a whole number of at least 1, not 'abc'"),
        ("votes", {"samples": 0}, "samples must be a whole number of at least 1, not 0"),
        ("votes", {"max_tokens": "few"}, "max_tokens must be a whole number"),
        ("verdicts", {"temperature": "hot"}, "temperature must be a number of 0 or more"),
        ("verdicts", {"seed": 0.5}, "seed must be a whole number, not 0.5"),
        ("verdicts", {"weights": [1, 2]}, "the judge 'verdicts' cannot take"),
        ("critique", {"yes": 5}, "the judge 'critique' cannot take"),
    ],
)
def test_a_value_that_does_not_fit_a_judge_is_told(name, options, told):
    with pytest.raises(ValueError, match=told):
        make_judge(name, scripted(), options)
