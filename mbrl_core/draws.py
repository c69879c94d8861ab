"""Random draws from an explicit generator, or from one generator per root.

With a sequence of G generators the R rows of a draw fall into G equal runs; rows that share a
generator draw together. So the numbers a root gets do not depend on the other roots of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mbrl_core.types import Rng


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator with a seed of its own."""
    return torch.Generator(device=device).manual_seed(seed)


def normal(rng: Rng, *shape: int) -> Tensor:
    """Standard normal numbers [*shape], the first axis being rows."""
    return _draw(lambda size, gen: torch.randn(size, generator=gen, device=gen.device), rng, shape)


def uniform(rng: Rng, *shape: int) -> Tensor:
    """Numbers in [0, 1) [*shape], the first axis being rows."""
    return _draw(lambda size, gen: torch.rand(size, generator=gen, device=gen.device), rng, shape)


def gumbel(rng: Rng, *shape: int) -> Tensor:
    """Standard Gumbel numbers [*shape]; argmax(logits + gumbel) samples from softmax(logits)."""
    tiny = torch.finfo(torch.float32).tiny  # a draw of exactly 0 would give -inf
    return -torch.log(-torch.log(uniform(rng, *shape).clamp(min=tiny)))


def gamma(rng: Rng, shape_parameter: float, *shape: int) -> Tensor:
    """Gamma numbers of scale 1 [*shape]; rows divided by their sum are Dirichlet draws."""

    def draw(size: tuple[int, ...], gen: torch.Generator) -> Tensor:
        alpha = torch.full(size, shape_parameter, device=gen.device)
        return torch._standard_gamma(alpha, generator=gen)

    return _draw(draw, rng, shape)


def integers(rng: Rng, high: int, *shape: int) -> Tensor:
    """Whole numbers in [0, high), int64 [*shape], the first axis being rows."""
    return _draw(
        lambda size, gen: torch.randint(high, size, generator=gen, device=gen.device), rng, shape
    )


def fork(rng: Rng) -> Rng:
    """New generators seeded from `rng`; forking advances it by one draw each."""
    if isinstance(rng, torch.Generator):
        seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device).item())
        return generator(seed, rng.device)
    return [fork(gen) for gen in rng]  # type: ignore[misc]


def copy(rng: Rng) -> Rng:
    """Generators that will draw what `rng` would; drawing from a copy leaves `rng` as it is."""
    if isinstance(rng, torch.Generator):
        return rng.clone_state()
    return [gen.clone_state() for gen in rng]


class Seeded(Sequence[torch.Generator]):
    """One generator per row, seeded with `seeds` [R] int64, made when one is first asked for.

    Rows of equal seed get equal numbers. A model that draws nothing pays for no generator.
    """

    def __init__(self, seeds: Tensor, device: torch.device) -> None:
        self._seeds = seeds
        self._device = device

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [generator(seed, self._device) for seed in self._seeds.tolist()]

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, row: Any) -> Any:
        return self._generators[row]


def take(rng: Rng, roots: Tensor) -> Rng:
    """The generators of the rows that belong to `roots` [R]."""
    if isinstance(rng, torch.Generator):
        return rng
    return [rng[root] for root in roots.tolist()]


def _draw(
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor], rng: Rng, shape: tuple[int, ...]
) -> Tensor:
    if isinstance(rng, torch.Generator):
        return draw(shape, rng)
    if not rng or shape[0] % len(rng):
        raise ValueError(
            f"{len(rng)} generators cannot share {shape[0]} rows: give one, or one per root"
        )
    share = shape[0] // len(rng)
    runs = [(next(run), share * (1 + len(list(run)))) for _, run in groupby(rng, key=id)]
    return torch.cat([draw((size, *shape[1:]), gen) for gen, size in runs])
