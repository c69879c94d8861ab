"""Losses that are not finite: found before they are applied, their updates left out and counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, get_args

import torch
from torch import Tensor

from control import checkpoints

Reaction = Literal["stop", "skip"]
"""What a loss that is not finite does to a run; its update is left out either way."""

Batch = TypeVar("Batch")
Result = TypeVar("Result")


class NotFiniteError(ValueError):
    """A loss was NaN or infinite; `batch` holds what it was computed from.

    `left_out` updates were not made because of this, and `logged` is what `Learner.learn` would
    have returned of those that were made beside them.
    """

    def __init__(
        self,
        message: str,
        batch: dict[str, Tensor],
        left_out: int = 1,
        logged: dict[str, float] | None = None,
    ) -> None:
        super().__init__(message)
        self.batch, self.left_out, self.logged = batch, left_out, logged or {}


def check_finite(loss: Tensor, batch: dict[str, Tensor], what: str) -> None:
    """Raise NotFiniteError unless every entry of `loss` is finite; call it before the update.

    `what` names the loss, and where it was: "the ensemble's loss in epoch 3". On a GPU this waits
    for the loss.
    """
    if not bool(torch.isfinite(loss).all()):
        worst = loss.detach().flatten()
        value = worst[~torch.isfinite(worst)][0].item()
        raise NotFiniteError(f"{what} is {value}", batch)


def check_reaction(nan: str) -> None:
    """Raise ValueError unless `nan` is a `Reaction`."""
    if nan not in get_args(Reaction):
        raise ValueError(f"nan must be 'stop' or 'skip', not {nan!r}")


def stop(folder: Path, failed: NotFiniteError, done: str) -> NoReturn:
    """Save the batch in a run's folder, and raise ValueError. `done`: "80 frames"."""
    path = folder / "not-finite-batch.pt"
    checkpoints.save(path, {"kind": "batch", **failed.batch})
    raise ValueError(
        f"{failed}, after {done}; the batch is in {path}: the same command goes on without its "
        "update, and with nan=skip past all like it"
    ) from failed


class Attempts:
    """Updates made one by one; those whose loss is not finite are left out, and the others made.

    attempts = Attempts()
    logged = attempts.each(update, batches)
    return attempts.result(means(logged))
    """

    def __init__(self) -> None:
        self.first: NotFiniteError | None = None
        self.left_out = 0

    def __enter__(self) -> None:
        """What is done within is an attempt."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, NotFiniteError):
            return False
        self.first = self.first or error
        self.left_out += error.left_out
        return True

    def each(self, update: Callable[[Batch], Result], batches: Iterable[Batch]) -> list[Result]:
        """What `update` returns of each batch, those left out missing."""
        results = []
        for batch in batches:
            with self:
                results.append(update(batch))
        return results

    def result(self, logged: dict[str, float]) -> dict[str, float]:
        """`logged`, where nothing was left out.

        Raises NotFiniteError with it otherwise: as the first attempt did that failed.
        """
        if self.first is None:
            return logged
        message, batch = str(self.first), self.first.batch
        raise NotFiniteError(message, batch, self.left_out, logged) from self.first


@contextmanager
def unharmed(*parts: Any) -> Iterator[None]:
    """Networks and optimisers that are as they were before where a loss within is not finite."""
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    try:
        yield
    except NotFiniteError:
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        raise
