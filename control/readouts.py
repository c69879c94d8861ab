"""Rewards of suite tasks for many states at once.

A task's own reward function takes one state and looks everything up by name, which costs more than
simulating the state. A `Readout` says where in MuJoCo's data a reward lies, so that a loop over
rows only copies numbers, and computes it from all copies at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from control.rewards import cartpole_swingup

Z, ZZ, XZ = 2, 8, 2  # of a position [3] and of a rotation matrix [9]


class Readout(NamedTuple):
    """The reward of one task, read from one physics."""

    views: list[np.ndarray]  # V windows [w_v] into the data, which show its present state
    reward: Callable[..., np.ndarray]  # V arrays [n, w_v], copies of the views, to rewards [n]


def find_readout(domain: str, task: str, physics: Any) -> Readout | None:
    """The readout of a suite task; None where there is none and the task has to be asked."""
    make = READOUTS.get((domain, task))
    return None if make is None else make(physics)


def _cartpole(physics: Any) -> Readout:
    data = physics.data

    def reward(slide: Any, pole: Any, velocity: Any, control: Any) -> np.ndarray:
        obs = np.stack([slide[:, 0], pole[:, ZZ], pole[:, XZ], *velocity.T], 1)
        seen = torch.from_numpy(obs)
        return cartpole_swingup(seen, torch.from_numpy(control), seen).numpy()

    return Readout([data.qpos[:1], physics.named.data.xmat["pole_1"], data.qvel, data.ctrl], reward)


def _pendulum(physics: Any) -> Readout:
    upright = np.cos(np.deg2rad(8))
    return Readout(
        [physics.named.data.xmat["pole"]],
        lambda pole: (upright <= pole[:, ZZ]) & (pole[:, ZZ] <= 1),
    )


def _reacher(physics: Any) -> Readout:
    near = physics.named.model.geom_size[["target", "finger"], 0].sum()
    places = physics.named.data.geom_xpos
    return Readout(
        [places["target"], places["finger"]],
        lambda target, finger: np.linalg.norm((target - finger)[:, :2], axis=1) <= near,
    )


def _finger_spin(physics: Any) -> Readout:
    turning = physics.named.data.sensordata["hinge_velocity"]
    return Readout([turning], lambda velocity: velocity[:, 0] <= -15)


def _ball_in_cup(physics: Any) -> Readout:
    model, data = physics.named.model, physics.named.data
    room = model.site_size["target", [0, Z]] - model.geom_size["ball", 0]
    return Readout(
        [data.site_xpos["target"], data.xpos["ball"]],
        lambda target, ball: (abs(target - ball)[:, [0, Z]] < room).all(1),
    )


def _cheetah(physics: Any) -> Readout:
    moving = physics.named.data.sensordata["torso_subtreelinvel"]
    return Readout([moving], lambda velocity: (velocity[:, 0] / 10).clip(0, 1))


def _walker(speed: float) -> Callable[[Any], Readout]:
    """Standing where `speed` (m/s) is 0, else moving forwards at least so fast."""

    def reward(torso: Any, frame: Any, velocity: Any) -> np.ndarray:
        below = (1.2 - torso[:, Z]).clip(min=0) / 0.6
        standing = np.exp(np.log(0.1) * below**2)
        stand = (3 * standing + (1 + frame[:, ZZ]) / 2) / 4
        if speed == 0:
            return stand
        return stand * (5 * (velocity[:, 0] / speed).clip(0, 1) + 1) / 6

    def make(physics: Any) -> Readout:
        data = physics.named.data
        sensor = data.sensordata["torso_subtreelinvel"]
        return Readout([data.xpos["torso"], data.xmat["torso"], sensor], reward)

    return make


READOUTS: dict[tuple[str, str], Callable[[Any], Readout]] = {
    ("cartpole", "balance"): _cartpole,
    ("cartpole", "swingup"): _cartpole,
    ("pendulum", "swingup"): _pendulum,
    ("reacher", "easy"): _reacher,
    ("reacher", "hard"): _reacher,
    ("finger", "spin"): _finger_spin,
    ("ball_in_cup", "catch"): _ball_in_cup,
    ("cheetah", "run"): _cheetah,
    ("walker", "stand"): _walker(0),
    ("walker", "walk"): _walker(1),
    ("walker", "run"): _walker(8),
}
