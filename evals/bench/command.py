"""Time our planners beside their bare model calls and beside other libraries.

Every cell that is done is on record; the same command continues a run that was stopped. What a peer
needs is installed into a folder of its own (.peers/); one that does not install or run is listed
with the reason.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from configs.machine import commit, processor
from evals.bench import document
from evals.bench.cells import GROUPS, Cell, cells
from evals.bench.client import SIDES, SideError, Worker
from evals.bench.measure import agreement, ratio, spread, take_turns
from evals.records import SUMMARY, RecordStore, load_run
from evals.report import print_table

Say = Callable[[str], None]
TURNS = {"quick": 9, "full": 31}
SECONDS = {"quick": 5.0, "full": 30.0}
OWN = {"decoding": "decoding", "training": "our TD-MPC2"}  # groups whose side has code of its own
TELLING = ("trees", "options", "training")  # groups in which it counts what was found


def bench(
    *,
    preset: Literal["quick", "full"] = "quick",
    groups: Sequence[str] | None = None,
    threads: int = 1,
    turns: int | None = None,
    seconds: float | None = None,
    out: str | Path = "runs/bench/quick",
    report: bool = False,
    page: str | Path | None = None,
    say: Say = print,
) -> Path:
    """Measure what is not on record yet, print the tables and write them as Markdown.

    Args:
        preset: `quick` for a few cells of each group, `full` for all.
        groups: of cells; all where None.
        threads: of each side, on as many cores.
        turns: of each side at most; the preset's where None.
        seconds: after which a cell takes no further turn; the preset's where None.
        out: folder of the records.
        report: measure nothing, only write the page again.
        page: the Markdown file; `out`/performance.md where None.
        say: receives progress lines.

    Returns the page's path. Raises ValueError where our own side does not run.
    """
    chosen = [cell for group in groups or GROUPS for cell in cells(group, preset == "full")]
    quick = {cell.id for group in GROUPS for cell in cells(group, False)}
    chosen.sort(key=lambda cell: cell.id not in quick)  # what says most comes first
    arguments = {
        "preset": preset,
        "threads": threads,
        "turns": turns or TURNS[preset],
        "seconds": seconds or SECONDS[preset],
        "machine": machine(),
    }
    if not report:
        with RecordStore(out, arguments) as store, _Pool(threads) as pool:
            _measure(store, pool, chosen, arguments, say)
    found, records = load_run(out)
    listed = (cell.id for group in GROUPS for cell in cells(group, found["preset"] == "full"))
    order = {id: number for number, id in enumerate(listed)}
    records.sort(key=lambda record: order.get(record["id"], len(order)))
    sections = document.sections(records, _failures(Path(out)))
    for section in sections:
        for table in section.tables:
            say(f"\n{section.title}")
            print_table(table)
    path = document.write(Path(page or Path(out) / document.NAME), found, records, sections)
    say(f"\nwrote {path}")
    return path


def _measure(
    store: RecordStore, pool: _Pool, chosen: list[Cell], limits: dict[str, Any], say: Say
) -> None:
    mine = {cell.id for cell in chosen}
    failures = {id: why for id, why in _failures(store.folder).items() if id not in mine}
    waiting = [cell for cell in chosen if cell.id not in store]
    if len(waiting) < len(chosen):
        say(f"{len(chosen) - len(waiting)} of {len(chosen)} cells are on record")
    for number, cell in enumerate(waiting, start=1):
        try:
            record = _run(cell, pool, limits["turns"], limits["seconds"])
        except SideError as error:
            failures[cell.id] = str(error)
            say(f"[{number}/{len(waiting)}] {cell.id}: {error}")
            continue
        store.append(cell.id, record)
        say(f"[{number}/{len(waiting)}] {cell.id}: {_told(record)}")
    store.write_summary({"failures": failures})


def _run(cell: Cell, pool: _Pool, turns: int, seconds: float) -> dict[str, Any]:
    """The record of one cell. Raises SideError where the other side fails."""
    try:
        workers, prepared = _prepare(cell, pool)
        spent = take_turns(workers, turns, seconds)
    except SideError:
        pool.drop(cell.other or "ours", "other")
        raise
    record: dict[str, Any] = {
        "group": cell.group,
        "settings": cell.settings,
        "other": cell.other,
        "prepared": prepared,
        "turns": len(spent[0]),
        "spent": [spread(times)._asdict() for times in spent],
        "versions": {name: v for worker in workers for name, v in worker.versions.items()},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "load": os.getloadavg()[0],
    }
    if cell.other:
        record["ratio"] = ratio(*spent)._asdict()
    if cell.group == "growth":
        record["bytes"] = workers[0].memory()
    if cell.group in TELLING:
        answers = [worker.answer() for worker in workers]
        record["found"] = agreement(*answers) if cell.group == "trees" else answers
    return record


def _prepare(cell: Cell, pool: _Pool) -> tuple[list[Worker], list[float]]:
    """The processes of both sides, ready to run, and the seconds that getting there took.

    Raises SideError where the other side fails and ValueError where ours does.
    """
    own = OWN.get(cell.group, "ours")
    try:
        workers = [pool.get(own)]
        prepared = [workers[0].prepare(cell.settings)]
    except SideError as error:
        raise ValueError(f"our side of {cell.id!r} fails: {error}") from None
    if cell.other:
        workers.append(pool.get(cell.other, "other"))
        prepared.append(workers[1].prepare(cell.other_settings or cell.settings))
    return workers, prepared


class _Pool:
    """The processes of the sides, started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers: dict[tuple[str, str], Worker] = {}
        self._broken: dict[str, str] = {}

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def get(self, name: str, role: str = "ours") -> Worker:
        """The process of a side in one of the two roles. Raises SideError, with the reason it had
        at first where it was tried before."""
        if name in self._broken:
            raise SideError(self._broken[name])
        if (name, role) not in self._workers:
            try:
                self._workers[name, role] = Worker(SIDES[name], self.threads)
            except SideError as error:
                self._broken[name] = str(error)
                raise
        return self._workers[name, role]

    def drop(self, name: str, role: str) -> None:
        """End a process that failed, so that the next cell gets a new one."""
        worker = self._workers.pop((name, role), None)
        if worker:
            worker.close()


def machine() -> str:
    """Processor, number of cores and system, in words."""
    cores = f"{os.cpu_count()} x {processor()}"
    return f"{cores}, {platform.system()}, Python {platform.python_version()}"


def _told(record: dict[str, Any]) -> str:
    milliseconds = " and ".join(f"{1e3 * spent['median']:.3g} ms" for spent in record["spent"])
    return milliseconds + (f", ratio {record['ratio']['median']:.3f}" if record["other"] else "")


def _failures(out: Path) -> dict[str, str]:
    """Why cells are missing, by their ids."""
    path = out / SUMMARY
    return json.loads(path.read_text())["failures"] if path.exists() else {}
