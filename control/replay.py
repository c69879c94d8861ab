"""Real experience on disk: written row by row, drawn at random, larger than memory if need be.

    replay = Replay(folder, observation_dim=5, action_space=box, num_envs=4)
    replay.add(Steps(obs, action, reward, next_obs, terminated), truncated)
    batch = replay.sample(256, rng)               # single steps
    batch = replay.sequences(256, 3, rng)         # stretches of one episode, time first

Every environment takes a step at every time, so the rows are a table [time, environment]. The table
is a memory-mapped TensorDict (`TensorDict.load_memmap(folder)` opens it): the operating system
keeps in memory what is used. Its disk space is reserved before it is written to, because a full
disk kills a process that writes to a mapped page.

Past its capacity the table is a ring. What can be drawn is a window that ends `slack` times short
of the ring's length: the rows overwritten since the last two checkpoints lie outside of both their
windows, so that a run continued from either draws what it drew then.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from control.checkpoints import explain_full_disk
from mbrl_core import draws
from mbrl_core.types import Box, Discrete

BLOCK = 2**16  # rows by which the files grow


class Steps(NamedTuple):
    """n steps taken in the real environment."""

    obs: Tensor  # [n, D]
    action: Tensor  # [n, A], or int64 [n] if discrete
    reward: Tensor  # [n], summed over the frames an action was held
    next_obs: Tensor  # [n, D]; where the step ended an episode, its last observation
    terminated: Tensor  # [n] bool; a step cut by a time limit is not terminated


class Sequences(NamedTuple):
    """n stretches of H steps, each within one episode, time first."""

    obs: Tensor  # [H + 1, n, D]: before every step, and after the last
    action: Tensor  # [H, n, A], or int64 [H, n] if discrete
    reward: Tensor  # [H, n]
    terminated: Tensor  # [H, n] bool; true at the last step at most


class Replay:
    """The steps of B environments; see the module's first lines.

    A row is known by the time of its step and its environment, and keeps its place while it can be
    drawn. Truncated steps end a stretch and are not terminated.
    """

    def __init__(
        self,
        folder: str | Path,
        observation_dim: int,
        action_space: Box | Discrete,
        *,
        num_envs: int = 1,
        capacity: int = 1_000_000,
    ) -> None:
        """An empty replay whose files lie in `folder`; `restore` finds again what was written.

        Args:
            folder: made where it is not there.
            observation_dim: D.
            action_space: says what an action is.
            num_envs: B; `add` is given one step of each.
            capacity: the latest steps that can be drawn. The files, which grow as steps arrive,
                hold a tenth more at most.

        Raises ValueError where `capacity` or `num_envs` is below 1.
        """
        if min(capacity, num_envs) < 1:
            raise ValueError("capacity and num_envs must be at least 1")
        self.folder = Path(folder)
        self.num_envs = num_envs
        self.window = math.ceil(capacity / num_envs)  # times that can be drawn
        self.slack = max(2, self.window // 10)
        self._length = self.window + self.slack  # of the ring
        obs, reward = torch.zeros(0, observation_dim), torch.zeros(0)
        flag, number = reward.bool(), reward.int()
        if isinstance(action_space, Discrete):
            action = reward.long()
        else:
            action = torch.zeros(0, len(action_space.low))
        self._kinds = _Table(obs, action, reward, obs, flag, flag, number, number)
        self._read_only = False
        self._allocated = 0  # times for which there is space on disk
        self._time = 0  # steps of every environment so far
        self._committed = (0, 0)  # the times of the last two checkpoints, the older one first
        self._episode = np.zeros(num_envs, np.int32)  # of the next step, from 0
        self._age = np.zeros(num_envs, np.int32)  # steps of it so far
        self._starts: dict[int, _Starts] = {}  # by horizon

    # Writing

    def add(self, steps: Steps, truncated: Tensor) -> None:
        """Append one step of each environment; `truncated` [B] bool: the episode was cut there.

        Raises OSError, in one sentence, where the disk is full, and ValueError where the files are
        only read.
        """
        if self._read_only:
            raise ValueError(
                f"the replay in {self.folder} was opened to be read: it takes no steps"
            )
        if len(steps.reward) != self.num_envs or len(truncated) != self.num_envs:
            raise ValueError(
                f"{len(steps.reward)} steps were given for {self.num_envs} environments"
            )
        if self._time < self._length and self._time >= self._allocated:
            self._grow(self._time + 1)
        place = self._time % self._length
        row = (*(part.numpy() for part in (*steps, truncated)), self._episode, self._age)
        for column, value in zip(self._arrays, row, strict=True):  # a fifth of a tensor's time
            column[place] = value
        self._time += 1
        ages = self._age.tolist()
        for starts in self._starts.values():
            starts.add(self._time - 1, ages)
            starts.drop(self._oldest * self.num_envs)
        ended = (steps.terminated | truncated).numpy()
        self._episode += ended
        self._age = np.where(ended, 0, self._age + 1).astype(np.int32)

    @property
    def full(self) -> bool:
        """Whether another step would overwrite what the last two checkpoints may draw."""
        return self._time >= self._length and self._time >= self._committed[0] + self.slack

    # Reading

    def __len__(self) -> int:
        """Rows that can be drawn."""
        return (self._time - self._oldest) * self.num_envs

    @property
    def total(self) -> int:
        """Rows ever added."""
        return self._time * self.num_envs

    @property
    def steps(self) -> Steps:
        """Every step since the first, as views, row `time * B + environment`.

        Raises ValueError where there is none, or where the first can no longer be drawn.
        """
        if self._time == 0:
            raise ValueError("there is no experience yet to learn from")
        if self._oldest > 0:
            raise ValueError(
                f"the replay keeps {self.window * self.num_envs} steps and {self.total} were taken:"
                " an agent that learns from all of them needs more capacity"
            )
        return Steps(*(column[: self.total] for column in self._flat[: len(Steps._fields)]))

    def sample(self, n: int, rng: torch.Generator, device: torch.device | None = None) -> Steps:
        """`n` steps, each drawn uniformly from all that can be; ValueError where there is none."""
        if not len(self):
            raise ValueError("there is no experience yet to learn from")
        drawn = draws.integers(rng, len(self), n).cpu() + self._oldest * self.num_envs
        return Steps(*self._read(drawn, Steps._fields, device))

    def latest(self, n: int) -> tuple[Steps, Tensor]:
        """The last `n` rows, oldest first, and which of them were truncated, [n] bool.

        Raises ValueError where fewer can be drawn.
        """
        if n > len(self):
            raise ValueError(f"the last {n} rows are wanted, and the replay has {len(self)}")
        rows = torch.arange(self.total - n, self.total)
        *columns, truncated = self._read(rows, (*Steps._fields, "truncated"), None)
        return Steps(*columns), truncated

    def count(self, horizon: int) -> int:
        """How many stretches of `horizon` steps can be drawn."""
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, not {horizon}")
        return self._starts_of(horizon).count

    def sequences(
        self, n: int, horizon: int, rng: torch.Generator, device: torch.device | None = None
    ) -> Sequences:
        """`n` stretches of H = `horizon` steps, drawn uniformly from all that lie in one episode.

        Raises ValueError where no episode has so many steps yet (see `count`).
        """
        if not self.count(horizon):
            raise ValueError(f"no episode has {horizon} steps yet: there is no stretch to draw")
        starts = self._starts_of(horizon).draw(n, rng)
        rows = starts + torch.arange(horizon).unsqueeze(1) * self.num_envs
        obs, action, reward, terminated = self._read(
            rows, ("obs", "action", "reward", "terminated"), device
        )
        (last,) = self._read(rows[-1:], ("next_obs",), device)
        return Sequences(torch.cat([obs, last]), action, reward, terminated)

    # Resuming

    def commit(self) -> dict[str, Any]:
        """What a checkpoint has to hold, after the rows themselves are safe on disk."""
        for path in self.folder.glob("*.memmap"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._committed = (self._committed[1], self._time)
        return {
            "shape": self._shape(),
            "time": self._time,
            "before": self._committed[0],
            "episode": self._episode.tolist(),
            "age": self._age.tolist(),
        }

    def restore(self, state: dict[str, Any], *, read_only: bool = False) -> None:
        """Go on from what `commit` returned, with the files in `folder`.

        With `read_only` these are left as they are, and no step can be added.

        Raises ValueError where they are missing, or `state` is of a replay of another shape.
        """
        if state["shape"] != self._shape():
            raise ValueError(
                f"the saved replay is of shape {state['shape']}, not {self._shape()}: "
                "capacity, environments and spaces must stay the same"
            )
        self._time = state["time"]
        self._committed = (state["before"], self._time)
        self._episode = np.array(state["episode"], np.int32)
        self._age = np.array(state["age"], np.int32)
        self._starts = {}
        self._read_only = read_only
        if self._time:
            needed = min(self._time, self._length)
            for name, kind in self._kinds._asdict().items():
                path = self.folder / f"{name}.memmap"
                if not path.is_file() or path.stat().st_size < needed * self._bytes(kind):
                    raise ValueError(f"{path} is missing or cut short: the run cannot be continued")
            if read_only:
                self._map(needed)
            else:
                self._grow(needed)

    # Within

    @property
    def _oldest(self) -> int:
        """The first time that can be drawn."""
        return max(0, self._time - self.window)

    def _shape(self) -> list[int]:
        """What must not change between two runs on the same files."""
        action = self._kinds.action
        width = action.shape[1] if action.dim() > 1 else 0
        return [self.num_envs, self._length, self._kinds.obs.shape[1], width]

    def _bytes(self, kind: Tensor) -> int:
        """On disk, of one time of a column."""
        return self.num_envs * math.prod(kind.shape[1:]) * kind.element_size()

    def _grow(self, times: int) -> None:
        """Reserve disk space for at least so many times, and map the files anew."""
        from tensordict import TensorDict  # takes a second, and planning does not need it

        block = max(1, BLOCK // self.num_envs)
        times = min(math.ceil(times / block) * block, self._length)
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = {}
        for name, kind in self._kinds._asdict().items():
            _reserve(self.folder / f"{name}.memmap", times * self._bytes(kind))
            columns[name] = kind.new_zeros(self.num_envs, *kind.shape[1:])
        with explain_full_disk(self.folder):
            one = TensorDict(columns, batch_size=[self.num_envs])
            mapped = one.expand(times, self.num_envs).memmap_like(str(self.folder), existsok=True)
        # Plain tensors over the same memory: the mapped kind is slow to index.
        self._use(_Table(*(mapped[name].as_subclass(Tensor) for name in _Table._fields)))

    def _map(self, times: int) -> None:
        """Map so many times of the files that are there, which are only opened for reading."""
        columns = []
        for name, kind in self._kinds._asdict().items():
            shape = (times, self.num_envs, *kind.shape[1:])
            path = str(self.folder / f"{name}.memmap")
            column = torch.from_file(path, shared=False, size=math.prod(shape), dtype=kind.dtype)
            columns.append(column.view(shape))
        self._use(_Table(*columns))

    def _use(self, table: _Table) -> None:
        """Let these columns be the ones that are read and written."""
        self._table = table
        self._flat = _Table(*(column.flatten(0, 1) for column in table))
        self._arrays = [column.numpy() for column in table]
        self._allocated = len(table.reward)

    def _read(
        self, rows: Tensor, names: tuple[str, ...], device: torch.device | None
    ) -> list[Tensor]:
        """Columns of the rows [...], numbered `time * B + environment` from the first ever."""
        place = (rows % (self._length * self.num_envs)).flatten()
        read = []
        for name in names:
            column = getattr(self._flat, name)
            values = column.index_select(0, place).view(*rows.shape, *column.shape[1:])
            read.append(_moved(values, device))
        return read

    def _starts_of(self, horizon: int) -> _Starts:
        """Where stretches of `horizon` steps begin; found anew where nobody asked before."""
        if horizon not in self._starts:
            self._starts[horizon] = starts = _Starts(horizon, self.num_envs)
            for time in range(self._oldest, self._time, BLOCK):
                times = np.arange(time, min(time + BLOCK, self._time))
                starts.find(times, self._table.age.numpy()[times % self._length])
            starts.drop(self._oldest * self.num_envs)
        return self._starts[horizon]


class _Table(NamedTuple):
    """The columns on disk, [time, environment, ...]; those of `Steps` come first."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor
    episode: Tensor  # int32: which of its environment's, from 0
    age: Tensor  # int32: steps of the episode before this one


class _Starts:
    """The rows at which a stretch of H steps of one episode begins, oldest first.

    A step of age H - 1 or more completes a stretch; so the list grows at its end as steps arrive
    and is cut at its beginning as they leave the window, and a draw takes no search.
    """

    def __init__(self, horizon: int, num_envs: int) -> None:
        self._back, self._num_envs = horizon - 1, num_envs
        self._rows = np.zeros(1024, np.int64)
        self._begin = self._end = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self._end - self._begin

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """`n` of the rows, each drawn uniformly."""
        chosen = draws.integers(rng, self.count, n).cpu().numpy()
        return torch.from_numpy(self._rows[self._begin + chosen])

    def add(self, time: int, ages: list[int]) -> None:
        """Append what the step of `time` completes in each environment."""
        self._make_room(self._num_envs)
        first = (time - self._back) * self._num_envs
        for environment, age in enumerate(ages):
            if age >= self._back:
                self._rows[self._end] = first + environment
                self._end += 1

    def find(self, times: np.ndarray, ages: np.ndarray) -> None:
        """Append what the steps of `times` [T], at `ages` [T, B], complete."""
        rows = (times - self._back)[:, None] * self._num_envs + np.arange(self._num_envs)
        found = rows[ages >= self._back]
        self._make_room(len(found))
        self._rows[self._end : self._end + len(found)] = found
        self._end += len(found)

    def drop(self, oldest: int) -> None:
        """Let go of the rows before `oldest`."""
        while self._begin < self._end and self._rows[self._begin] < oldest:
            self._begin += 1

    def _make_room(self, more: int) -> None:
        if self._end + more <= len(self._rows):
            return
        live = self._rows[self._begin : self._end]
        self._rows = np.zeros(2 * (len(live) + more), np.int64)
        self._rows[: len(live)] = live
        self._begin, self._end = 0, len(live)


def _reserve(path: Path, size: int) -> None:
    """Give a file `size` bytes of disk space; what it holds stays."""
    if path.is_file() and path.stat().st_size >= size:
        return
    with explain_full_disk(path), path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _moved(values: Tensor, device: torch.device | None) -> Tensor:
    if device is None or device.type == "cpu":
        return values
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=True)
