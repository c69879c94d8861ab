"""Keep of a run what tables and plots need, as small files below records/.

    python -m evals.keep run=runs/control/dmc/walker-walk/tdmpc2-tdmpc2-0
    python -m evals.keep run=runs/evals/dmc/walker-walk/zero

The first is a run of `control.train`, the second of `evals.control`. What the table against
published results is made of: `evals.references`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from control import checkpoints
from control.arguments import differences
from control.machine import describe_machine, read_machines
from control.metrics import COLUMNS, read_rows
from control.world_model import KIND as WORLD_MODEL
from evals.kept import (
    RECORDS,
    Mark,
    Training,
    place,
    write_mark,
    write_training,
)
from evals.records import load_run

PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "gymnasium", "stable-baselines3")


def keep(
    *,
    run: str | Path,
    name: str | None = None,
    records: str | Path = RECORDS,
    say: Callable[[str], None] = print,
) -> Path:
    """Copy what is worth keeping of a run folder; returns the file's path.

    Args:
        run: the folder of a run of `control.train` or of `evals.control`.
        name: of the agent, or of what was evaluated, in tables; the folder's name without the seed
            where None.
        records: where to keep it.
        say: is told where it lies.

    Raises:
        ValueError: the folder holds no such run, or one without an evaluation or an episode, or a
            file of it is damaged; or what is kept under the name came of other arguments.
    """
    folder = Path(run)
    named = name or re.sub(r"-\d+$", "", folder.resolve().name)
    if "/" in named:
        raise ValueError(f"name={named} must be a name without /: records lie in one folder")
    if (folder / "metrics.csv").exists() and (folder / "arguments.json").exists():
        training = _training(folder, named)
        _check_place(training, place(records, training))
        path = write_training(records, training)
    elif (folder / "records.jsonl").exists():
        mark = _mark(folder, named)
        _check_place(mark, place(records, mark))
        path = write_mark(records, mark)
    else:
        raise ValueError(f"{folder} holds no run of control.train or evals.control")
    say(f"kept {path}")
    return path


def _check_place(run: Training | Mark, path: Path) -> None:
    """Raise ValueError where a run of other arguments is kept at `path`, which would replace it."""
    if not path.exists():
        return
    theirs = checkpoints.read_json(path, dict).get("arguments", {})
    differ = differences(theirs, run.about["arguments"])
    if differ:
        named = f"{run.agent} {run.seed}" if isinstance(run, Training) else run.name
        raise ValueError(
            f"of {run.env} another run is kept as {named}, with {', '.join(differ)}: give "
            "this one another name=..."
        )


def _training(folder: Path, agent: str) -> Training:
    arguments = checkpoints.read_json(folder / "arguments.json", dict)
    env, seed = arguments.get("env"), arguments.get("seed")
    if not isinstance(env, str) or not isinstance(seed, int):
        raise ValueError(
            f"{folder} holds no run of control.train: arguments.json has no env or seed"
        )
    table = read_rows(folder / "metrics.csv", "frames", "decisions", "seconds")
    rows = [{n: row[n] for n in COLUMNS if n in row} for row in table]
    if not any("eval_return" in row for row in rows):
        raise ValueError(f"{folder} holds no evaluation yet")
    last = rows[-1]
    about = {
        "action_repeat": round(last["frames"] / last["decisions"]),
        "parameters": _parameters(folder / "model.pt"),
        "hours": round(last["seconds"] / 3600, 2),
        **_made_by((read_machines(folder) or [describe_machine()])[-1]),  # those of its end
        "arguments": arguments,
    }
    return Training(env, agent, seed, about, rows)


def _mark(folder: Path, name: str) -> Mark:
    arguments, records = load_run(folder)
    if not records:
        raise ValueError(f"{folder} holds no episode yet")
    if "env" not in arguments or any("return" not in record for record in records):
        raise ValueError(f"{folder} holds a run of something else than evals.control")
    records.sort(key=lambda record: record["id"])
    # This machine: an evaluation should be kept where it was made.
    about = {**_made_by(describe_machine()), "arguments": arguments}
    return Mark(arguments["env"], name, about, [record["return"] for record in records])


def _parameters(path: Path) -> int | None:
    """Numbers in a world model's weights; None where the agent has learned none."""
    if not path.exists():
        return None
    weights = checkpoints.load(path, WORLD_MODEL)["weights"].values()
    return sum(w.numel() for w in weights if isinstance(w, torch.Tensor) and w.is_floating_point())


def _made_by(noted: Mapping[str, Any]) -> dict[str, Any]:
    """The machine in words, the versions and the commit, of what `describe_machine` tells."""
    words = [f"{noted.get('cores', '?')} x {noted.get('processor', '?')}"]
    words += [str(gpu) for gpu in [noted.get("GPU", "none")] if gpu != "none"]
    words += [str(noted["system"]).partition("-")[0]] if "system" in noted else []
    words += [f"Python {noted['Python']}"] if "Python" in noted else []
    versions = {name: noted[name] for name in PACKAGES if name in noted}
    return {"machine": ", ".join(words), "versions": versions, "commit": noted.get("commit")}


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("keep", keep, __doc__ or ""))
