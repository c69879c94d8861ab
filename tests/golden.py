"""Where golden cases lie: the folder named by GOLDEN_DIR, by default ../shared/golden."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(
    os.environ.get("GOLDEN_DIR") or Path(__file__).resolve().parents[1] / "../shared/golden"
)


def golden_files(pattern: str) -> list[Any]:
    """Parameters for a test: every golden file of a kind, or one that skips and says why."""
    found = sorted(FOLDER.glob(pattern))
    if found:
        return [pytest.param(file, id=file.stem) for file in found]
    reason = f"no {pattern} in {FOLDER}: set GOLDEN_DIR to a folder of golden cases"
    return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
