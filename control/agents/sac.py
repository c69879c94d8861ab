"""SAC: soft actor-critic, without a model of the world; MBPO and SVG use its parts.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", arXiv:1812.05905,
algorithm 1, after each step in the environment and for each update:

    1  draw a batch of transitions from the replay D                      (learn)
    2  fit both critics to y = r + gamma (1 - terminated)
           (min_i Q'_i(s', a') - alpha log pi(a' | s')),  a' ~ pi(s')     (fit_critics)
    3  improve the policy on E[alpha log pi(a | s) - min_i Q_i(s, a)]     (update, fit_actor)
    4  move the temperature: J(alpha) = alpha (entropy - target entropy)  (fit_actor)
    5  let the target critics Q' follow Q                                 (fit_critics)

An episode cut by a time limit is not terminated: its last target is bootstrapped like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from control.actor_critic import Actor, Critics
from control.agents.schedule import Schedule
from control.checkpoints import restore_generator
from control.devices import find_device
from control.envs import VectorEnv
from control.finite import Attempts, check_finite
from control.replay import Replay, Steps
from mbrl_core import Reflex, draws
from mbrl_core.planners.common import (
    check_counts,
    check_not_negative,
    check_positive,
    check_unit,
)
from mbrl_core.types import Box, Carry, Discrete, Planner

LOGGED = ("critic_loss", "actor_loss", "q", "entropy", "temperature")


@dataclass(frozen=True, kw_only=True)
class SAC:
    """The hyperparameters; `start` makes the learner.

    Defaults are the paper's; `configs/agent/sac.yaml`, from which `agent=sac` is made, has smaller
    networks, for a laptop.

    hidden: units of the hidden layers of the policy and of each critic.
    layer_norm: whether the layers of the critics are normalised. Without it critics that learn
        from many updates per decision overestimate actions not taken yet.
    updates_per_step: of policy, critics and temperature per decision; may be a fraction.
    batch_size: transitions per update.
    discount: gamma, per decision.
    learning_rate: of Adam, for all three.
    target_rate: the share by which the target critics follow at each update.
    temperature: alpha at the start.
    target_entropy: nats, of actions in units of half their range; minus the number of action
        dimensions where None.
    random_frames: simulator frames of random actions that come first.
    action_repeat: frames for which an action is held in the DeepMind Control Suite.
    device: where networks and updates are: cpu, cuda, or auto, a GPU where there is one.
    """

    hidden: Sequence[int] = (256, 256)
    layer_norm: bool = False
    updates_per_step: float = 1.0
    batch_size: int = 256
    discount: float = 0.99
    learning_rate: float = 3e-4
    target_rate: float = 0.005
    temperature: float = 1.0
    target_entropy: float | None = None
    random_frames: int = 5000
    action_repeat: int = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", "action_repeat")
        check_counts(self, "random_frames", least=0)
        check_not_negative(self, "updates_per_step")
        check_positive(self, "learning_rate", "target_rate", "temperature")
        check_unit(self, "discount")

    def start(self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator) -> SACLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, or they are not between bounds.
        """
        acts_by_policy(planner)
        return SACLearner(self, env, rng)


class SoftActorCritic:
    """Policy, critics, temperature and their optimisers: what one update changes."""

    def __init__(
        self, recipe: SAC, observation_dim: int, space: Box | Discrete, *, rng: torch.Generator
    ) -> None:
        """Weights, and the seed of what updates draw from, are drawn from `rng`, on the CPU.

        Raises ValueError where actions are discrete or have no bounds, or there is no such device.
        """
        if not isinstance(space, Box) or not bool((space.high - space.low).isfinite().all()):
            raise ValueError(
                f"a squashed Gaussian policy needs continuous actions between bounds, not {space}"
            )
        self.recipe = recipe
        self.device = find_device(recipe.device)
        self.actor = Actor(observation_dim, space, recipe.hidden, rng).to(self.device)
        critics = Critics(observation_dim, space, recipe.hidden, rng, layer_norm=recipe.layer_norm)
        self.critics = critics.to(self.device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.rng = draws.generator(int(draws.integers(rng, 2**62, 1)), self.device)
        start = torch.tensor(recipe.temperature, device=self.device).log()
        self.log_temperature = nn.Parameter(start)
        entropy = recipe.target_entropy
        self.target_entropy = -float(len(space.low)) if entropy is None else entropy
        self._policy = [*self.actor.parameters(), self.log_temperature]
        self._values = list(self.critics.parameters())
        rate = recipe.learning_rate
        self.policy_optimizer = torch.optim.Adam(self._policy, lr=rate, fused=True)
        self.value_optimizer = torch.optim.Adam(self._values, lr=rate, fused=True)
        self._follow = get_ema_multi_avg_fn(1 - recipe.target_rate)

    @property
    def temperature(self) -> Tensor:
        """alpha, a number without gradient."""
        return self.log_temperature.detach().exp()

    def act(self, obs: Tensor, *, explore: bool, rng: torch.Generator) -> Tensor:
        """Actions [B, A]: draws from the policy, or its squashed mean."""
        here = obs.to(self.device)
        with torch.no_grad():
            return self.actor.draw(here, rng).action if explore else self.actor.mean(here)

    def update(self, batch: Steps) -> Tensor:
        """One update of everything from n transitions; the numbers named by `LOGGED`.

        Raises NotFiniteError where a loss is NaN or infinite; what it belongs to is then unchanged.
        """
        critic_loss, q = self.fit_critics(batch)
        drawn = self.actor.draw(batch.obs, self.rng)
        worth = self.critics(batch.obs, drawn.action).amin(0)
        actor_loss = (self.temperature * drawn.log_prob - worth).mean()
        entropy = self.fit_actor(actor_loss, drawn.log_prob, batch)
        return torch.stack([critic_loss, actor_loss.detach(), q, entropy, self.temperature])

    @torch.no_grad()
    def targets(self, batch: Steps) -> Tensor:
        """What the critics should say of the transitions, [n]; see the module's second line."""
        drawn = self.actor.draw(batch.next_obs, self.rng)
        q = self.target(batch.next_obs, drawn.action).amin(0)
        after = q - self.temperature * drawn.log_prob
        return batch.reward + self.recipe.discount * torch.where(batch.terminated, 0.0, after)

    def fit_critics(self, batch: Steps) -> tuple[Tensor, Tensor]:
        """One step of the critics, and of the targets after them: the loss and the mean Q."""
        q = self.critics(batch.obs, batch.action)
        loss = (q - self.targets(batch)).square().mean(1).sum()
        check_finite(loss, batch._asdict(), "the critics' loss")
        self.value_optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self._values)
        self.value_optimizer.step()
        self._follow(list(self.target.parameters()), self._values, None)
        return loss.detach(), q.detach().mean()

    def fit_actor(self, loss: Tensor, log_prob: Tensor, batch: Steps) -> Tensor:
        """One step of the policy down `loss` and of the temperature; returns the entropy.

        `log_prob` [n] of the actions that the loss judges; `batch` is what to save where the loss
        is not finite.
        """
        entropy = -log_prob.detach().mean()
        check_finite(loss, batch._asdict(), "the policy's loss")
        total = loss + self.log_temperature.exp() * (entropy - self.target_entropy)
        self.policy_optimizer.zero_grad(set_to_none=True)
        total.backward(inputs=self._policy)
        self.policy_optimizer.step()
        return entropy

    def state_dict(self) -> dict[str, Any]:
        """All that updates go on from, as tensors and plain data."""
        return {
            "actor": self.actor.state_dict(),
            "critics": self.critics.state_dict(),
            "target": self.target.state_dict(),
            "log_temperature": self.log_temperature.detach().clone(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "value_optimizer": self.value_optimizer.state_dict(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        for name in ("actor", "critics", "target", "policy_optimizer", "value_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        restore_generator(self.rng, state["rng"])


class SACLearner:
    """Soft actor-critic on real transitions alone."""

    def __init__(self, recipe: SAC, env: VectorEnv, rng: torch.Generator) -> None:
        self.recipe = recipe
        self.sac = SoftActorCritic(recipe, env.observation_dim, env.action_space, rng=rng)
        self.device, self.rng = self.sac.device, self.sac.rng
        self.schedule = Schedule(recipe.updates_per_step)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]; there is no carry."""
        return self.sac.act(obs, explore=explore, rng=rng), None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """The updates that `steps` more transitions make due, and the means of what they logged.

        The first call makes none: the random phase is not made up for.
        """
        size, attempts = self.recipe.batch_size, Attempts()
        due = range(self.schedule.due(steps))
        batches = (replay.sample(size, self.rng, self.device) for _ in due)
        return attempts.result(means(attempts.each(self.sac.update, batches)))

    def world_model(self, record: dict[str, Any]) -> None:
        """There is no model of the world."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from."""
        return {"sac": self.sac.state_dict(), "decisions": self.schedule.decisions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.sac.load_state_dict(state["sac"])
        self.schedule.decisions = state["decisions"]


def acts_by_policy(planner: Planner | None) -> None:
    """Raise ValueError where a planner is given, other than that which follows the policy."""
    if planner is not None and planner != Reflex(action="policy"):
        raise ValueError(
            f"this agent acts by its policy, not by {type(planner).__name__}: give planner=policy; "
            "a world model that was learned is planned with by evals.control"
        )


def means(logged: Sequence[Tensor]) -> dict[str, float]:
    """The averages of several updates, by the names of `LOGGED`; the first look at the device."""
    if not logged:
        return {}
    numbers = torch.stack(list(logged)).mean(0).tolist()
    return {"updates": float(len(logged)), **dict(zip(LOGGED, numbers, strict=True))}
