"""Whether two mathematical expressions are equal, asked of math-verify in a process of its own.

Comparing symbols may take for ever, in code that no Python signal interrupts, and the timeouts of
math-verify work in a main thread only. So a child process compares, under an alarm of the kernel
that ends it; the next question starts another.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

CHILD = Path(__file__).with_name("equality_child.py")
SECONDS = 5.0
REMEMBERED = 65_536  # answers


class Equality(NamedTuple):
    """Whether two expressions are equal; None where that was not found out, and why."""

    same: bool | None
    reason: str = ""


class Verifier:
    """Asks math-verify, one question after the other; any thread may ask.

    seconds: of processor time for each question, however busy the machine is. What takes longer has
        no result, and neither has what exhausts the child's memory.

    Raises ModuleNotFoundError where math-verify is not installed; a question raises OSError where
    it does not load.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        if find_spec("math_verify") is None:
            raise ModuleNotFoundError("math-verify is not installed", name="math-verify")
        self.seconds = seconds
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[Any, str]] = OrderedDict()  # the oldest first
        atexit.register(self.close)

    def same(self, gold: str, text: str, kinds: tuple[str, ...] = ("latex", "expr")) -> Equality:
        r"""Whether the last expression of `text` equals `gold`; not symmetric, see `verify` there.

        kinds: what counts as an expression: `latex` between dollars, brackets or in ``\boxed{}``,
            `expr` plain numbers and formulas.
        """
        return Equality(*self._ask({"gold": gold, "text": text, "kinds": kinds}))

    def extract(self, text: str) -> str | None:
        """The last expression of a text as it is written there; None without one."""
        return self._ask({"text": text})[0]

    def close(self) -> None:
        """End the child; the next question starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _ask(self, question: dict[str, Any]) -> tuple[Any, str]:
        """The child's answer, or None and why there is none."""
        line = json.dumps(question)
        key = hashlib.blake2b(line.encode(), digest_size=16).digest()
        with self._lock:
            if key not in self._known:
                self._known[key] = self._asked(line)
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _asked(self, line: str) -> tuple[Any, str]:
        child = self._started()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(line + "\n")
            child.stdin.flush()
            said = child.stdout.readline()
        except BaseException:  # what this child says next is no answer to the next question
            self.close()
            raise
        if said:
            return json.loads(said), ""
        code = child.wait()
        self.close()
        if code >= 0:
            raise OSError("math-verify does not load: try `python -c 'import math_verify'`")
        if code == -signal.SIGPROF:
            return None, f"comparing took more than {self.seconds:g} s"
        return None, f"comparing was ended by signal {-code}"

    def _started(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            # -P: the child's folder is no place to import from.
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(CHILD), str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._child


@cache
def verifier() -> Verifier:
    """The one of this process."""
    return Verifier()
