"""What judges of solutions see, a calculator among them, and what they leave alone."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from mbrl_core import generator
from reasoning.arithmetic import miscalculated, result_of
from reasoning.engines import ScriptedEngine
from reasoning.scorers import StepScorer
from reasoning.tasks import generate_problems
from reasoning.world import Aggregate, Continuation, Kind, Step, TextWorld, Thought
from tests.language import Checker


@pytest.mark.parametrize(
    "text",
    [
        "Tom has <<3*4=13>>13 apples.",
        "Tom has <<3*4=12>>13 apples.",
        "That is <<7/2=3>>3 dollars.",
        "That is <<66-99=6>>6 dollars.",
        "<<3*4=12>>12 and then <<12+1=14>>14",
        "It is <<1,000+1=1,002>>1,002.",
    ],
)
def test_wrong_equations_are_seen(text):
    assert miscalculated(text)


@pytest.mark.parametrize(
    "text",
    [
        "Tom has <<3*4=12>>12 apples.",
        "That is <<7/2=3.5>>3.5 dollars.",
        "It is <<1,000+1=1001>>1,001.",
        "It is <<10/3=x>>x, who knows.",
        "It is $<<5*3=15>>15.",
        "3*4=13",
        "#### 12",
        "",
        "<<=>>",
    ],
)
def test_right_equations_and_other_text_are_left_alone(text):
    assert not miscalculated(text)


def test_no_reference_solution_is_miscalculated():
    problems = generate_problems("train", 300, (1, 6), seed=4)
    assert not any(miscalculated(line) for p in problems for line in p.solution)


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("Ben has <<3*4=12>>12 apples for 3 days.\n", 12),
        ("3 bags of 4 are 3*4 = <<3*4=12>>12.\n", 12),
        ("It is <<1000+1=1,001>>1,001", 1001),
        ("She pays = $7.50.\n", Fraction(15, 2)),
        ("x = 1/2\n", Fraction(1, 2)),
        ("4 * 5 = 20 (left: 3 7)\n", 20),
        ("below = -3", -3),
        ("(3*4=12) apples for 3", 12),
        ("in all = 12, 3 a day", 12),
        ("in all = 12. 3 are left", 12),
        ("it is = 12 + 3 more", 12),
        ("it is = **$1,250**", 1250),
        ("3*4=", None),
        ("That is = many 3", None),
        ("#### 12", None),
    ],
)
def test_a_lines_result_is_the_number_behind_its_last_equals_sign(line, result):
    assert result_of(line) == result


class Halves:
    """Scores every step 1/2, and says it read two tokens a step."""

    kind: Kind = "step"
    aggregate: Aggregate = "product"

    def score(self, thoughts, added):
        return [(0.5,) * n for n in added], [2 * n for n in added]


@pytest.mark.parametrize("scorer", [None, Halves()], ids=["likelihood", "scorer"])
def test_a_solution_with_a_wrong_equation_is_worth_nothing(scorer):
    def thought(*lines):
        return Thought("?", (0,), tuple(Step((0,), line) for line in lines), (0.5,) * len(lines))

    right = thought("<<1+1=2>>2\n", "<<2+2=4>>4\n", "#### 4\n")
    wrong = thought("<<1+1=3>>3\n", "<<3+2=5>>5\n", "#### 5\n")
    plain, checked = TextWorld(scorer), TextWorld(scorer, calculator=True)
    assert checked.score(right) == plain.score(right) == plain.score(wrong) > 0
    assert checked.score(wrong) == 0
    assert checked.value([right, wrong, thought()]).tolist() == [plain.score(right), 0.0, 0.5]


class Narrow(ScriptedEngine):
    """Has room for 20 tokens."""

    context = 20


def test_what_the_scorer_cannot_read_is_cut_and_spares_the_others():
    scorer = StepScorer(Narrow(lambda _: [("", 1.0)]), tag="~")
    thoughts = [Thought("?", (0,)), Thought("?" * 30, (0,))]
    action = Continuation((Step((0,), "1+1=2\n"),), "eos", 0.0)
    moved = TextWorld(scorer).step(thoughts, [action] * 2, rng=generator(0))
    assert [thought.finish for thought in moved.state] == ["answered", "cut"]
    assert moved.reward[0] > 0 and moved.reward[1] == -torch.inf
    assert moved.tokens is not None and moved.tokens.scored.tolist()[1] == 0


def test_a_cut_solution_is_not_scored():
    scorer = Checker()
    action = Continuation((Step((0,), "1+1=2\n"),), "length", 0.0)
    moved = TextWorld(scorer).step([Thought("?", (0,))], [action], rng=generator(0))
    assert moved.state[0].finish == "cut" and [n for _, n in scorer.asked] == [0]
