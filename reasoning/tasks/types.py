"""The record that every reasoning task yields."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One question with its known answer.

    Fields:
        id: unique within a task and split, such as ``generated/test/0/17``.
        question: text shown to the model.
        answer: final number as a string without thousands separators.
        solution: reference steps in order, one line each, without the final ``#### n`` line;
            empty when no reference solution is known.
    """

    id: str
    question: str
    answer: str
    solution: tuple[str, ...] = ()

    def solution_text(self) -> str:
        """Full reference text in GSM8K's format: the steps, then ``#### answer``."""
        return "\n".join((*self.solution, f"#### {self.answer}"))
