"""Is a model good enough to plan with, and how well does a planner use it?

Five measurements on any model and planner, each a NamedTuple of tensors:

    compounding_error   how fast predictions leave what happened
    exploitation_gap    what plans promise against what they bring
    horizon_audit       whether a shorter horizon would act alike
    elite_stability     whether small errors of observation change what looks best
    deadlines           seconds taken and returns under a deadline

Reality is any `Dynamics`: a simulator, another model, equations. Where its states are not the
model's, `root` turns R rows of the former into R states to plan from (`world.root` of a learned
model whose reality is observed), and `observe` makes the model's states comparable: R rows to a
tensor [R, D]. Nothing here is differentiated.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.planners.common import only_finite
from mbrl_core.planners.receding import RecedingHorizon
from mbrl_core.policies import RandomActions
from mbrl_core.returns import discounted_return
from mbrl_core.rollouts import simulate_actions
from mbrl_core.types import Budget, Carry, Dynamics, Listener, Model, Plan, Planner, Rng, Rows
from mbrl_core.world import World

Root: TypeAlias = Callable[[Rows], Rows]
Observe: TypeAlias = Callable[[Rows], Tensor]


def _as_is(state: Rows) -> Rows:
    return state


# What happened


class Recording(NamedTuple):
    """What B episodes were like in reality; made by `record`, or from logs."""

    states: list[Rows]  # H + 1 entries of B rows; those after the end repeat the last
    actions: list[Rows]  # H entries of B rows
    rewards: Tensor  # [B, H]; 0 past the end
    discounts: Tensor  # [B, H]; 0 from the ending step on

    @property
    def happened(self) -> Tensor:
        """[B, H] bool: steps up to the one that ended the episode."""
        going = (self.discounts != 0).cumprod(1).bool()
        return torch.cat([torch.ones_like(going[:, :1]), going[:, :-1]], 1)


@torch.no_grad()
def record(real: Dynamics, state: Rows, actions: Sequence[Rows], *, rng: Rng) -> Recording:
    """What H `actions` (H entries of B rows) do from the B states `state`."""
    world = World("record", Model(real), state, rng=rng)
    alive = torch.ones(world.roots, dtype=torch.bool, device=world.device)
    states, played = [state], []
    for action in actions:
        moved = world.step(states[-1], action, alive=alive)
        alive = alive & (moved.discount != 0)
        states.append(moved.state)
        played.append(moved)
    rewards = torch.stack([moved.reward for moved in played], 1)
    return Recording(
        states, list(actions), rewards, torch.stack([moved.discount for moved in played], 1)
    )


# Compounding error


class ErrorGrowth(NamedTuple):
    """Errors by the number of steps predicted; NaN past the end of an episode."""

    rolled: Tensor  # [B, H] Euclidean distance after h + 1 steps predicted from the first state
    stepped: Tensor  # [B, H] of a single step predicted from the h-th state that was real
    reward: Tensor  # [B, H] absolute error of the reward, along the rolled prediction


@torch.no_grad()
def compounding_error(
    model: Model,
    recording: Recording,
    *,
    root: Root = _as_is,
    observe: Observe = _as_is,
    rng: Rng,
) -> ErrorGrowth:
    """Predict a recording from its first state on, and from each of its states by one step.

    Where `rolled` grows much faster than `stepped` adds up, errors feed on themselves (Talvitie
    2014, "Model regularization for stable sample rollouts"; Janner et al. 2019, section 4). A
    random model is judged by one draw.
    """
    steps = len(recording.actions)
    start = root(recording.states[0])
    predicted = record(model.dynamics, start, recording.actions, rng=rng)
    real = [observe(root(state)) for state in recording.states[1:]]
    rolled = [_distance(observe(predicted.states[h + 1]), real[h]) for h in range(steps)]
    stepped = []
    for h in range(steps):
        here, action = root(recording.states[h]), recording.actions[h]
        moved = World("compounding_error", model, here, rng=rng).step(here, action)
        stepped.append(_distance(observe(moved.state), real[h]))

    def shown(errors: Tensor) -> Tensor:
        return torch.where(recording.happened, errors, torch.nan)

    reward = (predicted.rewards - recording.rewards).abs()
    return ErrorGrowth(shown(torch.stack(rolled, 1)), shown(torch.stack(stepped, 1)), shown(reward))


# Exploitation


class Gap(NamedTuple):
    """What the model promised for sequences of actions, and what they brought."""

    predicted: Tensor  # [B] discounted return in the model
    realised: Tensor  # [B] discounted return of the same actions in reality
    actions: list[Rows]  # H entries of B rows

    @property
    def gap(self) -> Tensor:
        """[B] predicted - realised: above 0 where the model promised too much."""
        return self.predicted - self.realised


@torch.no_grad()
def exploitation_gap(
    planner: Planner,
    model: Model,
    real: Dynamics,
    state: Rows,
    *,
    steps: int,
    root: Root = _as_is,
    rng: Rng,
    budget: Budget | None = None,
) -> Gap:
    """Plan `steps` steps as if the model were true, then do the same in reality.

    The planner is called at each step, as `RecedingHorizon` does, with `budget` for each call.
    Terminal values count on neither side. A planner that finds the faults of
    its model shows a gap far above that of `random_gap`, which is what the model's errors come to
    where nobody looks for them. In a model without chance and without error it is 0.
    """
    driver = _Driver(planner, model, _as_is, budget or Budget())
    plan, _ = RecedingHorizon(planner=driver, steps=steps)(model, root(state), rng=rng)
    trace: Any = plan.trace
    return _gap(trace.actions, trace.rewards[:, 0], trace.discounts[:, 0], real, state, rng)


@torch.no_grad()
def random_gap(
    model: Model, real: Dynamics, state: Rows, *, steps: int, root: Root = _as_is, rng: Rng
) -> Gap:
    """As `exploitation_gap` for uniformly random actions: what to compare it with.

    Raises ValueError where the model has no action space with finite bounds.
    """
    actions = list(_random_sequences(model, state, 1, steps, rng)[:, 0].unbind(1))
    predicted = record(model.dynamics, root(state), actions, rng=rng)
    return _gap(actions, predicted.rewards, predicted.discounts, real, state, rng)


def _gap(
    actions: list[Rows], rewards: Tensor, discounts: Tensor, real: Dynamics, state: Rows, rng: Rng
) -> Gap:
    """Reality counts up to where the episode ended in the model: nothing was planned beyond."""
    happened = record(real, state, actions, rng=rng)
    planned = Recording([], actions, rewards, discounts).happened
    return Gap(
        discounted_return(rewards, discounts),
        discounted_return(happened.rewards * planned, happened.discounts),
        actions,
    )


# Horizon


class HorizonAudit(NamedTuple):
    """How the chosen action depends on the horizon."""

    horizons: Tensor  # [n] int64, ascending
    distance: Tensor  # [n, B] from the action chosen with the longest horizon
    changed: Tensor  # [n] share of roots whose action is further away than other draws move it
    redrawn: Tensor  # [B] distance between two plans of the longest horizon with other draws


def horizon_audit(
    planner: Any,
    model: Model,
    state: Rows,
    horizons: Sequence[int],
    *,
    field: str = "horizon",
    rng: Rng,
) -> HorizonAudit:
    """Plan with every horizon; where the terminal value does its work, a short one acts alike.

    `field` is the planner's name for the horizon (`depth` of a beam, `max_depth` of MCTS).
    Distances are Euclidean, or 0 and 1 where actions are no numbers in floating point. A planner
    that draws differs from itself by `redrawn`, so that only more than that counts as a change.

    Raises ValueError where no horizon is given or the planner has no such field.
    """
    if not horizons:
        raise ValueError("horizon_audit needs at least one horizon")
    if field not in {one.name for one in dataclasses.fields(planner)}:
        raise ValueError(f"{type(planner).__name__} has no field {field!r}: name its horizon")
    ascending = sorted(set(horizons))
    same, other = draws.fork(rng), draws.fork(rng)

    def choose(horizon: int, seed: Rng) -> Rows:
        cut = dataclasses.replace(planner, **{field: horizon})
        return cut(model, state, rng=draws.copy(seed))[0].action

    chosen = [choose(horizon, same) for horizon in ascending]
    distance = torch.stack([_distance(action, chosen[-1]) for action in chosen])
    redrawn = _distance(choose(ascending[-1], other), chosen[-1])
    changed = (distance > redrawn).double().mean(1)
    return HorizonAudit(torch.tensor(ascending), distance, changed, redrawn)


# Elites


class EliteStability(NamedTuple):
    """What errors of observation do to candidates and plans."""

    overlap: Tensor  # [B] share of the best candidates that stay among the best; chance is top/N
    spread: Tensor  # [B] root mean square distance of the chosen action


@torch.no_grad()
def elite_stability(
    planner: Planner,
    model: Model,
    state: Tensor,
    noise: float | Tensor,
    *,
    horizon: int,
    samples: int = 256,
    top: int = 32,
    repeats: int = 8,
    root: Root = _as_is,
    rng: Rng,
) -> EliteStability:
    """Judge the same candidates, and plan with the same draws, from slightly other states.

    Args:
        planner: whose chosen action is compared.
        model: with an action space of finite bounds.
        state: [B, D] observations.
        noise: standard deviation added to them, one number or [D].
        horizon: steps of the candidates, which are uniformly random sequences.
        samples: candidates, N.
        top: how many are called the best.
        repeats: times that noise is drawn.
        root: observations to states to plan from.
        rng: draws candidates and noise.

    Raises:
        ValueError: `top` is not between 1 and `samples`.
    """
    if not 1 <= top <= samples:
        raise ValueError(f"top must be between 1 and samples ({samples}), not {top}")
    sequences = _random_sequences(model, state, samples, horizon, rng)
    same = draws.fork(rng)

    def judge(obs: Tensor) -> tuple[Tensor, Rows]:
        start = root(obs)
        world = World("elite_stability", model, start, rng=draws.copy(same))
        returns = only_finite(simulate_actions(world, start, sequences).returns)
        best = returns.topk(top, 1).indices
        elite = torch.zeros(len(obs), samples, device=best.device).scatter_(1, best, 1.0)
        return elite, planner(model, start, rng=draws.copy(same))[0].action

    elite, action = judge(state)
    overlaps, distances = [], []
    for _ in range(repeats):
        shaken = state + noise * draws.normal(rng, *state.shape).to(state)
        other, moved = judge(shaken)
        overlaps.append((elite * other).sum(1) / top)
        distances.append(_distance(moved, action))
    return EliteStability(
        torch.stack(overlaps).mean(0), torch.stack(distances).square().mean(0).sqrt()
    )


# Deadlines


class Deadlines(NamedTuple):
    """Acting under n deadlines."""

    seconds: Tensor  # [n] allowed per decision
    taken: Tensor  # [n, H] seconds that each decision took
    overshoot: Tensor  # [n, H] seconds above what was allowed, 0 where within
    returns: Tensor  # [n, B] realised discounted return of H decisions


def deadlines(
    planner: Planner,
    model: Model,
    real: Dynamics,
    state: Rows,
    seconds: Sequence[float],
    *,
    steps: int,
    root: Root = _as_is,
    rng: Rng,
) -> Deadlines:
    """Act in reality with each of the deadlines `seconds` for one decision of all B roots.

    A decision is one call of the planner; one more, not counted, comes first to warm up. Every
    deadline begins with the same draws.

    Raises ValueError where a deadline is so short that the planner finds no plan.
    """
    same = draws.fork(rng)
    planner(model, root(state), rng=draws.copy(same), budget=Budget(seconds=max(seconds)))
    taken, returns = [], []
    for limit in seconds:
        driver = _Driver(planner, model, root, Budget(seconds=limit))
        played, _ = RecedingHorizon(planner=driver, steps=steps)(
            Model(real), state, rng=draws.copy(same)
        )
        rest = [float("nan")] * (steps - len(driver.taken))
        taken.append(torch.tensor(driver.taken + rest, dtype=torch.float64))
        returns.append(played.value)
    limits = torch.tensor(seconds, dtype=torch.float64)
    each = torch.stack(taken)
    return Deadlines(limits, each, (each - limits.unsqueeze(1)).clamp(min=0), torch.stack(returns))


class _Driver:
    """Plans in `model` for states of reality, and looks at the clock."""

    def __init__(self, planner: Planner, model: Model, root: Root, budget: Budget) -> None:
        self.planner, self.model, self.root, self.budget = planner, model, root, budget
        self.taken: list[float] = []

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
        """See `Planner`; `model` is reality, which is not planned in."""
        began = time.perf_counter()
        planned = self.planner(
            self.model, self.root(state), carry, rng=rng, budget=self.budget, listen=listen
        )
        self.taken.append(time.perf_counter() - began)
        return planned


# Shared


def _distance(one: Rows, other: Rows) -> Tensor:
    """Euclidean distance [R]; 0 or 1 where rows are no numbers in floating point."""
    if isinstance(one, Tensor) and one.is_floating_point():
        return torch.linalg.vector_norm((one - other).unsqueeze(-1).flatten(1), dim=1)
    if isinstance(one, Tensor):
        return (one != other).unsqueeze(-1).flatten(1).any(1).double()
    return torch.tensor([float(a != b) for a, b in zip(one, other, strict=True)])


def _random_sequences(model: Model, state: Rows, samples: int, horizon: int, rng: Rng) -> Tensor:
    """[B, N, H, A], or [B, N, H] where actions are discrete, uniform in the action space."""
    if model.action_space is None:
        raise ValueError("random actions need Model.action_space, and this model has none")
    drawn = RandomActions(model.action_space).propose(state, samples * horizon, rng=rng).actions
    if not bool(torch.isfinite(drawn).all()):
        raise ValueError("random actions need an action space with finite bounds")
    return drawn.view(rows.count(state), samples, horizon, *drawn.shape[1:])
