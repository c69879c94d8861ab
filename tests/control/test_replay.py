"""Laws of the replay: what can be drawn, and that a continued run draws what it would have."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter

import pytest
import torch
from torch import Tensor

from control import replay as module
from control.replay import Replay, Steps
from mbrl_core import draws
from mbrl_core.types import Box, Discrete

BOX = Box(torch.full((2,), -1.0), torch.ones(2))


class Life:
    """B environments whose observations are (environment, episode, age); episodes end at random."""

    def __init__(self, num_envs: int, seed: int = 0, end: float = 0.25) -> None:
        self.rng, self.end = draws.generator(seed), end
        self.here = torch.zeros(num_envs, 3)
        self.here[:, 0] = torch.arange(num_envs)
        self.time = 0

    def step(self) -> tuple[Steps, Tensor]:
        size = len(self.here)
        after = self.here + torch.tensor([0.0, 0.0, 1.0])
        ended = draws.uniform(self.rng, size) < self.end
        terminated = ended & (draws.uniform(self.rng, size) < 0.5)
        reward = torch.full((size,), float(self.time))
        action = torch.stack([reward, -reward], 1)
        steps = Steps(self.here, action, reward, after, terminated)
        fresh = torch.stack([self.here[:, 0], self.here[:, 1] + 1, torch.zeros(size)], 1)
        self.here = torch.where(ended.unsqueeze(1), fresh, after)
        self.time += 1
        return steps, ended & ~terminated


def filled(folder, *, num_envs=3, times=200, **options) -> tuple[Replay, list[Steps]]:
    replay, life, lived = Replay(folder, 3, BOX, num_envs=num_envs, **options), Life(num_envs), []
    for _ in range(times):
        steps, truncated = life.step()
        replay.add(steps, truncated)
        lived.append(steps)
    return replay, lived


def test_rows_come_back_and_keep_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 60)  # grows several times
    replay, lived = filled(tmp_path)
    assert len(replay) == replay.total == 600
    for stored, *given in zip(replay.steps, *lived, strict=True):
        assert torch.equal(stored, torch.cat(given))
    latest, truncated = replay.latest(7)
    assert torch.equal(latest.obs, replay.steps.obs[-7:]) and truncated.shape == (7,)
    from tensordict import TensorDict

    table = TensorDict.load_memmap(tmp_path)
    assert torch.equal(table["reward"][:200], replay.steps.reward.view(200, 3))
    assert torch.equal(table["age"][:200].flatten(), replay.steps.obs[:, 2].int())
    assert torch.equal(table["episode"][:200].flatten(), replay.steps.obs[:, 1].int())


def test_single_steps_are_drawn_uniformly(tmp_path):
    replay, _ = filled(tmp_path, num_envs=2, times=10)
    drawn = replay.sample(20_000, draws.generator(0))
    assert torch.equal(drawn.action[:, 0], drawn.reward)
    assert torch.equal(drawn.next_obs[:, 2], drawn.obs[:, 2] + 1)
    counts = Counter(zip(drawn.obs[:, 0].tolist(), drawn.reward.tolist(), strict=True))
    assert len(counts) == 20
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 43.8  # chi-square, 19, 0.1%


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("asked_first", [True, False])
@pytest.mark.parametrize("capacity", [600, 150])
def test_stretches_lie_in_one_episode_and_all_are_found(tmp_path, horizon, asked_first, capacity):
    replay, life, lived = Replay(tmp_path, 3, BOX, num_envs=3, capacity=capacity), Life(3), []
    for _ in range(200):
        steps, truncated = life.step()
        replay.add(steps, truncated)
        lived.append(steps.obs)
        if asked_first:
            replay.count(horizon)
    window = lived[-capacity // 3 :]
    valid = {
        tuple(start[b].tolist())
        for start, end in zip(window, window[horizon - 1 :], strict=False)
        for b in range(3)
        if start[b, 1] == end[b, 1]
    }
    assert replay.count(horizon) == len(valid) > 0
    drawn = replay.sequences(4000, horizon, draws.generator(1))
    age = torch.arange(horizon + 1.0).unsqueeze(1)
    assert torch.equal(drawn.obs[..., 2], drawn.obs[0, :, 2] + age)
    assert (drawn.obs[..., :2] == drawn.obs[:1, :, :2]).all()
    assert torch.equal(drawn.action[..., 0], drawn.reward) and drawn.reward.shape == (horizon, 4000)
    assert not drawn.terminated[:-1].any()
    assert {tuple(start) for start in drawn.obs[0].tolist()} == valid


def test_discrete_actions_keep_their_type(tmp_path):
    replay = Replay(tmp_path, 1, Discrete(3))
    nothing, never = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    replay.add(Steps(nothing[None], torch.tensor([2]), nothing, nothing[None], never), never)
    assert replay.sample(4, draws.generator(0)).action.tolist() == [2] * 4


@pytest.mark.parametrize("capacity", [10_000, 60])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_restored_replay_draws_what_one_never_stopped_does(tmp_path, capacity, damaged):
    """Killed at any moment after its last checkpoint, or with that one damaged."""

    def fresh(name: str) -> Replay:
        return Replay(tmp_path / name, 3, BOX, num_envs=2, capacity=capacity)

    life, steps = Life(2), []
    killed, states, kills = fresh("killed"), [], (45, 120)
    for time in range(kills[-1] + 10):
        steps.append(life.step())
        if time <= kills[-1]:
            killed.add(*steps[-1])
            if killed.full or time % 20 == 7:
                states.append((time, killed.commit()))
        if time not in kills:
            continue
        shutil.copytree(tmp_path / "killed", tmp_path / f"{time}")
        saved, state = states[-2 if damaged else -1]
        again, straight = fresh(f"{time}"), fresh(f"straight-{time}")
        again.restore(state)
        for step in steps[: saved + 1]:
            straight.add(*step)
        for one in (*steps[saved + 1 :], None):  # what is lived again, and before it
            rng = draws.generator(time)
            drawn = [
                (*r.sample(200, draws.copy(rng)), *r.sequences(200, 3, draws.copy(rng)))
                for r in (again, straight)
            ]
            assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
            if one is not None:
                again.add(*one)
                straight.add(*one)


def test_refusals_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least 1"):
        Replay(tmp_path, 3, BOX, capacity=0)
    empty = Replay(tmp_path / "empty", 3, BOX)
    for ask in (lambda: empty.steps, lambda: empty.sample(1, draws.generator(0))):
        with pytest.raises(ValueError, match="no experience yet"):
            ask()
    with pytest.raises(ValueError, match="no episode has 4 steps yet"):
        empty.sequences(1, 4, draws.generator(0))
    replay, lived = filled(tmp_path, capacity=60)
    with pytest.raises(ValueError, match="keeps 60 steps and 600 were taken"):
        _ = replay.steps
    with pytest.raises(ValueError, match="3 steps were given for 1 environments"):
        empty.add(lived[0], lived[0].terminated)
    state = replay.commit()
    with pytest.raises(ValueError, match="the saved replay is of shape"):
        Replay(tmp_path, 3, BOX, num_envs=3, capacity=90).restore(state)
    (tmp_path / "reward.memmap").unlink()
    with pytest.raises(ValueError, match=r"reward.memmap is missing or cut short"):
        Replay(tmp_path, 3, BOX, num_envs=3, capacity=60).restore(state)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room on the disk for .*memmap \(No space left") as error:
        empty.add(Steps(*(part[:1] for part in lived[0])), lived[0].terminated[:1])
    assert "\n" not in str(error.value)
