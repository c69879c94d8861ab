"""Dyna-Q as an agent of the loop: the tables of `DynaQ` itself, and the optimum of a dry lake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from control.agents.dynaq import DynaQAgent, DynaQLearner
from control.envs import VectorEnv, make_env
from control.known_models import gym_dynamics
from control.replay import Replay, Steps
from mbrl_core import generator
from mbrl_core.dyna import value_iteration
from mbrl_core.types import Transition

DRY = "gym/FrozenLake-v1?is_slippery:false"
ICY = "gym/FrozenLake-v1"


def collect(learner: DynaQLearner, env: VectorEnv, replay: Replay, times: int) -> None:
    """Act and learn in every environment, each row restarted by itself."""
    rng, obs = generator(1), env.reset()
    for _ in range(times):
        action, _ = learner.act(obs, None, explore=True, rng=rng)
        moved = env.step(action)
        replay.add(Steps(obs, action, moved.reward, moved.obs, moved.terminated), moved.truncated)
        learner.learn(replay, env.num_envs)
        obs = env.reset(mask=env.done) if bool(env.done.any()) else moved.obs


def replay_of(env: VectorEnv, folder: Path) -> Replay:
    return Replay(folder, env.observation_dim, env.action_space, num_envs=env.num_envs)


def test_a_dry_lake_is_solved_and_its_values_are_those_of_value_iteration(tmp_path):
    env = make_env(DRY, num_envs=4)
    agent = DynaQAgent(planning=20, epsilon=0.3, optimism=1.0, discount=0.9)
    learner = agent.start(env, None, rng=generator(0))
    collect(learner, env, replay_of(env, tmp_path), 300)
    known = gym_dynamics(DRY)
    chance, after = known.probability[:, :, 0], known.next_state[:, :, 0]
    leads = torch.zeros(16, 4, 16, dtype=torch.float64)
    going = 0.9 * (chance * ~known.ended[:, :, 0])
    leads.scatter_(2, after.unsqueeze(2), going.unsqueeze(2))
    best = value_iteration(known.reward[:, :, 0], leads).amax(1)
    assert float(learner.tables.q[0].max()) == pytest.approx(float(best[0]), rel=1e-3)
    obs, total = env.reset([0, 1, 2, 3]), torch.zeros(4)
    for _ in range(6):  # the shortest way
        action, _ = learner.act(obs, None, explore=False, rng=generator(2))
        moved = env.step(action)
        obs, total = moved.obs, total + moved.reward
    assert total.tolist() == [1.0] * 4


def test_rows_are_learned_in_their_order_as_by_dyna_q_itself(tmp_path):
    """The first call is told many rounds at once; cut episodes are not ended ones."""
    env = make_env(ICY, num_envs=2, max_frames=5)
    learner = DynaQAgent(planning=3, discount=0.9).start(env, None, rng=generator(0))
    replay, seen, obs = replay_of(env, tmp_path), [], env.reset()
    for t in range(12):
        action = torch.tensor([t % 4, (t + 1) % 4])
        moved = env.step(action)
        replay.add(Steps(obs, action, moved.reward, moved.obs, moved.terminated), moved.truncated)
        discount = torch.where(moved.terminated, 0.0, 0.9)
        seen.append(
            (obs.argmax(1), action, Transition(moved.obs.argmax(1), moved.reward, discount))
        )
        obs = env.reset(mask=env.done) if bool(env.done.any()) else moved.obs
    assert bool(replay.latest(24)[1].any())
    learner.learn(replay, 24)
    tables, rng = learner.dyna.start(), generator(0)
    for state, action, transition in seen:
        learner.dyna.learn(tables, state, action, transition, rng=rng)
    assert all(one.equal(other) for one, other in zip(tables, learner.tables, strict=True))


def test_an_evaluation_is_greedy_and_a_state_is_gone_on_from(tmp_path):
    env = make_env(ICY, num_envs=2)
    agent = DynaQAgent(epsilon=1.0, optimism=1.0)
    learner = agent.start(env, None, rng=generator(0))
    collect(learner, env, replay_of(env, tmp_path), 60)
    other = agent.start(env, None, rng=generator(0))
    other.load_state_dict(learner.state_dict())
    q = learner.tables.q
    states = torch.eye(16)[(q.amax(1) > q.amin(1)).nonzero().squeeze(1)]
    assert len(states) > 0
    for one in (learner, other):
        action, _ = one.act(states, None, explore=False, rng=generator(3))
        assert q[states.argmax(1), action].equal(q[states.argmax(1)].amax(1))


def test_what_has_no_table_is_refused():
    with pytest.raises(ValueError, match="Dyna-Q needs discrete actions"):
        DynaQAgent().start(make_env("gym/Pendulum-v1"), None, rng=generator(0))
    env = make_env("gym/CartPole-v1")
    learner = DynaQAgent().start(env, None, rng=generator(0))
    with pytest.raises(ValueError, match="observations that number the states"):
        learner.act(env.reset([0]), None, explore=True, rng=generator(0))
