"""Losses that are not finite: found before they are applied."""

from __future__ import annotations

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A loss was NaN or infinite; `batch` holds what it was computed from."""

    def __init__(self, message: str, batch: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.batch = batch


def check_finite(loss: Tensor, batch: dict[str, Tensor], what: str) -> None:
    """Raise NotFiniteError unless every entry of `loss` is finite; call it before the update.

    `what` names the loss, and where it was: "the ensemble's loss in epoch 3". Training then stops
    with the batch saved, or skips the update and counts it. On a GPU this waits for the loss.
    """
    if not bool(torch.isfinite(loss).all()):
        worst = loss.detach().flatten()
        value = worst[~torch.isfinite(worst)][0].item()
        raise NotFiniteError(f"{what} is {value}", batch)
