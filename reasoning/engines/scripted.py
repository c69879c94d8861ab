"""An engine that follows a script: no weights, for tests and examples."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Fill, Finish, Request, Score, ScoreRequest, Turn

Script = Callable[[str], Sequence[tuple[str, float]]]
"""From the text so far to its possible continuations and their weights."""


class ScriptedEngine:
    """Draws continuations from a script, one token per character.

    script: gives the possible continuations of a text; one that ends in "\\0" ends the text.
    options: gives the weight of each option (one character) where `score` reads; by default 1.
    """

    END = "\0"
    context = 2**31
    chat = False

    def __init__(self, script: Script, options: Callable[[str, str], float] | None = None) -> None:
        self.script = script
        self.options = options or (lambda text, option: 1.0)
        self.calls = 0
        self.rows = 0
        self._lock = threading.Lock()

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """See `Engine`."""
        return tuple(map(ord, text))

    def encode_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """See `Engine`."""
        raise ValueError("a script has no chat template")

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """See `Engine`."""
        return self.encode(f"{question}\n")

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Engine`."""
        return "".join(map(chr, tokens))

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`. Temperature 0 takes the heaviest continuation, the first of equals; top_p,
        top_k and min_p leave out none, since continuations are no tokens."""
        self._count(len(requests))
        seen: set[tuple[int, ...]] = set()
        completions = []
        for request in requests:
            prefilled = 0 if request.tokens in seen else len(request.tokens)
            seen.add(request.tokens)
            completions.append(self._complete(request)._replace(prefilled=prefilled))
        return completions

    def _complete(self, request: Request) -> Completion:
        rng = random.Random(request.seed)
        text = ""
        logprobs: list[float] = []  # of each character: a continuation's stands at its first
        while True:
            choices = self.script(self.decode(request.tokens) + text)
            weights = [weight for _, weight in choices]
            if request.temperature == 0:
                pick = weights.index(max(weights))
            else:
                heated = [weight ** (1 / request.temperature) for weight in weights]
                pick = rng.choices(range(len(choices)), heated)[0]
            more, weight = choices[pick]
            text += more
            logprobs += [math.log(weight / sum(weights)), *[0.0] * (len(more) - 1)]
            finish, length = self._end(text, request)
            if finish is not None:
                drawn = logprobs[: length + (finish == "eos")]
                return Completion(self.encode(text[:length]), finish, tuple(drawn), 0)

    def _end(self, text: str, request: Request) -> tuple[Finish | None, int]:
        """Why and after how many characters a completion ends, if it does."""
        said = text.removesuffix(self.END)
        stops = [said.find(stop) + len(stop) for stop in request.stop if stop in said]
        if stops and min(stops) <= request.max_tokens:
            return "stop", min(stops)
        if len(said) >= request.max_tokens:
            return "length", request.max_tokens
        return ("eos" if len(said) < len(text) else None), len(said)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        self._count(len(requests))
        return [Score(self._read(request), len(request.tokens)) for request in requests]

    def _read(self, request: ScoreRequest) -> Tensor:
        """Log-probabilities [positions, options]."""
        weights = [
            [
                self.options(self.decode(request.tokens[: at + 1]), chr(option))
                for option in request.options
            ]
            for at in request.positions
        ]
        return torch.tensor(weights).log().log_softmax(-1)

    @property
    def fill(self) -> Fill:
        """See `Engine`. A script has room for any batch."""
        return Fill(self.rows, self.rows)

    def forget(self) -> None:
        """See `Engine`: nothing is kept here."""

    def close(self) -> None:
        """See `Engine`."""

    def _count(self, rows: int) -> None:
        with self._lock:
            self.calls += 1
            self.rows += rows
