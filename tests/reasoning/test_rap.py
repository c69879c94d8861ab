"""Reasoning via planning on a scripted model that takes sums apart."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from mbrl_core import MCTS, Budget, generator
from mbrl_core.testing import check_model, check_planner
from reasoning.engines import Score, ScriptedEngine, TransformersEngine, failure
from reasoning.rap import CLOSING, INSTRUCTION, Dialogue, Rap, RapPolicy, RapWorld, SubQuestion
from reasoning.reasoner import Reasoner
from reasoning.strategies import rap
from reasoning.world import Step, Thought
from tests.language import save_tiny_model, total_of
from tests.worlds import tensor_garden, tensor_rows

pytestmark = pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
QUESTIONS = ["3+4+5", "10+20", "7+7+7"]
SEARCH = rap(simulations=6, candidates=4, depth=4, answers=5)


def talking(text: str) -> list[tuple[str, float]]:
    """Asks for one sum after the other, or for nonsense; right in an answer more often than not."""
    question, *lines = text.rsplit("Problem: ", 1)[1].split("\n")
    numbers = list(map(int, question.split("+")))
    sums = [line for line in lines if line.startswith("Answer: ") and "+" in line]
    total = int(sums[-1].split("The answer is ")[1].rstrip(".")) if sums else numbers[0]
    rest = numbers[len(sums) + 1 :]
    if lines[-1] == "Sub-question:":
        more = [(f" What is {total}+{rest[0]}?\n", 3.0), (" Why?\n", 2.0)] if rest else []
        return [*more, (f" {CLOSING} {question}\n", 1.0 if rest else 5.0)]
    asked = lines[-2].removeprefix("Sub-question: ")
    if asked == "Why?":
        return [(" Because.\n", 1.0), (" Who knows.\n", 1.0)]
    if asked.startswith(CLOSING):
        return [(f" The answer is {total}.\n", 1.0)]
    answers = ((total + rest[0], 3.0), (total + rest[0] + 1, 1.0))
    return [(f" {asked[8:-1]}={n}. The answer is {n}.\n", weight) for n, weight in answers]


def useful(text: str, option: str) -> float:
    """A sum helps, 4 to 1; the problem itself when all is known, and nonsense never."""
    problem = text.split("Problem: ")[1]
    asked = problem.split("\nDoes answering")[0].split("\n")[-1]
    known = problem.count("The answer is") == problem.split("\n")[0].count("+")
    helps = "What is" in asked or (CLOSING in asked and known)
    return 4.0 if helps == (option == "Y") else 1.0


class Counting(ScriptedEngine):
    """Counts what it generates for each problem, and reads to judge it."""

    def __init__(self, script=talking):
        super().__init__(script, useful)
        self.decoded, self.read = Counter(), Counter()
        self.said = []

    def generate(self, requests):
        made = super().generate(requests)
        for request, completion in zip(requests, made, strict=True):
            problem = self.decode(request.tokens).rsplit("Problem: ", 1)[1].split("\n")[0]
            self.decoded[problem] += len(completion.tokens) + (completion.finish == "eos")
            self.said.append(self.decode(completion.tokens))
        return made

    def score(self, requests):
        for request in requests:
            problem = self.decode(request.tokens).split("Problem: ")[1].split("\n")[0]
            self.read[problem] += len(request.tokens)
        return super().score(requests)


def asking(strategy=SEARCH, engine=None, **options) -> Reasoner:
    return Reasoner(engine=engine or Counting(), strategy=strategy, **options)


def start(question: str, engine=None) -> Thought:
    engine = engine or Counting()
    return Thought(question, Rap().encode(engine, question))


def sub(text: str, finish: str = "stop", usefulness: float = 0.8) -> SubQuestion:
    step = Step(tuple(map(ord, text)), text, -1.0)
    return SubQuestion((step,), finish, -1.0, usefulness)  # type: ignore[arg-type]


def rng():
    return generator(0)


# -------------------------------------------------------------------------------------- the world


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_step_earns_usefulness_and_confidence(weight):
    """The reward is P(useful)^w times the majority's share to the power 1 - w."""
    engine = Counting()
    world = RapWorld(engine, Rap(answers=25, weight=weight))
    moved = world.step([start("3+4+5", engine)], [sub(" What is 3+4?\n")], rng=rng())
    votes = Counter(text.split("The answer is ")[1] for text in engine.said)
    (most, number), *_ = votes.most_common(1)
    assert len(engine.said) == 25 and 0 < number < 25
    reward = 0.8**weight * (number / 25) ** (1 - weight)
    assert moved.reward.tolist() == [pytest.approx(reward)]
    (thought,) = moved.state
    assert thought.scores == (pytest.approx(reward),) and thought.finish == "open"
    assert (
        thought.text == f"Sub-question: What is 3+4?\nAnswer: 3+4={most[:-2]}. The answer is {most}"
    )
    assert engine.decode(thought.tokens) == engine.decode(thought.prompt) + thought.text


def test_answers_that_say_nothing_vote_by_their_words():
    engine = Counting()
    moved = RapWorld(engine, Rap(answers=9)).step([start("3+4")], [sub(" Why?\n")], rng=rng())
    (most, number), *_ = Counter(engine.said).most_common(1)
    assert moved.state[0].text.endswith(f"Answer:{most}")
    assert moved.reward.item() == pytest.approx(math.sqrt(0.8 * number / 9))


def test_the_last_sub_question_ends_the_episode():
    world = RapWorld(Counting(), Rap(answers=2))
    known = start("3+4")._replace(steps=(Step((1,), "Answer: 3+4=7. The answer is 7.\n"),))
    moved = world.step([start("3+4")], [sub(f" {CLOSING} 3+4\n", "eos")], rng=rng())
    assert moved.discount.tolist() == [0] and moved.state[0].answer == "3"
    mute = RapWorld(ScriptedEngine(lambda _: [(" Who knows?\n", 1.0)]), Rap(answers=2))
    moved = mute.step([known], [sub(f" {CLOSING} 3+4\n", "eos")], rng=rng())
    assert moved.state[0].finish == "cut" and moved.reward.item() == -math.inf
    assert moved.state[0].answer is None, "what an earlier line said is no answer to the problem"


def test_sub_questions_are_merged_and_ordered_by_usefulness():
    engine = Counting()
    policy = RapPolicy(engine, Rap())
    proposal = policy.propose([start("3+4+5", engine)], 20, rng=rng())
    texts = [action.steps[0].text for action in proposal.actions]
    assert texts[0] == " What is 3+4?\n" and len(set(texts)) == len(texts) == 3
    assert [action.useful for action in proposal.actions] == pytest.approx([0.8, 0.2, 0.2])
    assert proposal.log_prior.exp().tolist() == [pytest.approx([0.8, 0.2, 0.2])]
    assert [action.finish for action in proposal.actions].count("eos") == 1
    assert proposal.drawn.tolist() == [20]


def test_the_last_sub_question_allowed_is_the_problem_itself():
    engine = Counting()
    late = start("3+4", engine)._replace(steps=(Step((1,), "x"),) * 2)
    proposal = RapPolicy(engine, Rap(depth=3)).propose([late], 4, rng=rng())
    (action,) = proposal.actions
    assert action.steps[0].text == f" {CLOSING} 3+4\n" and action.finish == "eos"
    assert proposal.tokens.decoded.tolist() == [0] and not engine.said


def test_what_does_not_fit_is_cut():
    engine = Counting()
    full = start("3+4", engine)
    engine.context = len(full.prompt) + 20
    proposal = RapPolicy(engine, Rap()).propose([full], 3, rng=rng())
    assert all(not action.steps for action in proposal.actions)
    moved = RapWorld(engine, Rap()).step([full], proposal.actions[:1], rng=rng())
    assert moved.state[0].finish == "cut" and moved.reward.item() == -math.inf


def test_examples_come_before_the_problem():
    engine = Counting()
    shots = (Dialogue("1+1", (("What is 1+1?", "The answer is 2."),)),)
    text = engine.decode(Rap(shots=shots).encode(engine, "3+4"))
    shown = "Problem: 1+1\nSub-question: What is 1+1?\nAnswer: The answer is 2.\n"
    assert shown in text and text.endswith("\n\nProblem: 3+4\n")
    given = [{"question": "1+1", "exchanges": [["What is 1+1?", "The answer is 2."]]}]
    assert rap(shots=given).world == Rap(shots=shots)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"answers": 0}, {"choices": 0}, {"weight": 1.5}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rap(**wrong)


@pytest.mark.parametrize("part", [RapPolicy, RapWorld])
def test_sampling_that_cannot_be_is_refused(part):
    with pytest.raises(ValueError, match="temperature must be 0 or more, not -1"):
        part(Counting(), Rap(), temperature=-1)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        part(Counting(), Rap(), max_tokens=0)


@pytest.mark.parametrize(
    "shot",
    [
        {"question": "1+1"},
        {"question": "1+1", "answers": [["a", "b"]]},
        {"question": 2, "exchanges": [["a", "b"]]},
        {"question": "1+1", "exchanges": []},
        {"question": "1+1", "exchanges": [["a"]]},
        {"question": "1+1", "exchanges": ["ab"]},
        "1+1",
    ],
)
def test_a_malformed_example_is_refused(shot):
    good = {"question": "1+1", "exchanges": [["a", "b"]]}
    with pytest.raises(ValueError, match=r"entry 1 of shots must be \{question: text, exchanges"):
        rap(shots=[good, shot])


def test_what_it_answers_need_not_be_a_number():
    assert "'The answer is <answer>.'" in INSTRUCTION and "<number>" not in INSTRUCTION


# ------------------------------------------------------------------------------------- the search


def test_one_generator_serves_all_questions():
    """What a search left open is completed from the same generator."""
    engine = Counting()
    short = replace(SEARCH, planner=MCTS(simulations=1, candidates=2))
    state = [start(question, engine) for question in QUESTIONS]
    left = asking(short, engine, finish=False).search(short, state, {}, rng=generator(0))
    assert any(thought.finish == "open" for thought in left.final)
    plan = asking(short, engine).search(short, state, {}, rng=generator(0))
    assert all(thought.finish != "open" for thought in plan.final)


def test_it_is_another_world_and_the_same_search():
    assert type(SEARCH.planner) is MCTS
    model = asking().model()
    states = [start(question) for question in QUESTIONS]
    check_model(model, states)
    check_planner(SEARCH.planner, model, states)
    over_tensors = rap(simulations=6, choose="best").planner
    plan, _ = over_tensors(tensor_garden(), tensor_rows(["start", "gate"]), rng=rng())
    assert isinstance(plan.final, torch.Tensor) and plan.valid.all()


def test_it_takes_sums_apart():
    found = asking(rap(simulations=12, answers=9))(QUESTIONS)
    assert [answer.answer for answer in found] == [total_of(question) for question in QUESTIONS]
    assert all(answer.finished and CLOSING in answer.text for answer in found)


def test_every_trace_ends_and_its_return_is_the_sum_of_its_rewards():
    plan = asking(rap(simulations=8, choose="best")).plan(["3+4+5"])
    played = plan.trace.played
    worth = [sum(thought.scores) for thought in played.final]
    finite = [math.isfinite(value) for value in played.returns.tolist()]
    assert played.returns[finite].tolist() == pytest.approx(
        [value for value, keep in zip(worth, finite, strict=True) if keep]
    )
    assert plan.value.item() == pytest.approx(sum(plan.final[0].scores))
    assert all(len(thought.steps) <= 5 for thought in played.final)


@pytest.mark.parametrize("budget", [None, Budget(tokens=300)], ids=["free", "limited"])
def test_the_ledger_counts_what_was_generated_and_read(budget):
    engine = Counting()
    plan = asking(engine=engine).plan(QUESTIONS, budget=budget)
    assert plan.cost.tokens.decoded.tolist() == [engine.decoded[q] for q in QUESTIONS]
    assert plan.cost.tokens.scored.tolist() == [engine.read[q] for q in QUESTIONS]
    assert all(thought.finish == "answered" for thought in plan.final)


def test_a_question_is_answered_alike_whatever_is_asked_beside_it():
    def outcome(plan, row):
        mine = (plan.trace.played.root == row).nonzero().flatten().tolist()
        played = [plan.trace.played.final[i] for i in mine]
        spent = [int(amount[row]) for amount in (*plan.cost.tokens, plan.cost.steps)]
        return plan.final[row], plan.value[row].item(), played, spent

    alone = [outcome(asking().plan([q], seed=3), 0) for q in QUESTIONS]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
        plan = asking().plan([QUESTIONS[i] for i in order], seed=3)
        assert [outcome(plan, row) for row in range(len(order))] == [alone[i] for i in order]
    assert asking().plan(["3+4+5"], seed=4).trace.played.final != alone[0][2]


class Flaky(Counting):
    """Fails to say anything, or to judge, where the problem is `bad`."""

    def __init__(self, bad, part):
        super().__init__()
        self.bad, self.part = f"Problem: {bad}\n", part

    def generate(self, requests):
        made = super().generate(requests)
        fails = self.part == "generate"
        return [
            failure("not today") if fails and self.bad in self.decode(r.tokens) else c
            for r, c in zip(requests, made, strict=True)
        ]

    def score(self, requests):
        fails = self.part == "score"
        return [
            Score(found.logprobs * math.nan, 0)
            if fails and self.bad in self.decode(r.tokens)
            else found
            for r, found in zip(requests, super().score(requests), strict=True)
        ]


@pytest.mark.parametrize(
    ("part", "reason"), [("generate", "not today"), ("score", "the scorer failed")]
)
def test_a_failure_is_told_of_its_question_and_touches_no_other(part, reason):
    sound = asking().attempt(QUESTIONS)
    broken = asking(engine=Flaky("10+20", part)).attempt(QUESTIONS)
    assert sound.failed == [None] * 3 and broken.failed == [None, reason, None]
    for row in (0, 2):
        assert broken.plan.final[row] == sound.plan.final[row]
    assert broken.plan.final[1].finish != "answered"


def test_a_model_that_knows_no_sub_questions_is_cut_short(tmp_path):
    engine = TransformersEngine(save_tiny_model(tmp_path, context=512), device="cpu")
    strategy = rap(simulations=2, candidates=2, depth=2, answers=2)
    plan = asking(strategy, engine, max_tokens=6).plan(["How many eggs?"])
    assert plan.cost.tokens.decoded.item() > 0
    assert plan.final[0].answer is None or plan.final[0].finish == "answered"
