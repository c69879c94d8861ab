"""Folders are one process's at a time, and workers end with the command that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.processes import held
from control.agents.pets import PETS
from control.train import train
from reasoning.training.lm import train_lm
from reasoning.training.scorer import train_scorer

STARTED = """
import os, subprocess, sys
from configs.processes import end_with
if len(sys.argv) == 2:
    end_with(int(sys.argv[1]))
    print(os.getpid(), flush=True)
else:
    subprocess.Popen([sys.executable, __file__, str(os.getpid())])
import time
time.sleep(60)
"""

SPAWNED = """
import os, time
from multiprocessing import get_context
from reasoning.engines.vllm_workers import OWNER, Owned

def work():
    Owned("as vLLM makes it", rank=0)
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    os.environ[OWNER] = str(os.getpid())
    get_context("spawn").Process(target=work).start()
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    folder = tmp_path / "new" / "run"
    sentence = "run is being written by another process"
    with held(folder), pytest.raises(BlockingIOError, match=sentence), held(folder):
        pass
    with held(folder):
        assert folder.is_dir()


@pytest.mark.parametrize(
    "command",
    [
        lambda out: train(env="dmc/cartpole-swingup", agent=PETS(), out=out, frames=100),
        lambda out: train_lm(out=out),
        lambda out: train_scorer(out=out, lm="embedded"),
    ],
    ids=["control.train", "training.lm", "training.scorer"],
)
def test_a_second_command_leaves_a_folder_alone(tmp_path, command):
    with held(tmp_path), pytest.raises(BlockingIOError, match="written by another process"):
        command(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's end")
@pytest.mark.parametrize("started", [STARTED, SPAWNED], ids=["a worker", "an engine's worker"])
def test_a_worker_ends_with_a_killed_command(tmp_path, started):
    script = tmp_path / "start.py"
    script.write_text(started)
    root = str(Path(__file__).parents[1])
    command = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    for _ in range(100):
        if not _runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
