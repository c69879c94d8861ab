"""True models of Gymnasium environments whose rules are written down: tables, and the pendulum.

Their states are read from a running environment by `root(env)`; see `control/simulator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from control.envs import VectorEnv, make_env
from mbrl_core import draws
from mbrl_core.types import Box, Discrete, Rng, Transition

Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""table[state][action]: what may happen, as (probability, next state, reward, terminated)."""


def gym_dynamics(
    env: str, action_repeat: int = 1, discount: float = 1.0
) -> TabularDynamics | PendulumDynamics:
    """The model of a Gymnasium environment: `gym/Pendulum-v1`, or one with a table `P`.

    Tables come with FrozenLake, CliffWalking and Taxi.

    Raises ValueError for any other environment: its rules are in no form that can be planned with.
    """
    native = _native(make_env(env).simulators[0])
    if hasattr(native, "P"):
        return TabularDynamics(native.P, action_repeat, discount)
    if env == "gym/Pendulum-v1":
        return PendulumDynamics(action_repeat, discount)
    raise ValueError(
        f"there is no true model of {env}: only of dmc/<domain>-<task>, gym/Pendulum-v1 and "
        "environments with a table of transitions (gym/FrozenLake-v1)"
    )


class TabularDynamics(nn.Module):
    """A finite Markov decision process: states [R] and actions [R] are int64 numbers.

    Attributes, for S states, A actions and at most K outcomes of each:
        probability: [S, A, K] float64; 0 in unused slots.
        next_state: [S, A, K] int64.
        reward: [S, A, K] float64.
        ended: [S, A, K] bool.
    """

    terminates = True
    probability: Tensor
    next_state: Tensor
    reward: Tensor
    ended: Tensor

    def __init__(self, table: Table, action_repeat: int = 1, discount: float = 1.0) -> None:
        """Raises ValueError where the probabilities of a state and action do not sum to 1."""
        super().__init__()
        number = len(table[0])
        self.action_space = Discrete(number)
        self.action_repeat = action_repeat
        self.discount = discount
        outcomes = [[table[s][a] for a in range(number)] for s in range(len(table))]
        most = max(len(each) for row in outcomes for each in row)
        unused = (0.0, 0, 0.0, False)
        padded = [[[*each, *[unused] * (most - len(each))] for each in row] for row in outcomes]
        fields = (
            np.array([[[outcome[i] for outcome in each] for each in row] for row in padded])
            for i in range(4)
        )
        probability, next_state, reward, ended = map(torch.from_numpy, fields)
        self.register_buffer("probability", probability.double())
        self.register_buffer("next_state", next_state)
        self.register_buffer("reward", reward.double())
        self.register_buffer("ended", ended.bool())
        if not torch.allclose(self.probability.sum(2), torch.ones(()).double()):
            raise ValueError("the probabilities of each state and action must sum to 1")

    def root(self, env: VectorEnv) -> Tensor:
        """The present states [B] of a running environment."""
        return torch.tensor([int(_native(simulator).s) for simulator in env.simulators])

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """One outcome for each of R states and actions, drawn by its probability.

        Rewards come in single precision, in which planners compute where states are whole numbers.
        """
        reward = self.reward.new_zeros(len(state))
        alive = torch.ones_like(state, dtype=torch.bool)
        for _ in range(self.action_repeat):
            chances = self.probability[state, action]
            drawn = draws.uniform(rng, len(state)).double().unsqueeze(1)
            # A drawn number in [0, 1) can reach a sum that rounding left below 1.
            last = chances.shape[1] - 1 - (chances.flip(1) > 0).long().argmax(1)
            which = (state, action, (drawn >= chances.cumsum(1)).sum(1).minimum(last))
            reward += torch.where(alive, self.reward[which], 0)
            state = torch.where(alive, self.next_state[which], state)
            alive = alive & ~self.ended[which]
        return Transition(state, reward.float(), torch.where(alive, self.discount, 0.0))


class PendulumDynamics:
    """Gymnasium's Pendulum: states [R, 2] are the angle (rad, 0 upright) and its rate (rad/s).

        w' = clip(w + (3 g / (2 l) sin(x) + 3 u / (m l^2)) dt, -8, 8),  x' = x + w' dt

    with g = 10, m = l = 1, dt = 0.05 and torque u in [-2, 2]; the reward is that of
    `rewards.pendulum`. Differentiable in states and actions.
    """

    terminates = False

    def __init__(self, action_repeat: int = 1, discount: float = 1.0) -> None:
        self.action_space = Box(torch.tensor([-2.0]), torch.tensor([2.0]))
        self.action_repeat = action_repeat
        self.discount = discount

    def root(self, env: VectorEnv) -> Tensor:
        """The present states [B, 2] of a running environment, in float64."""
        states = [_native(simulator).state for simulator in env.simulators]
        return torch.from_numpy(np.stack(states).astype(np.float64))

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """R states and actions [R, 1] to R transitions."""
        angle, rate = state.unbind(1)
        torque = action[:, 0].clamp(-2.0, 2.0)
        reward = torch.zeros_like(angle)
        for _ in range(self.action_repeat):
            off = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
            reward = reward - (off.square() + 0.1 * rate.square() + 0.001 * torque.square())
            rate = (rate + (15.0 * torch.sin(angle) + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
            angle = angle + rate * 0.05
        moved = torch.stack([angle, rate], 1)
        return Transition(moved, reward, torch.full_like(reward, self.discount))


def _native(simulator: Any) -> Any:
    return simulator.native.unwrapped
