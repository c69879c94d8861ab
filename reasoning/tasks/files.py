"""Records of a task from a JSONL file, a folder of such files, or the hub."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reasoning.tasks.types import Problem, check_limit


class Source(NamedTuple):
    """A data set: what it is called and how the hub has it."""

    title: str
    hub: str = ""  # by default, for `datasets.load_dataset`
    config: str | None = None
    splits: tuple[str, ...] = ("train", "test")


Parse = Callable[[dict[str, Any], str, int], Problem]
"""From a record, where it stands and its number, from 0, to a problem."""


def load_records(
    source: Source, data: str | Path | None, split: str, limit: int | None, parse: Parse
) -> list[Problem]:
    """The first `limit` problems of a split.

    Args:
        source: the data set; its hub name is the default of `data`.
        data: a local JSONL file, a folder that holds ``<split>.jsonl``, or a hub name.
        split: one of the source's.
        limit: None is all.
        parse: makes a problem of a record.

    Raises:
        ValueError: unknown split, `limit` below 1, a malformed record or an id that comes twice
            (file and line named).
        FileNotFoundError: there are no such data.
    """
    if split not in source.splits:
        raise ValueError(f"split must be one of {', '.join(source.splits)}, not {split!r}")
    check_limit(limit)
    records, origin = _records(source, data, split)
    lines = [(f"{origin}, line {n}", r) for n, r in enumerate(records, 1) if not _blank(r)]
    if not lines:
        raise ValueError(f"{origin} holds no problems.")
    return distinct(
        (where, parse(_object(record, where), where, number))
        for number, (where, record) in enumerate(lines[:limit])
    )


def distinct(problems: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """Problems without where they stand. Raises ValueError on an id that comes twice: of two
    problems of one id a run would keep one."""
    found: dict[str, Problem] = {}
    for where, problem in problems:
        if problem.id in found:
            _, _, name = problem.id.partition("/")
            raise ValueError(f"{where}: the id {name!r} comes twice.")
        found[problem.id] = problem
    return list(found.values())


def name_of(record: dict[str, Any], key: str, split: str, number: int) -> str:
    """The field that names a record, or `split/number` where there is none."""
    given = record.get(key)
    return f"{split}/{number}" if given is None or given == "" else str(given)


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """A field that must hold text. Raises ValueError where it does not."""
    if not isinstance(record.get(key), str) or not record[key].strip():
        raise ValueError(f"{where}: the field {key!r} is missing, empty or not text.")
    return record[key].strip()


def steps_of(record: dict[str, Any], where: str) -> tuple[str, ...]:
    """The lines of a field `solution`, a text or a list of texts, that are not blank; none without
    it. Raises ValueError where it is something else."""
    given = record.get("solution") or ""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: the field 'solution' is neither text nor a list of lines.")
    return lines_of("\n".join(texts))


def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a text that are not blank."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _blank(record: Any) -> bool:
    return isinstance(record, str) and not record.strip()


def _records(source: Source, data: str | Path | None, split: str) -> tuple[Sequence[Any], str]:
    """All records and where they come from."""
    if data is None and not source.hub:
        raise ValueError(f"{source.title} needs data=...: a JSONL file, or a folder of such")
    path = Path(source.hub if data is None else data)
    if path.is_dir():
        path = path / f"{split}.jsonl"
    if path.suffix in (".jsonl", ".json") or path.exists():
        if not path.is_file():
            raise FileNotFoundError(f"{source.title}: there is no file at {path}.")
        return _lines(path), str(path)
    return _from_hub(str(path), source.config, split), str(path)


def _lines(path: Path) -> list[str]:
    """One text record a line, so that errors can name the line."""
    lines = path.read_bytes().removeprefix(BOM_UTF8).splitlines()
    return [_decoded(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text: save the file as UTF-8.") from error


def _from_hub(name: str, config: str | None, split: str) -> list[Any]:
    from datasets import load_dataset

    try:
        return list(load_dataset(name, config, split=split))
    except Exception as error:  # the hub raises many kinds; each means the data is not available
        raise FileNotFoundError(
            f"{name!r} is neither a local file nor a data set that can be loaded: {error}"
        ) from error


def _object(record: Any, where: str) -> dict[str, Any]:
    """A record of the hub's data set, or what a JSON line holds."""
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not a JSON record ({error.msg}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a record must be an object with question and answer.")
    return record
