"""Times of two sides that take turns, and what is concluded from them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

TURN = 0.05  # seconds that a turn lasts at least: short plans are repeated within it
FEWEST = 3  # turns, where they do not take too long


class Runs(Protocol):
    """A side that is ready to run."""

    def run(self, times: int) -> float:
        """Seconds of one run, the mean over `times`."""
        ...


class Spread(NamedTuple):
    """A median and the middle half around it."""

    median: float
    low: float
    high: float


def take_turns(sides: Sequence[Runs], turns: int, seconds: float) -> list[list[float]]:
    """Seconds of a run of each side in each of up to `turns` turns, A B A B, so that a busy machine
    slows all alike.

    Stops after `seconds` once there are `FEWEST` turns, and after ten times as long in any case,
    with at least one.
    """
    started = time.perf_counter()
    once = [side.run(1) for side in sides]
    times = [max(1, math.ceil(TURN / max(spent, 1e-6))) for spent in once]
    spent: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        passed = time.perf_counter() - started
        if turn and passed > (10 * seconds if turn < FEWEST else seconds):
            break
        for side, count, found in zip(sides, times, spent, strict=True):
            found.append(side.run(count))
    return spent


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high)


def ratio(ours: Sequence[float], others: Sequence[float]) -> Spread:
    """Of the medians; the quartiles are those of the ratios turn by turn."""
    turn_by_turn = spread([a / b for a, b in zip(ours, others, strict=True)])
    return turn_by_turn._replace(median=statistics.median(ours) / statistics.median(others))


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float | None:
    """e where amount ~ size**e fits best (least squares of the logarithms).

    None where fewer than two amounts are above zero.
    """
    points = [(math.log(x), math.log(y)) for x, y in zip(sizes, amounts, strict=True) if y > 0]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def geometric_mean(values: Sequence[float]) -> float | None:
    """None where there are no values."""
    return statistics.geometric_mean(values) if values else None


def agreement(one: Any, other: Any) -> float | None:
    """The share of roots for which both sides found the same; None where they do not tell."""
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return None
    return statistics.mean(float(a == b) for a, b in zip(one, other, strict=True))
