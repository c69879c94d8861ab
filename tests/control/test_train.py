"""Laws of training runs: they continue exactly, and say clearly why they do not."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from control import checkpoints
from control.agents.dynaq import DynaQAgent
from control.agents.mbpo import MBPO
from control.agents.pets import PETS
from control.agents.sac import SAC
from control.agents.stable_baselines import BaselinePPO, BaselineSAC
from control.agents.tdmpc2 import TDMPC2
from control.checkpoints import CheckpointError
from control.episodes import run_episodes
from control.finite import NotFiniteError
from control.latent import Size
from control.learned_model import ModelRecipe
from control.loop import KIND
from control.metrics import COLUMNS, TIMES
from control.train import train
from control.types import Act, Evaluation, Row, RunInfo
from control.world_model import load_world_model
from mbrl_core import (
    CEM,
    ICEM,
    MCTS,
    MPPI,
    TDMPC,
    BeamSearch,
    Carry,
    CategoricalCEM,
    Discrete,
    GradMPC,
    ParticleFilter,
    RandomShooting,
    draws,
)

EPISODE = 80  # frames; ten decisions
SMALL: dict[str, Any] = {
    "members": 2,
    "hidden": (8,),
    "epochs": 2,
    "batch_size": 16,
    "random_frames": EPISODE,
}
TINY: dict[str, Any] = {
    "env": "gym/Pendulum-v1",
    "agent": PETS(**SMALL, exploration_noise=0.1),
    "planner": ICEM(horizon=3, samples=8, iterations=2, elites=3),
    "action_repeat": 8,
    "max_frames": EPISODE,
    "eval_frames": 2 * EPISODE,
    "eval_episodes": 2,
    "log_frames": EPISODE,
    "checkpoint_frames": 56,  # within episodes
    "say": lambda line: None,
}
AGENTS: dict[str, dict[str, Any]] = {
    "pets": TINY,
    "tdmpc2": TINY
    | {
        "env": "dmc/cartpole-swingup",
        "agent": TDMPC2(
            size=Size(encoder=16, hidden=16, latent=16, heads=2, bins=11),
            batch_size=8,
            random_frames=EPISODE,
        ),
        "planner": TDMPC(horizon=2, samples=8, elites=4, policy_samples=2, iterations=2),
    },
    "mbpo": TINY
    | {
        "agent": MBPO(
            sac=SAC(hidden=(8,), batch_size=8, random_frames=EPISODE),
            model=ModelRecipe(members=2, elites=1, hidden=(8,), fit_every=20, epochs=2),
            rollouts_per_step=4,
            rollout_every=5,
        ),
        "planner": None,
    },
}
# Discrete actions, and episodes that end by themselves, each at its own time.
TERMINATING = TINY | {
    "env": "gym/CartPole-v1",
    "agent": PETS(**SMALL, reward="given", train_every=40),
    "planner": RandomShooting(horizon=3, samples=8, actions="uniform"),
    "action_repeat": 1,
    "num_envs": 3,
}
# A process of its own for each agent, forked before anything is computed.
CHILDREN = """
import os, sys
from tests.control.test_train import AGENTS
from control.train import train
for agent, options in AGENTS.items():
    child = os.fork()
    if child == 0:
        train(out=os.path.join(sys.argv[1], agent), frames=10**6, **options)
    print(agent, child)
"""


def same(one: Any, other: Any) -> bool:
    """Equal in all that a checkpoint holds."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on interruptions."""
    state = checkpoints.load(folder / "checkpoint.pt", KIND)
    for name in ("rows", "seconds"):  # read from the file instead; wall time
        del state["metrics"][name]
    del state["replay"]["before"]  # when the last checkpoint but one was
    return state


def train_quietly(folder: Path, frames: int, **options: Any) -> list[str]:
    """Train, and return what was said."""
    said: list[str] = []
    train(out=folder, frames=frames, **options | {"say": said.append})
    return said


def metrics(folder: Path) -> list[Row]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if name not in TIMES} for row in rows]


def assert_same(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    assert same(outcome(one), outcome(other))
    for path in (one / "replay").glob("*.memmap"):
        assert path.read_bytes() == (other / "replay" / path.name).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """A killed process loses nothing that it wrote; waiting for the disk is for power cuts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six episodes that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(out=folder, frames=6 * EPISODE, **TINY)
    return folder


# ---------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("options", [TINY, TERMINATING], ids=["truncated", "terminated"])
def test_a_run_given_more_frames_equals_one_never_stopped(options, tmp_path):
    train(out=tmp_path / "straight", frames=5 * EPISODE, **options)
    for frames in (1, 100, 101, 250, 5 * EPISODE):
        train(out=tmp_path / "stopped", frames=frames, **options)
    assert_same(tmp_path / "straight", tmp_path / "stopped")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, by agent, that were killed at some moment after their third row."""
    folder, root = tmp_path_factory.mktemp("killed"), Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CHILDREN, str(folder)]
    pids = folder / "pids"  # a pipe would stay open as long as the children live
    with pids.open("w") as file:
        subprocess.run(command, cwd=root, env=environment, stdout=file, check=True)
    children = {agent: int(pid) for agent, pid in map(str.split, pids.read_text().splitlines())}
    assert children.keys() == AGENTS.keys()
    deadline = time.monotonic() + 300  # on a busy machine
    try:
        while children and time.monotonic() < deadline:
            time.sleep(int.from_bytes(os.urandom(1)) / 1000)
            for agent, child in list(children.items()):
                rows = folder / agent / "metrics.jsonl"
                if rows.exists() and len(rows.read_text().splitlines()) >= 3:
                    os.kill(child, signal.SIGKILL)
                    del children[agent]
    finally:
        for child in children.values():
            os.kill(child, signal.SIGKILL)
    assert not children, "not trained in time"
    return folder


@pytest.mark.parametrize("agent", AGENTS)
def test_a_killed_run_continues_bit_for_bit(agent, killed, tmp_path):
    done = checkpoints.load_newest(killed / agent / "checkpoint.pt", KIND)[0]["frames"]
    for folder in (killed / agent, tmp_path):
        train(out=folder, frames=done + EPISODE, **AGENTS[agent])
    assert_same(tmp_path, killed / agent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_says_where_and_continues(number, straight, tmp_path):
    said: list[str] = []

    class Stopper(Silent):
        def on_row(self, row: Row) -> None:
            if row["frames"] == 3 * EPISODE:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path, frames=6 * EPISODE, watch=[Stopper()], **TINY | {"say": said.append})
    assert signal.getsignal(number) is before
    assert said[-1] == f"stopped after {3 * EPISODE} frames; the same command continues"
    train(out=tmp_path, frames=6 * EPISODE, **TINY)
    assert_same(straight, tmp_path)


def test_a_ring_continues_exactly_too(tmp_path):
    """Of the latest 40 decisions: what is overwritten after a checkpoint was not in its draws."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Sampler(PETS):
        def start(self, env: Any, planner: Any, *, rng: torch.Generator) -> Any:
            return SamplingLearner(super().start(env, planner, rng=rng))

    options = TINY | {"agent": Sampler(**SMALL), "replay_capacity": 40, "eval_frames": None}
    train(out=tmp_path / "straight", frames=10 * EPISODE, **options)
    for frames in (390, 400, 590, 10 * EPISODE):
        train(out=tmp_path / "stopped", frames=frames, **options)
    assert_same(tmp_path / "straight", tmp_path / "stopped")
    assert len(metrics(tmp_path / "straight")) == 10


class SamplingLearner:
    """Acts at random, and learns the mean of what it draws."""

    device = torch.device("cpu")

    def __init__(self, pets: Any) -> None:
        self.rng, self.mean = pets.rng, 0.0

    def act(self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator) -> Any:
        return draws.uniform(rng, len(obs), 1), None

    def learn(self, replay: Any, steps: int) -> dict[str, float]:
        drawn = replay.sequences(8, 2, self.rng).reward.sum() + replay.sample(8, self.rng).obs.sum()
        self.mean = 0.9 * self.mean + 0.1 * drawn.item()
        return {"updates": 1, "mean": self.mean}

    def world_model(self, record: dict[str, Any]) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]


# -------------------------------------------------------------------------- damage, full disks


def test_a_damaged_checkpoint_falls_back_on_the_one_before(straight, tmp_path):
    said: list[str] = []
    train(out=tmp_path, frames=4 * EPISODE, **TINY)
    path = tmp_path / "checkpoint.pt"
    older = checkpoints.load(checkpoints.previous(path), KIND)["frames"]
    path.write_bytes(path.read_bytes()[:-500])
    train(out=tmp_path, frames=6 * EPISODE, **TINY | {"say": said.append})
    assert "damaged" in said[0] and "checkpoint.previous.pt" in said[0]
    assert said[1] == f"continuing after {older} frames" and older < 4 * EPISODE
    assert_same(straight, tmp_path)


def test_the_checkpoint_before_is_kept_where_files_have_one_name_each(tmp_path, monkeypatch):
    def link(path: Path, name: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "checkpoint.pt"
    for number in (1, 2, 3):
        checkpoints.save(path, {"kind": KIND, "number": number}, keep_previous=True)
    assert checkpoints.load(path, KIND)["number"] == 3
    assert checkpoints.load(checkpoints.previous(path), KIND)["number"] == 2
    path.write_bytes(path.read_bytes()[:-50])
    assert checkpoints.load_newest(path, KIND)[0]["number"] == 2
    assert checkpoints.load(path, KIND)["number"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
    ]


@pytest.mark.parametrize("kind", ["text", "directory", "cut"])
def test_whatever_damaged_a_file_the_one_before_is_read(kind, tmp_path):
    path = tmp_path / "checkpoint.pt"
    for number in (1, 2):
        checkpoints.save(path, {"kind": KIND, "number": number}, keep_previous=True)
    whole = path.read_bytes()
    name = whole.rindex(b"PK\x01\x02") + 46  # in the zip file's directory
    damaged = {
        "text": b"Models\n",
        "directory": whole[:name] + b"\xff" + whole[name + 1 :],
        "cut": whole[: len(whole) // 2],
    }
    path.write_bytes(damaged[kind])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged, or no file of this"):
        checkpoints.load(path, KIND)
    assert checkpoints.load_newest(path, KIND)[0]["number"] == 1


def test_two_damaged_checkpoints_end_in_one_sentence(tmp_path):
    train(out=tmp_path, frames=2 * EPISODE, **TINY)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not what it was")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged.*anew") as error:
        train(out=tmp_path, frames=3 * EPISODE, **TINY)
    assert "\n" not in str(error.value)


def test_a_full_disk_ends_in_one_sentence_and_the_run_continues(straight, tmp_path):
    train(out=tmp_path, frames=3 * EPISODE, **TINY)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with full_disk(5000), pytest.raises(OSError, match="no room on the disk for") as error:
        train(out=tmp_path, frames=6 * EPISODE, **TINY)
    assert "\n" not in str(error.value) and "what was written before is intact" in str(error.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert not list(tmp_path.glob("*.tmp"))
    train(out=tmp_path, frames=6 * EPISODE, **TINY)
    assert_same(straight, tmp_path)


def test_a_disk_that_is_full_after_a_fall_back_leaves_the_good_checkpoint(tmp_path):
    train(out=tmp_path, frames=2 * EPISODE, **TINY)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nothing")
    with full_disk(5000), pytest.raises(OSError, match="no room"):
        train(out=tmp_path, frames=6 * EPISODE, **TINY)
    assert checkpoints.load_newest(path, KIND)[0]["frames"] < 2 * EPISODE


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_other_arguments_are_refused(tmp_path):
    train(out=tmp_path, frames=1, **TINY)
    with pytest.raises(
        ValueError, match=r"holds a run with seed=0 \(now 1\): choose another folder"
    ):
        train(out=tmp_path, frames=1, seed=1, **TINY)
    other = TINY | {
        "agent": PETS(**SMALL | {"members": 3}),
        "planner": RandomShooting(horizon=3, samples=8),
    }
    with pytest.raises(
        ValueError,
        match=r"with agent.exploration_noise=0.1 \(now 0.0\), agent.members=2 \(now 3\), "
        r"planner=ICEM \(now RandomShooting\): choose",
    ):
        train(out=tmp_path, frames=1, **other)
    train(out=tmp_path, frames=1, nan="skip", **TINY | {"checkpoint_frames": 7})  # decide nothing
    (tmp_path / "arguments.json").write_text('{"agent": {')
    with pytest.raises(ValueError, match=r"arguments.json is damaged .*: restore it, or choose"):
        train(out=tmp_path, frames=1, **TINY)


def test_what_computes_a_run_may_change(tmp_path):
    options = TINY | {"planner": None, "eval_frames": None}
    agent = SAC(hidden=(8,), batch_size=8, random_frames=EPISODE)
    train(out=tmp_path, frames=EPISODE, **options | {"agent": agent})
    path = tmp_path / "checkpoint.pt"
    state = checkpoints.load(path, KIND)
    state["act_rng"] = state["learner"]["sac"]["rng"] = torch.zeros(16, dtype=torch.uint8)
    checkpoints.save(path, state)  # as generators of a GPU are saved
    agent = dataclasses.replace(agent, device="auto")
    train(out=tmp_path, frames=2 * EPISODE, **options | {"agent": agent})
    assert metrics(tmp_path)[-1]["frames"] == 2 * EPISODE


def test_a_refused_command_leaves_the_folder_to_the_next(tmp_path):
    agent = SAC(hidden=(8,), random_frames=EPISODE)
    with pytest.raises(ValueError, match="acts by its"):
        train(out=tmp_path, frames=1, **TINY | {"agent": agent})
    assert not (tmp_path / "arguments.json").exists()
    train(out=tmp_path, frames=1, **TINY | {"agent": agent, "planner": None})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nan": "ignore"}, "nan must be 'stop' or 'skip', not 'ignore'"),
        ({"log_frames": 0}, "log_frames must be at least 1, not 0"),
        ({"frames": -5}, "frames must be at least 1, not -5"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"eval_episodes": 0}, "eval_episodes must be at least 1, not 0"),
        ({"agent": PETS(random_frames=0)}, "random_frames must be at least 1"),
        ({"agent": PETS(device="gpu")}, "device 'gpu' cannot be used here .*: take cpu, or cuda"),
        (
            {"frames": 800, "replay_capacity": 99},
            "800 frames are at least 100: give replay_capacity=100 or more, not 99",
        ),
        ({"agent": BaselineSAC()}, "acts by its policy, not by ICEM: give planner=policy"),
        ({"agent": BaselinePPO()}, "acts by its policy, not by ICEM: give planner=policy"),
        ({"agent": DynaQAgent()}, "acts by its policy, not by ICEM: give planner=policy"),
        (
            {"planner": CategoricalCEM(horizon=2, samples=8, elites=2)},
            "CategoricalCEM needs numbered actions, .*: take planner=cem",
        ),
        ({"env": "gym/CartPole-v1"}, "those of gym/CartPole-v1 are numbered: take planner=gumbel"),
    ],
)
def test_what_cannot_work_is_refused_before_it_begins(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(out=tmp_path, **TINY | {"frames": 1} | options)


@pytest.mark.parametrize(
    ("recipe", "settings", "sentence"),
    [
        (PETS, {"epochs": 0}, "PETS.epochs must be a whole number of at least 1, not 0"),
        (PETS, {"batch_size": 0}, "PETS.batch_size must be a whole number of at least 1, not 0"),
        (PETS, {"holdout": 1.5}, r"PETS.holdout must be in \[0, 1\), not 1.5"),
        (PETS, {"discount": 2.0}, r"PETS.discount must be in \[0, 1\], not 2.0"),
        (TDMPC2, {"discount": 2.0}, r"TDMPC2.discount must be in \[0, 1\], not 2.0"),
        (TDMPC2, {"encoder_rate": 0.0}, "TDMPC2.encoder_rate must be above 0, not 0.0"),
        (TDMPC2, {"value": -1.0}, "TDMPC2.value must be 0 or more, not -1.0"),
        (ModelRecipe, {"holdout": 1.5}, r"ModelRecipe.holdout must be in \[0, 1\), not 1.5"),
        (BaselineSAC, {"batch_size": 0}, "BaselineSAC.batch_size must be a whole number of at"),
        (BaselineSAC, {"updates_per_step": -1.0}, "updates_per_step must be 0 or more, not -1.0"),
        (BaselinePPO, {"batch_size": 1}, "BaselinePPO.batch_size must be a whole number of at"),
        (BaselinePPO, {"clip": 0.0}, "BaselinePPO.clip must be above 0, not 0.0"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(recipe, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe(**settings)


# -------------------------------------------------------------------------- losses not finite


WILD = PETS(**SMALL | {"epochs": 20}, learning_rate=1e30)


def test_a_loss_that_is_not_finite_stops_and_saves_its_batch(tmp_path):
    with pytest.raises(
        ValueError, match=r"loss in epoch .*, batch .* is (nan|inf), after 80 frames"
    ):
        train(out=tmp_path, frames=EPISODE, **TINY | {"agent": WILD})
    batch = checkpoints.load(tmp_path / "not-finite-batch.pt", "batch")
    assert batch["x"].shape[0] == 2


class FailingLearner(SamplingLearner):
    """Loses one of its two updates at the 23rd decision."""

    def learn(self, replay: Any, steps: int) -> dict[str, float]:
        logged = super().learn(replay, steps)
        if replay.total == 23:
            raise NotFiniteError("the loss is nan", {"x": torch.zeros(1)}, logged=logged)
        return logged | {"updates": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failing(PETS):
    def start(self, env: Any, planner: Any, *, rng: torch.Generator) -> Any:
        return FailingLearner(super().start(env, planner, rng=rng))


def test_a_run_stopped_by_a_loss_goes_on_as_one_that_skips(tmp_path):
    options = TINY | {"agent": Failing(**SMALL)}
    train(out=tmp_path / "skip", frames=4 * EPISODE, nan="skip", **options)
    with pytest.raises(ValueError, match="the loss is nan, after 184 frames; the batch is in"):
        train(out=tmp_path / "stop", frames=4 * EPISODE, **options)
    train(out=tmp_path / "stop", frames=4 * EPISODE, nan="skip", **options)
    assert_same(tmp_path / "skip", tmp_path / "stop")
    last = metrics(tmp_path / "stop")[-1]
    assert last["skipped"] == 1 and last["updates"] == 2 * 31 - 1


def test_a_loss_that_is_not_finite_is_skipped_and_counted(tmp_path):
    options = TINY | {"agent": WILD, "planner": RandomShooting(horizon=1, samples=2)}
    with pytest.raises(ValueError, match="never fitted"):  # every fit was skipped
        train(out=tmp_path, frames=3 * EPISODE, nan="skip", **options)
    assert [row["skipped"] for row in metrics(tmp_path)] == [1]
    state = checkpoints.load(tmp_path / "checkpoint.pt", KIND)["learner"]
    assert all(weight.isfinite().all() for weight in state["ensemble"].values())


# ---------------------------------------------------------------------- metrics, evaluations


class Silent:
    """A watcher that keeps what it is told."""

    def start(self, run: RunInfo) -> None:
        self.run, self.rows, self.evaluations = run, [], []
        self.closed = False

    def on_row(self, row: Row) -> None:
        self.rows.append(row)

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        self.evaluations.append(evaluation)
        act(torch.zeros(4, 3), None)

    def close(self) -> None:
        self.closed = True


def test_rows_say_what_happened(straight):
    rows = metrics(straight)
    assert [row["frames"] for row in rows] == [EPISODE * n for n in range(1, 7)]
    assert [row["decisions"] for row in rows] == [10 * n for n in range(1, 7)]
    assert [row["episodes"] for row in rows] == list(range(1, 7))
    assert [n for n, row in enumerate(rows, 1) if "eval_return" in row] == [2, 4, 6]
    assert all(r["eval_low"] <= r["eval_return"] <= r["eval_high"] for r in rows[1::2])
    header, *lines = (straight / "metrics.csv").read_text().splitlines()
    assert header.split(",")[: len(COLUMNS)] == list(COLUMNS) and len(lines) == 6
    earned = torch.from_file(str(straight / "replay" / "reward.memmap"), size=60).view(6, 10)
    assert [row["return"] for row in rows] == pytest.approx(earned.sum(1).tolist(), rel=1e-6)


def test_watchers_are_told_everything_and_change_nothing(straight, tmp_path):
    watcher, again = Silent(), Silent()
    train(out=tmp_path, frames=4 * EPISODE, watch={"a": watcher, "off": None}, **TINY)
    train(out=tmp_path, frames=6 * EPISODE, watch=[again], **TINY)
    assert watcher.closed and again.closed and watcher.run.rows == []
    assert [{k: v for k, v in row.items() if k not in TIMES} for row in again.run.rows] == [
        {k: v for k, v in row.items() if k not in TIMES} for row in watcher.rows
    ]
    assert [row["frames"] for row in again.rows] == [5 * EPISODE, 6 * EPISODE]
    evaluation = watcher.evaluations[1]
    assert (evaluation.frames, evaluation.lengths.tolist()) == (4 * EPISODE, [EPISODE] * 2)
    assert evaluation.actions.shape == (10, 1)
    assert_same(straight, tmp_path)


def test_a_watcher_that_fails_to_close_leaves_the_others_their_end(tmp_path):
    closed: list[int] = []

    class Closing(Silent):
        def __init__(self, number: int) -> None:
            self.number = number

        def close(self) -> None:
            closed.append(self.number)
            if self.number == 1:
                raise OSError("the first cannot close")

    with pytest.raises(OSError, match="the first cannot close"):
        train(out=tmp_path, frames=EPISODE, watch=[Closing(n) for n in (1, 2, 3)], **TINY)
    assert closed == [1, 2, 3]


def test_the_end_is_evaluated_and_a_longer_run_is_as_if_it_had_not_been(straight, tmp_path):
    said = train_quietly(tmp_path, 3 * EPISODE, **TINY)
    assert "evaluated" in said[-2] and said[-1].startswith("done")
    rows = metrics(tmp_path)
    assert [row["frames"] for row in rows] == [EPISODE, 2 * EPISODE, 3 * EPISODE, 3 * EPISODE]
    assert "eval_return" in rows[1] and "eval_return" in rows[3] and "eval_return" not in rows[2]
    train(out=tmp_path, frames=6 * EPISODE, **TINY)
    assert_same(straight, tmp_path)


def test_an_evaluation_of_what_learned_nothing_is_said_to_be_left_out(tmp_path):
    said = train_quietly(tmp_path, 40, **TINY | {"eval_frames": 40})
    assert said[0] == "not evaluated after 40 frames: nothing was learned yet"


def test_what_is_not_finite_is_null_in_json(tmp_path):
    agent = PETS(**SMALL, holdout=0.0)
    train(out=tmp_path, frames=2 * EPISODE, **TINY | {"agent": agent, "eval_frames": None})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and metrics(tmp_path)[-1]["holdout_mse"] is None
    assert "nan" in (tmp_path / "metrics.csv").read_text()


def test_evaluations_do_not_change_what_is_learned(straight, tmp_path):
    train(out=tmp_path, frames=6 * EPISODE, **TINY | {"eval_frames": None})
    one, other = outcome(straight), outcome(tmp_path)
    assert all(same(one[name], other[name]) for name in ("learner", "act_rng", "rng", "carry"))


# ------------------------------------------------------------------------------- what is made


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
    train(out=tmp_path, frames=3 * EPISODE, **TINY | {"planner": planner, "eval_frames": None})
    assert load_world_model(tmp_path / "model.pt").env == TINY["env"]


def test_other_worlds_train_too(tmp_path):
    agent = PETS(
        **SMALL | {"random_frames": 30},
        reward="given",
        propagation="ts_1",
        particles=2,
        penalty=0.1,
    )
    options = {"agent": agent, "eval_frames": None, "say": lambda line: None}
    train(
        env="gym/Pendulum-v1", out=tmp_path, frames=60, num_envs=2, max_frames=15,
        planner=MPPI(horizon=3, samples=8, iterations=1), **options,
    )  # fmt: skip
    world = load_world_model(tmp_path / "model.pt")
    assert (world.env, world.reward, world.observation_dim) == ("gym/Pendulum-v1", "given", 3)
    assert world.action_repeat == 1  # the agent's own is for the suite
    assert world.record["frames"] == 60 and world.record["episodes"] == 4

    planner = RandomShooting(horizon=3, samples=8, actions="uniform")
    train(env="gym/CartPole-v1", out=tmp_path / "discrete", frames=60, planner=planner, **options)
    world = load_world_model(tmp_path / "discrete" / "model.pt")
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
    state = outcome(straight)["learner"]["ensemble"]
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
