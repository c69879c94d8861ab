"""Linear-quadratic regulation: the algebraic Riccati equation, and a planner on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.common import check_counts, only_finite, plan_of, warn_of_lost
from mbrl_core.planners.quadratic import (
    CostToGo,
    Feedback,
    Stage,
    expand,
    expand_value,
    host,
    newton,
    riccati,
    steer,
)
from mbrl_core.rollouts import simulate
from mbrl_core.types import Budget, BudgetError, Listener, Model, Plan, Rng, Rollout, Rows
from mbrl_core.world import Bounds, World, bounds_of

DOUBLINGS = 60  # horizons of up to 2**60 steps


def dare(A: Tensor, B: Tensor, Q: Tensor, R: Tensor) -> Tensor:
    """The P [..., S, S] with x'Px the least cost sum_t x'Qx + u'Ru from x under x+ = A x + B u.

        P = Q + A'PA - A'PB (R + B'PB)^-1 B'PA

    A [..., S, S], B [..., S, A], Q [..., S, S] and R [..., A, A], symmetric and R invertible; the
    best action is -(R + B'PB)^-1 B'PA x. In double precision, by structured doubling (Chu, Fan, Lin
    and Wang 2004, "Structure-preserving algorithms for periodic discrete-time algebraic Riccati
    equations"): its iterate k is the cost of 2^k steps, so P is the limit over finite horizons.

    NaN where there is no such limit: what is unstable and costs is out of the actions' reach.
    Raises ValueError where the shapes do not fit together.
    """
    size, width = B.shape[-2:]
    shapes = [A.shape[-2:], Q.shape[-2:], R.shape[-2:]]
    if shapes != [(size, size), (size, size), (width, width)]:
        raise ValueError(
            f"dare needs A and Q [S, S] and R [A, A] for B [S, A] = {[size, width]}, not "
            f"{[list(shape) for shape in shapes]}"
        )
    batch = torch.broadcast_shapes(*(x.shape[:-2] for x in (A, B, Q, R)))

    def flat(x: Tensor) -> Tensor:
        return host(x).expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:])

    cross, watched = torch.zeros_like(flat(B)), torch.ones_like(flat(Q), dtype=torch.bool)
    found = _limit(flat(A), flat(B), flat(Q), flat(R), cross, watched)
    P = torch.where(found.converged[:, None, None], found.last, torch.nan)
    return P.view(*batch, size, size).to(B.device)


@dataclass(frozen=True, kw_only=True)
class LQR:
    """The linear-quadratic regulator of the model at the root.

    Dynamics are linearised, reward and value quadratised at the root state and the centre of the
    action box, and the feedback that is optimal for this local model is the plan. On a model that
    is linear-quadratic it is the optimum; on others, good near the state to be held. Actions are
    clipped to their bounds, which the feedback does not foresee.

    horizon: model steps planned ahead, H, after which the model's value counts; then the plan is
        simulated by the model and `Plan.value` its predicted return. None is the infinite horizon
        (`dare`): one step is simulated, the model's value is not asked, and `Plan.value` is that
        step's reward and what the local model says of the rest. Where nothing discounts a cost
        that stays for ever, what this steady state costs is left out.

    A curvature without a minimum is made definite. Roots for which the infinite horizon has no
    solution get the box's centre, and Plan.valid is False there. It needs states that are tensors
    and a model that can be differentiated; it carries nothing from call to call.
    """

    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None:
            check_counts(self, "horizon")

    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: None = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, None]:
        """See `Planner`."""
        with torch.inference_mode(False), torch.no_grad():
            state = rows.trackable(state)
            world = World("LQR", model, state, rng=rng, budget=budget, needs=("action_space",))
            plan = self._plan(world, state)
        warn_of_lost("LQR", plan, stacklevel=3)
        return plan, None

    def _plan(self, world: World, state: Rows) -> Plan:
        bounds = bounds_of(world)
        self._check_budget(world)
        centre = bounds.clip(bounds.center).expand(world.roots, -1)
        stage = expand(world, state, centre)
        act = _Regulated(bounds, centre, rows.vector(state))
        rollout = (
            _forever(world, state, stage, act)
            if self.horizon is None
            else _until(world, state, stage, act, self.horizon)
        )
        returns = only_finite(rollout.returns)
        first = torch.zeros(world.roots, dtype=torch.int64, device=returns.device)
        return plan_of(world, rollout, returns, first, returns[:, 0])

    def _check_budget(self, world: World) -> None:
        steps = 1 + (self.horizon or 1)
        values = 2 if self.horizon is not None and world.model.value is not None else 0
        calls = world.calls_left(steps + values)
        if not (calls and world.affordable(1, steps=steps, gradients=1)):
            raise BudgetError("LQR: the budget does not allow one plan of this horizon")


class _Regulated(NamedTuple):
    """Where the world was expanded, and the bounds."""

    bounds: Bounds
    action: Tensor  # [B, A]
    state: Tensor  # [B, S]

    def off(self, state: Rows) -> Tensor:
        """How far B states are away [B, S]."""
        return rows.vector(state) - self.state

    def missed(self, stage: Stage) -> Tensor:
        """How far a stage leads away [B, S]."""
        return stage.next - host(self.state)

    def choose(self, feedback: Feedback, t: int, state: Rows) -> Tensor:
        """The actions [B, A] at time t."""
        move, gain = (part[:, t].to(self.action) for part in (feedback.move, feedback.gain))
        return steer(self.bounds, self.action, move, gain, self.off(state))


def _until(world: World, state: Rows, stage: Stage, act: _Regulated, horizon: int) -> Rollout:
    """The future of `horizon` steps under the feedback for the local model."""
    everyone = torch.ones(world.roots, dtype=torch.bool, device=world.device)
    last = expand_value(world, state, everyone)
    feedback, _ = riccati(lambda _t: stage, last, horizon, newton, act.missed)
    return simulate(
        world, state, lambda t, now, _moving: act.choose(feedback, t, now), horizon, samples=1
    )


def _forever(world: World, state: Rows, stage: Stage, act: _Regulated) -> Rollout:
    """The future of one step, and what the local model says of the rest."""
    gap = act.missed(stage)
    found = _stationary(stage, gap)
    if not bool(found[0].usable.all()):
        found = rows.where(found[0].usable, found, _stationary(_convex(stage), gap))
    feedback, rest = found
    action = act.choose(feedback, 0, state)
    moved = world.step(state, action)
    after = -rest.moved(host(act.off(moved.state))).value.to(moved.reward)
    returns = moved.reward + torch.where(moved.discount == 0, 0.0, moved.discount * after)
    returns = torch.where(feedback.usable.to(returns.device), returns, torch.nan)
    return Rollout(
        actions=[action],
        rewards=moved.reward.view(-1, 1, 1),
        discounts=moved.discount.view(-1, 1, 1),
        final=moved.state,
        returns=returns.unsqueeze(1),
        ended=(moved.discount == 0).unsqueeze(1),
    )


def _stationary(stage: Stage, gap: Tensor) -> tuple[Feedback, CostToGo]:
    """The feedback [B, 1, ...] and cost-to-go when every step is `stage`, for ever.

    A step ends `gap` [B, S] away from where it began, and costs have linear terms: with a constant
    1 added to the state, (dx, 1), the problem has neither. Where the discount is 1, the corner of
    the cost matrix grows by a steady cost c with every step, 2^k c + h; h is what is kept.
    """
    size = gap.shape[1]
    usable = torch.isfinite(stage.cost_zz).flatten(1).all(1) & torch.isfinite(stage.discount)
    stage, gap = stage.map(torch.nan_to_num), gap.nan_to_num()
    root = stage.discount.clamp(min=0).sqrt()[:, None, None]
    A, B = stage.next_z.split([size, stage.next_z.shape[2] - size], 2)
    A = root * _bordered(A, gap, torch.ones_like(stage.cost))
    B = root * torch.cat([B, torch.zeros_like(B[:, :1])], 1)
    Q = _bordered(stage.cost_zz[:, :size, :size], stage.cost_z[:, :size], 2 * stage.cost)
    Q[:, size, :size] = stage.cost_z[:, :size]
    R = stage.cost_zz[:, size:, size:]
    N = torch.cat([stage.cost_zz[:, :size, size:], stage.cost_z[:, None, size:]], 1)
    watched = torch.ones_like(Q, dtype=torch.bool)
    watched[:, size, size] = stage.discount < 1
    found = _limit(A, B, Q, R, N, watched)
    P = torch.where(found.converged[:, None, None], found.last, 0.0)
    curve = R + B.mT @ P @ B
    usable = usable & found.converged & (torch.linalg.eigvalsh(curve)[:, 0] > 0)
    gain = -torch.linalg.solve_ex(curve, B.mT @ P @ A + N.mT).result
    gain = torch.where(usable[:, None, None], gain, 0.0).unsqueeze(1)
    corner = 2 * found.before[:, size, size] - P[:, size, size]
    corner = torch.where(stage.discount < 1, P[:, size, size], corner)
    rest = CostToGo(corner / 2, P[:, :size, size], P[:, :size, :size])
    return Feedback(gain[..., size], gain[..., :size], usable), rest


def _bordered(matrix: Tensor, column: Tensor, corner: Tensor) -> Tensor:
    """Matrices [B, S+1, S+1]: [[matrix, column], [0, corner]]."""
    bordered = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
    bordered[:, :-1, -1], bordered[:, -1, -1] = column, corner
    return bordered


def _convex(stage: Stage) -> Stage:
    """The stage with the nearest convex cost, and a little curvature in every action."""
    values, vectors = torch.linalg.eigh(stage.cost_zz.nan_to_num())
    curve = vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT
    size = stage.next.shape[1]
    in_action = (torch.arange(curve.shape[1]) >= size).to(curve)
    ridge = 1e-6 * values.abs().amax(1)
    return stage._replace(cost_zz=curve + torch.diag_embed(ridge[:, None] * in_action))


class _Limit(NamedTuple):
    """Costs x'Px of 2^k and 2^(k+1) steps, and whether they agree."""

    before: Tensor  # [B, S, S]
    last: Tensor  # [B, S, S]
    converged: Tensor  # [B] bool


def _limit(A: Tensor, B: Tensor, Q: Tensor, R: Tensor, N: Tensor, watched: Tensor) -> _Limit:
    """The limit of costs sum_t x'Qx + u'Ru + 2 x'Nu over ever longer horizons.

    Each root doubles its horizon until the entries `watched` [B, S, S] stand still.
    """
    inverse = torch.linalg.solve_ex(R, torch.cat([B.mT, N.mT], 2)).result  # R^-1 (B', N')
    to_state, to_cost = inverse.split(A.shape[2], 2)
    first = A - B @ to_cost, B @ to_state, Q - N @ to_cost
    (A, G, H), before = first, first[2]
    converged = torch.zeros(len(A), dtype=torch.bool)
    for _ in range(DOUBLINGS):
        through, spread = _through(A, G, H)
        twice = H + A.mT @ H @ through
        go = ~converged[:, None, None]
        change = _largest(twice - H, watched)
        converged = converged | (change <= 1e-13 * _largest(twice, watched))
        before, H = torch.where(go, H, before), torch.where(go, (twice + twice.mT) / 2, H)
        G = torch.where(go, G + A @ spread @ A.mT, G)
        A = torch.where(go, A @ through, A)
        if bool((converged | ~torch.isfinite(change)).all()):
            break
    # What grows without end may stop to change where it is too large for its digits.
    A, G, Q = first
    left = _largest(Q + A.mT @ H @ _through(A, G, H)[0] - H, watched)
    size = _largest(H, watched)
    solved = (left <= 1e-7 * size) & (size <= 1e10 * _largest(Q, watched))
    return _Limit(before, H, converged & solved)


def _through(A: Tensor, G: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + G H)^-1 A and (1 + G H)^-1 G."""
    eye = torch.eye(A.shape[1], dtype=A.dtype)
    solved = torch.linalg.solve_ex(eye + G @ H, torch.cat([A, G], 2)).result
    return solved[..., : A.shape[2]], solved[..., A.shape[2] :]


def _largest(matrix: Tensor, watched: Tensor) -> Tensor:
    """The largest size [B] of the entries `watched`."""
    return torch.where(watched, matrix, 0.0).abs().amax((1, 2))
