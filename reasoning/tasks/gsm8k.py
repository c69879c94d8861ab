"""GSM8K (Cobbe et al. 2021), from the hub or from a local file in the original format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasoning.tasks.files import Source, lines_of, load_records, text_of
from reasoning.tasks.types import Problem

SOURCE = Source("GSM8K", "openai/gsm8k", "main")


def load_gsm8k(data: str | Path, split: str = "test", limit: int | None = None) -> list[Problem]:
    """Read problems through HF ``datasets``.

    Args:
        data: a local JSONL file (fields ``question`` and ``answer``), a folder that holds
            ``train.jsonl`` and ``test.jsonl``, or a hub name such as ``openai/gsm8k``.
        split: ``train`` or ``test``.
        limit: keep only the first ``limit`` problems.

    Raises:
        ValueError: unknown split, ``limit`` below 1, or a malformed record (file and line named).
        FileNotFoundError: ``data`` looks like a path but there is no such file.
    """

    def parse(record: dict[str, Any], where: str, number: int) -> Problem:
        return _parse(record, where, f"gsm8k/{split}/{number}")

    return load_records(SOURCE, data, split, limit, parse)


def _parse(record: dict[str, Any], where: str, name: str) -> Problem:
    question, worked = (text_of(record, key, where) for key in ("question", "answer"))
    steps, _, last = worked.rpartition("\n")
    answer = last.removeprefix("####").strip().replace(",", "")
    if not last.startswith("####") or not answer:
        raise ValueError(f"{where}: the answer does not end in a line '#### number'.")
    return Problem(name, question, answer, lines_of(steps))
