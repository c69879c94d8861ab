"""Files that are either whole or not there: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A file that cannot be read as what it should be; the message is one sentence."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file, then give it the name `path` in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, payload: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write tensors and plain data; `keep_previous` keeps the file before as `previous(path)`."""
    if keep_previous and path.exists():
        # A second name for the present file: there is no moment at which `path` does not exist.
        write_atomically(previous(path), lambda temporary: _link(path, temporary))
    write_atomically(path, lambda temporary: torch.save(payload, temporary))


def previous(path: Path) -> Path:
    """Where `save` keeps the file before."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save` wrote. No code of the file is run.

    Raises CheckpointError where the file is missing, damaged, or its `kind` entry is another.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is damaged, or no file of this project") from error
    if not isinstance(payload, dict) or payload.get("kind") != kind:
        raise CheckpointError(f"{path} does not hold a {kind}")
    return payload


def load_newest(path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """Read `path`, or the file before it where it is damaged: (payload, warning or "").

    Raises CheckpointError where both are unusable.
    """
    try:
        return load(path, kind), ""
    except CheckpointError as error:
        try:
            return load(previous(path), kind), f"{error}; continuing from {previous(path).name}"
        except CheckpointError:
            raise error from None


_UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    KeyError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def _link(path: Path, temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    os.link(path, temporary)
