"""Compute-optimal choice: how hard a question looks decides by which strategy it is answered (Snell
et al. 2024, arXiv:2408.03314, section 3).

How easy a question is, is estimated without its answer, on a few samples. A table, fitted by
`evals.scaling` on other questions, says which strategy serves questions of that kind best.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core import (
    Argmax,
    Budget,
    BudgetError,
    Cost,
    Listener,
    Plan,
    RandomShooting,
    Reducer,
    Rng,
    Rollout,
    Tokens,
    Tree,
    draws,
)
from mbrl_core.reducers import first_max
from mbrl_core.rows import take
from reasoning.engines.base import Sampling
from reasoning.strategies import FinalAnswer, Strategy, make_strategy
from reasoning.world import Continuation, Failures, Thought

if TYPE_CHECKING:
    from reasoning.reasoner import Reasoner

By = Literal["score", "vote"]


def ease(values: Sequence[float], answers: Sequence[str | None], by: By) -> float:
    """How easy a question looks, in [0, 1], from samples of its solution; the answer is not known.

    By `score`: the mean of the samples' `values`, a cut one (-inf) counting 0. By `vote`: the share
    of the most frequent of their `answers`, None being none. Raises ValueError where `by` is
    neither.
    """
    if by == "score":
        return sum(value for value in values if math.isfinite(value)) / max(1, len(values))
    if by != "vote":
        raise ValueError(f"by must be score or vote, not {by!r}")
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes.values(), default=0) / max(1, len(answers))


class Fitted(NamedTuple):
    """What a table was fitted with: its choices, and its edges most of all, hold for that alone."""

    model: str
    scorer: str | None
    aggregate: str | None
    lm_weight: float
    calculator: bool


class Choice(NamedTuple):
    """A strategy and what it may spend."""

    strategy: Strategy
    budget: Budget = Budget()


@dataclass(frozen=True, kw_only=True)
class ComputeOptimal:
    """Samples a few solutions of each question, and answers it as its estimated difficulty asks.

    probe: solutions sampled first. A strategy that samples whole solutions at the same temperature
        goes on from these; for any other they are spent on the estimate alone. The ledger counts
        them either way.
    temperature: of the probe. by: what the estimate is, see `ease`.
    edges: rising; bin i holds the questions whose ease lies between edge i - 1 and edge i.
    choices: one more than edges: the strategy of each bin, the hardest first.
    fitted_on: what edges and choices were fitted with; None where that is not known.

    A budget, which may not be one of tokens, may leave too little after the probe: where it does
    not pay for a step of the strategy chosen, the question is answered by the best of the probe
    (`Argmax`), and where that strategy goes on from the probe, by what it makes of the probe alone.
    """

    probe: int
    temperature: float
    by: By
    edges: tuple[float, ...]
    choices: tuple[Choice, ...]
    fitted_on: Fitted | None = None

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise ValueError(f"probe must be at least 1, not {self.probe}")
        Sampling(self.temperature)
        if len(self.choices) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(
                f"{len(self.edges)} rising edges need {len(self.edges) + 1} choices, and there are "
                f"{len(self.choices)}, at {list(self.edges)}"
            )
        for choice in self.choices:
            if choice.strategy.world is not None:
                raise ValueError(
                    "a table chooses among strategies over solutions and their steps, and this one "
                    f"has another world: {type(choice.strategy.world).__name__}"
                )
        ease((), (), self.by)

    @property
    def probing(self) -> Strategy:
        """How the probe is sampled."""
        planner = RandomShooting(samples=self.probe, horizon=1)
        return Strategy(planner=planner, unit="solution", temperature=self.temperature)

    def choose(self, plan: Plan) -> list[int]:
        """The bin of each question, from the plan of its probe."""
        trace = plan.trace
        assert isinstance(trace, Rollout)
        number = trace.returns.shape[1]
        answers = FinalAnswer()(trace.final)
        eases = [
            ease(values, answers[row * number : (row + 1) * number], self.by)
            for row, values in enumerate(trace.returns.tolist())
        ]
        return [bisect_right(self.edges, value) for value in eases]

    def search(
        self,
        reasoner: Reasoner,
        state: list[Thought],
        failures: Failures,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> Plan:
        """What is found for the questions. `Plan.trace` is a tree that holds, below each question,
        the probe's solutions and what its strategy looked at.

        Raises ValueError on a budget of tokens, which cannot stop sampling in one go, and on one
        that does not allow a single sample.
        """
        if budget is not None and budget.tokens is not None:
            raise ValueError(
                "compute_optimal samples its probe in one go, where a token budget cannot stop it: "
                "limit steps instead"
            )
        probe, _ = self.probing.planner(
            reasoner.model(failures, self.probing), state, rng=rng, budget=budget, listen=listen
        )
        bins = self.choose(probe)
        final, action = list(probe.final), list(probe.action)
        value, valid, cost = probe.value.clone(), probe.valid.clone(), probe.cost
        branches = [[_Branch(probe, row)] for row in range(len(state))]
        for choice in dict.fromkeys(self.choices[bin] for bin in bins):
            index = torch.tensor([b for b, bin in enumerate(bins) if self.choices[bin] == choice])
            plan, extends = self._go_on(
                reasoner, choice, state, probe, index, failures, rng, budget, listen
            )
            cost = cost + plan.cost.spread(index, len(state))
            value[index], valid[index] = plan.value.to(value), plan.valid
            for row, b in enumerate(index.tolist()):
                final[b], action[b] = plan.final[row], plan.action[row]
                if extends:
                    branches[b] = []
                branches[b].append(_Branch(plan, row))
        return Plan(action, value, final, _joined(state, branches), cost, valid)

    def _go_on(
        self,
        reasoner: Reasoner,
        choice: Choice,
        state: list[Thought],
        probe: Plan,
        index: Tensor,
        failures: Failures,
        rng: Rng,
        budget: Budget | None,
        listen: Listener | None,
    ) -> tuple[Plan, bool]:
        """The plan of a strategy for the questions at `index`, and whether its trace holds the
        probe's solutions: it goes on from them, or nothing is left to spend."""
        strategy, planner = choice.strategy, choice.strategy.planner
        allowed = _least(choice.budget, _rest(budget, probe))
        here, rng = take(state, index), draws.take(rng, index)
        late = allowed.seconds is not None and allowed.seconds <= 0
        samples = isinstance(planner, RandomShooting) and planner.horizon == 1
        if samples and strategy.temperature == self.temperature:
            assert isinstance(planner, RandomShooting)
            more = None
            if planner.samples > self.probe and not late:
                further = replace(planner, samples=planner.samples - self.probe, reduce=Argmax())
                model = reasoner.model(failures, strategy)
                with suppress(BudgetError):
                    more, _ = further(model, here, rng=rng, budget=allowed, listen=listen)
            return _extended(probe, index, more, planner.reduce), True
        if not late:
            with suppress(BudgetError):
                return reasoner.search(
                    strategy, here, failures, rng=rng, budget=allowed, listen=listen
                ), False
        return _extended(probe, index, None, Argmax()), True


def _rest(budget: Budget | None, probe: Plan) -> Budget:
    """What the probe left of a budget."""
    if budget is None:
        return Budget()
    spent = {
        "steps": int(probe.cost.steps.max()),
        "proposals": int(probe.cost.proposals.max()),
        "calls": probe.cost.calls,
        "seconds": probe.cost.seconds,
    }
    left = {name: getattr(budget, name) for name in spent}
    return budget._replace(
        **{name: max(limit - spent[name], 0) for name, limit in left.items() if limit is not None}
    )


def _least(one: Budget, other: Budget) -> Budget:
    """The stricter limit of each kind."""
    limits: dict[str, Any] = {}
    for name, *pair in zip(Budget._fields, one, other, strict=True):
        known = [limit for limit in pair if limit is not None]
        if known:
            limits[name] = min(known)
    return Budget(**limits)


def _extended(probe: Plan, index: Tensor, more: Plan | None, reduce: Reducer) -> Plan:
    """What `reduce` makes of the probe's samples at `index` [b] and `more` ones beside them, as if
    they had been drawn together; its cost is that of the further ones."""
    trace = probe.trace
    assert isinstance(trace, Rollout)
    first, width = trace.returns[index], trace.returns.shape[1]
    rows = (index.unsqueeze(1) * width + torch.arange(width)).flatten()
    parts = [(first, take(trace.final, rows), take(trace.actions[0], rows))]
    if more is not None:
        assert isinstance(more.trace, Rollout)
        parts.append((more.trace.returns, more.trace.final, more.trace.actions[0]))
    returns = torch.cat([part[0] for part in parts], 1)
    final = _side_by_side([part[1] for part in parts], len(index))
    actions = _side_by_side([part[2] for part in parts], len(index))
    returns = torch.where(torch.isfinite(returns), returns, -torch.inf)
    chosen, value = reduce(returns, final)
    row = torch.arange(len(index)) * returns.shape[1] + chosen
    none = returns.new_zeros((*returns.shape, 1))
    ended = torch.ones_like(returns, dtype=torch.bool)
    joined = Rollout([actions], returns.unsqueeze(2), none, final, returns, ended)
    spent = _no_cost(len(index)) if more is None else more.cost
    return Plan(
        action=take(actions, row),
        value=value,
        final=take(final, row),
        trace=joined,
        cost=spent,
        valid=first_max(returns)[0] > -torch.inf,
    )


def _no_cost(roots: int) -> Cost:
    none = torch.zeros(roots, dtype=torch.int64)
    return Cost(0, none, none, none, none, Tokens(none, none, none), 0.0)


def _side_by_side(parts: list[list[Any]], number: int) -> list[Any]:
    """Lists of equally many items for each of `number` questions, joined question by question."""
    widths = [len(part) // number for part in parts]
    return [
        item
        for row in range(number)
        for part, width in zip(parts, widths, strict=True)
        for item in part[row * width : (row + 1) * width]
    ]


# The trace: a tree for each question, of all that was looked at on the way.


class _Branch(NamedTuple):
    """What one plan looked at for one of its questions."""

    plan: Plan
    row: int


class _Node(NamedTuple):
    parent: int
    slot: int
    visits: int
    value: float
    raw_value: float
    prior: float
    reward: float
    discount: float
    state: Thought


def _joined(state: list[Thought], branches: list[list[_Branch]]) -> Tree:
    """A tree per question whose root has all that its branches begin with as children."""
    trees = []
    for thought, some in zip(state, branches, strict=True):
        nodes = [_Node(-1, -1, 1, 0.0, 0.0, 1.0, 0.0, 1.0, thought)]
        for plan, row in some:
            if isinstance(plan.trace, Tree):
                _add_tree(nodes, plan.trace, row)
            else:
                _add_samples(nodes, plan.trace, row)
        visits = 1 + sum(node.visits for node in nodes if node.parent == 0)
        trees.append([nodes[0]._replace(visits=visits), *nodes[1:]])
    width = max(map(len, trees))
    padded = [nodes + [nodes[0]] * (width - len(nodes)) for nodes in trees]
    depth = torch.zeros((len(trees), width), dtype=torch.int64)
    for b, nodes in enumerate(trees):
        for number, node in enumerate(nodes[1:], 1):
            depth[b, number] = depth[b, node.parent] + 1

    def table(name: str) -> Tensor:
        return torch.tensor([[getattr(node, name) for node in nodes] for nodes in padded])

    tables: dict[str, Any] = {name: table(name) for name in _Node._fields[:-1]}
    actions = [_between(nodes, node) for nodes in padded for node in nodes]
    return Tree(
        size=torch.tensor([len(nodes) for nodes in trees]),
        depth=depth,
        states=[node.state for nodes in padded for node in nodes],
        actions=actions,
        **tables,
    )


def _between(nodes: list[_Node], node: _Node) -> Continuation:
    """The action that led to a node: the steps that its parent has not."""
    before = nodes[node.parent].state if node.parent >= 0 else node.state
    steps = node.state.steps[len(before.steps) :]
    endings: dict[str, Any] = {"answered": "eos", "cut": "length", "failed": "failed"}
    finish = endings.get(node.state.finish, "stop")
    return Continuation(steps, finish, node.state.logprob - before.logprob)


def _add_samples(nodes: list[_Node], trace: Rollout, row: int) -> None:
    number = trace.returns.shape[1]
    slot = sum(node.parent == 0 for node in nodes)
    for i, worth in enumerate(trace.returns[row].tolist()):
        final = trace.final[row * number + i]
        goes_on = final.finish == "open"
        here, reward = (worth, 0.0) if goes_on else (0.0, worth)
        share = 1 / number
        nodes.append(_Node(0, slot + i, 1, here, here, share, reward, float(goes_on), final))


def _add_tree(nodes: list[_Node], tree: Tree, row: int) -> None:
    """The nodes of a tree but its root, and the solutions that its rollouts completed."""
    size, width = int(tree.size[row]), tree.parent.shape[1]
    start = len(nodes) - 1  # node i becomes start + i
    slot = sum(node.parent == 0 for node in nodes)
    names = ("parent", "slot", "visits", "value", "raw_value", "prior", "reward", "discount")
    columns = [getattr(tree, name)[row, :size].tolist() for name in names]
    for i, (parent, place, *numbers) in enumerate(zip(*columns, strict=True)):
        if i:
            at = (start + parent, place) if parent else (0, slot + place)
            nodes.append(_Node._make([*at, *numbers, tree.states[row * width + i]]))
    if tree.played is None:
        return
    earned, weight = paths(tree, row)
    for i in (tree.played.root == row).nonzero().squeeze(1).tolist():
        node = int(tree.played.node[i])
        worth = (float(tree.played.returns[i]) - earned[node]) / weight[node]
        above = start + node if node else 0
        nodes.append(_Node(above, -1, 0, 0.0, 0.0, 0.0, worth, 0.0, tree.played.final[i]))


def paths(tree: Tree, row: int) -> tuple[list[float], list[float]]:
    """What the path to each node of a tree has earned, and the weight of what is earned below."""
    size = int(tree.size[row])
    names = ("parent", "reward", "discount")
    columns = zip(*(getattr(tree, name)[row, :size].tolist() for name in names), strict=True)
    earned, weight = [0.0], [1.0]
    for parent, reward, discount in list(columns)[1:]:
        earned.append(earned[parent] + weight[parent] * reward)
        weight.append(weight[parent] * discount)
    return earned, weight


# The table: what `evals.scaling` has found out.


def compute_optimal(table: str | Path, size: int) -> ComputeOptimal:
    """The choice that a table, written by `evals.scaling`, makes at a size in whole solutions.

    Raises FileNotFoundError where there is no such file, and ValueError where it is no table or
    does not hold the size.
    """
    path = Path(table)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {path}: evals.scaling writes one")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        probe, sizes = found["probe"], found["sizes"]
        if str(size) not in sizes:
            raise ValueError(f"{path} holds the sizes {', '.join(sizes)}, not {size}")
        fitted, given = sizes[str(size)], found.get("fitted_on", {})
        known = given.keys() >= set(Fitted._fields)
        return ComputeOptimal(
            probe=probe["samples"],
            temperature=probe["temperature"],
            by=probe["by"],
            edges=tuple(fitted["edges"]),
            choices=tuple(
                Choice(make_strategy(c["strategy"], c["options"]), Budget(**c["budget"]))
                for c in fitted["choices"]
            ),
            fitted_on=Fitted(*(given[name] for name in Fitted._fields)) if known else None,
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no table of strategies: {error!r}") from error


def choice_record(
    name: str, options: Mapping[str, Any], budget: Mapping[str, int]
) -> dict[str, Any]:
    """One entry of a table, which `compute_optimal` reads.

    Raises ValueError on an unknown strategy or option.
    """
    make_strategy(name, options)
    return {"strategy": name, "options": dict(options), "budget": dict(budget)}
