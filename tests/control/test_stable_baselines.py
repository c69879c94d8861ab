"""The baselines: data and updates are those stable-baselines3 would make of the same steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from control import checkpoints
from control.agents.stable_baselines import BaselinePPO, BaselineSAC
from control.envs import VectorEnv, make_env
from control.finite import NotFiniteError
from control.replay import Replay, Steps
from control.train import train
from mbrl_core import draws, generator
from mbrl_core.returns import advantages

pytest.importorskip("stable_baselines3")

PENDULUM = "gym/Pendulum-v1"


def collect(learner, env: VectorEnv, folder: Path, times: int, seed: int = 0) -> Replay:
    """`times` steps of the learner's in every environment, each row restarted by itself."""
    replay = Replay(folder, env.observation_dim, env.action_space, num_envs=env.num_envs)
    rng, obs = generator(seed), env.reset()
    for _ in range(times):
        action, _ = learner.act(obs, None, explore=True, rng=rng)
        moved = env.step(action)
        replay.add(Steps(obs, action, moved.reward, moved.obs, moved.terminated), moved.truncated)
        obs = env.reset(mask=env.done) if bool(env.done.any()) else moved.obs
    return replay


def weights(learner) -> list[Tensor]:
    return [w.detach().clone() for w in learner.algorithm.policy.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["gym/CartPole-v1", PENDULUM])
def test_ppo_learns_from_generalised_advantages_cut_where_episodes_are(name, tmp_path):
    env = make_env(name, num_envs=3, max_frames=14)  # both ends and cuts within 40 steps
    learner = BaselinePPO(rollout=40, epochs=1, hidden=(8,)).start(env, None, rng=generator(0))
    replay = collect(learner, env, tmp_path, 40)
    steps, truncated = replay.latest(len(replay))
    learner.fill(steps, truncated, torch.stack(learner.drawn))
    assert bool(truncated.any()) and bool(steps.terminated.any()) == (name != PENDULUM)
    policy, buffer = learner.algorithm.policy, learner.algorithm.rollout_buffer

    def by_env(x: Tensor) -> Tensor:  # [40, 3] rows to [3, 40]
        return x.view(40, 3).T

    with torch.no_grad():
        here, after = (policy.predict_values(x).flatten() for x in (steps.obs, steps.next_obs))
    expected = advantages(
        by_env(steps.reward),
        by_env(torch.where(steps.terminated, 0.0, 0.99)),
        by_env(after),
        by_env(here),
        0.95,
        truncated=by_env(truncated),
    )
    assert torch.from_numpy(buffer.advantages).T.numpy() == pytest.approx(
        expected.numpy(), rel=1e-5, abs=2e-5
    )
    assert buffer.observations.reshape(120, -1) == pytest.approx(steps.obs.numpy())
    with torch.no_grad():
        drawn = torch.from_numpy(buffer.actions).flatten(0, 1)
        _, log_prob, _ = policy.evaluate_actions(
            steps.obs, drawn.squeeze(1) if "Cart" in name else drawn
        )
    assert buffer.log_probs.flatten() == pytest.approx(log_prob.numpy(), abs=1e-5)


def test_ppo_updates_when_its_rollout_is_complete_and_not_before(tmp_path):
    env = make_env(PENDULUM, num_envs=2)
    recipe = BaselinePPO(rollout=8, epochs=2, batch_size=4, hidden=(8,))
    learner = recipe.start(env, None, rng=generator(0))
    before, replay = weights(learner), collect(learner, env, tmp_path, 7)
    assert learner.learn(replay, 2) == {} and same(before, weights(learner))
    learner.act(env.obs, None, explore=False, rng=generator(1))  # an evaluation is no part of it
    moved, action = env.obs, learner.act(env.obs, None, explore=True, rng=generator(2))[0]
    assert bool((action.abs() <= 2).all())
    step = env.step(action)
    replay.add(Steps(moved, action, step.reward, step.obs, step.terminated), step.truncated)
    logged = learner.learn(replay, 2)
    assert logged["updates"] == 2 * 4 and np.isfinite(logged["value_loss"])
    assert not same(before, weights(learner)) and not learner.drawn


def test_sac_updates_as_the_library_does_by_itself(tmp_path):
    """On one transition, so that both draw the same batch from their replays."""
    from stable_baselines3.common.buffers import ReplayBuffer

    env = make_env(PENDULUM)
    recipe = BaselineSAC(hidden=(8,), batch_size=4)
    ours, theirs = (recipe.start(env, None, rng=generator(0)) for _ in range(2))
    assert same(weights(ours), weights(theirs))
    replay = Replay(tmp_path, 3, env.action_space)
    obs = env.reset([3])
    action, _ = ours.act(obs, None, explore=True, rng=generator(1))
    moved = env.step(action)
    step = Steps(obs, action, moved.reward, moved.obs, torch.tensor([True]))
    replay.add(step, torch.tensor([False]))

    algorithm = theirs.algorithm
    algorithm.replay_buffer = ReplayBuffer(
        1, algorithm.observation_space, algorithm.action_space, device="cpu"
    )
    scaled = algorithm.policy.scale_action(action.numpy())
    reward, over = moved.reward.numpy(), np.array([True])
    algorithm.replay_buffer.add(obs.numpy(), moved.obs.numpy(), scaled, reward, over, [{}])
    seed = int(draws.integers(theirs.rng.clone_state(), 2**31, 1))
    torch.manual_seed(seed)
    algorithm.train(1, 4)
    assert ours.learn(replay, 1) == {}  # the random phase
    logged = ours.learn(replay, 1)
    assert logged["updates"] == 1 and logged["critic_loss"] > 0
    assert same(weights(ours), weights(theirs))


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_sac_makes_its_updates_when_the_library_does(rate, tmp_path):
    """After each step past `learning_starts`, and no more for the steps before."""
    from stable_baselines3 import SAC

    starts, length = 12, 20
    recipe = BaselineSAC(
        hidden=(4,), batch_size=4, updates_per_step=rate, random_frames=starts, action_repeat=1
    )
    small = {"eval_frames": None, "log_frames": 1, "seed": 0, "say": lambda line: None}
    train(env=PENDULUM, agent=recipe, out=tmp_path, frames=length, **small)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    theirs = SAC("MlpPolicy", "Pendulum-v1", learning_starts=starts, gradient_steps=int(rate),
                 batch_size=4, policy_kwargs={"net_arch": [4]})  # fmt: skip
    updates = [theirs.learn(1, reset_num_timesteps=False)._n_updates for _ in range(length)]
    assert [row["updates"] for row in rows] == updates
    assert updates[starts - 1] == 0 and updates[-1] == rate * (length - starts)


def test_sac_learns_to_choose_the_rewarded_action(tmp_path):
    """A bandit: reward -|a - 1.2| for torques in [-2, 2]."""
    env = make_env(PENDULUM)
    learner = BaselineSAC(hidden=(32,), learning_rate=3e-3, batch_size=64).start(
        env, None, rng=generator(0)
    )
    replay, rng = Replay(tmp_path, 3, env.action_space), generator(1)
    obs, end = torch.zeros(1, 3), torch.tensor([True])
    for _ in range(200):
        action = 4 * draws.uniform(rng, 1, 1) - 2
        reward = -(action[:, 0] - 1.2).abs()
        replay.add(Steps(obs, action, reward, obs, end), ~end)
    learner.learn(replay, 200)
    learner.learn(replay, 300)
    action, _ = learner.act(obs, None, explore=False, rng=rng)
    assert action.item() == pytest.approx(1.2, abs=0.25)


@pytest.mark.parametrize("recipe", [BaselineSAC(hidden=(8,)), BaselinePPO(hidden=(8,), rollout=6)])
def test_a_learner_goes_on_from_its_state_and_leaves_the_global_generators_alone(recipe, tmp_path):
    env = make_env(PENDULUM, num_envs=2)
    one = recipe.start(env, None, rng=generator(0))
    torch.manual_seed(5)
    np.random.seed(5)
    replay = collect(one, env, tmp_path, 5)
    one.learn(replay, 10)
    one.learn(replay, 10)
    assert torch.initial_seed() == 5 and np.random.rand() == np.random.RandomState(5).rand()
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other = recipe.start(env, None, rng=generator(9))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.rng.set_state(one.rng.get_state())
    obs = env.obs
    for learner in (one, other):
        action, _ = learner.act(obs, None, explore=True, rng=generator(3))
    step = env.step(action)
    replay.add(Steps(obs, action, step.reward, step.obs, step.terminated), step.truncated)
    assert one.learn(replay, 2) == other.learn(replay, 2) != {}
    assert same(weights(one), weights(other))


def test_sac_refuses_discrete_actions():
    with pytest.raises(ValueError, match="SAC needs continuous actions between bounds"):
        BaselineSAC().start(make_env("gym/CartPole-v1"), None, rng=generator(0))


def test_sac_leaves_out_an_update_that_is_not_finite_and_makes_the_others(tmp_path):
    env = make_env(PENDULUM)
    learner = BaselineSAC(hidden=(8,), batch_size=4).start(env, None, rng=generator(0))
    replay = collect(learner, env, tmp_path, 40)
    replay.steps.reward[::10] = torch.nan
    learner.learn(replay, 3)
    with pytest.raises(NotFiniteError, match="gradient of stable-baselines3 is nan") as error:
        learner.learn(replay, 12)
    assert error.value.batch["reward"].isnan().any() and 0 < error.value.left_out < 12
    assert error.value.logged["updates"] + error.value.left_out == 12
    assert np.isfinite(error.value.logged["critic_loss"])
    assert all(weight.isfinite().all() for weight in weights(learner))


@pytest.mark.parametrize("part", ["obs", "reward"])
def test_ppo_leaves_out_a_rollout_that_is_not_finite(part, tmp_path):
    env = make_env(PENDULUM)
    learner = BaselinePPO(hidden=(8,), rollout=8, batch_size=4).start(env, None, rng=generator(0))
    replay = collect(learner, env, tmp_path, 8)
    getattr(replay.steps, part)[-1] = torch.nan
    before = learner.stepped
    with pytest.raises(NotFiniteError, match="is nan") as error:
        learner.learn(replay, 8)
    assert error.value.left_out + learner.stepped - before == 20
    assert error.value.logged == {"updates": learner.stepped - before}
    assert all(weight.isfinite().all() for weight in weights(learner))


@pytest.mark.parametrize(
    "agent",
    [
        BaselineSAC(hidden=(4,), batch_size=4, learning_rate=1e30, random_frames=5),
        BaselinePPO(hidden=(4,), rollout=10, batch_size=5, learning_rate=1e30),
    ],
)
def test_a_run_whose_networks_overflow_stops_with_its_batch_or_goes_on(agent, tmp_path):
    run = {"env": PENDULUM, "agent": agent, "frames": 40, "eval_frames": None, "log_frames": 40}
    run |= {"say": lambda line: None, "action_repeat": 1}
    with pytest.raises(ValueError, match=r"is (nan|inf), after .* the batch is in"):
        train(out=tmp_path, **run)
    assert set(Steps._fields) < checkpoints.load(tmp_path / "not-finite-batch.pt", "batch").keys()
    train(out=tmp_path, nan="skip", **run)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["frames"] == 40 and row["skipped"] > 1
