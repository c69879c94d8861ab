"""Beam search: keep the `width` best partial plans, expand each, keep the best again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.forest import Forest
from mbrl_core.planners.common import check_counts, only_finite
from mbrl_core.reducers import Argmax, Reducer
from mbrl_core.types import Budget, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Breadth-first search that keeps `width` nodes a level and asks `expand` candidates of each.

    A node's score is its discounted reward so far plus the discounted value of its state, so a
    value is read as a potential (the return expected from here), never summed along the path. An
    ended node stays in the beam with the score it has. Equal scores keep their order: first by
    parent, then by candidate. Over text this is Tree of Thoughts, breadth first (Yao et al. 2023,
    algorithm 1). `depth` counts model steps; `reduce` chooses among the last beam.
    """

    width: int
    expand: int
    depth: int
    reduce: Reducer = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_counts(self, "width", "expand", "depth")

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

        Raises ValueError where the budget does not allow a single step.
        """
        world = World("BeamSearch", model, state, rng=rng, budget=budget, needs=("policy",))
        forest = Forest(world, state, 1 + self.depth * self.width * self.expand)
        everyone = torch.arange(world.roots, device=world.device).unsqueeze(1)
        beam = torch.zeros((world.roots, self.width), dtype=torch.int64, device=world.device)
        present = torch.zeros_like(beam, dtype=torch.bool)
        present[:, 0] = True
        grows = torch.ones(world.roots, dtype=torch.bool, device=world.device)
        for level in range(self.depth):
            grows &= self._may_grow(world).to(world.device)
            growing = present & ~forest.ended[everyone, beam] & grows.unsqueeze(1)
            if not bool(growing.any()):
                break
            pool, held = self._level(world, forest, beam, present, growing)
            score = torch.where(held, only_finite(forest.score()[everyone, pool]), -torch.inf)
            top, order = torch.sort(score, dim=1, descending=True, stable=True)
            usable = top[:, 0] > -torch.inf  # a root without one keeps its last beam and stops
            grows &= usable
            beam = torch.where(usable.unsqueeze(1), pool.gather(1, order)[:, : self.width], beam)
            kept = top[:, : self.width] > -torch.inf
            present = torch.where(usable.unsqueeze(1), kept, present)
            self._mark(forest, everyone, beam, present)
            if listen:
                listen(Event("depth", level, {"beam": beam, "present": present, "score": top}))
        return self._finish(world, forest, everyone, beam, present), None

    def _may_grow(self, world: World) -> Tensor:
        if not world.calls_left(2 + (world.model.value is not None)):
            return torch.zeros(world.roots, dtype=torch.bool)
        return world.within_budget(steps=1, proposals=1)

    def _level(
        self, world: World, forest: Forest, beam: Tensor, present: Tensor, growing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Expand the growing places; all nodes [B, W*K] now competing, and which of these exist."""
        wide = (world.roots, self.width, self.expand)
        pool = torch.zeros(wide, dtype=torch.int64, device=world.device)
        held = torch.zeros(wide, dtype=torch.bool, device=world.device)
        pool[:, :, 0], held[:, :, 0] = beam, present & ~growing
        root, place = _first(growing, world.left("proposals"), self.expand).nonzero(as_tuple=True)
        if len(root):
            node = beam[root, place]
            asked = rows.take(forest.states, forest.flat(root, node))
            proposal = world.propose(asked, self.expand, root)
            exists = torch.zeros(wide, dtype=torch.bool, device=world.device)
            exists[root, place, : proposal.log_prior.shape[1]] = proposal.log_prior > -torch.inf
            exists = _first(exists.flatten(1), world.left("steps")).view(wide)
            which, slot = exists[root, place].nonzero(as_tuple=True)
            if len(which):
                action = rows.take(proposal.actions, which * proposal.log_prior.shape[1] + slot)
                moved = world.step_some(rows.take(asked, which), action, root[which])
                prior = proposal.log_prior.softmax(1)[which, slot]
                nodes = forest.add(root[which], node[which], slot, prior, action, moved)
                pool[root[which], place[which], slot] = nodes
                held[root[which], place[which], slot] = True
        return pool.flatten(1), held.flatten(1)

    def _mark(self, forest: Forest, everyone: Tensor, beam: Tensor, present: Tensor) -> None:
        """Count a visit for every node still on the way to one that is kept, and 0 for those
        cut."""
        forest.visits.zero_()
        node, there = beam, present
        while bool(there.any()):
            forest.visits[everyone.expand_as(node)[there], node[there]] = 1
            there = there & (node > 0)
            node = torch.where(there, forest.parent[everyone, node], node)

    def _finish(
        self, world: World, forest: Forest, everyone: Tensor, beam: Tensor, present: Tensor
    ) -> Plan:
        if forest.actions is None or bool((forest.size == 1).all()):
            raise ValueError(
                "BeamSearch: the budget does not allow one step, or nothing was proposed"
            )
        returns = torch.where(present, only_finite(forest.score()[everyone, beam]), -torch.inf)
        row = forest.flat(everyone, beam)
        chosen, value = self.reduce(returns, rows.take(forest.states, row.flatten()))
        node = beam.gather(1, chosen.unsqueeze(1)).squeeze(1)
        return Plan(
            action=forest.first_action(node),
            value=value,
            final=rows.take(forest.states, forest.flat(everyone.squeeze(1), node)),
            trace=forest.tree(),
            cost=world.cost(),
            valid=(returns > -torch.inf).any(1) & (node > 0),
        )


def _first(mask: Tensor, limit: Tensor | None, each: int = 1) -> Tensor:
    """The leading true entries of each row of `mask` [B, n] that `limit` [B] units pay for."""
    if limit is None:
        return mask
    return mask & (mask.cumsum(1) * each <= limit.to(mask.device).unsqueeze(1))
