"""Ways to run a model faster that belong to the model and not to the planner."""

from __future__ import annotations

import torch
from torch import Tensor

from evals.bench.worlds import ControlWorld
from mbrl_core import Dynamics, Rng, Transition
from mbrl_core.chunks import Chunked


class HalfPrecision:
    """A model that multiplies in bfloat16 and adds in float32."""

    def __init__(self, inner: Dynamics) -> None:
        self.inner = inner
        self.terminates = getattr(inner, "terminates", True)

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner.step(state, action, rng=rng)


def changed(world: ControlWorld, option: str | None) -> Dynamics:
    """The dynamics as they are, in `chunks`, or in `bfloat16`."""
    if option == "chunks":
        return Chunked(world)
    return HalfPrecision(world) if option == "bfloat16" else world
