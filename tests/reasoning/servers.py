"""A small server that speaks OpenAI's protocol, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
"""From the path and the body of a request to what is answered."""


class Fake(ThreadingHTTPServer):
    """Answers with `answer`, after the `faults` that are still to be committed, one a request.

    A fault is a status, "hang up" (in the middle of an answer), "garbage" (no JSON) or "sleep".
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer, models: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.models = answer, models
        self.faults: list[int | str] = []
        self.headers: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def do_GET(self) -> None:
        self.send(200, {"data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.add(self.headers.get("Authorization"))
            fault = self.server.faults.pop(0) if self.server.faults else None
        match fault:
            case None:
                self.send(200, self.server.answer(self.path, body))
            case int():
                self.send(fault, {"error": {"message": f"no {fault} today"}})
            case "garbage":
                self.send(200, None)
            case "hang up":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
            case "sleep":
                time.sleep(1.0)
                self.close_connection = True

    def send(self, status: int, answer: dict[str, Any] | None) -> None:
        data = b"<html>busy" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@contextmanager
def serving(answer: Answer, *models: dict[str, Any]) -> Iterator[Fake]:
    """A running server."""
    server = Fake(answer, list(models))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
