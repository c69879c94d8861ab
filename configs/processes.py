"""What processes owe each other: to end together, and to leave each other's folders alone."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"
SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl


def end_with(parent: int) -> None:
    """End this process when the process `parent`, which started it, ends, however that happens (on
    Linux).

    Else a command that is killed would leave workers behind, and the same command, given again,
    would start others beside them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before this was asked for
            os.kill(os.getpid(), signal.SIGKILL)


def hold(folder: Path) -> int:
    """Hold a folder until the returned descriptor is closed, or the process ends in any way.

    Raises BlockingIOError where another holds it, OSError where it cannot be written to.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise BlockingIOError(f"{folder} is being written by another process") from None
        raise OSError(f"cannot lock {path}: {error.strerror or error}") from error
    return descriptor


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is not there, for as long as the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder)
    try:
        yield
    finally:
        os.close(descriptor)
