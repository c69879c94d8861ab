"""Contracts that every model and every planner keeps: run them on your own.

    check_model(model, state)
    check_planner(planner, model, state)

Each law that does not hold raises AssertionError with one sentence that names the part and the law.
No test framework is needed.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mbrl_core
from mbrl_core import draws, rows, world
from mbrl_core.draws import generator
from mbrl_core.types import (
    Box,
    Budget,
    Carry,
    Cost,
    Discrete,
    Model,
    Plan,
    Planner,
    Policy,
    Proposal,
    Rng,
    Rollout,
    Rows,
    Tokens,
    Transition,
    Tree,
)


def check_model(
    model: Model,
    state: Rows,
    *,
    action: Rows = None,
    num: int = 4,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Check every part of `model` on the R root states `state`, of which none may have ended.

    `action` (R rows) is what is stepped with; without it the policy draws one, or it is uniform in
    the action space. `num` candidates are asked of the policy. `tolerance` (relative and absolute)
    allows for the rounding of a row computed in another batch.

    Raises AssertionError, in one sentence, where a law does not hold, and ValueError where there is
    no action to step with.
    """
    total = rows.count(state)
    laws = _Laws(tolerance, seed)
    for policy in filter(None, (model.policy, model.rollout)):
        for number in (num, 1):
            most = max(number, getattr(policy, "draws", 1))
            _check_proposal(policy.propose(state, number, rng=generator(seed)), total, number, most)
        laws.check("Policy.propose", _proposing(policy, num), state)
    if model.value is not None:
        value_of = model.value.value
        _check_value(value_of(state), total)
        laws.check("Value.value", lambda s, _a, _rng: value_of(s), state)
    action = _some_action(model, state, seed) if action is None else action
    dynamics = model.dynamics
    _check_transition(model, dynamics.step(state, action, rng=generator(seed)), total)
    laws.check("Dynamics.step", lambda s, a, rng: dynamics.step(s, a, rng=rng), state, action)
    _check_step_rows(model, state, action, seed)
    unsure = getattr(dynamics, "disagreement", None)
    if unsure is not None:
        _check_disagreement(unsure(state, action), total)
        laws.check("Dynamics.disagreement", lambda s, a, _rng: unsure(s, a), state, action)


def check_planner(
    planner: Planner, model: Model, state: Rows, *, seed: int = 0, tolerance: float = 1e-4
) -> None:
    """Check that `planner` keeps the contract of `Planner` on `model` from the B states `state`.

    The model must keep its own contract (see `check_model`): batched or alone, the same rows give
    the same results. `tolerance` (relative and absolute) allows for their rounding.

    Raises AssertionError, in one sentence, where a law does not hold.
    """
    name = type(planner).__name__
    roots = rows.count(state)
    before, start = _settings(planner), copy.deepcopy(state)
    counted = _Counted(model)
    plan, carry = _plan(planner, counted.model, state, generator(seed))
    _check_plan(name, model, plan, roots)
    counted.check(name, plan.cost)
    _check_no_gradient(name, plan, carry)
    _claim(_same(before, _settings(planner), 0), f"{name} changed its own hyperparameters")
    _claim(_same(start, state, 0), f"{name} changed the root states it was given")

    again, _ = _plan(planner, model, state, generator(seed))
    _claim(_equal(plan, again, 0), f"{name} gave two plans for one seed")
    with torch.no_grad():
        quiet, _ = _plan(planner, model, state, generator(seed))
    _claim(_equal(plan, quiet, 0), f"{name} plans differently under torch.no_grad()")

    _check_rows_alone(name, planner, model, state, seed, tolerance)
    _check_reset(name, planner, model, state, seed, tolerance)
    for unit in ("steps", "proposals", "gradients", "calls"):
        _check_budget(name, planner, model, state, seed, unit, plan.cost)


def _proposing(policy: Policy, num: int) -> Callable[[Rows, Rows, Rng], Proposal]:
    return lambda state, _action, rng: policy.propose(state, num, rng=rng)


# Laws of a model


class _Laws:
    """What every part of a model promises about rows, seeds and its inputs."""

    def __init__(self, tolerance: float, seed: int) -> None:
        self.tolerance = tolerance
        self.seed = seed

    def check(
        self,
        part: str,
        call: Callable[[Rows, Rows, Rng], Any],
        state: Rows,
        action: Rows = None,
    ) -> None:
        """`call(state, action, rng)` is one part of the model."""
        total = rows.count(state)
        before = copy.deepcopy((state, action))
        first = call(state, action, generator(self.seed))
        _claim(_same(before, (state, action), 0), f"{part} changed the rows it was given")
        again = call(state, action, generator(self.seed))
        _claim(_same(first, again, 0), f"{part} gave two results for one seed")

        def at(index: Tensor) -> Any:
            """The result for some rows, each with the generator that belongs to it."""
            chosen = None if action is None else rows.take(action, index)
            rng = [generator(self.seed + i) for i in index.tolist()]
            return call(rows.take(state, index), chosen, rng)

        order = torch.arange(total)
        whole = at(order)
        for r in range(total):
            alone = _rows_of(at(order[r : r + 1]), order[:1])
            _claim(
                _same(_rows_of(whole, order[r : r + 1]), alone, self.tolerance),
                f"{part} gives row {r} another result alone than in a batch: rows must be "
                "independent, and draw from the generator of their own",
            )
        _claim(
            _same(
                _rows_of(whole, order.flip(0)), _rows_of(at(order.flip(0)), order), self.tolerance
            ),
            f"{part} must give permuted rows for permuted inputs",
        )


def _rows_of(result: Any, index: Tensor) -> Any:
    """The given rows of what a part of a model returned; of a proposal, without the last slots
    where all these rows leave them empty: how many there are may depend on the batch."""
    if isinstance(result, Proposal):
        log_prior = result.log_prior[index]
        used = int((log_prior > -torch.inf).any(0).nonzero().max()) + 1
        slots = index.unsqueeze(1) * result.log_prior.shape[1] + torch.arange(used)
        return result._replace(
            actions=rows.take(result.actions, slots.flatten()),
            log_prior=log_prior[:, :used],
            tokens=_rows_of(result.tokens, index),
            drawn=_rows_of(result.drawn, index),
        )
    if isinstance(result, Transition):
        return Transition(*(_rows_of(part, index) for part in result))
    return None if result is None else rows.take(result, index)


def _check_transition(model: Model, moved: Transition, total: int) -> None:
    part = "Dynamics.step"
    _claim(rows.count(moved.state) == total, f"{part} must return {total} states")
    for what in ("reward", "discount"):
        _check_numbers(part, what, getattr(moved, what), (total,))
    inside = bool((moved.discount.abs() <= 1).all())
    _claim(inside, f"{part} must return discounts in [-1, 1]")
    if not getattr(model.dynamics, "terminates", True):
        going = bool((moved.discount != 0).all())
        _claim(going, f"{part} ended a row, but its class says terminates = False")
    _check_tokens(part, moved.tokens, total)


def _check_proposal(proposal: Proposal, total: int, num: int, most: int) -> None:
    part, prior = "Policy.propose", proposal.log_prior
    shaped = prior.dim() == 2 and prior.shape[0] == total and 1 <= prior.shape[1] <= num
    _claim(
        shaped,
        f"{part} must return log_prior [{total}, K] with 1 <= K <= {num}, not {list(prior.shape)}",
    )
    _claim(prior.is_floating_point(), f"{part} must return log_prior in floating point")
    usable = not bool((prior.isnan() | (prior == torch.inf)).any())
    _claim(usable, f"{part} must return log_prior that is finite, or -inf for an empty slot")
    _claim(
        bool((prior > -torch.inf).any(1).all()),
        f"{part} must return at least one candidate for each state",
    )
    expected = total * prior.shape[1]
    _claim(
        rows.count(proposal.actions) == expected,
        f"{part} must return {expected} actions, candidate k of row r at r*K + k, not "
        f"{rows.count(proposal.actions)}",
    )
    if proposal.drawn is not None:
        drawn, slots = proposal.drawn, (prior > -torch.inf).sum(1)
        good = tuple(drawn.shape) == (total,) and bool(((slots <= drawn) & (drawn <= most)).all())
        _claim(good, f"{part} must return drawn [{total}] between the slots it filled and {most}")
    _check_tokens(part, proposal.tokens, total)


def _check_step_rows(model: Model, state: Rows, action: Rows, seed: int) -> None:
    part, total = "Dynamics.step_rows", rows.count(state)
    after = model.dynamics.step(state, action, rng=generator(seed)).state
    each, later = world.step_rows(model, state), world.step_rows(model, after)
    if isinstance(each, int) and isinstance(later, int):
        _claim(1 <= later <= each, f"{part} must be at least 1 and never grow along a path")
        return
    for number in (each, later):
        shape = tuple(number.shape) if isinstance(number, Tensor) else ()
        _claim(shape == (total,), f"{part} must return numbers [{total}], or one int for all")
    assert isinstance(each, Tensor) and isinstance(later, Tensor)
    falls = bool((each >= 1).all()) and bool((later <= each).all())
    _claim(falls, f"{part} must be at least 1 and never grow along a path")


def _check_disagreement(unknown: Tensor, total: int) -> None:
    part = "Dynamics.disagreement"
    _check_numbers(part, "numbers", unknown, (total,))
    _claim(bool((unknown >= 0).all()), f"{part} must return numbers of at least 0")


def _check_value(value: Tensor, total: int) -> None:
    _check_numbers("Value.value", "values", value, (total,))


def _check_tokens(part: str, tokens: Tokens | None, total: int) -> None:
    for name, spent in zip(Tokens._fields, tokens or (), strict=tokens is not None):
        good = tuple(spent.shape) == (total,) and bool((spent >= 0).all())
        _claim(good, f"{part} must return tokens.{name} [{total}], none negative")


def _check_numbers(part: str, what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    _claim(tuple(x.shape) == shape, f"{part} must return {what} {list(shape)}, not {list(x.shape)}")
    _claim(x.is_floating_point(), f"{part} must return {what} in floating point, not {x.dtype}")
    _claim(bool(torch.isfinite(x).all()), f"{part} must return finite {what}")


def _some_action(model: Model, state: Rows, seed: int) -> Rows:
    """One action for each state."""
    total, space = rows.count(state), model.action_space
    if model.policy is not None:
        return model.policy.propose(state, 1, rng=generator(seed)).actions
    if isinstance(space, Discrete):
        return draws.integers(generator(seed), space.n, total)
    if isinstance(space, Box):
        unit = draws.uniform(generator(seed), total, len(space.low)).to(space.low)
        low, high = space.low.clamp(min=-1e3), space.high.clamp(max=1e3)
        return low + unit * (high - low)
    raise ValueError("check_model needs an action: the model has no policy and no action space")


# Laws of a planner


def _plan(
    planner: Planner,
    model: Model,
    state: Rows,
    rng: Rng,
    carry: Carry = None,
    budget: Budget | None = None,
) -> tuple[Plan, Carry]:
    """A plan without its warnings: a fallback is allowed, and shows in Plan.valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return planner(model, state, carry, rng=rng, budget=budget)


def _check_plan(name: str, model: Model, plan: Plan, roots: int) -> None:
    for what in ("action", "final"):
        number = rows.count(getattr(plan, what))
        _claim(number == roots, f"{name} must return Plan.{what} of {roots} rows, not {number}")
    for what in ("value", "valid"):
        shape = tuple(getattr(plan, what).shape)
        _claim(shape == (roots,), f"{name} must return Plan.{what} [{roots}], not {list(shape)}")
    _claim(plan.valid.dtype == torch.bool, f"{name} must return Plan.valid of bool")
    finite = bool(torch.isfinite(plan.value[plan.valid]).all())
    _claim(finite, f"{name} must return a finite Plan.value where Plan.valid is true")
    space = model.action_space
    for action in (plan.action, *plan.then):
        number = rows.count(action)
        _claim(number == roots, f"{name} must return Plan.then of {roots} rows, not {number}")
        if isinstance(space, Box) and isinstance(action, Tensor):
            _claim(_inside(space, action), f"{name} must return actions inside the bounds")
    _check_trace(name, plan.trace, roots)


def _check_trace(name: str, trace: Rollout | Tree, roots: int) -> None:
    if isinstance(trace, Tree):
        shape, flat = trace.parent.shape, trace.parent.numel()
        good = all(
            getattr(trace, what).shape == shape
            for what in Tree._fields
            if what not in ("size", "states", "actions", "root", "played")
        )
        good &= shape[0] == roots and rows.count(trace.states) == flat
        children = (torch.arange(shape[1]) >= 1) & (
            torch.arange(shape[1]) < trace.size.cpu().unsqueeze(1)
        )
        ordered = trace.parent.cpu() < torch.arange(shape[1])
        _claim(good, f"{name} must return the tables of its tree [B, M] and B*M states")
        below = bool(ordered[children].all())
        _claim(below, f"{name} must number a tree's parents below their children")
        return
    shape = trace.rewards.shape
    good = len(shape) == 3 and trace.discounts.shape == shape and shape[0] == roots
    good &= trace.returns.shape == shape[:2] and trace.ended.shape == shape[:2]
    _claim(good, f"{name} must return a rollout with rewards [B, N, H] and returns [B, N]")


def _check_no_gradient(name: str, plan: Plan, carry: Carry) -> None:
    attached = any(x.requires_grad for x in _tensors((plan, carry)))
    _claim(not attached, f"{name} must return nothing that carries a gradient")


def _check_rows_alone(
    name: str, planner: Planner, model: Model, state: Rows, seed: int, tolerance: float
) -> None:
    def twice(here: Rows, seeds: list[int]) -> list[Plan]:
        """A plan and, where there is a carry, the one that follows from it."""
        first, carry = _plan(planner, model, here, [generator(s) for s in seeds])
        if carry is None:
            return [first]
        return [first, _plan(planner, model, here, [generator(s) for s in seeds], carry)[0]]

    roots = rows.count(state)
    batch = twice(state, [seed + b for b in range(roots)])
    for b in range(roots):
        alone = twice(rows.take(state, torch.tensor([b])), [seed + b])
        for one, other, by in zip(batch, alone, ("", ", by its carry"), strict=False):
            why = f"alone than in a batch{by}"
            _check_same_row(name, one, b, other, 0, tolerance, why)
            spent = (_ledger(one.cost, b), _ledger(other.cost, 0))
            _claim(spent[0] == spent[1], f"{name} counts other costs for root {b} {why}: {spent}")


def _check_reset(
    name: str, planner: Planner, model: Model, state: Rows, seed: int, tolerance: float
) -> None:
    roots = rows.count(state)

    def plan(carry: Carry) -> tuple[Plan, Carry]:
        return _plan(planner, model, state, [generator(seed + b) for b in range(roots)], carry)

    fresh, carry = plan(None)
    if carry is None:
        return
    kept = copy.deepcopy(carry)
    warm, _ = plan(carry)
    _claim(_same(kept, carry, 0), f"{name} changed the carry it was given")
    for b in range(roots):
        mask = torch.arange(roots) == b
        mixed, _ = plan(mbrl_core.reset(carry, mask))
        for other in range(roots):
            as_if = fresh if other == b else warm
            why = f"after the carry of root {b} was reset"
            _check_same_row(name, mixed, other, as_if, other, tolerance, why)


def _check_same_row(
    name: str, one: Plan, b: int, other: Plan, c: int, tolerance: float, why: str
) -> None:
    for what in ("action", "value", "final", "valid"):
        mine = rows.take(getattr(one, what), torch.tensor([b]))
        yours = rows.take(getattr(other, what), torch.tensor([c]))
        same = _same(mine, yours, tolerance)
        _claim(same, f"{name} gives root {b} another Plan.{what} {why}: {mine} and {yours}")
    after, later = (
        [rows.take(action, torch.tensor([row])) for action in plan.then]
        for plan, row in ((one, b), (other, c))
    )
    shared = min(len(after), len(later))  # a plan may stop where all its futures have ended
    same = _same(after[:shared], later[:shared], tolerance)
    _claim(same, f"{name} gives root {b} another Plan.then {why}: {after} and {later}")


def _check_budget(
    name: str, planner: Planner, model: Model, state: Rows, seed: int, unit: str, full: Cost
) -> None:
    """Half of what a whole plan took is never exceeded, and gives a plan or says why not."""
    used = getattr(full, unit)
    limit = int(used if unit == "calls" else used.max()) // 2
    if limit == 0:
        return
    counted = _Counted(model)
    try:
        plan, _ = _plan(
            planner, counted.model, state, generator(seed), budget=Budget(**{unit: limit})
        )
    except ValueError as error:
        _claim("budget" in str(error), f"{name} failed on a budget of {limit} {unit}: {error}")
        plan = None
    if plan is not None:
        _check_plan(name, model, plan, rows.count(state))
        counted.check(name, plan.cost)
        spent = getattr(plan.cost, unit)
        spent = int(spent if unit == "calls" else spent.max())
        _claim(spent <= limit, f"{name} spent {spent} {unit} of a budget of {limit}")


def _ledger(cost: Cost, b: int) -> dict[str, int]:
    """What root `b` alone was charged."""
    each = {name: getattr(cost, name) for name in ("steps", "proposals", "values", "gradients")}
    each |= cost.tokens._asdict()
    return {name: int(amount[b]) for name, amount in each.items()}


class _Counted:
    """A model that keeps a ledger of its own, and sees that actions stay inside their bounds."""

    def __init__(self, model: Model) -> None:
        self.original = model
        self.seen = dict.fromkeys(("calls", "steps", "proposals", "values", *Tokens._fields), 0)
        self.outside = False
        self.terminates = getattr(model.dynamics, "terminates", True)
        self.model = model._replace(
            dynamics=self,
            policy=None if model.policy is None else self,
            value=None if model.value is None else self,
            rollout=None if model.rollout is None else _Asked(self, model.rollout),
        )

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        space = self.original.action_space
        if isinstance(space, Box) and isinstance(action, Tensor):
            self.outside |= not _inside(space, action.detach())
        moved = self.original.dynamics.step(state, action, rng=rng)
        self._count("steps", _total(self.step_rows(state), state), moved.tokens)
        return moved

    def step_rows(self, state: Rows) -> Tensor | int:
        """See `Dynamics`."""
        return world.step_rows(self.original, state)

    def value_rows(self, state: Rows) -> Tensor | int:
        """See `Value`."""
        return world.value_rows(self.original, state)

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        assert self.original.policy is not None
        return self.ask(self.original.policy, state, num, rng=rng)

    def ask(self, policy: Policy, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """What a policy of the model proposes, counted."""
        proposal = policy.propose(state, num, rng=rng)
        drawn = proposal.log_prior > -torch.inf if proposal.drawn is None else proposal.drawn
        self._count("proposals", int(drawn.sum()), proposal.tokens)
        return proposal

    def value(self, state: Rows) -> Tensor:
        """See `Value`."""
        assert self.original.value is not None
        value = self.original.value.value(state)
        self._count("values", _total(self.value_rows(state), state), None)
        return value

    def _count(self, what: str, number: int, tokens: Tokens | None) -> None:
        self.seen["calls"] += 1
        self.seen[what] += number
        for name, spent in zip(Tokens._fields, tokens or (), strict=tokens is not None):
            self.seen[name] += int(spent.sum())

    def check(self, name: str, cost: Cost) -> None:
        """Check a plan's ledger against what the model saw."""
        _claim(not self.outside, f"{name} stepped the model with an action outside its bounds")
        each = {what: getattr(cost, what) for what in ("steps", "proposals", "values", "gradients")}
        each |= cost.tokens._asdict()
        roots = len(cost.steps)
        for what, amount in each.items():
            good = tuple(amount.shape) == (roots,) and bool((amount >= 0).all())
            _claim(good, f"{name} must return Plan.cost.{what} [{roots}], none negative")
        _claim(cost.seconds >= 0, f"{name} must return Plan.cost.seconds of at least 0")
        _claim(cost.calls == self.seen["calls"], f"{name} must count every call of the model")
        for what, seen in self.seen.items():
            if what != "calls":
                booked = int(each[what].sum())
                _claim(booked == seen, f"{name} booked {booked} {what}, and the model saw {seen}")
        differentiated = bool((cost.gradients <= cost.steps).all())
        _claim(differentiated, f"{name} cannot differentiate through rows it never stepped")


class _Asked(NamedTuple):
    """The model's rollout policy, counted."""

    counted: _Counted
    policy: Policy

    @property
    def draws(self) -> int:
        """See `Policy`."""
        return getattr(self.policy, "draws", 1)

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        return self.counted.ask(self.policy, state, num, rng=rng)


def _total(each: Tensor | int, state: Rows) -> int:
    """The model rows that all rows take together."""
    return each * rows.count(state) if isinstance(each, int) else int(each.sum())


# Comparing


def _claim(holds: bool, law: str) -> None:
    """Unlike an assert statement it also holds under `python -O`."""
    if not holds:
        raise AssertionError(law)


def _inside(space: Box, action: Tensor) -> bool:
    low, high = space.low.to(action), space.high.to(action)
    return bool(((action >= low) & (action <= high)).all())


def _equal(one: Plan, other: Plan, tolerance: float) -> bool:
    """Whether two plans agree in everything but the time they took."""
    return _same(
        one._replace(cost=one.cost._replace(seconds=0.0)),
        other._replace(cost=other.cost._replace(seconds=0.0)),
        tolerance,
    )


def _same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two nested values agree; numbers in floating point within `tolerance`."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        slack = tolerance if a.is_floating_point() else 0
        return torch.allclose(a.detach(), b.detach(), slack, slack, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= tolerance * (1 + abs(b)) or a == b or (a != a and b != b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, (list, tuple)):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(_same(x, y, tolerance) for x, y in pairs)
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return _same(_settings(a), _settings(b), tolerance)
    return bool(a == b)


def _settings(record: Any) -> dict[str, Any]:
    """A copy of the fields of a dataclass; of anything else, its attributes."""
    if dataclasses.is_dataclass(record):
        names = [field.name for field in dataclasses.fields(record)]
        return {name: copy.deepcopy(getattr(record, name)) for name in names}
    return copy.deepcopy(getattr(record, "__dict__", {}))


def _tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        for part in x.values():
            yield from _tensors(part)
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from _tensors(part)
