"""Dyna-Q: learn a table of values from real steps, and between them from a learned model.

    tables = dyna.start()
    tables, record = dyna.run(environment, reset, 1000, batch=16, rng=rng)

For worlds of few states, numbered 0 .. S-1 as int64 rows [B], with `Discrete` actions. The real
environment is any `Dynamics` over them, for B episodes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import check_choice, check_counts, check_unit
from mbrl_core.types import Dynamics, Rng, Transition


class Tables(NamedTuple):
    """All that has been learned: tensors in double precision, for `torch.save` and `torch.load`.

    The model of the world are sums over what was seen of each pair (s, a): the expected reward is
    earned / visits, the expected discount on the way to s' leads / visits. `DynaQ.learn` writes
    into them.
    """

    q: Tensor  # [S, A] return expected from an action
    visits: Tensor  # [S, A] transitions seen
    earned: Tensor  # [S, A] sum of their rewards
    leads: Tensor  # [S, A, S] sum of their discounts, by the state they led to
    urgency: Tensor  # [S, A] how much a backup may change; prioritised sweeping only


class Episodes(NamedTuple):
    """B episodes under way."""

    state: Tensor  # [B]
    earned: Tensor  # [B] sum of the rewards so far
    age: Tensor  # [B] steps so far


class Record(NamedTuple):
    """What a run of the real environment gave."""

    returns: list[float]  # sum of rewards of each finished episode, in the order they ended
    lengths: list[int]  # its real steps
    episodes: Episodes  # those that have not ended


@dataclass(frozen=True, kw_only=True)
class DynaQ:
    """Dyna-Q (Sutton 1990; Sutton and Barto 2018, section 8.2) and prioritised sweeping (Moore and
    Atkeson 1993; section 8.4).

    A real step changes Q by `learning_rate` times its temporal difference, and the model. Then
    `planning` pairs that were seen before get an expected update (eq. 8.1),

        Q(s, a) <- sum_{s', r} p(s', r | s, a) (r + d max_a' Q(s', a')),

    with p the frequencies so far, all at once. In a deterministic world there is one s' and this is
    the textbook's algorithm with step size 1 in planning.

    states, actions: their numbers, S and A.
    planning: updates from the model per real step of the batch.
    order: `uniform` draws the pairs; `sweep` takes the most urgent. A pair's urgency is how far Q
        is from its expected update when it is visited, and what a change of V(s') by c means for
        each pair that leads there, p d c, below `threshold` nothing.
    model: `counts` keeps frequencies; `last` believes in the latest transition of a pair alone (of
        one batch, that of the last row), for worlds that are deterministic but change.
    epsilon: share of random actions.
    learning_rate: step size of the update from a real step.
    optimism: first value of every action.
    """

    states: int
    actions: int
    planning: int = 10
    order: Literal["uniform", "sweep"] = "uniform"
    model: Literal["counts", "last"] = "counts"
    epsilon: float = 0.1
    learning_rate: float = 0.1
    optimism: float = 0.0
    threshold: float = 1e-6

    def __post_init__(self) -> None:
        check_counts(self, "states", "actions")
        check_choice(self, "order", "uniform", "sweep")
        check_choice(self, "model", "counts", "last")
        check_counts(self, "planning", least=0)
        check_unit(self, "epsilon", "learning_rate")

    def start(self) -> Tables:
        """Tables of one who has seen nothing."""
        pairs = torch.zeros(self.states, self.actions, dtype=torch.float64)
        return Tables(
            q=torch.full_like(pairs, self.optimism),
            visits=pairs.clone(),
            earned=pairs.clone(),
            leads=torch.zeros(*pairs.shape, self.states, dtype=torch.float64),
            urgency=pairs.clone(),
        )

    def act(self, tables: Tables, state: Tensor, *, rng: Rng) -> Tensor:
        """Actions [B] int64: greedy, ties broken at random, but random in a share `epsilon`."""
        dice = draws.uniform(rng, len(state), self.actions + 1).to(tables.q)
        q = tables.q[state]
        best = torch.where(q == q.amax(1, keepdim=True), dice[:, 1:], -1.0).argmax(1)
        return torch.where(dice[:, 0] < self.epsilon, dice[:, 1:].argmax(1), best)

    def learn(
        self, tables: Tables, state: Tensor, action: Tensor, moved: Transition, *, rng: Rng
    ) -> Tables:
        """The tables after B real transitions and the planning that follows; written in place.

        Raises ValueError where a state or an action is outside the tables.
        """
        pair = self._pairs(state, action, moved.state)
        reward, discount = moved.reward.to(tables.q), moved.discount.to(tables.q)
        target = reward + discount * tables.q[moved.state].amax(1)
        _blend(tables.q.view(-1), pair, target, self.learning_rate)
        self._remember(tables, pair, moved.state, reward, discount)
        if self.order == "sweep":
            change = expected_update(tables, pair) - tables.q.view(-1)[pair]
            tables.urgency.view(-1)[pair] = change.abs()
        return self.plan(tables, rng=rng)

    def plan(self, tables: Tables, *, rng: Rng) -> Tables:
        """The tables after `planning` updates from the model; written in place."""
        if self.order == "sweep":
            self._sweep(tables)
            return tables
        seen = tables.visits.view(-1).nonzero().squeeze(1)
        if len(seen) > 0 and self.planning > 0:
            common = rng if isinstance(rng, torch.Generator) else rng[0]
            drawn = seen[draws.integers(common, len(seen), self.planning).to(seen.device)]
            tables.q.view(-1)[drawn] = expected_update(tables, drawn)
        return tables

    def run(
        self,
        environment: Dynamics,
        reset: Callable[[int, Rng], Tensor],
        steps: int,
        *,
        batch: int,
        rng: torch.Generator,
        tables: Tables | None = None,
        episodes: Episodes | None = None,
        limit: int | None = None,
    ) -> tuple[Tables, Record]:
        """Act and learn for `steps` steps of `batch` episodes side by side.

        `reset(n, rng)` gives n first states [n]. An episode that ends, or is cut after `limit`
        steps, is followed by another; a cut is no end, so what is learned of its last step is not
        that the world ends there. `tables` and `episodes` of an earlier run continue it.
        """
        tables = self.start() if tables is None else tables
        state, earned, age = _begin(reset(batch, rng)) if episodes is None else episodes
        returns: list[float] = []
        lengths: list[int] = []
        for _ in range(steps):
            action = self.act(tables, state, rng=rng)
            moved = environment.step(state, action, rng=rng)
            tables = self.learn(tables, state, action, moved, rng=rng)
            state, earned, age = moved.state.long(), earned + moved.reward, age + 1
            over = moved.discount == 0
            if limit is not None:
                over = over | (age >= limit)
            index = over.nonzero().squeeze(1)
            if len(index) > 0:
                returns += earned[index].tolist()
                lengths += age[index].tolist()
                fresh = _begin(reset(len(index), rng))
                state, earned, age = (
                    old.index_copy(0, index, new)
                    for old, new in zip((state, earned, age), fresh, strict=True)
                )
        return tables, Record(returns, lengths, Episodes(state, earned, age))

    def _pairs(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        for name, number, limit in (
            ("states", state, self.states),
            ("actions", action, self.actions),
            ("states", after, self.states),
        ):
            if bool(((number < 0) | (number >= limit)).any()):
                raise ValueError(
                    f"DynaQ has {name} 0 to {limit - 1}, and was given "
                    f"{int(number.min())} to {int(number.max())}: set DynaQ.{name}"
                )
        return state * self.actions + action

    def _remember(
        self, tables: Tables, pair: Tensor, after: Tensor, reward: Tensor, discount: Tensor
    ) -> None:
        """Put transitions into the model; `last` forgets what it knew of these pairs."""
        visits, earned = tables.visits.view(-1), tables.earned.view(-1)
        leads = tables.leads.view(len(visits), -1)
        if self.model == "last":
            visits[pair], earned[pair], leads[pair] = 0.0, 0.0, 0.0
            latest = _latest(pair, len(visits))
            pair, after, reward, discount = (x[latest] for x in (pair, after, reward, discount))
        visits.index_add_(0, pair, torch.ones_like(reward))
        earned.index_add_(0, pair, reward)
        leads.view(-1).index_add_(0, pair * self.states + after, discount)

    def _sweep(self, tables: Tables) -> None:
        """Update the most urgent pairs in rounds, so that one round can follow from another."""
        urgency, left = tables.urgency.view(-1), self.planning
        while left > 0:
            size, pair = urgency.topk(min(left, 1 + self.planning // 5, len(urgency)))
            pair = pair[size > self.threshold]
            if len(pair) == 0:
                return
            left -= len(pair)
            state = (pair // self.actions).unique()
            before = tables.q[state].amax(1)
            tables.q.view(-1)[pair] = expected_update(tables, pair)
            urgency[pair] = 0.0
            change = (tables.q[state].amax(1) - before).abs()
            share = tables.leads[:, :, state] / tables.visits.clamp(min=1).unsqueeze(2)
            torch.maximum(tables.urgency, (share.abs() * change).amax(2), out=tables.urgency)


def expected_update(tables: Tables, pair: Tensor) -> Tensor:
    """sum_{s', r} p(s', r | s, a) (r + d max_a' Q(s', a')) of pairs s*A + a seen before, [n]."""
    values = tables.q.amax(1)
    visits = tables.visits.view(-1)[pair]
    leads = tables.leads.view(-1, len(values))[pair]
    return (tables.earned.view(-1)[pair] + leads @ values) / visits


def value_iteration(
    earned: Tensor, leads: Tensor, *, tolerance: float = 1e-12, sweeps: int = 100_000
) -> Tensor:
    """The Q [S, A] that is its own expected update: Q = earned + leads max Q.

    `earned` [S, A] are expected rewards, `leads` [S, A, S] probabilities times discounts: of
    `Tables`, earned / visits and leads / visits. Ends when no entry changes by more than
    `tolerance`. Raises ValueError where `sweeps` do not suffice for that.
    """
    q = torch.zeros_like(earned)
    for _ in range(sweeps):
        better = earned + leads @ q.amax(1)
        if bool((better - q).abs().amax() <= tolerance):
            return better
        q = better
    raise ValueError(f"value iteration is not within {tolerance} after {sweeps} sweeps")


def _blend(q: Tensor, pair: Tensor, target: Tensor, rate: float) -> None:
    """Move q [n] at `pair` [B] towards `target` [B], where a pair repeats towards their mean."""
    total = torch.zeros_like(q).index_add_(0, pair, target)
    count = torch.zeros_like(q).index_add_(0, pair, torch.ones_like(target))
    q += torch.where(count > 0, rate * (total / count.clamp(min=1) - q), 0.0)


def _latest(pair: Tensor, number: int) -> Tensor:
    """Which rows [B] bool are the last of their pair, of `number` pairs."""
    row = torch.arange(len(pair), device=pair.device)
    return row == row.new_zeros(number).scatter_reduce(0, pair, row, "amax")[pair]


def _begin(state: Tensor) -> Episodes:
    """Episodes at their first states [B]."""
    earned = torch.zeros(len(state), dtype=torch.float64, device=state.device)
    return Episodes(state.long(), earned, torch.zeros_like(state, dtype=torch.int64))
