"""The actions that a plan consists of, whatever kind of search found it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.types import Plan, Rows, Tree


def actions_of(plan: Plan, root: int = 0) -> Rows:
    """The actions of the plan for one root, in order: n rows.

    Those of a tree search lead to `Plan.node`; a rollout that goes on from there is not recorded.
    None, [0 rows], where nothing was found. Raises ValueError where there is no such root.
    """
    roots = len(plan.valid)
    if not 0 <= root < roots:
        raise ValueError(f"the plan has the roots 0 to {roots - 1}, and no root {root}")
    if not isinstance(plan.trace, Tree):
        one = torch.tensor([root])
        return rows.concat([rows.take(action, one) for action in (plan.action, *plan.then)])
    tree = plan.trace
    *path, _ = path_up(tree.parent[root].tolist(), int(_node(plan)[root]))
    nodes = torch.tensor(path[::-1], dtype=torch.int64)
    return rows.take(tree.actions, root * tree.parent.shape[1] + nodes)


def path_up(parents: Sequence[int], node: int) -> list[int]:
    """Node numbers from `node` up to the root."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path


def first_actions(plan: Plan, number: int) -> tuple[list[Rows], Tensor]:
    """At most `number` actions of the plan, B rows each, and how many [B] each root has.

    A root with fewer than others repeats its last.
    """
    if not isinstance(plan.trace, Tree):
        chunk = [plan.action, *plan.then][:number]
        return chunk, torch.full((len(plan.valid),), len(chunk))
    tree, chunk = plan.trace, [plan.action]
    everyone = torch.arange(len(tree.size), device=tree.size.device)
    last = _node(plan)
    planned = tree.depth[everyone, last].clamp(min=1, max=number)
    for depth in range(2, int(planned.max()) + 1):
        node = last
        while bool((deep := tree.depth[everyone, node] > depth).any()):
            node = torch.where(deep, tree.parent[everyone, node], node)
        taken = rows.take(tree.actions, everyone * tree.parent.shape[1] + node)
        chunk.append(rows.where(planned >= depth, taken, chunk[-1]))
    return chunk, planned.cpu()


def _node(plan: Plan) -> Tensor:
    assert plan.node is not None, "a plan with a tree says where it ends"
    return plan.node
