"""What a sweep runs: each cell a command of `evals.reasoning` in a folder of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from configs.cli import UsageError, call
from configs.options import quoted
from evals.records import SUMMARY, check_format, load_run, write_atomically
from evals.scaling.curves import SOFT, SPENT, Parameters, Record
from reasoning.rap_forms import Operations, Questions
from reasoning.world import SEPARATORS, Separator

SWEEP = "scaling.json"
CHOOSING = "compute_optimal"  # reads off the other cells what each question's difficulty asks for
SAMPLED = ("best_of_n", "self_consistency", "weighted_vote", "soft_best_of_n")
LIMITS = {"nodes": "steps", "tokens": "tokens"}  # what limits a tree search: name in `Budget`
Options = Callable[[int, int], tuple[str, ...] | None]
Settings = Mapping[str, Mapping[str, Any]]  # of strategies, as `configs/strategy` names them
SLACK = 4  # a search that another limit stops may go on for so many times its nodes


class Cell(NamedTuple):
    """One run of one strategy at one size."""

    strategy: str
    by: str  # what limits it: samples, nodes or tokens
    limit: int  # so many of them, per problem
    size: int  # the same in whole solutions
    options: tuple[str, ...]  # of `evals.reasoning`, beyond what all cells share

    @property
    def name(self) -> str:
        """Of its folder."""
        limited = f"-{self.by}" if self.by in LIMITS else ""
        return f"{self.strategy}-{self.limit}{limited}"


class Unit(NamedTuple):
    """What one whole solution takes on average, so that sizes can be said in solutions."""

    nodes: float  # steps
    tokens: float  # decoded


class Sweep(NamedTuple):
    """What `scaling.json` says: all that the page needs beside the records."""

    options: dict[str, Any]  # of the command
    parameters: Parameters
    cells: list[Cell]


def check(strategies: Sequence[str], sizes: Sequence[int], by: Sequence[str]) -> None:
    """Raise ValueError on no strategy or an unknown one, on sizes that do not rise, and on an
    unknown limit or none where tree searches need one."""
    known = ("greedy", *SAMPLED, *TREES, CHOOSING)
    if not strategies:
        raise ValueError(f"strategies names none: choose among {', '.join(known)}")
    for name in strategies:
        if name not in known:
            raise ValueError(f"no strategy {name!r}: choose among {', '.join(known)}")
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(f"budgets must be rising whole numbers from 1 on, not {list(sizes)}")
    for name in by:
        if name not in LIMITS:
            raise ValueError(f"by takes {' and '.join(LIMITS)}, not {name!r}")
    searches = [name for name in strategies if name in TREES]
    if searches and not by:
        raise ValueError(f"by names no limit, and {searches[0]} needs {' or '.join(LIMITS)}")


def check_settings(settings: Settings, strategies: Sequence[str], sizes: Sequence[int]) -> None:
    """Raise ValueError where a setting is of no strategy of the sweep or none that it has, has a
    value that does not fit, or is what the sweep itself decides."""
    takers = [name for name in strategies if name != CHOOSING]
    for name, chosen in settings.items():
        if name not in takers:
            near = get_close_matches(name, takers, n=1, cutoff=0.0)
            raise ValueError(
                f"options names {name!r}, which is no strategy of this sweep that takes any"
                + "".join(f"; did you mean {other!r}?" for other in near)
            )
        own = _own(name, sizes[-1])
        fixed = {option.partition("=")[0].removeprefix("strategy.") for option in own}
        for setting in chosen:
            if setting in fixed | {"n", "temperature"}:
                raise ValueError(f"options of {name}: the sweep itself decides {setting!r}")
        try:
            given = [*own[:1], *_given(name, settings)]
            call("evals_reasoning", lambda strategy: strategy, given)
        except UsageError as error:
            raise ValueError(f"options of {name}: {error}") from error


def score_temperature(options: Mapping[str, Any]) -> float:
    """Of soft_best_of_n, by a sweep's options."""
    return options.get("options", {}).get("soft_best_of_n", {}).get("score_temperature", SOFT)


def _own(name: str, size: int) -> tuple[str, ...]:
    """What the sweep sets of a strategy, which comes first: at any size that pays for a step."""
    options = TREES[name](size, SLACK * size) if name in TREES else None
    return options or (f"strategy={name}",)


def _given(name: str, settings: Settings) -> list[str]:
    """A strategy's settings as the command line takes them."""
    chosen = settings.get(name, {})
    return [option_text(f"strategy.{setting}", value) for setting, value in chosen.items()]


def first_cells(strategies: Sequence[str], sizes: Sequence[int]) -> list[Cell]:
    """Greedy, and the largest run of whole samples, from which all sizes below it are read off."""
    n = sizes[-1]
    samples = Cell("samples", "samples", n, n, ("strategy=best_of_n", f"strategy.n={n}"))
    greedy = Cell("greedy", "samples", 1, 1, ("strategy=greedy",))
    return [*([greedy] if "greedy" in strategies else []), samples]


def tree_cells(
    strategies: Sequence[str],
    sizes: Sequence[int],
    by: Sequence[str],
    unit: Unit,
    say: Callable[[str], None] = print,
    settings: Settings | None = None,
) -> list[Cell]:
    """Every tree search at every size, limited to what so many whole solutions take, with its
    settings.

    Small sizes come first, so that a sweep that is not finished yet shows whole curves. A search
    whose first step takes more nodes than a size has is left out there, which is said.
    """
    cells = []
    for size in sizes:
        nodes = math.ceil(size * unit.nodes)
        limits = {"nodes": nodes, "tokens": math.ceil(size * unit.tokens)}
        chosen = {name: TREES[name](size, nodes) for name in strategies if name in TREES}
        for strategy in (name for name, options in chosen.items() if options is None):
            say(f"{strategy} is left out at size {size}: {nodes} nodes do not pay for a step")
        for limit in by:
            for strategy, options in chosen.items():
                if options is None:
                    continue
                if (strategy, limit) == ("particle_filter", "nodes"):
                    options = _particles(size, nodes, math.ceil(nodes / size))
                stop = f"budget.{LIMITS[limit]}={limits[limit]}"
                shape = (*options, *_given(strategy, settings or {}), stop)
                cells.append(Cell(strategy, limit, limits[limit], size, shape))
    return cells


def _beams(file: str) -> Options:
    """`size` partial solutions at every depth, four of each parent (Snell et al. 2024)."""

    def options(size: int, nodes: int) -> tuple[str, ...]:
        shape = f"strategy.width={max(1, size // 4)}", f"strategy.expand={min(4, size)}"
        return (f"strategy={file}", *shape, "strategy.depth=24")

    return options


def _beam(file: str) -> Options:
    """One beam, in which all compete: the question is asked for `size` first steps, too."""

    def options(size: int, nodes: int) -> tuple[str, ...]:
        return (*(_beams(file)(size, nodes) or ()), f"strategy.root_expand={size}")

    return options


def _mcts(selection: str, *more: str) -> Options:
    """As many simulations as the limit allows; Gumbel shares out a number known beforehand."""

    def options(size: int, nodes: int) -> tuple[str, ...]:
        simulations = nodes * (1 if selection == "gumbel" else SLACK)
        return (
            "strategy=mcts",
            f"strategy.selection={selection}",
            f"strategy.simulations={simulations}",
            *more,
        )

    return options


def _mcts_rollouts(size: int, nodes: int) -> tuple[str, ...] | None:
    """A simulation is a step and the solution that goes on from it."""
    return _mcts("uct", "strategy.rollouts=1")(size, nodes) if nodes > 1 else None


def _receding(size: int, nodes: int) -> tuple[str, ...] | None:
    """Several committed steps, among whose searches the limit is shared out; each takes a step
    itself."""
    if nodes < 2:
        return None
    steps = f"strategy.steps={max(1, min(24, nodes // SLACK))}"
    return ("strategy=receding", steps, f"strategy.strategy.simulations={SLACK * nodes}")


def _rap(size: int, nodes: int) -> tuple[str, ...] | None:
    """Sub-questions in words."""
    return _sub_questions(nodes, Questions.depth)


def _rap_operations(size: int, nodes: int) -> tuple[str, ...] | None:
    """Sub-questions that are operations.

    A rollout samples every line's `candidates` beginnings and `answers` ends: with the square root
    of `size` of each it takes about as many solutions, and as many simulations are left.
    """
    number = math.isqrt(size)
    sampled = f"strategy.candidates={min(4, number)}", f"strategy.answers={min(8, number)}"
    return _sub_questions(nodes, Operations.depth, "strategy.form=operations", *sampled)


def _sub_questions(nodes: int, deepest: int, *more: str) -> tuple[str, ...] | None:
    """A simulation is a step and a rollout of `depth` further ones, the last of which may be all
    that remains of a solution: a search that is not deep finishes, too."""
    depth = min(deepest, nodes - 1)
    shape = f"strategy.simulations={SLACK * nodes}", f"strategy.depth={depth}"
    return ("strategy=rap", *shape, *more) if depth > 0 else None


def _depth_first(size: int, nodes: int) -> tuple[str, ...]:
    limits = f"strategy.max_nodes={SLACK * nodes}", "strategy.depth=24"
    return ("strategy=tree_of_thoughts_dfs", *limits)


def _lookahead(size: int, nodes: int) -> tuple[str, ...] | None:
    """A step is judged two further ones later."""
    return _beam("lookahead")(size, nodes) if nodes > 2 else None


def _particles(size: int, nodes: int, deepest: int = 24) -> tuple[str, ...]:
    """A particle for each solution; a limit on nodes has them set aside for the whole depth of each
    particle, which is then what a solution takes."""
    shape = f"strategy.particles={size}", f"strategy.depth={min(24, nodes, deepest)}"
    return ("strategy=particle_filter", *shape)


TREES: dict[str, Options] = {
    "tree_of_thoughts": _beam("tree_of_thoughts"),
    "dvts": _beams("dvts"),
    "tree_of_thoughts_dfs": _depth_first,
    "particle_filter": _particles,
    "mcts": _mcts("puct"),
    "mcts_uct": _mcts("uct"),
    "mcts_gumbel": _mcts("gumbel"),
    "mcts_rollouts": _mcts_rollouts,
    "lookahead": _lookahead,
    "receding": _receding,
    "rap": _rap,
    "rap_operations": _rap_operations,
}
"""Options of each tree search from its size in whole solutions and from the nodes these have; None
where so few do not pay for a step."""


def unit_of(records: Sequence[Record], separator: Separator = "newline") -> Unit:
    """What a whole solution takes, measured on a run of whole samples: a node and a token at the
    least, so that each size has limits of its own also where most samples are empty.

    Raises ValueError where nothing was answered.
    """
    samples = [sample for record in records for sample in record["samples"]]
    if not samples:
        raise ValueError("no problem was answered: there is nothing to measure a solution on")
    ends = SEPARATORS[separator]
    steps = sum(bool(s.strip()) for sample in samples for s in sample["text"].split(ends))
    tokens = sum(record["tokens"] for record in records)
    return Unit(max(1.0, steps / len(samples)), max(1.0, tokens / len(samples)))


def option_text(name: str, value: Any) -> str:
    """`name=value` as the command line takes it."""
    return f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str | Path):
        return quoted(str(value))
    return str(value)


def save_sweep(folder: Path, sweep: Sweep) -> None:
    """Write `scaling.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "options": sweep.options,
        "parameters": sweep.parameters._asdict(),
        "cells": [cell._asdict() for cell in sweep.cells],
    }
    write_atomically(folder / SWEEP, json.dumps(data, indent=2) + "\n")


def load_sweep(folder: str | Path) -> Sweep:
    """Read `scaling.json`.

    Raises FileNotFoundError where `folder` holds no sweep and ValueError where it is damaged or
    knew fewer options.
    """
    path = Path(folder) / SWEEP
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no sweep: it has no {SWEEP}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell(**{**cell, "options": tuple(cell["options"])}) for cell in data["cells"]]
        sweep = Sweep(dict(data["options"]), Parameters(**data["parameters"]), cells)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): the sweep's own command writes it anew"
        ) from error
    if "lm_weight" not in sweep.options:
        raise ValueError(f"{folder} holds a sweep of an earlier format: run it in another folder")
    return sweep


def check_kept(folder: Path, options: Mapping[str, Any]) -> None:
    """Raise ValueError where a sweep in `folder` holds strategies, sizes or limits that `options`
    lack: its page would lose them."""
    try:
        old = load_sweep(folder).options
    except (FileNotFoundError, ValueError):  # nothing is shown of it as it is
        return
    for name in ("strategies", "budgets", "by"):
        lost = [one for one in old[name] if one not in options[name]]
        if lost:
            raise ValueError(
                f"{folder} holds a sweep with {name}={_text(old[name])}, and its page would lose "
                f"{', '.join(map(str, lost))}: name these too, or choose another folder"
            )


def finished(folder: Path, cells: Sequence[Cell]) -> dict[str, list[Record]]:
    """The records of the cells that are finished, by the cells' names.

    Raises ValueError where a cell is a run of an earlier format.
    """
    done = [cell for cell in cells if (folder / cell.name / SUMMARY).exists()]
    records = {cell.name: load_run(folder / cell.name)[1] for cell in done}
    for name, of_cell in records.items():
        check_format(folder / name, of_cell, "correct", "samples", *SPENT)
    return records
