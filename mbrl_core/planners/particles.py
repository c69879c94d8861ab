"""Particle filter: sequential Monte Carlo over partial plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.forest import Forest
from mbrl_core.planners.common import (
    check_choice,
    check_counts,
    check_positive,
    only_finite,
    warn_of_lost,
)
from mbrl_core.reducers import Argmax, Reducer
from mbrl_core.types import Budget, BudgetError, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World

ROUNDING = 1e-6  # of a score between 0 and 1


@dataclass(frozen=True, kw_only=True)
class ParticleFilter:
    """Draws from the policy, tilted towards high return by weighting and resampling as they grow.

    `particles` N partial plans each take one draw from the policy a step, `depth` steps at most; an
    ended one stays. With the score s_t of `BeamSearch` (reward so far plus value) a particle's
    weight is multiplied at every step by

        exp((s_t - s_{t-1}) / temperature)      where `weigh` is "gain",
        exp(s_t / temperature)                  where it is "score",
        (s_t / (1 - s_t)) ** (1 / temperature)  where it is "logit".

    Gains telescope: the weighted particles are draws from p(plan) exp(return / temperature), p
    being the policy, whatever the value on the way (twisted sequential Monte Carlo, Zhao et al.
    2024, "Probabilistic inference in language models via twisted sequential Monte Carlo"). "score"
    and "logit" target the product over all steps instead, which is greedier. "logit" is for scores
    that are chances of being right and takes their odds, at temperature 1 as the published code
    does, with "multinomial" resampling (Puri et al. 2025, "A probabilistic inference approach to
    inference-time scaling of LLMs using particle-based Monte Carlo methods").

    Before a step the particles are resampled in proportion to their weights, which then start anew,
    wherever the effective sample size 1 / sum w^2 is at most `resample_at` * N: 1 resamples before
    every step, 0 never. "systematic" resampling uses one uniform draw per root, "multinomial" N.
    `reduce` sees the particles' `judge`: their returns, or their final weights, which sum to one
    (a `WeightedVote` of these is the posterior's vote).
    """

    particles: int
    depth: int
    temperature: float = 1.0
    weigh: Literal["gain", "score", "logit"] = "gain"
    resample_at: float = 1.0
    resampling: Literal["systematic", "multinomial"] = "systematic"
    judge: Literal["return", "weight"] = "return"
    reduce: Reducer = field(default_factory=Argmax)

    def __post_init__(self) -> None:
        check_counts(self, "particles", "depth")
        check_positive(self, "temperature")
        if not 0 <= self.resample_at <= 1:
            raise ValueError(
                f"ParticleFilter.resample_at must be between 0 and 1, not {self.resample_at!r}"
            )
        check_choice(self, "weigh", "gain", "score", "logit")
        check_choice(self, "resampling", "systematic", "multinomial")
        check_choice(self, "judge", "return", "weight")

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

        A limit on steps or proposals is met by fewer particles, then by fewer steps of one. Raises
        BudgetError where the budget does not allow a single step, and ValueError where `weigh` is
        "logit" and a score is no chance.
        """
        world = World("ParticleFilter", model, state, rng=rng, budget=budget, needs=("policy",))
        number = world.affordable(self.particles, steps=self.depth, proposals=self.depth)
        swarm = _Swarm(world, state, max(number, 1), self.depth)
        for step in range(self.depth):
            paid = world.within_budget(steps=1, proposals=1)
            growing = swarm.growing() & paid.to(world.device).unsqueeze(1)
            if not (bool(growing.any()) and world.calls_left(2 + (model.value is not None))):
                break
            self._resample(swarm, growing.any(1))
            growing = swarm.growing() & growing.any(1, keepdim=True)
            before = swarm.standing()
            swarm.grow(growing)
            self._reweigh(swarm, before, growing.any(1))
            if listen:
                data = {"nodes": swarm.nodes, "log_weight": swarm.log_weight}
                listen(Event("depth", step, data))
        plan = self._finish(world, swarm)
        warn_of_lost(world.planner, plan)
        return plan, None

    def _resample(self, swarm: _Swarm, roots: Tensor) -> None:
        """Draw the particles of those of `roots` [B] bool that are due, in proportion to weight."""
        weight = swarm.shares().double()
        number = weight.shape[1]
        effective = 1 / weight.square().sum(1)
        # Equal weights make N up to rounding.
        due = roots & (effective <= self.resample_at * number * (1 + 1e-6))
        who = due.nonzero().squeeze(1)
        if len(who) == 0:
            return
        rng = draws.take(swarm.world.rng, who)
        if self.resampling == "systematic":
            comb = torch.arange(number, device=weight.device)
            points = (comb + draws.uniform(rng, len(who), 1).to(weight)) / number
        else:
            points = draws.uniform(rng, len(who), number).to(weight)
        mass = weight[who].cumsum(1)
        ancestor = torch.searchsorted(mass, points * mass[:, -1:], right=True)
        swarm.nodes = swarm.nodes.index_copy(0, who, swarm.nodes[who].gather(1, ancestor))
        swarm.log_weight = swarm.log_weight.index_fill(0, who, 0)

    def _reweigh(self, swarm: _Swarm, before: Tensor, roots: Tensor) -> None:
        """Multiply the weights of `roots` [B] bool by what their particles' last step brought."""
        score = swarm.standing()
        brought = score - before if self.weigh == "gain" else score
        brought = _log_odds(score) if self.weigh == "logit" else brought
        updated = swarm.log_weight + brought / self.temperature
        updated = torch.where(score > -torch.inf, updated, -torch.inf)
        swarm.log_weight = torch.where(roots.unsqueeze(1), updated, swarm.log_weight)

    def _finish(self, world: World, swarm: _Swarm) -> Plan:
        if swarm.actions is None:
            raise BudgetError("ParticleFilter: the budget does not allow one step")
        usable = (swarm.log_weight > -torch.inf) & (swarm.nodes > 0)
        judged = swarm.standing() if self.judge == "return" else swarm.shares()
        judged = torch.where(usable, judged, -torch.inf)
        row = swarm.flat(swarm.everyone, swarm.nodes)
        chosen, value = self.reduce(judged, rows.take(swarm.states, row.flatten()))
        node = swarm.nodes.gather(1, chosen.unsqueeze(1)).squeeze(1)
        swarm.count_visits(swarm.nodes, usable)
        return Plan(
            action=swarm.first_action(node),
            value=value,
            final=rows.take(swarm.states, row.gather(1, chosen.unsqueeze(1)).squeeze(1)),
            trace=swarm.tree(),
            cost=world.cost(),
            valid=usable.any(1),
            node=node,
        )


class _Swarm(Forest):
    """A forest with N particles per root, each at a node; several may share one.

    Its two tables are replaced, never written into: listeners keep what they are given.
    """

    def __init__(self, world: World, state: Rows, particles: int, depth: int) -> None:
        super().__init__(world, state, 1 + particles * depth)
        shape = (world.roots, particles)
        self.everyone = torch.arange(world.roots, device=world.device).unsqueeze(1)
        self.nodes = torch.zeros(shape, dtype=torch.int64, device=world.device)
        self.log_weight = torch.zeros(shape, dtype=world.dtype, device=world.device)

    def growing(self) -> Tensor:
        """Which particles [B, N] have neither ended nor lost all weight."""
        return ~self.ended[self.everyone, self.nodes] & (self.log_weight > -torch.inf)

    def standing(self) -> Tensor:
        """The particles' scores [B, N]; -inf where one is not finite."""
        return only_finite(self.score((self.everyone, self.nodes)))

    def shares(self) -> Tensor:
        """The particles' weights [B, N], each root's summing to one."""
        return self.log_weight.softmax(1)

    def grow(self, growing: Tensor) -> None:
        """Extend the particles `growing` [B, N] by one draw each; one that is proposed nothing
        loses all weight."""
        roots, place = growing.nonzero(as_tuple=True)
        if len(roots) == 0:
            return
        state = rows.take(self.states, self.flat(roots, self.nodes[roots, place]))
        proposal = self.world.propose(state, 1, roots)
        self.know(proposal.actions)
        exists = proposal.log_prior[:, 0] > -torch.inf
        stuck = (roots[~exists], place[~exists])
        nothing = self.log_weight.new_tensor(-torch.inf)
        self.log_weight = self.log_weight.index_put(stuck, nothing)
        index = exists.nonzero().squeeze(1)
        if len(index) == 0:
            return
        roots, place = roots[index], place[index]
        action = rows.take(proposal.actions, index)
        moved = self.world.step_some(rows.take(state, index), action, roots)
        prior = torch.ones_like(place, dtype=self.prior.dtype)
        nodes = self.add(roots, self.nodes[roots, place], place, prior, action, moved)
        self.nodes = self.nodes.index_put((roots, place), nodes)


def _log_odds(score: Tensor) -> Tensor:
    """log s / (1 - s) of scores, between 1e-6 and 1 less that; -inf, of a lost particle, stays."""
    lost = score == -torch.inf
    if bool((~lost & ((score < -ROUNDING) | (score > 1 + ROUNDING))).any()):
        raise ValueError(
            "ParticleFilter.weigh is logit, which is for scores between 0 and 1, and a score is "
            f"{score[~lost].min():.3g}, another {score[~lost].max():.3g}: take gain or score"
        )
    return torch.where(lost, score, torch.logit(score, eps=ROUNDING))
