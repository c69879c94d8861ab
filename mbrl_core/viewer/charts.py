"""Line charts as SVG text, without a plotting library: they scale, stay small and know dark mode.

Colours come from the page's style sheet (`page.css`, classes `s0`, `s1`, ...), so one
chart serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

SERIES_COLOURS = 8  # classes s0 .. s7 in the style sheet
CHARACTER = 7.7  # pixels a character of a bold label takes in a wide font
LEFT = 58.0  # pixels left of the y axis
LABEL = 28  # characters of a label at most
LABEL_STEP = 16.0  # least pixels between two labels beside the lines


class Curve(NamedTuple):
    """One line with an interval at each point; points that are not finite are left out."""

    name: str
    x: Sequence[float]  # [n]
    mean: Sequence[float]  # [n]
    low: Sequence[float]  # [n]
    high: Sequence[float]  # [n]


class Baseline(NamedTuple):
    """A horizontal line, such as the return of random actions."""

    name: str
    value: float


class LineChart(NamedTuple):
    """A chart of several curves over one axis."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    baselines: Sequence[Baseline] = ()
    log_x: bool = True
    percent: bool = False  # y is a share, shown in %, axis within [0, 1]
    log_y: bool = False
    marks: bool = True  # a mark and a whisker at each point; many points are better without
    caption: str = ""


class Scale(NamedTuple):
    """From a value to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        part = (self._bend(value) - self._bend(self.low)) / (
            self._bend(self.high) - self._bend(self.low)
        )
        return self.start + part * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value


def tag(name: str, *children: str, **attributes: object) -> str:
    """`tag("text", "a", x=1, class_="b")` to `<text x="1" class="b">a</text>`.

    Attributes are escaped, children are markup already. Numbers keep five digits.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def draw(chart: LineChart, width: int, height: int) -> str:
    """The chart as one `<svg>` element of `width` x `height` pixels.

    Wide charts name their lines at the right end; narrow ones (below 500 pixels) leave that to
    `legend`. Raises ValueError where a curve's columns differ in length, or a value is not positive
    on a logarithmic axis.
    """
    curves = [_finite(curve, chart) for curve in chart.curves]
    named = width >= 500
    names = [curve.name for curve in curves] + [baseline.name for baseline in chart.baselines]
    longest = max(map(len, names), default=0)
    right = width - (20 + CHARACTER * min(longest, LABEL) if named else 12)
    x_ticks, x_scale = _x_axis(curves, chart.log_x, LEFT, right)
    y_ticks, y_scale = _y_axis(curves, chart, height - 46.0, 14.0)
    y_format: Callable[[float], str] = _percent if chart.percent else short_number
    parts = [_grid(x_ticks, y_ticks, x_scale, y_scale, y_format)]
    parts += [
        tag("path", d=f"M{LEFT} {y_scale(item.value):.1f}H{right:.1f}", **_dashes(i))
        for i, item in enumerate(chart.baselines)
    ]
    parts += [_curve(i, c, x_scale, y_scale, y_format, chart) for i, c in enumerate(curves)]
    if named:
        parts.append(_end_labels(curves, chart.baselines, y_scale, right))
    parts.append(_axis_titles(chart, x_scale, y_scale, height))
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{chart.y_label} against {chart.x_label}",
    )


def legend(chart: LineChart) -> str:
    """The curves' and baselines' names with their marks, as HTML that wraps."""
    items = []
    for index, curve in enumerate(chart.curves):
        mark = tag(
            "svg",
            tag("path", d="M0 7H22", class_="line"),
            _marker(index, 11, 7),
            width=22,
            height=14,
            class_=series(index),
        )
        items.append(tag("span", mark, escape(curve.name)))
    for index, baseline in enumerate(chart.baselines):
        line = tag("svg", tag("path", d="M0 7H22", **_dashes(index)), width=22, height=14)
        items.append(tag("span", line, escape(baseline.name)))
    return tag("div", *items, class_="legend")


def series(index: int) -> str:
    """The style-sheet class of curve number `index`."""
    return f"s{index % SERIES_COLOURS}"


def short_number(value: float) -> str:
    """`1200` to `1.2k`, `0.25` to `0.25`: at most three digits that matter."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) that enclose [low, high]."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; with fewer than three of them also 2 and 5 times a power."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**e for e in exponents if low <= 10.0**e * (1 + 1e-9) and 10.0**e <= high]
    if len(powers) >= 3:
        return powers
    dense = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    return [value for value in dense if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]


def _attribute(value: object) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return escape(text, quote=True)


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _finite(curve: Curve, chart: LineChart) -> Curve:
    """The curve's finite points in the order of x."""
    columns = [[float(value) for value in column] for column in curve[1:]]
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"curve {curve.name!r} needs equally many x, mean, low and high")
    points = sorted(p for p in zip(*columns, strict=True) if all(map(math.isfinite, p)))
    if chart.log_x and points and points[0][0] <= 0:
        raise ValueError(f"curve {curve.name!r} has x = {points[0][0]:g} on a logarithmic axis")
    least = min((min(point[1:]) for point in points), default=1.0)
    if chart.log_y and least <= 0:
        raise ValueError(f"curve {curve.name!r} has y = {least:g} on a logarithmic axis")
    kept = [[point[i] for point in points] for i in range(4)]
    return Curve(curve.name, *kept)


def _x_axis(
    curves: Sequence[Curve], log: bool, start: float, end: float
) -> tuple[list[float], Scale]:
    values = [x for curve in curves for x in curve.x] or [1.0, 10.0]
    low, high = min(values), max(values)
    if log:
        margin = max((high / low) ** 0.04, 1.05)
        low, high = low / margin, high * margin
        return log_ticks(low, high), Scale(low, high, start, end, True)
    margin = 0.04 * (high - low) or 0.5
    scale = Scale(low - margin, high + margin, start, end)
    return [x for x in linear_ticks(low, high) if scale.low <= x <= scale.high], scale


def _y_axis(
    curves: Sequence[Curve], chart: LineChart, start: float, end: float
) -> tuple[list[float], Scale]:
    values = [y for curve in curves for y in [*curve.low, *curve.high]]
    values += [baseline.value for baseline in chart.baselines]
    if chart.log_y:
        low, high = min(values, default=1.0), max(values, default=10.0)
        margin = max((high / low) ** 0.04, 1.05)
        low, high = low / margin, high * margin
        return log_ticks(low, high), Scale(low, high, start, end, True)
    low, high = min(values, default=0.0), max(values, default=1.0)
    ticks = linear_ticks(low, high)
    margin = 0.04 * (high - low) or 0.5 * (ticks[1] - ticks[0])
    low, high = low - margin, high + margin
    if chart.percent:
        low, high = max(low, 0.0), min(high, 1.0)
    return [tick for tick in ticks if low <= tick <= high], Scale(low, high, start, end)


def _grid(
    x_ticks: Iterable[float],
    y_ticks: Iterable[float],
    x: Scale,
    y: Scale,
    y_format: Callable[[float], str],
) -> str:
    parts = []
    for tick in y_ticks:
        parts.append(tag("path", d=f"M{x.start:.1f} {y(tick):.1f}H{x.end:.1f}", class_="grid"))
        label = escape(y_format(tick))
        parts.append(tag("text", label, x=x.start - 8, y=y(tick) + 4, text_anchor="end"))
    parts.append(tag("path", d=f"M{x.start:.1f} {y.start:.1f}H{x.end:.1f}", class_="axis"))
    for tick in x_ticks:
        parts.append(tag("path", d=f"M{x(tick):.1f} {y.start:.1f}v5", class_="axis"))
        label = escape(short_number(tick))
        parts.append(tag("text", label, x=x(tick), y=y.start + 19, text_anchor="middle"))
    return tag("g", *parts, class_="ticks")


def _dashes(index: int) -> dict[str, str]:
    """The look of baseline number `index`."""
    return {"class_": "baseline", "stroke_dasharray": ("6 4", "2 3", "9 3 2 3")[index % 3]}


def _curve(
    index: int,
    curve: Curve,
    x: Scale,
    y: Scale,
    y_format: Callable[[float], str],
    chart: LineChart,
) -> str:
    points = list(zip(curve.x, curve.mean, curve.low, curve.high, strict=True))
    upper = [f"{x(a):.1f} {y(high):.1f}" for a, _, _, high in points]
    lower = [f"{x(a):.1f} {y(low):.1f}" for a, _, low, _ in points]
    middle = [f"{x(a):.1f} {y(mean):.1f}" for a, mean, _, _ in points]
    parts = [tag("path", d=f"M{'L'.join([*upper, *reversed(lower)])}Z", class_="band")]
    if chart.marks:
        parts += [
            tag("path", d=f"M{x(a):.1f} {y(low):.1f}V{y(high):.1f}", class_="whisker")
            for a, _, low, high in points
        ]
    parts.append(tag("path", d=f"M{'L'.join(middle)}", class_="line"))
    for a, mean, low, high in points:
        interval = f" [{y_format(low)}, {y_format(high)}]" if low < high else ""
        tip = (
            f"{curve.name}\n{chart.x_label}: {short_number(a)}\n"
            f"{chart.y_label}: {y_format(mean)}{interval}"
        )
        if chart.marks:
            parts.append(_marker(index, x(a), y(mean)))
        parts.append(tag("circle", cx=x(a), cy=y(mean), r=11, class_="hit", data_tip=tip))
    return tag("g", *(parts if points else []), class_=series(index))


def _marker(index: int, x: float, y: float) -> str:
    """A shape per curve, so that the curves differ without their colours too."""
    outlines = (
        "m-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
        "m-3.8 -3.8h7.6v7.6h-7.6z",
        "m0 -5.2l4.8 8.4h-9.6z",
        "m0 -5.4l5.4 5.4l-5.4 5.4l-5.4 -5.4z",
        "m0 5.2l4.8 -8.4h-9.6z",
    )
    return tag("path", d=f"M{x:.1f} {y:.1f}{outlines[index % len(outlines)]}", class_="mark")


def _end_labels(
    curves: Sequence[Curve], baselines: Sequence[Baseline], y: Scale, right: float
) -> str:
    """The lines' names at their right ends, pushed apart where they would overlap."""
    wanted = [(y(c.mean[-1]), c.name, series(i)) for i, c in enumerate(curves) if c.x]
    wanted += [(y(item.value), item.name, "muted") for item in baselines]
    wanted.sort()
    places = spread([place for place, _, _ in wanted], LABEL_STEP, y.end, y.start)
    labels = [
        tag(
            "text",
            escape(name if len(name) <= LABEL else name[: LABEL - 1] + "…"),
            x=right + 10,
            y=place + 4,
            class_=f"name {colour}",
        )
        for place, (_, name, colour) in zip(places, wanted, strict=True)
    ]
    return tag("g", *labels)


def spread(places: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Sorted places moved to be `step` apart, and within [low, high] if they fit there."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + step) if moved else max(place, low))
    ceiling = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - step
    return moved


def _axis_titles(chart: LineChart, x: Scale, y: Scale, height: int) -> str:
    middle = (x.start + x.end) / 2
    across = (y.start + y.end) / 2
    x_label, y_label = (
        label + " (log scale)" * log
        for label, log in ((chart.x_label, chart.log_x), (chart.y_label, chart.log_y))
    )
    return tag(
        "g",
        tag("text", escape(x_label), x=middle, y=height - 6.0, text_anchor="middle"),
        tag(
            "text",
            escape(y_label),
            transform=f"translate(13 {across:.1f}) rotate(-90)",
            text_anchor="middle",
        ),
        class_="titles",
    )
