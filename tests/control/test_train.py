"""Laws of training runs: they continue exactly, and say clearly why they do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from control import checkpoints
from control.agents.pets import PETS
from control.checkpoints import CheckpointError
from control.episodes import run_episodes
from control.train import train
from control.world_model import load_world_model
from mbrl_core import (
    CEM,
    MCTS,
    MPPI,
    BeamSearch,
    Carry,
    Discrete,
    GradMPC,
    ParticleFilter,
    RandomShooting,
    draws,
)

EPISODE = 80  # frames; ten decisions
TINY = {
    "env": "dmc/cartpole-swingup",
    "agent": PETS(members=2, hidden=(8,), epochs=3, batch_size=16, exploration_noise=0.1),
    "planner": CEM(horizon=3, samples=8, iterations=2, elites=3),
    "action_repeat": 8,
    "max_frames": EPISODE,
    "random_episodes": 1,
    "say": lambda line: None,
}
CHILD = """
import sys
from tests.control.test_train import TINY
from control.train import train
train(out=sys.argv[1], frames=int(sys.argv[2]), **TINY)
"""
TIMES = ("collect_s", "learn_s")


def outcome(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], torch.Tensor]:
    """What must not depend on interruptions: metrics but for times, weights, random state."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: v for name, v in row.items() if name not in TIMES} for row in rows]
    checkpoint = checkpoints.load(folder / "checkpoint.pt", "training run")
    return metrics, checkpoint["learner"]["ensemble"], checkpoint["rng"]


def assert_same(one: Path, other: Path) -> None:
    (metrics, weights, rng), (metrics_2, weights_2, rng_2) = outcome(one), outcome(other)
    assert metrics == metrics_2
    assert all(torch.equal(weights[name], weights_2[name]) for name in weights)
    assert torch.equal(rng, rng_2)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six episodes that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(out=folder, frames=6 * EPISODE, **TINY)
    return folder


def test_a_run_given_more_frames_equals_one_never_stopped(straight, tmp_path):
    for frames in (1, 3 * EPISODE, 6 * EPISODE):
        train(out=tmp_path, frames=frames, **TINY)
    assert_same(straight, tmp_path)


@pytest.mark.parametrize(
    "planner",
    [
        BeamSearch(width=2, expand=2, depth=2),
        ParticleFilter(particles=4, depth=2),
        MCTS(simulations=3, candidates=2),
    ],
    ids=["beam", "particle_filter", "mcts"],
)
def test_searches_over_candidate_actions_train_a_model_too(planner, tmp_path):
    train(out=tmp_path, frames=3 * EPISODE, **TINY | {"planner": planner})
    assert load_world_model(tmp_path / "model.pt").env == TINY["env"]


def test_a_killed_run_continues_bit_for_bit(straight, tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(10**9)]
    root = Path(__file__).parents[2]
    child = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 60
    try:
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = checkpoints.load_newest(tmp_path / "checkpoint.pt", "training run")[0]["frames"]
    fresh = tmp_path.with_name("fresh")
    for folder in (tmp_path, fresh):
        train(out=folder, frames=max(6 * EPISODE, done + EPISODE), **TINY)
    assert_same(fresh, tmp_path)
    known, theirs = outcome(straight)[0], outcome(fresh)[0]
    assert theirs[: len(known)] == known


def test_a_damaged_checkpoint_falls_back_on_the_one_before(straight, tmp_path):
    said: list[str] = []
    options = TINY | {"say": said.append}
    train(out=tmp_path, frames=4 * EPISODE, **options)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500])
    train(out=tmp_path, frames=6 * EPISODE, **options)
    assert any("damaged" in line and "checkpoint.previous.pt" in line for line in said)
    assert f"continuing after {3 * EPISODE} frames" in said
    assert_same(straight, tmp_path)


def test_two_damaged_checkpoints_end_in_one_sentence(tmp_path):
    train(out=tmp_path, frames=2 * EPISODE, **TINY)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not what it was")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged") as error:
        train(out=tmp_path, frames=3 * EPISODE, **TINY)
    assert "\n" not in str(error.value)


def test_other_arguments_are_refused(tmp_path):
    train(out=tmp_path, frames=1, **TINY)
    with pytest.raises(
        ValueError, match=r"holds a run with seed=0 \(now 1\): choose another folder"
    ):
        train(out=tmp_path, frames=1, seed=1, **TINY)
    with pytest.raises(ValueError, match="holds a run with agent="):
        train(out=tmp_path, frames=1, **TINY | {"agent": PETS(members=3)})


def test_a_loss_that_is_not_finite_stops_and_saves_its_batch(tmp_path):
    options = TINY | {"agent": PETS(members=2, hidden=(8,), learning_rate=1e30)}
    with pytest.raises(
        ValueError, match=r"loss is (nan|inf) in epoch .*, batch .* after 80 frames"
    ):
        train(out=tmp_path, frames=EPISODE, **options)
    batch = checkpoints.load(tmp_path / "not-finite-batch.pt", "batch")
    assert batch["x"].shape[0] == 2


def test_other_worlds_train_too(tmp_path):
    agent = PETS(members=2, hidden=(8,), epochs=2, reward="given", propagation="ts_1", particles=2)
    planner = MPPI(horizon=3, samples=8, iterations=1)
    options = {"agent": agent, "planner": planner, "say": lambda line: None}
    path = train(
        env="gym/Pendulum-v1", out=tmp_path, frames=60, num_envs=2, max_frames=15, **options
    )
    world = load_world_model(path)
    assert (world.env, world.reward, world.observation_dim) == ("gym/Pendulum-v1", "given", 3)
    assert world.record["frames"] == 60 and world.record["episodes"] == 4

    options["planner"] = RandomShooting(horizon=3, samples=8, actions="uniform")
    path = train(env="gym/CartPole-v1", out=tmp_path / "discrete", frames=60, **options)
    world = load_world_model(path)
    assert world.action_space == Discrete(2) and world.model().dynamics.terminates


def test_a_saved_model_plans_as_the_one_that_was_saved(straight):
    world = load_world_model(straight / "model.pt")
    env = world.make_env(num_envs=2, max_frames=EPISODE)
    assert env.action_repeat == world.action_repeat == 8
    root = world.root(env.reset([0, 1]))
    for planner, model in [
        (CEM(horizon=3, samples=8, iterations=1, elites=2), world.model()),
        (GradMPC(horizon=3, samples=2, iterations=1), world.model(propagation="mean")),
    ]:
        plan, _ = planner(model, root, rng=draws.generator(0))
        assert plan.action.shape == (2, 1) and plan.valid.all()
    assert not any(parameter.requires_grad for parameter in world.ensemble.parameters())
    state = checkpoints.load(straight / "checkpoint.pt", "training run")["learner"]["ensemble"]
    assert all(torch.equal(state[k], v) for k, v in world.ensemble.state_dict().items())


def test_world_models_that_cannot_be_read_say_why(straight, tmp_path):
    with pytest.raises(CheckpointError, match="there is no world model nowhere"):
        load_world_model("nowhere")
    cut = tmp_path / "cut.pt"
    cut.write_bytes((straight / "model.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_world_model(cut)
    with pytest.raises(CheckpointError, match="does not hold a world model"):
        load_world_model(straight / "checkpoint.pt")
    cut.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load_world_model(cut)


def test_the_model_that_comes_with_the_package_swings_up():
    world = load_world_model("cartpole-swingup")
    assert (world.env, world.action_repeat) == ("dmc/cartpole-swingup", 8)
    env, rng = world.make_env(), draws.generator(0)
    planner = MPPI(horizon=17, samples=64, iterations=2, temperature=0.3, init_std=1.0)
    model = world.model(aleatoric=False)

    def act(obs: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        plan, carry = planner(model, world.root(obs), carry, rng=rng)
        return plan.action, carry

    episodes = run_episodes(env, act, seeds=[1])
    assert episodes.frames.tolist() == [1000] and episodes.returns.item() > 750
