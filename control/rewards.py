"""Rewards and ends of episodes that are known, as functions of observations.

Rewards are those of one simulator frame. A model that steps over `repeat` frames at once earns
`repeat` times the reward of its last frame: exact at repeat 1, else an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs [R, D], action [R, A], next obs [R, D]) to [R]."""


class Task(NamedTuple):
    """What is known of a task."""

    reward: Function  # of one simulator frame
    terminated: Function | None = None  # None: episodes never end by themselves


def known_task(env: str) -> Task:
    """What is known of the environment of this name.

    Raises ValueError where nothing is: its reward has to be learned.
    """
    if env not in _TASKS:
        raise ValueError(f"no reward function is known for {env!r}, only for {', '.join(_TASKS)}")
    return _TASKS[env]


def repeated(reward: Function, repeat: int) -> Function:
    """The reward of `repeat` frames, all like the last."""
    if repeat == 1:
        return reward
    return lambda obs, action, next_obs: repeat * reward(obs, action, next_obs)


def cartpole_swingup(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The suite's smooth cart-pole reward (dm_control/suite/cartpole.py), for balance and swing-up.

        (1 + cos)/2 * (1 + near centre)/2 * (4 + small force)/5 * (1 + slow pole)/2

    Observations are position, cos, sin, velocity and the pole's angular velocity (rad/s); one pole.
    """
    position, cos, angular_velocity = next_obs[:, 0], next_obs[:, 1], next_obs[:, 4]
    centred = (1 + _gaussian_tolerance(position, 2.0)) / 2
    gentle = (4 + (1 - action[:, 0].square()).clamp(min=0.0)) / 5
    slow = (1 + _gaussian_tolerance(angular_velocity, 5.0)) / 2
    return (1 + cos) / 2 * centred * gentle * slow


def pendulum(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Gymnasium's Pendulum: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), before the step.

    Observations are cos, sin and angular velocity (rad/s); angle 0 is upright.
    """
    angle = torch.atan2(obs[:, 1], obs[:, 0])
    torque = action[:, 0].clamp(-2.0, 2.0)
    return -(angle.square() + 0.1 * obs[:, 2].square() + 0.001 * torque.square())


def cartpole_alive(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Gymnasium's CartPole pays 1 for each step, the one that ends the episode included."""
    return torch.ones_like(obs[:, 0])


def cartpole_fallen(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Whether Gymnasium's CartPole left +-2.4 m or +-12 degrees."""
    return (next_obs[:, 0].abs() > 2.4) | (next_obs[:, 2].abs() > math.radians(12))


def _gaussian_tolerance(x: Tensor, margin: float) -> Tensor:
    """dm_control's tolerance around 0 with a Gaussian that is 0.1 at `margin`."""
    return (math.log(0.1) * (x / margin).square()).exp()


_TASKS = {
    "dmc/cartpole-swingup": Task(cartpole_swingup),
    "dmc/cartpole-balance": Task(cartpole_swingup),
    "gym/Pendulum-v1": Task(pendulum),
    "gym/CartPole-v1": Task(cartpole_alive, cartpole_fallen),
}
