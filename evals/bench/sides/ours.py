"""Our side: the planners of `mbrl_core` through their public interface."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evals.bench import numbers, worlds
from evals.bench.options import changed
from evals.bench.worker import Job, serve
from mbrl_core import (
    CEM,
    MCTS,
    MPPI,
    PUCT,
    TDMPC,
    Carry,
    Gumbel,
    Model,
    Plan,
    Planner,
    Rows,
    Selection,
    generator,
)
from mbrl_core.rollouts import simulate_actions
from mbrl_core.world import World

SELECTIONS: dict[str, Selection] = {"PUCT": PUCT(), "Gumbel": Gumbel(scale=0.0)}


def prepare(settings: Mapping[str, Any]) -> Job:
    """A plan for the settings of the cell."""
    return _search(settings) if settings["planner"] == "MCTS" else _trajectories(settings)


def _trajectories(settings: Mapping[str, Any]) -> Job:
    width, planner = settings["width"], control_planner(settings)
    latent = settings["planner"] == "TD-MPC2"
    world = worlds.LatentWorld(width) if latent else worlds.ControlWorld(width)
    model = worlds.control_model(world)
    used = model._replace(dynamics=changed(world, settings.get("option")))
    state = torch.from_numpy(numbers.states(settings["roots"]))
    plan = torch.inference_mode()(partial(_plan, planner, used, state))
    return Job(plan, partial(_quality, model, state))


def _search(settings: Mapping[str, Any]) -> Job:
    planner = MCTS(
        simulations=settings["simulations"],
        candidates=settings["actions"],
        selection=SELECTIONS[settings["selection"]],
    )
    model, state = game_problem(settings)
    return Job(partial(_plan, planner, model, state), lambda found: found[0].action.tolist())


def control_planner(settings: Mapping[str, Any]) -> Planner:
    """The planner of a control cell."""
    shape = {name: settings[name] for name in ("horizon", "samples", "iterations")}
    shape["compiled"] = settings.get("option") == "compiled"
    elites = settings["elites"]
    if settings["planner"] == "CEM":
        return CEM(elites=elites, **shape)
    if settings["planner"] == "MPPI":
        return MPPI(output="best", **shape)
    if settings["planner"] == "TD-MPC2":
        return TDMPC(elites=elites, **shape)
    raise ValueError(f"no planner {settings['planner']!r}")


def game_problem(settings: Mapping[str, Any]) -> tuple[Model, Rows]:
    """The game of a search cell and its first states."""
    more = {name: settings[name] for name in ("width", "seconds") if name in settings}
    return worlds.search_problem(settings["world"], settings["actions"], settings["roots"], **more)


def _plan(planner: Planner, model: Model, state: Any) -> tuple[Plan, Carry]:
    return planner(model, state, rng=generator(0))


def _quality(model: Model, state: Tensor, found: tuple[Plan, Any]) -> float:
    """Mean return of the plans in the model as it was before any option changed it."""
    plan, carry = found
    actions = torch.cat([plan.action.unsqueeze(1), carry.mean[:, :-1]], 1)
    world = World("bench", model, state, rng=generator(0))
    with torch.inference_mode():
        return simulate_actions(world, state, actions.unsqueeze(1)).returns.mean().item()


if __name__ == "__main__":
    serve(prepare)
