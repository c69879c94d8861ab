"""A probabilistic ensemble that is fitted again and again while experience arrives.

The model of MBPO and SVG: only the members that a holdout finds best are used, and where episodes
end is learned with the rest, once one has.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from control.agents.sac import SoftActorCritic
from control.endings import Ending, fit_ending
from control.ensemble import (
    Ensemble,
    Fit,
    Propagation,
    Split,
    empty_split,
    extend_split,
    fit,
    width_of,
)
from control.envs import VectorEnv
from control.finite import unharmed
from control.replay import Replay, Steps
from control.world_model import ActorCriticWorld, build_ensemble
from mbrl_core import draws
from mbrl_core.planners.common import (
    check_counts,
    check_not_negative,
    check_positive,
    check_share,
)


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The hyperparameters of the model and its fits.

    members: networks in the ensemble.
    elites: so many of them, the best by the holdout, are used.
    hidden: units of each network's hidden layers.
    reward: "learned" from data, as the ends of episodes then are, or both "given" by
        `control/rewards.py`.
    fit_every: real transitions between two fits.
    epochs, patience, tolerance, batch_size: of each fit, see `control.ensemble.fit`.
    holdout: share of the data that selects epochs and elites.
    learning_rate, weight_decay: of AdamW. It goes on from fit to fit, as the weights do.
    """

    members: int = 7
    elites: int = 5
    hidden: Sequence[int] = (200, 200, 200, 200)
    reward: Literal["learned", "given"] = "learned"
    fit_every: int = 250
    epochs: int = 500
    patience: int = 5
    tolerance: float = 0.01
    batch_size: int = 256
    holdout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5

    def __post_init__(self) -> None:
        check_counts(self, "members", "elites", "fit_every", "epochs", "patience", "batch_size")
        check_positive(self, "learning_rate", "holdout")
        check_not_negative(self, "weight_decay")
        check_share(self, "holdout", "tolerance")
        if self.elites > self.members:
            raise ValueError(
                f"ModelRecipe.elites ({self.elites}) cannot exceed ModelRecipe.members "
                f"({self.members})"
            )


class LearnedModel:
    """The ensemble, its optimiser, its bootstrap samples, and the elites of the latest fit."""

    def __init__(
        self,
        recipe: ModelRecipe,
        env: VectorEnv,
        *,
        propagation: Propagation,
        aleatoric: bool,
        discount: float,
        device: torch.device,
        rng: torch.Generator,
    ) -> None:
        """Weights, and the seed of what fits draw from, are drawn from `rng`, on the CPU."""
        self.recipe, self.device = recipe, device
        self.rng = draws.generator(int(draws.integers(rng, 2**62, 1)))
        self.env_name, self.action_repeat = env.name, env.action_repeat
        self.ensemble = build_ensemble(
            env.name,
            env.action_repeat,
            env.observation_dim,
            env.action_space,
            reward=recipe.reward,
            rng=rng,
            members=recipe.members,
            hidden=recipe.hidden,
            propagation=propagation,
            aleatoric=aleatoric,
            discount=discount,
        ).to(device)
        ending = Ending(env.observation_dim, width_of(env.action_space), rng=rng)
        self.ending = ending.to(device)
        self.optimizer = torch.optim.AdamW(
            self.ensemble.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.ending_optimizer = torch.optim.Adam(
            self.ending.parameters(), lr=recipe.learning_rate, fused=True
        )
        self.split = empty_split(recipe.members)
        self.elites = torch.arange(recipe.elites)
        self.dynamics = self._best()

    @property
    def fitted(self) -> bool:
        """Whether a fit has succeeded."""
        return bool(self.ensemble.inputs.fitted)

    @property
    def due(self) -> int:
        """The number of real transitions from which on the next fit is due."""
        return self.split.rows + self.recipe.fit_every if self.split.rows else 1

    def fit_if_due(self, replay: Replay) -> dict[str, float]:
        """Fit to all experience where enough has come since the last time; what to log.

        Raises NotFiniteError where a loss is NaN or infinite; the model is then what it was before
        the fit, and the next is tried after as many transitions.
        """
        if replay.total < self.due:
            return {}
        recipe = self.recipe
        steps = Steps(*(part.to(self.device) for part in replay.steps))
        self.split = extend_split(self.split, replay.total, holdout=recipe.holdout, rng=self.rng)
        with unharmed(self.ensemble, self.optimizer, self.ending, self.ending_optimizer):
            result, logged = self._fit(steps)
            if recipe.reward == "learned" and self._some_ended(steps.terminated):
                logged["ending_loss"] = self._fit_ending(steps)
        self.elites = result.member_gmse.argsort(stable=True)[: recipe.elites].cpu()
        self.dynamics = self._best()
        return logged

    def world(self, sac: SoftActorCritic, record: dict[str, Any]) -> ActorCriticWorld:
        """The elites with the policy and its critics, to be saved or planned with."""
        return ActorCriticWorld(
            self.dynamics,
            self.env_name,
            self.action_repeat,
            self.recipe.reward,
            record,
            sac.actor,
            sac.critics,
        )

    def _best(self) -> Ensemble:
        """The elites, frozen, with the ends of episodes where these are known or have been seen."""
        best = self.ensemble.only(self.elites)
        if self.recipe.reward == "learned" and bool(self.ending.prior > -torch.inf):
            best.terminated, best.terminates = copy.deepcopy(self.ending), True
        return best.requires_grad_(False)

    def _some_ended(self, terminated: Tensor) -> bool:
        return bool(terminated.any()) and not bool(terminated.all())

    def _fit(self, steps: Steps) -> tuple[Fit, dict[str, float]]:
        """Fit the ensemble; how it went, in full and to log."""
        recipe = self.recipe
        result = fit(
            self.ensemble,
            self.optimizer,
            steps.obs,
            steps.action,
            steps.reward,
            steps.next_obs,
            self.split,
            rng=self.rng,
            epochs=recipe.epochs,
            patience=recipe.patience,
            tolerance=recipe.tolerance,
            batch_size=recipe.batch_size,
        )
        return result, {
            "model_epochs": float(result.epochs),
            "model_loss": result.train_loss,
            "holdout_mse": result.holdout_mse,
            "holdout_gmse": result.holdout_gmse,
        }

    def _fit_ending(self, steps: Steps) -> float:
        return fit_ending(
            self.ending,
            self.ending_optimizer,
            steps.obs,
            steps.action,
            steps.next_obs,
            steps.terminated,
            rng=self.rng,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that fits go on from, as tensors and plain data."""
        return {
            "ensemble": self.ensemble.state_dict(),
            "ending": self.ending.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ending_optimizer": self.ending_optimizer.state_dict(),
            "split": self.split._asdict(),
            "elites": self.elites,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name in ("ensemble", "ending", "optimizer", "ending_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.split = Split(**state["split"])
        self.elites = state["elites"]
        self.rng.set_state(state["rng"])
        self.dynamics = self._best()
