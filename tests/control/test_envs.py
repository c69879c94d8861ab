"""Laws of the environment interface."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from control import checkpoints
from control.envs import VectorEnv, make_env, suite_tasks
from control.episodes import random_actions, run_episodes
from mbrl_core import draws
from mbrl_core.types import Box, Discrete

FREE_FALL = torch.zeros(1, 1)


def test_a_dm_control_time_limit_truncates_and_never_terminates():
    env = make_env("dmc/cartpole-swingup", action_repeat=8)
    env.reset([0])
    frames, steps = 0, 0
    while not env.done.all():
        moved = env.step(FREE_FALL)
        frames, steps = frames + int(moved.frames), steps + 1
    assert (frames, steps) == (1000, 125) == (env.frames_per_episode, 125)
    assert bool(moved.truncated) and not bool(moved.terminated)


def test_a_dm_control_discount_of_zero_terminates():
    env = make_env("dmc/lqr-lqr-2-1", max_frames=100)
    env.reset([0])
    env._simulators[0]._env.task.get_termination = lambda physics: 0.0  # the suite's way to end
    moved = env.step(FREE_FALL)
    assert bool(moved.terminated) and not bool(moved.truncated)


def test_gymnasium_keeps_the_two_apart():
    env = make_env("gym/CartPole-v1", num_envs=2, max_frames=5)
    assert env.action_space == Discrete(2)
    env.reset([0, 1])
    for _ in range(5):
        moved = env.step(torch.tensor([0, 1]))
    assert moved.truncated.tolist() == [True, True] and not moved.terminated.any()

    env = make_env("gym/CartPole-v1")
    env.reset([0])
    while not env.done.all():
        moved = env.step(torch.tensor([1]))
    assert bool(moved.terminated) and not bool(moved.truncated)


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "gym/Pendulum-v1"])
def test_repeat_sums_rewards_and_counts_frames(name):
    once, held = make_env(name), make_env(name, action_repeat=4)
    assert torch.equal(once.reset([3]), held.reset([3]))
    action = torch.full((1, 1), 0.5)
    single = [once.step(action) for _ in range(4)]
    moved = held.step(action)
    assert torch.equal(moved.obs, single[-1].obs)
    assert moved.reward.item() == pytest.approx(sum(s.reward.item() for s in single), rel=1e-6)
    assert moved.frames.tolist() == [4]


def test_repeat_stops_where_the_episode_does():
    env = make_env("gym/CartPole-v1", action_repeat=100)
    env.reset([0])
    moved = env.step(torch.tensor([1]))
    assert bool(moved.terminated) and moved.reward == moved.frames and moved.frames < 20

    env = make_env("dmc/cartpole-swingup", action_repeat=3, max_frames=4)
    env.reset([0])
    assert env.step(FREE_FALL).frames.tolist() == [3]
    moved = env.step(FREE_FALL)
    assert moved.frames.tolist() == [1] and bool(moved.truncated)


def test_ended_rows_stand_still_until_they_are_reset():
    env = make_env("gym/CartPole-v1", num_envs=2, max_frames=30)
    env.reset([0, 0])
    push, balance = 1, 0
    while not env.terminated[0]:
        moved = env.step(torch.tensor([push, balance]))
        balance = 1 - balance
    assert not env.done[1]
    after = env.step(torch.tensor([push, balance]))
    assert torch.equal(after.obs[0], moved.obs[0])
    assert (after.reward[0], after.frames[0], after.terminated[0]) == (0, 0, True)
    assert after.frames[1] == 1
    fresh = env.reset(mask=torch.tensor([True, False]))
    assert torch.equal(fresh[1], after.obs[1]) and not torch.equal(fresh[0], after.obs[0])
    assert not env.done.any()


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "gym/Pendulum-v1"])
def test_a_seed_gives_the_same_episode_at_any_position(name):
    alone, batch = make_env(name, max_frames=40), make_env(name, num_envs=3, max_frames=40)
    batch.reset([9, 9, 9])
    batch.step(torch.ones(3, 1))  # another episode before must not matter
    obs, others = alone.reset([5]), batch.reset([6, 7, 5])
    assert torch.equal(obs[0], others[2]) and not torch.equal(others[0], others[1])
    rng = torch.Generator().manual_seed(0)
    while not alone.done.all():
        action = random_actions(alone.action_space, 3, rng)
        one, three = alone.step(action[2:]), batch.step(action)
        assert torch.equal(one.obs[0], three.obs[2]) and one.reward[0] == three.reward[2]


def test_episodes_go_on_where_a_saved_state_stopped():
    env = make_env("dmc/cartpole-swingup", num_envs=2, seed=4)
    first = env.reset()
    saved = env.state_dict()
    second = env.reset()
    assert not torch.equal(first, second)
    resumed = make_env("dmc/cartpole-swingup", num_envs=2, seed=4)
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.obs, first)
    assert torch.equal(resumed.reset(), second)
    with pytest.raises(ValueError, match="the saved state is of 2 environments, not 1"):
        make_env("dmc/cartpole-swingup").load_state_dict(saved)


@pytest.mark.parametrize(
    "name",
    [
        "dmc/cartpole-swingup",
        "dmc/finger-spin",  # contacts
        "dmc/reacher-easy",  # the target is part of the model
        "gym/CartPole-v1",
        "gym/Hopper-v5",
        "gym/FrozenLake-v1",  # moves are drawn at random
    ],
)
def test_rows_go_on_in_the_middle_of_their_episodes(name, tmp_path):
    """Rows at different points: reset when they end, one ended and not reset."""
    env = make_env(name, num_envs=3, action_repeat=2, seed=1, max_frames=30)
    rng = torch.Generator().manual_seed(0)

    def live(env: VectorEnv, decisions: int) -> list[Tensor]:
        seen: list[Tensor] = []
        for _ in range(decisions):
            moved = env.step(random_actions(env.action_space, 3, rng))
            seen += [part.clone() for part in moved]
            seen.append(env.reset(mask=env.done & torch.tensor([True, True, False])))
        return seen

    env.reset()
    env.reset(mask=torch.tensor([False, True, False]))
    live(env, 7)
    env.reset(mask=torch.tensor([True, False, False]))
    live(env, 9)
    checkpoints.save(tmp_path / "env.pt", {"kind": "env", **env.state_dict()})
    drawn = rng.get_state()
    straight = live(env, 20)
    resumed = make_env(name, num_envs=3, action_repeat=2, seed=1, max_frames=30)
    resumed.load_state_dict(checkpoints.load(tmp_path / "env.pt", "env"))
    rng.set_state(drawn)
    assert all(map(torch.equal, live(resumed, 20), straight))
    assert resumed.episodes == env.episodes and max(env.episodes) > 3


def test_every_task_of_the_suite_has_a_name():
    suite = importlib.import_module("dm_control.suite")
    names = suite_tasks()
    assert {names["-".join(pair).replace("_", "-")] for pair in suite.ALL_TASKS} == {
        *suite.ALL_TASKS
    }
    assert len(names) == len(suite.ALL_TASKS) + 1  # cup-catch has two


@pytest.mark.parametrize(
    ("name", "dim", "actions"),
    [
        ("dmc/ball-in-cup-catch", 8, 2),
        ("dmc/cup-catch", 8, 2),
        ("dmc/point-mass-easy", 4, 2),
        ("dmc/quadruped-escape", 101, 12),  # asks for a renderer, which is not there
        ("dmc/reacher-hard", 6, 2),
        ("gym/Pendulum-v1", 3, 1),
        ("gym/HalfCheetah-v5", 17, 6),
    ],
)
def test_names(name, dim, actions):
    env = make_env(name)
    assert env.observation_dim == dim and env.reset().shape == (1, dim)
    assert isinstance(env.action_space, Box) and env.action_space.low.shape == (actions,)
    assert env.reset().dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dmc/cartpole-swngup", "dmc/cartpole-swingup"),
        ("dmc/waker-walk", "dmc/walker-walk"),
        ("gym/Pendulm-v1", "gym/Pendulum-v1"),
        ("gym/FrozenLke-v1", "gym/FrozenLake-v1"),
        ("cartpole-swingup", "dmc/<domain>-<task>"),
        ("dmc/", "dmc/"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match="unknown environment") as error:
        make_env(name)
    assert hint in str(error.value) and "\n" not in str(error.value)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="action_repeat"):
        make_env("gym/Pendulum-v1", action_repeat=0)
    env = make_env("gym/Pendulum-v1", num_envs=2)
    with pytest.raises(ValueError, match="3 seeds were given for 2"):
        env.reset([1, 2, 3])
    env.reset()
    with pytest.raises(ValueError, match="1 actions were given for 2"):
        env.step(torch.zeros(1, 1))


def test_run_episodes_keeps_only_rows_that_were_lived():
    env = make_env("gym/CartPole-v1", num_envs=3)
    rng = torch.Generator().manual_seed(0)
    episodes = run_episodes(
        env, lambda obs, carry: (random_actions(env.action_space, len(obs), rng), None), [0, 1, 2]
    )
    steps = episodes.steps
    assert len(steps.reward) == int(episodes.decisions.sum()) == int(episodes.frames.sum())
    last = episodes.decisions.cumsum(0) - 1
    assert steps.terminated.nonzero().squeeze(1).tolist() == last.tolist()
    inside = torch.ones(len(steps.obs), dtype=torch.bool)
    inside[last] = False
    assert torch.equal(steps.next_obs[:-1][inside[:-1]], steps.obs[1:][inside[:-1]])
    assert torch.equal(episodes.returns, episodes.decisions.float())


def test_random_actions_lie_with_the_environment_wherever_the_generator_does(monkeypatch):
    def elsewhere(rng: torch.Generator, *shape: int) -> torch.Tensor:
        return torch.rand(shape, device="cuda")

    monkeypatch.setattr(draws, "uniform", elsewhere)
    monkeypatch.setattr(draws, "integers", lambda rng, high, *shape: elsewhere(rng, *shape))
    with FakeTensorMode():  # as on a machine with a GPU: tensors of two devices do not mix
        box = Box(torch.tensor([-2.0]), torch.tensor([2.0]))
        for space in (box, Discrete(3)):
            assert random_actions(space, 4, torch.Generator()).device.type == "cpu"


OWN = """
import gymnasium
import numpy as np

class Corridor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 5, (1,))
    action_space = gymnasium.spaces.Discrete(2, start=-1)

    def __init__(self, length=5):  # renders nothing, and is told of no such thing
        self.length = length

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self.seen(), {}

    def seen(self):
        return np.array([self.place], np.float32)

    def step(self, action):
        self.place += 1
        return self.seen(), 1.0, self.place == self.length, False, {}

gymnasium.register("Corridor-v0", Corridor, max_episode_steps=9)
"""


def test_an_environment_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_corridor.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    env = make_env("gym/own_corridor:Corridor-v0?length:3")
    env.reset([0])
    for _ in range(3):
        moved = env.step(torch.zeros(1, dtype=torch.int64))
    assert bool(moved.terminated) and env.frames_per_episode == 9
    with pytest.raises(ValueError, match="nearest names are gym/Corridor-v0"):
        make_env("gym/own_corridor:Coridor-v0")
    with pytest.raises(ValueError, match="gym/no_module:X-v0 needs the module no_module"):
        make_env("gym/no_module:X-v0")


def test_an_environment_that_cannot_be_made_here_says_so_in_one_sentence(monkeypatch):
    import gymnasium

    def failing(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gymnasium, "make", failing)
    with pytest.raises(ValueError, match="Pendulum-v1 cannot be made here: Box2D is not installed"):
        make_env("gym/Pendulum-v1")
