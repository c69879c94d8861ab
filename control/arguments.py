"""What a run was given: recorded in its folder, and compared when the run is to continue."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from control import checkpoints

FILE = "arguments.json"
FREE = ("device", "compiled", "nan")  # wherever they stand: recorded, and may change
_TARGET = "_target_"  # the class of an object, as in the YAML files


def plain(value: Any) -> Any:
    """An argument as plain data, as a command line has it: dataclasses by their class and fields.

    What is none of these is told by its repr.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {_TARGET: f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def check(folder: Path, arguments: dict[str, Any]) -> None:
    """Raise ValueError where `folder` holds a run of other arguments, naming those that differ.

    A folder without a checkpoint holds no run: there is nothing in it to continue.
    """
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists() and not checkpoints.previous(checkpoint).exists():
        return
    theirs = read(folder)
    differ = differences(theirs, json.loads(json.dumps(arguments)))
    if differ:
        raise ValueError(f"{folder} holds a run with {', '.join(differ)}: choose another folder")


def record(folder: Path, arguments: dict[str, Any]) -> None:
    """Write them to `folder`."""
    text = json.dumps(arguments, indent=2) + "\n"
    checkpoints.write_atomically(folder / FILE, lambda temporary: temporary.write_text(text))


def read(folder: Path) -> dict[str, Any]:
    """The arguments of the run in `folder`. Raises ValueError where they are missing or damaged."""
    path = folder / FILE
    if not path.exists():
        raise ValueError(f"{folder} holds a run without {FILE}: choose another folder")
    try:
        return checkpoints.read_json(path, dict)
    except checkpoints.CheckpointError as error:
        raise ValueError(f"{error}: restore it, or choose another folder") from error


def differences(theirs: Any, mine: Any, name: str = "") -> list[str]:
    """`name=theirs (now mine)` of every leaf that differs; of an object of another class, once.

    What may differ between two calls of the same run is left out.
    """
    if not _alike(theirs, mine):
        same = theirs == mine
        return [] if same else [f"{name}={_short(theirs)} (now {_short(mine)})"]
    found = []
    for key in sorted({*theirs, *mine} - {*FREE}):
        below = f"{name}.{key}" if name else key
        found += differences(theirs.get(key), mine.get(key), below)
    return found


def _alike(one: Any, other: Any) -> bool:
    """Whether these are options, or objects of one class, whose parts can be compared."""
    return (
        isinstance(one, dict) and isinstance(other, dict) and one.get(_TARGET) == other.get(_TARGET)
    )


def _short(value: Any) -> str:
    """A leaf, or the class of an object."""
    if isinstance(value, dict) and _TARGET in value:
        return str(value[_TARGET]).rsplit(".", 1)[-1]
    return repr(value)
