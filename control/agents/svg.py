"""SVG: a policy that climbs the gradient of its return through a learned model.

Amos et al. 2021, "On the model-based stochastic value gradient for continuous reinforcement
learning", arXiv:2008.12775, SAC-SVG(H); the gradient is that of Heess et al. 2015,
arXiv:1510.09142. For each update:

    1  from time to time fit the model to the replay D                    (fit_if_due)
    2  fit the critics on transitions of D, as soft actor-critic does     (fit_critics)
    3  improve the policy on states s_0 of D, followed through the model  (soft_return, fit_actor)

           J = E[sum_{t < H} gamma^t (r_t - alpha log pi(a_t | s_t))
                 + gamma^H (min_i Q_i(s_H, a_H) - alpha log pi(a_H | s_H))],
           a_t = pi(s_t, noise_t),  s_{t+1} = f(s_t, a_t, noise'_t)

The model sees only what is needed to improve the policy: no critic is fitted to what it imagines.
H = 0 is soft actor-critic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from control.actor_critic import observed
from control.agents.sac import SAC, SoftActorCritic, acts_by_policy, means
from control.agents.schedule import Schedule
from control.ensemble import Propagation
from control.envs import VectorEnv
from control.finite import Attempts
from control.learned_model import LearnedModel, ModelRecipe
from control.replay import Replay, Steps
from control.world_model import ActorCriticWorld
from mbrl_core.planners.common import check_counts
from mbrl_core.returns import return_of
from mbrl_core.rollouts import follow
from mbrl_core.types import Carry, Dynamics, Model, Planner, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class SVG:
    """The hyperparameters; `start` makes the learner.

    `configs/agent/svg.yaml`, from which `agent=svg` is made, has smaller networks and a smaller
    ensemble, for a laptop, and starts at a lower temperature.

    sac: of the policy, its critics and their updates.
    model: of the ensemble and its fits.
    horizon: H, model steps that the policy's gradient goes through.
    propagation: ts_inf: each future follows one of the elites; ts_1: another at each step; mean:
        their average.
    aleatoric: whether futures draw the noise that the model predicts.
    """

    sac: SAC = field(default_factory=SAC)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    horizon: int = 3
    propagation: Propagation = "ts_inf"
    aleatoric: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "horizon")

    @property
    def random_frames(self) -> int:
        """See `Recipe`."""
        return self.sac.random_frames

    @property
    def action_repeat(self) -> int:
        """See `Recipe`."""
        return self.sac.action_repeat

    def start(self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator) -> SVGLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, or they are not between bounds.
        """
        acts_by_policy(planner)
        return SVGLearner(self, env, rng)


class SVGLearner:
    """Policy, critics and model: all that changes while learning."""

    learns_from_all = True

    def __init__(self, recipe: SVG, env: VectorEnv, rng: torch.Generator) -> None:
        self.recipe = recipe
        self.sac = SoftActorCritic(recipe.sac, env.observation_dim, env.action_space, rng=rng)
        self.device, self.rng = self.sac.device, self.sac.rng
        self.model = LearnedModel(
            recipe.model,
            env,
            propagation=recipe.propagation,
            aleatoric=recipe.aleatoric,
            discount=recipe.sac.discount,
            device=self.device,
            rng=rng,
        )
        self.schedule = Schedule(recipe.sac.updates_per_step)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]; there is no carry."""
        return self.sac.act(obs, explore=explore, rng=rng), None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """What `steps` more transitions make due; the means of what was logged.

        The first call fits the model, and makes no updates: the random phase is not made up for.
        """
        attempts, fitted = Attempts(), {}
        with attempts:
            fitted = self.model.fit_if_due(replay)
        size, updates = self.recipe.sac.batch_size, self.schedule.due(steps)
        due = range(updates if self.model.fitted else 0)
        batches = (replay.sample(size, self.rng, self.device) for _ in due)
        return attempts.result(fitted | means(attempts.each(self.update, batches)))

    def update(self, batch: Steps) -> Tensor:
        """One update of everything from n real transitions; numbers as `SoftActorCritic.update`."""
        sac, dynamics = self.sac, self.model.dynamics
        critic_loss, q = sac.fit_critics(batch)
        worth, log_prob = soft_return(
            sac, dynamics, dynamics.root(batch.obs), self.recipe.horizon, rng=self.rng
        )
        loss = -worth.mean()
        entropy = sac.fit_actor(loss, log_prob, batch)
        return torch.stack([critic_loss, loss.detach(), q, entropy, sac.temperature])

    def world_model(self, record: dict[str, Any]) -> ActorCriticWorld:
        """The elites with the policy and its value, to be saved or planned with."""
        return self.model.world(self.sac, record)

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from, as tensors and plain data."""
        return {
            "sac": self.sac.state_dict(),
            "model": self.model.state_dict(),
            "decisions": self.schedule.decisions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.sac.load_state_dict(state["sac"])
        self.model.load_state_dict(state["model"])
        self.schedule.decisions = state["decisions"]


def soft_return(
    sac: SoftActorCritic, dynamics: Dynamics, state: Rows, horizon: int, *, rng: Rng
) -> tuple[Tensor, Tensor]:
    """The soft return [R] of following the policy from R states (J above, one future of each), and
    the log-density [R] of its first actions. Gradients flow through both.

    A future that ends earns nothing after its end.
    """
    world = World("SVG", Model(dynamics), state, rng=rng)
    bonuses: list[Tensor] = []  # [R] each: -alpha log pi, 0 where the episode has ended
    log_probs: list[Tensor] = []

    def choose(_t: int, now: Rows, moving: Tensor) -> Rows:
        drawn = sac.actor.draw(observed(now), rng)
        log_probs.append(drawn.log_prob)
        bonuses.append(torch.where(moving, -sac.temperature * drawn.log_prob, 0.0))
        return drawn.action

    futures = follow(world, state, choose, horizon, samples=1, valued=False)
    obs = observed(futures.final)
    last = sac.actor.draw(obs, rng)
    value = sac.critics(obs, last.action).amin(0) - sac.temperature * last.log_prob
    rewards = [each + bonus for each, bonus in zip(futures.rewards, bonuses, strict=True)]
    return return_of(rewards, futures.discounts, value), log_probs[0]
