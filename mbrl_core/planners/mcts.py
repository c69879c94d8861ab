"""Monte Carlo tree search over each node's own candidates: select, expand, back up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mbrl_core import draws
from mbrl_core.planners.common import check_choice, check_counts, check_positive, warn_of_lost
from mbrl_core.planners.game import Game
from mbrl_core.planners.playout import Rollouts
from mbrl_core.planners.selection import PUCT, Gumbel, Search, Selection
from mbrl_core.policies import at_temperature
from mbrl_core.reducers import Reducer
from mbrl_core.types import Budget, BudgetError, Carry, Event, Listener, Model, Plan, Rng, Rows
from mbrl_core.world import World

if TYPE_CHECKING:  # compiling takes numba, which takes its time: it waits for the first search
    from mbrl_core.planners.grove import Grove
    from mbrl_core.planners.memory import Memory


@dataclass(frozen=True)
class Widening:
    """A node with n visits shows its ceil(`scale` * n**`power`) candidates of highest prior.

    Progressive widening (Coulom 2007, "Computing Elo ratings of move patterns in the game of Go";
    Chaslot et al. 2008), for actions that cannot all be tried. Equal priors, as those of draws
    are, leave the candidates in the order of the proposal. Chance nodes show all.
    """

    scale: float = 1.0
    power: float = 0.5

    def __post_init__(self) -> None:
        check_positive(self, "scale", "power")


@dataclass(frozen=True, kw_only=True)
class MCTS:
    """Tree search that grows one node per root and simulation.

    Every node keeps its own (at most) `candidates` actions, asked of the policy when the node is
    first descended through: all actions of a discrete game (MuZero), draws from a continuous policy
    (Sampled MuZero, Hubert et al. 2021) or sampled reasoning steps are the same search. `selection`
    makes it UCT, PUCT or Gumbel. Where a proposal says `chance` nature chooses (Stochastic MuZero,
    Antonoglou et al. 2022). Games of two players have discount -1.

    A new node is worth what the model's value says, or 0 without one; with `rollouts` it is worth
    the mean return of so many futures of at most `rollout_depth` steps of the model's rollout
    policy. `widening` shows the
    candidates of a node little by little. `leaves` walks go down each tree before the model is
    called for all of them; 1 is the sequential search, where only those go together that would have
    met nothing new one by one (a round of `Gumbel`). With `reuse` a search from the state that the
    action led to goes on in the tree below it, which is the carry, and adds `simulations`. A model
    that is a `Game` is searched without leaving compiled code.

    A node is worth the mean of what was found at and below it or, with `backup` "max", the best of
    it (Hao et al. 2023, arXiv:2305.14992, section 3.3), which is for worlds of one player without
    chance nodes.

    With `reduce` the plan is chosen among the ended nodes that the search met and the futures that
    its rollouts played to the end, by their return: the best complete solution (`Argmax`) or the
    answer most of them give (`Vote`). Without, or where
    none ended, the plan is the root's choice by `selection`, continued along the most visited
    children; at a `temperature` T above 0 the root's choice is drawn from the recommended weights
    to the power 1/T. The weights are in `Tree.root`, as a target for a policy. `Plan.value` is then
    the mean of what the search found at the root, its first value and its detours with it, a target
    for a value and less than the plan's own return, which is `Tree.root.q` of its action.

    An edge is stepped once: where the model draws at random its first draw stands, however many
    simulations follow. Give chance nodes, or plan for the mean of `Particles`.
    """

    simulations: int
    candidates: int
    selection: Selection = field(default_factory=PUCT)
    max_depth: int | None = None
    reduce: Reducer | None = None
    rollouts: int = 0
    rollout_depth: int = 32
    widening: Widening | None = None
    leaves: int = 1
    reuse: bool = False
    temperature: float = 0.0
    backup: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        check_choice(self, "backup", "mean", "max")
        check_counts(self, "simulations", "candidates", "leaves", "rollout_depth")
        if self.max_depth is not None:
            check_counts(self, "max_depth")
        if self.rollouts != 0:
            check_counts(self, "rollouts")
        if self.temperature != 0:
            check_positive(self, "temperature")
        if not isinstance(self.selection, tuple):
            raise ValueError(
                "MCTS.selection must be a NamedTuple with the methods of Selection, so that it can "
                f"be compiled, not a {type(self.selection).__name__}"
            )
        if hasattr(self.selection, "check"):
            self.selection.check()
        if self.reuse and isinstance(self.selection, Gumbel):
            raise ValueError(
                "MCTS.reuse needs UCT or PUCT: Gumbel's sequential halving counts from no visits"
            )
        if self.widening is not None and isinstance(self.selection, Gumbel):
            raise ValueError(
                "MCTS.widening needs UCT or PUCT: Gumbel's sequential halving shares out its "
                "simulations among candidates that are all there from the first"
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
        """See `Planner`. Without `reuse` the carry is None.

        Raises BudgetError where the budget does not allow a single simulation. A root whose policy
        proposes nothing stays where it is, with `Plan.valid` False.
        """
        games = self.reduce is None and self.backup == "mean"
        world = World("MCTS", model, state, rng=rng, budget=budget, needs=("policy",), games=games)
        grove = self._plant(world, state, carry)
        grove.ask_roots(self._affordable(world, 1) > 0)
        grove.draw_noise(rng)
        # What asking for the roots' candidates took does not stop the first from being tried.
        most = np.maximum(self._affordable(world, grove.at_once), grove.waiting())
        game = self._compiled(world, listen)
        if game is not None:
            grove.play(game, most)
        number = 0
        while grove.simulate(most):
            if listen:
                listen(Event("simulation", number, grove.reached()))
            number += 1
            most = most if world.unlimited else self._affordable(world, grove.at_once)
        plan, memory = self._finish(world, grove)
        warn_of_lost("MCTS", plan)
        return plan, memory

    def _plant(self, world: World, state: Rows, carry: Memory | None) -> Grove:
        from mbrl_core.planners.grove import Grove

        shown = self.widening or Widening(math.inf)
        deepest = np.iinfo(np.int32).max if self.max_depth is None else self.max_depth
        return Grove(
            world,
            state,
            Search(
                *(self.selection, self.simulations, self.leaves, deepest, shown.scale, shown.power),
                best=self.backup == "max",
            ),
            candidates=self.candidates,
            rollouts=Rollouts(self.rollouts, self.rollout_depth) if self.rollouts else None,
            keep=self.reduce is not None,
            memory=carry,
        )

    def _compiled(self, world: World, listen: Listener | None) -> Game | None:
        """The model, where it is a compiled game and nobody has to look in between simulations."""
        game = world.model.dynamics
        watched = listen is not None or not world.unlimited or self.rollouts > 0
        if watched or not isinstance(game, Game) or self.candidates < game.actions:
            return None
        whole = world.model.policy is game and world.model.value is game
        return game if whole else None

    def _affordable(self, world: World, at_once: int) -> np.ndarray:
        """How many simulations [B] the budget allows each root at once, at most `at_once`."""
        if world.unlimited:
            return np.full(world.roots, at_once)
        rollouts = Rollouts(self.rollouts, self.rollout_depth)
        calls = 2 + (rollouts.calls if self.rollouts else 0)
        if not world.calls_left(calls + (world.model.value is not None)):
            return np.zeros(world.roots, np.int64)
        number = at_once * world.within_budget().long()
        each = {
            "steps": 1 + rollouts.steps,
            "proposals": self.candidates + rollouts.proposals(world),
        }
        for unit, amount in each.items():
            left = world.left(unit)
            if left is not None:
                number = number.minimum(left // amount)
        return number.clamp(min=0).numpy()

    def _finish(self, world: World, grove: Grove) -> tuple[Plan, Memory | None]:
        if not grove.begun.any() and grove.may_begin():
            raise BudgetError("MCTS: the budget does not allow one simulation")
        final, weights = grove.conclude()
        valid = np.any(final > -np.inf, axis=1)
        node = grove.principal(self._decide(final, weights, valid, world.rng))
        value = torch.from_numpy(grove.nodes["value"][:, 0].copy())
        played = grove.played()
        future = torch.from_numpy(node)  # of those in `complete`, where the nodes come first
        if self.reduce is not None:
            complete = grove.complete(played)
            chosen, worth = self.reduce(complete.score, complete.states)
            some = (complete.score > -torch.inf).any(1)
            future = torch.where(some, chosen, future)
            value = torch.where(some, worth, value)
        ending = grove.ending(future, played)
        found = torch.from_numpy(valid)
        plan = Plan(
            action=ending.action,
            value=torch.where(found, value, -torch.inf).to(world.device),
            final=ending.state,
            trace=grove.tree(weights, played),
            cost=world.cost(),
            valid=found.to(world.device),
            node=ending.node,  # lies with the tree, on the CPU
        )
        return plan, grove.remember(ending.child) if self.reuse else None

    def _decide(
        self, final: np.ndarray, weights: np.ndarray, valid: np.ndarray, rng: Rng
    ) -> np.ndarray:
        """The candidate [B] to take at each root; -1 where none was tried."""
        score = final
        if self.temperature > 0:
            log_weights = torch.from_numpy(weights).log()
            logits = torch.where(torch.from_numpy(final) > -torch.inf, log_weights, -torch.inf)
            wish = draws.gumbel(rng, *logits.shape).to(logits)
            score = (at_temperature(logits, self.temperature) + wish).numpy()
        return np.where(valid, score.argmax(1), -1)
