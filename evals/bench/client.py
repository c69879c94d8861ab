"""The sides of a cell: what each needs, how it is installed, and the process that it runs in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = ROOT / ".peers"  # libraries that cannot be installed beside ours
# What glibc has given back to the system it must fetch again, page by page: up to twice the time of
# a plan, by chance. Every side keeps what it has had (blocks of up to 32 MiB: glibc's most).
MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


class Side(NamedTuple):
    """Code that runs one side of a cell, and the library it needs."""

    module: str
    packages: tuple[str, ...] = ()  # whose versions are told; the first is the library
    install: tuple[str, ...] = ()  # for pip, into a folder of its own; empty: by the `bench` extra
    source: tuple[str, str] | None = None  # a repository and its commit, where there is no package
    about: str = ""


SIDES = {
    "ours": Side("ours", ("torch",)),
    "bare calls": Side("bare", ("torch",)),
    "pytorch-mppi": Side(
        "pytorch_mppi",
        ("pytorch-mppi",),
        about="each iteration is one `command`; for B > 1 its batched class, which draws the same "
        "noise for all roots",
    ),
    "torchrl": Side("torchrl", ("torchrl", "tensordict"), about="a model environment of its own"),
    "mbrl-lib": Side(
        "mbrl_lib",
        ("mbrl",),
        # Its pinned hydra-core 1.0 does not run on Python 3.11.
        ("--no-deps", "mbrl==0.2.0", "termcolor"),
        about="the optimiser alone, on the bare model: its own environment wrapper is left out; "
        "loops over roots",
    ),
    "stable-worldmodel": Side(
        "stable_worldmodel",
        ("stable-worldmodel",),
        ("--no-deps", "stable-worldmodel==0.1.1", "loguru"),
        about="its solvers alone; without bounds on actions",
    ),
    "TD-MPC2": Side(
        "tdmpc2",
        ("torch",),
        about="no package: its plan step re-stated plainly in `evals/bench/sides/tdmpc2.py`; loops "
        "over roots",
    ),
    "our TD-MPC2": Side("tdmpc2_ours", ("torch",), about="`control.agents.tdmpc2`"),
    "TD-MPC2, official": Side(
        "tdmpc2_official",
        ("torch", "tensordict"),
        source=(
            "https://github.com/nicklashansen/tdmpc2",
            "e9f59321933cbc8e11a002b842adc7d4ffae8ff1",
        ),
        about="its authors' code at that commit, with the CPU for its CUDA device",
    ),
    "mctx": Side(
        "mctx",
        ("mctx", "jax"),
        ("mctx==0.0.71", "jax==0.10.2"),
        about="compiled by `jax.jit`; compile time apart",
    ),
    "decoding": Side("decoding", ("transformers",)),
}


class SideError(Exception):
    """A side could not be installed, started or run; the message is one line."""


def install(side: Side) -> None:
    """Put the side's library into its folder, where it is not there yet.

    Raises SideError with pip's or git's reason.
    """
    folder = FOLDERS / side.module
    done = folder / ".requirements"
    wanted = "\n".join((*side.install, *(side.source or ())))
    if not wanted or (done.exists() and done.read_text() == wanted):
        return
    if side.source:
        repository, at = side.source
        _fetch(repository, at, folder / "source")
        done.write_text(wanted)
        return
    options = ["--quiet", "--upgrade", "--target", str(folder), *side.install]
    command = [sys.executable, "-m", "pip", "install", *options]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        reasons = [line for line in told.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = reasons[-1].removeprefix("ERROR: ") if reasons else f"pip exit {told.returncode}"
        raise SideError(f"does not install: {reason}")
    done.write_text(wanted)


def _fetch(repository: str, commit: str, folder: Path) -> None:
    """Put a repository's files at a commit into a folder. Raises SideError with git's reason."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth=1", repository, commit),
        ("checkout", "--quiet", "--force", "FETCH_HEAD"),
    )
    quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    for step in steps:
        command = ["git", "-C", str(folder), *step]
        told = subprocess.run(command, capture_output=True, text=True, env=quiet)
        if told.returncode:
            reasons = told.stderr.strip().splitlines() or [f"git exit {told.returncode}"]
            raise SideError(f"cannot be fetched: {reasons[-1]}")


class Worker:
    """The process of one side. Use it as a context manager, or call `close`."""

    def __init__(self, side: Side, threads: int) -> None:
        """Start the process with `threads` threads on as many cores. Raises SideError."""
        install(side)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"evals.bench.sides.{side.module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=_environment(side, threads),
            preexec_fn=lambda: _pin(threads),
        )
        self.versions: dict[str, str] = self._ask(versions=side.packages)["versions"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self, settings: dict[str, Any]) -> float:
        """Build what is to be run and run it once; the seconds that took, compilation included."""
        return self._ask(prepare=settings)["seconds"]

    def run(self, times: int) -> float:
        """Seconds of one run, the mean over `times`."""
        return self._ask(run=times)["seconds"]

    def memory(self) -> int | None:
        """Peak bytes of one run; None where the system does not say."""
        return self._ask(memory=True)["bytes"]

    def answer(self) -> Any:
        """What one run found."""
        return self._ask(answer=True)["answer"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideError(f"its process ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def _environment(side: Side, threads: int) -> dict[str, str]:
    path = [str(ROOT), *([str(FOLDERS / side.module)] if side.install else [])]
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} | MEMORY
    return os.environ | limits | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"}


def _pin(threads: int) -> None:
    """Keep this process to the last `threads` cores, the same for every side."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])
