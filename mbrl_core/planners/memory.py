"""What a tree search keeps for the next move: the tree below the action it decided for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.types import Rows


class Subtree(NamedTuple):
    """One tree of M nodes with K candidates each; records as bytes, so that it is made of rows."""

    nodes: Tensor  # [M, bytes]
    edges: Tensor  # [M, bytes of K records]
    states: Rows  # M rows
    options: Rows  # M*K rows


class Memory(NamedTuple):
    """Carry of a search that goes on in its own tree."""

    trees: list[Subtree | None]  # one per root

    def reset(self, mask: Tensor) -> Memory:
        """Forget the roots where `mask` [B] is true."""
        return Memory([None if m else t for t, m in zip(self.trees, mask.tolist(), strict=True)])


def go_on(
    tree: Subtree,
    now: Rows,
    cut: Callable[..., int],
    node_type: np.dtype,
    edge_type: np.dtype,
    candidates: int,
) -> Subtree | None:
    """The part of a tree that lies below the state `now` (one row).

    That is the state of its root, or of a child of it where an opponent or nature has moved since;
    None where it is neither, or where the tree was grown with another number of candidates.
    """
    nodes = tree.nodes.numpy().view(node_type)[:, 0]
    edges = tree.edges.numpy().view(edge_type)
    if edges.shape[1] != candidates:
        return None
    for top in (0, *(nodes["parent"] == 0).nonzero()[0].tolist()):
        here = rows.take(tree.states, torch.tensor([top]))
        if searchable(nodes[top]) and _same(here, now):
            return branch(cut, top, nodes, edges, *tree[2:], 0)
    return None


def branch(
    cut: Callable[..., int],
    top: int,
    nodes: np.ndarray,
    edges: np.ndarray,
    states: Rows,
    options: Rows,
    start: int,
) -> Subtree:
    """The tree below node `top` of the tree whose rows begin at row `start` of the given ones.

    `cut` is `tree.cut`, compiled.
    """
    below, branches = np.zeros_like(nodes), np.zeros_like(edges[: len(nodes)])
    kept = np.zeros(len(nodes), np.int64)
    size, candidates = cut(nodes, edges, top, below, branches, kept), edges.shape[1]
    row = start + torch.from_numpy(kept[:size])
    option = (row.unsqueeze(1) * candidates + torch.arange(candidates)).flatten()
    return Subtree(
        nodes=torch.from_numpy(below[:size].view(np.uint8).reshape(size, -1)),
        edges=torch.from_numpy(branches[:size].view(np.uint8).reshape(size, -1)),
        states=rows.take(states, row),
        options=rows.take(options, option),
    )


def searchable(node: np.void) -> bool:
    """Whether a search may begin at this node."""
    return bool(node["visits"] > 0 and not node["ended"])


def _same(one: Rows, other: Rows) -> bool:
    """Whether two single rows are equal."""
    pairs = zip(rows.leaves(one), rows.leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
