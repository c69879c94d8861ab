"""What is worth keeping of runs, as small files that go with the code.

    records/control/<env>/<agent>-<seed>.csv    the rows of a training run's metrics
    records/control/<env>/<agent>-<seed>.json   its recipe, versions, machine and hours
    records/control/<env>/marks/<name>.json     an evaluation of one planner, or of none

`evals.keep` writes them, tables and plots are made from them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evals.records import write_atomically

RECORDS = Path("records/control")


class Training(NamedTuple):
    """One training run."""

    env: str
    agent: str  # its name in tables; runs of one name differ in their seeds alone
    seed: int
    about: dict[str, Any]  # action_repeat, parameters, hours, machine, versions, arguments, ...
    rows: list[dict[str, float]]  # of metrics.csv, cells that are empty left out

    @property
    def evaluations(self) -> list[tuple[float, float]]:
        """(frames, mean return) of every evaluation, in order."""
        return [(r["frames"], r["eval_return"]) for r in self.rows if "eval_return" in r]


class Mark(NamedTuple):
    """An evaluation without training, such as of random actions."""

    env: str
    name: str
    about: dict[str, Any]
    returns: list[float]  # of its episodes


def place(folder: str | Path, run: Training | Mark) -> Path:
    """Where below `folder` it is written what a run was."""
    own = Path(folder) / run.env
    if isinstance(run, Mark):
        return own / "marks" / f"{run.name}.json"
    return own / f"{run.agent}-{run.seed}.json"


def write_training(folder: str | Path, run: Training) -> Path:
    """Write a training run's two files below `folder`; the path of the table."""
    about = place(folder, run)
    about.parent.mkdir(parents=True, exist_ok=True)
    named = {"env": run.env, "agent": run.agent, "seed": run.seed}
    _write_json(about, named | run.about)
    table = io.StringIO(newline="")
    names = list(dict.fromkeys(n for row in run.rows for n in row))
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {n: f"{v:.6g}" if v % 1 else f"{v:.0f}" for n, v in r.items()} for r in run.rows
    )
    path = about.with_suffix(".csv")
    write_atomically(path, table.getvalue())  # last: what reads records looks for tables
    return path


def write_mark(folder: str | Path, mark: Mark) -> Path:
    """Write an evaluation's file below `folder` and return its path."""
    path = place(folder, mark)
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = [round(value, 3) for value in mark.returns]
    _write_json(path, {"env": mark.env, "name": mark.name, "returns": rounded} | mark.about)
    return path


def read_trainings(folder: str | Path) -> list[Training]:
    """Every training run below `folder`, by environment, agent and seed.

    Raises ValueError, naming the file, where one is no such record.
    """
    found = []
    for path in Path(folder).rglob("*.csv"):
        with _naming(path), path.open(newline="") as file:
            about = json.loads(path.with_suffix(".json").read_text())
            rows = [{n: float(v) for n, v in row.items() if v} for row in csv.DictReader(file)]
            env, agent, seed = (about.pop(name) for name in ("env", "agent", "seed"))
            found.append(Training(env, agent, seed, about, rows))
    return sorted(found, key=lambda run: run[:3])


def read_marks(folder: str | Path) -> list[Mark]:
    """Every evaluation below `folder`; ValueError as `read_trainings`."""
    found = []
    for path in sorted(Path(folder).rglob("marks/*.json")):
        with _naming(path):
            about = json.loads(path.read_text())
            env, name, returns = (about.pop(key) for key in ("env", "name", "returns"))
            found.append(Mark(env, name, about, returns))
    return found


class _naming:
    """Raise ValueError, naming the file, for whatever is wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | KeyError | OSError):
            raise ValueError(f"{self.path} is no record of a run: {error!r}") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1) + "\n")
