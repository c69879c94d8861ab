"""A stand-in for the hub on loopback: tiny models and problems under the names of published ones,
answered for as the hub's clients ask."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import torch
from datasets import Dataset

from reasoning.tasks import generate_problems
from tests.prms import save_prm, save_qwen

COMMIT = "0" * 40
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""


def save_hub(root: Path, models: list[str], reward_model: str, problems: str) -> None:
    """Folders as `serve_hub` takes them: language models, a reward model and problems by name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in models:
            save_qwen(root / "models" / name)
    save_prm("qwen_prm", root / "made").rename(root / "models" / reward_model)
    folder = root / "datasets" / problems
    (folder / "main").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for split in ("train", "test"):
        rows = [
            {"question": p.question, "answer": "\n".join([*p.solution, f"#### {p.answer}"])}
            for p in generate_problems(split, 4, (1, 3))
        ]
        Dataset.from_list(rows).to_parquet(folder / "main" / f"{split}-00000-of-00001.parquet")


class Hub(ThreadingHTTPServer):
    """Serves the files below `root`."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve `root`, which holds `models/<owner>/<name>` and `datasets/<owner>/<name>`.

    Yields the address, for the environment variable `HF_ENDPOINT`.
    """
    with Hub(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    """`/<repository>/resolve/<revision>/<file>` is a file; `/api/...` tells which there are."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(None)

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(parse_qs(form).get("paths", []))

    def answer(self, asked: list[str] | None) -> None:
        """`asked`: the paths that a POST wants to know of."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        repository, rest = self.server.root.joinpath(kind, *parts[:2]), parts[2:]
        file = repository.joinpath(*rest[2:])
        if len(parts) < 2 or not repository.is_dir():
            self.refuse("RepoNotFound")
        elif api:
            self.send(json.dumps(described(repository, rest, asked)).encode())
        elif rest[:1] == ["resolve"] and file.is_file():
            self.send(file.read_bytes())
        else:
            self.refuse("EntryNotFound")

    def refuse(self, code: str) -> None:
        self.send(b"{}", 404, {"X-Error-Code": code})

    def send(self, data: bytes, status: int = 200, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(data)}"', **(more or {})}
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


def described(repository: Path, rest: list[str], asked: list[str] | None) -> Any:
    """A repository, the listing of a folder, or what is known of the paths asked for."""
    files = {str(path.relative_to(repository)): path for path in sorted(repository.rglob("*"))}
    if asked is not None:
        return [entry(name, files[name]) for name in asked if name in files]
    if rest[:1] == ["tree"]:
        below = "/".join(rest[2:])
        return [entry(name, path) for name, path in files.items() if name.startswith(below)]
    siblings = [{"rfilename": name} for name, path in files.items() if path.is_file()]
    return {"id": "/".join(repository.parts[-2:]), "sha": COMMIT, "siblings": siblings}


def entry(name: str, path: Path) -> dict[str, Any]:
    """A file or folder, as listings have it."""
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT}
    data = path.read_bytes()
    return {"type": "file", "path": name, "size": len(data), "oid": digest(data)}


def digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
