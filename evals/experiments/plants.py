"""Two small systems to control, as true models over observations: rows of tensors, no simulator.

They are Gymnasium's pendulum and cart-pole (with a force between its two), so that hundreds of
episodes are simulated and planned for at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from control.known_models import PendulumDynamics
from control.rewards import cartpole_alive, cartpole_fallen, pendulum
from mbrl_core import Box, Carry, Dynamics, Model, Rng, Transition, draws
from mbrl_core.audit import Recording
from mbrl_core.world import World

DISCOUNT = 0.99
TIMESTEP = 0.05  # of the pendulum, in seconds
INERTIA = 3.0  # rate (rad/s) that 1 N m adds to the pendulum's in a second

Act = Callable[[Tensor, Carry], tuple[Tensor, Carry]]
"""(observations [B, D], carry) to (actions [B, A], carry); the carry is None at the start."""


@dataclass(frozen=True)
class Pendulum:
    """Gymnasium's Pendulum over observations [R, 3]: cos, sin (1, 0 is upright) and rate (rad/s).

    friction: a dry (Coulomb) torque in N m against the motion; it can hold the pendulum.
    drag: a torque per rate, in N m s.
    """

    friction: float = 0.0
    drag: float = 0.0
    terminates = False

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`; friction acts on the rate that Gymnasium's step ends with."""
        angle = torch.atan2(state[:, 1], state[:, 0])
        here = torch.stack([angle, state[:, 2]], 1)
        moved = PendulumDynamics(discount=DISCOUNT).step(here, action, rng=rng)
        rate = moved.state[:, 1] * (1 - self.drag * INERTIA * TIMESTEP)
        rate = rate.sign() * (rate.abs() - self.friction * INERTIA * TIMESTEP).clamp(min=0)
        angle = angle + rate * TIMESTEP
        return moved._replace(state=torch.stack([angle.cos(), angle.sin(), rate], 1))


@dataclass(frozen=True)
class CartPole:
    """Gymnasium's CartPole (Barto, Sutton and Anderson 1983) with any force in [-10, 10] N.

    States [R, 4] are position (m), velocity, the pole's angle (rad) and its rate; actions [R, 1]
    are in units of 10 N. With T = f + m l w^2 sin x over the total mass,

        w' = (g sin x - cos x T) / (l (4/3 - m cos^2 x / M)),   v' = T - m l w' cos x / M.
    """

    terminates = True

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        _, velocity, angle, rate = state.unbind(1)
        gravity, pole, total, length, seconds = 9.8, 0.1, 1.1, 0.5, 0.02
        force = 10 * action[:, 0].clamp(-1, 1)
        sin, cos = angle.sin(), angle.cos()
        push = (force + pole * length * rate.square() * sin) / total
        turn = (gravity * sin - cos * push) / (length * (4 / 3 - pole * cos.square() / total))
        speed_up = push - pole * length * turn * cos / total
        moved = state + seconds * torch.stack([velocity, speed_up, rate, turn], 1)
        discount = torch.where(cartpole_fallen(state, action, moved), 0.0, DISCOUNT)
        return Transition(moved, cartpole_alive(state, action, moved), discount.to(state))


class Plant(NamedTuple):
    """A system to control, and what may be known of it."""

    dynamics: Dynamics
    action_space: Box
    dim: int  # of observations, D
    steps: int  # after which an episode is cut
    start: Callable[[int, Rng], Tensor]  # first observations [n, D]
    reward: Callable[[Tensor, Tensor, Tensor], Tensor]
    terminated: Callable[[Tensor, Tensor, Tensor], Tensor] | None

    def model(self) -> Model:
        """The truth, for planners."""
        return Model(self.dynamics, action_space=self.action_space)


def pendulum_plant(friction: float = 0.0, drag: float = 0.0) -> Plant:
    """The pendulum to be swung up and held; episodes start anywhere, as Gymnasium's do."""

    def start(number: int, rng: Rng) -> Tensor:
        unit = 2 * draws.uniform(rng, number, 2) - 1
        angle, rate = torch.pi * unit[:, 0], unit[:, 1]
        return torch.stack([angle.cos(), angle.sin(), rate], 1)

    space = Box(torch.tensor([-2.0]), torch.tensor([2.0]))
    return Plant(Pendulum(friction, drag), space, 3, 200, start, pendulum, None)


def cartpole_plant() -> Plant:
    """The pole to be kept upright and the cart on its track; episodes start near the middle."""

    def start(number: int, rng: Rng) -> Tensor:
        return 0.1 * draws.uniform(rng, number, 4) - 0.05

    space = Box(torch.tensor([-1.0]), torch.tensor([1.0]))
    return Plant(CartPole(), space, 4, 500, start, cartpole_alive, cartpole_fallen)


PLANTS: dict[str, Callable[[], Plant]] = {"pendulum": pendulum_plant, "cartpole": cartpole_plant}


@torch.no_grad()
def play(plant: Plant, act: Act, start: Tensor, *, rng: Rng, steps: int | None = None) -> Recording:
    """Episodes in reality from the B first observations `start`, until all have ended or `steps`.

    What a row's `act` chooses after its end has no effect.
    """
    world = World("play", plant.model(), start, rng=rng)
    alive = torch.ones(len(start), dtype=torch.bool)
    states, played = [start], list[Transition]()
    actions: list[Tensor] = []
    carry: Carry = None
    while len(actions) < (steps or plant.steps) and bool(alive.any()):
        action, carry = act(states[-1], carry)
        moved = world.step(states[-1], action, alive=alive)
        alive = alive & (moved.discount != 0)
        states.append(moved.state)
        actions.append(action)
        played.append(moved)
    rewards = torch.stack([moved.reward for moved in played], 1)
    discounts = torch.stack([moved.discount for moved in played], 1)
    return Recording(states, actions, rewards, discounts)


class Data(NamedTuple):
    """Transitions, without those that follow an episode's end."""

    obs: Tensor  # [n, D]
    action: Tensor  # [n, A]
    after: Tensor  # [n, D]

    def first(self, number: int) -> Data:
        """The first so many of them."""
        return Data(*(part[:number] for part in self))


def transitions(recording: Recording) -> Data:
    """The transitions of all episodes, one episode after the other."""
    happened = recording.happened
    parts = (recording.states[:-1], recording.actions, recording.states[1:])
    return Data(*(torch.stack(part, 1)[happened] for part in parts))


def collect(plant: Plant, act: Act, number: int, *, rng: Rng, steps: int | None = None) -> Data:
    """`number` transitions of whole episodes of at most `steps` steps, the last one cut."""
    found: list[Data] = []
    while sum(len(part.obs) for part in found) < number:
        start = plant.start(8, rng)
        found.append(transitions(play(plant, act, start, rng=rng, steps=steps)))
    return Data(*map(torch.cat, zip(*found, strict=True))).first(number)
