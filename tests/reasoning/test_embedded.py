"""The shipped model and scorer: they load, fit their size, and do what they were trained for."""

from pathlib import Path

import pytest

from reasoning import Reasoner, StepScorer, TransformersEngine, greedy
from reasoning.embedded import folder_of
from reasoning.tasks import generate_problems
from reasoning.world import Step, Thought


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(folder_of("embedded", "lm"))


def test_sizes() -> None:
    for part in ("lm", "scorer"):
        folder = Path(folder_of("embedded", part))  # type: ignore[arg-type]
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 20e6


def test_the_model_solves_short_held_out_problems(engine: TransformersEngine) -> None:
    problems = generate_problems("test", 24, (1, 3), seed=7)
    answers = Reasoner(engine=engine, strategy=greedy())([p.question for p in problems])
    right = [a.answer == p.answer for a, p in zip(answers, problems, strict=True)]
    assert sum(right) >= 12


def test_the_scorer_sees_a_wrong_sum(engine: TransformersEngine) -> None:
    scorer = StepScorer(TransformersEngine(folder_of("embedded", "scorer")))
    problems = generate_problems("train", 40, (2, 2), seed=99)
    worse = 0
    for problem in problems:
        thought = Thought(problem.question, (0,))
        lines = [f"{line}\n" for line in problem.solution]
        wrong = lines[0].replace(">>", "7>>")
        pair = [thought._replace(steps=(Step((0,), text),)) for text in (lines[0], wrong)]
        (good,), (bad,) = scorer.score(pair, [1, 1])[0]
        worse += bad < good
    assert worse > 20
