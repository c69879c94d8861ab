"""Files that are either whole or not there: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", dict[str, Any], list[Any])


class CheckpointError(ValueError):
    """A file that cannot be read as what it should be; the message is one sentence."""


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Raise OSError in one sentence where what is done within finds no room on the disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None) or _errno_behind(error)
        if code not in _FULL:
            raise
        raise OSError(
            f"no room on the disk for {path} ({os.strerror(code)}): make room and give the same "
            "command again; what was written before is intact"
        ) from error


def write_atomically(
    path: Path, write: Callable[[Path], object], *, keep_previous: bool = False
) -> None:
    """Let `write` make a temporary file, then give it the name `path` in one step.

    `keep_previous` keeps the file before as `previous(path)`. Where it fails both are what they
    were, and no temporary file takes up room. Raises OSError, in one sentence, where the disk is
    full.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with explain_full_disk(path):
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if keep_previous and path.exists():
                # A second name for it: there is no moment at which `path` does not exist.
                _link(path, previous(path))
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, payload: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write tensors and plain data; see `write_atomically`."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # its errors, unlike those of torch's own, have a number
            torch.save(payload, file)

    write_atomically(path, write, keep_previous=keep_previous)


def previous(path: Path) -> Path:
    """Where `save` keeps the file before."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save` wrote; see `read`.

    Raises CheckpointError where the file is missing, damaged, or its `kind` entry is another.
    """
    payload = read(path)
    if payload.get("kind") != kind:
        raise CheckpointError(f"{path} does not hold a {kind}")
    return payload


def read(path: Path) -> dict[str, Any]:
    """The tensors and plain data of a file, of whatever kind. No code of the file is run.

    Raises CheckpointError where the file is missing, damaged, or holds no dict.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what damage makes of a file, torch meets with errors of any kind
        raise CheckpointError(f"{path} is damaged, or no file of this project") from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} is damaged, or no file of this project")
    return payload


def read_json(path: Path, kind: type[T]) -> T:
    """The plain data of a JSON file, which is to be a `kind`: a dict or a list.

    Raises CheckpointError, naming the file, where it is damaged or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} is damaged (it holds no {kind.__name__})")
    return value


def read_newest(path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """Read `path`, or the file before it where it is damaged: (payload, warning or "").

    Nothing is written. Raises CheckpointError where both are unusable.
    """
    try:
        return load(path, kind), ""
    except CheckpointError as error:
        older = previous(path)
        try:
            payload = load(older, kind)
        except CheckpointError:
            if not path.is_file():
                raise error from None
            raise CheckpointError(
                f"{error}, and there is no earlier one that can be read: begin anew in another "
                "folder"
            ) from None
        return payload, f"{error}; going on from {older.name}"


def load_newest(path: Path, kind: str) -> tuple[dict[str, Any], str]:
    """The same for the process that writes them: the damaged file gives way to the one before it,
    which the next `save` would otherwise replace by it.
    """
    payload, warning = read_newest(path, kind)
    if warning:
        _link(previous(path), path)
    return payload, warning


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _link(path: Path, name: Path) -> None:
    """Make `name` a second name of the file `path`, whatever it named before."""
    temporary = name.with_name(f"{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        _link_or_copy(path, temporary)
        os.replace(temporary, name)
    finally:
        temporary.unlink(missing_ok=True)  # it stays where both already named the same file


def _link_or_copy(path: Path, name: Path) -> None:
    """Make `name` a second name of the file, or a copy where the file system has no such names."""
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, name)


def _errno_behind(error: BaseException) -> int | None:
    """The number of the system's error that led to this one, where there is one."""
    behind = error.__cause__ or error.__context__
    return getattr(behind, "errno", None) if behind else None


def pack(value: Any) -> Any:
    """Named tuples, lists, tuples, dicts, tensors and plain values as what `load` reads.

    A planner's carry is such a value. Raises ValueError where something else is in it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # of a view the whole storage would be written
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        name = "list" if isinstance(value, list) else _name_of(type(value))
        return {_TYPE: name, "parts": [pack(part) for part in value]}
    if isinstance(value, dict):
        return {_TYPE: "dict", "keys": list(value), "parts": [pack(v) for v in value.values()]}
    raise ValueError(f"{type(value).__name__} cannot be saved: make it of named tuples and tensors")


def unpack(value: Any, device: torch.device | None = None) -> Any:
    """What was packed, tensors on `device`.

    A named tuple's class must have been imported already: nothing a file names is imported.
    """
    if isinstance(value, Tensor):
        return value.to(device) if device else value
    if not isinstance(value, dict):
        return value
    parts = [unpack(part, device) for part in value["parts"]]
    name = value[_TYPE]
    if name == "list":
        return parts
    if name == "dict":
        return dict(zip(value["keys"], parts, strict=True))
    return tuple(parts) if name == "tuple" else _named_tuple(name)(*parts)


def restore_generator(rng: torch.Generator, state: Tensor) -> None:
    """Let `rng` go on from a saved state.

    On another kind of device than it was saved on, where states are of another kind too, it goes
    on from a seed that follows from the saved one.
    """
    if len(state) == len(rng.get_state()):
        rng.set_state(state.cpu())
    else:
        rng.manual_seed(zlib.crc32(state.cpu().numpy().tobytes()))


_TYPE = "type of value"
_PLAIN = (bool, int, float, str, type(None))


def _name_of(kind: type) -> str:
    return "tuple" if kind is tuple else f"{kind.__module__}:{kind.__qualname__}"


def _named_tuple(name: str) -> Callable[..., Any]:
    """The imported class of that name."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise CheckpointError(f"the file holds a value of type {name}, which is not known here")
    return found
