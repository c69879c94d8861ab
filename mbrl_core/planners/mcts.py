"""Monte Carlo tree search over each node's own candidates: select, expand, back up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.forest import Forest
from mbrl_core.planners.common import check_counts, only_finite
from mbrl_core.planners.selection import PUCT, NodeStats, Selection
from mbrl_core.reducers import Reducer, first_max
from mbrl_core.types import Budget, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class MCTS:
    """Tree search that grows one node per root and simulation.

    Every node keeps its own (at most) `candidates` actions, asked of the policy when the node is
    first descended through: all actions of a discrete game (MuZero), draws from a continuous policy
    (Sampled MuZero, Hubert et al. 2021) or sampled reasoning steps are the same search. `selection`
    makes it UCT, PUCT or Gumbel. Without a value in the model unfinished nodes count as worth 0.

    With `reduce` the plan is chosen among the ended nodes that the search met, by their return: the
    best complete solution (`Argmax`) or the answer most of them give (`Vote`). Without, or where
    none ended, the plan is the root's choice by `selection`, continued along the most visited
    children.
    """

    simulations: int
    candidates: int
    selection: Selection = field(default_factory=PUCT)
    max_depth: int | None = None
    reduce: Reducer | None = None

    def __post_init__(self) -> None:
        check_counts(self, "simulations", "candidates")
        if self.max_depth is not None:
            check_counts(self, "max_depth")

    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: Carry = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, Carry]:
        """See `Planner`. There is no warm start: the carry is None.

        Raises ValueError where the budget does not allow a single simulation. A root whose policy
        proposes nothing stays where it is, with `Plan.valid` False.
        """
        world = World("MCTS", model, state, rng=rng, budget=budget, needs=("policy",))
        grove = _Grove(world, state, self.simulations, self.candidates)
        everyone = torch.arange(world.roots, device=world.device)
        if bool(self._searching(world).all()):
            grove.ask(everyone, torch.zeros_like(everyone))
        noise = self.selection.noise(grove.logits[:, 0], rng)
        for simulation in range(self.simulations):
            # What asking for the roots' candidates took does not stop the first from being tried.
            first = grove.asked[:, 0] & (grove.size == 1) & (simulation == 0)
            who = (first | self._searching(world).to(world.device)).nonzero().squeeze(1)
            if len(who) == 0:
                break
            node, slot = self._select(grove, who, noise, simulation)
            leaf = grove.expand(who, node, slot)
            grove.back_up(who, leaf)
            if listen:
                listen(Event("simulation", simulation, {"roots": who, "leaf": leaf}))
        return self._finish(world, grove, everyone, noise), None

    def _searching(self, world: World) -> Tensor:
        """Which roots [B] the budget allows another simulation."""
        if not world.calls_left(2 + (world.model.value is not None)):
            return torch.zeros(world.roots, dtype=torch.bool)
        return world.within_budget(steps=1, proposals=self.candidates)

    def _select(
        self, grove: _Grove, who: Tensor, noise: Tensor, simulation: int
    ) -> tuple[Tensor, Tensor]:
        """Walk down each tree to an edge without a child: node [n] and slot [n].

        Slot -1 says that the walk ended at a node that cannot be descended: an ended one, one at
        `max_depth`, or one without candidates.
        """
        node = torch.zeros_like(who)
        slot = torch.full_like(who, -1)
        walking = torch.arange(len(who), device=who.device)
        deepest = grove.capacity if self.max_depth is None else self.max_depth
        while len(walking):
            roots, here = who[walking], node[walking]
            stay = grove.ended[roots, here] | (grove.depth[roots, here] >= deepest)
            walking = walking[~stay & grove.asked[roots, here]]
            roots, here = who[walking], node[walking]
            choice = self._choose(grove, roots, here, noise, simulation)
            slot[walking] = choice
            child = grove.children[roots, here, choice.clamp(min=0)]
            down = (choice >= 0) & (child >= 0)
            walking = walking[down]
            node[walking], slot[walking] = child[down], -1
        new = (~grove.asked[who, node] & ~grove.ended[who, node]).nonzero().squeeze(1)
        new = new[grove.depth[who[new], node[new]] < deepest]
        if len(new):
            grove.ask(who[new], node[new])
            slot[new] = self._choose(grove, who[new], node[new], noise, simulation)
        return node, slot

    def _choose(
        self, grove: _Grove, roots: Tensor, nodes: Tensor, noise: Tensor, simulation: int
    ) -> Tensor:
        """The candidate [n] to follow from each node; -1 where there is none."""
        stats = grove.stats(roots, nodes)
        score = self.selection.inner(stats)
        at_root = nodes == 0
        if bool(at_root.any()):
            top = self.selection.root(stats, noise[roots], simulation, self.simulations)
            score = torch.where(at_root.unsqueeze(1), top, score)
        best, choice = first_max(score)
        return torch.where(best > -torch.inf, choice, -1)

    def _finish(self, world: World, grove: _Grove, everyone: Tensor, noise: Tensor) -> Plan:
        if grove.actions is None or bool((grove.size == 1).all()):
            raise ValueError(
                "MCTS: the budget does not allow one simulation, or nothing was proposed"
            )
        node, value = self._principal(grove, everyone, noise)
        if self.reduce is not None:
            used = torch.arange(grove.capacity, device=world.device) < grove.size.unsqueeze(1)
            score = torch.where(used & grove.ended, only_finite(grove.score()), -torch.inf)
            chosen, worth = self.reduce(score, grove.states)
            some = (score > -torch.inf).any(1)
            node, value = torch.where(some, chosen, node), torch.where(some, worth, value)
        return Plan(
            action=grove.first_action(node),
            value=value,
            final=rows.take(grove.states, grove.flat(everyone, node)),
            trace=grove.tree(),
            cost=world.cost(),
            valid=(grove.children[:, 0] >= 0).any(1),
        )

    def _principal(self, grove: _Grove, everyone: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The last node [B] of the principal variation and the root's value [B]."""
        stats = grove.stats(everyone, torch.zeros_like(everyone))
        chosen = first_max(
            torch.where(stats.visits > 0, self.selection.decide(stats, noise), -torch.inf)
        )[1]
        node = grove.children[everyone, 0, chosen].clamp(min=0)
        walking = everyone
        while len(walking):
            stats = grove.stats(walking, node[walking])
            most, choice = first_max(stats.visits)
            walking, choice = walking[most > 0], choice[most > 0]
            node[walking] = grove.children[walking, node[walking], choice]
        return node, grove.value[:, 0]


class _Grove(Forest):
    """A forest whose nodes hold candidates."""

    def __init__(self, world: World, state: Rows, simulations: int, candidates: int) -> None:
        super().__init__(world, state, simulations + 1)
        shape = (world.roots, self.capacity, candidates)
        self.candidates = candidates
        self.children = torch.full(shape, -1, dtype=torch.int64, device=world.device)
        self.logits = torch.full(shape, -torch.inf, dtype=world.dtype, device=world.device)
        self.asked = torch.zeros(shape[:2], dtype=torch.bool, device=world.device)
        self.options: Rows = None  # B*M*K rows: the candidates of every node

    def ask(self, roots: Tensor, nodes: Tensor) -> None:
        """Get the candidates of the given nodes [n] from the policy."""
        row = self.flat(roots, nodes)
        proposal = self.world.propose(rows.take(self.states, row), self.candidates, roots)
        number = proposal.log_prior.shape[1]
        slots = torch.arange(number, device=roots.device)
        self.logits[roots, nodes, :number] = proposal.log_prior.to(self.logits)
        place = (row.unsqueeze(1) * self.candidates + slots).flatten()
        size = len(self.size) * self.capacity * self.candidates
        self.options = rows.put(self.options, place, proposal.actions, size=size)
        self.asked[roots, nodes] = True

    def stats(self, roots: Tensor, nodes: Tensor) -> NodeStats:
        """Statistics of the given nodes [n]."""
        child = self.children[roots, nodes]
        made, below = child >= 0, (roots.unsqueeze(1), child.clamp(min=0))
        q = self.reward[below] + self.discount[below] * self.value[below]
        return NodeStats(
            logits=self.logits[roots, nodes],
            visits=torch.where(made, self.visits[below], 0),
            q=torch.where(made, q, 0.0),
            value=self.value[roots, nodes],
            raw_value=self.raw_value[roots, nodes],
            node_visits=self.visits[roots, nodes],
        )

    def expand(self, who: Tensor, node: Tensor, slot: Tensor) -> Tensor:
        """Make the child at each edge; the leaves [n], or the node itself where slot is -1.

        A child whose reward or value is not finite is never chosen again: its slot is emptied, and
        -1 is returned for it.
        """
        leaf = node.clone()
        index = (slot >= 0).nonzero().squeeze(1)
        if len(index) == 0:
            return leaf
        roots, parent, edge = who[index], node[index], slot[index]
        row = self.flat(roots, parent)
        action = rows.take(self.options, row * self.candidates + edge)
        moved = self.world.step_some(rows.take(self.states, row), action, roots)
        prior = self.logits[roots, parent].softmax(1).gather(1, edge.unsqueeze(1)).squeeze(1)
        child = self.add(roots, parent, edge, prior, action, moved)
        worth = (
            self.reward[roots, child] + self.discount[roots, child] * self.raw_value[roots, child]
        )
        broken = ~torch.isfinite(worth)
        self.logits[roots[broken], parent[broken], edge[broken]] = -torch.inf
        self.children[roots[~broken], parent[~broken], edge[~broken]] = child[~broken]
        leaf[index] = torch.where(broken, -1, child)
        return leaf

    def back_up(self, who: Tensor, leaf: Tensor) -> None:
        """Average the leaf's return into every node on the way to it: V <- (V N + G) / (N + 1)."""
        real = leaf >= 0
        roots, node = who[real], leaf[real]
        found = torch.where(self.ended[roots, node], 0.0, self.raw_value[roots, node])
        while len(roots):
            number = self.visits[roots, node]
            self.value[roots, node] = (self.value[roots, node] * number + found) / (number + 1)
            self.visits[roots, node] = number + 1
            found = self.reward[roots, node] + self.discount[roots, node] * found
            above = self.parent[roots, node]
            up = above >= 0
            roots, node, found = roots[up], above[up], found[up]
