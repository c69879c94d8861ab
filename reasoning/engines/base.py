"""What every engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    top_p: float = 1.0  # as of `Sampling`, and so are the next two
    top_k: int | None = None
    min_p: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and how many.

    temperature: 0 takes the likeliest token.
    top_p: only from the likeliest tokens that have this probability together (nucleus sampling,
        Holtzman et al. 2020); 1: from all.
    top_k: only from so many likeliest ones; None: from all.
    min_p: only from those that have at least this share of the likeliest one's probability (Nguyen
        et al. 2025); 0: from all.
    max_tokens: of a whole solution, or of what completes one.
    step_tokens: of a step; None: as many.

    Tokens are left out behind the temperature, by top_k, top_p and min_p in this order, as
    `transformers` has it. Raises ValueError on what cannot be.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    max_tokens: int = 256
    step_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 and 1, not {self.min_p}")
        for name in ("top_k", "max_tokens", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    def limit(self, *, whole: bool) -> int:
        """Tokens at most of a `whole` solution, or of a step."""
        return self.max_tokens if whole or self.step_tokens is None else self.step_tokens

    def request(
        self,
        tokens: tuple[int, ...],
        max_tokens: int,
        seed: int,
        stop: tuple[str, ...] = (),
        cache_key: tuple[int, ...] | None = None,
    ) -> Request:
        """A request that draws so."""
        drawn = self.top_p, self.top_k, self.min_p
        return Request(tokens, max_tokens, self.temperature, seed, stop, cache_key, *drawn)


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

    def followed_by(self, more: Completion) -> Completion:
        """The two as one, `more` being generated behind this one, which did not end the text."""
        return Completion(
            self.tokens + more.tokens,
            more.finish,
            self.logprobs + more.logprobs,
            self.prefilled + more.prefilled,
            more.reason,
        )


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
