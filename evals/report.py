"""One self-contained HTML page out of plain data, and the same tables for the terminal.

The page needs no network: style, script and figures are inside it. It follows the reader's light or
dark mode and reads on a phone.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeAlias

from evals.records import write_atomically
from evals.stats import Estimate
from mbrl_core import viewer
from mbrl_core.export import Describe
from mbrl_core.types import Plan, Rollout, Tree
from mbrl_core.viewer import page
from mbrl_core.viewer.charts import LineChart, tag

ASSETS = Path(__file__).parent / "assets"

Cell: TypeAlias = str | int | float | Estimate | None


class Table(NamedTuple):
    """Rows under named columns. `None` is shown as a dash: a failure is not zero."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


class TreeView(NamedTuple):
    """What a plan looked at, to fold and search: its tree, or its futures."""

    plan: Plan | Tree | Rollout
    describe: Describe | None = None  # text of a node; by default its action
    caption: str = ""


class CartPole(NamedTuple):
    """One episode of a cart with a pole, to be played back."""

    position: Sequence[float]  # [T] metres from the middle of the track
    angle: Sequence[float]  # [T] radians from upright, clockwise positive
    reward: Sequence[float]  # [T]
    action: Sequence[float]  # [T]
    seconds: float  # simulated time of one entry
    caption: str = ""
    pole: float = 1.0  # metres
    track: float = 1.8  # metres from the middle to each end


Figure: TypeAlias = LineChart | TreeView | CartPole


class Section(NamedTuple):
    """One part of the page. `text` has paragraphs parted by empty lines."""

    title: str
    text: str = ""
    command: str = ""  # reproduces the figures and tables of the section
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], subtitle: str = ""
) -> Path:
    """Write the page to `path` and return it. OSError where the disk refuses."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(title, sections, subtitle))
    return path


def document(opening: Sequence[str], sections: Sequence[Section], heading: str = "##") -> str:
    """The opening paragraphs, and the texts and tables of the sections, in Markdown."""
    parts = list(opening)
    for section in sections:
        parts += [f"{heading} {section.title}", section.text, *map(markdown, section.tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(table: Table) -> str:
    """The table in Markdown, its caption below it."""
    lines = [list(table.columns), ["---"] * len(table.columns)]
    lines += [[shown(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{table.caption}" if table.caption else text


def render(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The whole page as HTML text. All given text is escaped."""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    if any(isinstance(figure, TreeView) for section in sections for figure in section.figures):
        style, script = style + viewer.style(), script + viewer.script()
    parts = [page.Part(section.title, _body(section)) for section in sections]
    return page.page(title, parts, subtitle, style=style, script=script)


def print_table(table: Table, file: TextIO | None = None) -> None:
    """The table on a terminal (with rich), or as aligned plain text where output is no terminal."""
    file = sys.stdout if file is None else file
    rows = [[shown(cell) for cell in row] for row in table.rows]
    right = [_is_numeric(table, column) for column in range(len(table.columns))]
    if file.isatty():
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        pretty = RichTable(title=table.caption or None, title_justify="left")
        for name, numeric in zip(table.columns, right, strict=True):
            pretty.add_column(Text(name), justify="right" if numeric else "left")
        for row in rows:
            pretty.add_row(*map(Text, row))
        Console(file=file).print(pretty)
        return
    if table.caption:
        print(table.caption, file=file)
    lines = [list(table.columns), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    for line in lines:
        cells = zip(line, widths, right, strict=True)
        text = "  ".join(f"{c:>{w}}" if numeric else f"{c:<{w}}" for c, w, numeric in cells)
        print(text.rstrip(), file=file)


def shown(cell: Cell) -> str:
    """A cell as text: four digits that matter, intervals in brackets, a dash for `None`."""
    if cell is None:
        return "–"
    if isinstance(cell, Estimate):
        return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"
    if isinstance(cell, float):
        return number(cell)
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def number(value: float) -> str:
    """`812.4`, `0.873`, `12,300`: about four digits, never an exponent for everyday sizes."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        return f"{value:.2g}"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


# --------------------------------------------------------------------------------------------- page


def _body(section: Section) -> str:
    paragraphs = [p.strip() for p in section.text.split("\n\n") if p.strip()]
    parts = [tag("p", escape(paragraph)) for paragraph in paragraphs]
    parts += [_figure(figure) for figure in section.figures]
    parts += [_table(table) for table in section.tables]
    if section.command:
        parts.append(tag("pre", tag("code", escape(section.command)), class_="command"))
    return "".join(parts)


def _figure(figure: Figure) -> str:
    if isinstance(figure, LineChart):
        return page.chart(figure)
    if isinstance(figure, TreeView):
        body = viewer.element(figure.plan, describe=figure.describe)
    else:
        body = _cart_pole(figure)
    return page.figure(body, figure.caption)


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows]
    return any(not isinstance(cell, str) for cell in cells) and not any(
        isinstance(cell, str) for cell in cells
    )


def _table(table: Table) -> str:
    kinds = ["number" if _is_numeric(table, i) else None for i in range(len(table.columns))]
    head = [tag("th", escape(c), class_=k) for c, k in zip(table.columns, kinds, strict=True)]
    rows = [
        tag("tr", *(tag("td", _cell(c), class_=k) for c, k in zip(row, kinds, strict=True)))
        for row in table.rows
    ]
    caption = tag("caption", escape(table.caption)) if table.caption else ""
    body = tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tag("div", body, class_="scroll")


def _cell(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        interval = f"[{number(cell.low)}, {number(cell.high)}]"
        return f"{number(cell.mean)} " + tag("span", interval, class_="interval")
    return escape(shown(cell))


def _cart_pole(episode: CartPole) -> str:
    columns = {
        "position": [float(v) for v in episode.position],
        "angle": [float(v) for v in episode.angle],
        "reward": [float(v) for v in episode.reward],
        "action": [float(v) for v in episode.action],
    }
    if len({len(column) for column in columns.values()}) != 1 or not columns["reward"]:
        raise ValueError("an episode needs equally many positions, angles, rewards and actions")
    for name, column in columns.items():
        if not all(map(math.isfinite, column)):
            raise ValueError(f"the episode's {name} holds a value that is not finite")
    rounded: dict[str, Any] = {
        name: [round(value, 4) for value in column] for name, column in columns.items()
    }
    data = rounded | {"seconds": episode.seconds, "pole": episode.pole, "track": episode.track}
    half = episode.track + 0.6 * episode.pole
    top = 1.15 * episode.pole
    stage = tag(
        "svg",
        tag("path", d=f"M{-episode.track} 0H{episode.track}", class_="rail"),
        tag("polyline", class_="trail"),
        tag("rect", x=-0.22, y=-0.12, width=0.44, height=0.24, rx=0.05, class_="cart"),
        tag("line", class_="pole"),
        tag("circle", r=0.06, class_="bob"),
        viewBox=f"{-half:.3f} {-top:.3f} {2 * half:.3f} {2 * top:.3f}",
        class_="stage",
        role="img",
        aria_label="a cart with a pole",
    )
    controls = tag(
        "div",
        tag("button", "Play", type="button", class_="play"),
        tag("input", type="range", min=0, max=len(columns["reward"]) - 1, value=0, step=1),
        tag("output", ""),
        class_="controls",
    )
    traces = [_trace(name, columns[name]) for name in ("reward", "action")]
    # A closing script tag inside the data would end the element early.
    packed = json.dumps(data).replace("</", "<\\/")
    store = tag("script", packed, type="application/json")
    return tag("div", stage, controls, *traces, store, class_="cartpole")


def _trace(name: str, values: Sequence[float]) -> str:
    """A small line of one quantity over the episode, with a cursor that the player moves."""
    low, high = min(0.0, *values), max(0.0, *values)
    span = high - low or 1.0
    last = max(len(values) - 1, 1)
    points = " ".join(
        f"{1000 * i / last:.1f},{56 - 50 * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    )
    zero = 56 - 50 * (0.0 - low) / span
    picture = tag(
        "svg",
        tag("path", d=f"M0 {zero:.1f}H1000", class_="grid"),
        tag("polyline", points=points, class_="line"),
        tag("path", d="M0 0V60", class_="cursor"),
        viewBox="0 0 1000 60",
        preserveAspectRatio="none",
    )
    text = tag("b", escape(name)) + tag("span", "", class_="now")
    limits = tag("span", f"{number(low)} to {number(high)}", class_="limits")
    return tag("div", tag("div", text, limits, class_="head"), picture, class_=f"trace {name}")
