"""Say whether one run is better than another on the same problems or episodes.

    python -m evals.compare one=runs/best16 other=runs/greedy

Both hold records of `evals.reasoning` (accuracy) or of `evals.control` (return). Compared are the
ids that both have, each with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evals.records import check_format, load_run
from evals.stats import Estimate, paired_difference

MEASURES = ("correct", "return")


def compare(
    *, one: str | Path, other: str | Path, seed: int = 0, say: Callable[[str], None] = print
) -> Estimate:
    """The mean of `one` minus `other` over the ids that both runs have, with its 95% interval.

    Args:
        one: a run folder.
        other: the run folder that it is compared with.
        seed: of the bootstrap.
        say: receives the result in words.

    Raises:
        ValueError: the runs measure different things, have no id in common, or are of an earlier
            format.
        FileNotFoundError: a folder holds no run.
    """
    runs = [{r["id"]: r for r in load_run(folder)[1]} for folder in (one, other)]
    ids = [id for id in runs[0] if id in runs[1]]
    if not ids:
        raise ValueError(f"{one} and {other} have no problem or episode in common")
    names = [_measure(folder, run.values()) for folder, run in zip((one, other), runs, strict=True)]
    if names[0] != names[1]:
        raise ValueError(
            "one run answers problems and the other plays episodes: nothing to compare"
        )
    name = names[0]
    values = [[float(run[id][name]) for id in ids] for run in runs]
    gain = paired_difference(values[0], values[1], np.random.default_rng(seed))
    means = [float(np.mean(of_run)) for of_run in values]
    what, scale = ("return", 1.0) if name == "return" else ("accuracy in %", 100.0)
    first, second, mean, low, high = (f"{scale * x:.1f}" for x in (*means, *gain))
    say(
        f"{what}: {first} against {second} on {len(ids)} in common, "
        f"difference {mean} [{low}, {high}]"
    )
    return gain


def _measure(folder: str | Path, records: Collection[Mapping[str, Any]]) -> str:
    """What the records of a run measure. Raises ValueError where they are of an earlier format."""
    name = next((n for n in MEASURES if any(n in record for record in records)), MEASURES[0])
    check_format(folder, records, name)
    return name


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("compare", compare, __doc__ or ""))
