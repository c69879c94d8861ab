"""What a plan looked at, as a graph: nodes of one root with every number of its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.paths import path_up
from mbrl_core.types import Plan, Rollout, Rows, Tree

if TYPE_CHECKING:
    import networkx

Describe: TypeAlias = Callable[[Any, Any], str]
"""One state and the action that led to it, as one row each, to text. The action is None at the root
of a tree; the state is None where the trace does not hold it (a rollout keeps only its last)."""

Columns: TypeAlias = dict[str, list[Any]]
"""The nodes of one root, one list per quantity. `parent` is the parent's place in the lists, below
the node's own; -1 at node 0, the root."""


def to_networkx(
    plan: Plan | Tree | Rollout, root: int = 0, *, describe: Describe | None = None
) -> networkx.DiGraph:
    """The search tree or the simulated futures of root number `root` as a directed tree.

    Node 0 is the root; edges lead from parent to child. A `Tree` keeps its node numbers. A
    `Rollout` becomes one chain of nodes per candidate, up to the step that ended it. Attributes are
    plain numbers and text, so that every networkx writer takes them:

    - both: `text`, `depth`, `reward` and `discount` of the step into the node, `chosen` (on the
      plan's path), and `score`, the discounted return of the path so far, with the value of the
      last state where one was asked for;
    - of a tree: `slot`, `visits`, `value`, `raw_value`, `prior`, and `q`, what the step into the
      node is worth: reward + discount * value (at the root its value);
    - of a rollout: `candidate`.

    Of a plan the chosen path is that to `Plan.final`; where the trace does not hold it (it was
    completed afterwards, say), and without a plan, it is that of most visits or highest return.

    Args:
        plan: a plan or its trace.
        root: row of the batch.
        describe: makes `text`; by default the action as text.

    Raises:
        ValueError: there is no such root.
        TypeError: `plan` is something else.
    """
    import networkx

    columns = columns_of(plan, root, describe)
    parents = columns.pop("parent")
    graph = networkx.DiGraph()
    for node, values in enumerate(zip(*columns.values(), strict=True)):
        graph.add_node(node, **dict(zip(columns, values, strict=True)))
    graph.add_edges_from((parent, node) for node, parent in enumerate(parents) if parent >= 0)
    return graph


def columns_of(
    plan: Plan | Tree | Rollout, root: int = 0, describe: Describe | None = None
) -> Columns:
    """The attributes of `to_networkx` as lists, and `parent`."""
    trace = trace_of(plan)
    roots = root_count(trace)
    if not 0 <= root < roots:
        raise ValueError(f"the trace has the roots 0 to {roots - 1}, and no root {root}")
    found = plan if isinstance(plan, Plan) else None
    say = describe or describe_row
    if isinstance(trace, Tree):
        return _tree_columns(trace, root, say, found)
    return _rollout_columns(trace, root, say, found)


def trace_of(plan: Plan | Tree | Rollout) -> Tree | Rollout:
    """The trace of a plan, or the trace itself. Raises TypeError where it is neither."""
    trace = plan.trace if isinstance(plan, Plan) else plan
    if not isinstance(trace, Tree | Rollout):
        raise TypeError(f"a Plan, Tree or Rollout can be shown, not a {type(trace).__name__}")
    return trace


def root_count(trace: Tree | Rollout) -> int:
    """For how many roots the trace was made."""
    return len(trace.size) if isinstance(trace, Tree) else len(trace.returns)


def describe_row(state: Any, action: Any) -> str:
    """The action, or the state where there is none, as text: up to eight numbers of a tensor."""
    return _shown(state if action is None else action)


# Trees


def _tree_columns(tree: Tree, root: int, describe: Describe, plan: Plan | None) -> Columns:
    size, width = int(tree.size[root]), tree.parent.shape[1]
    row = torch.arange(root * width, root * width + size)
    states, actions = rows.take(tree.states, row), rows.take(tree.actions, row)
    tables = ("parent", "depth", "slot", "visits", "value", "raw_value", "prior")
    columns: Columns = {
        name: getattr(tree, name)[root, :size].tolist() for name in (*tables, "reward", "discount")
    }
    edges = zip(columns["reward"], columns["discount"], columns["value"], strict=True)
    columns["q"] = [
        reward + (discount * value if discount else 0.0) for reward, discount, value in edges
    ]
    columns["score"] = _scores(columns, columns["raw_value"])
    columns["text"] = [
        describe(_one(states, node), _one(actions, node) if node else None) for node in range(size)
    ]
    known = None if plan is None else plan.node
    path = path_up(columns["parent"], _most_visited(columns) if known is None else int(known[root]))
    columns["chosen"] = [node in path for node in range(size)]
    return columns


def _scores(columns: Columns, values: Sequence[float]) -> list[float]:
    """Discounted return of the path to each node, `values` [n] at its end."""
    earned, weight = [0.0], [1.0]
    for node in range(1, len(values)):
        above = columns["parent"][node]
        earned.append(earned[above] + weight[above] * columns["reward"][node])
        weight.append(weight[above] * columns["discount"][node])
    # After an end nothing counts, be it infinite.
    return [e + w * v if w else e for e, w, v in zip(earned, weight, values, strict=True)]


def _most_visited(columns: Columns) -> int:
    """The last node of the most visited path."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(columns["parent"]):
        children.setdefault(parent, []).append(node)

    def rank(node: int) -> tuple[float, float]:
        score = columns["score"][node]
        return columns["visits"][node], score if score == score else -torch.inf

    node = 0
    while node in children:
        node = max(children[node], key=rank)
    return node


# Rollouts


def _rollout_columns(rollout: Rollout, root: int, describe: Describe, plan: Plan | None) -> Columns:
    number, horizon = rollout.rewards.shape[1:]
    if not rollout.actions:  # nothing was tried
        number = 0
    row = torch.arange(root * number, (root + 1) * number)
    actions = [rows.take(step, row) for step in rollout.actions]
    final = rows.take(rollout.final, row)
    rewards, discounts = rollout.rewards[root].tolist(), rollout.discounts[root].tolist()
    returns = rollout.returns[root, :number]
    chosen = _chosen_candidate(returns, actions[0], final, root, plan) if number else -1
    names = ("parent", "depth", "candidate", "reward", "discount", "score", "text", "chosen")
    columns: Columns = {name: [] for name in names}

    def add(*values: Any) -> None:
        for name, value in zip(names, values, strict=True):
            columns[name].append(value)

    add(-1, 0, -1, 0.0, 1.0, 0.0, "root", True)
    for n, total in enumerate(returns.tolist()):
        ends = (t for t in range(horizon) if discounts[n][t] == 0)
        last = next(ends, horizon - 1)
        earned, weight = 0.0, 1.0
        for t in range(last + 1):
            earned, weight = earned + weight * rewards[n][t], weight * discounts[n][t]
            text = describe(_one(final, n) if t == last else None, _one(actions[t], n))
            score = total if t == last else earned
            above = len(columns["parent"]) - 1 if t else 0
            add(above, t + 1, n, rewards[n][t], discounts[n][t], score, text, n == chosen)
    return columns


def _chosen_candidate(
    returns: Tensor, first: Rows, final: Rows, root: int, plan: Plan | None
) -> int:
    """The candidate that the plan follows, or the one of highest return."""
    returns = torch.where(returns.isnan(), -torch.inf, returns).cpu()
    if plan is not None:
        same = _equal(final, plan.final, root) & _equal(first, plan.action, root)
        if bool(same.any()):
            return int(torch.where(same, returns, -torch.inf).argmax())
    return int(returns.argmax())


# Rows


def _one(many: Rows, index: int) -> Any:
    """The row at `index` by itself: a tensor without its batch axis, an object of a list."""
    if isinstance(many, Tensor | list):
        return many[index]
    if isinstance(many, dict):
        return {name: _one(part, index) for name, part in many.items()}
    parts = [_one(part, index) for part in many]
    return type(many)(*parts) if hasattr(many, "_fields") else tuple(parts)


def _equal(many: Rows, wanted: Rows, root: int) -> Tensor:
    """Which rows [n] bool are row `root` of `wanted`: tensors by value, objects by identity."""
    same = torch.ones(rows.count(many), dtype=torch.bool)
    one = rows.take(wanted, torch.tensor([root]))
    for leaf, other in zip(rows.leaves(many), rows.leaves(one), strict=True):
        if isinstance(leaf, Tensor):
            same &= (leaf == other).reshape(len(leaf), -1).all(1).cpu()
        else:
            same &= torch.tensor([item is other[0] for item in leaf])
    return same


def _shown(row: Any) -> str:
    if isinstance(row, Tensor):
        numbers = row.flatten()[:8].tolist()
        text = ", ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in numbers)
        return text + (", …" if row.numel() > 8 else "")
    if isinstance(row, dict):
        return "; ".join(f"{name}: {_shown(part)}" for name, part in row.items())
    if isinstance(row, tuple):
        return "; ".join(_shown(part) for part in row)
    return str(row)
