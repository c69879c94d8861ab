"""Dyna-Q: a table of values learned from real steps, and between them from a learned model.

Sutton 1990; Sutton and Barto 2018, "Reinforcement learning", section 8.2. For environments whose
observations number their states (FrozenLake, CliffWalking, Taxi) and whose actions are discrete:

    1  act greedily by Q, at random in a share epsilon                    (act)
    2  move Q(s, a) towards r + gamma max_a' Q(s', a')                    (learn: DynaQ)
    3  count the step in the model                                        (learn: DynaQ)
    4  repeat n times: update a pair that was seen before from the model  (learn: DynaQ)

An episode cut by a time limit has not ended: its last step is bootstrapped like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from control.agents.sac import acts_by_policy
from control.envs import VectorEnv
from control.replay import Replay
from mbrl_core import DynaQ
from mbrl_core.dyna import Tables
from mbrl_core.planners.common import check_unit
from mbrl_core.types import Carry, Discrete, Planner, Transition


@dataclass(frozen=True, kw_only=True)
class DynaQAgent:
    """The hyperparameters; `start` makes the learner.

    planning, order, model, epsilon, learning_rate, optimism, threshold: see `DynaQ`; `planning` is
        per step of all environments together.
    discount: gamma, per decision.
    random_frames, action_repeat: see `Recipe`.
    """

    planning: int = 10
    order: Literal["uniform", "sweep"] = "uniform"
    model: Literal["counts", "last"] = "counts"
    epsilon: float = 0.1
    learning_rate: float = 0.1
    optimism: float = 0.0
    threshold: float = 1e-6
    discount: float = 0.99
    random_frames: int = 0
    action_repeat: int = 1

    def start(
        self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator
    ) -> DynaQLearner:
        """A learner that knows nothing yet.

        Raises ValueError where a planner is to choose the actions, they are continuous, or a
        hyperparameter is out of range.
        """
        acts_by_policy(planner)
        check_unit(self, "discount")
        if not isinstance(env.action_space, Discrete):
            raise ValueError(f"Dyna-Q needs discrete actions, and {env.name} has continuous ones")
        dyna = DynaQ(
            states=env.observation_dim,
            actions=env.action_space.n,
            planning=self.planning,
            order=self.order,
            model=self.model,
            epsilon=self.epsilon,
            learning_rate=self.learning_rate,
            optimism=self.optimism,
            threshold=self.threshold,
        )
        return DynaQLearner(dyna, self.discount, env, rng)


class DynaQLearner:
    """The tables: all that changes while learning."""

    device = torch.device("cpu")

    def __init__(self, dyna: DynaQ, discount: float, env: VectorEnv, rng: torch.Generator) -> None:
        self.dyna, self.discount = dyna, discount
        self.env_name, self.num_envs = env.name, env.num_envs
        self.rng = rng
        self.tables = dyna.start()

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, S] to actions [B]: the best, or a random one while exploring."""
        dyna = self.dyna if explore else replace(self.dyna, epsilon=0.0)
        return dyna.act(self.tables, self._number(obs), rng=rng), None

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """Learn from the last `steps` rows in the order they came, and plan after each round."""
        latest, _ = replay.latest(steps)
        for rows in torch.arange(steps).split(self.num_envs):
            terminated = latest.terminated[rows]
            moved = Transition(
                self._number(latest.next_obs[rows]),
                latest.reward[rows],
                torch.where(terminated, 0.0, self.discount),
            )
            state = self._number(latest.obs[rows])
            self.dyna.learn(self.tables, state, latest.action[rows], moved, rng=self.rng)
        seen = float((self.tables.visits > 0).double().mean())
        greatest = float(self.tables.q.amax())
        return {"updates": float(steps // self.num_envs), "pairs_seen": seen, "max_q": greatest}

    def world_model(self, record: dict[str, Any]) -> None:
        """None: the table of what was seen is no model of a whole environment."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The tables."""
        return self.tables._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.tables = Tables(**state)

    def _number(self, obs: Tensor) -> Tensor:
        """The states [R] that one-hot observations [R, S] stand for."""
        if not bool(((obs == 0) | (obs == 1)).all()) or not bool((obs.sum(1) == 1).all()):
            raise ValueError(
                f"Dyna-Q needs observations that number the states, and {self.env_name} has others"
            )
        return obs.argmax(1)
