"""Whether a value from the command line fits the parameter that receives it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

SIMPLE = (bool, int, float, str, Path, NoneType, list, tuple, dict)
GENERIC = (Literal, list, tuple, dict, Sequence, Mapping)
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    dict: "a mapping {a:1,b:2}",
    Mapping: "a mapping {a:1,b:2}",
    NoneType: "null",
}


def expected_type(receiver: Callable[..., object] | None, parameter: str, default: Any) -> Any:
    """What a parameter takes: its annotation where that can be checked, else its default's type.

    Args:
        receiver: the function or class that is called with the parameter, where it is known.
        parameter: its name.
        default: the value in the YAML file; `None` and mappings tell nothing about the type.
    """
    hint = Any if receiver is None else _annotation(receiver, parameter)
    if hint is not Any:
        return hint
    return Any if default is None or isinstance(default, dict) else type(default)


def accepts(hint: Any, value: Any) -> bool:
    """Whether `value` is of the type `hint`; a whole number is a number, too, a list a tuple."""
    return hint is Any or any(_accepts_part(part, value) for part in _parts(hint))


def describe(hint: Any) -> str:
    """The type in a user's words: `a whole number or null`."""
    described = []
    for part in _parts(hint):
        origin = typing.get_origin(part) or part
        if origin is Literal:
            described += [str(choice) for choice in typing.get_args(part)]
        else:
            described.append(WORDS.get(origin, "a list [a,b]"))
    return " or ".join(described)


def _annotation(receiver: Callable[..., object], parameter: str) -> Any:
    called = typing.cast(Any, receiver).__init__ if inspect.isclass(receiver) else receiver
    try:
        hint = typing.get_type_hints(called).get(parameter, Any)
    except (NameError, TypeError):
        return Any  # an annotation imported for type checkers only
    return hint if all(_is_plain(part) for part in _parts(hint)) else Any


def _parts(hint: Any) -> tuple[Any, ...]:
    """`int | None` to `(int, NoneType)`; anything else to itself."""
    is_union = typing.get_origin(hint) in (UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _is_plain(part: Any) -> bool:
    return part in SIMPLE or typing.get_origin(part) in GENERIC


def _accepts_part(part: Any, value: Any) -> bool:
    origin = typing.get_origin(part) or part
    if origin is Literal:
        return value in typing.get_args(part)
    if isinstance(value, bool):
        return origin is bool
    accepted: dict[Any, Any] = {float: (int, float), Path: str, tuple: list, Sequence: list}
    return isinstance(value, accepted.get(origin, origin))
