"""A training run on one HTML page: returns, losses, speed, films, recipe, machine.

    python -m control.page run=runs/cartpole

The page is made from the files of the run's folder alone, needs no network, and can be made again
at any time, also while the run goes on.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from control import arguments as recorded
from control import checkpoints, video
from control.machine import read_machines
from control.metrics import COLUMNS, read_rows
from control.types import Act, Evaluation, Row, RunInfo
from mbrl_core.viewer.charts import Curve, LineChart, draw, tag
from mbrl_core.viewer.page import Part, chart, figure, page

POINTS = 120  # of a curve at most; rows between them are summed up
MARKED = 40  # curves of at most so many points get a mark at each
SMALL = (400, 260)  # pixels of a chart among many
STYLE = """
.charts { display: grid; gap: 8px 20px; }
@media (min-width: 700px) { .charts { grid-template-columns: 1fr 1fr; } }
.charts figure { margin: 8px 0; }
.charts svg { display: block; width: 100%; height: auto; }
video { width: 100%; border-radius: 6px; display: block; }
table.facts td { white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
"""


class Page:
    """Watches a run: writes `page.html` after every evaluation and at the end.

    Where that fails the run goes on; it is said once, and the command above writes the page.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.say = say
        self._folder: Path | None = None
        self._failed = False

    def start(self, run: RunInfo) -> None:
        """Learn where the run is."""
        self._folder = run.folder

    def on_row(self, row: Row) -> None:
        """Write the page where the row holds an evaluation."""
        if "eval_return" in row:
            self._write()

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        """Its returns come with a row."""

    def close(self) -> None:
        """Write the page."""
        self._write()

    def _write(self) -> None:
        if self._folder is not None:
            with self._telling():
                write_page(self._folder)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say the first error within any such block, and go on after it."""
        try:
            yield
        except Exception as error:  # whatever it is: hours of training must not end for a page
            if not self._failed:
                self._failed = True
                why = f"{type(error).__name__}: {error}"
                again = f"python -m control.page run={self._folder}"
                self.say(f"no page ({why}); training goes on, and this writes it later: {again}")


def run_page(*, run: str | Path, say: Callable[[str], None] = print) -> Path:
    """Write the page of the run in folder `run` and return its path.

    Raises ValueError where the folder holds no metrics, or a file in it is damaged.
    """
    folder = Path(run)
    if not (folder / "metrics.csv").is_file():
        raise ValueError(f"{folder} holds no metrics.csv: name the folder of a training run")
    path = write_page(folder)
    say(f"wrote {path}")
    return path


def write_page(folder: Path) -> Path:
    """The same, without a word."""
    text = render(folder)
    path = folder / "page.html"
    checkpoints.write_atomically(path, lambda t: t.write_text(text, encoding="utf-8"))
    return path


def render(folder: Path) -> str:
    """The page of the run in `folder` as HTML."""
    rows = read_rows(folder / "metrics.csv", "frames", "seconds")
    path = folder / recorded.FILE
    arguments = checkpoints.read_json(path, dict) if path.is_file() else {}
    parts = [
        Part("Return", _returns(rows)),
        Part("Learning", _charts(rows, [n for n in _names(rows) if n not in COLUMNS])),
        Part("Speed", _charts(rows, ["fps"], {"fps": "frames per second"})),
        Part("Recipe", _facts(_flat(arguments))),
        Part("Machine", "".join(map(_facts, read_machines(folder)))),
    ]
    films = _films(folder, rows)
    if films:
        parts.insert(1, Part("Films", films))
    return page(_title(arguments, folder), parts, _subtitle(rows), style=STYLE)


# ---------------------------------------------------------------------------------------- sections


def _title(arguments: dict[str, Any], folder: Path) -> str:
    agent = arguments.get("agent", "")
    name = agent.get("_target_", "") if isinstance(agent, dict) else str(agent).partition("(")[0]
    about = [name.rpartition(".")[2], arguments.get("env", ""), f"seed {arguments.get('seed')}"]
    return ", ".join(about) if arguments else folder.name


def _subtitle(rows: Sequence[Row]) -> str:
    if not rows:
        return "Nothing is logged yet."
    last = rows[-1]
    told = [f"{last['frames']:,.0f} frames in {_duration(last['seconds'])}"]
    for column, what in (("eval_return", "last evaluation"), ("return", "last training return")):
        values = [row[column] for row in rows if column in row]
        if values:
            told.append(f"{what} {values[-1]:,.1f}")
    return "; ".join(told) + "."


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _returns(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if "eval_return" in row]
    evaluated = Curve(
        "evaluation",
        *(
            [row[name] for row in judged]
            for name in ("frames", "eval_return", "eval_low", "eval_high")
        ),
    )
    curves = [curve for curve in (evaluated, _curve("training", rows, "return")) if curve.x]
    caption = (
        "Undiscounted return of an episode. Evaluation: mean of the episodes, without exploration, "
        "and their range. Training: with exploration; where rows were summed up, mean and range."
    )
    return chart(LineChart(
        curves, "frames", "return", log_x=False, marks=_few(curves), caption=caption
    ))  # fmt: skip


def _charts(rows: Sequence[Row], names: Sequence[str], labels: Mapping[str, str] = {}) -> str:
    """A small chart of each column."""
    drawn = []
    for name in names:
        curve = _curve(name, rows, name)
        finite = [v for v in [*curve.low, *curve.high] if math.isfinite(v)]
        spans = bool(finite) and min(finite) > 0 and max(finite) > 50 * min(finite)
        one = LineChart(
            [curve], "frames", labels.get(name, name), log_x=False, log_y=spans, marks=_few([curve])
        )
        drawn.append(figure(draw(one, *SMALL)))
    return tag("div", *drawn, class_="charts") if drawn else tag("p", "Nothing is logged.")


def _films(folder: Path, rows: Sequence[Row]) -> str:
    """The first film and the last, inside the page."""
    found = (folder / video.FOLDER).glob("*.mp4")
    films = sorted(path for path in found if path.stem.isdecimal())  # others may lie there, too
    returns = {int(row["frames"]): row["eval_return"] for row in rows if "eval_return" in row}
    shown = []
    for path in [films[0], films[-1]][-len(films) :] if films else []:
        data = base64.b64encode(path.read_bytes()).decode()
        player = (
            f'<video controls loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        )
        frames = int(path.stem)
        told = (
            f"; the evaluation's mean return is {returns[frames]:,.1f}" if frames in returns else ""
        )
        shown.append(figure(player, f"After {frames:,} frames{told}."))
    return tag("div", *shown, class_="charts") if shown else ""


def _facts(facts: Mapping[str, Any]) -> str:
    lines = [
        tag("tr", tag("td", escape(name)), tag("td", escape(_shown(value))))
        for name, value in facts.items()
    ]
    return tag("div", tag("table", tag("tbody", *lines), class_="facts"), class_="scroll")


# ------------------------------------------------------------------------------------------ curves


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _curve(title: str, rows: Sequence[Row], name: str) -> Curve:
    """A column against frames; groups of rows become one point with their mean and range."""
    points = [(row["frames"], row[name]) for row in rows if name in row]
    size = max(1, math.ceil(len(points) / POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    ys = [[y for _, y in group] for group in groups]
    return Curve(
        title,
        [group[-1][0] for group in groups],
        [sum(group) / len(group) for group in ys],
        [min(group) for group in ys],
        [max(group) for group in ys],
    )


def _few(curves: Sequence[Curve]) -> bool:
    return all(len(curve.x) <= MARKED for curve in curves)


# ------------------------------------------------------------------------------------------- facts


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted names."""
    found: dict[str, Any] = {}
    for name, value in sorted(options.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name.replace("_target_", "class")] = value
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("control_page", run_page, __doc__ or ""))
