"""One run on several engines: processes of this machine, or actors of a Ray cluster.

Problems are dealt out in batches to workers, each of which holds an engine of its own and appends
what it finds to a record folder of its own; the parent merges these into the run's. What a lost
worker had on record counts, the rest of its batch is done again once by another.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import shutil
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from configs.processes import end_with
from evals.records import FAILURES, RECORDS, WORKERS, RecordStore, read_failures, read_records

TRIES = 2  # how often a batch is given to a worker at most
REACHED_IN = 5.0  # seconds, a Ray cluster
Say: TypeAlias = Callable[[str], None]
RunnerKind = Literal["local", "ray"]
T = TypeVar("T")


class Item(Protocol):
    """A problem, as far as a runner knows it."""

    @property
    def id(self) -> str:
        """Of its record."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


class Kept:
    """What a worker keeps from batch to batch and from run to run: engines, which take long to
    load."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}
        self._stack = ExitStack()

    def get(self, key: Any, make: Callable[[], T], close: Callable[[T], object]) -> T:
        """What was made under `key`, or else is made now; `close` is called on it in the end."""
        if key not in self._held:
            made = make()
            self._stack.callback(close, made)
            self._held[key] = made
        return self._held[key]

    def close(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._stack.close()


class Work(Protocol):
    """What workers do; sent to them by pickle.

    It appends a record, or notes a failure, for each item of `batch` that `store` lacks.
    """

    def __call__(self, store: RecordStore, batch: Sequence[Any], kept: Kept, say: Say) -> None:
        """Do a batch."""
        ...


class Claim(NamedTuple):
    """What a worker takes of the graphics cards where the option `gpus` does not say."""

    cards: int = 0  # that its models are on
    whole: bool = False  # whether it leaves no room on them, as vLLM does


NO_CARDS = Claim()


class Worker(Protocol):
    """Does one batch after the other, somewhere."""

    def do(self, work: Work, batch: Sequence[Any], folder: str) -> futures.Future[None]:
        """Start on a batch, whose records go to `folder`."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Whether what came of a batch means that the worker is gone."""
        ...

    def stop(self, *, at_once: bool) -> None:
        """End it: in the middle of a batch if need be, or after it has closed what it keeps."""
        ...


Hire: TypeAlias = Callable[[int], Worker]
"""From a worker's place (0, 1, ...) to a new worker."""


class Runner(Protocol):
    """Where workers are; a frozen dataclass."""

    @property
    def workers(self) -> int:
        """How many there are at once."""
        ...

    def start(self) -> AbstractContextManager[Hire]:
        """A context that gives the function that starts workers, and ends what it started for
        them."""
        ...


class Desk:
    """Where a worker works, and keeps what it needs again."""

    def __init__(self) -> None:
        self.kept = Kept()

    def do(self, work: Work, batch: Sequence[Any], folder: str) -> None:
        """Do a batch in a record folder of this worker's own."""
        with RecordStore(folder, {}) as store:
            work(store, batch, self.kept, lambda line: None)

    def leave(self) -> None:
        """Close what was kept."""
        self.kept.close()


# -------------------------------------------------------------------------------------------- local


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes on this machine, with its cores and graphics cards shared out among them.

    gpus, claim: see `cards_each`.
    """

    workers: int = 2
    gpus: int = 0
    claim: Claim = NO_CARDS

    @contextmanager
    def start(self) -> Iterator[Hire]:
        """See `Runner`. Raises what `cards_each` raises."""
        cards = _visible_cards() if self.gpus or self.claim.cards else []
        each = int(
            cards_each(self.workers, self.gpus, self.claim, [{"GPU": len(cards)}], "this machine")
        )
        yield lambda place: _Process(self.workers, cards[place * each : (place + 1) * each])


class _Process:
    """A worker that is a process of this machine, and ends with its parent."""

    def __init__(self, workers: int, cards: Sequence[str]) -> None:
        self.pool = futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _enter, (os.getpid(), workers, cards)
        )

    def do(self, work: Work, batch: Sequence[Any], folder: str) -> futures.Future[None]:
        return self.pool.submit(_do, work, batch, folder)

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, futures.BrokenExecutor)

    def stop(self, *, at_once: bool) -> None:
        if at_once:
            for process in list((self.pool._processes or {}).values()):
                process.kill()
        else:
            self.pool.submit(_leave)
        self.pool.shutdown(wait=True)


_desk = Desk()  # of this process, where it is a worker


def _do(work: Work, batch: Sequence[Any], folder: str) -> None:
    _desk.do(work, batch, folder)


def _leave() -> None:
    _desk.leave()


def _enter(parent: int, workers: int, cards: Sequence[str]) -> None:
    """Make this process a worker: it ends with its parent and keeps to its share of the machine."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    if cards:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def _visible_cards() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the graphics cards that this process may use."""
    import torch

    number, shown = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",")[:number] if shown else [str(card) for card in range(number)]


# ---------------------------------------------------------------------------------------------- ray


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Actors of a Ray cluster whose machines share a file system and this Python environment.

    cpus, gpus: reserved for each worker; of the cards see `cards_each`.
    address: of a running cluster; null starts one on this machine.
    """

    workers: int = 2
    cpus: float = 1
    gpus: float = 0
    claim: Claim = NO_CARDS
    address: str | None = None

    @contextmanager
    def start(self) -> Iterator[Hire]:
        """See `Runner`. Raises what `cards_each` raises."""
        ray = importlib.import_module("ray")
        if self.address:
            check_reachable(self.address)
        own = {} if self.address else {"num_cpus": math.ceil(self.workers * self.cpus)}
        ray.init(self.address or "local", include_dashboard=False, logging_level="error", **own)
        try:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpus = cards_each(
                self.workers, self.gpus, self.claim, machines, "the Ray cluster", self.cpus
            )
            seat = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_restarts=0)(Desk)
            yield lambda place: _Actor(ray, seat.remote())
        finally:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise ValueError where nothing listens at an address with a port: Ray would wait for it for
    minutes."""
    found = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        if found.hostname is None or found.port is None:  # `auto`, say
            return
        socket.create_connection((found.hostname, found.port), timeout=REACHED_IN).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at address={address} ({error}): give that of a running one, "
            "or leave it out to start one here"
        ) from error


class _Actor:
    """A worker that is a Ray actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def do(self, work: Work, batch: Sequence[Any], folder: str) -> futures.Future[None]:
        return self.actor.do.remote(work, batch, folder).future()

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, self.ray.exceptions.RayActorError)

    def stop(self, *, at_once: bool) -> None:
        if not at_once:
            self.ray.get(self.actor.leave.remote())
        self.ray.kill(self.actor)


def cards_each(
    workers: int,
    gpus: float,
    claim: Claim,
    machines: Sequence[Mapping[str, float]],
    where: str,
    cpus: float = 0,
) -> float:
    """Graphics cards for each worker: as many as `gpus` says; where it is 0, as many as several
    workers claim, if there are enough, else none of its own.

    machines: the cards (GPU) and processors (CPU) of each of `where`.

    Raises ValueError where workers would wait for a place for ever, compute without a card that
    they were to have, or each claim the same card whole.
    """
    cards = sum(machine.get("GPU", 0) for machine in machines)
    claims = not gpus and workers > 1 and bool(cards and claim.cards)
    each = claim.cards if claims else gpus
    room = sum(_room(machine, cpus, each, workers) for machine in machines)
    if room >= workers:
        return each
    if claims and not claim.whole:
        return cards_each(workers, 0, NO_CARDS, machines, where, cpus)
    processors = sum(machine.get("CPU", 0) for machine in machines)
    wanted, found = (
        f"gpus={some:g}" + f" cpus={others:g}" * bool(cpus)
        for some, others in ((each, cpus), (cards, processors))
    )
    instead = f"set workers={room}" if room else "let each have less"
    if claims and claim.cards == 1 and workers > cards:  # vLLM is told how much of a card to take
        part = math.floor(100 / math.ceil(workers / cards)) / 100
        instead += f", or runner=ray gpus={part:g} to divide a card among workers"
    raise ValueError(f"{workers} workers need {wanted} each and {where} has {found}: {instead}")


def _room(machine: Mapping[str, float], cpus: float, gpus: float, most: int) -> int:
    """How many workers, up to `most`, find a place; a part of a card is of one card."""
    cards, slack = machine.get("GPU", 0), 1e-6
    rooms = [most]
    if gpus:
        rooms.append(int(cards * int(1 / gpus + slack) if gpus < 1 else cards / gpus + slack))
    if cpus:
        rooms.append(int(machine.get("CPU", 0) / cpus + slack))
    return min(rooms)


def runner_of(
    kind: RunnerKind,
    workers: int,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
    claim: Claim = NO_CARDS,
) -> Runner:
    """The runner that options name. Raises ValueError on an unknown kind or too few workers."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if kind == "local":
        if gpus != int(gpus):
            raise ValueError(f"runner=local gives a worker whole cards, not {gpus:g}")
        return Local(workers=workers, gpus=int(gpus), claim=claim)
    if kind == "ray":
        return Ray(workers=workers, cpus=cpus, gpus=gpus, claim=claim, address=address)
    raise ValueError(f"runner must be local or ray, not {kind!r}")


# --------------------------------------------------------------------------------------------- crew


class _Batch(NamedTuple):
    items: tuple[Any, ...]
    tries: int = 0  # how often it was given to a worker


@dataclass(kw_only=True)
class Crew:
    """The workers of one or several runs, which keep their engines from run to run.

    runner: where they are; None does all work in this process. Workers are started when they are
    first needed; `close` (or leaving the context) ends them.

    lost: how many workers ended before their work, so far.
    """

    runner: Runner | None = None
    lost: int = 0
    _kept: Kept = field(default_factory=Kept)  # of the work done in this process
    _context: ExitStack = field(default_factory=ExitStack)  # of the runner
    _hire: Hire | None = None
    _staff: dict[int, Worker] = field(default_factory=dict)  # by place
    _folders: int = 0

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the workers, in the middle of a batch if need be; a later `do` starts new ones."""
        try:
            while self._staff:
                self._staff.popitem()[1].stop(at_once=at_once)
        finally:
            self._hire = None
            self._context.close()
            self._kept.close()

    def do(
        self,
        work: Work,
        items: Sequence[ItemT],
        store: RecordStore,
        *,
        batch: int,
        missing: Callable[[ItemT], bool] | None = None,
        say: Say = print,
    ) -> None:
        """Do all items that are missing, by default those that `store` has no record of.

        Without a runner `work` gets all items at once, in this process. With one it gets the
        missing ones, `batch` at a time. What a batch lacks whose workers were lost twice is noted
        as failed: something in it ends them.

        Raises whatever `work` raises, after what is on record was merged; and OSError where workers
        are lost one after the other.
        """
        merge(store)
        if self.runner is None:
            work(store, items, self._kept, say)
            return
        todo = [i for i in items if (i.id not in store if missing is None else missing(i))]
        parts = [todo[first : first + batch] for first in range(0, len(todo), batch)]
        try:
            self._spread(work, deque(_Batch(tuple(part)) for part in parts), store, say)
        except BaseException:
            self.close(at_once=True)
            raise
        finally:
            merge(store)

    def _spread(self, work: Work, waiting: deque[_Batch], store: RecordStore, say: Say) -> None:
        """Keep every worker busy until all batches are done or given up."""
        assert self.runner is not None
        idle = deque(range(min(self.runner.workers, len(waiting))))
        running: dict[futures.Future[None], tuple[int, _Batch, Path]] = {}
        losses = 0
        while waiting or running:
            while waiting and idle:
                place, batch = idle.popleft(), waiting.popleft()
                folder = self._new_folder(store)
                future = self._worker(place).do(work, batch.items, str(folder))
                running[future] = place, batch._replace(tries=batch.tries + 1), folder
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                place, batch, folder = running.pop(future)
                idle.append(place)
                error = future.exception()
                _take(store, folder)
                if error is None:
                    losses = 0
                    say(f"{len(store):5d} done  worker {place}: {len(batch.items)} problems")
                    continue
                self._lose(place, error)
                losses += 1
                if losses > TRIES * self.runner.workers:
                    raise OSError(
                        f"{losses} workers were lost one after the other, the last one with: "
                        f"{_sentence(error)}"
                    )
                rest = _rest(batch, store)
                say(f"{len(store):5d} done  worker {place} was lost with {len(rest)} problems")
                if rest and batch.tries < TRIES:
                    waiting.append(batch._replace(items=rest))
                else:
                    for item in rest:
                        store.fail(item.id, "the worker that was to answer it was lost twice")

    def _lose(self, place: int, error: BaseException) -> None:
        """Let a lost worker's place become free; an error of the work itself is raised."""
        if not self._staff[place].lost(error):
            raise getattr(error, "cause", None) or error  # Ray wraps it
        self.lost += 1
        self._staff.pop(place).stop(at_once=True)

    def _worker(self, place: int) -> Worker:
        if self._hire is None:
            assert self.runner is not None
            self._hire = self._context.enter_context(self.runner.start())
        if place not in self._staff:
            self._staff[place] = self._hire(place)
        return self._staff[place]

    def _new_folder(self, store: RecordStore) -> Path:
        """A folder that no worker has had, not even one that is lost and still writing."""
        self._folders += 1
        return (store.folder / WORKERS / f"{os.getpid()}-{self._folders}").resolve()


def merge(store: RecordStore) -> None:
    """Take over what workers have left beside the records of a run, this one's or a killed one's;
    an id that is on record already is not taken again."""
    folder = store.folder / WORKERS
    for one in sorted(folder.glob("*")):
        _take(store, one)
    shutil.rmtree(folder, ignore_errors=True)


def _take(store: RecordStore, folder: Path) -> None:
    """Move what a worker found: on disk in the run's files first, then gone from the worker's."""
    for record in read_records(folder / RECORDS):
        if record["id"] not in store:
            store.append(record["id"], record)
    for id, reason in read_failures(folder / FAILURES).items():
        if id not in store:
            store.fail(id, reason)
    shutil.rmtree(folder, ignore_errors=True)


def _rest(batch: _Batch, store: RecordStore) -> tuple[Any, ...]:
    """The items of a batch of which nothing is known yet."""
    known = store.done | store.failures.keys()
    return tuple(item for item in batch.items if item.id not in known)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
