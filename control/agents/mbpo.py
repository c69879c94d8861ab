"""MBPO: a policy that learns from short rollouts of a learned model.

Janner et al. 2019, "When to trust your model: model-based policy optimization", arXiv:1906.08253,
algorithm 2:

    1  for each step in the environment, recorded in D_env by the loop:
    2      from time to time train the ensemble on D_env               (fit_if_due)
    3      M times: from a state of D_env, follow the policy through
               the model for k steps, and add them to D_model          (branch)
    4      G times: update the policy on D_model, and a little D_env   (learn, by soft actor-critic)

A step of a rollout follows one of the elites, drawn anew (TS-1). k grows along a line over the
frames seen, and D_model holds what was imagined during the last `retain` decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from control.actor_critic import ActorPolicy, observed
from control.agents.sac import SAC, SoftActorCritic, acts_by_policy, means
from control.agents.schedule import Schedule
from control.envs import VectorEnv
from control.finite import Attempts
from control.learned_model import LearnedModel, ModelRecipe
from control.replay import Replay, Steps
from control.world_model import ActorCriticWorld
from mbrl_core import draws
from mbrl_core.planners.common import check_counts, check_unit
from mbrl_core.rollouts import follow
from mbrl_core.types import Carry, Model, Planner, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class MBPO:
    """The hyperparameters; `start` makes the learner.

    Defaults are the paper's; `configs/agent/mbpo.yaml`, from which `agent=mbpo` is made, has fewer
    rollouts and updates and smaller networks, for a laptop.

    sac: of the policy, its critics and their updates; `updates_per_step` is G.
    model: of the ensemble and its fits.
    rollouts_per_step: M, imagined rollouts per decision.
    rollout_every: decisions between two batches of rollouts, of M times as many.
    rollout_length: k at first and at last.
    rollout_frames: the simulator frames between which k grows from the first to the last.
    retain: decisions for which what was imagined is kept.
    real_share: of every update's batch that comes from the environment.
    """

    sac: SAC = field(default_factory=lambda: SAC(updates_per_step=20))
    model: ModelRecipe = field(default_factory=ModelRecipe)
    rollouts_per_step: int = 400
    rollout_every: int = 250
    rollout_length: Sequence[int] = (1, 1)
    rollout_frames: Sequence[int] = (20_000, 100_000)
    retain: int = 1000
    real_share: float = 0.05

    def __post_init__(self) -> None:
        check_counts(self, "rollouts_per_step", "rollout_every", "retain")
        first, last = self.rollout_length
        begin, end = self.rollout_frames
        if not 1 <= first <= last:
            raise ValueError(f"MBPO.rollout_length must be [k, k or more], not [{first}, {last}]")
        if not 0 <= begin < end:
            raise ValueError(f"MBPO.rollout_frames must be [f, more than f], not [{begin}, {end}]")
        check_unit(self, "real_share")
        if self.sac.discount == 0:
            raise ValueError("MBPO.sac.discount must be above 0: a model step of 0 is an end")

    @property
    def random_frames(self) -> int:
        """See `Recipe`."""
        return self.sac.random_frames

    @property
    def action_repeat(self) -> int:
        """See `Recipe`."""
        return self.sac.action_repeat

    def horizon(self, frames: int) -> int:
        """k after so many simulator frames."""
        first, last = self.rollout_length
        begin, end = self.rollout_frames
        progress = min(max((frames - begin) / (end - begin), 0.0), 1.0)
        return int(first + progress * (last - first))

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> MBPOLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, or they are not between bounds.
        """
        acts_by_policy(planner)
        return MBPOLearner(self, env, rng)


class MBPOLearner:
    """Policy, model and imagined experience: all that changes while learning."""

    learns_from_all = True

    def __init__(self, recipe: MBPO, env: VectorEnv, rng: torch.Generator) -> None:
        self.recipe = recipe
        self.action_repeat = env.action_repeat
        self.space = env.action_space
        self.sac = SoftActorCritic(recipe.sac, env.observation_dim, env.action_space, rng=rng)
        self.device, self.rng = self.sac.device, self.sac.rng
        self.model = LearnedModel(
            recipe.model,
            env,
            propagation="ts_1",
            aleatoric=True,
            discount=recipe.sac.discount,
            device=self.device,
            rng=rng,
        )
        self.imagined: Steps | None = None
        self.schedule = Schedule(recipe.sac.updates_per_step)

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]; there is no carry."""
        return self.sac.act(obs, explore=explore, rng=rng), None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """What `steps` more transitions make due; the means of what was logged.

        The first call fits the model and uses it, but makes no updates: the random phase is not
        made up for. Nor are there any before the model was fitted.
        """
        recipe, attempts, fitted = self.recipe, Attempts(), {}
        with attempts:
            fitted = self.model.fit_if_due(replay)
        if self.imagined is None:
            self.schedule.due(steps)
            if self.model.fitted:
                self.branch(replay)
            return attempts.result(fitted)
        losses: list[Tensor] = []
        for _ in range(steps):
            if self.schedule.decisions % recipe.rollout_every == 0:
                self.branch(replay)
            updates = self.schedule.due(1)
            losses += attempts.each(self.sac.update, self.batches(replay, updates))
        horizon = {"rollout_length": float(self.horizon)}
        return attempts.result(fitted | means(losses) | horizon)

    @property
    def horizon(self) -> int:
        """k, of the next rollouts."""
        return self.recipe.horizon(self.schedule.decisions * self.action_repeat)

    def branch(self, replay: Replay) -> None:
        """Imagine a batch of rollouts from states of the replay; forget the oldest."""
        recipe, horizon = self.recipe, self.horizon
        number = recipe.rollouts_per_step * recipe.rollout_every
        obs = replay.sample(number, self.rng, self.device).obs
        dynamics = self.model.dynamics
        model = Model(dynamics, ActorPolicy(self.sac.actor, observed), None, self.space)
        fresh = imagine(model, dynamics.root(obs), horizon, rng=self.rng)
        if self.imagined is not None:
            fresh = Steps(*map(torch.cat, zip(self.imagined, fresh, strict=True)))
        capacity = recipe.rollouts_per_step * horizon * recipe.retain
        self.imagined = Steps(*(part[-capacity:] for part in fresh))

    def batches(self, replay: Replay, updates: int) -> Iterator[Steps]:
        """Transitions for so many updates: the real share exactly, and imagined ones."""
        assert self.imagined is not None
        size = self.recipe.sac.batch_size
        real = round(self.recipe.real_share * size)
        drawn = draws.integers(self.rng, len(self.imagined.reward), updates * (size - real))
        dreamt = [part[drawn].unflatten(0, (updates, size - real)) for part in self.imagined]
        lived = replay.sample(updates * real, self.rng, self.device)
        both = zip(dreamt, (part.unflatten(0, (updates, real)) for part in lived), strict=True)
        yield from map(Steps._make, zip(*(torch.cat(pair, 1) for pair in both), strict=True))

    def world_model(self, record: dict[str, Any]) -> ActorCriticWorld:
        """The elites with the policy and its value, to be saved or planned with."""
        return self.model.world(self.sac, record)

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from, as tensors and plain data."""
        imagined = self.imagined
        return {
            "sac": self.sac.state_dict(),
            "model": self.model.state_dict(),
            # Copies: a tensor is saved with all the memory it is a view of.
            "imagined": None if imagined is None else [part.clone() for part in imagined],
            "decisions": self.schedule.decisions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.sac.load_state_dict(state["sac"])
        self.model.load_state_dict(state["model"])
        kept = state["imagined"]
        self.imagined = None if kept is None else Steps(*(part.to(self.device) for part in kept))
        self.schedule.decisions = state["decisions"]


@torch.no_grad()
def imagine(model: Model, state: Rows, horizon: int, *, rng: Rng) -> Steps:
    """Follow the model's policy from R states for `horizon` steps, or to the end of the episode.

    Returns the up to R * `horizon` transitions taken, all first steps before all second ones.
    """
    world = World("MBPO", model, state, rng=rng, needs=("policy",))
    befores: list[Rows] = []
    taken: list[Tensor] = []

    def choose(_t: int, now: Rows, moving: Tensor) -> Rows:
        befores.append(now)
        taken.append(moving)
        return world.propose(now, 1).actions

    futures = follow(world, state, choose, horizon, samples=1, valued=False)
    obs = [observed(now) for now in (*befores, futures.final)]
    steps = Steps(
        obs=torch.cat(obs[:-1]),
        action=torch.cat(futures.actions),
        reward=torch.cat(futures.rewards),
        next_obs=torch.cat(obs[1:]),
        terminated=torch.cat(futures.discounts) == 0,
    )
    if not world.terminates:
        return steps
    kept = torch.cat(taken)
    return Steps(*(part[kept] for part in steps))
