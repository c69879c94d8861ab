"""What the settings of every experiment have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, get_type_hints


def check_settings(settings: Any, **known: Collection[str]) -> None:
    """Raise ValueError, naming the setting, where an experiment would fail or show nothing.

    Whole numbers are above 0, lists have something in them, and what is listed under a name of
    `known` is among its names.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        listed = [value] if isinstance(value, int | float) else list(value)
        if not listed:
            raise ValueError(f"experiment.{name} must list at least one")
        for one in listed:
            if hint in (int, Sequence[int]) and one < 1:
                raise ValueError(f"experiment.{name} must be at least 1, not {one}")
            if name in known and one not in known[name]:
                choices = ", ".join(known[name])
                raise ValueError(f"experiment.{name} has no {one!r}: choose from {choices}")
