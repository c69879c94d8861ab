"""The language model as its own judge: no reward model needed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from reasoning.engines.base import Completion, Engine, Request, ScoreRequest
from reasoning.engines.load import naming_options
from reasoning.prompts import encode_ask
from reasoning.world import Aggregate, Kind, Scorer, Thought

Ask = Callable[[str, str], str]
"""From a question and the solution so far to what the judge is asked."""

Scores = tuple[list[tuple[float, ...] | None], list[int]]


def ask_right(question: str, solution: str) -> str:
    """Whether a partial solution is right so far, to be answered by one word."""
    return (
        f"Question: {question}\nSolution so far:\n{solution}\n"
        "Is every step of this solution right so far? Answer Yes or No.\nAnswer:"
    )


@dataclass(frozen=True)
class SelfCritique:
    """P(yes) of a judging prompt, after each step (Kadavath et al. 2022, P(True); the self-
    evaluation of RAP, Hao et al. 2023).

    engine: the language model. ask: makes the prompt. yes, no: the words that are compared where
    their tokens first differ; in a plain prompt they come after a space.

    Raises ValueError where one word is the beginning of the other.
    """

    kind: ClassVar[Kind] = "potential"
    aggregate: ClassVar[Aggregate] = "last"
    engine: Engine
    ask: Ask = ask_right
    yes: str = "Yes"
    no: str = "No"
    lead: tuple[int, ...] = field(init=False, repr=False)  # tokens that both words begin with
    options: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        space = "" if self.engine.chat else " "
        words = [self.engine.encode(space + word) for word in (self.yes, self.no)]
        differ = (i for i, (a, b) in enumerate(zip(*words, strict=False)) if a != b)
        first = next(differ, None)
        if first is None:
            raise ValueError(
                f"one of {self.yes!r} and {self.no!r} begins the other in this model's tokens: "
                "choose other words for yes and no"
            )
        object.__setattr__(self, "lead", words[0][:first])
        object.__setattr__(self, "options", (words[0][first], words[1][first]))

    def score(self, thoughts: Sequence[Thought], added: Sequence[int]) -> Scores:
        """See `Scorer`."""
        asking = _prompts(self.engine, self.ask, thoughts, added)
        rows = [[prompt + self.lead for prompt in row] for row in asking]
        fits = [_fits(self.engine, row, 0) for row in rows]
        asked = [prompt for row, good in zip(rows, fits, strict=True) if good for prompt in row]
        requests = [ScoreRequest(prompt, (len(prompt) - 1,), self.options) for prompt in asked]
        results = iter(self.engine.score(requests) if requests else [])
        found = [
            [next(results) for _ in row] if good else None
            for row, good in zip(rows, fits, strict=True)
        ]
        scores = [
            None if own is None else tuple(float(one.logprobs[0, 0].exp()) for one in own)
            for own in found
        ]
        return scores, [sum(one.read for one in own or []) for own in found]


VERDICTS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""What the verdicts weigh in Tree of Thoughts (Yao et al. 2023, Game of 24)."""


@dataclass(frozen=True)
class Verdicts:
    """The value prompt of Tree of Thoughts: several sampled verdicts on the state, weighed.

    engine: the language model. ask: makes the prompt; None: `Task.ask_value` does. weights: what
    each verdict counts. samples: verdicts per state. max_tokens, temperature: of each. seed: of all
    draws.

    The verdict is the last line of a sample; one that is none of the words counts nothing, as in
    the paper. The sum of weights is divided by the greatest it could be, which makes of it a score
    in [0, 1] and changes no order. A state's draws depend on its own text alone.
    """

    kind: ClassVar[Kind] = "potential"
    aggregate: ClassVar[Aggregate] = "last"
    engine: Engine
    ask: Ask | None = None
    weights: Mapping[str, float] = field(default_factory=lambda: dict(VERDICTS))
    samples: int = 3
    max_tokens: int = 256
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self)
        if not self.weights or min(self.weights.values()) < 0 or not max(self.weights.values()):
            raise ValueError(f"weights must be 0 or more, one of them above, not {self.weights}")

    def score(self, thoughts: Sequence[Thought], added: Sequence[int]) -> Scores:
        """See `Scorer`."""
        prompts = _prompts(self.engine, self.ask, thoughts, added)
        results, read = _sampled_texts(self, prompts)
        return [None if said is None else tuple(map(self._value, said)) for said in results], read

    def _value(self, said: Sequence[str] | None) -> float:
        """Of the samples of one state; NaN where the engine failed."""
        if said is None:
            return math.nan
        lines = [(text.strip().splitlines() or [""])[-1] for text in said]
        words = [line.strip().lower().removesuffix(".") for line in lines]
        most = len(words) * max(self.weights.values())
        return sum(self.weights.get(word, 0.0) for word in words) / most


def ask_vote(question: str, choices: Sequence[str]) -> str:
    """Which of several partial solutions is best, to be closed by its number."""
    listed = "\n".join(f"Choice {i}:\n{text}" for i, text in enumerate(choices, 1))
    return (
        f"Question: {question}\nPartial solutions:\n{listed}\n"
        "Compare them, then write on the last line: The best choice is (number).\n"
    )


@dataclass(frozen=True)
class Votes:
    """The vote prompt of Tree of Thoughts: candidates of one question are compared with each other.

    A score is a candidate's share of the votes among the thoughts of the same question in the same
    call, which are the siblings where all of a question's candidates are stepped at once. So it
    says nothing across calls, and fits searches that choose level by level (BFS, beam), not MCTS.
    An only candidate gets 1; votes for none of the choices count for none. Where not all
    candidates fit into the prompt together, none can be read.

    Parameters as of `Verdicts`; `ask` makes the prompt of a question and its choices.
    """

    kind: ClassVar[Kind] = "potential"
    aggregate: ClassVar[Aggregate] = "last"
    engine: Engine
    ask: Callable[[str, Sequence[str]], str] = ask_vote
    samples: int = 5
    max_tokens: int = 256
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self)

    def score(self, thoughts: Sequence[Thought], added: Sequence[int]) -> Scores:
        """See `Scorer`. Of several new steps of a thought only the last has a vote to show."""
        groups: dict[str, list[int]] = {}
        for row, (thought, new) in enumerate(zip(thoughts, added, strict=True)):
            if new:
                groups.setdefault(thought.question, []).append(row)
        ballots = []
        for question, rows in groups.items():
            texts = [thoughts[row].text.strip("\n") for row in rows]
            prompt = encode_ask(self.engine, self.ask(question, texts)) if len(rows) > 1 else ()
            ballots.append([prompt] if prompt else [])
        results, read = _sampled_texts(self, ballots)
        scores: list[tuple[float, ...] | None] = [()] * len(thoughts)
        tokens = [0] * len(thoughts)
        for rows, said, cost in zip(groups.values(), results, read, strict=True):
            for number, row in enumerate(rows, 1):
                share = _share(said[0], number) if said else (None if said is None else 1.0)
                scores[row] = None if share is None else (share,) * added[row]
                tokens[row] = cost // len(rows) + (number <= cost % len(rows))
        return scores, tokens


def _share(said: Sequence[str] | None, number: int) -> float:
    """The share of the votes for choice `number`; NaN where the engine failed."""
    if said is None:
        return math.nan
    votes = [re.findall(r"best choice is\D*(\d+)", text.lower()) for text in said]
    return sum(int(vote[-1]) == number for vote in votes if vote) / len(votes)


@dataclass(frozen=True)
class AnswerLikelihood:
    """How sure the writer was of its answer: the geometric mean of the probabilities of the tokens
    of the last step, as they were drawn. Nothing is read again.

    NaN, which is a failure, where the engine tells no probabilities.
    """

    kind: ClassVar[Kind] = "terminal"
    aggregate: ClassVar[Aggregate] = "last"

    def score(self, thoughts: Sequence[Thought], added: Sequence[int]) -> Scores:
        """See `Scorer`."""
        scores: list[tuple[float, ...] | None] = []
        for thought in thoughts:
            if thought.finish != "answered" or thought.scores or not thought.steps:
                scores.append(())
            else:
                last = thought.steps[-1]
                scores.append((math.exp(last.logprob / max(1, len(last.tokens))),))
        return scores, [0] * len(thoughts)


JUDGES: dict[str, Callable[..., Scorer]] = {
    "critique": SelfCritique,
    "verdicts": Verdicts,
    "votes": Votes,
    "likelihood": lambda engine: AnswerLikelihood(),
}


def make_judge(name: str, engine: Engine, options: Mapping[str, Any] | None = None) -> Scorer:
    """A judge of JUDGES that asks a language model; `options` are its parameters.

    Raises ValueError on an unknown option and on a value that does not fit.
    """
    given = options or {}
    try:
        with naming_options(f"the judge {name!r}"):
            return JUDGES[name](engine, **given)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the judge {name!r} cannot take {given}: {error}") from error


# Prompts: one for each state that a new step makes.

Prompts = list[tuple[int, ...]]


def _prompts(
    engine: Engine, ask: Ask | None, thoughts: Sequence[Thought], added: Sequence[int]
) -> list[Prompts]:
    rows = []
    for thought, new in zip(thoughts, added, strict=True):
        ends = range(len(thought.steps) - new + 1, len(thought.steps) + 1)
        states = ["".join(step.text for step in thought.steps[:end]).strip("\n") for end in ends]
        asking = ask or thought.task.ask_value
        rows.append([encode_ask(engine, asking(thought.question, state)) for state in states])
    return rows


def _fits(engine: Engine, prompts: Prompts, more: int) -> bool:
    return all(len(prompt) + more <= engine.context for prompt in prompts)


def _length(prompts: Prompts) -> int:
    return sum(map(len, prompts))


def _check_sampling(judge: Verdicts | Votes) -> None:
    """Raise ValueError on what cannot be sampled."""
    for name in ("samples", "max_tokens"):
        value = getattr(judge, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    if not isinstance(judge.temperature, int | float) or judge.temperature < 0:
        raise ValueError(f"temperature must be a number of 0 or more, not {judge.temperature!r}")
    if not isinstance(judge.seed, int):
        raise ValueError(f"seed must be a whole number, not {judge.seed!r}")


# Sampling: the draws of a prompt are decided by the judge's seed and the prompt itself.


def _sampled_texts(
    judge: Verdicts | Votes, rows: list[Prompts]
) -> tuple[list[list[list[str] | None] | None], list[int]]:
    """What was said to each prompt of each row, None where the engine failed, and the tokens read
    and written for it; None for a row that does not fit."""
    fits = [_fits(judge.engine, row, judge.max_tokens) for row in rows]
    prompts = [prompt for row, good in zip(rows, fits, strict=True) if good for prompt in row]
    requests = [
        Request(prompt, judge.max_tokens, judge.temperature, _seed(judge.seed, prompt, number))
        for prompt in prompts
        for number in range(judge.samples)
    ]
    done = iter(judge.engine.generate(requests) if requests else [])
    results: list[list[list[str] | None] | None] = []
    read = []
    for row, good in zip(rows, fits, strict=True):
        if not good:
            results.append(None)
            read.append(0)
            continue
        samples = [[next(done) for _ in range(judge.samples)] for _ in row]
        results.append([_texts(judge.engine, one) for one in samples])
        written = sum(len(sample.tokens) for one in samples for sample in one)
        read.append(_length(row) + written)
    return results, read


def _texts(engine: Engine, samples: Sequence[Completion]) -> list[str] | None:
    if any(sample.finish == "failed" for sample in samples):
        return None
    return [engine.decode(sample.tokens) for sample in samples]


def _seed(seed: int, prompt: tuple[int, ...], number: int) -> int:
    digest = hashlib.sha256(repr((seed, number, prompt)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
