"""A model as planners use it: every call checked, counted, and ended rows spared.

`World` is made once per plan. It alone calls the model, so the rules that hold for every planner
(shapes, absorbing ends, the ledger, the budget) are written here once.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.types import (
    Box,
    Budget,
    Cost,
    Discrete,
    Model,
    Policy,
    Proposal,
    Rng,
    Rows,
    Tokens,
    Transition,
)


class World:
    """The model, the roots' generators, the ledger and the budget of one plan for B roots."""

    def __init__(
        self,
        planner: str,
        model: Model,
        state: Rows,
        *,
        rng: Rng,
        budget: Budget | None = None,
        needs: tuple[str, ...] = (),
        games: bool = False,
    ) -> None:
        """`games`: whether the planner knows of nature's choices and of other players.

        Raises ValueError where the model lacks one of `needs` or the root states are unusable;
        TypeError where an argument is none of what `Planner` says.
        """
        _check_kinds(planner, model, rng, budget)
        for part in needs:
            if getattr(model, part) is None:
                raise ValueError(
                    f"{planner} needs Model.{part}, and this model has none{_REMEDY.get(part, '')}"
                )
        space = model.action_space
        if isinstance(space, Discrete) and not space.n >= 1:
            raise ValueError(f"{planner} needs at least one action, and this model has {space!r}")
        self.planner = planner
        self.model = model
        self.rng = rng
        self.budget = budget or Budget()
        self.unlimited = self.budget == Budget()
        self._games = games or isinstance(model.action_space, Box)  # no game is played with a box
        self.roots = rows.count(state)
        if self.roots == 0:
            raise ValueError(f"{planner} was given no root state: at least one row is needed")
        self.dtype, self.device = place(state)
        self.terminates = getattr(model.dynamics, "terminates", True)
        each = step_rows(model, state)  # no row can become dearer than the dearest root
        self.step_rows = each if isinstance(each, int) else int(each.max())
        self.rollout_draws = int(getattr(model.rollout or model.policy, "draws", 1))
        self._rows_of_step = getattr(model.dynamics, "step_rows", None)
        if not isinstance(rng, torch.Generator) and len(rng) != self.roots:
            raise ValueError(
                f"{planner} was given {len(rng)} generators for {self.roots} root states: "
                "give one generator, or one per root"
            )
        self._started = time.perf_counter()
        self._longest = 0.0
        self._calls = 0
        self._stepped = False
        self._copied: tuple[Rows, int, Rows] | None = None
        self._booked: dict[str, int] = {}
        self._ledger = torch.zeros(len(_COUNTS), self.roots, dtype=torch.int64)
        self._each = [0] * len(_COUNTS)  # what is on top of it for every root alike

    def copies(self, state: Rows, samples: int) -> Rows:
        """Each root state `samples` times in succession, made once for calls that ask alike."""
        if torch.is_grad_enabled():  # each has a graph of its own
            return rows.repeat(state, samples)
        if self._copied is None or self._copied[0] is not state or self._copied[1] != samples:
            self._copied = state, samples, rows.repeat(state, samples)
        return self._copied[2]

    # Calling the model

    def step(self, state: Rows, action: Rows, *, alive: Tensor | None = None) -> Transition:
        """One step of the R = B*n rows of all roots. Rows with `alive` [R] false absorb.

        An absorbed row keeps its state, earns no reward, has discount 0 and costs no model row.
        """
        if alive is None or bool(alive.all()):
            return self._step(state, action, None, self.rng)
        total = rows.count(state)
        index = alive.nonzero().squeeze(1)
        if len(index) == 0:
            nothing = torch.zeros(total, dtype=self.dtype, device=self.device)
            return Transition(state, nothing, nothing)
        roots = index // (total // self.roots)
        rng = self._rng(index // (total // self._generators()))
        moved = self._step(rows.take(state, index), rows.take(action, index), roots, rng)
        return absorb(state, index, moved)

    def step_some(self, state: Rows, action: Rows, roots: Tensor | None) -> Transition:
        """One step of any rows; `roots` [R] says which root each belongs to, None that each root
        has equally many, in order."""
        return self._step(state, action, roots, self._rng(roots))

    def propose(self, state: Rows, num: int, roots: Tensor | None = None) -> Proposal:
        """At most `num` candidates for each row; `roots` as in `step_some`, None for all in
        order."""
        assert self.model.policy is not None
        return self._ask(self.model.policy, state, num, roots)

    def roll(self, state: Rows, roots: Tensor | None = None) -> Proposal:
        """One candidate of the model's rollout policy, or of its policy, for each row; `roots` as
        in `propose`."""
        policy = self.model.rollout or self.model.policy
        assert policy is not None
        return self._ask(policy, state, 1, roots)

    def mode(self, state: Rows) -> Proposal:
        """The policy's likeliest action for each row; ValueError where it only draws."""
        if not hasattr(self.model.policy, "mode"):
            raise ValueError(
                f"{self.planner} needs a policy that tells its likeliest action, and "
                f"{type(self.model.policy).__name__} has no `mode`: follow its draws instead"
            )
        return self._ask(_Settled(self.model.policy), state, 1, None)

    def _ask(self, policy: Policy, state: Rows, num: int, roots: Tensor | None) -> Proposal:
        total = rows.count(state)
        proposal = policy.propose(state, num, rng=self._rng(roots))
        shape = tuple(proposal.log_prior.shape)
        if len(shape) != 2 or shape[0] != total or not 1 <= shape[1] <= num:
            raise ValueError(
                f"Policy.propose must return log_prior [{total}, K] with 1 <= K <= {num}, "
                f"not {list(shape)}"
            )
        _expect("Policy.propose", "actions", rows.count(proposal.actions), total * shape[1])
        if not self._games and proposal.chance is not None and bool(proposal.chance.any()):
            raise ValueError(f"{self.planner} would choose for nature: {_GAMES}")
        self._count(_PROPOSALS, total, roots, _drawn(proposal, num))
        self._called(proposal.tokens, total, roots)
        if isinstance(self.model.action_space, Box) and isinstance(proposal.actions, Tensor):
            low, high = (bound.to(proposal.actions) for bound in self.model.action_space)
            clipped = torch.minimum(torch.maximum(proposal.actions, low), high)
            proposal = proposal._replace(actions=clipped)
        return proposal

    def value(self, state: Rows, roots: Tensor | None = None) -> Tensor:
        """The model's value [R] of rows that have not ended; zeros where the model has no value."""
        total = rows.count(state)
        if self.model.value is None or total == 0:
            return torch.zeros(total, dtype=self.dtype, device=self.device)
        value = self.model.value.value(state)
        _expect("Value.value", "values", tuple(value.shape), (total,))
        self._count(_VALUES, total, roots, value_rows(self.model, state))
        self._called(None, total, roots)
        return value

    def value_of_living(self, state: Rows, alive: Tensor) -> Tensor | None:
        """The model's value [R] of the rows still alive, 0 for the others; None without a value."""
        if self.model.value is None:
            return None
        if not self.terminates or bool(alive.all()):
            return self.value(state)
        index = alive.nonzero().squeeze(1)
        value = self.value(rows.take(state, index), index // (len(alive) // self.roots))
        return value.new_zeros(len(alive)).index_copy(0, index, value)

    def _step(self, state: Rows, action: Rows, roots: Tensor | None, rng: Rng) -> Transition:
        # Called most of all: nothing is made here, a message least, before it is needed.
        total = rows.count(state)
        before = None if self._stepped else _versions(state, action)
        moved = checked_step(self.model, state, action, rng, self.dtype)
        if before is not None and before != _versions(state, action):
            raise ValueError(
                "Dynamics.step changed the states or actions it was given, which the planner still "
                "needs: return new rows (x = x + dx, not x += dx)"
            )
        self._stepped = True  # what is done once a plan is done at every step
        if not self._games and bool((moved.discount < 0).any()):
            raise ValueError(f"{self.planner} would choose for the other player: {_GAMES}")
        each = 1 if self._rows_of_step is None else self._rows_of_step(state)
        self._count(_STEPS, total, roots, each)
        if torch.is_grad_enabled() and (moved.reward.requires_grad or _differentiable(moved.state)):
            self._count(_GRADIENTS, total, roots, each)
        self._called(moved.tokens, total, roots)
        return moved

    def _rng(self, roots: Tensor | None) -> Rng:
        return self.rng if roots is None else draws.take(self.rng, roots)

    def _generators(self) -> int:
        return 1 if isinstance(self.rng, torch.Generator) else len(self.rng)

    # The ledger

    def _count(self, unit: int, total: int, roots: Tensor | None, each: Tensor | int = 1) -> None:
        if roots is None and isinstance(each, int):
            self._each[unit] += each * (total // self.roots)
            return
        ledger = self._ledger[unit]
        amounts = torch.as_tensor(each, dtype=torch.int64).cpu().expand(total)
        if roots is None:
            ledger += amounts.view(self.roots, -1).sum(1)
        else:
            ledger.index_add_(0, roots.cpu(), amounts)

    def _called(self, tokens: Tokens | None, total: int, roots: Tensor | None) -> None:
        self._calls += 1
        if tokens is not None:
            for unit, spent in enumerate(tokens, start=_TOKENS):
                self._count(unit, total, roots, spent)

    def spend(self, calls: int, **amounts: Tensor) -> None:
        """Book model calls made without the world: `calls` batches, rows [B] of each unit."""
        self._calls += calls
        for name, amount in amounts.items():
            self._ledger[_COUNTS.index(name)] += amount

    def cost(self) -> Cost:
        """The ledger so far."""
        ledger = self._ledger + torch.tensor(self._each).unsqueeze(1)
        steps, proposals, values, gradients, *tokens = ledger.unbind()
        seconds = time.perf_counter() - self._started
        return Cost(self._calls, steps, proposals, values, gradients, Tokens(*tokens), seconds)

    # The budget

    def left(self, unit: str) -> Tensor | None:
        """What each root [B] may still spend of `unit` (steps, proposals, gradients, tokens).

        Steps and gradients in rows of the planner's. None where the budget sets no limit.
        """
        limit = getattr(self.budget, unit)
        if limit is None:
            return None
        number = _TOKENS if unit == "tokens" else _COUNTS.index(unit)  # of tokens, those decoded
        return (limit - self._ledger[number] - self._each[number]) // self._rows_per(unit)

    def affordable(self, num: int, **each: int) -> int:
        """How many of `num` candidates fit the budget, at up to `each` units per candidate.

        What `book` has set aside counts, not what was spent: a candidate that ended early saves its
        root steps, and must not change how many candidates the whole batch gets.
        """
        for unit, amount in each.items():
            limit = getattr(self.budget, unit)
            if limit is not None and amount > 0:
                left = limit - self._booked.get(unit, 0)
                num = min(num, left // (amount * self._rows_per(unit)))
        return max(num, 0)

    def book(self, num: int, **each: int) -> None:
        """Set aside `num` times `each` units of every root's budget."""
        if self.unlimited:
            return
        for unit, amount in each.items():
            spent = num * amount * self._rows_per(unit)
            self._booked[unit] = self._booked.get(unit, 0) + spent

    def _rows_per(self, unit: str) -> int:
        return self.step_rows if unit in ("steps", "gradients") else 1

    def calls_left(self, num: int) -> bool:
        """Whether `num` more batched calls are allowed."""
        return self.budget.calls is None or self._calls + num <= self.budget.calls

    def out_of_time(self) -> bool:
        """Whether the wall time of the whole plan is used up."""
        seconds = self.budget.seconds
        return seconds is not None and time.perf_counter() - self._started >= seconds

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Times the iteration inside, for `time_for`. A deadline makes it wait for the device."""
        began = time.perf_counter()
        yield
        if self.budget.seconds is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._longest = max(self._longest, time.perf_counter() - began)

    def time_for(self, iterations: int) -> bool:
        """Whether so many iterations, each as long as the longest so far, end before the deadline.

        Before the first has been timed they do.
        """
        if self.budget.seconds is None or self._longest == 0:
            return True
        passed = time.perf_counter() - self._started
        return passed + iterations * self._longest <= self.budget.seconds

    def within_budget(self, **needed: int) -> Tensor:
        """Which roots [B] bool may spend `needed` more of each unit (0: only check the rest)."""
        fits = torch.full((self.roots,), not self.out_of_time())
        for unit in ("steps", "proposals", "gradients", "tokens"):
            left = self.left(unit)
            if left is not None:
                fits &= left >= max(needed.get(unit, 0), 1 if unit == "tokens" else 0)
        return fits


_GAMES = "discounts below 0 and Proposal.chance are for MCTS without `reduce`"
_REMEDY = {"policy": ": uniform_policy(action_space) is one that knows nothing"}


def _check_kinds(planner: str, model: object, rng: object, budget: object) -> None:
    """Raises TypeError where an argument of a planner is of the wrong kind, ValueError where a
    limit is below 0."""
    if not isinstance(model, Model):
        raise TypeError(
            f"{planner} plans with a Model, not with a {type(model).__name__}: put dynamics, "
            "policy and value in one, Model(dynamics, action_space=...)"
        )
    listed = isinstance(rng, Sequence) and all(isinstance(r, torch.Generator) for r in rng)
    if not isinstance(rng, (torch.Generator, draws.Seeded)) and not listed:
        raise TypeError(
            f"{planner} draws from a torch.Generator, or from one per root, not from {rng!r}: "
            "pass rng=generator(0)"
        )
    if budget is None:
        return
    if not isinstance(budget, Budget):
        raise TypeError(f"{planner}: a budget is a Budget(steps=...), not {budget!r}")
    for name, limit in budget._asdict().items():
        if limit is not None and not limit >= 0:
            raise ValueError(f"{planner}: budget.{name} must be 0 or more, not {limit!r}")


class _Settled(NamedTuple):
    """A policy without its draws."""

    policy: Any

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        return Proposal(self.policy.mode(state), torch.zeros(rows.count(state), 1))


class Bounds(NamedTuple):
    """The action box as a planner uses it: on the device and in the precision of the states."""

    low: Tensor  # [A]
    high: Tensor  # [A]
    center: Tensor  # [A]; where a bound is infinite 0, or what is 1 inside the other bound
    half: Tensor  # [A] half the range; 1 where a bound is infinite

    def clip(self, actions: Tensor) -> Tensor:
        """Actions [..., A] moved inside the bounds."""
        return torch.clamp(actions, self.low, self.high)

    def clip_(self, actions: Tensor) -> Tensor:
        """As `clip`, in place."""
        return torch.clamp(actions, self.low, self.high, out=actions)


def bounds_of(world: World) -> Bounds:
    """The bounds of a continuous action space.

    Raises ValueError where the model's actions are no `Box` or its bounds are out of order.
    """
    space = world.model.action_space
    if not isinstance(space, Box):
        raise ValueError(
            f"{world.planner} needs continuous actions: Model.action_space must be a "
            f"Box(low, high), not {space!r}"
        )
    for bound in space:
        if not isinstance(bound, Tensor):
            raise ValueError(
                f"{world.planner} needs bounds that are tensors [A], not {bound!r}: "
                "Box(torch.tensor([-1.0]), torch.tensor([1.0]))"
            )
    bounds = _bounds(*space, *map(_version, space), world.dtype, world.device)
    if bounds is None:
        raise ValueError(
            f"{world.planner} needs bounds [A] with low < high, not low={space.low.tolist()} "
            f"high={space.high.tolist()}"
        )
    return bounds


@lru_cache(maxsize=32)
def _bounds(
    low: Tensor,
    high: Tensor,
    low_version: int,
    high_version: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Bounds | None:
    """The bounds between two tensors, looked at once for as long as they stay what they are; None
    where they are no bounds."""
    with torch.inference_mode(False), torch.no_grad():  # they may take part in a gradient later
        low, high = (bound.to(dtype=dtype, device=device, copy=True) for bound in (low, high))
        if low.dim() != 1 or low.shape != high.shape or not bool((low < high).all()):
            return None
        finite = torch.isfinite(low) & torch.isfinite(high)
        inside = torch.minimum(torch.maximum(torch.zeros_like(low), low + 1), high - 1)
        center = torch.where(finite, (low + high) / 2, inside)
        half = torch.where(finite, (high - low) / 2, 1)
        return Bounds(low, high, center, half)


def _version(tensor: Tensor) -> int:
    """A number that grows with every change in place, where changes are counted."""
    return 0 if tensor.is_inference() else tensor._version


def step_rows(model: Model, state: Rows) -> Tensor | int:
    """The model rows that a step of each of R rows takes: [R], or one number for all."""
    count = getattr(model.dynamics, "step_rows", None)
    return 1 if count is None else count(state)


def value_rows(model: Model, state: Rows) -> Tensor | int:
    """As `step_rows`, for the model's value."""
    count = getattr(model.value, "value_rows", None)
    return 1 if count is None else count(state)


def checked_step(
    model: Model, state: Rows, action: Rows, rng: Rng, dtype: torch.dtype
) -> Transition:
    """One step of R rows, its numbers in precision `dtype` and its states in that of `state`.

    Raises ValueError where a shape or a kind is wrong.
    """
    total = rows.count(state)
    if rows.count(action) != total:
        _expect("a planner", "actions", rows.count(action), total)
    moved = model.dynamics.step(state, action, rng=rng)
    reward, discount, after = moved.reward, moved.discount, moved.state
    for numbers in (reward, discount):
        if not isinstance(numbers, Tensor) or numbers.shape != (total,):
            _refuse_numbers(moved, total)
    if rows.count(after) != total:
        _expect("Dynamics.step", "states", rows.count(after), total)
    if not reward.dtype == discount.dtype == dtype:
        moved = moved._replace(reward=reward.to(dtype), discount=discount.to(dtype))
    same = _like(after, state)
    return moved if same is after else moved._replace(state=same)


def _refuse_numbers(moved: Transition, total: int) -> None:
    for name, numbers in (("rewards", moved.reward), ("discounts", moved.discount)):
        shown = tuple(numbers.shape) if isinstance(numbers, Tensor) else repr(numbers)
        _expect("Dynamics.step", f"{name}, a tensor", shown, (total,))


def _versions(state: Rows, action: Rows) -> tuple[int, ...]:
    """Numbers that grow with changes in place, of the tensors whose changes are counted."""
    leaves = (*rows.leaves(state), *rows.leaves(action))
    return tuple(_version(leaf) for leaf in leaves if isinstance(leaf, Tensor))


def _like(after: Rows, before: Rows) -> Rows:
    """The states `after` a step as rows of the kind they were `before`, in the same precision.

    Raises ValueError where they are of another kind: what was found could not be kept beside them.
    """
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        if after.dtype == before.dtype:
            return after
        kinds = {after.dtype.is_floating_point, before.dtype.is_floating_point}
        if len(kinds) == 1 and torch.bool not in (after.dtype, before.dtype):
            return after.to(before.dtype)
    elif isinstance(before, list) and isinstance(after, list):
        return after
    elif isinstance(before, dict) and isinstance(after, dict) and after.keys() == before.keys():
        same = {name: _like(after[name], before[name]) for name in before}
        return after if all(same[name] is after[name] for name in before) else same
    elif isinstance(before, tuple) and isinstance(after, tuple) and len(after) == len(before):
        parts = list(map(_like, after, before))
        if type(after) is type(before) and all(map(operator.is_, parts, after)):
            return after
        return type(before)(*parts) if hasattr(before, "_fields") else tuple(parts)
    raise ValueError(
        f"Dynamics.step must return states of the kind it is given, {_kind(before)}, not "
        f"{_kind(after)}"
    )


def _kind(of: Rows) -> str:
    if isinstance(of, Tensor):
        return f"a tensor of {str(of.dtype).removeprefix('torch.')}"
    if isinstance(of, dict):
        return f"a dict of {', '.join(map(str, of))}"
    return f"a {type(of).__name__}" + (f" of {len(of)} parts" if isinstance(of, tuple) else "")


def absorb(state: Rows, index: Tensor, moved: Transition) -> Transition:
    """The transitions of all R rows of `state` where only those at `index` [n] were stepped.

    The others keep their state and have reward and discount 0. Tokens are left out.
    """
    total = rows.count(state)
    reward = moved.reward.new_zeros(total).index_copy(0, index, moved.reward)
    discount = moved.discount.new_zeros(total).index_copy(0, index, moved.discount)
    return Transition(replace(state, index, moved.state), reward, discount)


def replace(old: Rows, index: Tensor, new: Rows) -> Rows:
    """`old` with the rows at `index` [n] exchanged for the n rows of `new`, out of place."""
    total = rows.count(old)
    source = torch.arange(total, device=index.device)
    source[index] = total + torch.arange(len(index), device=index.device)
    return rows.take(rows.concat([old, new]), source)


_COUNTS = ("steps", "proposals", "values", "gradients", *Tokens._fields)  # in the order of `Cost`
_STEPS, _PROPOSALS, _VALUES, _GRADIENTS, _TOKENS = range(5)


def _drawn(proposal: Proposal, num: int) -> Tensor | int:
    """Candidates drawn [R] of `num` asked for, or one number where no slot is empty.

    A single one is there without a look at the device.
    """
    if proposal.drawn is not None:
        return proposal.drawn
    log_prior = proposal.log_prior
    if num == 1 or log_prior.min().item() > -torch.inf:
        return log_prior.shape[1]
    return (log_prior > -torch.inf).sum(1)


def _expect(who: str, what: str, got: object, expected: object) -> None:
    if got != expected:
        raise ValueError(f"{who} must return {expected} {what}, not {got}")


def _differentiable(state: Rows) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in rows.leaves(state))


def place(state: Rows) -> tuple[torch.dtype, torch.device]:
    """The precision and device to plan in; checks for NaN.

    Those of the first floating-point tensor among the rows; where there is none, single precision
    on the device of the first tensor (indices of a board, say), or on the CPU for text.
    """
    tensors = [leaf for leaf in rows.leaves(state) if isinstance(leaf, Tensor)]
    real = [leaf for leaf in tensors if leaf.is_floating_point()]
    for leaf in real:
        if math.isfinite(leaf.sum().item()):  # no number in it can be other than finite, then
            continue
        finite = torch.isfinite(leaf).unsqueeze(-1).flatten(1).all(1)
        if not bool(finite.all()):
            bad = (~finite).nonzero().squeeze(1).tolist()
            raise ValueError(f"the root states hold NaN or infinity in rows {bad[:8]}")
    if real:
        return real[0].dtype, real[0].device
    return torch.float32, tensors[0].device if tensors else torch.device("cpu")
