"""Where a run was: the machines, the versions and the commits that computed it, from which frame
on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from configs.machine import commit, processor
from control import checkpoints

FILE = "machine.json"  # in the run's folder
PACKAGES = ("mbrl-core", "torch", "numpy", "mujoco", "dm-control", "gymnasium", "stable-baselines3")


def note_machine(folder: Path, frames: int) -> None:
    """Add this machine to the folder's record where the run was not on it already, with the same
    versions and the same commit.

    Raises ValueError, naming the file, where the record is damaged.
    """
    seen = read_machines(folder)
    here = describe_machine()
    if not seen or {**seen[-1], "from frame": 0} != {**here, "from frame": 0}:
        text = json.dumps([*seen, {"from frame": frames, **here}], indent=2) + "\n"
        checkpoints.write_atomically(folder / FILE, lambda path: path.write_text(text))


def read_machines(folder: Path) -> list[dict[str, Any]]:
    """What `note_machine` wrote, nothing where it did not.

    Raises ValueError, naming the file, where it is damaged.
    """
    path = folder / FILE
    noted = checkpoints.read_json(path, list) if path.is_file() else []
    if not all(isinstance(machine, dict) for machine in noted):
        raise ValueError(f"{path} is damaged (it holds something else than machines)")
    return noted


def describe_machine() -> dict[str, str | int]:
    """Processor, cores, GPU, system, versions and, of a checkout, the commit."""
    described: dict[str, str | int] = {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "Python": platform.python_version(),
        **dict(_versions()),
    }
    made_by = commit()
    return described | ({"commit": made_by} if made_by else {})


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
