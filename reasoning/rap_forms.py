"""What a sub-question is in a text: two forms of reasoning via planning (see
`reasoning.subquestions`).

In a dialogue it is a question in words, which takes a model that follows instructions. In a worked
solution it is the next line up to its first `=`: what to compute next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from reasoning.arithmetic import result_of
from reasoning.engines.base import Completion, Encoder, Engine, Finish, Turn
from reasoning.scorers.judges import SelfCritique
from reasoning.world import (
    Ending,
    Scorer,
    Step,
    Thought,
    closed_at,
    joined,
    lines_of,
    mean_probability,
)

ASK, ANSWER = "Sub-question:", "Answer:"
CLOSING = "That is enough to answer the problem:"
INSTRUCTION = (
    f"Take the problem apart into simpler ones. Write '{ASK}' and one question on a line, then "
    f"'{ANSWER}' and on one line what follows for it, which ends with 'The answer is <answer>.' Go "
    f"on so until enough is known. The last sub-question begins with '{CLOSING}'"
)
LINE = ("\n",)  # what ends one


class SubQuestion(NamedTuple):
    """An action: a sub-question without its answer."""

    steps: tuple[Step, ...]  # one, or none where nothing was asked
    finish: Finish  # eos: it is the last; stop: it need not be; or why there is none
    useful: float  # in [0, 1]: whether it helps
    until: tuple[str, ...] | None = LINE  # what ends an answer, (): the end of the text; None: it
    # needs none


class Grown(NamedTuple):
    """What a sub-question and one answer to it add to a state."""

    steps: tuple[Step, ...]
    finish: Ending  # where this leaves the state
    said: str  # what of it votes


class Putting(Protocol):
    """How a question is put to a language model; `reasoning.prompts.Prompt` is one way."""

    def encode(self, engine: Encoder, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for a question."""
        ...


class Form(Protocol):
    """How sub-questions and answers stand in a text, and what is believed of them.

    depth: how many of them a solution has at most, unless one says otherwise.
    labels: what is written before a sub-question, and before an answer.
    stop: what ends a sub-question.
    """

    depth: ClassVar[int]
    labels: ClassVar[tuple[str, str]]
    stop: ClassVar[tuple[str, ...]]

    @property
    def prompt(self) -> Putting | None:
        """How a question is put; None: as other strategies put it, since states are solutions."""
        ...

    def judge(self, engine: Engine) -> Scorer | None:
        """What tells how useful sub-questions are; None: `read` knows."""
        ...

    def read(self, engine: Engine, completion: Completion) -> SubQuestion:
        """The sub-question that was generated; one that was cut or failed is none."""
        ...

    def whole(self, engine: Engine, question: str) -> SubQuestion:
        """The problem itself as the last sub-question."""
        ...

    def grown(
        self, engine: Engine, thought: Thought, asked: SubQuestion, answer: Completion | None
    ) -> Grown | None:
        """What an answer adds; None where it was cut before it came to an end."""
        ...

    def votes(self, thought: Thought, answers: Sequence[Grown]) -> list[str]:
        """What each of the answers to a sub-question of a state votes for."""
        ...


class Dialogue(NamedTuple):
    """A worked example: a problem, and its sub-questions with their answers."""

    question: str
    exchanges: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The exchanges as they are to be written."""
        return "".join(f"{ASK} {asked}\n{ANSWER} {answer}\n" for asked, answer in self.exchanges)


@dataclass(frozen=True)
class Questions:
    """Sub-questions in words, as published: each a line of a dialogue, and so is its answer.

    shots: worked examples.

    The model judges what is useful: P(yes) of a prompt. Answers vote by what they say
    (`Task.answer`), and by their words where they say nothing; an answer to the problem itself that
    says nothing ends in no solution.
    """

    shots: tuple[Dialogue, ...] = ()
    depth: ClassVar[int] = 5
    labels: ClassVar[tuple[str, str]] = (ASK, ANSWER)
    stop: ClassVar[tuple[str, ...]] = LINE

    @property
    def prompt(self) -> Putting:
        """See `Form`: as `encode` does."""
        return self

    def encode(self, engine: Encoder, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for a question, up to where the first sub-question begins."""
        if engine.chat:
            turns = []
            for shot in self.shots:
                turns += [Turn("user", _ask(shot.question)), Turn("assistant", shot.text)]
            return engine.encode_chat([*turns, Turn("user", _ask(question))])
        shown = [f"Problem: {shot.question}\n{shot.text}" for shot in self.shots]
        text = "\n".join([f"{INSTRUCTION}\n", *shown, f"Problem: {question}\n"])
        return engine.encode(text, start=True)

    def judge(self, engine: Engine) -> Scorer:
        """See `Form`."""
        return SelfCritique(engine, ask=ask_useful)

    def read(self, engine: Engine, completion: Completion) -> SubQuestion:
        """See `Form`. A blank line asks nothing."""
        text = engine.decode(completion.tokens)
        if completion.finish in ("length", "failed") or not text.strip():
            return _nothing(completion)
        tokens, text = _line(engine, completion.tokens, text)
        logprob = sum(completion.logprobs[: len(completion.tokens)])
        return SubQuestion(
            (Step(tokens, text, logprob),), "eos" if CLOSING in text else "stop", 0.0
        )

    def whole(self, engine: Engine, question: str) -> SubQuestion:
        """See `Form`."""
        text = f" {CLOSING} {question}\n"
        return SubQuestion((Step(engine.encode(text), text, 0.0),), "eos", 0.0)

    def grown(
        self, engine: Engine, thought: Thought, asked: SubQuestion, answer: Completion | None
    ) -> Grown | None:
        """See `Form`: one step is a sub-question and its answer."""
        assert answer is not None, "every question is answered"
        if answer.finish == "length":
            return None
        (part,) = asked.steps
        tokens, text = _line(engine, answer.tokens, engine.decode(answer.tokens))
        before, between = map(engine.encode, self.labels)
        logprob = part.logprob + sum(answer.logprobs[: len(answer.tokens)])
        step = Step(
            before + part.tokens + between + tokens, f"{ASK}{part.text}{ANSWER}{text}", logprob
        )
        if asked.finish != "eos":
            return Grown((step,), "open", text)
        return Grown((step,), "cut" if thought.task.answer(text) is None else "answered", text)

    def votes(self, thought: Thought, answers: Sequence[Grown]) -> list[str]:
        """See `Form`."""
        return [thought.task.answer(one.said) or one.said.strip() for one in answers]


@dataclass(frozen=True)
class Operations:
    """Open operations: the next line of a solution up to its first `=`, as in `Ben has <<3*4=`.

    The answer is the rest of the line, `12>>12 apples.`; answers vote by the number behind the
    line's last `=`, and by their words where none is there. (In the Game of 24 a line says more
    than its number: the calculator looks at that, unless it is told not to.) A line without `=` is
    a statement, which needs no answer. The last sub-question is all that remains of the solution;
    what finishes it votes as whole solutions do. Any model that writes arithmetic step by step
    serves, without instructions: questions are put, and solutions end, as in every other strategy.

    Useful is the action's likelihood, of the rewards in section 3.2 of the paper the one that no
    judge has to be asked for: the geometric mean of its tokens' probabilities at temperature 1, so
    that a long line is not worth less for its length. Its share among the sampled ones, the other
    candidate, depends on how many are drawn: of one it is always 1, of four different ones always
    1/4, which tells nothing where a choice is to be made.
    """

    depth: ClassVar[int] = 8
    labels: ClassVar[tuple[str, str]] = ("", "")
    stop: ClassVar[tuple[str, ...]] = ("=", *LINE)

    @property
    def prompt(self) -> None:
        """See `Form`."""
        return None

    def judge(self, engine: Engine) -> None:
        """See `Form`."""

    def read(self, engine: Engine, completion: Completion) -> SubQuestion:
        """See `Form`. What a token holds behind the `=` stays with it; with a newline in it the
        line is over. A text that ends here is a last statement, even if nothing more is said."""
        if completion.finish in ("length", "failed"):
            return _nothing(completion)
        text = engine.decode(completion.tokens)
        over = completion.finish == "eos" or "\n" in text
        step = Step(completion.tokens, text, sum(completion.logprobs[: len(completion.tokens)]))
        drawn = len(completion.logprobs)  # the end of the text included
        useful = mean_probability(completion.logprob, drawn)
        return SubQuestion((step,), completion.finish, useful, None if over else LINE)

    def whole(self, engine: Engine, question: str) -> SubQuestion:
        """See `Form`."""
        return SubQuestion((Step((), "", 0.0),), "eos", 1.0, ())

    def grown(
        self, engine: Engine, thought: Thought, asked: SubQuestion, answer: Completion | None
    ) -> Grown | None:
        """See `Form`: one step is a line, and nothing is kept after a closing one."""
        (part,) = asked.steps
        first, *others = (lines_of(engine, answer) if answer else []) or [Step((), "", 0.0)]
        tokens = part.tokens + first.tokens
        line = Step(tokens, engine.decode(tokens), part.logprob + first.logprob)
        lines = [line, *others]
        kept = closed_at(thought, lines)
        if kept is None and answer is not None and answer.finish == "length":
            return None
        over = kept is not None or "eos" in (asked.finish, answer.finish if answer else None)
        steps = tuple(joined(lines[:kept], "newline"))
        said = "".join(step.text for step in steps)
        return Grown(steps, "answered" if over else "open", said)

    def votes(self, thought: Thought, answers: Sequence[Grown]) -> list[str]:
        """See `Form`: finished solutions vote as such, as their task has it."""
        finished = [thought.text + one.said for one in answers if one.finish == "answered"]
        whole = iter(thought.task.votes(finished))
        votes = []
        for one in answers:
            vote = next(whole) if one.finish == "answered" else _number(one.said)
            votes.append(vote or one.said.strip())
        return votes


def ask_useful(question: str, solution: str) -> str:
    """Whether the last sub-question of a partial solution helps, to be answered by one word."""
    return (
        f"Problem: {question}\n{solution}\n"
        "Does answering this last sub-question help to solve the problem? Answer Yes or No.\n"
        "Answer:"
    )


def _ask(question: str) -> str:
    return f"{INSTRUCTION}\n\nProblem: {question}"


def _nothing(completion: Completion) -> SubQuestion:
    return SubQuestion((), "failed" if completion.finish == "failed" else "length", 0.0)


def _number(line: str) -> str | None:
    number = result_of(line)
    return None if number is None else str(number)


def _line(engine: Engine, tokens: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
    """A line with its newline, which a text that ended the sequence lacks."""
    if text.endswith("\n"):
        return tokens, text
    return tokens + engine.encode("\n"), text + "\n"
