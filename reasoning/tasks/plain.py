"""Any questions with known answers, from a JSONL file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from reasoning.grading import (
    BOX,
    Grade,
    boxed,
    extract_numeric,
    one_number,
    same_number,
    shortest,
    unshared,
)
from reasoning.prompts import Prompt, Shot
from reasoning.tasks.files import Source, load_records, name_of, steps_of, text_of
from reasoning.tasks.math500 import equals, merged
from reasoning.tasks.types import Problem, Task

SOURCE = Source("The task 'jsonl'")
_LEADS = (
    re.compile(r"####\s*(.*)"),
    re.compile(r"(?i)(?<![a-z])answer[*_]*(?:\s+is\b(?![\s*_]+not\b)[*_]*\s*:?|\s*:)[*_]*\s*(.*)"),
)
_ALONE = re.compile(r"[-−+\d.,$€£₹%eE/\\\s]+")  # what a number is written with
_COUNTED = re.compile(r"(.*?\d[\d.,%]*)(?:\s+[^\W\d_]{2,})+")
_LATEX = re.compile(r"[\\^$=]")
_FORMULA = re.compile(r"(?:[\d\s.,+*/()\[\]{}-]|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z]))+")
_EMPHASIS = re.compile(r"^([*_]{1,3})(.+)\1$")
_DATE = re.compile(r"\d+([-/.])\d+\1\d+")


def plain_answer(text: str) -> str | None:
    r"""The rest of the line after ``####``, else what is in the last ``\boxed{}``, else after the
    last "answer is" (and no "not") or "answer:"; else the last number. Where the line says nothing
    more, the next one counts, and of what holds one box, what is in it. Numbers come in their
    shortest form, anything else without emphasis and a final point."""
    marked = [*_LEADS[0].findall(text)[:1], *filter(None, [boxed(text)])]
    marked += _LEADS[1].findall(text)[-1:]
    if not marked:
        found = extract_numeric(text)
        return None if found is None else shortest(found)
    alone = boxed(marked[0]) if marked[0].count(BOX) == 1 else None
    said = _bare(alone or marked[0])
    number = number_of(said)
    return number if number is not None else said or None


def _bare(text: str) -> str:
    """A text without emphasis, whose beginning may be missing, and a final point."""
    text = _EMPHASIS.sub(r"\2", text.strip().rstrip(".").strip())
    return text.removesuffix("**").rstrip(".").strip()


def number_of(answer: str) -> str | None:
    """A number in its shortest form; None for what is more, or other, than one number."""
    answer = re.sub(r"^(?:\$+|\\[(\[])(.*?)(?:\$+|\\[)\]])$", r"\1", answer.strip()).strip()
    found = one_number(answer) if _ALONE.fullmatch(answer) else None
    return None if found is None else shortest(found)


def plain_text(answer: str) -> str:
    """An answer without what makes no difference: case, articles, spaces, quotes and the point."""
    text = re.sub(r"[\"'“”‘’`.!?]+$|^[\"'“”‘’`]+", "", answer.strip().casefold())
    words = _bare(text).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)


def is_formula(answer: str) -> bool:
    """Whether it is LaTeX, or has digits, operators, brackets and single letters only; dates and
    what is counted in words ("5 km") are not."""
    if _LATEX.search(answer):
        return True
    return bool(_FORMULA.fullmatch(answer)) and not _DATE.fullmatch(answer)


@dataclass(frozen=True)
class Plain(Task):
    """Lines ``{"question": ..., "answer": ...}``, where there is one with an id and a solution.

    A right answer that is a number is compared as a number with what says one number, "12 eggs" or
    "50%"; anything else as text without case and articles, and where it is a formula by
    math-verify.
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
        """See `Task`. An answer may be a number of JSON, a solution a list of lines."""

        def parse(record: dict[str, Any], where: str, number: int) -> Problem:
            question = text_of(record, "question", where)
            if type(record.get("answer")) in (int, float):
                record = {**record, "answer": str(record["answer"])}
            answer = text_of(record, "answer", where)
            name = f"jsonl/{name_of(record, 'id', split, number)}"
            return Problem(name, question, answer, steps_of(record, where))

        return load_records(SOURCE, data, split, limit, parse)

    def answer(self, text: str) -> str | None:
        """See `Task` and `plain_answer`."""
        return plain_answer(text)

    def same(self, answer: str, problem: Problem) -> Grade:
        """See `Task`."""
        wanted = number_of(problem.answer)
        said = None if wanted is None else one_number(answer)
        if wanted is not None and said is not None:
            return Grade(answer, same_number(said, wanted))
        if plain_text(answer) == plain_text(problem.answer):
            return Grade(answer, True)
        if is_formula(problem.answer if wanted is None else answer):
            return equals((wanted or problem.answer).strip("$"), answer.strip("$"))
        return Grade(answer, False)

    def votes(self, texts: Sequence[str]) -> list[str | None]:
        """See `Task`. Formulas that are equal vote together, and so do texts but for case, and "5
        apples" with 5 where that is said, too."""
        given = unshared(super().votes(texts))
        answers: list[str | None] = []
        spelt: dict[str, str] = {}
        for said in given:
            counted = _COUNTED.fullmatch(said or "")
            number = number_of(counted[1]) if counted else None
            said = number if number is not None and number in given else said
            answers.append(None if said is None else spelt.setdefault(plain_text(said), said))
        formulas = [a if a is not None and "\\" in a else None for a in answers]
        pairs = zip(answers, merged(formulas), strict=True)
        return [answer if formula is None else formula for answer, formula in pairs]

    def prompt(self, shots: tuple[Shot, ...] = ()) -> Prompt:
        """See `Task`. Questions may be of any kind: a plain prompt lets them speak."""
        return Prompt(instruction=self.instruction, plain=self.plain, shots=shots, bare=True)


JSONL = Plain()
