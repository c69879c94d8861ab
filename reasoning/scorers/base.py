"""What all judges share that read a text once and say how likely it is right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from reasoning.engines.base import Engine, ScoreRequest
from reasoning.world import Aggregate, Kind, Thought


class Layout(NamedTuple):
    """A solution as its judge reads it."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]  # of the new steps: each is judged by what follows tokens[place]
    shared: int  # so many leading tokens are common to all continuations of the steps before


class ReadingScorer(ABC):
    """Judges steps by one pass over the text, reading the engine's two options where each ends.

    engine: a language model whose options are the tokens of two labels, or a model with a head
        (`reasoning.scorers.heads`) whose options are its classes.
    options: of the engine, good before bad. A score is the good one's share of the two.

    A causal model's scores of earlier steps never change, so only new steps are read out. A
    thought that does not fit in the context, or whose text holds a token that the format keeps
    for itself, cannot be read: its scores are None and the others are not touched.
    """

    kind: ClassVar[Kind] = "step"
    aggregate: ClassVar[Aggregate]

    def __init__(self, engine: Engine, options: tuple[int, int]) -> None:
        self.engine = engine
        self.options = options
        self.reserved = reserved_tokens(engine)

    @abstractmethod
    def layout(self, thought: Thought, new: int) -> Layout | None:
        """How a thought with `new` unread steps is read; None where it cannot be."""

    def score(
        self, thoughts: Sequence[Thought], added: Sequence[int]
    ) -> tuple[list[tuple[float, ...] | None], list[int]]:
        """See `Scorer`."""
        scores: list[tuple[float, ...] | None] = [()] * len(thoughts)
        read = [0] * len(thoughts)
        requests, rows = [], []
        for row, (thought, steps) in enumerate(zip(thoughts, added, strict=True)):
            new = self.unread(thought, steps)
            if not new:
                continue
            request = self.request(thought, new)
            if request is None or len(request.tokens) > self.engine.context:
                scores[row] = None
            else:
                rows.append(row)
                requests.append(request)
        results = self.engine.score(requests) if requests else []
        for row, found in zip(rows, results, strict=True):
            scores[row] = tuple(found.logprobs[:, 0].exp().tolist())
            read[row] = found.read
        return scores, read

    def request(self, thought: Thought, new: int) -> ScoreRequest | None:
        """What is asked of the engine for the last `new` steps; None where it cannot be."""
        layout = None if self.plain(thought.question) is None else self.layout(thought, new)
        if layout is None:
            return None
        # Some of it was read before, or will have been when the solution has gone on.
        grows = new < len(thought.steps) or thought.finish == "open"
        key = thought.prompt if grows else None
        return ScoreRequest(layout.tokens, layout.places, self.options, layout.shared, key)

    def unread(self, thought: Thought, added: int) -> int:
        """How many of the last `added` steps are to be judged."""
        return added

    def plain(self, text: str) -> tuple[int, ...] | None:
        """Token ids of a text; None where one of them means something to the format."""
        tokens = self.engine.encode(text)
        return None if self.reserved.intersection(tokens) else tokens


def tokenizer_of(engine: Engine) -> Any:
    """The tokenizer of an engine that has one in the hub's format, else None."""
    return getattr(engine, "tokenizer", None)


def reserved_tokens(engine: Engine) -> set[int]:
    """Ids of a tokenizer's special tokens, which no step may hold; none without a tokenizer."""
    tokenizer = tokenizer_of(engine)
    if tokenizer is None:
        return set()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def one_token(engine: Engine, text: str) -> int:
    """The id of a text that must be one token; ValueError where it is none."""
    tokens = engine.encode(text)
    if len(tokens) != 1:
        raise ValueError(
            f"the scorer's tokenizer must have {text!r} as one token, and it makes "
            f"{len(tokens)}: this model is no step scorer of that format"
        )
    return tokens[0]
