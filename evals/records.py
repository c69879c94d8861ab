"""The run folder: what was asked, one record per finished episode or problem, and the summary.

    config.json     the arguments of the run and their hash
    records.jsonl   one JSON object per line, appended as each episode or problem completes
    failures.jsonl  one JSON object per attempt that failed: its id and the reason
    summary.json    written once at the end, recomputable from these two

A run that was killed continues where it stopped: open the same folder with the same arguments and
skip the ids that `done` lists. A failure is no record: what failed is tried again. A folder in
which nothing came of a run is free for another.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.processes import LOCK, hold

CONFIG = "config.json"
RECORDS = "records.jsonl"
FAILURES = "failures.jsonl"
SUMMARY = "summary.json"
WORKERS = "workers"  # folder, inside the run's, of what is not yet merged


class RecordStore:
    """A run folder opened for writing by this process alone.

    Use it as a context manager, or call `close`. Records are plain JSON values; NaN and infinities
    are refused, because a failure has a value of its own (`None`) and is not a number.
    """

    def __init__(self, out: str | Path, arguments: Mapping[str, Any]) -> None:
        """Create the folder `out` or continue the run in it.

        Raises:
            ValueError: the folder holds something of a run with other arguments, which are named
                with both values, or records of a run without its arguments; or its records are
                malformed; or an argument is not plain data.
            BlockingIOError: another process has the folder open.
            OSError: the disk refuses; the message names the file.
        """
        self.folder = Path(out)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _named(error, "create", self.folder) from error
        self._lock = hold(self.folder)
        try:
            _claim(self.folder / CONFIG, arguments)
            path = self.folder / RECORDS
            _drop_truncated_line(path)
            self._records = {record["id"]: record for record in read_records(path)}
            self._failures = read_failures(self.folder / FAILURES)
            self._file = open(path, "ab")  # noqa: SIM115 (closed by `close`)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __contains__(self, id: object) -> bool:
        return id in self._records

    def __getitem__(self, id: str | int) -> dict[str, Any]:
        return self._records[id]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def done(self) -> frozenset[str | int]:
        """The ids that have a record."""
        return frozenset(self._records)

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records so far, in the order of completion, `id` included."""
        return list(self._records.values())

    @property
    def failures(self) -> dict[str | int, str]:
        """Of what failed and has no record: the id and the reason of the last attempt."""
        return {id: why for id, why in self._failures.items() if id not in self._records}

    def fail(self, id: str | int, reason: str) -> None:
        """Note that an attempt at an episode or problem failed; on disk when this returns.

        Raises OSError, naming the file, where the disk refuses.
        """
        path = self.folder / FAILURES
        try:
            with open(path, "ab") as file:
                file.write((json.dumps({"id": id, "reason": reason}) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _named(error, "write", path) from error
        self._failures[id] = reason

    def append(self, id: str | int, record: Mapping[str, Any]) -> None:
        """Add the record of one finished episode or problem; on disk when this returns.

        Raises ValueError where `id` has a record already or `record` is not plain finite data, and
        OSError, naming the file, where the disk refuses.
        """
        if id in self._records:
            raise ValueError(f"{self.folder / RECORDS} has a record for {id!r} already")
        whole = {"id": id, **record}
        line = _encode(whole, f"the record of {id!r}") + "\n"
        start = self._file.tell()
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._forget_from(start)
            raise _named(error, "write", self.folder / RECORDS) from error
        self._records[id] = json.loads(line)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Replace `summary.json` in one step: no reader sees half of it. Returns its path."""
        path = self.folder / SUMMARY
        write_atomically(path, _encode(summary, "the summary", indent=2) + "\n")
        return path

    def close(self) -> None:
        """Let go of the folder; a second call does nothing."""
        if self._lock >= 0:
            self._file.close()
            os.close(self._lock)
            self._lock = -1

    def _forget_from(self, start: int) -> None:
        """Take a half-written line back, so that a later append does not continue it."""
        path = self.folder / RECORDS
        with contextlib.suppress(OSError):  # the buffer still holds what the disk refused
            self._file.close()
        os.truncate(path, start)
        self._file = open(path, "ab")  # noqa: SIM115


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records in a `records.jsonl`; none where the file does not exist.

    Text after the last newline is left out: it is still being written, or was when the run was
    killed. Raises ValueError naming file and line where a line is no JSON object with an `id`, a
    text or a whole number, or where an id occurs twice.
    """
    path = Path(path)
    data = path.read_bytes() if path.exists() else b""
    seen: dict[Any, int] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            id = record["id"]
        except (ValueError, TypeError, KeyError):
            id = None
        if not isinstance(id, str | int):
            raise ValueError(f"{path}, line {number}: not a record: {line[:60]!r}")
        if id in seen:
            raise ValueError(f"{path}, line {number}: {id!r} is in line {seen[id]} already")
        seen[id] = number
        yield record


def read_failures(path: str | Path) -> dict[str | int, str]:
    """Id and last reason of the failures in a `failures.jsonl`; none where the file does not exist.

    A line that a killed run has not finished is passed over.
    """
    path = Path(path)
    found: dict[str | int, str] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            found[record["id"]] = record["reason"]
    return found


def load_run(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The arguments and the records of a run folder, which another process may be writing.

    Records are in the order of their ids, numbers in them as numbers: what is made of them does not
    depend on which was completed first.

    Raises FileNotFoundError where `folder` holds no run and ValueError where a record is malformed.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no {CONFIG}")
    records = sorted(read_records(Path(folder) / RECORDS), key=lambda record: _rank(record["id"]))
    return _arguments(path), records


def _rank(id: str | int) -> tuple[list[str | int], str]:
    """What ids are sorted by: a9 comes before a10."""
    parts = re.split("([0-9]+)", str(id))  # texts and numbers in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], str(id)


def check_format(folder: str | Path, records: Iterable[Mapping[str, Any]], *names: str) -> None:
    """Raise ValueError where a record in `folder` lacks one of `names`, which records hold now."""
    lacking = next((name for record in records for name in names if name not in record), None)
    if lacking is not None:
        raise ValueError(
            f"{folder} is a run of an earlier format: run it again in another folder (a record has "
            f"no {lacking!r})"
        )


def fingerprint(path: str | Path) -> str | None:
    """Twelve hexadecimal digits of a model's weights, so that a run notices when they change.

    Read are size, first and last megabyte of the file, or of each weight file in the folder. None
    where nothing is there, as for a hub name.
    """
    path = Path(path)
    kinds = {".safetensors", ".bin", ".pt"}
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in kinds)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as weights:
            digest.update(f"{file.name}:{size}".encode() + weights.read(2**20))
            weights.seek(max(0, size - 2**20))
            digest.update(weights.read())
    return digest.hexdigest()[:12] if files else None


def hash_arguments(arguments: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that depend on the arguments' values and not on their order.

    1 and 1.0 count as the same value, as Python holds them equal.
    """
    text = json.dumps(_canonical(dict(arguments)), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _claim(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write `config.json`, or refuse a folder that holds something of a run of other arguments, or
    of one that does not say its own."""
    text = _encode({"hash": "", "arguments": dict(arguments)}, "the arguments", indent=2)
    wanted = json.loads(text)["arguments"]
    found = _arguments(path) if path.exists() else None
    if found is not None and hash_arguments(found) == hash_arguments(wanted):
        return
    if found is None and _holds_records(path.parent):
        raise ValueError(
            f"{path.parent} holds records, but no {CONFIG} that says of which run: put it back, or "
            "choose another folder"
        )
    if found is not None and not _is_empty(path.parent):
        raise ValueError(
            f"{path.parent} holds a run with other arguments: "
            f"{_differences(_flat(found), _flat(wanted))}; choose another folder"
        )
    config = {"hash": hash_arguments(wanted), "arguments": wanted}
    write_atomically(path, json.dumps(config, indent=2) + "\n")


def _holds_records(folder: Path) -> bool:
    """Whether a run, or a worker of it, has left a record or a failure in its folder."""
    found = (file for at in (folder, *folder.glob(f"{WORKERS}/*")) for file in at.glob("*.jsonl"))
    return any(file.name in (RECORDS, FAILURES) and file.stat().st_size for file in found)


def _is_empty(folder: Path) -> bool:
    """Whether a run has left nothing in its folder, or in those of its workers."""
    own = (CONFIG, LOCK)
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    return not any(path.stat().st_size for path in files)


def _arguments(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["arguments"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is not the configuration of a run") from None


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [
        name
        for name in sorted(found.keys() | wanted.keys())
        if (name in found) != (name in wanted) or found[name] != wanted[name]
    ]
    absent = "absent"
    shown = [
        f"{name} was {_shown(found[name]) if name in found else absent}, "
        f"now {_shown(wanted[name]) if name in wanted else absent}"
        for name in names
    ]
    return ", ".join(shown)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            leaves |= _flat(item, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = item
    return leaves


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _encode(value: Mapping[str, Any], what: str, indent: int | None = None) -> str:
    try:
        return json.dumps(value, allow_nan=False, indent=indent, default=_plain)
    except (TypeError, ValueError) as error:
        hint = " (None stands for a failure)" if isinstance(error, ValueError) else ""
        raise ValueError(f"{what} is not plain finite data: {error}{hint}") from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy and torch, and paths, as JSON knows them."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _drop_truncated_line(path: Path) -> None:
    """Cut the file after its last newline: what follows was being written in a killed run."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def check_writable(path: Path) -> None:
    """Create the folder of a file that is to be written later. OSError, naming the file, where it
    could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _named(error, "write", path) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step. OSError, naming the file, where the disk refuses."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _named(error, "write", path) from error


def _named(error: OSError, verb: str, path: Path) -> OSError:
    """The same error in a sentence that names the file."""
    return OSError(f"cannot {verb} {path}: {error.strerror or error}")
