"""The trees of one search as tables of records, and the loops over them that need no selection.

Plain Python over numbers; `compiled.py` compiles it. A node is a row of `nodes` [B, M], its
candidates are `edges` [B, M, K]. Node 0 is the root, and nodes are numbered in the order they were
made, so a parent's number is below its children's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

NONE, UNDER_WAY, UNASKED, HIDDEN = -1, -2, -3, -4  # instead of a child or a candidate
REQUESTED, OPEN = 1, 2  # what may follow UNASKED in a node's `asked`


@lru_cache
def node_type(real: type[np.floating]) -> np.dtype:
    """A node, its numbers in the precision `real`."""
    return np.dtype(
        [
            ("parent", np.int32),  # node number; -1 at the root
            ("slot", np.int32),  # which of the parent's candidates led here; -1 at the root
            ("depth", np.int32),
            ("visits", np.int32),  # simulations through the node, its own evaluation included
            ("under_way", np.int32),  # of these, not backed up yet
            ("shown", np.int32),  # candidates that are not hidden, where a search widens
            ("asked", np.int8),  # UNASKED, REQUESTED or OPEN
            ("ended", np.bool_),
            ("chance", np.bool_),  # nature chooses here
            ("value", real),  # mean, or best, of what was found at and below the node
            ("raw_value", real),  # what was said when the node was made
            ("prior", real),  # of the edge into the node, as are the next two
            ("reward", real),
            ("discount", real),
            ("earned", real),  # discounted reward from the root to the node
            ("weight", real),  # product of the discounts from the root to the node
        ],
        align=True,
    )


@lru_cache
def edge_type(real: type[np.floating]) -> np.dtype:
    """A candidate of a node."""
    return np.dtype(
        [
            ("child", np.int32),  # node number; NONE, UNDER_WAY or HIDDEN
            ("visits", np.int32),  # of the child
            ("logit", real),  # log prior up to a constant; -inf = empty slot
            ("prior", real),  # softmax of the logits
            ("q", real),  # reward + discount * value of the child
        ],
        align=True,
    )


def start(nodes: Any, value: Any) -> None:
    """Make the root of each tree, worth `value` [B]; what is not finite counts as 0."""
    for b in range(len(nodes)):
        root = nodes[b, 0]
        root.parent, root.slot, root.asked = NONE, NONE, UNASKED
        root.visits = 1
        root.value = root.raw_value = value[b] if math.isfinite(value[b]) else 0.0
        root.prior = root.discount = root.weight = 1.0


def grow(
    best: bool,
    nodes: Any,
    edges: Any,
    leaf: Any,
    found: int,
    reward: Any,
    discount: Any,
    value: Any,
) -> None:
    """Make the new nodes of a round and back up all its leaves, see `back_up`.

    `leaf` [4, found] holds the root, the node, its candidate and the number of the new node;
    `reward`, `discount`, `value` are those of the new nodes in turn. A child whose reward or value
    is not finite is never chosen again: its slot is emptied and its simulation not counted, and
    `leaf[3]` is then -1. Where there is no new node it becomes the node that was reached.
    """
    made = 0
    for i in range(found):
        b, node, slot = leaf[0, i], leaf[1, i], leaf[2, i]
        if slot == UNDER_WAY:
            release(nodes[b], edges[b], node)
            leaf[3, i] = NONE
        elif slot == NONE:
            leaf[3, i] = node
            worth = 0.0 if nodes[b, node].ended else nodes[b, node].raw_value
            back_up(best, nodes[b], edges[b], node, worth)
        else:
            child, edge = leaf[3, i], edges[b, node, slot]
            add(nodes[b], child, node, slot, edge.prior, reward[made], discount[made], value[made])
            worth = reward[made] + discount[made] * value[made]
            made += 1
            if math.isfinite(worth):
                edge.child, edge.visits, edge.q = child, 1, worth
                nodes[b, child].visits = 1
                back_up(best, nodes[b], edges[b], node, worth)
            else:
                leaf[3, i] = NONE
                empty(edges[b, node], slot)
                nodes[b, node].shown -= 1
                release(nodes[b], edges[b], node)


def add(
    nodes: Any,
    child: int,
    parent: int,
    slot: int,
    prior: float,
    reward: float,
    discount: float,
    value: float,
) -> None:
    """Write node `child` of one tree; no visit is counted yet."""
    new, above = nodes[child], nodes[parent]
    new.parent, new.slot, new.depth = parent, slot, above.depth + 1
    new.visits, new.under_way, new.asked = 0, 0, UNASKED
    new.ended, new.chance = discount == 0, False
    new.value = new.raw_value = value
    new.prior, new.reward, new.discount = prior, reward, discount
    new.earned = above.earned + above.weight * reward
    new.weight = above.weight * discount


def back_up(best: bool, nodes: Any, edges: Any, here: int, found: float) -> None:
    """Tell node `here` and all above of the return `found`: V <- (V N + G) / (N + 1), or max(V, G)
    where a node is worth the `best`."""
    while True:
        node = nodes[here]
        number = node.visits - node.under_way
        if not best:
            node.value = (node.value * number + found) / (number + 1)
        elif number == 0 or found > node.value:
            node.value = found
        node.under_way -= 1
        if node.parent < 0:
            return
        edges[node.parent, node.slot].q = node.reward + node.discount * node.value
        found = node.reward + node.discount * found
        here = node.parent


def release(nodes: Any, edges: Any, here: int) -> None:
    """Take back the visit that was begun at node `here` and all above."""
    while True:
        node = nodes[here]
        node.visits -= 1
        node.under_way -= 1
        if node.parent < 0:
            return
        edges[node.parent, node.slot].visits -= 1
        here = node.parent


def empty(edges: Any, slot: int) -> None:
    """Empty a slot; the priors of the others sum to 1 again."""
    edges[slot].child, edges[slot].logit, edges[slot].prior = NONE, -math.inf, 0.0
    total = 0.0
    for k in range(len(edges)):
        total += edges[k].prior
    for k in range(len(edges)):
        edges[k].prior /= total if total > 0 else 1.0


def principal(nodes: Any, edges: Any, slot: Any, last: Any) -> None:
    """Write to `last` [B] where the principal variation ends: from the root along `slot` [B], then
    always along the most visited."""
    for b in range(len(nodes)):
        here, edge = 0, slot[b]
        while edge >= 0 and edges[b, here, edge].child >= 0:
            here, edge = edges[b, here, edge].child, NONE
            most = 0
            if nodes[b, here].asked == OPEN:
                for k in range(edges.shape[2]):
                    if edges[b, here, k].visits > most:
                        most, edge = edges[b, here, k].visits, k
        last[b] = here


def first_steps(nodes: Any, last: Any, first: Any) -> None:
    """Write to `first` [B] the child of the root on the way to node `last` [B].

    Where that is the root itself it is the first node made, as good as any.
    """
    for b in range(len(nodes)):
        here = max(last[b], 1)
        while nodes[b, here].depth > 1:
            here = nodes[b, here].parent
        first[b] = here


def cut(nodes: Any, edges: Any, top: int, below: Any, branches: Any, kept: Any) -> int:
    """Copy the tree under node `top` to `below`, `branches` as a tree of its own: its size.

    `nodes` [M] and `edges` [M, K] are one tree. `kept` [M] is given the old number of each new
    node; the order stays. Visits and values are what they were.
    """
    new = np.full(len(nodes), NONE, dtype=np.int64)
    count = 0
    for old in range(top, len(nodes)):
        if old != top and (nodes[old].parent < top or new[nodes[old].parent] < 0):
            continue
        new[old], kept[count] = count, old
        below[count] = nodes[old]
        branches[count] = edges[old]
        if old == top:
            below[0].parent = below[0].slot = NONE
            below[0].earned = below[0].reward = 0.0
            below[0].prior = below[0].discount = below[0].weight = 1.0
        else:
            node = below[count]
            node.parent = new[nodes[old].parent]
            above = below[node.parent]
            node.earned = above.earned + above.weight * node.reward
            node.weight = above.weight * node.discount
            if branches[node.parent, node.slot].child >= 0:
                branches[node.parent, node.slot].child = count
        below[count].depth -= nodes[top].depth
        count += 1
    return count
