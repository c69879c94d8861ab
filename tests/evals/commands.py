"""Commands as processes that are killed, for tests of resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "seconds_per_decision")


def start(module: str, argv: list[str], folder: Path) -> subprocess.Popen[str]:
    """`python -m module argv` in an empty folder."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MUJOCO_GL": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_and_resumed(
    module: str, argv: list[str], folder: Path, total: int
) -> tuple[list[dict[str, Any]], str]:
    """Run a command in `folder / "run"`, kill it after its first record, and let it finish.

    The records in the end, of which those from before the kill have stayed as they were, and what
    the second run printed.
    """
    out = folder / "run"
    done = kill_after_first_record(start(module, argv, folder), out)
    assert 0 < done < total and not (out / "summary.json").exists()
    kept = records_of(out)
    again = start(module, argv, folder)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    records = records_of(out)
    assert records[: len(kept)] == kept and len(records) == total
    return records, output


def kill_after_first_record(process: subprocess.Popen[str], out: Path) -> int:
    """Kill the process once a record is on disk; how many there are."""
    path = out / "records.jsonl"
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    return len(records_of(out))


def records_of(out: Path) -> list[dict[str, Any]]:
    """The complete lines of the records."""
    lines = (out / "records.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """A summary or record without what depends on the clock."""
    return {name: value for name, value in found.items() if name not in TIMES}


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())
