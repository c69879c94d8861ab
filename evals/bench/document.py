"""The tables of a benchmark, made from its records, and the page that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from evals.bench.cells import MOST_ENTRIES
from evals.bench.client import SIDES
from evals.bench.measure import exponent, geometric_mean
from evals.bench.training import BATCH, HORIZON
from evals.records import write_atomically
from evals.report import Cell, Section, Table, document

NAME = "performance.md"
WORK = ("work", "model", "roots")
RATIO = ("ratio", "middle half", "turns")
Record = dict[str, Any]

METHOD = """\
Both sides of a comparison run in processes of their own, pinned to the same cores, with the same
number of threads, and build the same model from the same numbers. After one run each to warm up
they take turns, A B A B; a turn lasts at least 50 ms. With one thread a side, times are those of
the processor, on which other work on the machine has little influence. Told are medians over the
turns; ratios are ratios of medians, and the middle half is that of the ratios turn by turn. All
sides run with glibc told to keep freed memory (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`),
which it otherwise gives back and takes anew at every step of large plans: worth setting at home."""


def sections(records: Sequence[Record], failures: dict[str, str]) -> list[Section]:
    """One section per group that has records, then the libraries and what has no result."""
    makers: dict[str, Callable[[Sequence[Record]], Section]] = {
        "overhead": _overhead,
        "peers": _peers,
        "trees": _trees,
        "growth": _growth,
        "options": _options,
        "decoding": _decoding,
        "training": _training,
    }
    made = [
        make(of_group)
        for group, make in makers.items()
        if (of_group := [record for record in records if record["group"] == group])
    ]
    return [*made, _libraries(records, failures)]


def write(
    path: Path, run: dict[str, Any], records: Sequence[Record], sections: Sequence[Section]
) -> Path:
    """Write the page and return its path. OSError where the disk refuses."""
    threads = run["threads"]
    parts = [
        "# Performance",
        f"Written by `python -m evals.bench preset={run['preset']} turns={run['turns']} "
        f"threads={threads} "
        f"seconds={run['seconds']:g} page={path}`; do not edit.\n"
        f"Machine: {run['machine']}; {threads} thread{'s' if threads > 1 else ''} a side;\n"
        f"{_load(records)}.\n"
        f"Date: {_several(records, 'date')}; commit: {_several(records, 'commit')}.",
        METHOD,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, document(parts, sections))
    return path


def _overhead(records: Sequence[Record]) -> Section:
    text = (
        "The time of a whole plan over the time of its bare model calls at the same batch shape.\n"
        "Compiled is the planner's option `compiled=True`; the bare calls are not."
    )
    columns = ["planner", "with", *WORK, "plan, ms", "its model calls, ms", *RATIO]
    rows = [[*_planner(r), *_work(r), *_times(r), *_ratio(r)] for r in records]
    return Section("Overhead", text, tables=[Table(columns, rows)])


def _peers(records: Sequence[Record]) -> Section:
    text = (
        "Below 1: ours takes less time. Same model, candidates, horizon and iterations. Ours\n"
        "returns the best sequence evaluated and its predicted return, keeps the ledger and\n"
        "checks what the model returns. All sides run under `torch.inference_mode`. Ours is as it\n"
        "comes, or with `compiled=True`: each iteration, the model's steps included, one function\n"
        "made by `torch.compile` in some 20 seconds at the first plan. Theirs are as they come;\n"
        "none compiles a whole iteration. With chunks: our model takes 2,048 rows at a time."
    )
    columns = ["planner", "with", "against", *WORK, "ours, ms", "theirs, ms", *RATIO]
    rows = [[*_planner(r), r["other"], *_work(r), *_times(r), *_ratio(r)] for r in records]
    means = [
        [*sides, len(group), geometric_mean([r["ratio"]["median"] for r in group])]
        for sides, group in _by(records, lambda r: (*_planner(r), r["other"]))
    ]
    summary = Table(["planner", "with", "against", "cells", "geometric mean"], means)
    return Section(
        "Against other libraries: trajectories", text, tables=[Table(columns, rows), summary]
    )


def _trees(records: Sequence[Record]) -> Section:
    text = (
        "Above 1: ours does more simulations a second. Both search the same game without noise;\n"
        "the last column is the share of roots for which they choose the same action. mctx\n"
        "compiles its model with the search. Ours calls a `table` or `network` as it calls any\n"
        "model, through PyTorch; as `rules`, a `Game`, they are compiled with the search. Left\n"
        f"out: more than {MOST_ENTRIES:,} actions x simulations x roots, minutes each with mctx."
    )
    names = ["selection", "world", "actions", "simulations", "roots"]
    columns = [*names, "ours, sims/s", "mctx, sims/s", "ours / mctx"]
    rows: list[list[Cell]] = []
    for record in records:
        settings = record["settings"]
        number = settings["roots"] * settings["simulations"]
        speeds = [round(number / spent["median"]) for spent in record["spent"]]
        row = [*(settings[name] for name in names), *speeds, _speedup(record)]
        rows.append([*row, record["prepared"][1], _percent(record["found"])])
    groups = [(f"{roots} roots", group) for (roots,), group in _by(records, _roots)]
    groups += [(world, group) for (world,), group in _by(records, _world)]
    groups.append(("all rules", [r for r in records if _world(r)[0].endswith("rules")]))
    means = [
        [name, len(group), geometric_mean([_speedup(r) for r in group])]
        for name, group in [*groups, ("all", list(records))]
    ]
    return Section(
        "Against mctx: trees",
        text,
        tables=[
            Table([*columns, "mctx compiles, s", "same action"], rows),
            Table(["cells with", "number", "ours / mctx, geometric mean"], means),
        ],
    )


def _growth(records: Sequence[Record]) -> Section:
    text = (
        "Exponents fitted to the logarithms, the other sizes held (CEM and MPPI: 4 roots, 256\n"
        "candidates, horizon 15, 6 iterations, network 2 x 64; MCTS: 32 roots, 100 simulations,\n"
        "18 actions, a table). Small plans cost little more than their calls, so that exponents\n"
        "in time begin below 1."
    )
    columns = ["planner", "along", "from", "to", "time ~ size^", "memory ~ size^"]
    rows: list[list[Cell]] = []
    kinds = _by(records, lambda r: (r["settings"]["planner"], r["settings"]["along"]))
    for (planner, along), group in kinds:
        sizes = [record["settings"][along] for record in group]
        times = [record["spent"][0]["median"] for record in group]
        held = [record["bytes"] or 0 for record in group]
        last = [1e3 * times[-1], held[-1] / 2**20 if held[-1] else None]
        fits = [exponent(sizes, times), exponent(sizes, held)]
        rows.append([planner, along, min(sizes), max(sizes), *fits, *last])
    whole = [*columns, "at the last, ms", "at the last, MiB"]
    return Section("Growth", text, tables=[Table(whole, rows)])


def _options(records: Sequence[Record]) -> Section:
    text = (
        "CEM compiled, or with the model multiplying in bfloat16 or taking its rows in chunks.\n"
        "Returns are those of the plans in the unchanged model."
    )
    columns = ["option", *WORK, "with, ms", "without, ms", *RATIO, "return with", "without"]
    rows = [
        [r["settings"]["option"], *_work(r), *_times(r), *_ratio(r), *r["found"], r["prepared"][0]]
        for r in records
    ]
    tables = [Table([*columns, "first plan, s"], rows)]
    return Section("Options", text, tables=tables)


def _decoding(records: Sequence[Record]) -> Section:
    text = "40 tokens from the embedded language model, with the cache that grows in place."
    columns = ["samples", "in place, ms", "library's, ms", *RATIO]
    rows = [[r["settings"]["roots"], *_times(r), *_ratio(r)] for r in records]
    return Section("Decoding", text, tables=[Table(columns, rows)])


def _training(records: Sequence[Record]) -> Section:
    text = (
        f"Below 1: ours takes less time. An update learns from {BATCH} stretches of {HORIZON}\n"
        "steps; a plan is one decision with 512 candidates, 64 elites, 24 policy trajectories and\n"
        "6 iterations, all as published. Both have networks of the same sizes. Compiled is ours\n"
        "alone: theirs fails in `torch.compile` on a CPU."
    )
    columns = ["step", "size", "compiled", "weights", "ours, ms", "theirs, ms", *RATIO]
    rows: list[list[Cell]] = []
    for record in records:
        settings, (own, other) = record["settings"], record["found"]
        weights = f"{own:,}" if own == other else f"{own:,} against {other:,}"
        compiled = "yes" if settings["compiled"] else "no"
        rows.append(
            [
                settings["planner"],
                settings["size"],
                compiled,
                weights,
                *_times(record),
                *_ratio(record),
            ]
        )
    return Section("Training TD-MPC2", text, tables=[Table(columns, rows)])


def _libraries(records: Sequence[Record], failures: dict[str, str]) -> Section:
    versions = {name: v for record in records for name, v in record["versions"].items()}
    rows: list[list[Cell]] = []
    for name, side in SIDES.items():
        found = ", ".join(f"{p} {versions[p]}" for p in side.packages if p in versions)
        rows.append([name, found or None, side.about])
    tables = [Table(["side", "versions", "how it is run"], rows)]
    if failures:
        missing = [[id, why] for id, why in failures.items()]
        tables.append(Table(["cell without a result", "reason"], missing))
    return Section("Libraries", tables=tables)


def _work(record: Record) -> list[Cell]:
    """The size of a plan, as under the columns `WORK`."""
    settings = record["settings"]
    if settings["planner"] == "MCTS":
        size = f"{settings['simulations']} simulations, {settings['actions']} actions"
        model = f"{1e3 * settings['seconds']:g} ms a step" if "seconds" in settings else "table"
    else:
        size = f"{settings['samples']} x {settings['horizon']} steps x {settings['iterations']}"
        model = f"2 x {settings['width']}"
    return [size, model, settings["roots"]]


def _times(record: Record) -> list[Cell]:
    """Milliseconds of each side."""
    return [1e3 * spent["median"] for spent in record["spent"]]


def _ratio(record: Record) -> list[Cell]:
    """As under the columns `RATIO`."""
    found = record["ratio"]
    return [found["median"], f"{found['low']:.3g} to {found['high']:.3g}", record["turns"]]


def _planner(record: Record) -> tuple[str, str]:
    """As under the columns planner and with."""
    settings = record["settings"]
    return settings["planner"], settings.get("option", "")


def _speedup(record: Record) -> float:
    return 1 / record["ratio"]["median"]


def _roots(record: Record) -> tuple[int]:
    return (record["settings"]["roots"],)


def _world(record: Record) -> tuple[str]:
    return (record["settings"]["world"],)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f}%"


def _by(
    records: Iterable[Record], key: Callable[[Record], tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], list[Record]]]:
    """Records with equal keys together, in the order of the keys."""
    for value, group in groupby(sorted(records, key=key), key=key):
        yield value, list(group)


def _load(records: Sequence[Record]) -> str:
    """How busy the machine was; the benchmark alone makes a load of one per thread."""
    loads = [record["load"] for record in records]
    return f"load of the machine: {min(loads):.1f} to {max(loads):.1f}" if loads else "nothing yet"


def _several(records: Sequence[Record], name: str) -> str:
    """All values that the records have for `name`, in order."""
    return ", ".join(sorted({str(record[name]) for record in records})) or "none yet"
