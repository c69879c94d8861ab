"""Play episodes in a real environment, planning with a learned world model.

    python -m evals.control env=dmc/cartpole-swingup planner=cem episodes=10 out=runs/cem

writes out/records.jsonl, a line per episode, and out/summary.json. Killed and started again with
the same arguments it plays what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from control.ensemble import Propagation
from control.envs import VectorEnv
from control.episodes import run_episodes
from control.world_model import WorldModel, find_world_model, load_world_model
from evals.records import RecordStore, fingerprint
from evals.stats import t_interval
from mbrl_core import Budget, Carry, Cost, Planner, generator

SEED_STEP = 1_000_003  # keeps the episodes' seeds of different runs apart


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
    propagation: Propagation | None = None,
    aleatoric: bool | None = None,
    budget: Mapping[str, float | None] | None = None,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Play `episodes` episodes and return the summary.

    Args:
        env: the environment; it must be the one the model was trained for.
        planner: chooses every action.
        model: a world-model file, or the name of one that comes with the package.
        episodes: how many; episode i is decided by `seed` and i, up to rounding.
        out: the run folder.
        seed: of the environments and of the planner's draws.
        parallel: episodes played side by side; they complete together.
        keep: of so many episodes the record holds observations, actions and rewards.
        propagation: how the ensemble's members share the rows (see `Ensemble`).
        aleatoric: whether predicted noise is drawn.
        budget: limits per decision, by the names of `mbrl_core.Budget`.
        arguments: what the run folder records; by default the plain ones given here.
        say: receives progress lines.

    Raises:
        ValueError: the model is of another environment, `episodes` or `parallel` is below 1, or
            `out` holds a run of other arguments.
    """
    for name, number in [("episodes", episodes), ("parallel", parallel)]:
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    world = load_world_model(model)
    if world.env != env:
        raise ValueError(f"the world model {model} was trained for {world.env}, not for {env}")
    deciding = {
        "env": env, "model": model, "planner": repr(planner), "episodes": episodes, "seed": seed,
        "parallel": parallel, "keep": keep, "propagation": propagation, "aleatoric": aleatoric,
        "budget": dict(budget or {}),
    }  # fmt: skip
    described = {k: v for k, v in (arguments or deciding).items() if k != "out"}
    described["weights"] = fingerprint(find_world_model(model))
    limits = Budget(**(budget or {}))  # type: ignore[arg-type]
    with RecordStore(out, described) as store:
        for first in range(0, episodes, parallel):
            numbers = range(first, min(first + parallel, episodes))
            missing = [i for i in numbers if i not in store]
            if not missing:
                continue
            # The whole group is played even if part of it is on record: equal shapes round alike.
            records = _play(
                world, planner, list(numbers), seed, limits, keep,
                propagation=propagation, aleatoric=aleatoric,
            )  # fmt: skip
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


class _Driver:
    """Acts with a planner and keeps its ledger."""

    def __init__(
        self, world: WorldModel, planner: Planner, seeds: list[int], budget: Budget, **settings: Any
    ) -> None:
        self.world, self.planner, self.budget = world, planner, budget
        self.model = world.model(**settings)
        # A generator per episode: what is played beside an episode does not change its draws.
        self.rng = [generator(seed) for seed in seeds]
        self.cost: Cost | None = None

    def __call__(self, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        plan, carry = self.planner(
            self.model, self.world.root(obs), carry, rng=self.rng, budget=self.budget
        )
        self.cost = plan.cost if self.cost is None else self.cost + plan.cost
        return plan.action, carry


def _play(
    world: WorldModel,
    planner: Planner,
    numbers: list[int],
    seed: int,
    budget: Budget,
    keep: int,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The records of the episodes `numbers`, played side by side."""
    seeds = [seed * SEED_STEP + number for number in numbers]
    env: VectorEnv = world.make_env(len(numbers))
    driver = _Driver(world, planner, seeds, budget, **settings)
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
