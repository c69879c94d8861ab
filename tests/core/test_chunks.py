"""A model run in parts is the same model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_core import CEM, Model, RandomShooting, Rng, Rows, Transition, generator
from mbrl_core.chunks import Chunked, in_chunks
from mbrl_core.testing import check_model, check_planner
from tests.worlds import TensorGarden, glider, metered_garden, tensor_garden, tensor_rows

PATHS = ["start", "gate>left", "start>right"]
WORLDS: dict[str, tuple[Model, Rows]] = {
    "tensors": (tensor_garden(), tensor_rows(PATHS)),
    "slippery": (tensor_garden(0.25), tensor_rows(PATHS)),
    "tokens": (metered_garden(), PATHS),
    "differentiable": (glider(), torch.randn(3, 2, generator=generator(0)).double()),
}


class Watched(TensorGarden):
    """A garden that remembers how many rows it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        self.sizes.append(len(state))
        return super().step(state, action, rng=rng)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_chunks_keep_the_contract(world: str, size: int) -> None:
    model, state = WORLDS[world]
    check_model(in_chunks(model, size), state)
    check_planner(RandomShooting(samples=5, horizon=3), in_chunks(model, size), state)


@pytest.mark.parametrize("size", [1, 3, 16, 17])
def test_a_plan_in_chunks_is_the_plan(size: int) -> None:
    model, state = WORLDS["differentiable"]
    planner = CEM(horizon=4, samples=16, elites=4, iterations=3)
    whole, _ = planner(model, state, rng=generator(1))
    parts, _ = planner(in_chunks(model, size), state, rng=generator(1))
    torch.testing.assert_close(parts.action, whole.action)
    torch.testing.assert_close(parts.value, whole.value)
    assert parts.cost.steps.tolist() == whole.cost.steps.tolist()


def test_parts_end_where_roots_end() -> None:
    garden = Watched()
    rows_of = tensor_rows(["start"] * 12)
    moves = torch.zeros(12, dtype=torch.int64)
    Chunked(garden, 5).step(rows_of, moves, rng=generator(0))
    assert garden.sizes == [5, 5, 2]
    for roots, sizes in {6: [4, 4, 4], 4: [3, 3, 3, 3], 2: [5, 1, 5, 1]}.items():
        garden.sizes = []
        Chunked(garden, 5).step(rows_of, moves, rng=[generator(i) for i in range(roots)])
        assert garden.sizes == sizes


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_chunk_has_rows(size: int) -> None:
    with pytest.raises(ValueError, match=r"Chunked\.size must be a whole number of at least 1"):
        in_chunks(glider(), size)
