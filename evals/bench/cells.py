"""What is measured: the list of cells, in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from evals.bench.training import SIZES

SMALL = {"samples": 64, "elites": 8, "width": 64}  # overhead is nearly all there is
LARGE = {"samples": 512, "elites": 64, "width": 256}
PLAN = {"horizon": 15, "iterations": 6}
CONTROL_PEERS = {
    "CEM": ("torchrl", "mbrl-lib", "stable-worldmodel"),
    "MPPI": ("pytorch-mppi", "torchrl", "mbrl-lib", "stable-worldmodel"),
}
MOST_ENTRIES = 1_100_000  # of actions x simulations x roots; beyond, mctx takes minutes a search


class Cell(NamedTuple):
    """One measurement: our planner under `settings`, beside `other` (a side) where there is one."""

    group: str
    settings: dict[str, Any]
    other: str | None = None
    other_settings: dict[str, Any] | None = None  # where they differ from ours

    @property
    def id(self) -> str:
        """Unique among all cells, and the same in every run."""
        named = (f"{name}={value}" for name, value in self.settings.items() if name != "planner")
        parts = [self.group, str(self.settings["planner"]), *named]
        return " ".join([*parts, *([f"against {self.other}"] if self.other else [])])


def cells(group: str, full: bool) -> list[Cell]:
    """The cells of a group; where not `full`, the few that take a minute or two.

    Raises ValueError where there is no such group.
    """
    if group not in GROUPS:
        raise ValueError(f"no group {group!r}: choose among {', '.join(GROUPS)}")
    return list(GROUPS[group](full))


def _overhead(full: bool) -> Iterator[Cell]:
    """Whole plans over their bare model calls."""
    for planner in ("CEM", "MPPI"):
        small = _control("overhead", planner, 1, SMALL, "bare calls")
        yield from (small, _with(small, "compiled"))
        for roots in (1, 16, 64, 256) if full else (1, 16):
            large = _control("overhead", planner, roots, LARGE, "bare calls")
            yield from (large, _with(large, "compiled")) if roots < 64 else (large,)
    for roots in (1, 32, 256) if full else (1, 32):
        simulations = 200 if full else 50
        slow = _game("table", "PUCT", 18, simulations, roots) | {"seconds": 1e-3}
        yield Cell("overhead", slow, "bare calls")


def _peers(full: bool) -> Iterator[Cell]:
    """Trajectory planners against other libraries'."""
    for planner, others in CONTROL_PEERS.items():
        for size, batches in ((SMALL, (1, 64)), (LARGE, (1, 64) if full else (1,))):
            for roots in batches:
                for other in others:
                    cell = _control("peers", planner, roots, size, other)
                    small = roots == 1 or size is SMALL
                    yield from (cell, _with(cell, "compiled" if small else "chunks"))
    published = {"samples": 512, "elites": 64, "horizon": 3}
    for width in (64, 256):
        for roots in (1, 64) if full else (1,):
            size = published | {"width": width}
            cell = _control("peers", "TD-MPC2", roots, size, "TD-MPC2")
            yield from (cell, _with(cell, "compiled" if roots == 1 else "chunks"))


def _trees(full: bool) -> Iterator[Cell]:
    """Tree search against mctx."""
    batches = [("PUCT", roots) for roots in ((1, 32, 256) if full else (1, 32))]
    for world in ("table", "table rules", "network", "network rules"):
        for actions in (4, 18, 82) if full else (4, 18):
            for simulations in (50, 200, 800) if full else (50,):
                for selection, roots in (*batches, ("Gumbel", 32)):
                    if actions * simulations * roots <= MOST_ENTRIES:
                        game = _game(world, selection, actions, simulations, roots)
                        yield Cell("trees", game, "mctx")


def _growth(full: bool) -> Iterator[Cell]:
    """How time and memory grow with each size, the others held."""
    base = {"roots": 4, "samples": 256, "elites": 32, "width": 64} | PLAN
    sizes = {
        "samples": (128, 512, 2048, 8192) if full else (128, 512, 2048),
        "horizon": (4, 8, 16, 32, 64) if full else (4, 16, 64),
        "roots": (1, 4, 16, 64) if full else (1, 4, 16),
    }
    for planner in ("CEM", "MPPI"):
        for name, values in sizes.items():
            for value in values:
                settings = {"planner": planner} | base | {name: value}
                yield Cell("growth", settings | {"along": name})
    for name, values in {
        "simulations": (50, 100, 200, 400, 800) if full else (50, 100, 200),
        "roots": (8, 32, 128, 512) if full else (8, 32, 128),
    }.items():
        for value in values:
            game = _game("table", "PUCT", 18, 100, 32)
            yield Cell("growth", game | {name: value, "along": name})


def _options(full: bool) -> Iterator[Cell]:
    """The same plan made faster."""
    for option in ("compiled", "bfloat16", "chunks"):
        for size, roots in ((SMALL, 1), (LARGE, 16)):
            if option == "chunks" and size is SMALL:
                continue  # all its rows fit one chunk
            yield _with(_control("options", "CEM", roots, size, "ours"), option)


def _decoding(full: bool) -> Iterator[Cell]:
    """The language model's cache that grows in place, and its library's."""
    ours = {"planner": "decoding", "roots": 128, "in_place": True}
    yield Cell("decoding", ours, "decoding", ours | {"in_place": False})


def _training(full: bool) -> Iterator[Cell]:
    """TD-MPC2's update and plan step against its authors' code, which does not compile on a CPU."""
    for job in ("update", "plan"):
        for size in SIZES:
            plain = {"planner": job, "size": size, "compiled": False}
            yield Cell("training", plain, "TD-MPC2, official")
            if full:
                yield Cell("training", plain | {"compiled": True}, "TD-MPC2, official", plain)


GROUPS: dict[str, Callable[[bool], Iterator[Cell]]] = {
    "overhead": _overhead,
    "peers": _peers,
    "trees": _trees,
    "growth": _growth,
    "options": _options,
    "decoding": _decoding,
    "training": _training,
}


def _control(group: str, planner: str, roots: int, size: dict[str, int], other: str) -> Cell:
    return Cell(group, {"planner": planner, "roots": roots} | PLAN | size, other)


def _with(cell: Cell, option: str) -> Cell:
    """The cell with an option on our side, the other as it was: our planner `compiled`, or our
    model in `chunks` or in `bfloat16`."""
    return cell._replace(settings=cell.settings | {"option": option}, other_settings=cell.settings)


def _game(world: str, selection: str, actions: int, simulations: int, roots: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"planner": "MCTS", "selection": selection, "world": world}
    settings |= {"actions": actions, "simulations": simulations, "roots": roots}
    return settings | ({"width": 64} if "network" in world else {})
