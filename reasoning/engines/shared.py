"""One engine for many threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

from reasoning.engines.base import (
    Completion,
    Engine,
    EngineError,
    Fill,
    Request,
    Score,
    ScoreRequest,
    Turn,
)


class _Call:
    """What one thread asked for and, once it is computed, what it gets."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self.requests = list(requests)
        self.results: list[Any] | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.results is not None or self.error is not None


class Shared:
    """Lets many threads use an engine that computes one batch at a time.

    While a batch is computed calls pile up; the first thread to find the engine free computes all
    of them as one batch. Nobody waits for others to come: the engine is idle only while no call
    is waiting. A call whose request is refused (ValueError) takes no other call with it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.context, self.chat = engine.context, engine.chat
        self._lock = threading.Lock()  # of the lists of waiting calls
        self._busy = threading.Lock()  # of the engine
        self._closed = False
        self._waiting: dict[str, list[_Call]] = {"generate": [], "score": []}

    def __getattr__(self, name: str) -> Any:
        """What the engine has beyond the interface (its tokenizer, say)."""
        return getattr(self.engine, name)

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """See `Engine`."""
        return self.engine.encode(text, start=start)

    def encode_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """See `Engine`."""
        return self.engine.encode_chat(turns)

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """See `Engine`."""
        return self.engine.encode_prompt(question)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Engine`."""
        return self.engine.decode(tokens)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        return self._ask("generate", requests)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        return self._ask("score", requests)

    @property
    def fill(self) -> Fill:
        """See `Engine`."""
        return self.engine.fill

    def forget(self) -> None:
        """See `Engine`."""
        self.engine.forget()

    def close(self) -> None:
        """See `Engine`."""
        self._closed = True  # who waits for the engine waits in vain, and is told so
        with self._busy:
            self.engine.close()

    def _ask(self, kind: Literal["generate", "score"], requests: Sequence[Any]) -> list[Any]:
        call = _Call(requests)
        with self._lock:
            self._waiting[kind].append(call)
        with self._busy:
            if not call.done:  # no other thread has computed it meanwhile
                self._compute(kind)
        if call.error is not None:
            raise call.error
        assert call.results is not None
        return call.results

    def _compute(self, kind: str) -> None:
        """Answer all calls of a kind that are waiting."""
        with self._lock:
            calls, self._waiting[kind] = self._waiting[kind], []
        try:
            if self._closed:
                raise EngineError("the engine is closed")
            self._answer(kind, calls)
        except ValueError:  # one of them is refused: each for itself
            for call in calls:
                try:
                    self._answer(kind, [call])
                except Exception as error:
                    call.error = error
        except Exception as error:
            for call in calls:
                call.error = error

    def _answer(self, kind: str, calls: list[_Call]) -> None:
        """Compute calls as one batch."""
        results = iter(getattr(self.engine, kind)([r for call in calls for r in call.requests]))
        for call in calls:
            call.results = [next(results) for _ in call.requests]
