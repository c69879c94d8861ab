"""Planning with the true simulator: what it predicts is what the environment pays."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from control import simulator
from control.envs import VectorEnv, make_env
from control.episodes import random_actions
from control.known_models import TabularDynamics, gym_dynamics
from control.readouts import READOUTS
from control.simulator import SuiteDynamics, TrueWorld, true_world
from evals.control import evaluate
from mbrl_core import BeamSearch, GradMPC, Model, RandomShooting, all_actions, generator
from mbrl_core.rollouts import simulate_actions
from mbrl_core.testing import check_model
from mbrl_core.world import World
from tests.golden import golden_files

DECISIONS, REPEAT = 50, 2
READ = [
    "cartpole-balance",
    "cartpole-swingup",
    "pendulum-swingup",
    "reacher-easy",
    "reacher-hard",
    "finger-spin",
    "ball_in_cup-catch",
    "cheetah-run",
    "walker-stand",
    "walker-walk",
    "walker-run",
]
FAMILIAR = [
    "cartpole-swingup",
    "cheetah-run",
    "walker-walk",
    "reacher-easy",
    "finger-spin",
    "ball_in_cup-catch",
]
# Each has something of its own: drawn targets or gains, mocap and equalities, activations, an end.
ASKED = ["point_mass-hard", "manipulator-bring_ball", "quadruped-walk", "lqr-lqr_2_1"]


@functools.cache
def world_of(task: str, repeat: int = REPEAT, ask_task: bool = False) -> TrueWorld:
    return TrueWorld(f"dmc/{task}", repeat, SuiteDynamics(task, repeat, ask_task=ask_task))


def actions_for(env: VectorEnv, *shape: int) -> Tensor:
    actions = random_actions(env.action_space, int(np.prod(shape)), generator(1)).double()
    return actions.view(*shape, -1)


def play(env: VectorEnv, actions: Tensor) -> Tensor:
    """What the simulators of `env` pay [B, H] for `actions` [B, H, A], in double precision."""
    paid = torch.zeros(actions.shape[:2], dtype=torch.float64)
    for b, single in enumerate(env.simulators):
        for t, action in enumerate(actions[b].numpy()):
            for _ in range(env.action_repeat):
                paid[b, t] += single.frame(action).reward
    return paid


def predicted_and_paid(world: TrueWorld) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards [B, H] of random actions and last states, as predicted and as they came."""
    env = world.make_env(2)
    env.reset([3, 4])
    state, actions = world.root(env), actions_for(env, 2, DECISIONS)
    plan = World("test", world.model(), state, rng=generator(0))
    rollout = simulate_actions(plan, state, actions.unsqueeze(1))
    return rollout.rewards[:, 0], play(env, actions), rollout.final, world.root(env)


@pytest.mark.parametrize("task", [*FAMILIAR, *ASKED])
def test_what_is_predicted_is_what_comes(task):
    predicted, paid, foreseen, reached = predicted_and_paid(world_of(task))
    assert torch.equal(foreseen, reached)
    torch.testing.assert_close(predicted, paid, rtol=0, atol=1e-14)


@pytest.mark.parametrize("task", ["cartpole-swingup", "cheetah-run"])
def test_rewards_asked_of_the_task_are_exact(task):
    predicted, paid, foreseen, reached = predicted_and_paid(world_of(task, ask_task=True))
    assert torch.equal(foreseen, reached) and torch.equal(predicted, paid)


@pytest.mark.parametrize("task", READ)
def test_rewards_read_for_all_rows_are_those_of_the_task(task):
    read, asked = world_of(task).dynamics, world_of(task, ask_task=True).dynamics
    env = make_env(f"dmc/{task}", 1, REPEAT)
    env.reset([0])
    total = 1000 if task.startswith("reacher") else 300  # few random poses touch a small target
    state, rng = read.root(env).repeat(total, 1), generator(2)
    physics = env.simulators[0].native.physics
    pose = slice(1, 1 + physics.model.nq + physics.model.nv)  # after the time
    spread = 2 * torch.rand(total, 1, generator=rng)
    state[:, pose] += spread * torch.randn(state[:, pose].shape, generator=rng)
    action = actions_for(env, total)
    one, other = read.step(state, action, rng=rng), asked.step(state, action, rng=rng)
    assert torch.equal(one.state, other.state) and len(one.reward.unique()) > 1
    torch.testing.assert_close(one.reward, other.reward, rtol=0, atol=1e-14, equal_nan=True)


def test_every_readout_is_tested():
    assert sorted(READ) == sorted("-".join(key) for key in READOUTS)


@pytest.mark.parametrize("task", ["cheetah-run", "finger-spin", "reacher-easy", "walker-walk"])
def test_a_row_is_simulated_as_if_it_were_alone(task):
    world = world_of(task)
    env = world.make_env(3)
    env.reset([0, 1, 2])
    for _ in range(20):  # into contact with the ground, where the solver starts from the last step
        env.step(actions_for(env, 3))
    check_model(world.model(), world.root(env), tolerance=0)


def test_an_action_is_held_for_its_frames():
    once, held = world_of("walker-walk", 1), world_of("walker-walk", 4)
    env = once.make_env(1)
    env.reset([0])
    state, action, total = once.root(env), actions_for(env, 1), torch.zeros(1).double()
    moved = held.dynamics.step(state, action, rng=generator(0))
    for _ in range(4):
        single = once.dynamics.step(state, action, rng=generator(0))
        state, total = single.state, total + single.reward
    assert torch.equal(moved.state, state) and torch.equal(moved.reward, total)


def test_an_episode_ends_where_its_task_says_so():
    world = true_world("dmc/lqr-lqr-2-1", 3, discount=0.9)
    env = world.make_env(2)
    env.reset([0, 1])
    state = world.root(env)
    state[0, 1:5] = 0.0  # at rest in the middle: what the task ends at
    moved = world.dynamics.step(state, torch.zeros(2, 1), rng=generator(0))
    assert moved.discount.tolist() == [0.0, 0.9] and world.dynamics.terminates
    assert moved.state[:, 0].tolist() == pytest.approx([0.03, 0.09])  # s: one frame, and three
    assert not true_world("dmc/cartpole-swingup").dynamics.terminates


def test_actions_are_clipped():
    world = world_of("cartpole-swingup")
    env = world.make_env(1)
    env.reset([0])
    wild, most = (
        world.dynamics.step(world.root(env), torch.tensor([[x]]), rng=generator(0))
        for x in (7.0, 1.0)
    )
    assert torch.equal(wild.state, most.state) and torch.equal(wild.reward, most.reward)


@pytest.mark.parametrize("ask_task", [False, True])
def test_a_diverged_row_earns_nan_and_disturbs_no_other(ask_task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = world_of("cheetah-run", ask_task=ask_task)
    env = world.make_env(1)
    env.reset([0])
    state, action = world.root(env).repeat(6, 1), torch.full((6, 6), 0.3)
    clean = world.dynamics.step(state, action, rng=generator(0))
    state[1, 12] = 1e9  # rad/s, which the solver cannot follow
    state[4, 12] = 1e11  # too much for MuJoCo to begin with
    state[2, 3] = torch.nan
    action[3, 0] = torch.nan
    for _ in range(2):  # MuJoCo counts its warnings: a second one must be seen, too
        moved = world.dynamics.step(state, action, rng=generator(0))
        assert moved.reward.isnan().tolist() == [False, True, True, True, True, False]
        assert torch.equal(moved.state[[0, 5]], clean.state[[0, 5]])
        assert torch.equal(moved.state[[1, 3, 4]], state[[1, 3, 4]])
    assert not list(tmp_path.iterdir())  # no log file of MuJoCo's


def test_a_planner_avoids_what_diverges():
    world = world_of("cheetah-run")
    env = world.make_env(2)
    env.reset([0, 1])
    state = world.root(env)
    state[1, 12] = 1e9
    planner = RandomShooting(samples=4, horizon=2, actions="uniform")
    with pytest.warns(RuntimeWarning, match=r"no candidate of roots \[1\]"):
        plan, _ = planner(world.model(), state, rng=generator(0))
    assert plan.valid.tolist() == [True, False]


def test_what_cannot_be_a_model_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown environment 'dmc/cartpole-swngup'"):
        true_world("dmc/cartpole-swngup")
    with pytest.raises(ValueError, match="action_repeat must be at least 1, not 0"):
        true_world("dmc/cartpole-swingup", 0)
    with pytest.raises(ValueError, match="no true model of gym/CartPole-v1"):
        true_world("gym/CartPole-v1")
    world = world_of("cartpole-swingup")
    with pytest.raises(ValueError, match="no episode of dmc/cartpole-swingup is under way"):
        world.root(world.make_env(1))
    with pytest.raises(ValueError, match="cannot plan for dmc/cartpole-swingup at action repeat 1"):
        world.root(make_env("dmc/cartpole-swingup"))
    env = world.make_env(1)
    env.reset([0])
    with pytest.raises(ValueError, match=r"must be float64 \[R, 28\]"):
        world.dynamics.step(world.root(env).float(), torch.zeros(1, 1), rng=generator(0))
    with pytest.raises(ValueError, match=r"actions must be \[R, 1\], not \[1, 2\]"):
        world.dynamics.step(world.root(env), torch.zeros(1, 2), rng=generator(0))
    planner = GradMPC(horizon=2, samples=2, iterations=1)
    with pytest.raises(
        ValueError, match="GradMPC needs a model whose reward can be differentiated"
    ):
        planner(world.model(), world.root(env), rng=generator(0))
    monkeypatch.setattr(simulator, "WIDEST_EPISODE", 3)
    with pytest.raises(ValueError, match="draws 30 numbers of its model"):
        SuiteDynamics("reacher-easy")


# Gymnasium


def test_the_pendulum_is_exact_and_differentiable():
    world = true_world("gym/Pendulum-v1", 2)
    predicted, paid, foreseen, reached = predicted_and_paid(world)
    torch.testing.assert_close(foreseen, reached, rtol=0, atol=1e-12)
    torch.testing.assert_close(predicted, paid, rtol=0, atol=1e-12)
    env = world.make_env(2)
    env.reset([3, 4])
    check_model(world.model(), world.root(env), tolerance=1e-12)
    planner = GradMPC(horizon=5, samples=2, iterations=2)
    plan, _ = planner(world.model(), world.root(env), rng=generator(0))
    assert plan.valid.all() and (plan.cost.gradients > 0).all()


def lake(size: str, slippery: bool, discount: float = 1.0) -> TabularDynamics:
    gymnasium = pytest.importorskip("gymnasium")
    native = gymnasium.make("FrozenLake-v1", map_name=size, is_slippery=slippery).unwrapped
    return TabularDynamics(native.P, discount=discount)


class Known:
    """The values [S] of all states."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def value(self, state: Tensor) -> Tensor:
        return self.values[state]


def backed_up(dynamics: TabularDynamics, value: Tensor) -> Tensor:
    """Q [S, A] of one step followed by `value` [S]."""
    goes_on = dynamics.discount * ~dynamics.ended
    outcomes = dynamics.reward + goes_on * value[dynamics.next_state]
    return (dynamics.probability * outcomes).sum(2)


@pytest.mark.parametrize("file", golden_files("frozenlake_values.json"))
def test_the_table_of_frozen_lake_gives_the_known_values(file):
    for case in json.loads(file.read_text())["cases"]:
        dynamics = lake(case["map"], case["is_slippery"], case["gamma"])
        value = torch.zeros(len(dynamics.probability), dtype=torch.float64)
        random = case.get("policy") == "uniform random"
        for _ in range(3000 if case["horizon"] == "infinite" else case["horizon"]):
            q = backed_up(dynamics, value)
            value = q.mean(1) if random else q.amax(1)
        assert value[0].item() == pytest.approx(case["V_start"], abs=1e-6)
        if "V" in case:
            assert value.tolist() == pytest.approx(case["V"], abs=1e-6)


@pytest.mark.parametrize("file", golden_files("frozenlake_values.json"))
def test_search_over_the_true_lake_finds_its_optimal_moves_and_their_value(file):
    cases = json.loads(file.read_text())["cases"]
    asked = {"map": "4x4", "is_slippery": False, "gamma": 0.95, "horizon": "infinite"}
    (case,) = (case for case in cases if asked.items() <= case.items())
    dynamics = lake("4x4", False, 0.95)
    on_ice = torch.tensor([s for s, best in enumerate(case["optimal_actions"]) if best])
    policy, value = all_actions(dynamics.action_space), Known(torch.tensor(case["V"]))
    model = Model(dynamics, policy, value, dynamics.action_space)
    planner = BeamSearch(width=16, expand=4, depth=6)
    plan, _ = planner(model, on_ice, rng=generator(0))
    assert plan.value.tolist() == pytest.approx(value.value(on_ice).tolist(), abs=1e-6)
    for s, action in zip(on_ice.tolist(), plan.action.tolist(), strict=True):
        assert action in case["optimal_actions"][s]


def test_outcomes_come_as_often_as_the_table_says():
    dynamics = lake("4x4", True)
    total = 30_000
    state, action = torch.full((total,), 14), torch.full((total,), 1)  # beside the goal, down
    moved = dynamics.step(state, action, rng=generator(0))
    for where, reward, discount in [(13, 0, 1), (14, 0, 1), (15, 1, 0)]:
        rows = moved.state == where
        assert rows.float().mean().item() == pytest.approx(1 / 3, abs=0.01)
        assert (moved.reward[rows] == reward).all() and (moved.discount[rows] == discount).all()
    check_model(Model(dynamics, action_space=dynamics.action_space), torch.tensor([0, 6, 14]))


def test_a_held_action_stops_where_the_episode_ends():
    dynamics = gym_dynamics("gym/CliffWalking-v1", action_repeat=3)
    right, up = 1, 0
    moved = dynamics.step(torch.tensor([36, 36]), torch.tensor([right, up]), rng=generator(0))
    assert moved.state.tolist() == [36, 0] and moved.reward.tolist() == [-300, -3]
    down = dynamics.step(torch.tensor([23]), torch.tensor([2]), rng=generator(0))
    assert (down.state.item(), down.reward.item(), down.discount.item()) == (47, -2, 0)


def test_a_table_whose_chances_do_not_add_up_is_refused():
    with pytest.raises(ValueError, match="must sum to 1"):
        TabularDynamics({0: {0: [(0.5, 0, 0.0, False)]}})


# The command


def options(tmp_path, **more):
    planner = RandomShooting(samples=8, horizon=3, actions="uniform")
    small = {"env": "gym/Pendulum-v1", "planner": planner, "episodes": 2, "out": tmp_path / "run"}
    return small | {"say": lambda line: None} | more


def test_episodes_are_played_with_the_simulator_as_the_model(tmp_path):
    summary = evaluate(**options(tmp_path, model="simulator", action_repeat=20))
    assert summary["frames"] == 400 and summary["steps_per_decision"] == 8 * 3
    assert summary["seconds_per_decision"] > 0
    summary = evaluate(**options(tmp_path, model="simulator", env="gym/FrozenLake-v1", seed=1,
                                 planner=RandomShooting(samples=8, horizon=3, actions="uniform"),
                                 out=tmp_path / "lake"))  # fmt: skip
    assert summary["episodes"] == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"model": "simulator", "propagation": "mean"}, "the simulator has no propagation"),
        (
            {"model": "cartpole-swingup", "env": "dmc/cartpole-swingup", "action_repeat": 4},
            "was trained at action repeat 8, not 4",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=told):
        evaluate(**options(tmp_path, **wrong))
