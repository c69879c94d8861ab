"""Reasoning tasks by name: ``gsm8k`` and ``generated``."""

from difflib import get_close_matches
from pathlib import Path

from reasoning.tasks.generator import generate_problem, generate_problems
from reasoning.tasks.gsm8k import load_gsm8k
from reasoning.tasks.types import Problem

TASKS = ("generated", "gsm8k")
DEFAULT_STEPS = (3, 5)
"""Solution lines of the problems in the default evaluation mix."""


def load_task(
    name: str,
    *,
    data: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    steps: tuple[int, int] = DEFAULT_STEPS,
) -> list[Problem]:
    """Problems of a task.

    Args:
        name: ``generated`` or ``gsm8k``.
        data: for ``gsm8k``: a file, a folder or a hub name (``openai/gsm8k`` when None).
        split: ``train`` or ``test``; generated problems have ``reward`` too.
        limit: number of problems; None is all of GSM8K, or 200 generated ones.
        seed: for ``generated``: stream of problems.
        steps: for ``generated``: smallest and largest number of solution lines.

    Raises:
        ValueError: unknown name (the nearest valid one is given), split, or ``limit`` below 1.
        FileNotFoundError: the data cannot be found.
    """
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"There is no task {name!r}; did you mean {near!r}? Tasks: {', '.join(TASKS)}."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if name == "gsm8k":
        return load_gsm8k("openai/gsm8k" if data is None else data, split, limit)
    if data is not None:
        raise ValueError("The task 'generated' reads no data; leave data empty.")
    return generate_problems(split, 200 if limit is None else limit, steps, seed)


__all__ = [
    "DEFAULT_STEPS",
    "TASKS",
    "Problem",
    "generate_problem",
    "generate_problems",
    "load_gsm8k",
    "load_task",
]
