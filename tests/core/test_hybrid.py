"""Known equations plus a learned correction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mbrl_core import Box, GradMPC, Model, Rng, Transition, generator
from mbrl_core.hybrid import Residual, ResidualNet, fit_residual
from mbrl_core.testing import check_model, check_planner
from tests.worlds import Glider, TensorGarden, glider

BOX = Box(torch.tensor([-2.0]).double(), torch.tensor([2.0]).double())


class Pendulum:
    """States [R, 2] (angle from upright, its speed), torque [R, 1]; friction unless `smooth`."""

    terminates = False

    def __init__(self, mass: float, friction: float) -> None:
        self.mass, self.friction = mass, friction

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        angle, speed = state.unbind(1)
        pull = 15 * angle.sin() + 3 * action[:, 0] / self.mass
        speed = speed + 0.05 * (pull - self.friction * speed * speed.abs())
        after = torch.stack([angle + 0.05 * speed, speed], 1)
        reward = -after.square().sum(1) - 0.01 * action.square().sum(1)
        return Transition(after, reward, torch.full_like(reward, 0.99))


REAL = Pendulum(mass=1.0, friction=0.3)
GUESS = Pendulum(mass=2.0, friction=0.0)


def transitions(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gen = generator(seed)
    unit = 2 * torch.rand(number, 3, generator=gen, dtype=torch.float64) - 1
    state, action = unit[:, :2] * torch.tensor([3.0, 6.0]), 2 * unit[:, 2:]
    moved = REAL.step(state, action, rng=gen)
    return state, action, moved.state, moved.reward


def net(**settings: object) -> ResidualNet:
    return ResidualNet(2, 1, rng=generator(0), **settings).double()  # type: ignore[arg-type]


def test_a_correction_of_zero_is_the_base_bit_for_bit() -> None:
    state, action, _, _ = transitions(20, 0)
    for correction in (net(), net(reward=True)):
        known = REAL.step(state, action, rng=generator(0))
        hybrid = Residual(REAL, correction).step(state, action, rng=generator(0))
        for mine, yours in zip(known[:3], hybrid[:3], strict=True):
            assert torch.equal(mine, yours)


def test_a_wrong_mass_and_a_correction_predict_better_than_either_alone() -> None:
    state, action, after, _ = transitions(400, 1)
    hybrid = Residual(GUESS, net(hidden=(32,)))
    fit_residual(hybrid, state, action, after, rng=generator(2), epochs=40, batch_size=100)
    nothing = Pendulum(mass=1.0, friction=0.0)
    nothing.step = lambda s, a, *, rng: Transition(s, s[:, 0], s[:, 0])  # type: ignore[method-assign]
    learned = Residual(nothing, net(hidden=(32,)))
    fit_residual(learned, state, action, after, rng=generator(2), epochs=40, batch_size=100)
    state, action, after, _ = transitions(400, 3)

    def error(model: object) -> float:
        with torch.no_grad():
            moved = model.step(state, action, rng=generator(0))  # type: ignore[attr-defined]
        return float((moved.state - after).square().mean())

    errors = [error(model) for model in (hybrid, GUESS, learned)]
    assert errors[0] < 0.2 * errors[1] and errors[0] < 0.5 * errors[2], errors


def test_a_linear_correction_finds_the_missing_force() -> None:
    # With the right friction the mass alone is wrong: 0.05 * 3 * (1 - 1/2) per unit of torque.
    state, action, after, _ = transitions(300, 1)
    hybrid = Residual(Pendulum(mass=2.0, friction=0.3), net(hidden=()))
    more = {"epochs": 100, "learning_rate": 0.05, "weight_decay": 0.0}
    left = fit_residual(hybrid, state, action, after, rng=generator(0), **more)  # type: ignore[arg-type]
    assert left < 1e-6
    at = torch.zeros(1, 2).double()
    change = hybrid.correction(at, torch.ones(1, 1).double()) - hybrid.correction(
        at, torch.zeros(1, 1).double()
    )
    torch.testing.assert_close(
        change, torch.tensor([[0.05 * 0.075, 0.075]]).double(), rtol=1e-3, atol=1e-5
    )


def test_rewards_are_corrected_or_recomputed() -> None:
    state, action, after, reward = transitions(400, 1)
    corrected = Residual(REAL, net(hidden=(32,), reward=True))
    bonus = state[:, 0]
    fit_residual(corrected, state, action, after, reward + bonus, rng=generator(0), epochs=60)
    with torch.no_grad():
        moved = corrected.step(state, action, rng=generator(0))
    assert (moved.reward - reward - bonus).square().mean() < 0.01 * bonus.square().mean()
    known = Residual(GUESS, net(), reward=lambda s, a, after: after[:, 1])
    moved = known.step(state, action, rng=generator(0))
    assert torch.equal(moved.reward, moved.state[:, 1])


def test_gradients_through_both_parts_equal_finite_differences() -> None:
    state, action, after, reward = transitions(200, 1)
    hybrid = Residual(GUESS, net(hidden=(8,), reward=True))
    fit_residual(hybrid, state, action, after, reward, rng=generator(0), epochs=5)
    hybrid.requires_grad_(False)

    def total(actions: Tensor) -> Tensor:
        now, earned = state[:3], torch.zeros(3).double()
        for t in range(4):
            moved = hybrid.step(now, actions[:, t], rng=generator(0))
            now, earned = moved.state, earned + moved.reward
        return earned.sum()

    actions = action[:12].view(3, 4, 1).clone()
    gradient = torch.autograd.functional.jacobian(total, actions)
    for index in [(0, 0, 0), (1, 2, 0), (2, 3, 0)]:
        bump = torch.zeros_like(actions)
        bump[index] = 1e-6
        slope = (total(actions + bump) - total(actions - bump)) / 2e-6
        torch.testing.assert_close(gradient[index], slope, rtol=1e-6, atol=1e-7)


def test_hybrids_keep_the_contracts() -> None:
    state, action, after, _ = transitions(100, 1)
    hybrid = Residual(GUESS, net(hidden=(8,)))
    fit_residual(hybrid, state, action, after, rng=generator(0), epochs=3)
    hybrid.requires_grad_(False)
    assert not hybrid.terminates and Residual(TensorGarden(), nn.Identity()).terminates
    model = Model(hybrid, action_space=BOX)
    check_model(model, state[:4])
    check_planner(GradMPC(horizon=3, samples=2, iterations=3), model, state[:3])


def test_what_does_not_fit_is_refused() -> None:
    state, action, after, reward = transitions(10, 1)
    with pytest.raises(ValueError, match="does not take rewards"):
        fit_residual(Residual(GUESS, net()), state, action, after, reward, rng=generator(0))
    with pytest.raises(ValueError, match="needs rewards"):
        wide = Residual(GUESS, net(reward=True))
        fit_residual(wide, state, action, after, rng=generator(0))
    with pytest.raises(ValueError, match="not finite"):
        fit_residual(Residual(GUESS, net()), state, action, after / 0, rng=generator(0))
    wrong = Residual(Glider(), nn.Bilinear(2, 1, 5).double())
    with pytest.raises(ValueError, match=r"correction must be \[R, 2\], or \[R, 3\]"):
        wrong.step(state, action, rng=generator(0))
    assert isinstance(glider().dynamics, Glider)
