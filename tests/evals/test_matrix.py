"""One model under every planner: equal sizes, what applies, and runs that are continued."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from control.envs import make_env
from control.latent import LatentWorld, Size
from control.world_model import (
    EnsembleWorld,
    LatentWorldModel,
    Task,
    build_ensemble,
    save_world_model,
)
from evals import matrix as command
from evals.matrix import KINDS, matrix
from evals.matrix import Size as Allowed
from mbrl_core import Box, Particles, generator

ENV, REPEAT, BOX = "gym/Pendulum-v1", 20, Box(torch.tensor([-2.0]), torch.tensor([2.0]))
SMALL = {
    "steps": [40], "milliseconds": [2.0], "simulator": [32], "horizon": 4, "episodes": 1,
    "parallel": 1, "say": lambda line: None,
}  # fmt: skip


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Path:
    """A world model without a policy of its own; episodes are ten decisions."""
    net = build_ensemble(
        ENV, REPEAT, 3, BOX, reward="given", rng=generator(0), members=2, hidden=[4]
    )
    for part in (net.inputs, net.targets):  # as if fitted to standard normal data
        part.fitted.fill_(True)
    path = tmp_path_factory.mktemp("ensemble") / "model.pt"
    save_world_model(path, EnsembleWorld(net, ENV, REPEAT, "given", {}))
    return path


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Path:
    """A world model with a policy and values."""
    size = Size(encoder=8, hidden=8, latent=8, heads=2)
    world = LatentWorld(3, 1, size=size, rng=generator(0))
    path = tmp_path_factory.mktemp("latent") / "model.pt"
    task = Task(ENV, REPEAT, make_env(ENV).observation_dim, BOX, 0.9)
    save_world_model(path, LatentWorldModel(world, (task,), {}))
    return path


def test_every_planner_plays_within_its_budget(ensemble, tmp_path):
    page = matrix(model=str(ensemble), out=tmp_path, **SMALL)
    applying = [name for name, kind in KINDS.items() if not kind.by_policy]
    for name in applying:
        summary = json.loads((tmp_path / f"{name}-40-steps" / "summary.json").read_text())
        assert 24 <= summary["steps_per_decision"] <= 40, name
        assert (tmp_path / f"{name}-2-ms" / "summary.json").exists()
    for name in ("zero", "random"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["steps_per_decision"] == 0
    assert not (tmp_path / "policy").exists()
    text, written = (tmp_path / "matrix.md").read_text(), page.read_text()
    for name in (*(KINDS[name].name for name in applying), "true simulator", "zero action"):
        assert f"| {name} |" in text and name in written


def test_planners_that_follow_a_policy_are_there_where_the_model_has_one(latent, tmp_path):
    chosen = ["policy_tdmpc", "policy_grad_mpc"]
    options = SMALL | {"milliseconds": [], "simulator": []}
    matrix(model=str(latent), out=tmp_path, planners=chosen, **options)
    text = (tmp_path / "matrix.md").read_text()
    played = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/records.jsonl")}
    matrix(model=str(latent), out=tmp_path, planners=chosen, **options)  # nothing is played again
    assert played == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/records.jsonl")}
    assert (tmp_path / "matrix.md").read_text() == text
    for name in ("TD-MPC", "Policy+Grad-MPC", "policy only"):
        assert f"| {name} |" in text


def test_wrong_planners_are_refused_before_anything_is_played(ensemble, tmp_path):
    for names, told in ((["cme"], "no planner 'cme'"), (["policy_tdmpc"], "a policy of its own")):
        with pytest.raises(ValueError, match=told):
            matrix(model=str(ensemble), out=tmp_path, planners=names, **SMALL)
    with pytest.raises(ValueError, match="was trained for gym/Pendulum-v1"):
        matrix(model=str(ensemble), env="dmc/walker-walk", out=tmp_path, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("steps", "horizon"), [(400, 16), (1600, 3), (6400, 16), (100_000, 5)])
def test_a_planner_is_sized_to_use_what_it_may(name, steps, horizon):
    options = dict(o.split("=") for o in KINDS[name].options(Allowed(steps), horizon))
    samples = int(options["planner.samples"])
    rounds = int(options.get("planner.iterations", 1)) + (name.endswith("grad_mpc"))
    assert 0.8 * steps <= samples * rounds * horizon <= steps
    assert int(options.get("planner.elites", 1)) <= samples
    assert int(options.get("planner.policy_samples", 0)) < max(samples, 2)


def test_random_shooting_is_calibrated_once(ensemble, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_seconds", lambda model, state, samples, horizon: 1e-5 * samples)
    world = command.load_world_model(str(ensemble))
    size = Allowed(milliseconds=5.0)
    assert command._calibrated(tmp_path, world, {}, size, 4) == 500
    monkeypatch.setattr(command, "_seconds", None)
    assert command._calibrated(tmp_path, world, {}, size, 4) == 500
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"calibration.json is damaged: delete it"):
        command._calibrated(tmp_path, world, {}, size, 4)


def test_random_shooting_is_calibrated_with_the_model_that_plays(ensemble, tmp_path, monkeypatch):
    """Five particles and another propagation cost several times as much."""
    seen = []
    monkeypatch.setattr(command, "_seconds", lambda *args: seen.append(args[:2]) or 0.001)
    world = command.load_world_model(str(ensemble))
    world = dataclasses.replace(world, particles=5)
    command._calibrated(tmp_path, world, {"propagation": "mean"}, Allowed(milliseconds=5.0), 4)
    model, state = seen[0]
    assert isinstance(model.dynamics, Particles)
    assert (state.states.member == -1).all(), "no member of its own: the mean"


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", [0]), ("milliseconds", [0.0]), ("simulator", [-1]), ("horizon", 0)],
)
def test_sizes_are_above_zero(ensemble, tmp_path, option, value):
    with pytest.raises(ValueError, match=f"{option} must be above 0, not"):
        matrix(model=str(ensemble), out=tmp_path, **SMALL | {option: value})


def test_paths_may_have_any_characters(ensemble, tmp_path):
    model, out = tmp_path / "a=b (1).pt", tmp_path / "m=8, x's"
    shutil.copy(ensemble, model)
    options = SMALL | {"milliseconds": [], "simulator": [], "planners": ["cem"]}
    page = matrix(model=str(model), out=out, **options)
    assert (out / "cem-40-steps" / "summary.json").exists() and "a=b (1).pt" in page.read_text()
