"""Any questions with known answers, from a JSONL file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from reasoning.grading import GRADERS, Grade, extract_numeric, shortest
from reasoning.prompts import Prompt, Shot
from reasoning.tasks.files import Source, lines_of, load_records, text_of
from reasoning.tasks.math500 import boxed, equals, merged
from reasoning.tasks.types import Problem, Task

SOURCE = Source("The task 'jsonl'")
_LEADS = (re.compile(r"####(.*)"), re.compile(r"(?i)(?:the )?(?:final )?answer(?: is|:)(.*)"))
_NUMBER = re.compile(r"[-+]?\$?\s?[\d,]*\.?\d+\s?%?")
_FORMULA = re.compile(r"[\\^_=+*/{}()\[\]\d]")


def plain_answer(text: str) -> str | None:
    r"""The rest of the line after ``####``, else what is in the last ``\boxed{}``, else after the
    last "answer is"; else the last number. Numbers come in their shortest form."""
    marked = [*_LEADS[0].findall(text)[:1], *filter(None, [boxed(text)])]
    marked += _LEADS[1].findall(text)[-1:]
    if not marked:
        found = extract_numeric(text)
        return None if found is None else shortest(found)
    said = marked[0].strip().rstrip(".").strip()
    number = number_of(said)
    return number if number is not None else said or None


def number_of(answer: str) -> str | None:
    """A number in its shortest form; None for what is more than one number."""
    found = extract_numeric(answer) if _NUMBER.fullmatch(answer.strip()) else None
    return None if found is None else shortest(found)


def plain_text(answer: str) -> str:
    """An answer without what makes no difference: case, articles, spaces, quotes and the point."""
    words = re.sub(r"[\"'“”‘’`.!?]+$|^[\"'“”‘’`]+", "", answer.strip().casefold()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


@dataclass(frozen=True)
class Plain(Task):
    """Lines ``{"question": ..., "answer": ...}``, where there is one with an id and a solution.

    A right answer that is a number is compared as a number, any other as text without case and
    articles, and where it is a formula by math-verify.
    """

    name: ClassVar[str] = "jsonl"
    instruction: ClassVar[str] = (
        "Answer the question step by step, one step per line. End with a line '#### <answer>'."
    )

    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """See `Task`. An answer may be a number of JSON. Raises ValueError on an id that comes
        twice."""
        seen: set[str] = set()

        def parse(record: dict[str, Any], where: str, number: int) -> Problem:
            question = text_of(record, "question", where)
            if type(record.get("answer")) in (int, float):
                record = {**record, "answer": str(record["answer"])}
            answer = text_of(record, "answer", where)
            name = f"jsonl/{record.get('id', f'{split}/{number}')}"
            if name in seen:
                raise ValueError(f"{where}: the id {record.get('id')!r} comes twice.")
            seen.add(name)
            return Problem(name, question, answer, lines_of(str(record.get("solution") or "")))

        return load_records(SOURCE, data, split, limit, parse)

    def answer(self, text: str) -> str | None:
        """See `Task` and `plain_answer`."""
        return plain_answer(text)

    def same(self, answer: str, problem: Problem) -> Grade:
        """See `Task`."""
        if number_of(problem.answer) is not None:
            # Where nothing more is said, "12 eggs" is 12.
            return Grade(answer, bool(GRADERS["numeric"](answer, problem.answer).correct))
        if plain_text(answer) == plain_text(problem.answer):
            return Grade(answer, True)
        if _FORMULA.search(problem.answer):
            return equals(problem.answer.strip("$"), answer.strip("$"))
        return Grade(answer, False)

    def votes(self, texts: Sequence[str]) -> list[str | None]:
        """See `Task`. Formulas that are equal vote together, and so do texts but for case."""
        answers: list[str | None] = []
        spelt: dict[str, str] = {}
        for said in super().votes(texts):
            answers.append(None if said is None else spelt.setdefault(plain_text(said), said))
        formulas = [a if a is not None and "\\" in a else None for a in answers]
        pairs = zip(answers, merged(formulas), strict=True)
        return [answer if formula is None else formula for answer, formula in pairs]

    def prompt(self, shots: tuple[Shot, ...] = ()) -> Prompt:
        """See `Task`. Questions may be of any kind: a plain prompt lets them speak."""
        return Prompt(instruction=self.instruction, plain=self.plain, shots=shots, bare=True)


JSONL = Plain()
