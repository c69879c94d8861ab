"""What vLLM's own processes owe the process that made the engine: to end with it.

They wait for requests that nobody can send any more where that one is killed, and hold the memory
of their graphics card: the engine made in its place would find none left.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import parent_process
from typing import Any, Self

OWNER = "REASONING_ENGINE_OWNER"  # environment variable: the id of the process that made the engine
EVERY = 1.0  # seconds


class Owned:
    """A worker extension for vLLM: workers, and the core that started them, end with the owner of
    their engine, however that ends.

    Not by Linux's signal at a parent's death (`configs.processes.end_with`): that is sent when the
    thread ends that made the engine.
    """

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """A worker, watching before it loads anything; where it is the owner's own process, or no
        process that Python has started (as on another machine), it does not."""
        starter, owner = parent_process(), int(os.environ.get(OWNER, os.getpid()))
        if starter is not None and owner != os.getpid():
            threading.Thread(target=_end_with, args=(owner, starter.pid), daemon=True).start()
        return super().__new__(cls)


def _end_with(owner: int, parent: int) -> None:
    """End this process, and its parent where that is another, once `owner` has ended."""
    while os.getppid() == parent and _runs(owner):
        time.sleep(EVERY)
    if parent != owner and os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
