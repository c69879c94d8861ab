"""Run one experiment of a course on model-based reinforcement learning, and draw what it shows.

    python -m evals.experiments experiment=dyna
    python -m evals.experiments experiment=horizon experiment.seeds=5 out=runs/horizon

writes out/records.jsonl, a line per cell (a seed under one condition), out/page.html with plots and
tables, the plots as out/plot*.svg and the tables as out/tables.md. Killed and started again it
measures what is missing; where nothing is, it only draws.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from evals.experiments.drawing import picture
from evals.records import RecordStore, write_atomically
from evals.report import Section, markdown, print_table, write_report
from mbrl_core.viewer.charts import LineChart

Cell: TypeAlias = dict[str, Any]
"""One condition with one seed, as plain data: what a record is about."""


class Experiment(Protocol):
    """A frozen dataclass of settings."""

    def cells(self) -> Sequence[Cell]:
        """Everything to be measured; equal cells give equal numbers."""
        ...

    def measure(self, cell: Cell) -> Mapping[str, Any]:
        """What one cell gave, as plain finite data."""
        ...

    def show(self, records: Sequence[Mapping[str, Any]]) -> Section:
        """Plots and tables from the records of all cells, each the cell and its measurements."""
        ...


def perform(
    *,
    experiment: Experiment,
    out: str | Path,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Measure the cells that have no record yet, then draw; the path of the page.

    Args:
        experiment: what to do.
        out: the run folder.
        arguments: what the run folder records; by default the experiment's settings.
        say: receives progress lines.

    Raises ValueError where `out` holds a run of other arguments.
    """
    if arguments is None:
        settings: Any = dataclasses.asdict(experiment)  # type: ignore[call-overload]
        arguments = {"experiment": {"name": type(experiment).__name__, **settings}}
    cells = {"/".join(map(str, cell.values())): cell for cell in experiment.cells()}
    with RecordStore(out, arguments) as store:
        for number, (id, cell) in enumerate(cells.items(), 1):
            if id in store:
                continue
            began = time.process_time()
            measured = experiment.measure(cell)
            seconds = round(time.process_time() - began, 2)
            store.append(id, {**cell, **measured, "cpu_seconds": seconds})
            say(f"{number}/{len(cells)}  {id}  {seconds:.1f} s")
        section = experiment.show([store[id] for id in cells])
    return _write(Path(out), section, say)


def _write(out: Path, section: Section, say: Callable[[str], None]) -> Path:
    """The page, the plots and the tables, all from the records; tables are printed, too."""
    charts = [figure for figure in section.figures if isinstance(figure, LineChart)]
    for number, chart in enumerate(charts, 1):
        name = "plot.svg" if len(charts) == 1 else f"plot-{number}.svg"
        write_atomically(out / name, picture(chart))
    for table in section.tables:
        print_table(table)
    text = "\n\n".join(map(markdown, section.tables)) + "\n"
    write_atomically(out / "tables.md", text)
    page = write_report(out / "page.html", "A course on model-based control", [section])
    say(f"plots and tables in {page}")
    return page
