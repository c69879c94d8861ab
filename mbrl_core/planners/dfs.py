"""Depth-first search: follow one partial plan down, give up what looks hopeless, come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.forest import Forest, Options
from mbrl_core.planners.common import check_counts, only_finite, warn_of_lost
from mbrl_core.reducers import Argmax, Reducer
from mbrl_core.types import Budget, BudgetError, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class DepthFirstSearch:
    """Depth-first search with pruning and backtracking.

    A node asks the policy for `expand` candidates when it is first reached and tries them one at a
    time, the likeliest first (equally likely ones in the order proposed). Each child is followed
    down before the next is tried, unless it has ended, lies at `depth` model steps, or scores below
    `prune_below`; a node whose candidates are all tried is left for its parent. A node's score is
    as in `BeamSearch`. Over text this is Tree of Thoughts, depth first (Yao et al. 2023,
    algorithm 2).

    A root's search is over when its tree is exhausted or has `max_nodes` nodes besides the root, or
    as soon as it has completed a plan that scores at least `enough`. `reduce` chooses among the
    plans completed (ended, or as long as `depth`); where there is none, among the nodes that were
    not pruned; where all were, among those. All roots take each step together, in one call of the
    model.
    """

    expand: int
    depth: int
    max_nodes: int
    prune_below: float | None = None
    enough: float | None = None
    reduce: Reducer = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_counts(self, "expand", "depth", "max_nodes")

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

        Raises BudgetError where the budget does not allow a single step.
        """
        needs = ("policy",) if self.prune_below is None else ("policy", "value")
        world = World("DepthFirstSearch", model, state, rng=rng, budget=budget, needs=needs)
        walk = _Walk(world, state, self.max_nodes, self.expand)
        for number in count():
            walk.climb()
            who = self._searching(world, walk).nonzero().squeeze(1)
            if len(who) == 0:
                break
            who, nodes = walk.advance(who)
            self._judge(walk, who, nodes)
            if listen and len(who):
                listen(Event("simulation", number, {"roots": who, "leaf": nodes}))
        plan = self._finish(world, walk)
        warn_of_lost(world.planner, plan)
        return plan, None

    def _searching(self, world: World, walk: _Walk) -> Tensor:
        """Which roots [B] have something to try and the means to try it."""
        if not world.calls_left(2 + (world.model.value is not None)):
            return torch.zeros_like(walk.here, dtype=torch.bool)
        everyone = torch.arange(world.roots, device=world.device)
        asked = walk.options.asked[everyone, walk.here.clamp(min=0)]
        trying = world.within_budget(steps=1).to(world.device)
        asking = world.within_budget(steps=1, proposals=self.expand).to(world.device)
        return torch.where(asked, trying, asking) & (walk.here >= 0) & (walk.size < walk.capacity)

    def _judge(self, walk: _Walk, who: Tensor, nodes: Tensor) -> None:
        """Mark the new nodes [n] that are worth keeping, and go down to those that lead on."""
        at = (who, nodes)
        score = only_finite(walk.score(at))
        keep = score > -torch.inf
        if self.prune_below is not None:
            keep &= walk.ended[at] | (score >= self.prune_below)
        walk.visits[at] = keep.long()
        complete = walk.ended[at] | (walk.depth[at] >= self.depth)
        walk.here[who] = torch.where(keep & ~complete, nodes, walk.here[who])
        if self.enough is not None:
            walk.here[who[keep & complete & (score >= self.enough)]] = -1

    def _finish(self, world: World, walk: _Walk) -> Plan:
        if walk.actions is None:
            raise BudgetError("DepthFirstSearch: the budget does not allow one step")
        number = torch.arange(walk.capacity, device=world.device)
        tried = (number > 0) & (number < walk.size.unsqueeze(1))
        returns = torch.where(tried, only_finite(walk.score()), -torch.inf)
        kept = walk.visits > 0
        for better in (kept, kept & (walk.ended | (walk.depth >= self.depth))):
            narrowed = torch.where(better, returns, -torch.inf)
            some = (narrowed > -torch.inf).any(1, keepdim=True)
            returns = torch.where(some, narrowed, returns)
        node, value = self.reduce(returns, walk.states)
        walk.count_visits(number.expand_as(kept), kept)
        everyone = torch.arange(world.roots, device=world.device)
        return Plan(
            action=walk.first_action(node),
            value=value,
            final=rows.take(walk.states, walk.flat(everyone, node)),
            trace=walk.tree(),
            cost=world.cost(),
            valid=(returns > -torch.inf).any(1),
            node=node,
        )


class _Walk(Forest):
    """A forest in which every root's search stands at one node, whose ancestors are its stack."""

    def __init__(self, world: World, state: Rows, nodes: int, expand: int) -> None:
        super().__init__(world, state, nodes + 1)
        self.options = Options(self, expand)
        self.tried = torch.zeros_like(self.parent)  # [B, M] candidates tried so far
        self.here = torch.zeros_like(self.size)  # [B]; -1 = the search is over

    def climb(self) -> None:
        """Leave every node whose candidates have all been tried for its parent."""
        everyone = torch.arange(len(self.here), device=self.here.device)
        while True:
            at = (everyone, self.here.clamp(min=0))
            number = (self.options.logits[at] > -torch.inf).sum(1)
            spent = self.options.asked[at] & (self.tried[at] >= number) & (self.here >= 0)
            if not bool(spent.any()):
                return
            self.here = torch.where(spent, self.parent[at], self.here)

    def advance(self, who: Tensor) -> tuple[Tensor, Tensor]:
        """Try the next candidate where each root of `who` stands, asking for candidates first where
        that is new; the roots [n] that had one, and their new nodes [n]."""
        new = who[~self.options.asked[who, self.here[who]]]
        if len(new):
            self.options.ask(new, self.here[new])
        best, slots = torch.sort(
            self.options.logits[who, self.here[who]], dim=1, descending=True, stable=True
        )
        turn = self.tried[who, self.here[who]].unsqueeze(1)
        has = best.gather(1, turn).squeeze(1) > -torch.inf
        who, slot = who[has], slots.gather(1, turn).squeeze(1)[has]
        if len(who) == 0:
            return who, slot
        node = self.here[who]
        self.tried[who, node] += 1
        action, prior = self.options.take(who, node, slot)
        moved = self.world.step_some(rows.take(self.states, self.flat(who, node)), action, who)
        return who, self.add(who, node, slot, prior, action, moved)
