"""Planning under uncertainty, for every planner: wrappers of models.

    cloud = Particles(model, 20, CVaR(0.25))
    plan, carry = planner(cloud.model(), cloud.root(state), rng=rng)

`Particles` makes the return of any path, in any search, a risk measure of the returns of its
particles; `Penalised` charges for what the model does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.types import Dynamics, Model, Policy, Proposal, Rng, Rows, Tokens, Transition
from mbrl_core.world import absorb, place, step_rows, value_rows
from mbrl_core.wrapper import Wrapper


class Risk(Protocol):
    """What a set of equally likely returns is worth.

    It must move with its argument, rho(a x + b) = a rho(x) + b for a > 0, and be NaN where a return
    is.
    """

    def __call__(self, returns: Tensor) -> Tensor:
        """Returns [..., P] of P particles to their worth [...]."""
        ...


@dataclass(frozen=True)
class Mean:
    """The expected return (PETS, Chua et al. 2018, algorithm 1)."""

    def __call__(self, returns: Tensor) -> Tensor:
        """See `Risk`."""
        return returns.mean(-1)


@dataclass(frozen=True)
class Worst:
    """The lowest return."""

    def __call__(self, returns: Tensor) -> Tensor:
        """See `Risk`."""
        return returns.amin(-1)


@dataclass(frozen=True)
class CVaR:
    """Conditional value at risk: the mean of the worst `share` of the returns.

    With P particles it is sum_i w_i x_(i) over the ascending x_(i), w_i = clip(share P - i, 0, 1) /
    (share P), i = 0 .. P-1 (Rockafellar and Uryasev 2002, "Conditional value-at-risk for general
    loss distributions", section 4, in which losses are negative returns). A share of 1 is the mean,
    one of at most 1/P the worst.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"CVaR.share must be in (0, 1], not {self.share}")

    def __call__(self, returns: Tensor) -> Tensor:
        """See `Risk`."""
        tail = self.share * returns.shape[-1]
        rank = torch.arange(returns.shape[-1], dtype=returns.dtype, device=returns.device)
        weights = (tail - rank).clamp(0, 1) / tail
        counted = returns.sort(-1).values * weights
        # NaN is sorted last, where its weight may be 0, and 0 * NaN is still NaN.
        return counted.sum(-1)


@dataclass(frozen=True)
class MeanStd:
    """Mean minus `weight` standard deviations (biased): wary above 0, hopeful below."""

    weight: float

    def __call__(self, returns: Tensor) -> Tensor:
        """See `Risk`."""
        apart = returns - returns[..., :1]  # exactly 0 where all are equal, which a mean may miss
        variance = (apart - apart.mean(-1, keepdim=True)).square().mean(-1)
        none = variance == 0  # where the root has no slope, and no derivative is to pass
        std = torch.where(none, 1.0, variance).sqrt().masked_fill(none, 0.0)
        return returns.mean(-1) - self.weight * std


class Cloud(NamedTuple):
    """R states of P particles each."""

    states: Rows  # R rows, each of P states of the model below
    gain: Tensor  # [R, P] what a particle has earned beyond the row, in units of `weight`
    weight: Tensor  # [R, P] a particle's share of the row's discount, mean 1; 0 = it has ended


class Particles:
    """A model whose every row is P rows of another: futures that share their actions.

    The return of a path through it, from a root, is rho(G_1 .. G_P), G_p the discounted return of
    particle p and rho the risk measure, whatever planner searches and however deep. That is so
    because rewards telescope. With G and w the particles' return and discount so far, and
    W = mean(w) the discount of the row,

        W r = rho(G + w r_p) - rho(G),   W d = mean(w d_p),   W V = rho(G + w V_p) - rho(G)

    are reward, discount and value of a row. They are computed from (G - rho(G)) / W and w / W,
    which is the same because rho moves with its argument; so one particle alone is the bare model
    bit for bit. Discounts below 0 (a game's other player) want P = 1: what is a risk to one player
    is none to the other.

    A particle that ends waits for the others. The policy is asked at the first that has not ended,
    as good a draw as any. An ensemble as dynamics makes this trajectory sampling (PETS); where the
    dynamics has a method `dealt(size)`, it is asked for dynamics that deal what they draw at random
    evenly to each `size` rows in succession.

    The ledger counts rows of the model below: P per step, but for particles that have ended.
    """

    def __init__(self, model: Model, particles: int, risk: Risk = Mean()) -> None:
        """Wrap `model` with P = `particles` per row.

        Raises ValueError where `particles` is no positive whole number.
        """
        if (
            not isinstance(particles, (int, Integral))
            or isinstance(particles, bool)
            or particles < 1
        ):
            raise ValueError(f"particles must be a whole number of at least 1, not {particles!r}")
        deal = getattr(model.dynamics, "dealt", None)
        self.dynamics: Dynamics = model.dynamics if deal is None else deal(particles)
        self.inner = model
        self.particles = particles
        self.risk = risk
        self.terminates = getattr(model.dynamics, "terminates", True)

    def model(self) -> Model:
        """What planners take, with the parts that the model below has."""
        return self.inner._replace(
            dynamics=self,
            policy=None if self.inner.policy is None else self,
            value=None if self.inner.value is None else self,
            rollout=None if self.inner.rollout is None else _Rolling(self),
        )

    def root(self, state: Rows) -> Cloud:
        """States of the model below as states to plan from: P particles at each."""
        dtype, device = place(state)
        packed = rows.pack(rows.repeat(state, self.particles), self.particles)
        shape = (rows.count(state), self.particles)
        gain = torch.zeros(shape, dtype=dtype, device=device)
        return Cloud(packed, gain, torch.ones_like(gain))

    def step(self, state: Cloud, action: Rows, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        moved = self._move(state, action, rng)
        raised = state.gain + state.weight * moved.reward.view_as(state.gain)
        reward = self.risk(raised)
        shares = state.weight * moved.discount.view_as(state.gain)
        discount = shares.mean(1).clamp(-1, 1)
        scale = torch.where(discount == 0, 1.0, discount) if self.terminates else discount
        scale = scale.unsqueeze(1)
        cloud = Cloud(
            rows.pack(moved.state, self.particles),
            (raised - reward.unsqueeze(1)) / scale,
            shares / scale,
        )
        return Transition(cloud, reward, discount, self._tokens(moved.tokens, state))

    def propose(self, state: Cloud, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        assert self.inner.policy is not None
        return self.ask(self.inner.policy, state, num, rng=rng)

    def ask(self, policy: Policy, state: Cloud, num: int, *, rng: Rng) -> Proposal:
        """What a policy of the model below proposes for the first living particle of each row."""
        return policy.propose(self._first(state), num, rng=rng)

    @property
    def mode(self) -> Callable[[Cloud], Rows]:
        """See `Policy`; AttributeError where the policy below only draws."""
        settled = self.inner.policy.mode  # type: ignore[union-attr]
        return lambda state: settled(self._first(state))

    def _first(self, state: Cloud) -> Rows:
        """The first particle of each row that has not ended."""
        first = torch.arange(len(state.weight), device=state.weight.device) * self.particles
        if self.terminates:
            first = first + (state.weight != 0).to(torch.int64).argmax(1)
        return rows.take(rows.unpack(state.states), first)

    def value(self, state: Cloud) -> Tensor:
        """See `Value`."""
        assert self.inner.value is not None
        flat, alive = rows.unpack(state.states), self._alive(state)
        if alive is None:
            value = self.inner.value.value(flat)
        else:
            living = self.inner.value.value(rows.take(flat, alive))
            value = living.new_zeros(state.weight.numel()).index_copy(0, alive, living)
        return self.risk(state.gain + state.weight * value.view_as(state.weight))

    def step_rows(self, state: Cloud) -> Tensor | int:
        """See `Dynamics`: one for each particle that has not ended."""
        return self._rows(step_rows(self.inner, rows.unpack(state.states)), state)

    def value_rows(self, state: Cloud) -> Tensor | int:
        """See `Value`: one for each particle that has not ended."""
        return self._rows(value_rows(self.inner, rows.unpack(state.states)), state)

    def _rows(self, each: Tensor | int, state: Cloud) -> Tensor | int:
        if isinstance(each, int) and not self.terminates:
            return each * self.particles
        alive = state.weight != 0
        return (alive * (each if isinstance(each, int) else each.view_as(alive))).sum(1)

    def _move(self, state: Cloud, action: Rows, rng: Rng) -> Transition:
        """One step [R*P] of every particle that has not ended."""
        flat, actions = rows.unpack(state.states), rows.repeat(action, self.particles)
        alive = self._alive(state)
        if alive is None:
            return self.dynamics.step(flat, actions, rng=rng)
        if not isinstance(rng, torch.Generator):
            rng = draws.take(rng, alive // (state.weight.numel() // len(rng)))
        moved = self.dynamics.step(rows.take(flat, alive), rows.take(actions, alive), rng=rng)
        return absorb(flat, alive, moved)._replace(tokens=moved.tokens)

    def _alive(self, state: Cloud) -> Tensor | None:
        """The particles [n], of R*P, that have not ended; None where that is all."""
        if not self.terminates:
            return None
        alive = state.weight.flatten() != 0
        return None if bool(alive.all()) else alive.nonzero().squeeze(1)

    def _tokens(self, spent: Tokens | None, state: Cloud) -> Tokens | None:
        """What the particles of each row spent together [R]."""
        if spent is None:
            return None
        alive = self._alive(state)
        row = torch.arange(state.weight.numel(), device=state.weight.device) // self.particles
        row = row if alive is None else row[alive]

        def together(amount: Tensor) -> Tensor:
            return amount.new_zeros(len(state.weight)).index_add(0, row.to(amount.device), amount)

        return Tokens(*map(together, spent))


class _Rolling(NamedTuple):
    """The rollout policy of the model below, asked of clouds."""

    cloud: Particles

    @property
    def draws(self) -> int:
        """See `Policy`."""
        return getattr(self.cloud.inner.rollout, "draws", 1)

    def propose(self, state: Cloud, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        assert self.cloud.inner.rollout is not None
        return self.cloud.ask(self.cloud.inner.rollout, state, num, rng=rng)


class Unsure(Dynamics, Protocol):
    """Dynamics that say how little they know."""

    def disagreement(self, state: Rows, action: Rows) -> Tensor:
        """R states and actions to a number of at least 0 each [R]; 0 = nothing is in doubt."""
        ...


@dataclass(frozen=True)
class Penalised(Wrapper):
    """Dynamics whose reward is r - weight * u(s, a), u what the dynamics say they do not know.

    u is their `disagreement`. A positive weight keeps plans where the model has data (MOPO, Yu et
    al. 2020, eq. 8); a negative one seeks out what is not known (Plan2Explore, Sekar et al. 2020,
    eq. 2). Made by `penalised`, within the particles where there are any.
    """

    dynamics: Unsure
    weight: float

    def around(self, dynamics: Dynamics) -> Penalised:
        """See `Wrapper`."""
        return Penalised(cast(Unsure, dynamics), self.weight)

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        moved = self.dynamics.step(state, action, rng=rng)
        unknown = self.dynamics.disagreement(state, action)
        return moved._replace(reward=moved.reward - self.weight * unknown)


def penalised(model: Model, weight: float) -> Model:
    """`model` with `weight` times the disagreement of its dynamics taken off every reward.

    Raises ValueError where its dynamics has no `disagreement`.
    """
    if not hasattr(model.dynamics, "disagreement"):
        raise ValueError(
            f"a penalty needs dynamics with disagreement(state, action), and "
            f"{type(model.dynamics).__name__} has none: an ensemble does"
        )
    return model._replace(dynamics=Penalised(cast(Unsure, model.dynamics), weight))
