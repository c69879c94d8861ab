"""One model of two tasks: what it learns from, what it keeps apart, that it acts in both."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from configs import cli
from control import checkpoints
from control.agents.tdmpc2 import TDMPC2, Batch, Updates
from control.checkpoints import CheckpointError
from control.episodes import run_episodes
from control.finite import NotFiniteError
from control.latent import LatentModel, Size
from control.metrics import read_rows
from control.multitask import KIND, Dataset, _repeat, read_run, train_multitask
from control.train import train
from control.world_model import LatentWorldModel, load_world_model
from mbrl_core import TDMPC, generator

ENVS = ("dmc/cartpole-swingup", "dmc/reacher-easy")  # 5 and 6 observations, 1 and 2 actions
TINY = Size(encoder=16, hidden=16, latent=16, simnorm=4, task=3, bins=21, heads=2)
AGENT = TDMPC2(size=TINY, batch_size=8, random_frames=1000, action_repeat=8)
AGENTS = sorted(file.stem for file in (cli.CONFIG_FOLDER / "agent").glob("*.yaml"))
QUIET = {"say": lambda line: None}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[Path]:
    """Two runs of random actions."""
    folders = []
    for number, env in enumerate(ENVS):
        folder = tmp_path_factory.mktemp("run") / str(number)
        more = {"frames": 200, "max_frames": 80, "eval_frames": None}
        folders.append(train(env=env, agent=AGENT, out=folder, **more, **QUIET))
    return folders


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    return train_multitask(data=data, agent=AGENT, out=folder, updates=6, log_updates=4, **QUIET)


def test_a_batch_is_padded_and_masked_by_task(data):
    dataset = Dataset([read_run(folder) for folder in data], 3)
    batch = dataset.batch(64, generator(0), torch.device("cpu"))
    assert batch.obs.shape == (4, 64, 6) and batch.action.shape == (3, 64, 2)
    first = batch.task == 0
    assert 16 < first.sum() < 48
    assert (batch.obs[:, first, 5:] == 0).all() and (batch.action[:, first, 1:] == 0).all()
    assert batch.obs[:, ~first, 5:].any() and batch.action[:, ~first, 1:].any()
    assert (batch.discount == 0.95).all()  # of ten decisions


def test_the_model_acts_in_both_tasks(trained):
    planner = TDMPC(horizon=2, samples=12, elites=4, policy_samples=3, iterations=2)
    for env in ENVS:
        world = load_world_model(trained / "model.pt", env)
        assert isinstance(world, LatentWorldModel) and world.env == env
        model, rng = world.model(), generator(0)
        episodes = run_episodes(
            world.make_env(2, max_frames=24),
            lambda obs, carry, m=model, w=world, r=rng: _acted(
                planner(m, w.root(obs), carry, rng=r)
            ),
        )
        assert episodes.steps.action.shape[1] == len(world.action_space.low)
        assert (episodes.steps.action.abs() <= 1).all()
    with pytest.raises(ValueError, match="was trained for dmc/cartpole-swingup, dmc/reacher-easy"):
        load_world_model(trained / "model.pt", "dmc/walker-walk")


def _acted(planned):
    plan, carry = planned
    return plan.action, carry


def test_tasks_have_models_of_their_own_in_shared_networks(trained):
    worlds = [load_world_model(trained / "model.pt", env) for env in ENVS]
    obs = torch.randn(4, 5, generator=generator(0))
    alike = torch.cat([obs, torch.zeros(4, 1)], 1)
    assert not torch.allclose(worlds[0].root(obs), worlds[1].root(alike))
    shared = worlds[0].world
    assert (shared.tasks.norm(dim=1) <= 1 + 1e-6).all()
    state, view = worlds[0].root(obs), worlds[0]._view()
    # A missing action is no action: the policy of task 0 never uses the second one.
    drawn = shared.actor(state, torch.zeros(4).long()).actions(torch.randn(4, 2))[0]
    assert (drawn[:, 1] == 0).all() and (drawn[:, 0] != 0).all()
    assert view.propose(state, 3, rng=generator(0)).actions.shape == (12, 1)
    assert isinstance(view, LatentModel)


def test_a_run_continued_equals_one_never_stopped(data, trained, tmp_path):
    for updates in (3, 6):
        train_multitask(
            data=data, agent=AGENT, out=tmp_path, updates=updates, log_updates=4, **QUIET
        )
    one, other = (
        checkpoints.load(folder / "checkpoint.pt", KIND) for folder in (trained, tmp_path)
    )
    for name, x in one["updates"]["world"].items():
        assert torch.equal(x, other["updates"]["world"][name]), name
    assert torch.equal(one["rng"], other["rng"])


def test_a_loss_that_is_not_finite_stops_or_is_skipped(data, tmp_path, monkeypatch):
    real, calls = Updates.update, itertools.count(1)

    def update(self: Updates, batch: Batch) -> torch.Tensor:
        if next(calls) % 6 in (2, 3):
            raise NotFiniteError("the loss is nan", {"obs": batch.obs})
        return real(self, batch)

    monkeypatch.setattr(Updates, "update", update)
    more = {"data": data, "agent": AGENT, "updates": 6, "log_updates": 1, **QUIET}
    skipping = train_multitask(out=tmp_path / "skip", nan="skip", **more)
    for done in (2, 3):  # the same command goes on
        with pytest.raises(ValueError, match=f"the loss is nan, after {done} updates; the batch"):
            train_multitask(out=tmp_path / "stop", **more)
        batch = checkpoints.load(tmp_path / "stop/not-finite-batch.pt", "batch")
        assert batch["obs"].shape == (4, 8, 6)
    stopping = train_multitask(out=tmp_path / "stop", **more)
    for folder in (skipping, stopping):
        rows = read_rows(folder / "metrics.csv")
        assert [row["skipped"] for row in rows] == [0, 1, 2, 2, 2, 2]
        assert [row["updates"] for row in rows] == [1, 1, 1, 2, 3, 4]
        assert ["loss" in row for row in rows] == [True, False, False, True, True, True]
    one, other = (checkpoints.load(f / "checkpoint.pt", KIND) for f in (skipping, stopping))
    for name, x in one["updates"]["world"].items():
        assert torch.equal(x, other["updates"]["world"][name]), name
    with pytest.raises(ValueError, match="nan must be 'stop' or 'skip', not 'ignore'"):
        train_multitask(out=tmp_path / "ignored", nan="ignore", **more)


def test_what_cannot_be_learned_from_is_refused(data, trained, tmp_path):
    run = read_run(data[0])
    with pytest.raises(ValueError, match="different tasks"):
        Dataset([run, run], 3)
    with pytest.raises(ValueError, match="has no episode of 50 steps"):
        Dataset([run], 50)
    with pytest.raises(CheckpointError, match="there is no file"):
        read_run(tmp_path)


def test_other_options_than_those_of_the_run_are_refused_by_name(data, trained):
    other = replace(AGENT, learning_rate=0.1, size=replace(TINY, latent=32))
    more = {"data": data, "out": trained, "updates": 7, "log_updates": 4, **QUIET}
    with pytest.raises(
        ValueError,
        match=r"with agent.learning_rate=0.0003 \(now 0.1\), agent.size.latent=16 \(now 32\), "
        r"seed=0 \(now 9\): choose another folder",
    ):
        train_multitask(agent=other, seed=9, **more)
    with pytest.raises(ValueError, match="holds a run with data="):
        train_multitask(agent=AGENT, **more | {"data": data[:1]})


@pytest.mark.parametrize("agent", AGENTS)
def test_the_action_repeat_of_every_agent_is_found_in_its_record(agent, data, tmp_path):
    options = cli.compose("control_train", [f"agent={agent}"]).options.agent
    recorded = OmegaConf.to_container(options, resolve=True)
    assert _repeat(recorded) == instantiate(options).action_repeat
    folder = shutil.copytree(data[0], tmp_path / "run")
    arguments = json.loads((folder / "arguments.json").read_text())
    arguments |= {"action_repeat": None, "agent": recorded}
    (folder / "arguments.json").write_text(json.dumps(arguments))
    assert read_run(folder)[0].action_repeat == _repeat(recorded)


def test_a_run_is_only_read_and_a_damaged_checkpoint_is_told(data, tmp_path):
    folder = shutil.copytree(data[0], tmp_path / "run")
    shutil.copy(folder / "checkpoint.pt", folder / "checkpoint.previous.pt")
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    for path in (folder / "replay").glob("*.memmap"):  # as small as it may be
        rows = path.stat().st_size // 2**16
        os.truncate(path, 25 * rows)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before, (_, whole) = contents(), read_run(data[0])
    (folder / "replay/meta.json").unlink()
    del before[folder / "replay/meta.json"]
    told: list[str] = []
    _, replay = read_run(folder, say=told.append)
    assert contents() == before
    drawn = [r.sequences(9, 3, generator(0)) for r in (whole, replay)]
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    assert len(told) == 1 and "checkpoint.pt is damaged" in told[0]
    assert told[0].endswith("; going on from checkpoint.previous.pt")
    steps, truncated = replay.latest(1)
    with pytest.raises(ValueError, match="was opened to be read: it takes no steps"):
        replay.add(steps, truncated)


def test_a_discount_is_the_one_given_or_that_of_the_run(data, tmp_path):
    assert read_run(data[0], 0.7)[0].discount == 0.7
    options = {"frames": 200, "max_frames": 80, "eval_frames": None, **QUIET}
    agent = replace(AGENT, discount=0.8)
    train(env=ENVS[0], agent=agent, out=tmp_path / "run", **options)
    assert read_run(tmp_path / "run")[0].discount == 0.8
    train_multitask(
        data=[tmp_path / "run"], agent=replace(AGENT, discount=0.6), out=tmp_path / "one",
        updates=1, **QUIET,
    )  # fmt: skip
    assert load_world_model(tmp_path / "one" / "model.pt").tasks[0].discount == 0.6
