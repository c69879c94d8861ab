"""Word problems whose answer is a number: GSM8K's format, and those made by the generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from reasoning.grading import GRADERS, Grade, Grader, extract_numeric, shortest, unshared
from reasoning.prompts import Prompt, Shot
from reasoning.tasks.generator import generate_problems
from reasoning.tasks.gsm8k import load_gsm8k
from reasoning.tasks.types import Grading, Problem, Task, check_limit

DEFAULT_STEPS = (3, 5)
"""Solution lines of the problems in the default evaluation mix."""


class WordTask(Task):
    """Numbers as answers, after ``####``. 18, 18.0 and $18 are one answer."""

    def answer(self, text: str) -> str | None:
        """See `Task`: the final number."""
        found = extract_numeric(text)
        return None if found is None else shortest(found)

    def same(self, answer: str, problem: Problem) -> Grade:
        """See `Task`: equal as numbers."""
        return GRADERS["numeric"](answer, problem.answer)

    def votes(self, texts: Sequence[str]) -> list[str | None]:
        """See `Task`. A percentage votes with the number that it stands for where that is said."""
        return unshared(super().votes(texts))

    @property
    def graders(self) -> Mapping[str, Grading]:
        """The three of `reasoning.grading`."""
        return {name: partial(_graded, grader) for name, grader in GRADERS.items()}

    def prompt(self, shots: tuple[Shot, ...] = ()) -> Prompt | None:
        """See `Task`. Without examples the engine's own: it knows the embedded model's format."""
        return Prompt(shots=shots) if shots else None


def _graded(grader: Grader, text: str, problem: Problem) -> Grade:
    return grader(text, problem.answer)


@dataclass(frozen=True)
class Gsm8k(WordTask):
    """GSM8K (Cobbe et al. 2021), or any file in its format."""

    name: ClassVar[str] = "gsm8k"

    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """See `Task` and `load_gsm8k`."""
        return load_gsm8k("openai/gsm8k" if data is None else data, split, limit)


@dataclass(frozen=True)
class Generated(WordTask):
    """Problems of the generator, in wordings held out from training.

    steps: smallest and largest number of solution lines.
    """

    name: ClassVar[str] = "generated"
    steps: tuple[int, int] = DEFAULT_STEPS

    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """See `Task` and `generate_problems`; 200 where there is no limit. There is a split
        `reward`, too."""
        if data is not None:
            raise ValueError("The task 'generated' reads no data; leave data empty.")
        check_limit(limit)
        return generate_problems(split, 200 if limit is None else limit, self.steps, seed)


GSM8K = Gsm8k()
