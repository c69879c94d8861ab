r"""MATH-500 (Lightman et al. 2023, problems of Hendrycks et al. 2021), graded by math-verify."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from reasoning.equality import Equality, verifier
from reasoning.grading import BOX, Grade, boxed
from reasoning.tasks.files import Source, load_records, name_of, steps_of, text_of
from reasoning.tasks.types import Grading, Problem, Task, check_apart

_BEHIND = re.compile(r"(?:\\?%|(?<!\\right)\.|\s|\\[,;! ])+$")
SOURCE = Source("MATH-500", "HuggingFaceH4/MATH-500", splits=("test", "train"))


def merged(answers: Sequence[str | None]) -> list[str | None]:
    """Expressions that are equal by math-verify in the spelling of the first of them."""
    spelt: dict[str, str] = {}
    distinct: list[str] = []
    for answer in answers:
        if answer is None or answer in spelt:
            continue
        equal = (first for first in distinct if equals(first, answer).correct)
        spelt[answer] = next(equal, answer)
        if spelt[answer] == answer:
            distinct.append(answer)
    return [None if answer is None else spelt[answer] for answer in answers]


def equals(gold: str, answer: str) -> Grade:
    r"""Whether an expression in LaTeX equals another, by math-verify.

    A final point makes no difference, nor does a final per cent sign: 15\% is 15. What differs
    without them is compared as it is written.
    """
    bare = [_BEHIND.sub("", text) or text for text in (gold, answer)]
    same, reason = _equal(*bare)
    if same is False and bare != [gold, answer]:
        same, reason = _equal(gold, answer)
    return Grade(answer, same, reason)


def _equal(gold: str, answer: str) -> Equality:
    if gold == answer:
        return Equality(True)
    return verifier().same(f"${gold}$", f"${BOX}{answer}}}$")


@dataclass(frozen=True)
class Math500(Task):
    r"""Competition problems whose answer is an expression in ``\boxed{}``.

    A solution without a box answers with the last expression that math-verify sees in it; the
    grader `boxed` gives it nothing. Answers that are equal by math-verify vote together.
    """

    name: ClassVar[str] = "math500"
    closing: ClassVar[str] = BOX
    instruction: ClassVar[str] = (
        r"Solve the problem step by step, one step per line. Put the final answer into \boxed{}."
    )

    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """See `Task`. The fields of a record: problem, answer, solution and, where there is one,
        unique_id."""

        def parse(record: dict[str, Any], where: str, number: int) -> Problem:
            question, answer = (text_of(record, key, where) for key in ("problem", "answer"))
            name = f"math500/{name_of(record, 'unique_id', split, number)}"
            return Problem(name, question, answer, steps_of(record, where))

        return load_records(SOURCE, data, split, limit, parse)

    def answer(self, text: str) -> str | None:
        """See `Task`: the last box, else the last expression."""
        return boxed(text) or verifier().extract(text)

    def same(self, answer: str, problem: Problem) -> Grade:
        """See `Task`: equal by math-verify."""
        return equals(problem.answer, answer)

    @property
    def graders(self) -> Mapping[str, Grading]:
        """`boxed`: as `grade`, but only a box holds an answer."""
        return {"boxed": self._in_a_box}

    def _in_a_box(self, text: str, problem: Problem) -> Grade:
        said = boxed(text)
        return Grade(None, None) if said is None else self.same(said, problem)

    def votes(self, texts: Sequence[str]) -> list[str | None]:
        """See `Task`."""
        return merged(super().votes(texts))

    def closed(self, lines: Sequence[str]) -> bool:
        """See `Task`: once a box is closed, which may take several lines."""
        return boxed("".join(lines)) is not None

    def write(self, problem: Problem) -> str:
        """See `Task`: the reference solution, which holds the box."""
        return "\n".join(problem.solution)

    def examples(
        self, data: str | Path | None = None, shots_data: str | Path | None = None
    ) -> list[Problem]:
        """See `Task`: by default a few of our own, since there is no training split."""
        check_apart(data, shots_data)
        if shots_data is None:
            return list(EXAMPLES)
        return self.load(data=shots_data, split="train")


MATH500 = Math500()

EXAMPLES = tuple(
    Problem(f"math500/own/{number}", question, answer, lines)
    for number, (question, answer, lines) in enumerate(
        [
            (
                "What is the sum of the solutions of $x^2 - 7x + 12 = 0$?",
                "7",
                (
                    "The left side factors as $(x - 3)(x - 4)$.",
                    "So the solutions are $3$ and $4$.",
                    r"Their sum is $3 + 4 = \boxed{7}$.",
                ),
            ),
            (
                "Two fair dice are rolled. What is the probability that the sum is $10$ or more?",
                r"\frac{1}{6}",
                (
                    "There are $6 \\cdot 6 = 36$ equally likely rolls.",
                    "Sums of $10$, $11$ and $12$ come from $3$, $2$ and $1$ of them.",
                    r"The probability is $\frac{3 + 2 + 1}{36} = \boxed{\frac{1}{6}}$.",
                ),
            ),
            (
                r"Simplify $\frac{\sqrt{72}}{\sqrt{6}}$.",
                r"2\sqrt{3}",
                (
                    r"The quotient of the roots is $\sqrt{\frac{72}{6}} = \sqrt{12}$.",
                    r"Since $12 = 4 \cdot 3$, this is $\boxed{2\sqrt{3}}$.",
                ),
            ),
            (
                "A right triangle has legs of length $5$ and $12$. What is the radius of the "
                "circle through its three corners?",
                r"\frac{13}{2}",
                (
                    r"The hypotenuse is $\sqrt{5^2 + 12^2} = \sqrt{169} = 13$.",
                    "By Thales it is a diameter of that circle.",
                    r"The radius is $\boxed{\frac{13}{2}}$.",
                ),
            ),
            (
                r"For which $x$ is $\log_2 (x + 3) = 4$?",
                "13",
                (
                    "The equation says that $x + 3 = 2^4 = 16$.",
                    r"So $x = 16 - 3 = \boxed{13}$.",
                ),
            ),
            (
                "How many ways are there to choose a president and two equal deputies among $7$ "
                "people?",
                "105",
                (
                    "There are $7$ choices of the president.",
                    r"Of the other $6$, two are chosen in $\binom{6}{2} = 15$ ways.",
                    r"Together there are $7 \cdot 15 = \boxed{105}$ ways.",
                ),
            ),
        ]
    )
)
