"""Local models of a world: linear dynamics, quadratic costs, and the Riccati recursion over them.

Everything here is minimised: a cost is minus a reward. States are vectors [S] (`rows.vector`),
z = (x, u) is a state with its action, Z = S + A, and all deviations are from the pairs at which the
world was expanded. Numbers are in double precision on the host: the matrices are small, and a
Riccati recursion in single precision loses its symmetry over a long horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.types import Rows
from mbrl_core.world import Bounds, World


class Stage(NamedTuple):
    """One step expanded about R states and actions."""

    next: Tensor  # [R, S] the state it leads to
    cost: Tensor  # [R]
    discount: Tensor  # [R]
    next_z: Tensor  # [R, S, Z]
    cost_z: Tensor  # [R, Z]
    discount_z: Tensor  # [R, Z]
    cost_zz: Tensor  # [R, Z, Z]
    next_zz: Tensor | None = None  # [R, S, Z, Z]
    discount_zz: Tensor | None = None  # [R, Z, Z]

    def map(self, change: Callable[[Tensor], Tensor]) -> Stage:
        """The stage with `change` applied to each tensor."""
        changed: list[Any] = [None if part is None else change(part) for part in self]
        return Stage(*changed)


class CostToGo(NamedTuple):
    """A quadratic function of a state's deviation dx: value + slope'dx + dx'curve dx / 2."""

    value: Tensor  # [B]
    slope: Tensor  # [B, S]
    curve: Tensor  # [B, S, S]

    def moved(self, gap: Tensor) -> CostToGo:
        """The same function of the deviation from a point `gap` [B, S] further on."""
        bend = times(self.curve, gap)
        value = self.value + dot(self.slope + bend / 2, gap)
        return CostToGo(value, self.slope + bend, self.curve)


class Feedback(NamedTuple):
    """What to do about a deviation: du_t = move_t + gain_t dx_t."""

    move: Tensor  # [B, H, A]
    gain: Tensor  # [B, H, A, S]
    usable: Tensor  # [B] bool; where False, both are zero


Solve = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(t, curve [B, A, A], slope [B, A], cross [B, A, S]) to the move [B, A] and the gain [B, A, S]
that minimise slope'du + dx'cross'du + du'curve du / 2."""


def expand(
    world: World,
    state: Rows,
    action: Tensor,
    *,
    alive: Tensor | None = None,
    second_order: bool = False,
) -> Stage:
    """One model step of B*n rows and its derivatives, by S + 2 + Z sweeps back through it.

    The ledger counts each row once, as stepped and as differentiated through. Rows with `alive` [R]
    False have ended: cost and discount are zero and the model never sees them. With `second_order`
    the dynamics are differentiated twice, which takes S * Z sweeps more.

    Raises ValueError where states are no vectors or the model returns nothing with a gradient.
    """
    start = rows.vector(state)
    size = start.shape[1]
    with torch.enable_grad():
        z = torch.cat([start, action.to(start)], 1).detach().requires_grad_()
        here = rows.with_vector(state, z[:, :size])
        moved = world.step(here, z[:, size:], alive=alive)
        after = rows.vector(moved.state)
        cost, discount = -moved.reward, moved.discount
        if not (after.requires_grad or cost.requires_grad):
            raise ValueError(
                f"{world.planner} needs a model that can be differentiated with respect to state "
                "and action, and this one returned a step without a gradient"
            )
        next_z, next_zz = _derivatives(after, z, twice=second_order)
        cost_z, cost_zz = _derivatives(cost.unsqueeze(1), z, twice=True)
        discount_z, discount_zz = _derivatives(discount.unsqueeze(1), z, twice=second_order)
    stage = Stage(after, cost, discount, next_z, cost_z[:, 0], discount_z[:, 0], cost_zz[:, 0])
    if second_order:
        stage = stage._replace(next_zz=next_zz, discount_zz=discount_zz[:, 0])
    return stage.map(host)


def expand_value(world: World, state: Rows, alive: Tensor) -> CostToGo:
    """Minus the model's value of B states and its derivatives; zero where the model has none, and
    for states that have ended (`alive` [B] False)."""
    start = rows.vector(state)
    with torch.enable_grad():
        x = start.detach().requires_grad_()
        value = world.value_of_living(rows.with_vector(state, x), alive)
        cost = x.new_zeros(len(x)) if value is None else -value
        slope, curve = _derivatives(cost.unsqueeze(1), x, twice=True)
    return CostToGo(host(cost), host(slope[:, 0]), host(curve[:, 0]))


def riccati(
    stage: Callable[[int], Stage],
    last: CostToGo,
    horizon: int,
    solve: Solve,
    gap: Callable[[Stage], Tensor] | None = None,
) -> tuple[Feedback, CostToGo]:
    """The recursion over `horizon` stages, last first: the feedback and the cost-to-go at the root.

    One stage is Q(dx, du) = cost + discount V(f(dx, du)), V the cost-to-go after it, expanded to
    second order (Tassa, Erez and Todorov 2012, "Synthesis and stabilization of complex behaviors
    through online trajectory optimization", eqs. 5, 6 and 11). The discount may depend on state and
    action. Terms of f_zz count where `stage(t)` has them: differential dynamic programming instead
    of iLQR. `gap` [B, S] is by how much a stage misses the state at which the next is expanded.

    From where a root's numbers are no longer finite, it is not usable.
    """
    after, moves, gains = last, [], []
    usable = torch.isfinite(last.value)
    for t in reversed(range(horizon)):
        now = stage(t)
        whole, slope, curve = _bellman(now, after if gap is None else after.moved(gap(now)))
        usable = usable & torch.isfinite(curve.sum((1, 2)) + slope.sum(1))
        slope = torch.where(usable[:, None], slope, 0.0)
        curve = torch.where(usable[:, None, None], curve, 0.0)
        size = now.next.shape[1]
        in_action, cross = curve[:, size:, size:], curve[:, size:, :size]
        move, gain = solve(t, in_action, slope[:, size:], cross)
        bend = slope[:, size:] + times(in_action, move)
        back = gain.mT @ in_action + cross.mT
        sloped = slope[:, :size] + times(gain.mT, bend) + times(cross.mT, move)
        curved = curve[:, :size, :size] + back @ gain + gain.mT @ cross
        after = CostToGo(
            whole + dot(slope[:, size:] + bend, move) / 2, sloped, (curved + curved.mT) / 2
        )
        moves.append(move)
        gains.append(gain)
    move, gain = torch.stack(moves[::-1], 1), torch.stack(gains[::-1], 1)
    keep = usable[:, None, None]
    move, gain = torch.where(keep, move, 0.0), torch.where(keep[..., None], gain, 0.0)
    return Feedback(move, gain, usable), after


def definite(curve: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """`curve` [B, A, A] plus the smallest multiple of the identity, at least `least` [B], that
    makes it positive definite: the Levenberg-Marquardt method."""
    curve = (curve + curve.mT) / 2
    eigenvalues = torch.linalg.eigvalsh(curve)
    floor = (1e-8 * eigenvalues.abs().amax(1)).clamp(min=1e-12)
    shift = torch.where(eigenvalues[:, 0] < floor, floor - eigenvalues[:, 0], 0.0)
    shift = torch.maximum(shift, torch.as_tensor(least).to(shift).expand_as(shift))
    return curve + shift[:, None, None] * torch.eye(curve.shape[1], dtype=curve.dtype)


def steer(bounds: Bounds, action: Tensor, move: Tensor, gain: Tensor, deviation: Tensor) -> Tensor:
    """Actions [R, A]: `action` + move + gain deviation, inside the bounds; `action` itself where
    the state is so far off that this is not finite."""
    wanted = action + move + times(gain, deviation)
    return bounds.clip(torch.where(torch.isfinite(wanted), wanted, action))


def newton(t: int, curve: Tensor, slope: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """See `Solve`: without bounds, the curvature made definite where it is not."""
    both = torch.linalg.solve(definite(curve), torch.cat([slope.unsqueeze(2), cross], 2))
    return -both[..., 0], -both[..., 1:]


def _bellman(now: Stage, after: CostToGo) -> tuple[Tensor, Tensor, Tensor]:
    """Q of one stage: its value [B], slope [B, Z] and curvature [B, Z, Z]."""
    discount = now.discount[:, None]
    pull = times(now.next_z.mT, after.slope)
    value = now.cost + now.discount * after.value
    slope = now.cost_z + discount * pull + now.discount_z * after.value[:, None]
    mixed = now.discount_z.unsqueeze(2) * pull.unsqueeze(1)
    curve = now.cost_zz + mixed + mixed.mT
    curve = curve + discount[..., None] * (now.next_z.mT @ after.curve @ now.next_z)
    if now.next_zz is not None and now.discount_zz is not None:
        bent = torch.einsum("bs,bsyz->byz", after.slope, now.next_zz)
        curve = curve + discount[..., None] * bent
        curve = curve + now.discount_zz * after.value[:, None, None]
    return value, slope, (curve + curve.mT) / 2


def _derivatives(y: Tensor, z: Tensor, *, twice: bool) -> tuple[Tensor, Tensor]:
    """First [R, n, Z] and second [R, n, Z, Z] derivatives of `y` [R, n], of which row r depends on
    row r of `z` [R, Z] alone; the second are empty, [R, n, 0, Z], unless `twice`."""
    first, second = [], []
    for part in y.sum(0):
        slope = _gradient(part, z, again=twice)
        first.append(slope)
        curve = [_gradient(each, z) for each in slope.sum(0)] if twice else []
        second.append(torch.stack(curve, 1) if twice else z.new_zeros(len(z), 0, z.shape[1]))
    return torch.stack(first, 1), torch.stack(second, 1)


def _gradient(total: Tensor, z: Tensor, *, again: bool = False) -> Tensor:
    """d total / d z, zeros where there is none; with `again` it can be differentiated in turn."""
    if not total.requires_grad:
        return torch.zeros_like(z)
    return torch.autograd.grad(
        total, z, retain_graph=True, create_graph=again, allow_unused=True, materialize_grads=True
    )[0]


def host(x: Tensor) -> Tensor:
    """`x` where the recursion runs and in its precision."""
    return x.detach().to(device="cpu", dtype=torch.float64)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Products [...] of vectors [..., S]."""
    return (a * b).sum(-1)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products [..., A] of matrices [..., A, S] and vectors [..., S]."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
