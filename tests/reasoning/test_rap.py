"""Reasoning via planning on scripted models that take sums apart, in either form."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest
import torch

from mbrl_core import MCTS, Argmax, Budget, Transition, generator
from mbrl_core.testing import check_model, check_planner
from reasoning.engines import Completion, Score, ScriptedEngine, TransformersEngine, failure
from reasoning.engines.base import Sampling
from reasoning.prompts import Prompt, Shot
from reasoning.rap_forms import (
    CLOSING,
    INSTRUCTION,
    Dialogue,
    Operations,
    Questions,
    SubQuestion,
)
from reasoning.reasoner import Reasoner
from reasoning.strategies import greedy, rap
from reasoning.subquestions import Rap, RapPolicy, RapWorld
from reasoning.tasks import find_task
from reasoning.world import Step, Thought
from tests.language import recite, save_tiny_model, total_of
from tests.worlds import tensor_garden, tensor_rows

pytestmark = pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
QUESTIONS = ["3+4+5", "10+20", "7+7+7"]
SEARCH = rap(simulations=6, candidates=4, depth=4, answers=5)
SOLVE = rap(simulations=6, candidates=4, form="operations", answers=5)


def earned(moved: Transition) -> float:
    """What the one step of a transition is worth."""
    return moved.state[0].scores[-1]


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


def solving(text: str) -> list[tuple[str, float]]:
    """Solves a sum line by line, with a remark or without; right in an answer more often than not.
    After its answer it rambles on."""
    question, *lines, part = text.split("\n")
    first, *others = map(int, question.split("+"))
    sums = [line for line in lines if "=" in line]
    total = int(sums[-1].split("=")[1].split()[0]) if sums else first
    rest = others[len(sums) :]
    if part.endswith("="):
        right = total + rest[0]
        return [
            (f"{right} eggs.\n", 3.0),
            (f"{right} in all.\n", 2.0),
            (f"{right + 1} eggs.\n", 2.0),
        ]
    if not rest:
        return [(f"#### {total}\n1+1=2\n\0", 3.0), (f"That is {total}.\0", 1.0)]
    remark = [] if "Let us see.\n" in text else [("Let us see.\n", 1.0)]
    return [(f"So {total}+{rest[0]}=", 3.0), (f"{total}+{rest[0]}=", 2.0), *remark]


def useful(text: str, option: str) -> float:
    """A sum helps, 4 to 1; the problem itself when all is known, and nonsense never."""
    problem = text.split("Problem: ")[1]
    asked = problem.split("\nDoes answering")[0].split("\n")[-1]
    known = problem.count("The answer is") == problem.split("\n")[0].count("+")
    helps = "What is" in asked or (CLOSING in asked and known)
    return 4.0 if helps == (option == "Y") else 1.0


def problem_in(tokens) -> str:
    """The problem that a text of either form is about."""
    return "".join(map(chr, tokens)).rsplit("Problem: ", 1)[-1].split("\n")[0]


class Counting(ScriptedEngine):
    """Counts what it generates for each problem, and reads to judge it."""

    def __init__(self, script=talking):
        super().__init__(script, useful)
        self.decoded, self.read = Counter(), Counter()
        self.said = []
        self.asked = []

    def generate(self, requests):
        made = super().generate(requests)
        self.asked += requests
        for request, completion in zip(requests, made, strict=True):
            spent = len(completion.tokens) + (completion.finish == "eos")
            self.decoded[problem_in(request.tokens)] += spent
            self.said.append(self.decode(completion.tokens))
        return made

    def score(self, requests):
        for request in requests:
            self.read[problem_in(request.tokens)] += len(request.tokens)
        return super().score(requests)


def asking(strategy=SEARCH, engine=None, **options) -> Reasoner:
    return Reasoner(engine=engine or Counting(), strategy=strategy, **options)


def start(question: str, engine=None) -> Thought:
    engine = engine or Counting()
    return Thought(question, Questions().encode(engine, question))


def sub(text: str, finish: str = "stop", usefulness: float = 0.8) -> SubQuestion:
    step = Step(tuple(map(ord, text)), text, -1.0)
    return SubQuestion((step,), finish, usefulness)  # type: ignore[arg-type]


def rng():
    return generator(0)


both = pytest.mark.parametrize(
    ("search", "script"), [(SEARCH, talking), (SOLVE, solving)], ids=["questions", "operations"]
)


# ---------------------------------------------------------------------------- the world: questions


def test_a_solution_is_paid_the_mean_of_its_steps_at_its_end():
    engine = Counting()
    world, rest = RapWorld(engine, Rap(answers=1)), Questions().whole(engine, "3+4+5")
    begun = world.step([start("3+4+5", engine)], [sub(" What is 3+4?\n")], rng=rng()).state
    thought = begun[0]._replace(scores=(0.25, 0.5))
    moved = world.step([thought], [rest._replace(useful=0.8)], rng=rng())
    assert moved.state[0].finish == "answered"
    assert moved.reward.item() == pytest.approx((0.75 + earned(moved)) / 3)


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
    assert moved.reward.tolist() == [0.0], "it is paid at the end"
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
    assert earned(moved) == pytest.approx(math.sqrt(0.8 * number / 9))


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
    text = engine.decode(Questions(shots).encode(engine, "3+4"))
    shown = "Problem: 1+1\nSub-question: What is 1+1?\nAnswer: The answer is 2.\n"
    assert shown in text and text.endswith("\n\nProblem: 3+4\n")
    given = [{"question": "1+1", "exchanges": [["What is 1+1?", "The answer is 2."]]}]
    assert rap(shots=given).world == Rap(form=Questions(shots))


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"answers": 0}, {"choices": 0}, {"weight": 1.5}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rap(**wrong)


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


# --------------------------------------------------------------------------- the world: operations

RULES = Rap(form=Operations(), answers=25)


def at(text: str = "", question: str = "3+4+5") -> Thought:
    """A state whose solution so far is `text`."""
    steps = tuple(Step(tuple(map(ord, line)), line, -1.0) for line in text.splitlines(True))
    return Thought(question, tuple(map(ord, f"{question}\n")), steps)


def opened(text: str, finish: str = "stop", until=("\n",)) -> SubQuestion:
    return sub(text, finish)._replace(until=until)


def stepped(state: Thought, action: SubQuestion, rules: Rap = RULES):
    engine = Counting(solving)
    return RapWorld(engine, rules).step([state], [action], rng=rng()), engine


def test_an_action_is_a_line_up_to_its_first_equals_sign():
    policy = RapPolicy(Counting(solving), Rap(form=Operations()))
    proposal = policy.propose([at()], 40, rng=rng())
    texts = [action.steps[0].text for action in proposal.actions]
    assert texts == ["So 3+4=", "Let us see.\n", "3+4="], "equal ones are one"
    assert [action.until for action in proposal.actions] == [("\n",), None, ("\n",)]
    assert proposal.tokens.scored.tolist() == [0], "no judge is asked"
    assert proposal.drawn.tolist() == [40]


def test_useful_is_the_mean_probability_of_a_token_at_temperature_1():
    """The script tells one probability for a text, that of its first character."""
    for temperature in (0.5, 1.0):
        policy = RapPolicy(Counting(solving), Rap(form=Operations()), Sampling(temperature))
        proposal = policy.propose([at()], 60, rng=rng())
        found = {action.steps[0].text: action.useful for action in proposal.actions}
        likely = {"So 3+4=": 3 / 6, "3+4=": 2 / 6, "Let us see.\n": 1 / 6}
        assert found == pytest.approx({text: p ** (1 / len(text)) for text, p in likely.items()})
        priors = [action.useful for action in proposal.actions]
        assert proposal.log_prior.exp().tolist() == [pytest.approx(sorted(priors, reverse=True))]
    untold = Completion((51, 61), "stop", (math.nan, math.nan), 0)
    assert Operations().read(Counting(solving), untold).useful == 0.5


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_answers_vote_by_the_number_that_they_come_to(weight):
    """`7 eggs.` and `7 in all.` are one answer, of which the first is believed."""
    moved, engine = stepped(at(), opened("So 3+4="), replace(RULES, weight=weight))
    right = [text for text in engine.said if text.startswith("7")]
    assert len(engine.said) == 25 > len(right) > 0 and len(set(right)) == 2
    (thought,) = moved.state
    assert thought.text == f"So 3+4={right[0]}" and thought.finish == "open"
    assert earned(moved) == pytest.approx(0.8**weight * (len(right) / 25) ** (1 - weight))
    assert thought.tokens == thought.prompt + engine.encode(thought.text)
    assert moved.tokens.decoded.tolist() == [sum(map(len, engine.said))]


def test_answers_that_calculation_refutes_have_no_vote():
    """The majority says 8; with the calculator 7 is believed, with the confidence of its share."""
    asked = opened("So <<3+4=")
    engine = Counting(lambda _: [("8>>8 eggs.\n", 3.0), ("7>>7 eggs.\n", 1.0)])
    believed = []
    for calculator in (False, True):
        engine.said.clear()
        world = RapWorld(engine, RULES, calculator=calculator)
        moved = world.step([at()], [asked], rng=rng())
        text = moved.state[0].text.removeprefix("So <<3+4=")
        assert earned(moved) == pytest.approx(math.sqrt(0.8 * engine.said.count(text) / 25))
        believed.append(text[0])
    assert believed == ["8", "7"]
    wrong = RapWorld(Counting(lambda _: [("8>>8 eggs.\n", 1.0)]), RULES, calculator=True)
    moved = wrong.step([at()], [asked], rng=rng())
    assert moved.state[0].finish == "cut" and moved.reward.item() == -math.inf
    model = asking(SOLVE, calculator=False).model()
    assert not model.dynamics.calculator and asking(SOLVE).model().dynamics.calculator


def test_answers_without_a_number_vote_by_their_words():
    engine = Counting(lambda _: [("many.\n", 2.0), ("some.\n", 1.0)])
    moved = RapWorld(engine, RULES).step([at()], [opened("That is =")], rng=rng())
    (most, number), *_ = Counter(engine.said).most_common(1)
    assert moved.state[0].text == f"That is ={most}"
    assert earned(moved) == pytest.approx(math.sqrt(0.8 * number / 25))


def test_a_statement_needs_no_answer():
    moved, engine = stepped(at(), opened("Let us see.\n", until=None))
    assert moved.state[0].text == "Let us see.\n" and moved.state[0].finish == "open"
    assert not engine.said and moved.tokens.decoded.tolist() == [0]
    assert earned(moved) == pytest.approx(math.sqrt(0.8)), "its confidence is 1"


@pytest.mark.parametrize(
    ("text", "finish", "answer"),
    [("#### 12\n", "stop", "12"), ("That is 12.", "eos", "12"), ("", "eos", "12")],
)
def test_a_solution_ends_as_in_other_strategies(text, finish, answer):
    moved, _ = stepped(at("So 3+4=7 eggs.\n7+5=12\n"), opened(text, finish, None))
    assert moved.discount.tolist() == [0] and moved.reward.item() > 0
    assert moved.state[0].finish == "answered" and moved.state[0].answer == answer


def test_an_answer_may_end_the_solution():
    engine = ScriptedEngine(lambda _: [("12\0", 1.0)])
    moved = RapWorld(engine, RULES).step([at()], [opened("#### 7+5=")], rng=rng())
    assert moved.state[0].finish == "answered" and moved.state[0].text == "#### 7+5=12"


def test_the_last_sub_question_is_all_that_remains():
    """Whole solutions answer it: they vote as such, and nothing is kept after a closing line."""
    rules = replace(RULES, depth=2)
    state = at("So 3+4=7 eggs.\n")
    engine = Counting(solving)
    proposal = RapPolicy(engine, rules).propose([state], 4, rng=rng())
    assert len(proposal.actions) == 1 and not engine.said
    assert proposal.actions[0].useful == 1 and proposal.tokens.decoded.tolist() == [0]
    moved, engine = stepped(state, proposal.actions[0], rules)
    votes = Counter(state.task.answer(text) for text in engine.said)
    (most, number), *_ = votes.most_common(1)
    (thought,) = moved.state
    assert thought.finish == "answered" and thought.answer == most and len(votes) == 2
    assert earned(moved) == pytest.approx(math.sqrt(number / 25))
    assert "1+1=2" in "".join(engine.said) and "1+1=2" not in thought.text
    assert [step.text.count("\n") for step in thought.steps[:-1]] == [1] * (len(thought.steps) - 1)


def test_what_comes_after_a_closing_line_neither_cuts_nor_votes():
    """A model that never ends its text has finished where a line closes, as in other strategies."""
    task = find_task("math500")
    said = ["It is \\boxed{7}.\n", "It is \\boxed{8}.\n"]
    endless = [(said[0] + "Or \\boxed{3}.\n" * 40, 3.0), (said[1] + "Or \\boxed{3}.\n" * 40, 1.0)]
    rules = replace(RULES, depth=1)
    engine = Counting(lambda _: endless)
    whole = Operations().whole(engine, "q")
    state = Thought("q", (1,), task=task)
    moved = RapWorld(engine, rules, Sampling(max_tokens=40)).step([state], [whole], rng=rng())
    (thought,) = moved.state
    votes = Counter(text[: len(said[0])] for text in engine.said)
    (most, number), *_ = votes.most_common(1)
    assert len(votes) == 2 and thought.text == most and thought.finish == "answered"
    assert earned(moved) == pytest.approx(math.sqrt(number / 25))
    assert all(len(text) == 40 for text in engine.said), "every text was cut"


def test_equal_answers_are_one_however_they_are_written():
    """Whole solutions vote by `Task.votes`, which knows that 1/2 is 0.5."""
    task = find_task("math500")
    texts = ["It is \\boxed{\\frac{1}{2}}.\n", "It is \\boxed{0.5}.\n"]
    engine = Counting(lambda _: [(text, 1.0) for text in texts])
    state = Thought("q", (1,), task=task)
    whole = Operations().whole(engine, "q")
    moved = RapWorld(engine, replace(RULES, depth=1)).step([state], [whole], rng=rng())
    assert len(set(engine.said)) > 1 and moved.reward.item() == 1


def test_a_line_that_one_token_completes_meets_the_calculator_too():
    asked = opened("So <<3+4=8>>8\n", until=None)
    moved = RapWorld(Counting(), RULES, calculator=True).step([at()], [asked], rng=rng())
    assert moved.state[0].finish == "cut" and moved.reward.item() == -math.inf


class Pieces(ScriptedEngine):
    """Tokens that are more than a character."""

    table = ("3*4", "=1", "2>>12 eggs.\n", "=\n", "=12\n")

    def decode(self, tokens):
        return "".join(self.table[token] for token in tokens)


def test_what_a_token_holds_behind_the_equals_sign_stays_with_it():
    engine, form = Pieces(solving), Operations()
    asked = form.read(engine, Completion((0, 1), "stop", (-1.0, -3.0), 0))
    assert asked.steps[0].text == "3*4=1" and asked.until == ("\n",)
    assert asked.useful == pytest.approx(math.exp(-2))
    answer = Completion((2,), "stop", (-1.0,), 0)
    grown = form.grown(engine, at(), asked, answer)
    assert grown.steps == (((0, 1, 2), "3*4=12>>12 eggs.\n", -5.0),) and grown.finish == "open"
    assert form.votes(at(), [grown]) == ["12"]
    for ends in (3, 4):
        over = form.read(engine, Completion((0, ends), "stop", (-1.0, -1.0), 0))
        assert over.until is None, "with the newline in it the line is over"
        assert form.grown(engine, at(), over, None).steps[0].tokens == (0, ends)


def test_tokens_are_never_joined_anew(tmp_path):
    engine = TransformersEngine(save_tiny_model(tmp_path), device="cpu")
    prompt = engine.encode_prompt("How many eggs?")
    text = "Tom has <<3*4=12>>12 eggs.\nThat is all.\n#### 12"
    tokens = recite(engine, prompt, text)
    plan = asking(rap(simulations=3, form="operations"), engine).plan(["How many eggs?"])
    (thought,) = plan.final
    assert thought.text == text and thought.tokens == prompt + tokens
    assert [step.text for step in thought.steps] == text.splitlines(True)
    assert thought.finish == "answered" and thought.scores == pytest.approx((1, 1, 1))


def test_questions_are_put_as_in_other_strategies():
    shown = Prompt(shots=(Shot("1+1", "1+1=2\n#### 2"),))
    for prompt in (None, shown):
        usual = asking(greedy(), Counting(solving), prompt=prompt)
        ours = asking(SOLVE, Counting(solving), prompt=prompt)
        assert ours.encode("3+4") == usual.encode("3+4")
    assert asking(prompt=shown).encode("3+4") == Questions().encode(Counting(), "3+4")


def test_what_a_search_leaves_open_is_completed_greedily():
    short = replace(SOLVE, planner=MCTS(simulations=1, candidates=2))
    left = asking(short, Counting(solving), finish=False).plan(QUESTIONS)
    engine = Counting(solving)
    plan = asking(short, engine).plan(QUESTIONS)
    assert all(thought.finish == "open" for thought in left.final)
    assert all(thought.finish == "answered" for thought in plan.final)
    assert [request.temperature for request in engine.asked].count(0.0) == len(QUESTIONS)
    assert plan.cost.tokens.decoded.tolist() == [engine.decoded[q] for q in QUESTIONS]


def test_a_form_that_cannot_be_is_refused():
    assert (rap().world.deepest, Rap(form=Operations()).deepest) == (5, 8)
    with pytest.raises(ValueError, match="form must be questions or operations, not 'words'"):
        rap(form="words")
    given = [{"question": "1+1", "exchanges": [["What is 1+1?", "The answer is 2."]]}]
    with pytest.raises(ValueError, match=r"strategy\.shots are dialogues, which form=op"):
        rap(form="operations", shots=given)


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


@both
def test_it_is_another_world_and_the_same_search(search, script):
    assert type(search.planner) is MCTS
    reasoner = asking(search, Counting(script))
    states = [Thought(question, reasoner.encode(question)) for question in QUESTIONS]
    check_model(reasoner.model(), states)
    check_planner(search.planner, reasoner.model(), states)


def test_it_searches_tensors_too():
    over_tensors = rap(simulations=6, choose="best").planner
    plan, _ = over_tensors(tensor_garden(), tensor_rows(["start", "gate"]), rng=rng())
    assert isinstance(plan.final, torch.Tensor) and plan.valid.all()


def test_it_takes_sums_apart():
    found = asking(rap(simulations=12, answers=9))(QUESTIONS)
    assert [answer.answer for answer in found] == [total_of(question) for question in QUESTIONS]
    assert all(answer.finished and CLOSING in answer.text for answer in found)


def test_it_solves_sums_line_by_line():
    found = asking(rap(simulations=12, answers=9, form="operations"), Counting(solving))(QUESTIONS)
    assert [answer.answer for answer in found] == [total_of(question) for question in QUESTIONS]
    assert all(answer.finished and "1+1" not in answer.text for answer in found)
    lines = [line for answer in found for line in answer.text.split("\n") if "=" in line]
    assert len(lines) == sum(question.count("+") for question in QUESTIONS)


@both
def test_every_trace_ends_and_its_return_is_the_mean_of_its_rewards(search, script):
    best = replace(search, planner=replace(search.planner, reduce=Argmax()))
    plan = asking(best, Counting(script)).plan(["3+4+5"])
    played = plan.trace.played
    worth = [mean(thought.scores) for thought in played.final]
    finite = [math.isfinite(value) for value in played.returns.tolist()]
    assert played.returns[finite].tolist() == pytest.approx(
        [value for value, keep in zip(worth, finite, strict=True) if keep]
    )
    assert plan.value.item() == pytest.approx(mean(plan.final[0].scores))
    assert all(len(thought.steps) <= 5 for thought in played.final)


@both
@pytest.mark.parametrize("budget", [None, Budget(tokens=300)], ids=["free", "limited"])
def test_the_ledger_counts_what_was_generated_and_read(search, script, budget):
    engine = Counting(script)
    plan = asking(search, engine).plan(QUESTIONS, budget=budget)
    assert plan.cost.tokens.decoded.tolist() == [engine.decoded[q] for q in QUESTIONS]
    assert plan.cost.tokens.scored.tolist() == [engine.read[q] for q in QUESTIONS]
    assert all(thought.finish == "answered" for thought in plan.final)


@pytest.mark.parametrize("limit", [None, 60])
def test_every_sub_question_that_is_sampled_is_a_proposal(limit):
    """Those among which a rollout chooses, too; no budget of proposals is exceeded by them."""
    engine = Counting(solving)
    search = rap(simulations=6, candidates=4, form="operations", answers=2)
    plan = asking(search, engine).plan(["3+4+5"], budget=Budget(proposals=limit))
    sampled = sum(request.stop == Operations.stop for request in engine.asked)
    assert plan.cost.proposals.tolist() == [sampled]
    assert sampled > 60 if limit is None else 4 <= sampled <= limit


@both
def test_a_question_is_answered_alike_whatever_is_asked_beside_it(search, script):
    def plan_of(questions, seed=3):
        return asking(search, Counting(script)).plan(questions, seed=seed)

    def outcome(plan, row):
        mine = (plan.trace.played.root == row).nonzero().flatten().tolist()
        played = [plan.trace.played.final[i] for i in mine]
        spent = [int(amount[row]) for amount in (*plan.cost.tokens, plan.cost.steps)]
        return plan.final[row], plan.value[row].item(), played, spent

    alone = [outcome(plan_of([q]), 0) for q in QUESTIONS]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
        plan = plan_of([QUESTIONS[i] for i in order])
        assert [outcome(plan, row) for row in range(len(order))] == [alone[i] for i in order]
    assert plan_of(["3+4+5"], seed=4).trace.played.final != alone[0][2]


class Flaky(Counting):
    """Fails to say anything, or to judge, where the problem is `bad`."""

    def __init__(self, bad, part, script=talking):
        super().__init__(script)
        self.bad, self.part = bad, part

    def generate(self, requests):
        made = super().generate(requests)
        fails = self.part == "generate"
        return [
            failure("not today") if fails and problem_in(r.tokens) == self.bad else c
            for r, c in zip(requests, made, strict=True)
        ]

    def score(self, requests):
        fails = self.part == "score"
        return [
            Score(found.logprobs * math.nan, 0)
            if fails and problem_in(r.tokens) == self.bad
            else found
            for r, found in zip(requests, super().score(requests), strict=True)
        ]


@pytest.mark.parametrize(
    ("search", "script", "part", "reason"),
    [
        (SEARCH, talking, "generate", "not today"),
        (SEARCH, talking, "score", "the scorer failed"),
        (SOLVE, solving, "generate", "not today"),
    ],
)
def test_a_failure_is_told_of_its_question_and_touches_no_other(search, script, part, reason):
    sound = asking(search, Counting(script)).attempt(QUESTIONS)
    broken = asking(search, Flaky("10+20", part, script)).attempt(QUESTIONS)
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
