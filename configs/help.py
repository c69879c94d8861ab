"""What `--help` prints: options, defaults and meanings, the last taken from the YAML comments.

The convention in `configs/`: comment lines at the top of a file say what the file is, and after
`example:` give options worth trying; a comment after `key: value`, which may go on in the lines
below, says what the option means.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEY = re.compile(r"^(?P<indent> *)(?:- )?(?P<key>[\w/]+):(?P<value>[^#]*)(?:#\s*(?P<meaning>.*))?$")
COMMENT = re.compile(r"^\s*#\s*(?P<text>.*)$")
NAME_WIDTH = 34


class Comments(NamedTuple):
    """What a YAML file's comments say."""

    summary: str  # what the file is; empty where it does not say
    examples: list[str]  # options of a command worth trying
    meanings: dict[str, str]  # dotted option name -> meaning


def read_comments(text: str) -> Comments:
    """The comments of one YAML file."""
    lines = text.splitlines()
    summary: list[str] = []
    examples: list[str] = []
    while lines and (match := COMMENT.match(lines[0])):
        lines.pop(0)
        kind, _, example = match["text"].partition("example:")
        if kind:
            summary.append(match["text"])
        else:
            examples.append(example.strip())
    meanings: dict[str, str] = {}
    path: list[tuple[int, str]] = []  # (indent, key) from the outermost key to the present one
    for line in lines:
        if match := KEY.match(line):
            indent = len(match["indent"])
            path = [entry for entry in path if entry[0] < indent] + [(indent, match["key"])]
            name = ".".join(key for _, key in path if key != "defaults")
            if name:
                meanings[name] = (match["meaning"] or "").strip()
        elif (match := COMMENT.match(line)) and path:
            name = ".".join(key for _, key in path if key != "defaults")
            meanings[name] = f"{meanings[name]} {match['text']}".strip()
    return Comments(" ".join(summary), examples, meanings)


def render_help(
    folder: Path, config_name: str, options: Any, choices: dict[str, str], doc: str
) -> str:
    """The whole help text.

    Args:
        folder: where the YAML files are.
        config_name: the entry file, without `.yaml`.
        options: the composed options (a mapping).
        choices: config group to the file chosen in it.
        doc: what the command does.
    """
    program = program_name()
    meanings = _meanings(folder, config_name, choices)
    own = [name for name in options if name not in choices]
    blocks = [f"usage: {program} [option=value ...] [flags]", doc.strip()]
    blocks.append("options, with their defaults\n" + _lines(own, options, meanings, ""))
    for group, choice in sorted(choices.items(), key=lambda item: list(options).index(item[0])):
        blocks.append(_choices(folder, group, meanings.get(group, "")))
        inner = options.get(group) or {}
        listed = _lines(list(inner), inner, meanings, f"{group}.")
        blocks.append(f"options of {group}={choice}, with their defaults\n{listed}")
    flags = _entry("-h, --help", "this text; after planner=mppi, say, it lists that one's options")
    flags += _entry("-m, --multirun", "one run per combination of the values in a=1,2 b=x,y")
    flags += _entry("--cfg", "print the options as YAML and stop")
    flags += _entry("--traceback", "show where an error comes from")
    blocks.append("flags\n" + flags.rstrip("\n"))
    examples = _read(folder / f"{config_name}.yaml").examples
    if examples:
        blocks.append("examples\n" + "\n".join(f"  {program} {text}".rstrip() for text in examples))
    return "\n\n".join(blocks)


def program_name() -> str:
    """How this process was started: `python -m control.train`, or a script's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return os.path.basename(sys.argv[0]) or "python"


def _meanings(folder: Path, config_name: str, choices: dict[str, str]) -> dict[str, str]:
    meanings = dict(_read(folder / f"{config_name}.yaml").meanings)
    for group, choice in choices.items():
        found = _read(folder / group / f"{choice}.yaml").meanings
        meanings |= {f"{group}.{name}": meaning for name, meaning in found.items()}
    return meanings


def _read(path: Path) -> Comments:
    return (
        read_comments(path.read_text(encoding="utf-8")) if path.is_file() else Comments("", [], {})
    )


def _choices(folder: Path, group: str, meaning: str) -> str:
    """What a config group is for, and the files to choose from."""
    text = f"{group}: {meaning or 'one of the following'}\n"
    for path in sorted((folder / group).glob("*.yaml")):
        text += _entry(f"{group}={path.stem}", _read(path).summary)
    return text.rstrip("\n")


def _lines(names: Sequence[str], options: Any, meanings: dict[str, str], prefix: str) -> str:
    lines = []
    for name, value in _leaves(names, options):
        lines.append(_entry(f"{prefix}{name}={_shown(value)}", meanings.get(prefix + name, "")))
    return "".join(lines).rstrip("\n")


def _leaves(names: Sequence[str], options: Any) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = options[name]
        if str(name).startswith("_"):
            continue  # _target_ and its kind are wiring
        if hasattr(value, "items") and value:
            for inner, leaf in _leaves(list(value), value):
                yield f"{name}.{inner}", leaf
        else:
            yield name, value


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _entry(name: str, meaning: str) -> str:
    """One line: the name in a column, the meaning wrapped beside it."""
    width = max(50, min(shutil.get_terminal_size((100, 24)).columns, 110)) - NAME_WIDTH - 3
    wrapped = textwrap.wrap(meaning, width) or [""]
    if len(name) > NAME_WIDTH:
        first = f"  {name}\n" + " " * (NAME_WIDTH + 3) + wrapped[0]
    else:
        first = f"  {name:<{NAME_WIDTH}} {wrapped[0]}"
    rest = [" " * (NAME_WIDTH + 3) + line for line in wrapped[1:]]
    return "\n".join([first.rstrip(), *rest]) + "\n"
