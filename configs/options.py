"""How an option is written on a command line."""

from __future__ import annotations

import re


def option(name: str, value: object) -> str:
    """`name=value` as a command reads it, whatever characters the value has."""
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text):
        return f"{name}={text}"
    return f"{name}={quoted(text)}"


def quoted(text: str) -> str:
    """A text in quotes, which stays a text whatever it looks like."""
    # In quotes a backslash stands for itself, but before a quote it is one that escapes.
    inner = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), text)
    return f"'{inner}'"
