"""Iterative linear-quadratic regulation and differential dynamic programming, inside bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import only_finite
from mbrl_core.planners.quadratic import (
    Feedback,
    Stage,
    definite,
    expand,
    expand_value,
    host,
    riccati,
    steer,
    times,
)
from mbrl_core.planners.trajectory import Search, TrajectoryPlanner, keep_best
from mbrl_core.rollouts import simulate
from mbrl_core.types import Event, Listener, Rollout, Rows
from mbrl_core.world import Bounds, World

LEAST_DAMPING = 1e-3
FACES = 50  # sets of active bounds that the quadratic program tries at most


@dataclass(frozen=True, kw_only=True)
class ILQR(TrajectoryPlanner):
    """Newton's method on action sequences, through the dynamics: iLQR, or DDP.

    Each iteration expands the model along the present trajectory, all steps and roots in one batch,
    solves the local problem backwards (Li and Todorov 2004; Tassa, Erez and Todorov 2012), inside
    the action bounds (Tassa, Mansard and Todorov 2014, "Control-limited differential dynamic
    programming"), and follows the feedback it gives with N step sizes 1, 1/2, 1/4, ... at once. The
    best of these futures is the next trajectory where it is better. On a linear-quadratic model one
    iteration is the optimum.

    Where no step size is better the curvature in the actions is damped, ten times more with every
    failure (Levenberg-Marquardt), in units in which 1 makes a step of about half the action range;
    it is always damped so far that the local problem has a minimum. A root whose numbers are not
    finite keeps its trajectory. Ends are kept where the trajectory has them. A stochastic model
    draws the same noise at every evaluation, so that the objective stands still.

    samples: step sizes tried at once, N; as many starts are tried first, the warm start and draws
        around it.
    iterations: expansions; each costs one model step with gradient and N without, per step ahead.
    second_order: keep the second derivatives of the dynamics (DDP): S * (S + A) more sweeps back
        through each step, for convergence of second order near the optimum.
    init_std: spread of the first starts, as a fraction of half the action range (absolute where a
        bound is infinite): at a maximum or a saddle, such as a pendulum at rest, there is no
        gradient to follow.
    """

    samples: int = 11
    iterations: int = 10
    init_std: float = 0.1
    second_order: bool = False

    differentiates: ClassVar[bool] = True

    def outputs(self) -> tuple[str, ...]:
        """See `SequencePlanner.outputs`: there is no distribution whose mean it could be."""
        return ("best",)

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """See `TrajectoryPlanner.improve`."""
        samples = self.affordable(world, self.samples)
        if samples < 1:
            return search, None
        self.book(world, samples)
        seeds = draws.integers(world.rng, 2**62, world.roots, self.horizon)
        starts = self._starts(world, bounds, search, samples)
        flat = starts.flatten(0, 1)
        with world.iteration():
            futures = _simulate(world, state, samples, seeds, lambda t, _now: flat[:, t])
            search, path, _ = _accept(search, None, futures)
        damping = torch.zeros(world.roots, dtype=torch.float64)
        for i in range(self.iterations):
            if not self._another(world, samples):
                break
            world.book(1, steps=(samples + 1) * self.horizon, gradients=self.horizon)
            with world.iteration():
                feedback = self._feedback(world, bounds, path, seeds, damping)
                futures = _line_search(world, bounds, state, path, seeds, feedback, samples)
                search, path, better = _accept(search, path, futures)
                harder = (10 * damping).clamp(min=LEAST_DAMPING)
                damping = torch.where(better.cpu(), _relaxed(damping), harder)
            if listen:
                data = {"actions": futures.actions, "returns": only_finite(futures.rollout.returns)}
                listen(Event("iteration", i, data | {"damping": damping}))
        return search, futures.rollout

    def _starts(self, world: World, bounds: Bounds, search: Search, samples: int) -> Tensor:
        """Sequences [B, N, H, A], the first of them the warm start."""
        noise = draws.normal(world.rng, world.roots, samples, *search.mean.shape[1:])
        noise[:, 0] = 0
        spread = search.std.unsqueeze(1) * noise.to(search.mean)
        return bounds.clip(search.mean.unsqueeze(1) + spread)

    def _another(self, world: World, samples: int) -> bool:
        """Whether the budget allows one more iteration."""
        calls = 1 + self.horizon + 2 * (world.model.value is not None)
        steps = (samples + 1) * self.horizon
        fits = world.affordable(1, steps=steps, gradients=self.horizon) == 1
        return fits and world.calls_left(calls) and world.time_for(1)

    def _feedback(
        self, world: World, bounds: Bounds, path: _Path, seeds: Tensor, damping: Tensor
    ) -> Feedback:
        """The solution of the local problem along `path`."""
        world.rng = draws.Seeded(seeds.flatten(), seeds.device)
        alive = path.alive.flatten() if world.terminates else None
        actions = path.actions.flatten(0, 1)
        states = rows.unpack(path.states)
        flat = expand(world, states, actions, alive=alive, second_order=self.second_order)
        stages = flat.map(lambda x: x.unflatten(0, (world.roots, self.horizon)))
        last = expand_value(world, path.final, path.arrived)
        low, high, half = host(bounds.low), host(bounds.high), host(bounds.half)
        actions = host(path.actions)

        def stage(t: int) -> Stage:
            return stages.map(lambda x: x[:, t])

        def solve(t: int, curve: Tensor, slope: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
            unit = curve.abs().amax((1, 2)) + (slope.abs() / half).amax(1)
            box = low - actions[:, t], high - actions[:, t]
            return _bounded(definite(curve, damping * unit), slope, cross, *box)

        return riccati(stage, last, self.horizon, solve)[0]


def _bounded(
    curve: Tensor, slope: Tensor, cross: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """See `Solve`, for `curve` positive definite: the move inside the box, and a gain of zero where
    it is held at a bound."""
    both = -torch.linalg.solve(curve, torch.cat([slope.unsqueeze(2), cross], 2))
    move, gain = both[..., 0], both[..., 1:]
    inside = ((move >= low) & (move <= high)).all(1, keepdim=True)
    if bool(inside.all()):
        return move, gain
    held, free = box_program(curve, slope, low, high)
    some = -torch.linalg.solve(_face(curve, free), torch.where(free[..., None], cross, 0.0))
    return torch.where(inside, move, held), torch.where(inside[..., None], gain, some)


def box_program(curve: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The x [B, A] in [low, high] that minimises slope'x + x'curve x / 2, and which of its elements
    [B, A] bool are free of their bounds there.

    Projected Newton steps (Bertsekas 1982; Tassa, Mansard and Todorov 2014, section III), for
    `curve` [B, A, A] positive definite and 0 inside the box: of the elements that press against a
    bound none moves, the rest take a Newton step, and of halved steps, all projected, the best is
    kept. Rows that are solved stand still while others go on.
    """
    x = torch.zeros_like(slope)
    halves = (0.5 ** torch.arange(11, dtype=x.dtype)).view(-1, 1, 1)
    for _ in range(FACES):
        free = _free(x, slope + times(curve, x), low, high)
        gradient = torch.where(free, slope + times(curve, x), 0.0)
        step = -torch.linalg.solve(_face(curve, free), gradient)
        target = torch.minimum(torch.maximum(x + step, low), high)
        open_ = (target - x).abs().amax(1) > 1e-8 * x.abs().amax(1)
        if not bool(open_.any()):
            break
        tried = torch.minimum(torch.maximum(x + halves * step, low), high)
        costs = (tried * (slope + times(curve, tried) / 2)).sum(2)
        best = tried.gather(0, costs.argmin(0)[None, :, None].expand(1, *x.shape))[0]
        x = torch.where(open_[:, None], best, x)
    return x, _free(x, slope + times(curve, x), low, high)


def _free(x: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which elements may move: all but those at a bound towards which they would go down."""
    return ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))


def _face(curve: Tensor, free: Tensor) -> Tensor:
    """`curve` [B, A, A] among the free elements, the identity among the others."""
    both = free.unsqueeze(1) & free.unsqueeze(2)
    return torch.where(both, curve, 0.0) + torch.diag_embed((~free).to(curve))


class _Futures(NamedTuple):
    """N simulated futures of each root, and what they passed through."""

    rollout: Rollout
    actions: Tensor  # [B, N, H, A]
    passed: list[Rows]  # H entries of B*N rows: the states before each step


class _Path(NamedTuple):
    """The trajectory about which the world is expanded."""

    actions: Tensor  # [B, H, A]
    states: Rows  # B rows packed of H each: the states in which the actions are taken
    alive: Tensor  # [B, H] bool: not ended before that action
    final: Rows  # B rows
    arrived: Tensor  # [B] bool: not ended at all


def _line_search(
    world: World,
    bounds: Bounds,
    state: Rows,
    path: _Path,
    seeds: Tensor,
    feedback: Feedback,
    samples: int,
) -> _Futures:
    """The futures of N step sizes: alpha times the moves, and all of the gains."""
    alphas = 0.5 ** torch.arange(samples, dtype=path.actions.dtype, device=world.device)
    moves = feedback.move.to(path.actions).unsqueeze(1) * alphas.view(-1, 1, 1)
    gains = feedback.gain.to(path.actions)
    states = rows.vector(rows.unpack(path.states)).unflatten(0, path.actions.shape[:2])

    def choose(t: int, now: Rows) -> Tensor:
        here, action, gain = (
            x[:, t].repeat_interleave(samples, 0) for x in (states, path.actions, gains)
        )
        deviation = rows.vector(now) - here
        return steer(bounds, action, moves[:, :, t].flatten(0, 1), gain, deviation)

    return _simulate(world, state, samples, seeds, choose)


def _simulate(
    world: World,
    state: Rows,
    samples: int,
    seeds: Tensor,
    choose: Callable[[int, Rows], Tensor],
) -> _Futures:
    """N = `samples` futures of each root, all with the noise of `seeds` [B, H].

    `choose(t, states)` gives the actions [B*N, A].
    """
    horizon = seeds.shape[1]
    passed: list[Rows] = []

    def act(t: int, now: Rows, _moving: Tensor) -> Tensor:
        passed.append(now)
        world.rng = draws.Seeded(seeds[:, t].repeat_interleave(samples), seeds.device)
        return choose(t, now)

    rollout = simulate(world, rows.repeat(state, samples), act, horizon, samples=samples)
    actions = torch.stack(rollout.actions, 1).unflatten(0, (world.roots, samples))
    return _Futures(rollout, actions, passed)


def _accept(search: Search, path: _Path | None, futures: _Futures) -> tuple[Search, _Path, Tensor]:
    """The search and the path with each root's best future where that is better, and where [B] it
    is."""
    rollout = futures.rollout
    returns = only_finite(rollout.returns)
    top, index = returns.max(1)
    better = top > search.best_return
    found = _path(futures, index)
    if path is not None:
        found = rows.where(better, found, path)
    return keep_best(search, futures.actions, returns, rollout.final), found, better


def _path(futures: _Futures, index: Tensor) -> _Path:
    """The path of future `index` [B] of each root."""
    rollout, (roots, samples, horizon) = futures.rollout, futures.actions.shape[:3]
    root = torch.arange(roots, device=index.device)
    row = root * samples + index
    steps = torch.arange(horizon, device=index.device)
    discounts = rollout.discounts[root, index]
    going = torch.cat([torch.ones_like(discounts[:, :1]), discounts[:, :-1]], 1) != 0
    each = row.unsqueeze(1) + roots * samples * steps
    return _Path(
        actions=futures.actions[root, index],
        states=rows.pack(rows.take(rows.concat(futures.passed), each.flatten()), horizon),
        alive=going,
        final=rows.take(rollout.final, row),
        arrived=~rollout.ended[root, index],
    )


def _relaxed(damping: Tensor) -> Tensor:
    """The damping after a success."""
    less = damping / 10
    return torch.where(less < LEAST_DAMPING, 0.0, less)
