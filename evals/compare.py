"""Say whether one run is better than another on the same problems or episodes.

    python -m evals.compare one=runs/best16 other=runs/greedy

Both hold records of `evals.reasoning` (accuracy) or of `evals.control` (return). Compared are the
ids that both have, each with itself: a problem, or the episode that begins as the other's does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evals.records import check_format, load_run
from evals.stats import Estimate, check_seed, paired_difference, t_interval

MEASURES = ("correct", "return")
EPISODES = ("env", "seed", "max_frames")  # options of `evals.control` that decide what is played


def compare(
    *, one: str | Path, other: str | Path, seed: int = 0, say: Callable[[str], None] = print
) -> Estimate:
    """The mean of `one` minus `other` over the ids that both runs have, with its 95% interval:
    Student's t for returns, of which there are few, a bootstrap for accuracy.

    Args:
        one: a run folder.
        other: the run folder that it is compared with.
        seed: of the bootstrap.
        say: receives the result in words.

    Raises:
        ValueError: a seed below 0; or the runs measure different things, or other episodes, have no
            id in common, or are of an earlier format.
        FileNotFoundError: a folder holds no run.
    """
    check_seed(seed)
    loaded = [load_run(folder) for folder in (one, other)]
    runs = [{record["id"]: record for record in records} for _, records in loaded]
    ids = [id for id in runs[0] if id in runs[1]]
    if not ids:
        raise ValueError(f"{one} and {other} have no problem or episode in common")
    names = [_measure(folder, run.values()) for folder, run in zip((one, other), runs, strict=True)]
    if names[0] != names[1]:
        raise ValueError(
            "one run answers problems and the other plays episodes: nothing to compare"
        )
    name = names[0]
    values = [np.array([float(run[id][name]) for id in ids]) for run in runs]
    if name == "return":
        _check_episodes(one, other, *(arguments for arguments, _ in loaded))
        gain = t_interval(values[0] - values[1])
    else:
        gain = paired_difference(values[0], values[1], np.random.default_rng(seed))
    means = [float(np.mean(of_run)) for of_run in values]
    what, scale = ("return", 1.0) if name == "return" else ("accuracy in %", 100.0)
    first, second, mean, low, high = (f"{scale * x:.1f}" for x in (*means, *gain))
    say(
        f"{what}: {first} against {second} on {len(ids)} in common, "
        f"difference {mean} [{low}, {high}]"
    )
    return gain


def _check_episodes(
    one: str | Path, other: str | Path, first: Mapping[str, Any], second: Mapping[str, Any]
) -> None:
    """Raise ValueError where the episodes of two runs have only their numbers in common."""
    for name in EPISODES:
        if first.get(name) != second.get(name):
            raise ValueError(
                f"{one} and {other} play other episodes: {name} is {first.get(name)} in one and "
                f"{second.get(name)} in the other"
            )


def _measure(folder: str | Path, records: Collection[Mapping[str, Any]]) -> str:
    """What the records of a run measure. Raises ValueError where they are of an earlier format."""
    name = next((n for n in MEASURES if any(n in record for record in records)), MEASURES[0])
    check_format(folder, records, name)
    return name


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("compare", compare, __doc__ or ""))
