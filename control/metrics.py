"""The metrics of a training run: rows for people, plots and tables."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from control.checkpoints import explain_full_disk, write_atomically
from control.types import Evaluation, Row

COLUMNS = (
    "frames",  # simulator frames of training so far
    "decisions",  # actions chosen so far
    "updates",  # gradient steps so far
    "episodes",  # training episodes ended so far
    "return",  # mean of the training episodes that ended since the row before; empty where none did
    "eval_return",  # mean over an evaluation's episodes; empty in rows without one
    "eval_low",  # the lowest of them
    "eval_high",  # the highest
    "skipped",  # updates so far whose loss was not finite
    "seconds",  # of the run so far, the time while it was stopped left out
    "fps",  # frames per second since the row before
)  # then the agent's own
TIMES = ("seconds", "fps")  # all else is the same for the same seed


class Metrics:
    """What happened since the last row, and all rows. They are written as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.updates = self.episodes = self.skipped = 0
        self._returns: list[float] = []
        self._sums: dict[str, tuple[float, int]] = {}
        self._header: list[str] = []
        self._began = self._marked = time.perf_counter()
        self._before = 0.0  # seconds of earlier processes

    def ended(self, returns: Sequence[float]) -> None:
        """Training episodes ended."""
        self.episodes += len(returns)
        self._returns += returns

    def learned(self, metrics: dict[str, float]) -> None:
        """What `Learner.learn` returned."""
        for name, value in metrics.items():
            if name == "updates":
                self.updates += int(value)
            else:
                total, number = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + float(value), number + 1)

    def row(self, frames: int, decisions: int, evaluation: Evaluation | None) -> Row:
        """Sum up what happened since the last row in a new one, and write it."""
        now = time.perf_counter()
        row: Row = {"frames": frames, "decisions": decisions, "updates": self.updates}
        row["episodes"] = self.episodes
        if self._returns:
            row["return"] = sum(self._returns) / len(self._returns)
        if evaluation is not None:
            returns = evaluation.returns
            row["eval_return"] = float(returns.mean())
            row["eval_low"], row["eval_high"] = float(returns.min()), float(returns.max())
        row["skipped"] = self.skipped
        row["seconds"] = self._before + now - self._began
        since = frames - (self.rows[-1]["frames"] if self.rows else 0)
        row["fps"] = since / (now - self._marked)
        row |= {name: total / number for name, (total, number) in self._sums.items()}
        self._marked, self._returns, self._sums = now, [], {}
        self.rows.append(row)
        self._append(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """The rows, and what the next one will sum up."""
        counts = {"updates": self.updates, "episodes": self.episodes, "skipped": self.skipped}
        seconds = self._before + time.perf_counter() - self._began
        return {
            "rows": [dict(row) for row in self.rows],
            "returns": list(self._returns),
            "sums": dict(self._sums),
            "seconds": seconds,
            **counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; rows on disk that it does not know are dropped."""
        self.rows, self._returns = list(state["rows"]), list(state["returns"])
        self._sums, self._before = dict(state["sums"]), state["seconds"]
        self.updates, self.episodes = state["updates"], state["episodes"]
        self.skipped = state["skipped"]

    def write(self) -> None:
        """Both files anew."""
        used = {name for row in self.rows for name in row}
        self._header = [*COLUMNS, *sorted(used - set(COLUMNS))]
        lines = _csv(self._header, [dict(zip(self._header, self._header, strict=True)), *self.rows])
        for name, text in [
            ("metrics.csv", lines),
            ("metrics.jsonl", "".join(map(_json, self.rows))),
        ]:
            write_atomically(self.folder / name, lambda path, text=text: path.write_text(text))  # type: ignore[misc]

    def _append(self, row: Row) -> None:
        if not set(row) <= set(self._header):
            return self.write()
        for name, text in [
            ("metrics.csv", _csv(self._header, [row])),
            ("metrics.jsonl", _json(row)),
        ]:
            path = self.folder / name
            with explain_full_disk(path), path.open("a") as file:
                file.write(text)
        return None


def read_rows(path: Path, *needed: str) -> list[Row]:
    """The rows of a metrics.csv; cells that are empty there are absent.

    A last row that is cut, or runs into another, is left out: it is being written, or the disk was
    full. Raises ValueError, naming the file, where anything else is wrong or a row lacks one of the
    columns `needed`.
    """
    try:
        text = path.read_text()
        header, *lines = [cells for cells in csv.reader(text.splitlines()) if cells] or [[]]
        if lines and (len(lines[-1]) != len(header) or not text.endswith("\n")):
            lines.pop()
        rows = [_numbers(header, cells) for cells in lines]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no table of metrics: {error}") from error
    for row in rows:
        for name in needed:
            if name not in row:
                raise ValueError(f"{path} is no table of metrics: it has a row without {name}")
    return rows


def _numbers(header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise ValueError(f"a row has {len(cells)} cells, the first line {len(header)}")
    return {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}


def line(rows: Sequence[Row], frames: int) -> str:
    """The last row as a line of progress towards so many `frames`."""
    row = rows[-1]
    parts = [f"frames {row['frames']:8.0f}"]
    if "return" in row:
        parts.append(f"return {row['return']:7.1f}")
    if "eval_return" in row:
        low, high = row["eval_low"], row["eval_high"]
        parts.append(f"evaluated {row['eval_return']:7.1f} [{low:.1f}, {high:.1f}]")
    if row["skipped"]:
        parts.append(f"skipped {row['skipped']:.0f}")
    parts.append(f"{row['fps']:.0f} frames/s{_remaining(rows[-11:], frames)}")
    parts += [f"{name} {value:.3g}" for name, value in row.items() if name not in COLUMNS]
    return "  ".join(parts)


def _remaining(rows: Sequence[Row], frames: int) -> str:
    """How long the rest takes at the speed of these rows; nothing where that cannot be told."""
    first, last = rows[0], rows[-1]
    seen = last["frames"] - first["frames"]
    if seen <= 0 or last["frames"] >= frames:
        return ""
    seconds = (frames - last["frames"]) * (last["seconds"] - first["seconds"]) / seen
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f", {seconds / size:.1f} {unit} left"
    return f", {seconds:.0f} s left"


def _json(row: Row) -> str:
    """A row as a line of JSON, which has no NaN and no infinity: null stands for them."""
    numbers = {name: v if math.isfinite(v) else None for name, v in row.items()}
    return json.dumps(numbers, allow_nan=False) + "\n"


def _csv(header: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, header, lineterminator="\n").writerows(rows)
    return text.getvalue()
