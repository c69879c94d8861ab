"""What runs in the process of one side: it is told what to prepare and how often to run it.

Requests and answers are lines of JSON on standard input and output. This module imports nothing but
the standard library, so that a side needs what its library needs and no more.

    {"prepare": settings}  ->  {"seconds": of making the first result, compilation included}
    {"run": times}         ->  {"seconds": of one run, the mean over `times`; with one thread those
                               of the processor, so that other work on the machine counts little}
    {"memory": true}       ->  {"bytes": at the height of one run above what was held before}
    {"answer": true}       ->  {"answer": what one run found, as plain data}
    {"versions": names}    ->  {"versions": of the installed packages}
    anything that fails    ->  {"error": one line}
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Job(NamedTuple):
    """One side of a cell, ready to run."""

    run: Callable[[], Any]
    describe: Callable[[Any], Any] = lambda found: None  # the result of `run` as plain data


Prepare = Callable[[Mapping[str, Any]], Job]


def serve(prepare: Prepare) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    job: Job | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                job = None
                job, answer = _prepare(prepare, request["prepare"])
            else:
                answer = _answer(request, job)
        except Exception as error:  # whatever a library raises is an answer too
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _prepare(prepare: Prepare, settings: Mapping[str, Any]) -> tuple[Job, dict[str, Any]]:
    started = time.perf_counter()
    job = prepare(settings)
    job.run()
    return job, {"seconds": time.perf_counter() - started}


def _answer(request: Mapping[str, Any], job: Job | None) -> dict[str, Any]:
    if "versions" in request:
        return {
            "versions": {name: importlib.metadata.version(name) for name in request["versions"]}
        }
    if job is None:
        raise RuntimeError("nothing has been prepared")
    if "memory" in request:
        return {"bytes": peak_of(job.run)}
    if "answer" in request:
        return {"answer": job.describe(job.run())}
    clock = time.process_time if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter
    started = clock()
    for _ in range(request["run"]):
        job.run()
    return {"seconds": (clock() - started) / request["run"]}


def peak_of(run: Callable[[], Any]) -> int | None:
    """Bytes that the process holds at the height of `run` beyond what it held before.

    None where the system does not say (it does on Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but kept would hide what the run takes
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """An entry of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
