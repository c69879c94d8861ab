"""What TD-MPC2 learns from and is made of in the benchmark, on both sides. Needs NumPy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evals.bench.numbers import ACTION, STATE, Array

HORIZON, BATCH = 3, 256  # as published
EPISODE = 500  # decisions; decides the discount

# Widths by name: "5M" is published, "cpu" is what our recipe learns with on a CPU by default.
SIZES = {
    "cpu": {"encoder": 256, "hidden": 256, "latent": 128},
    "5M": {"encoder": 256, "hidden": 512, "latent": 512},
}


class Batch(NamedTuple):
    """`BATCH` stretches of `HORIZON` steps, time first."""

    obs: Array  # [H + 1, n, STATE]
    action: Array  # [H, n, ACTION] in [-1, 1]
    reward: Array  # [H, n] in [0, 1)


def batch() -> Batch:
    """The stretches that every update learns from."""
    rng = np.random.default_rng(7)
    shape = (HORIZON, BATCH)
    return Batch(
        rng.standard_normal((HORIZON + 1, BATCH, STATE)).astype(np.float32),
        rng.uniform(-1, 1, (*shape, ACTION)).astype(np.float32),
        rng.random(shape).astype(np.float32),
    )
