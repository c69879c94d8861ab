"""GSM8K (Cobbe et al. 2021), from the hub or from a local file in the original format."""

from pathlib import Path
from typing import Any

from reasoning.tasks.types import Problem

HUB_CONFIG = "main"
SPLITS = ("train", "test")


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
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    path = Path(data)
    if path.is_dir():
        path = path / f"{split}.jsonl"
    if path.suffix in (".jsonl", ".json") or path.exists():
        if not path.is_file():
            raise FileNotFoundError(f"There is no GSM8K file at {path}.")
        records, origin = _read_file(path), str(path)
    else:
        records, origin = _read_hub(str(data), split), str(data)
    if not records:
        raise ValueError(f"{origin} holds no problems.")
    return [
        _parse(record, f"{origin}, line {i + 1}", f"gsm8k/{split}/{i}")
        for i, record in enumerate(records[:limit])
    ]


def _read_file(path: Path) -> list[Any]:
    """Records of a JSONL file: one text record a line, so that errors can name the line."""
    from datasets import load_dataset

    if path.stat().st_size == 0:  # the library fails on an empty file with a long trace
        return []
    lines = load_dataset("text", data_files=str(path), split="train", keep_linebreaks=False)
    return list(lines["text"])


def _read_hub(name: str, split: str) -> list[Any]:
    from datasets import load_dataset

    try:
        return list(load_dataset(name, HUB_CONFIG, split=split))
    except Exception as error:  # the hub raises many kinds; each means the data is not available
        raise FileNotFoundError(
            f"{name!r} is neither a local file nor a data set that can be loaded: {error}"
        ) from error


def _parse(record: Any, where: str, name: str) -> Problem:
    """One problem from a JSON line or a record of the hub's data set."""
    import json

    if isinstance(record, str):
        try:
            record = json.loads(record)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not a JSON record ({error.msg}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a record must be an object with question and answer.")
    for key in ("question", "answer"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise ValueError(f"{where}: the field {key!r} is missing, empty or not text.")
    *steps, last = record["answer"].strip().split("\n")
    answer = last.removeprefix("####").strip().replace(",", "")
    if not last.startswith("####") or not answer:
        raise ValueError(f"{where}: the answer does not end in a line '#### number'.")
    solution = tuple(step.strip() for step in steps if step.strip())
    return Problem(name, record["question"].strip(), answer, solution)
