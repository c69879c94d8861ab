"""PETS: planning with a probabilistic ensemble learned from real experience.

Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics
models", arXiv:1805.12114, algorithm 1:

    1  initialise data D with a random controller
    2  for each trial:
    3      train the dynamics model on D                            (learn)
    4      for each step of the trial:
    5          plan action sequences with the model,
               their returns by trajectory sampling                 (act: planner and ensemble)
    6          execute the first action of the best                 (act)
    7          record the outcome in D                              (control/loop.py)

The paper plans with CEM and evaluates each candidate by 20 particles: here the planner is any of
`mbrl_core`'s (those that search over candidate actions draw them uniformly), and the particles are
a choice of their own. A trial is `train_every` decisions. `penalty` takes the members' disagreement
off the reward of every simulated step, as MOPO does (Yu et al. 2020, arXiv:2005.13239, eq. 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from control.devices import find_device
from control.ensemble import Propagation, Split, empty_split, extend_split, fit
from control.envs import VectorEnv
from control.finite import unharmed
from control.replay import Replay, Steps
from control.world_model import EnsembleWorld, build_ensemble
from mbrl_core import CEM, Particles, draws, penalised, uniform_policy
from mbrl_core.planners.common import (
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
    check_unit,
)
from mbrl_core.types import Box, Carry, Model, Planner, Rows


@dataclass(frozen=True, kw_only=True)
class PETS:
    """The hyperparameters; `start` makes the learner.

    Networks are of the paper's size; `configs/agent/pets.yaml`, from which `agent=pets` is made,
    has smaller ones, for a laptop, and waits longer for progress.

    members, hidden: of the ensemble.
    propagation, aleatoric: how rollouts use it, see `Ensemble`.
    reward: "learned" from data, or "given" by `control/rewards.py`.
    particles: futures simulated per candidate, their returns averaged.
    penalty: times the members' disagreement, taken off every simulated reward.
    discount: per decision.
    learning_rate, weight_decay: of AdamW. It goes on from fit to fit, as the weights do.
    epochs, patience, batch_size: of each fit.
    holdout: fraction of the data that selects the best epoch.
    exploration_noise: standard deviation added to planned actions while collecting, as a fraction
        of half the action range; the paper has none.
    train_every: decisions between two fits; one episode's where None.
    device: where the ensemble lies, learns and is planned with: cpu, cuda, or auto.
    random_frames, action_repeat: see `Recipe`.
    """

    members: int = 5
    hidden: Sequence[int] = (200, 200, 200)
    propagation: Propagation = "ts_inf"
    aleatoric: bool = True
    particles: int = 1
    penalty: float = 0.0
    reward: Literal["learned", "given"] = "learned"
    discount: float = 1.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    epochs: int = 50
    patience: int = 10
    batch_size: int = 256
    holdout: float = 0.1
    exploration_noise: float = 0.0
    train_every: int | None = None
    device: str = "cpu"
    random_frames: int = 2000
    action_repeat: int = 8

    def __post_init__(self) -> None:
        check_counts(self, "members", "particles", "epochs", "patience", "batch_size")
        check_counts(self, "action_repeat")
        check_counts(self, "random_frames", least=0)
        if self.train_every is not None:
            check_counts(self, "train_every")
        check_positive(self, "learning_rate")
        check_not_negative(self, "weight_decay", "exploration_noise")
        check_share(self, "holdout")
        check_unit(self, "discount")

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> PETSLearner:
        """A learner that knows nothing yet; without a planner it has CEM.

        Raises ValueError where it would begin to plan, or wait for a fit, before it ever could.
        """
        if self.random_frames < 1:
            raise ValueError("PETS plans with what it learned: random_frames must be at least 1")
        return PETSLearner(self, env, planner or CEM(horizon=15), _decisions(self, env), rng)


class PETSLearner:
    """The ensemble, its optimiser and its bootstrap samples: all that changes while learning."""

    learns_from_all = True

    def __init__(
        self,
        recipe: PETS,
        env: VectorEnv,
        planner: Planner,
        train_every: int,
        rng: torch.Generator,
    ) -> None:
        self.device = find_device(recipe.device)
        self.recipe = recipe
        self.planner = planner
        self.train_every = train_every
        self.waiting = train_every  # decisions that no fit has seen; the first fit waits for none
        self.env_name = env.name
        self.action_repeat = env.action_repeat
        self.rng = rng
        self.ensemble = build_ensemble(
            env.name,
            env.action_repeat,
            env.observation_dim,
            env.action_space,
            reward=recipe.reward,
            rng=rng,
            members=recipe.members,
            hidden=recipe.hidden,
            propagation=recipe.propagation,
            aleatoric=recipe.aleatoric,
            discount=recipe.discount,
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.ensemble.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.split = empty_split(recipe.members)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Plan from observations [B, D]; the actions [B, A] to execute, and the warm start."""
        recipe, space = self.recipe, self.ensemble.action_space
        model = Model(self.ensemble, uniform_policy(space, self.device), None, space)
        state: Rows = self.ensemble.root(obs)
        if recipe.penalty:
            model = penalised(model, recipe.penalty)
        if recipe.particles != 1:
            cloud = Particles(model, recipe.particles)
            model, state = cloud.model(), cloud.root(state)
        plan, carry = self.planner(model, state, carry, rng=rng)
        action = plan.action.cpu()
        if explore and recipe.exploration_noise and isinstance(space, Box):
            half = (space.high - space.low) / 2
            noise = draws.normal(rng, *action.shape).to(action)
            action = action + recipe.exploration_noise * half * noise
            action = torch.minimum(torch.maximum(action, space.low), space.high)
        return action, carry

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """Once `train_every` decisions have come: train the ensemble on all experience.

        Raises NotFiniteError where a loss is NaN or infinite; the ensemble is then what it was
        before the fit, and the next is tried after as many decisions.
        """
        self.waiting += steps
        if self.waiting < self.train_every:
            return {}
        self.waiting = 0
        recipe, rows = self.recipe, Steps(*(part.to(self.device) for part in replay.steps))
        self.split = extend_split(self.split, len(replay), holdout=recipe.holdout, rng=self.rng)
        with unharmed(self.ensemble, self.optimizer):
            result = fit(
                self.ensemble,
                self.optimizer,
                rows.obs,
                rows.action,
                rows.reward,
                rows.next_obs,
                self.split,
                rng=self.rng,
                epochs=recipe.epochs,
                patience=recipe.patience,
                batch_size=recipe.batch_size,
            )
        return {
            "updates": result.epochs * math.ceil(self.split.train.shape[1] / recipe.batch_size),
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "train_loss": result.train_loss,
            "holdout_mse": result.holdout_mse,
            "holdout_gmse": result.holdout_gmse,
        }

    def world_model(self, record: dict[str, Any]) -> EnsembleWorld:
        """What was learned, to be saved or planned with."""
        return EnsembleWorld(
            self.ensemble,
            self.env_name,
            self.action_repeat,
            self.recipe.reward,
            record,
            particles=self.recipe.particles,
            penalty=self.recipe.penalty,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from, as tensors and plain data."""
        return {
            "ensemble": self.ensemble.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "split": self.split._asdict(),
            "waiting": self.waiting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.ensemble.load_state_dict(state["ensemble"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.split = Split(**state["split"])
        self.waiting = state["waiting"]


def _decisions(recipe: PETS, env: VectorEnv) -> int:
    """Between two fits. Raises ValueError where neither the recipe nor the environment says."""
    if recipe.train_every is not None:
        return recipe.train_every
    if env.frames_per_episode is None:
        raise ValueError(f"episodes of {env.name} have no time limit: give PETS train_every")
    return math.ceil(env.frames_per_episode / env.action_repeat)
