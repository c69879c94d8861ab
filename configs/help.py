"""What `--help` prints: options, defaults and meanings, the last taken from the YAML comments.

The convention in `configs/`: comment lines at the top of a file say what the file is, and after
`example:` give options worth trying; a comment after `key: value`, which may go on in the lines
below, says what the option means.
"""

from __future__ import annotations

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
    folder: Path,
    config_name: str,
    options: Any,
    choices: dict[str, str],
    doc: str,
    sweep: Any,
    sweep_choice: str,
) -> str:
    """The whole help text.

    Args:
        folder: where the YAML files are.
        config_name: the entry file, without `.yaml`.
        options: the composed options (a mapping).
        choices: config group to the file chosen in it.
        doc: what the command does.
        sweep: the options of `--multirun`.
        sweep_choice: the file they come from.
    """
    program = " ".join(["python", *program_arguments()])
    meanings = _meanings(folder, config_name, choices)
    own = [name for name in options if name not in choices]
    blocks = [f"usage: {program} [option=value ...] [flags]", doc.strip()]
    blocks.append("options, with their defaults\n" + _lines(own, options, meanings, ""))
    order = [*options, *choices]  # a group of which nothing was chosen has no options
    for group, choice in sorted(choices.items(), key=lambda item: order.index(item[0])):
        inner = options.get(group) or {}
        blocks += _group(folder, group, choice, inner, meanings, meanings.get(group, ""))
    flags = _entry("-h, --help", _help_meaning(folder, choices))
    flags += _entry(
        "-m, --multirun",
        "one run per combination of the values in a=1,2 b=x,y; sweep=... says where they run",
    )
    flags += _entry("--cfg", "print the options as YAML and stop")
    flags += _entry("--traceback", "show where an error comes from")
    blocks.append("flags\n" + flags.rstrip("\n"))
    meanings = _meanings(folder, "", {"sweep": sweep_choice})
    blocks += _group(folder, "sweep", sweep_choice, sweep, meanings, "where --multirun runs them")
    examples = _read(folder / f"{config_name}.yaml").examples
    if examples:
        blocks.append("examples\n" + "\n".join(f"  {program} {text}".rstrip() for text in examples))
    return "\n\n".join(blocks)


def _help_meaning(folder: Path, choices: dict[str, str]) -> str:
    """What --help does, with a choice not made as the example where there is one to make."""
    for group, chosen in sorted(choices.items()):
        names = sorted(path.stem for path in (folder / group).glob("*.yaml"))
        other = next(name for name in names if name != chosen)
        return f"this text; after {group}={other}, say, it lists that one's options"
    return "this text"


def program_arguments() -> list[str]:
    """The Python interpreter's arguments that start this program again: `-m control.train`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return ["-m", spec.name.removesuffix(".__main__")]
    return [sys.argv[0]]


def _group(
    folder: Path,
    group: str,
    choice: str | None,
    options: Any,
    meanings: dict[str, str],
    meaning: str,
) -> list[str]:
    """What there is to choose from, and the options of what was chosen, where something was."""
    listed = _lines(list(options), options, meanings, f"{group}.")
    chosen = [f"options of {group}={choice}, with their defaults\n{listed}"] if listed else []
    return [_choices(folder, group, meaning), *chosen]


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
    for name, value in _options(names, options):
        meaning = meanings.get(prefix + name, "")
        if not _has_parts(value):
            lines.append(_entry(f"{prefix}{name}={_shown(value)}", meaning))
        elif meaning:
            lines.append(_entry(f"{prefix}{name}", meaning))
    return "".join(lines).rstrip("\n")


def _options(names: Sequence[str], options: Any) -> Iterator[tuple[str, Any]]:
    """Dotted names and values, what has parts before its parts."""
    for name in names:
        value = options[name]
        if str(name).startswith("_"):
            continue  # _target_ and its kind are wiring
        yield name, value
        if _has_parts(value):
            for inner, part in _options(list(value), value):
                yield f"{name}.{inner}", part


def _has_parts(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _shown(value: Any) -> str:
    """A value as Hydra takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_shown(inner)}' for key, inner in value.items())}}}"
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
