"""Beam search: keep the `width` best partial plans, expand each, keep the best again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.forest import Forest
from mbrl_core.planners.common import check_counts, only_finite, warn_of_lost
from mbrl_core.planners.playout import Rollouts
from mbrl_core.reducers import Argmax, Reducer
from mbrl_core.types import Budget, BudgetError, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Breadth-first search that keeps `width` nodes a level and asks `expand` candidates of each.

    A node's score is its discounted reward so far plus the discounted value of its state, so a
    value is read as a potential (the return expected from here), never summed along the path. An
    ended node stays in the beam with the score it has. Equal scores keep their order: first by
    parent, then by candidate. Over text this is Tree of Thoughts, breadth first (Yao et al. 2023,
    algorithm 1). `depth` counts model steps; `reduce` chooses among the last beam. The root may be
    asked for more than other nodes, `root_expand`: with `width * expand` there are as many
    candidates at the first level as at any other (Snell et al. 2024, section 5.2).

    With `groups` the beam is that many separate beams of `width / groups` places: of the root each
    is dealt `expand` candidates (or `root_expand`), in turn, and from then on a node competes
    within its group alone; a group that is dealt none, where the policy proposes fewer, stays
    empty. With one place a group this is diverse verifier tree search (Beeching et al. 2024,
    "Scaling test-time compute with open models").

    With `rollouts` the value of a new node is the mean return of so many futures of `rollout_depth`
    steps of the model's rollout policy, the model's value at their end. One greedy future of a few
    steps makes the beam lookahead search (Snell et al. 2024, "Scaling LLM test-time compute
    optimally can be more effective than scaling model parameters", section 5.2).
    """

    width: int
    expand: int
    depth: int
    groups: int = 1
    root_expand: int | None = None
    reduce: Reducer = field(default_factory=Argmax)
    rollouts: int = 0
    rollout_depth: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "width", "expand", "depth", "groups", "rollout_depth")
        check_counts(self, "rollouts", least=0)
        if self.root_expand is not None:
            check_counts(self, "root_expand")
        if self.width % self.groups:
            raise ValueError(
                f"BeamSearch.width must be a multiple of BeamSearch.groups, and {self.width} is "
                f"none of {self.groups}"
            )

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
        world = World("BeamSearch", model, state, rng=rng, budget=budget, needs=("policy",))
        ahead = self._ahead() if self.rollouts else None
        forest = Forest(world, state, self._capacity(), ahead)
        everyone = torch.arange(world.roots, device=world.device).unsqueeze(1)
        beam = torch.zeros((world.roots, self.width), dtype=torch.int64, device=world.device)
        present = torch.zeros_like(beam, dtype=torch.bool)
        present[:, 0] = True
        grows = torch.ones((world.roots, self.groups), dtype=torch.bool, device=world.device)
        for level in range(self.depth):
            grows &= self._may_grow(world).to(world.device).unsqueeze(1)
            going = grows.repeat_interleave(self.width // self.groups, 1)
            growing = present & ~forest.ended[everyone, beam] & going
            if not bool(growing.any()):
                break
            each = self._root_expand(world) if level == 0 else self.expand
            shares = self._shares(world, each) if level == 0 else 1
            pool, held = self._level(world, forest, beam, present, growing, each, shares)
            score = torch.where(held, only_finite(forest.score((everyone, pool))), -torch.inf)
            beam, present, usable = self._keep(beam, present, pool, score)
            grows &= usable
            forest.count_visits(beam, present)
            if listen:
                data = {"beam": beam, "present": present, "pool": pool, "score": score}
                listen(Event("depth", level, data))
        plan = self._finish(world, forest, everyone, beam, present)
        warn_of_lost(world.planner, plan)
        return plan, None

    def _ahead(self) -> Rollouts:
        return Rollouts(self.rollouts, self.rollout_depth)

    def _root_expand(self, world: World) -> int:
        """Candidates of the root for each group: more than of other nodes only if they are paid."""
        most, limit = self.root_expand or self.expand, world.budget.proposals
        each = 1 + self._ahead().proposals(world)
        return most if limit is None else min(most, max(self.expand, limit // each))

    def _capacity(self) -> int:
        """Nodes at most, the root with them."""
        first = self.groups * (self.root_expand or self.expand)
        return 1 + first + (self.depth - 1) * self.width * self.expand

    def _may_grow(self, world: World) -> Tensor:
        calls = 2 + (world.model.value is not None)
        if not world.calls_left(calls + (self._ahead().calls if self.rollouts else 0)):
            return torch.zeros(world.roots, dtype=torch.bool)
        return world.within_budget(steps=1 + self._ahead().steps, proposals=1)

    def _shares(self, world: World, each: int) -> int:
        """Among how many groups the root's candidates are dealt out, `each` to one: those that can
        be paid for."""
        limit = world.budget.proposals
        each *= 1 + self._ahead().proposals(world)
        return self.groups if limit is None else min(self.groups, max(1, limit // each))

    def _level(
        self,
        world: World,
        forest: Forest,
        beam: Tensor,
        present: Tensor,
        growing: Tensor,
        each: int,
        shares: int,
    ) -> tuple[Tensor, Tensor]:
        """Expand the growing places; all nodes [B, W*K] now competing, and which of these exist.

        A node is asked for `shares` times K = `each` candidates; c goes to the group that lies
        c % `shares` groups on from its own.
        """
        wide, asked_for = (world.roots, self.width, each), shares * each
        pool = torch.zeros(wide, dtype=torch.int64, device=world.device)
        held = torch.zeros(wide, dtype=torch.bool, device=world.device)
        pool[:, :, 0], held[:, :, 0] = beam, present & ~growing
        ahead = 1 + self._ahead().proposals(world)  # what comes with each candidate
        paid = _first(growing, world.left("proposals"), asked_for * ahead)
        root, place = paid.nonzero(as_tuple=True)
        if len(root):
            node = beam[root, place]
            asked = rows.take(forest.states, forest.flat(root, node))
            proposal = world.propose(asked, asked_for, root)
            forest.know(proposal.actions)
            number = proposal.log_prior.shape[1]
            exists = held.new_zeros((world.roots, self.width, asked_for))
            exists[root, place, :number] = proposal.log_prior > -torch.inf
            exists = _first(exists.flatten(1), world.left("steps"), ahead).view_as(exists)
            which, slot = exists[root, place].nonzero(as_tuple=True)
            if len(which):
                action = rows.take(proposal.actions, which * number + slot)
                moved = world.step_some(rows.take(asked, which), action, root[which])
                prior = proposal.log_prior.softmax(1)[which, slot]
                nodes = forest.add(root[which], node[which], slot, prior, action, moved)
                to = place[which] + slot % shares * (self.width // self.groups)
                pool[root[which], to, slot // shares] = nodes
                held[root[which], to, slot // shares] = True
        return pool.flatten(1), held.flatten(1)

    def _keep(
        self, beam: Tensor, present: Tensor, pool: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best nodes of each group, in falling order: the beam [B, W], which of its places hold
        a node, and which groups [B, G] had a usable one; a group without keeps what it held."""
        size = self.width // self.groups
        beam, present, pool, score = (
            table.view(len(beam), self.groups, -1) for table in (beam, present, pool, score)
        )
        top, order = torch.sort(score, dim=2, descending=True, stable=True)
        kept = top[..., :size] > -torch.inf
        usable = kept[..., :1]
        beam = torch.where(usable, pool.gather(2, order)[..., :size], beam)
        present = torch.where(usable, kept, present)
        return beam.flatten(1), present.flatten(1), usable.squeeze(2)

    def _finish(
        self, world: World, forest: Forest, everyone: Tensor, beam: Tensor, present: Tensor
    ) -> Plan:
        if forest.actions is None:
            raise BudgetError("BeamSearch: the budget does not allow one step")
        found = present & (beam > 0)  # a group that found nothing may still hold the root
        returns = torch.where(found, only_finite(forest.score((everyone, beam))), -torch.inf)
        row = forest.flat(everyone, beam)
        chosen, value = self.reduce(returns, rows.take(forest.states, row.flatten()))
        node = beam.gather(1, chosen.unsqueeze(1)).squeeze(1)
        return Plan(
            action=forest.first_action(node),
            value=value,
            final=rows.take(forest.states, forest.flat(everyone.squeeze(1), node)),
            trace=forest.tree(),
            cost=world.cost(),
            valid=(returns > -torch.inf).any(1),
            node=node,
        )


def _first(mask: Tensor, limit: Tensor | None, each: int = 1) -> Tensor:
    """The leading true entries of each row of `mask` [B, n] that `limit` [B] units pay for."""
    if limit is None:
        return mask
    return mask & (mask.cumsum(1) * each <= limit.to(mask.device).unsqueeze(1))
