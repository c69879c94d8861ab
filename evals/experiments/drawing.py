"""From records to curves with intervals over seeds, pictures that stand alone, and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from evals.stats import Estimate, t_interval
from mbrl_core.viewer.charts import Curve, LineChart, draw
from mbrl_core.viewer.page import FOLDER, WIDE

Records: TypeAlias = Sequence[Mapping[str, Any]]


def pick(records: Records, **wanted: Any) -> list[Mapping[str, Any]]:
    """The records that hold every one of these values."""
    return [r for r in records if all(r[name] == value for name, value in wanted.items())]


def estimate(values: Iterable[float], scale: str = "linear") -> Estimate:
    """Mean and Student's interval over seeds; of logarithms, base 10, where `scale` is "log"."""
    column = np.asarray(list(values), np.float64)
    return t_interval(np.log10(column) if scale == "log" else column)


def power(logarithm: Estimate) -> Estimate:
    """An estimate of logarithms, base 10, as one of the numbers: their geometric mean."""
    return Estimate(*(10**value for value in logarithm))


def curve(
    name: str, x: Sequence[float], runs: Sequence[Sequence[float]], scale: str = "linear"
) -> Curve:
    """The mean over seeds of `runs` [seeds, n] with its interval at each of the n points `x`."""
    points = [estimate(column, scale) for column in zip(*runs, strict=True)]
    mean, low, high = ([point[i] for point in points] for i in range(3))
    return Curve(name, x, mean, low, high)


def picture(chart: LineChart) -> str:
    """A chart as an SVG file that needs no page around it, without what the pointer asks for."""
    rules = (FOLDER / "page.css").read_text(encoding="utf-8")
    own = "svg { background: var(--page); font-family: system-ui, sans-serif; }"
    drawn = re.sub(r'<circle[^>]*class="hit"[^>]*></circle>', "", draw(chart, *WIDE))
    start, rest = drawn.split(">", 1)
    style = f"<style>{rules}{own}</style>"
    return f'{start} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'
