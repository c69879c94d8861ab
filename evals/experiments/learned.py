"""Models learned from transitions: the probabilistic ensemble, and one network by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from control.ensemble import Ensemble, empty_split, extend_split, fit
from evals.experiments.plants import DISCOUNT, Data, Plant
from mbrl_core import Dynamics, Residual, ResidualNet, Rng, Rows, Transition, fit_residual


def fit_ensemble(
    plant: Plant,
    data: Data,
    *,
    rng: torch.Generator,
    members: int = 5,
    hidden: Sequence[int] = (64, 64),
    epochs: int = 100,
) -> Ensemble:
    """PETS's ensemble fitted to `data`; reward and end of an episode are known."""
    model = Ensemble(
        plant.dim, plant.action_space, members=members, hidden=hidden, discount=DISCOUNT,
        reward=plant.reward, terminated=plant.terminated, rng=rng,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    split = extend_split(empty_split(members), len(data.obs), holdout=0.1, rng=rng)
    nothing = torch.zeros(len(data.obs))
    fit(
        model, optimizer, data.obs, data.action, nothing, data.after, split,
        rng=rng, epochs=epochs, patience=20, batch_size=128,
    )  # fmt: skip
    return model.eval().requires_grad_(False)


class Still:
    """Knows nothing: what is stays. The base of a model that is learned alone."""

    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        zero = torch.zeros(len(state), dtype=state.dtype)
        return Transition(state, zero, torch.full_like(zero, DISCOUNT))


def fit_correction(
    plant: Plant, base: Dynamics, data: Data, *, rng: torch.Generator, updates: int = 2000
) -> Residual:
    """`base` and a network fitted to what it gets wrong on `data`; the reward is known.

    Small and large data get about the same number of `updates`.
    """
    network = ResidualNet(plant.dim, len(plant.action_space.low), rng=rng)
    model = Residual(base, network, reward=plant.reward)
    epochs = max(1, updates // -(-len(data.obs) // 128))
    fit_residual(model, *data, rng=rng, epochs=epochs, batch_size=128)
    return model.eval().requires_grad_(False)


def observation(state: Rows) -> Tensor:
    """The observation [R, D] of a state of any of the models."""
    return state if isinstance(state, Tensor) else state.obs
