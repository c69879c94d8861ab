"""JSON over HTTP, many requests at once, with patience."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from reasoning.engines.base import EngineError, Fill

LATER = frozenset({408, 409, 425, 429})  # and all from 500 on: worth trying again
NEVER = frozenset({401, 403, 404, 405})  # so will be every other request
LONGEST_WAIT = 30.0  # seconds


class Refused(NamedTuple):
    """A request that came to nothing, and why."""

    reason: str


class Client:
    """A server that answers POST requests with JSON.

    url: what paths are appended to, such as http://localhost:8000/v1.
    key: sent as a bearer token; by default the environment's OPENAI_API_KEY.
    timeout: seconds that a connection may be silent, so that an answer of many tokens takes less.
    retries: how often a request is sent again after a timeout, a lost connection, an answer that
        is no JSON, or a status of 408, 409, 425, 429 or 5xx.
    wait: seconds before the first of them, doubled before each further one up to half a minute;
        where the server says how long, that counts.
    concurrency: requests under way at once.

    The standard library does all of this in a hundred lines; the `openai` package would bring a
    dozen others for it.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        wait: float = 0.5,
        concurrency: int = 64,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be like http://localhost:8000/v1, not {url!r}")
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise ValueError(
                "concurrency must be at least 1, retries 0 or more and timeout above 0, not "
                f"{concurrency}, {retries} and {timeout}"
            )
        self.url, self.timeout = url.rstrip("/"), timeout
        self.retries, self.wait, self.concurrency = retries, wait, concurrency
        self._parts = parts
        key = os.environ.get("OPENAI_API_KEY") if key is None else key
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="http")
        self._own = threading.local()  # each thread's connection
        self._jitter = Random()
        self._lock = threading.Lock()
        self._running = 0
        self.fill = Fill(0, 0)  # requests under way, of those that may be

    def get(self, path: str) -> dict[str, Any]:
        """An object of the server. Raises EngineError where there is none."""
        try:
            status, _, data = self._exchange("GET", path, None)
        except (OSError, HTTPException) as error:
            raise EngineError(f"{self.url} cannot be reached: {_words(error)}") from error
        found = _object(data) if status == 200 else None
        if status == 200 and found is None:
            raise EngineError(
                f"{self.url}{path} answered with no JSON object: check that url is that of an "
                "OpenAI-compatible API, such as http://localhost:8000/v1"
            )
        if found is None:
            raise EngineError(f"{self.url}{path} answered {status}: {_message(data)}")
        return found

    def post(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Refused]:
        """The answer to each body, in order; `Refused` where it got none that can be used.

        Raises EngineError where the server cannot be reached any more or wants none of it.
        """
        return list(self._pool.map(lambda body: self._counted(path, body), bodies))

    def close(self) -> None:
        """End what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _counted(self, path: str, body: dict[str, Any]) -> dict[str, Any] | Refused:
        with self._lock:
            self._running += 1
            self.fill = Fill(
                self.fill.computed + self._running, self.fill.possible + self.concurrency
            )
        try:
            return self._insist(path, json.dumps(body).encode())
        finally:
            with self._lock:
                self._running -= 1

    def _insist(self, path: str, body: bytes) -> dict[str, Any] | Refused:
        """Send one request until it is answered, refused or out of tries."""
        reason, reached = "", False
        for attempt in range(self.retries + 1):
            wait = self.wait * 2**attempt
            try:
                status, later, data = self._exchange("POST", path, body)
            except (OSError, HTTPException) as error:
                reason, reached = _words(error), isinstance(error, TimeoutError)
            else:
                reached = True
                answer = _object(data) if status == 200 else None
                if answer is not None:
                    return answer
                if status in NEVER:
                    raise EngineError(f"{self.url}{path} answered {status}: {_message(data)}")
                if status != 200 and status not in LATER and status < 500:
                    return Refused(f"the server refused it ({status}): {_message(data)}")
                reason = "an answer that is no JSON" if status == 200 else f"status {status}"
                wait = later or wait
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST_WAIT) * self._jitter.uniform(0.5, 1.0))
        if not reached:
            self.get("/models")  # raises where there is nobody any more
        return Refused(f"{self.retries + 1} tries came to nothing, the last one: {reason}")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, float, bytes]:
        """Status, seconds that the server asks to wait (0: it does not say), and data."""
        kept = getattr(self._own, "connection", None)
        self._own.connection = None
        if kept is not None:
            try:
                return self._talk(kept, method, path, body)
            except ConnectionError:
                kept.close()  # the server had hung up meanwhile: that counts as no try
        return self._talk(self._connect(), method, path, body)

    def _talk(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, float, bytes]:
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            data = response.read()
        except BaseException:
            connection.close()
            raise
        self._own.connection = connection
        asked = response.headers.get("Retry-After", "")
        return response.status, float(asked) if asked.isdigit() else 0.0, data

    def _connect(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=self.timeout)


def _object(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None where it is none."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _message(data: bytes) -> str:
    """What an error's body says, in at most 200 characters on one line."""
    found = _object(data) or {}
    error = found.get("error", found)
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text or data.decode(errors="replace")).split())[:200]


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
