"""How a question is put to a language model: token ids, built once per question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from reasoning.engines.base import Encoder, Turn

if TYPE_CHECKING:  # tasks have prompts of their own
    from reasoning.tasks.types import Problem

PLAIN = "Question: {question}\nAnswer:\n"
INSTRUCTION = "Solve the problem step by step, one step per line. End with a line '#### <number>'."


class Shot(NamedTuple):
    """An example: a question and its worked solution."""

    question: str
    solution: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Zero-shot or few-shot, in a chat template or plain.

    instruction: said before each question in a chat, and once at the beginning of a plain prompt;
        None: INSTRUCTION in a chat, nothing in a plain prompt.
    shots: examples shown before the question: turns of the chat, or text separated by empty lines.
    chat: whether to use the model's chat template; None: where the engine has one.
    plain: a question in a plain prompt.
    bare: a plain prompt goes without the instruction, which means little to a model that only
        continues text.
    """

    instruction: str | None = None
    shots: tuple[Shot, ...] = ()
    chat: bool | None = None
    plain: str = PLAIN
    bare: bool = False

    def __post_init__(self) -> None:
        if "{question}" not in self.plain:
            raise ValueError(f"plain must hold {{question}}, and {self.plain!r} does not")

    def encode(self, engine: Encoder, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for `question`.

        Raises ValueError where a chat is asked for and the model has no chat template.
        """
        if engine.chat if self.chat is None else self.chat:
            return engine.encode_chat(self._turns(question))
        return engine.encode(self._text(question), start=True)

    def _turns(self, question: str) -> list[Turn]:
        said = INSTRUCTION if self.instruction is None else self.instruction
        before = f"{said}\n\n" if said else ""
        turns = []
        for shot in self.shots:
            turns += [
                Turn("user", before + shot.question),
                Turn("assistant", shot.solution.rstrip("\n")),
            ]
        return [*turns, Turn("user", before + question)]

    def _text(self, question: str) -> str:
        parts = [self.instruction] if self.instruction and not self.bare else []
        parts += [self._ask(shot.question) + shot.solution.rstrip("\n") for shot in self.shots]
        return "\n\n".join([*parts, self._ask(question)])

    def _ask(self, question: str) -> str:
        return self.plain.replace("{question}", question)


def encode_ask(engine: Encoder, text: str) -> tuple[int, ...]:
    """Token ids of a request that is no question of a task: a turn of a chat, or plain text."""
    if engine.chat:
        return engine.encode_chat([Turn("user", text)])
    return engine.encode(text, start=True)


def pick_shots(
    problems: Sequence[Problem], number: int, *, write: Callable[[Problem], str], seed: int = 0
) -> tuple[Shot, ...]:
    """`number` worked examples drawn without replacement from a task's training problems.

    `write` makes a problem's solution text, see `Task.write`.

    Raises ValueError where too few of them have a solution.
    """
    worked = [problem for problem in problems if problem.solution]
    if not 0 <= number <= len(worked):
        raise ValueError(
            f"{number} examples cannot be drawn from {len(worked)} problems with a solution"
        )
    chosen = Random(seed).sample(worked, number)
    return tuple(Shot(problem.question, write(problem)) for problem in chosen)
