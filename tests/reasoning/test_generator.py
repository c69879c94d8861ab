"""Generated word problems: right arithmetic, disjoint wording, and reproducible slices."""

import itertools
import re

import pytest

from reasoning.arithmetic import evaluate
from reasoning.tasks import generate_problem, generate_problems
from reasoning.tasks.generator import MAX_VALUE, MOVES, OPENERS, SPLITS, wordings
from reasoning.tasks.templates import TEMPLATES

EQUATION = re.compile(r"<<([^=]+)=(\d+)>>(\d+)\b")


@pytest.fixture(scope="module", params=["train", "reward", "test"])
def problems(request):
    return generate_problems(request.param, 600, (1, 10), seed=3)


def test_arithmetic_is_right_and_of_sensible_size(problems):
    for problem in problems:
        for line in problem.solution:
            (equation,) = EQUATION.findall(line)
            assert evaluate(equation[0]) == int(equation[1]) == int(equation[2])
            assert 0 < int(equation[1]) <= MAX_VALUE
        assert problem.answer == equation[2]


def test_numbers_come_from_the_question_or_from_earlier_lines(problems):
    for problem in problems:
        known = set(re.findall(r"\d+", problem.question)) | {"2", "3", "4", "5", "100"}
        for line in problem.solution:
            expression, result, _ = EQUATION.findall(line)[0]
            assert set(re.findall(r"\d+", expression)) <= known
            known.add(result)


@pytest.mark.parametrize("steps", [(1, 1), (3, 3), (2, 5), (10, 10)])
def test_number_of_steps(steps):
    sizes = {len(p.solution) for p in generate_problems("test", 60, steps)}
    assert sizes == set(range(steps[0], steps[1] + 1))


def test_problem_depends_on_its_index_alone():
    whole = generate_problems("train", 20, seed=5)
    assert generate_problems("train", 5, seed=5, start=10) == whole[10:15]
    assert generate_problem("train", 7, seed=5) == whole[7]
    assert generate_problems("train", 20, seed=6) != whole
    assert len({p.question for p in whole}) == 20


def _shapes(template: str) -> set[str]:
    """All wordings of a template, with alternatives spelled out."""
    match = re.search(r"\[([^]]*)\]", template)
    if match is None:
        return {" ".join(re.findall(r"[a-z{}%$']+", template.lower()))}
    return {
        shape
        for choice in match[1].split("|")
        for shape in _shapes(template[: match.start()] + choice + template[match.end() :])
    }


def test_no_two_splits_share_a_wording():
    shapes = {
        split: {s for key in TEMPLATES for t in wordings(key, split) for s in _shapes(t)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not shapes[one] & shapes[other]
    assert len(shapes["train"]) > len(shapes["test"]) > 0


def _words(templates):
    return {w.lower() for t in templates for w in re.findall(r"[A-Za-z]+", t)}


def test_test_templates_use_known_words_only():
    known = _words(t for train, _ in TEMPLATES.values() for t in train)
    for _, test in TEMPLATES.values():
        assert _words(test) <= known


def test_every_relation_has_wordings_in_every_split():
    for move in (m for moves in (*OPENERS.values(), *MOVES.values()) for m in moves):
        assert [len(wordings(move.key, split)) >= 1 for split in SPLITS] == [True] * 3
        assert len(wordings(move.key, "train")) >= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate_problems("dev", 1), "split"),
        (lambda: generate_problems("test", 0), "num"),
        (lambda: generate_problem("test", -1), "index"),
        (lambda: generate_problem("test", 0, (0, 2)), "steps"),
        (lambda: generate_problem("test", 0, (3, 2)), "steps"),
        (lambda: generate_problem("test", 0, (2, 11)), "steps"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
