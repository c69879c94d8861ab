"""The template of planners that improve action sequences.

A subclass says in `improve` how a search gets better. Everything else is here: warm start, bounds,
the fallback where no candidate is usable, the budget, keeping the best, the ledger.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.common import check_choice, check_counts, check_positive, only_finite
from mbrl_core.rollouts import follow_actions, follow_policy
from mbrl_core.types import Budget, Listener, Model, Plan, Rng, Rollout, Rows
from mbrl_core.world import Bounds, World, bounds_of


class WarmStart(NamedTuple):
    """The carry of a trajectory planner: where the next plan begins its search."""

    mean: Tensor  # [B, H, A] last plan, moved on by one step; its last action is the box's centre
    fresh: Tensor  # [B] bool: rows that begin anew, ignoring `mean`

    def reset(self, mask: Tensor) -> WarmStart:
        """Forget the rows where `mask` [B] is true."""
        return self._replace(fresh=self.fresh | mask.to(self.fresh.device))

    def shift(self, steps: int) -> WarmStart:
        """Move on by `steps` more steps, where a controller executes several actions of one plan.

        The last action, which no plan has chosen, is repeated.
        """
        return self._replace(mean=shifted(self.mean, steps))


class Search(NamedTuple):
    """The state of one search for B roots, in the numbers that are searched over: the actions
    themselves (L = H), or what `SequencePlanner.decode` makes actions of."""

    mean: Tensor  # [B, L, A]
    std: Tensor  # [B, L, A]
    best: Tensor  # [B, L, A] the sequence to return: the best evaluated so far
    best_return: Tensor  # [B]; -inf before any
    best_final: Rows  # B rows
    kept: Tensor | None = None  # [B, E, L, A] sequences that the next iteration evaluates, too


@dataclass(frozen=True, kw_only=True)
class SequencePlanner:
    """Search over sequences of H actions.

    horizon: model steps planned ahead, H.
    samples: candidates per root and iteration, N.
    iterations: evaluations of N candidates.
    output: return the `best` sequence evaluated, or the final `mean`, which costs one more
        evaluation and is steadier where a learned model is noisy (the best is returned where the
        mean has no finite return). Either way `Plan.value` is the predicted return of the very
        sequence that is returned.

    Under a deadline (`Budget.seconds`) one iteration is always evaluated, and no other begun that
    would end too late if it took as long as the longest so far.
    """

    horizon: int
    samples: int = 256
    iterations: int = 6
    output: Literal["best", "mean"] = "best"

    differentiates: ClassVar[bool] = False  # and so leaves inference mode

    def __post_init__(self) -> None:
        check_counts(self, "horizon", "samples", "iterations")
        check_choice(self, "output", *self.outputs())

    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: WarmStart | None = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, WarmStart]:
        """See `Planner`. The carry returned is ready for the next control step."""
        name = type(self).__name__
        state = rows.trackable(state) if self.differentiates else state
        inference = torch.is_inference_mode_enabled() and not self.differentiates
        with torch.inference_mode(inference), torch.no_grad():
            world = World(name, model, state, rng=rng, budget=budget, needs=self.needs())
            bounds = self.bounds(world)
            search = self.begin(world, bounds, state, carry)
            search, rollout = self.improve(world, bounds, state, search, listen)
            return self._finish(world, bounds, state, search, rollout)

    # What a subclass says

    def outputs(self) -> tuple[str, ...]:
        """What `output` may be."""
        return ("best", "mean")

    def needs(self) -> tuple[str, ...]:
        """The parts of the model without which there is no plan."""
        return ("action_space",)

    def bounds(self, world: World) -> Bounds:
        """The box of the carry's numbers [B, H, A]; ValueError where the actions do not suit."""
        return bounds_of(world)

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """The search before its first iteration."""
        raise TypeError(f"{type(self).__name__} does not say how it begins a search")

    def improve(
        self, world: World, bounds: Bounds, state: Rows, search: Search, listen: Listener | None
    ) -> tuple[Search, Rollout | None]:
        """Run the iterations that the budget allows; the last rollout becomes the plan's trace."""
        raise TypeError(f"{type(self).__name__} does not say how it improves a plan")

    def decode(self, bounds: Bounds, sequences: Tensor) -> Tensor:
        """The actions [..., H, A] (or [..., H] of a discrete space) of sequences [..., L, A]."""
        return sequences

    def evaluations(self) -> int:
        """Rollouts of each candidate in one iteration."""
        return 1

    def act(self, world: World, bounds: Bounds, search: Search, action: Tensor) -> Tensor:
        """The action [B, A] to take now, given the plan's first."""
        return action

    def warm_start(self, bounds: Bounds, search: Search, plan: Tensor) -> WarmStart:
        """The carry after `plan`: a sequence [B, L, A] of the search."""
        return WarmStart(next_step(bounds, self.decode(bounds, plan)), fresh_nowhere(plan))

    # What all share

    def recall(self, world: World, bounds: Bounds, carry: WarmStart | None) -> Tensor:
        """The carried sequence [B, H, A]; the box's centre for rows that begin anew."""
        shape = (world.roots, self.horizon, len(bounds.low))
        centre = bounds.center.expand(shape)
        if carry is None:
            return centre
        if not hasattr(carry, "mean"):
            raise TypeError(
                f"{world.planner} goes on from a carry of its own, not from a "
                f"{type(carry).__name__}: pass None to begin anew"
            )
        if carry.mean.shape != shape:
            raise ValueError(
                f"{world.planner} was given a carry for [B, H, A] = {list(carry.mean.shape)}, "
                f"but plans {list(shape)}: pass None to begin anew"
            )
        return torch.where(carry.fresh.view(-1, 1, 1), centre, carry.mean.to(centre))

    def affordable(self, world: World, samples: int, **more: int) -> int:
        """How many candidates of the next iteration fit, keeping back what the mean will cost."""
        reserve, rounds = int(self.output == "mean"), self.evaluations()
        calls = (rounds + reserve) * _calls_of_rollout(world, self.horizon)
        if not (world.calls_left(calls) and world.time_for(1 + reserve)):
            return 0
        return world.affordable(samples + reserve, steps=rounds * self.horizon, **more) - reserve

    def book(self, world: World, samples: int, **more: int) -> None:
        """Set aside what an iteration of `samples` candidates may cost."""
        world.book(samples, steps=self.evaluations() * self.horizon, **more)

    def policy_sequences(self, world: World, state: Rows, samples: int) -> Tensor | None:
        """Actions [B, n, H, A] of `samples` rollouts of the policy, or of so many that each can
        still be evaluated within the budget; None where that is none."""
        least = 2 + self.evaluations() + int(self.output == "mean")
        if not world.calls_left(least * _calls_of_rollout(world, self.horizon)):
            return None
        samples = world.affordable(
            samples, steps=(1 + self.evaluations()) * self.horizon, proposals=self.horizon
        )
        if samples < 1:
            return None
        world.book(samples, steps=self.horizon, proposals=self.horizon)
        drawn = follow_policy(world, state, self.horizon, samples, valued=False).actions
        actions = torch.stack(drawn, 1).unflatten(0, (world.roots, samples))
        return actions.to(dtype=world.dtype, device=world.device)

    def _finish(
        self, world: World, bounds: Bounds, state: Rows, search: Search, rollout: Rollout | None
    ) -> tuple[Plan, WarmStart]:
        valid = search.best_return > -torch.inf
        if not bool(valid.all()):
            lost = (~valid).nonzero().squeeze(1).tolist()
            warnings.warn(
                f"{world.planner}: no candidate of roots {lost[:8]} had a finite return within the "
                "budget; their carried plan is returned (Plan.valid is False there)",
                RuntimeWarning,
                stacklevel=3,
            )
        plan, value, final = search.best, search.best_return, search.best_final
        if self.output == "mean" and rollout is not None:
            own = follow_actions(world, state, self.decode(bounds, search.mean.unsqueeze(1)))
            returns = only_finite(own.returns[:, 0])
            usable = valid & (returns > -torch.inf)  # between two good sequences may lie a bad one
            plan = torch.where(usable.view(-1, 1, 1), search.mean, search.best)
            value = torch.where(usable, returns, search.best_return)
            final = rows.where(usable, own.final, search.best_final)
        action, *then = self.decode(bounds, plan).unbind(1)
        return (
            Plan(
                action=self.act(world, bounds, search, action),
                value=value,
                final=final,
                trace=rollout or _nothing_tried(world, state, self.horizon),
                cost=world.cost(),
                valid=valid,
                then=then,
            ),
            self.warm_start(bounds, search, plan),
        )


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlanner(SequencePlanner):
    """Search over sequences [B, H, A] of continuous actions.

    init_std: standard deviation with which every call begins, as a fraction of half the action
        range (absolute where a bound is infinite).
    """

    init_std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "init_std")

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """The search before its first iteration: the carried mean, full standard deviation."""
        mean = bounds.clip(self.recall(world, bounds, carry))
        std = (self.init_std * bounds.half).expand(mean.shape)
        return Search(mean, std, mean, mean.new_full((world.roots,), -torch.inf), state)


def shifted(sequences: Tensor, steps: int) -> Tensor:
    """Sequences [..., H, A] without their first `steps` actions, the last one repeated."""
    length = sequences.shape[-2]
    index = torch.arange(steps, steps + length, device=sequences.device).clamp(max=length - 1)
    return sequences.index_select(-2, index)


def next_step(bounds: Bounds, actions: Tensor) -> Tensor:
    """Sequences [..., H, A] moved on by one step, the box's centre for the new last action."""
    centre = bounds.clip(bounds.center).expand_as(actions[..., :1, :])
    return torch.cat([actions[..., 1:, :], centre], -2)


def fresh_nowhere(sequences: Tensor) -> Tensor:
    """`WarmStart.fresh` [B] of a carry in which no row begins anew."""
    return torch.zeros(len(sequences), dtype=torch.bool, device=sequences.device)


def keep_best(search: Search, sequences: Tensor, returns: Tensor, final: Rows) -> Search:
    """The search with its best sequence replaced wherever a candidate [B, N, L, A] beats it."""
    top, index = returns.max(1)
    return keep(search, sequences, top, index, final, top > search.best_return)


def first_rows(roots: int, samples: int, device: torch.device) -> Tensor:
    """The row [B] of each root's first candidate among B*N, a constant."""
    if torch.compiler.is_compiling():
        return torch.arange(0, roots * samples, samples, device=device)
    return _first_rows(roots, samples, device)


@lru_cache(maxsize=128)
def _first_rows(roots: int, samples: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(0, roots * samples, samples, device=device)


def keep(
    search: Search, sequences: Tensor, value: Tensor, index: Tensor, final: Rows, where: Tensor
) -> Search:
    """The search that, `where` [B] is true, returns candidate `index` [B] with return `value`
    [B]."""
    roots, samples = sequences.shape[:2]
    row = index + first_rows(roots, samples, index.device)
    chosen = sequences.flatten(0, 1).index_select(0, row)
    return search._replace(
        best=torch.where(where.view(-1, 1, 1), chosen, search.best),
        best_return=torch.where(where, value, search.best_return),
        best_final=rows.where(where, rows.take(final, row), search.best_final),
    )


def _calls_of_rollout(world: World, horizon: int) -> int:
    return horizon + (world.model.value is not None)


def _nothing_tried(world: World, state: Rows, horizon: int) -> Rollout:
    """The trace of a search whose budget allowed no candidate."""
    none = torch.zeros((world.roots, 0, horizon), dtype=world.dtype, device=world.device)
    return Rollout([], none, none, state, none[..., 0], none[..., 0].bool())
