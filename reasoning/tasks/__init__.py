"""Reasoning tasks by name, or by `package.module:NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from reasoning.tasks.game24 import GAME24
from reasoning.tasks.generator import generate_problem, generate_problems
from reasoning.tasks.gsm8k import load_gsm8k
from reasoning.tasks.math500 import MATH500
from reasoning.tasks.plain import JSONL
from reasoning.tasks.types import Problem, Task
from reasoning.tasks.words import DEFAULT_STEPS, GSM8K, Generated

TASKS: Mapping[str, Task] = {
    task.name: task for task in (Generated(), GSM8K, MATH500, GAME24, JSONL)
}


def find_task(name: str, *, steps: tuple[int, int] | None = None) -> Task:
    """A task by its name in TASKS, or any other by its module and its name there.

    steps: least and greatest number of solution lines, of generated problems only.

    Raises ValueError on an unknown name (the nearest one is given), on what is no task, and on
    `steps` of another task.
    """
    task = _imported(name) if ":" in name else TASKS.get(name)
    if task is None:
        near = get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"There is no task {name!r}; did you mean {near!r}? Tasks: {', '.join(TASKS)}, and "
            "package.module:NAME."
        )
    if steps is None:
        return task
    if not isinstance(task, Generated):
        raise ValueError(f"steps are of generated problems, and the task is {name!r}")
    return replace(task, steps=steps)


def _imported(name: str) -> Task:
    module, _, attribute = name.partition(":")
    try:
        found = vars(import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"There is no module {module!r}, which is to have {attribute}.") from error
    except ValueError as error:  # an empty name
        raise ValueError(f"A task of one's own is package.module:NAME, not {name!r}.") from error
    if not isinstance(found, Task):
        raise ValueError(
            f"{attribute} of the module {module} is no task: make it an object of a subclass of "
            "reasoning.tasks.Task."
        )
    return found


def load_task(
    name: str,
    *,
    data: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    steps: tuple[int, int] | None = None,
) -> list[Problem]:
    """Problems of a task: `find_task` and `Task.load`, see there."""
    return find_task(name, steps=steps).load(data=data, split=split, limit=limit, seed=seed)


__all__ = [
    "DEFAULT_STEPS",
    "GAME24",
    "GSM8K",
    "JSONL",
    "MATH500",
    "TASKS",
    "Generated",
    "Problem",
    "Task",
    "find_task",
    "generate_problem",
    "generate_problems",
    "load_gsm8k",
    "load_task",
]
