"""Many runs of one command: several at once on this machine, or on a Ray cluster.

A job is a command line. It runs in a process of its own, which appends all it prints to a log, so
that a job that fails, or is killed, takes no other with it. Runs continue where they were stopped,
so giving the same command again finishes what is missing.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from configs.processes import end_with

PARENT = "SWEEP_PARENT"  # environment variable: the process with which a job has to end
PROMPT = "$ python "  # in a log, before the command
TAIL = 50_000  # bytes of a log in which its last line is looked for


class Job(NamedTuple):
    """One run of a sweep."""

    name: str  # the options in which it differs from the others
    arguments: tuple[str, ...]  # of the Python interpreter
    folder: str  # in which it is started
    log: str  # file; its folder is made


class Outcome(NamedTuple):
    """How a job ended."""

    code: int  # exit code; minus the signal that killed it
    sentence: str  # what it said last, or why it failed


Submit: TypeAlias = Callable[[Job], "futures.Future[Outcome]"]
Say: TypeAlias = Callable[[str], None]


class Runner(Protocol):
    """Where jobs run; a frozen dataclass."""

    @property
    def retries(self) -> int:
        """How often a job is started again that was killed, or whose machine was lost."""
        ...

    def start(self) -> AbstractContextManager[Submit]:
        """Submit jobs; leaving the context ends those that are still running."""
        ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes on this machine, with its cores shared out among them."""

    workers: int = 1
    retries: int = 1

    @contextmanager
    def start(self) -> Iterator[Submit]:
        """Submit to a pool of threads, each of which waits for one process."""
        if self.workers < 1:
            raise ValueError(f"sweep.workers must be at least 1, not {self.workers}")
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        environment = {"OMP_NUM_THREADS": threads} | os.environ
        running: list[subprocess.Popen[bytes]] = []
        pool = futures.ThreadPoolExecutor(self.workers)
        try:
            yield lambda job: pool.submit(run_job, job, environment, running.append)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            try:
                for process in running:
                    process.terminate()
                pool.shutdown()
            except KeyboardInterrupt:
                for process in running:
                    process.kill()
                raise


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Tasks of a Ray cluster whose machines share a file system and this Python environment."""

    workers: int = 2
    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 1

    @contextmanager
    def start(self) -> Iterator[Submit]:
        """Submit to Ray, which starts a job where `cpus` and `gpus` are free."""
        ray = importlib.import_module("ray")
        own = {} if self.address else {"num_cpus": math.ceil(self.workers * self.cpus)}
        ray.init(self.address or "local", include_dashboard=False, logging_level="error", **own)
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(run_job)
        try:
            yield lambda job: task.remote(job).future()
        finally:
            ray.shutdown()


def sweep(jobs: Sequence[Job], runner: Runner, say: Say, *, every: float = 20.0) -> None:
    """Run all jobs, whatever becomes of the others, and tell how they come along.

    Args:
        jobs: no two with the same log.
        runner: where they run.
        say: receives a line when a job ends, and `every` so many seconds one per running job.

    Raises:
        ValueError: jobs failed; each was told with its sentence and its log.
    """
    started = time.time()
    failed: dict[Job, str] = {}
    attempts = dict.fromkeys(jobs, 1)
    with runner.start() as submit:
        waiting = {submit(job): job for job in jobs}
        while waiting:
            done = _wait(waiting, every, say)
            for future in done:
                job = waiting.pop(future)
                outcome = _outcome(future)
                lost = outcome.code < 0 and attempts[job] <= runner.retries
                if lost:
                    attempts[job] += 1
                    waiting[submit(job)] = job
                elif outcome.code:
                    failed[job] = outcome.sentence
                count = f"{len(jobs) - len(waiting)} of {len(jobs)}"
                what = "again" if lost else "failed" if outcome.code else "done"
                minutes = (time.time() - started) / 60
                say(f"[{count}, {minutes:.1f} min] {what}: {job.name}: {outcome.sentence}")
            if not done:
                _tell_running(waiting.values(), started, say)
    for job in jobs:
        if job in failed:
            say(f"failed: {job.name}: {failed[job]} (log: {job.log})")
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(jobs)} runs failed; the same command tries them again"
        )


def run_job(
    job: Job,
    environment: dict[str, str] | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> Outcome:
    """Run one job where this is called, and wait for it.

    Args:
        job: what to run.
        environment: its environment variables; those of this process where None.
        started: receives the process.
    """
    log = Path(job.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**(environment or os.environ), PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as file:
        file.write(f"{PROMPT}{' '.join(job.arguments)}\n".encode())
        file.flush()
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, *job.arguments],
            cwd=job.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which ends its jobs
        )
        started(process)
        code = process.wait()
    return Outcome(code, _sentence(code, _lines(log, begin)))


def follow_parent() -> None:
    """In a job: end when the sweep that started it ends, however that happens."""
    parent = os.environ.pop(PARENT, None)
    if parent:
        end_with(int(parent))


def _wait(
    waiting: Iterable[futures.Future[Outcome]], seconds: float, say: Say
) -> set[futures.Future[Outcome]]:
    """Those of the futures that are done, as soon as one is, or `seconds` have passed."""
    try:
        return futures.wait(waiting, seconds, futures.FIRST_COMPLETED).done
    except KeyboardInterrupt:
        say("ending the running jobs; interrupt again to end them at once")
        raise


def _outcome(future: futures.Future[Outcome]) -> Outcome:
    """A job's outcome; an error here is one of the machine that ran it, not of the job."""
    try:
        return future.result()
    except Exception as error:
        return Outcome(-1, f"lost: {' '.join(str(error).split()) or type(error).__name__}")


def _sentence(code: int, lines: Sequence[str]) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    last = lines[-1] if lines else "nothing was printed"
    if code == 0:
        return last
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else last


def _tell_running(jobs: Iterable[Job], since: float, say: Say) -> None:
    for job in jobs:
        log = Path(job.log)
        if log.exists() and log.stat().st_mtime >= since:
            lines = _lines(log, max(0, log.stat().st_size - TAIL))
            starting = not lines or lines[-1].startswith(PROMPT)
            say(f"  running: {job.name}: {'starting' if starting else lines[-1]}")


def _lines(log: Path, begin: int) -> list[str]:
    """The lines of a log from a byte on, without empty ones."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
