"""Search trees of B roots while they grow: one table per quantity, one row per root."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.playout import Rollouts
from mbrl_core.types import Rows, Transition, Tree
from mbrl_core.world import World


class Forest:
    """The tables of `Tree` with room for `capacity` nodes per root, and what searching them needs.

    Node numbers count per root in the order of expansion, so a parent's number is below its
    children's.
    """

    def __init__(
        self, world: World, state: Rows, capacity: int, rollouts: Rollouts | None = None
    ) -> None:
        self.world = world
        self.rollouts = rollouts  # what nodes below the root are worth; None: the model's value
        self.capacity = capacity
        device, roots = world.device, world.roots

        def table(fill: float | int, dtype: torch.dtype) -> Tensor:
            return torch.full((roots, capacity), fill, dtype=dtype, device=device)

        self.size = torch.ones(roots, dtype=torch.int64, device=device)
        self.parent, self.slot = table(-1, torch.int64), table(-1, torch.int64)
        self.depth, self.visits = table(0, torch.int64), table(0, torch.int64)
        self.value, self.raw_value = table(0, world.dtype), table(0, world.dtype)
        self.prior, self.reward = table(0, world.dtype), table(0, world.dtype)
        self.discount = table(1, world.dtype)
        self.ended = table(False, torch.bool)
        self.earned = table(0, world.dtype)  # discounted reward from the root to the node
        self.weight = table(1, world.dtype)  # product of the discounts from the root to the node
        everyone = torch.arange(roots, device=device)
        self.states = rows.put(None, everyone * capacity, state, size=roots * capacity)
        self.actions: Rows = None  # B*M rows; zeros and None where no action led
        self.visits[:, 0] = 1
        self.prior[:, 0] = 1
        value = world.value(state)
        self.raw_value[:, 0] = torch.where(torch.isfinite(value), value, 0.0).to(self.raw_value)
        self.value[:, 0] = self.raw_value[:, 0]

    def flat(self, roots: Tensor, nodes: Tensor) -> Tensor:
        """The rows of `states` and `actions` that belong to the given nodes [n] of `roots` [n]."""
        return roots * self.capacity + nodes

    def know(self, actions: Rows) -> None:
        """Make room for actions like those that were proposed, though none may be taken."""
        if self.actions is None:
            none = torch.empty(0, dtype=torch.int64, device=self.size.device)
            total = len(self.size) * self.capacity
            self.actions = rows.put(None, none, rows.take(actions, none), size=total)

    def add(
        self,
        roots: Tensor,
        parent: Tensor,
        slot: Tensor,
        prior: Tensor,
        action: Rows,
        moved: Transition,
    ) -> Tensor:
        """Append a node for each of n transitions, `roots` [n] in ascending order; their numbers
        [n].

        Nodes that have not ended are given the value of their rollouts, or the model's; no visit is
        counted yet.
        """
        number = torch.bincount(roots, minlength=len(self.size))
        first = number.cumsum(0) - number
        nodes = self.size[roots] + torch.arange(len(roots), device=roots.device) - first[roots]
        self.size += number
        at, above = (roots, nodes), (roots, parent)
        self.parent[at], self.slot[at], self.prior[at] = parent, slot, prior.to(self.prior)
        self.reward[at] = moved.reward.to(self.reward)
        self.discount[at] = moved.discount.to(self.discount)
        self.ended[at] = moved.discount == 0
        self.depth[at] = self.depth[above] + 1
        self.earned[at] = self.earned[above] + self.weight[above] * self.reward[at]
        self.weight[at] = self.weight[above] * self.discount[at]
        total = len(self.size) * self.capacity
        row = self.flat(roots, nodes)
        self.states = rows.put(self.states, row, moved.state, size=total)
        self.actions = rows.put(self.actions, row, action, size=total)
        going = (moved.discount != 0).nonzero().squeeze(1)
        if len(going):
            value = self._value(rows.take(moved.state, going), roots[going])
            self.raw_value[roots[going], nodes[going]] = value.to(self.raw_value)
        self.value[at] = self.raw_value[at]
        return nodes

    def _value(self, state: Rows, roots: Tensor) -> Tensor:
        if self.rollouts is None:
            return self.world.value(state, roots)
        return self.rollouts.value(self.world, state, roots)

    def score(self, at: Any = slice(None)) -> Tensor:
        """Returns of the paths from the root through each node [B, M], or through those `at` an
        index of the tables, with the node's own value at the end."""
        return self.earned[at] + self.weight[at] * self.raw_value[at]

    def count_visits(self, nodes: Tensor, present: Tensor) -> None:
        """Make each node's visits the number of the given nodes [B, n] that lie at or below it.

        Only those where `present` [B, n] is true count.
        """
        self.visits.zero_()
        everyone = torch.arange(len(nodes), device=nodes.device).unsqueeze(1).expand_as(nodes)
        while bool(present.any()):
            one = self.visits.new_ones(())
            self.visits.index_put_((everyone[present], nodes[present]), one, accumulate=True)
            present = present & (nodes > 0)
            nodes = torch.where(present, self.parent[everyone, nodes], nodes)

    def first_action(self, nodes: Tensor) -> Rows:
        """The action [B rows] at the root on the way to node `nodes` [B] of each root.

        Where that is the root itself it is the first action tried, as good as any.
        """
        everyone = torch.arange(len(nodes), device=nodes.device)
        nodes = nodes.clamp(min=1)
        while bool((deep := self.depth[everyone, nodes] > 1).any()):
            nodes = torch.where(deep, self.parent[everyone, nodes], nodes)
        return rows.take(self.actions, self.flat(everyone, nodes))

    def tree(self) -> Tree:
        """The trees as a record."""
        used = int(self.size.max())
        kept = torch.arange(self.capacity, device=self.size.device) < used
        row = kept.repeat(len(self.size)).nonzero().squeeze(1)
        tables = {name: getattr(self, name)[:, :used] for name in _TABLES}
        return Tree(
            size=self.size,
            states=rows.take(self.states, row),
            actions=self.actions if self.actions is None else rows.take(self.actions, row),
            **tables,
        )


class Options:
    """The candidate actions of a forest's nodes: what the policy proposed, and how likely each."""

    def __init__(self, forest: Forest, number: int) -> None:
        self.forest = forest
        self.number = number
        shape = (*forest.parent.shape, number)
        device, dtype = forest.parent.device, forest.prior.dtype
        self.logits = torch.full(shape, -torch.inf, dtype=dtype, device=device)  # [B, M, K]
        self.asked = torch.zeros(shape[:2], dtype=torch.bool, device=device)  # [B, M]
        self.actions: Rows = None  # B*M*K rows

    def ask(self, roots: Tensor, nodes: Tensor) -> None:
        """Have the policy propose candidates for the given nodes [n]."""
        row = self.forest.flat(roots, nodes)
        state = rows.take(self.forest.states, row)
        proposal = self.forest.world.propose(state, self.number, roots)
        self.forest.know(proposal.actions)
        found = proposal.log_prior.shape[1]
        slots = torch.arange(found, device=roots.device)
        self.logits[roots, nodes, :found] = proposal.log_prior.to(self.logits)
        place = (row.unsqueeze(1) * self.number + slots).flatten()
        self.actions = rows.put(self.actions, place, proposal.actions, size=self.logits.numel())
        self.asked[roots, nodes] = True

    def take(self, roots: Tensor, nodes: Tensor, slots: Tensor) -> tuple[Rows, Tensor]:
        """The actions (n rows) at the given slots [n] of nodes [n], and their priors [n]."""
        row = self.forest.flat(roots, nodes) * self.number + slots
        prior = self.logits[roots, nodes].softmax(1).gather(1, slots.unsqueeze(1)).squeeze(1)
        return rows.take(self.actions, row), prior


_TABLES = set(Tree._fields) - {"size", "states", "actions", "root", "played"}
