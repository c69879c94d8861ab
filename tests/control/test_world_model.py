"""World models as files: every kind is restored whole, planned with alike, and refused clearly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from control import checkpoints
from control.checkpoints import CheckpointError
from control.latent import LatentWorld, Size
from control.world_model import (
    EnsembleWorld,
    LatentWorldModel,
    Task,
    WorldModel,
    build_ensemble,
    load_world_model,
    save_world_model,
)
from evals.control import evaluate
from mbrl_core import CEM, MPPI, TDMPC, Box, GradMPC, RandomShooting, Reflex, generator
from tests.control.test_tdmpc2 import published, scrambled

ENV, REPEAT = "gym/Pendulum-v1", 2
BOX = Box(torch.tensor([-2.0]), torch.tensor([2.0]))
QUIET = {"say": lambda line: None}
TINY = Size(encoder=16, hidden=16, latent=16, bins=21)


def an_ensemble() -> EnsembleWorld:
    ensemble = build_ensemble(
        ENV, REPEAT, 3, BOX, reward="given", rng=generator(0), members=2, hidden=[8]
    )
    for part in (ensemble.inputs, ensemble.targets):
        part.fitted.fill_(True)
    return EnsembleWorld(ensemble, ENV, REPEAT, "given", {"seed": 3})


def a_latent(episodic: bool = True) -> LatentWorldModel:
    world = scrambled(LatentWorld(3, 1, size=TINY, episodic=episodic, rng=generator(0)))
    task = Task(ENV, REPEAT, 3, BOX, 0.97)
    return LatentWorldModel(world.requires_grad_(False), (task,), {"seed": 3})


WORLDS = {"ensemble": an_ensemble, "tdmpc2": a_latent}


@pytest.mark.parametrize("kind", WORLDS)
def test_a_world_model_is_restored_whole(kind, tmp_path):
    world = WORLDS[kind]()
    save_world_model(tmp_path / "model.pt", world)
    again = load_world_model(tmp_path / "model.pt", ENV)
    assert type(again) is type(world) and kind == again.NAME
    for name in ("env", "action_repeat", "observation_dim", "record"):
        assert getattr(again, name) == getattr(world, name)
    assert all(torch.equal(a, b) for a, b in zip(again.action_space, BOX, strict=True))
    obs, action = torch.randn(6, 3), torch.rand(6, 1)
    steps = [w.model().dynamics.step(w.root(obs), action, rng=generator(1)) for w in (world, again)]
    for name in ("reward", "discount"):
        assert torch.equal(getattr(steps[0], name), getattr(steps[1], name))
    assert again.make_env(2).num_envs == 2
    parameters = again.world.parameters() if kind == "tdmpc2" else again.ensemble.parameters()
    assert not any(parameter.requires_grad for parameter in parameters)


def test_an_ensemble_knows_what_it_was_planned_with(tmp_path):
    world, path = replace(an_ensemble(), particles=4, penalty=0.5), tmp_path / "model.pt"
    save_world_model(path, world)
    assert vars(load_world_model(path)).keys() == vars(world).keys()
    options = {"env": ENV, "model": str(path), "episodes": 1, "max_frames": 4, **QUIET}
    options["planner"] = CEM(horizon=2, samples=6, elites=2, iterations=1)
    paid = {
        name: evaluate(out=tmp_path / name, **options, **given)
        for name, given in {"own": {}, "same": {"particles": 4, "penalty": 0.5}}.items()
    }
    assert paid["own"]["return"] == paid["same"]["return"]
    assert paid["own"]["steps_per_decision"] == 4 * 2 * 6
    one = evaluate(out=tmp_path / "one", **options, particles=1, penalty=0.0)
    assert one["steps_per_decision"] == 2 * 6
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        evaluate(out=tmp_path / "gpu", **options, device="gpu")


@pytest.mark.parametrize("kind", WORLDS)
def test_settings_a_kind_does_not_have_are_refused(kind):
    world = WORLDS[kind]()
    foreign = "heads" if kind == "ensemble" else "propagation"
    assert world.model(**{foreign: None}).action_space is BOX
    with pytest.raises(ValueError, match=f"kind '{kind}' has no {foreign}: its settings are"):
        world.model(**{foreign: "mean"})
    dynamics = world.model(discount=0.5).dynamics
    moved = dynamics.step(world.root(torch.zeros(1, 3)), torch.zeros(1, 1), rng=generator(0))
    assert moved.discount in (0.5, 0.0)
    with pytest.raises(ValueError, match=f"was trained for {ENV}, not for gym/CartPole-v1"):
        world.of("gym/CartPole-v1")


@pytest.mark.parametrize(
    "planner",
    [
        RandomShooting(horizon=2, samples=6),
        CEM(horizon=2, samples=6, elites=3, iterations=2),
        MPPI(horizon=2, samples=6, iterations=2),
        TDMPC(horizon=2, samples=8, elites=3, policy_samples=2, iterations=2),
        GradMPC(horizon=2, samples=3, iterations=2),
        Reflex(),
    ],
    ids=lambda planner: type(planner).__name__,
)
@pytest.mark.parametrize("kind", WORLDS)
def test_every_planner_drives_every_kind(kind, planner):
    world = WORLDS[kind]()
    model = world.model() if kind == "tdmpc2" else world.model(propagation="mean")
    plan, _ = planner(model, world.root(torch.randn(2, 3)), rng=generator(0))
    assert plan.action.shape == (2, 1) and (plan.action.abs() <= 2).all()


def test_the_model_that_comes_with_the_package_still_loads():
    world = load_world_model("cartpole-swingup")
    assert isinstance(world, WorldModel) and world.env == "dmc/cartpole-swingup"
    assert load_world_model("cartpole-swingup", world.env).observation_dim == 5


def published_file(world: LatentWorld, path: Path) -> Path:
    """A published checkpoint with random weights."""
    torch.save({"model": published(scrambled(world), numbered=world.tasks is None)}, path)
    return path


def test_a_published_checkpoint_is_played_by_the_command(tmp_path):
    path = published_file(LatentWorld(3, 1, size=TINY), tmp_path / "pendulum.pt")
    with pytest.raises(CheckpointError, match="does not say what environment"):
        load_world_model(path)
    with pytest.raises(CheckpointError, match=r"is of 3 observations and 1 actions, .* 67 and 21"):
        load_world_model(path, "dmc/humanoid-walk")
    planner = TDMPC(horizon=2, samples=8, elites=3, policy_samples=2, iterations=1)
    summary = evaluate(
        env=ENV, model=str(path), planner=planner, episodes=1, out=tmp_path / "out", **QUIET
    )
    assert summary["frames"] == 200


def test_a_published_multitask_checkpoint_is_a_model_of_each_of_its_tasks(tmp_path):
    world = LatentWorld(24, 6, size=TINY, task_actions=[6] * 30)
    path = published_file(world, tmp_path / "mt30.pt")
    with pytest.raises(CheckpointError, match="multitask models know no dmc/humanoid-walk"):
        load_world_model(path, "dmc/humanoid-walk")
    model = load_world_model(path, "dmc/cartpole-swingup")
    assert model.action_repeat == 2 and model.model().dynamics.discount == pytest.approx(0.99)
    world.tasks.data = world.tasks.data.renorm(2, 0, 1.0)
    filled = torch.cat([torch.ones(3, 5), torch.zeros(3, 19)], 1)
    expected = world.encode(filled, torch.full((3,), 10))  # cartpole-swingup is the tenth
    torch.testing.assert_close(model.root(torch.ones(3, 5)), expected)


def test_files_that_hold_no_world_model_say_so(tmp_path):
    path = tmp_path / "model.pt"
    checkpoints.save(path, {"kind": "something else"})
    with pytest.raises(CheckpointError, match="does not hold a world model"):
        load_world_model(path)
    checkpoints.save(path, {"kind": "world model", "model": "unheard of", "metadata": "{}"})
    with pytest.raises(CheckpointError, match="holds no world model of this version"):
        load_world_model(path)
    (tmp_path / "cut.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="damaged"):
        load_world_model(tmp_path / "cut.pt")
