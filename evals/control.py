"""Play episodes in a real environment, planning with a learned world model or the true one.

    python -m evals.control env=dmc/cartpole-swingup planner=cem episodes=10 out=runs/cem
    python -m evals.control env=dmc/walker-walk model=simulator action_repeat=4

writes out/records.jsonl, a line per episode, and out/summary.json. Killed and started again with
the same arguments it plays what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from control.devices import find_device
from control.ensemble import Propagation
from control.envs import VectorEnv
from control.episodes import check_limited, run_episodes
from control.simulator import TrueWorld, true_world
from control.world_model import WorldModel, find_world_model, load_world_model
from evals.records import RecordStore, fingerprint
from evals.stats import t_interval
from mbrl_core import (
    Budget,
    Carry,
    Cost,
    Mean,
    Model,
    Particles,
    Planner,
    Risk,
    Rows,
    generator,
    penalised,
)

Root: TypeAlias = Callable[[Tensor], Rows]  # observations [B, D] to states to plan from

SEED_STEP = 1_000_003  # keeps the episodes' seeds of different runs apart
SIMULATOR = "simulator"  # as a model's name: plan with the environment's own simulator
SUITE_REPEAT = 8  # what models are trained at by default, so that results can be compared


def evaluate(
    *,
    env: str,
    planner: Planner,
    model: str = "cartpole-swingup",
    episodes: int = 10,
    out: str | Path,
    seed: int = 0,
    parallel: int = 5,
    keep: int = 1,
    action_repeat: int | None = None,
    max_frames: int | None = None,
    propagation: Propagation | None = None,
    aleatoric: bool | None = None,
    particles: int | None = None,
    risk: Risk | None = None,
    penalty: float | None = None,
    budget: Mapping[str, float | None] | None = None,
    device: str = "cpu",
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Play `episodes` episodes and return the summary.

    Args:
        env: the environment; it must be the one the model was trained for.
        planner: chooses every action.
        model: a world-model file, the name of one that comes with the package, or "simulator": the
            true dynamics and rewards, the mark that learned models are measured against.
        episodes: how many; episode i is decided by `seed` and i, up to rounding.
        out: the run folder.
        seed: of the environments and of the planner's draws.
        parallel: episodes played side by side; they complete together.
        keep: of so many episodes the record holds observations, actions and rewards.
        action_repeat: simulator frames an action is held; None is what the model was trained at,
            and with the simulator 8 in DMControl, 1 elsewhere.
        max_frames: cuts episodes after so many simulator frames.
        propagation: how the ensemble's members share the rows (see `Ensemble`).
        aleatoric: whether predicted noise is drawn.
        particles: futures simulated per candidate (see `mbrl_core.Particles`); as the model was
            planned with while it was learned where None.
        risk: what their returns are worth together; their mean where None.
        penalty: times the members' disagreement, taken off every reward; below 0 it is sought; as
            `particles` where None.
        budget: limits per decision, by the names of `mbrl_core.Budget`.
        device: where a learned model lies and plans: cpu, cuda, or auto.
        arguments: what the run folder records; by default the plain ones given here.
        say: receives progress lines.

    Raises:
        ValueError: the model is of another environment or action repeat or knows no such settings,
            `episodes`, `parallel` or `particles` is below 1, or `out` holds a run of other
            arguments.
    """
    counts = {"episodes": episodes, "parallel": parallel, "particles": particles}
    for name, number in counts.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    settings = {"propagation": propagation, "aleatoric": aleatoric}
    deciding = {
        "env": env, "model": model, "planner": repr(planner), "episodes": episodes, "seed": seed,
        "parallel": parallel, "keep": keep, "action_repeat": action_repeat,
        "max_frames": max_frames, **settings, "particles": particles, "risk": repr(risk),
        "penalty": penalty, "budget": dict(budget or {}), "device": device,
    }  # fmt: skip
    world = _find_world(env, model, action_repeat, device, settings | {"penalty": penalty or None})
    check_limited(world.make_env(max_frames=max_frames))
    wrap = wrapping(world, particles, risk, penalty)
    described = {k: v for k, v in (arguments or deciding).items() if k != "out"}
    described["weights"] = None if model == SIMULATOR else fingerprint(find_world_model(model))
    limits = Budget(**(budget or {}))  # type: ignore[arg-type]
    with RecordStore(out, described) as store:
        for first in range(0, episodes, parallel):
            numbers = range(first, min(first + parallel, episodes))
            missing = [i for i in numbers if i not in store]
            if not missing:
                continue
            # The whole group is played even if part of it is on record: equal shapes round alike.
            envs = world.make_env(len(numbers), max_frames=max_frames)
            records = _play(world, envs, planner, list(numbers), seed, limits, keep, settings, wrap)
            for i in missing:
                store.append(i, records[i - first])
            returns = [record["return"] for record in store.records]
            say(
                f"episode {len(store):3d}/{episodes}  mean return {np.mean(returns):7.1f}  "
                f"{records[0]['seconds_per_decision'] * 1e3:.1f} ms a decision"
            )
        summary = summarize(store.records)
        store.write_summary(summary)
    mean, low, high = summary["return"].values()
    say(
        f"return {mean:.1f} [{low:.1f}, {high:.1f}] over {episodes} episodes, "
        f"{summary['steps_per_decision']:.0f} model steps and "
        f"{summary['seconds_per_decision'] * 1e3:.1f} ms a decision; records in {out}"
    )
    return summary


def summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean return with its 95% t interval over episodes, and what a decision cost on average."""
    estimate = t_interval([record["return"] for record in records])
    costs = ("steps_per_decision", "gradients_per_decision", "seconds_per_decision")
    return {
        "episodes": len(records),
        "return": estimate._asdict(),
        **{name: float(np.mean([r[name] for r in records])) for name in costs},
        "seconds": float(sum(r["seconds"] for r in records)),
        "frames": int(sum(r["frames"] for r in records)),
    }


def _find_world(
    env: str, model: str, action_repeat: int | None, device: str, settings: dict[str, Any]
) -> WorldModel | TrueWorld:
    """What to plan with; ValueError where it does not fit what was asked."""
    if model == SIMULATOR:
        settings = settings | {"device": None if device in ("cpu", "auto") else device}
        given = [name for name, value in settings.items() if value is not None]
        if given:
            raise ValueError(f"the simulator has no {given[0]}: that is for learned models")
        return true_world(env, _repeat_of(env) if action_repeat is None else action_repeat)
    world = load_world_model(model, env)
    if action_repeat not in (None, world.action_repeat):
        raise ValueError(
            f"the world model {model} was trained at action repeat {world.action_repeat}, "
            f"not {action_repeat}"
        )
    world.to(find_device(device))
    return world


def _true_root(world: TrueWorld, env: VectorEnv, obs: Tensor) -> Rows:
    """The simulator's states, which hold more than the observations tell."""
    return world.root(env)


class _Driver:
    """Acts with a planner and keeps its ledger."""

    def __init__(
        self,
        model: Model,
        root: Root,
        planner: Planner,
        seeds: list[int],
        budget: Budget,
        device: torch.device,
    ) -> None:
        self.model, self.root, self.planner, self.budget = model, root, planner, budget
        # A generator per episode: what is played beside an episode does not change its draws.
        self.rng = [generator(seed, device) for seed in seeds]
        self.cost: Cost | None = None

    def __call__(self, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        plan, carry = self.planner(
            self.model, self.root(obs), carry, rng=self.rng, budget=self.budget
        )
        self.cost = plan.cost if self.cost is None else self.cost + plan.cost
        return plan.action.cpu(), carry


def _repeat_of(env: str) -> int:
    """Frames an action is held by default where nothing was trained."""
    return SUITE_REPEAT if env.startswith("dmc/") else 1


def wrapping(
    world: WorldModel | TrueWorld,
    particles: int | None,
    risk: Risk | None,
    penalty: float | None,
) -> Callable[[Model, Root], tuple[Model, Root]]:
    """`_wrap` with what is given; where None, with what the model was planned with in training."""
    own = (world.particles, world.penalty) if isinstance(world, WorldModel) else (1, 0.0)
    particles = own[0] if particles is None else particles
    penalty = own[1] if penalty is None else penalty
    if particles == 1 and not isinstance(risk, Mean | None):
        raise ValueError(
            f"risk={risk} weighs the returns of several particles, and there is one: set particles"
        )
    return partial(_wrap, particles, risk or Mean(), penalty)


def _wrap(
    particles: int, risk: Risk, penalty: float, model: Model, root: Root
) -> tuple[Model, Root]:
    """What to plan with where the model's uncertainty counts."""
    if penalty:
        model = penalised(model, penalty)
    if particles == 1:
        return model, root
    cloud = Particles(model, particles, risk)
    return cloud.model(), lambda obs: cloud.root(root(obs))


def _play(
    world: WorldModel | TrueWorld,
    env: VectorEnv,
    planner: Planner,
    numbers: list[int],
    seed: int,
    budget: Budget,
    keep: int,
    settings: dict[str, Any],
    wrap: Callable[[Model, Root], tuple[Model, Root]],
) -> list[dict[str, Any]]:
    """The records of the episodes `numbers`, played side by side in `env`."""
    seeds = [seed * SEED_STEP + number for number in numbers]
    root: Root
    if isinstance(world, TrueWorld):
        model, root, device = world.model(), partial(_true_root, world, env), torch.device("cpu")
    else:
        model, root, device = world.model(**settings), world.root, world.device
    driver = _Driver(*wrap(model, root), planner, seeds, budget, device)
    started = time.perf_counter()
    episodes = run_episodes(env, driver, seeds)
    seconds = time.perf_counter() - started
    assert driver.cost is not None
    ends = torch.cumsum(episodes.decisions, 0).tolist()
    decisions = max(episodes.decisions.tolist())
    records = []
    for row, number in enumerate(numbers):
        record = {
            "return": float(episodes.returns[row]),
            "frames": int(episodes.frames[row]),
            "decisions": int(episodes.decisions[row]),
            "steps_per_decision": float(driver.cost.steps[row]) / decisions,
            "gradients_per_decision": float(driver.cost.gradients[row]) / decisions,
            "seconds_per_decision": driver.cost.seconds / decisions / len(numbers),
            "seconds": seconds / len(numbers),
        }
        if number < keep:
            own = slice(ends[row] - int(episodes.decisions[row]), ends[row])
            record["trace"] = {
                "obs": episodes.steps.obs[own].tolist(),
                "action": episodes.steps.action[own].tolist(),
                "reward": episodes.steps.reward[own].tolist(),
            }
        records.append(record)
    return records


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("evals_control", evaluate, __doc__ or ""))
