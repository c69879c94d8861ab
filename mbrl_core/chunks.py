"""Running a model in parts that fit in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import check_counts
from mbrl_core.types import Dynamics, Model, Rng, Rows, Tokens, Transition
from mbrl_core.wrapper import Wrapper


class Chunked(Wrapper):
    """Dynamics that step at most `size` rows at a time.

    Worth it on a CPU where one step's activations of all rows outgrow the cache, some thousand rows
    for two layers of 256 units; a GPU wants the whole batch. A deterministic model gives the same
    numbers up to rounding. With a generator per root, parts end where a root ends or at a multiple
    of `size` rows of one root, so a root draws the same numbers whatever shares its batch.
    """

    def __init__(self, dynamics: Dynamics, size: int = 2048) -> None:
        """Raises ValueError where `size` is no positive whole number."""
        self.dynamics = dynamics
        self.size = size
        check_counts(self, "size")

    def around(self, dynamics: Dynamics) -> Chunked:
        """See `Wrapper`."""
        return Chunked(dynamics, self.size)

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        total = rows.count(state)
        if total <= self.size:
            return self.dynamics.step(state, action, rng=rng)
        parts = []
        for index in self._parts(total, rng):
            shared = rng
            if not isinstance(rng, torch.Generator):
                shared = draws.take(rng, index * len(rng) // total)
            here, chosen = rows.take(state, index), rows.take(action, index)
            parts.append(self.dynamics.step(here, chosen, rng=shared))
        states, rewards, discounts, tokens = zip(*parts, strict=True)
        spent = None if tokens[0] is None else Tokens(*map(torch.cat, zip(*tokens, strict=True)))
        return Transition(rows.concat(states), torch.cat(rewards), torch.cat(discounts), spent)

    def _parts(self, total: int, rng: Rng) -> Iterator[Tensor]:
        """The rows of each part."""
        each = total if isinstance(rng, torch.Generator) else total // len(rng)
        if each >= self.size:
            for root in torch.arange(total).split(each):
                yield from root.split(self.size)
        else:
            yield from torch.arange(total).split(self.size // each * each)


def in_chunks(model: Model, size: int = 2048) -> Model:
    """The model stepped at most `size` rows at a time (see `Chunked`)."""
    return model._replace(dynamics=Chunked(model.dynamics, size))
