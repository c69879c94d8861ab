"""What every engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Finish = Literal["stop", "eos", "length"]
"""Why a completion ended: a stop string, the end-of-text token, or its limit of tokens."""


class Request(NamedTuple):
    """One completion to sample."""

    tokens: tuple[int, ...]  # everything before it
    max_tokens: int
    temperature: float  # 0 takes the likeliest token
    seed: int  # alone decides the draws, whatever else is in the batch
    stop: tuple[str, ...] = ()  # ends with the first token that completes one of these, kept


class Completion(NamedTuple):
    """What was generated for one request."""

    tokens: tuple[int, ...]  # the token that ended it included, end-of-text left out
    finish: Finish
    logprobs: tuple[float, ...]  # of each token at temperature 1, and of end-of-text after them
    prefilled: int  # prompt tokens computed for it; 0 where another request had the same prompt

    @property
    def logprob(self) -> float:
        """Log-probability of all that was drawn."""
        return sum(self.logprobs)


class ScoreRequest(NamedTuple):
    """Which of a few tokens would come next, read at several positions of one text."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]  # each reads what follows tokens[position]
    options: tuple[int, ...]  # the token ids compared
    shared: int = 0  # so many leading tokens, before any position, other requests may share


class Engine(Protocol):
    """A language model that generates and scores in batches.

    `context` is how many tokens prompt and completion may have together.
    """

    context: int

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text, no special tokens added."""
        ...

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """Token ids of the whole prompt for a question, in the form the model expects."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order.

        Raises ValueError where a request leaves no room within the model's context.
        """
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Per request, log-probabilities [positions, options] among its options alone.

        Raises ValueError where a text does not fit in the model's context.
        """
        ...
