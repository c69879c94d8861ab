"""What a task is: problems, how they are asked, and what counts as an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from reasoning.arithmetic import miscalculated
from reasoning.grading import Grade
from reasoning.prompts import INSTRUCTION, PLAIN, Prompt, Shot


class Problem(NamedTuple):
    """One question with its known answer.

    Fields:
        id: unique within a task and split, such as ``generated/test/0/17``.
        question: text shown to the model.
        answer: the right answer; of word problems a number without thousands separators.
        solution: reference steps in order, one line each, without the final line that holds the
            answer; empty when no reference solution is known.
    """

    id: str
    question: str
    answer: str
    solution: tuple[str, ...] = ()


Grading = Callable[[str, Problem], Grade]
"""Grades the text of a finished solution."""


@dataclass(frozen=True)
class Task(ABC):
    """A kind of problem. Three methods make one: `load`, `answer` and `same`.

    name: as in ``task=name`` and in problem ids.
    closing: text whose line ends a solution, or the one below where nothing follows it there, see
        `closed`; nothing after that line is kept.
    instruction: tells a model what to do.
    plain: a question in a prompt without a chat template.

    A task is plain data without state: it goes to other processes with the work.
    """

    name: ClassVar[str]
    closing: ClassVar[str] = "####"
    instruction: ClassVar[str] = INSTRUCTION
    plain: ClassVar[str] = PLAIN

    @abstractmethod
    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """The first `limit` problems of a split.

        Args:
            data: a file, a folder or a hub name; None is the task's usual source.
            split: `test` or `train`.
            limit: at least 1; None is all there are.
            seed: of problems that are generated.

        Raises ValueError, with file and line, on malformed data and on a split or `limit` that
        cannot be had, and FileNotFoundError where there are no data.
        """

    @abstractmethod
    def answer(self, text: str) -> str | None:
        """What a finished solution says, in the one spelling that equal answers share as far as one
        can tell from one text; None where it says nothing. This is what it votes for."""

    @abstractmethod
    def same(self, answer: str, problem: Problem) -> bool | Grade:
        """Whether an answer, as `answer` gives it, is right; a `Grade` where that is not known."""

    def grade(self, text: str, problem: Problem) -> Grade:
        """Grade a finished solution: this is what accuracy counts."""
        said = self.answer(text)
        if said is None:
            return Grade(None, None)
        right = self.same(said, problem)
        return Grade(said, right) if isinstance(right, bool) else right

    @property
    def graders(self) -> Mapping[str, Grading]:
        """Ways to grade that are reported beside `grade`, by name."""
        return {}

    def votes(self, texts: Sequence[str]) -> list[str | None]:
        """What several finished solutions of one problem vote for; None abstains.

        A task whose equal answers may be spelt differently merges them here.
        """
        return [self.answer(text) for text in texts]

    def closed(self, lines: Sequence[str]) -> bool:
        """Whether the last of the lines ends the solution; they come with their newlines.

        By default where something is said behind the closing text: emphasis alone says nothing.
        """
        _, found, said = "".join(lines).partition(self.closing)
        return bool(found and said.strip(" \t\n*_$`"))

    def write(self, problem: Problem) -> str:
        """The text of a problem's known solution, as a model should write it."""
        return "\n".join((*problem.solution, f"{self.closing} {problem.answer}"))

    def examples(
        self, data: str | Path | None = None, shots_data: str | Path | None = None
    ) -> list[Problem]:
        """Problems with solutions to be shown in prompts, from the training split.

        Raises ValueError where they would come from the file `data` that holds what is asked.
        """
        if shots_data is None and data is not None and Path(data).is_file():
            shots_data = data
        check_apart(data, shots_data)
        return self.load(data=shots_data or data, split="train")

    def prompt(self, shots: tuple[Shot, ...] = ()) -> Prompt | None:
        """How questions are put; None: as the engine's model expects them by itself."""
        return Prompt(instruction=self.instruction, plain=self.plain, shots=shots)

    def refuted(self, question: str, lines: Sequence[str]) -> bool:
        """Whether calculation alone shows that a step of the solution so far is wrong.

        By default an equation in GSM8K's notation, ``<<3*4=13>>``, that does not hold.
        """
        return any(map(miscalculated, lines))

    def ask_steps(self, question: str, solution: str) -> str:
        """Asks for a list of possible next steps, one per line (the proposing prompt of Tree of
        Thoughts, Yao et al. 2023)."""
        return (
            f"{self.instruction}\n\nQuestion: {question}\nSolution so far:\n{solution}\n"
            "What could the next line be? List different possibilities, one per line, and nothing "
            "else.\n"
        )

    def ask_value(self, question: str, solution: str) -> str:
        """Asks how likely the solution so far leads to the right answer: sure, likely or impossible
        on the last line (the value prompt of Tree of Thoughts)."""
        return (
            f"Question: {question}\nSolution so far:\n{solution}\n"
            "Can this still lead to the right answer? Check it, then write one word on the last "
            "line: sure, likely or impossible.\n"
        )


def check_apart(data: str | Path | None, shots_data: str | Path | None) -> None:
    """Raise ValueError where the file of the examples is the one that is asked, by itself or as the
    test split of a folder."""
    if data is None or shots_data is None or not Path(shots_data).is_file():
        return
    asked = Path(data) / "test.jsonl" if Path(data).is_dir() else Path(data)
    if asked.resolve() == Path(shots_data).resolve():
        raise ValueError(f"shots need shots_data=... of their own: {asked} holds what is asked")


def check_limit(limit: int | None) -> None:
    """Raise ValueError on a number of problems below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
