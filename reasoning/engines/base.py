"""What every engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Finish = Literal["stop", "eos", "length", "failed"]
"""Why a completion ended: a stop string, the end-of-text token, its limit of tokens, or a failure
of the engine that trying again did not mend."""


class EngineError(OSError):
    """The engine is gone, and every further request with it. One sentence says how."""


class Request(NamedTuple):
    """One completion to sample."""

    tokens: tuple[int, ...]  # everything before it
    max_tokens: int
    temperature: float  # 0 takes the likeliest token
    seed: int  # alone decides the draws, whatever else is in the batch
    stop: tuple[str, ...] = ()  # ends with the first token that completes one of these, kept
    cache_key: tuple[int, ...] | None = None  # of texts that go on from each other, as in a search:
    # an engine may keep under it what it computes


class Completion(NamedTuple):
    """What was generated for one request."""

    tokens: tuple[int, ...]  # the token that ended it included, end-of-text left out
    finish: Finish
    logprobs: tuple[float, ...]  # of each token at temperature 1, and of end-of-text after them
    prefilled: int  # prompt tokens computed for it; none where another request had the same prompt
    reason: str = ""  # of a failure, in one sentence

    @property
    def logprob(self) -> float:
        """Log-probability of all that was drawn."""
        return sum(self.logprobs)


def failure(reason: str) -> Completion:
    """The completion of a request that failed for good: no tokens, and why."""
    return Completion((), "failed", (), 0, reason)


class ScoreRequest(NamedTuple):
    """Which of a few tokens would come next, read at several positions of one text."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]  # each reads what follows tokens[position]
    options: tuple[int, ...]  # the token ids compared
    shared: int = 0  # so many leading tokens, before any position, other requests may share
    cache_key: tuple[int, ...] | None = None  # as in `Request`


class Score(NamedTuple):
    """What was read for one request."""

    logprobs: Tensor  # [positions, options], among the options alone; NaN where it failed
    read: int  # tokens computed for it, those not that were known or that another's text shares


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


class Fill(NamedTuple):
    """How full an engine's batches were: rows it computed, and rows it could have computed in the
    same number of model steps. Counted since the engine was made; two counts subtract."""

    computed: int
    possible: int

    @property
    def ratio(self) -> float:
        """Between 0 and 1; 0 where nothing was computed."""
        return self.computed / self.possible if self.possible else 0.0

    def since(self, before: Fill) -> Fill:
        """What was counted after `before`."""
        return Fill(self.computed - before.computed, self.possible - before.possible)


class Encoder(Protocol):
    """What makes token ids of text; `chat` is whether the model is to be talked to in its chat
    template."""

    chat: bool

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """Token ids of a piece of text; at the `start` of a sequence with the special tokens that
        the model expects there, else without any."""
        ...

    def encode_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Token ids of a whole conversation in the model's chat template, up to where the
        assistant's next words begin; where the last turn is the assistant's it goes on from there.

        Raises ValueError where the model has no chat template.
        """
        ...


class Engine(Encoder, Protocol):
    """A language model that generates and scores in batches.

    Several threads may call `generate` and `score` at once; the engine computes their requests
    together as far as it can, and no request changes the result of another.

    `context` is how many tokens prompt and completion may have together.
    """

    context: int

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """Token ids of the whole zero-shot prompt for a question, in the form the model expects.

        `reasoning.prompts.Prompt` has others.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order.

        A request that fails alone, after the engine has tried what there is to try, has the finish
        `failed`; the others are not touched.

        Raises ValueError where a request leaves no room within the model's context, and
        EngineError where the engine is gone.
        """
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """One score per request, in order; all NaN where the request failed alone.

        Raises ValueError where a text does not fit in the model's context, and EngineError where
        the engine is gone.
        """
        ...

    @property
    def fill(self) -> Fill:
        """How full the batches were so far."""
        ...

    def forget(self) -> None:
        """Let go of what was computed for requests so far, so that coming ones cost what first ones
        cost; a server keeps what it keeps."""
        ...

    def close(self) -> None:
        """Free what the engine holds (processes, memory, connections); it takes no more calls."""
        ...
