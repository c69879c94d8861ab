"""Whether a value from the command line fits the parameter that receives it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    return default_type(default) if hint is Any else hint


def element_type(hint: Any, default: Any) -> Any:
    """What the mapping `hint` takes as a value, else the type of the one in the YAML file."""
    for part in _parts(hint):
        arguments = typing.get_args(part)
        if typing.get_origin(part) in (dict, Mapping) and arguments[1] is not Any:
            return arguments[1]
    return default_type(default)


def default_type(default: Any) -> Any:
    """The type of the value in the YAML file; of `None` and mappings it is not known."""
    return Any if default is None or isinstance(default, dict) else type(default)


def misfit(name: str, hint: Any, value: Any) -> str | None:
    """`'name' must be ..., not ...` where `value`, or an element of it, is not of the type `hint`.

    A whole number is a number, too, a list a tuple, and a mapping what is built from it. The type
    of an interpolation is known only when it is resolved.
    """
    if isinstance(value, str) and "${" in value:
        return None
    wrong: str | None = f"{name!r} must be {describe(hint)}, not {_shown(value)}"
    for part in _parts(hint):
        if _accepts_part(part, value):
            if isinstance(value, float) and not math.isfinite(value):
                return f"{name!r} must be a finite number, not {value}"
            elements = (misfit(*element) for element in _elements(name, part, value))
            wrong = next(filter(None, elements), None)
            if wrong is None:
                return None
    return wrong


def describe(hint: Any) -> str:
    """The type in a user's words: `a whole number or null`."""
    described = []
    for part in _parts(hint):
        origin = typing.get_origin(part) or part
        if origin is Literal:
            described += [str(choice) for choice in typing.get_args(part)]
        elif origin in (list, tuple, Sequence):
            described.append("a list [a,b]")
        else:
            described.append(WORDS.get(origin, WORDS[dict]))
    return " or ".join(described)


def _annotation(receiver: Callable[..., object], parameter: str) -> Any:
    called: Any = receiver
    if inspect.isclass(receiver):
        has_fields = dataclasses.is_dataclass(receiver) or issubclass(receiver, tuple)
        called = receiver if has_fields else typing.cast(Any, receiver).__init__
    try:
        return typing.get_type_hints(called).get(parameter, Any)
    except (NameError, TypeError):
        return Any  # an annotation imported for type checkers only


def _parts(hint: Any) -> tuple[Any, ...]:
    """`int | None` to `(int, NoneType)`; anything else to itself."""
    is_union = typing.get_origin(hint) in (UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _accepts_part(part: Any, value: Any) -> bool:
    """Whether `value` is of the type, but for its elements."""
    origin = typing.get_origin(part) or part
    if origin is Any:
        return True
    if origin is Literal:
        return value in typing.get_args(part)
    if origin is tuple and isinstance(value, list) and ... not in typing.get_args(part):
        return len(value) == len(typing.get_args(part) or value)
    if isinstance(value, bool):
        return origin is bool
    accepted: dict[Any, Any] = {float: (int, float), Path: str, tuple: list, Sequence: list}
    is_object = origin not in (*SIMPLE, *GENERIC)  # built from a mapping with a _target_
    return isinstance(value, dict if is_object else accepted.get(origin, origin))


def _elements(name: str, part: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and value of each element of a list or mapping."""
    types = [hint for hint in typing.get_args(part) if hint is not ...]
    if isinstance(value, dict):
        hint = types[1] if len(types) > 1 else Any
        yield from ((f"{name}.{key}", hint, inner) for key, inner in value.items())
    elif isinstance(value, list):
        one_each = len(types) == len(value)  # tuple[int, str]
        hints = types if one_each else [*types, Any][:1] * len(value)
        for i, inner in enumerate(value):
            yield f"{name}[{i}]", hints[i], inner


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
