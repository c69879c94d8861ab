"""Real experience, row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """n steps taken in the real environment."""

    obs: Tensor  # [n, D]
    action: Tensor  # [n, A], or int64 [n] if discrete
    reward: Tensor  # [n], summed over the frames an action was held
    next_obs: Tensor  # [n, D]
    terminated: Tensor  # [n] bool; a step cut by a time limit is not terminated


class Replay:
    """All steps so far, oldest first; rows never move, so indices into it stay valid."""

    def __init__(self) -> None:
        self._steps: Steps | None = None

    def __len__(self) -> int:
        return 0 if self._steps is None else len(self._steps.reward)

    @property
    def steps(self) -> Steps:
        """Every step. Raises ValueError where there is none."""
        if self._steps is None:
            raise ValueError("there is no experience yet to learn from")
        return self._steps

    def add(self, steps: Steps) -> None:
        """Append steps."""
        if self._steps is None:
            self._steps = steps
        else:
            self._steps = Steps(*map(torch.cat, zip(self._steps, steps, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """The data, as tensors."""
        return {} if self._steps is None else dict(self._steps._asdict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the data of `state` instead."""
        self._steps = Steps(**state) if state else None
