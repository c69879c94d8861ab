"""What chooses actions in the experiments: chance, planners, and SAC with its critic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evals.experiments.plants import Act, Data, Plant
from mbrl_core import Box, Carry, Model, Planner, Rng, Rows, draws


def random_act(space: Box, rng: Rng, hold: float = 0.0) -> Act:
    """Uniformly random actions, each kept for another step with probability `hold`."""

    def act(obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        fresh = space.low + (space.high - space.low) * draws.uniform(rng, len(obs), len(space.low))
        if carry is not None and hold > 0:
            kept = draws.uniform(rng, len(obs), 1) < hold
            fresh = torch.where(kept, carry, fresh)
        return fresh, fresh

    return act


def planning_act(
    planner: Planner, model: Model, rng: Rng, root: Callable[[Tensor], Rows] = lambda obs: obs
) -> Act:
    """The first action of a new plan at each step, warm-started by the last."""

    def act(obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        plan, carry = planner(model, root(obs), carry, rng=rng)
        return plan.action, carry

    return act


def noisy(act: Act, space: Box, std: float, rng: Rng) -> Act:
    """`act` with Gaussian noise of `std` halves of the action range, clipped."""

    def noisily(obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        action, carry = act(obs, carry)
        noise = std * (space.high - space.low) / 2 * draws.normal(rng, *action.shape)
        return torch.minimum(torch.maximum(action + noise, space.low), space.high), carry

    return noisily


class Critic:
    """V(s) = min_i Q_i(s, pi(s)) of a trained SAC, as `Value` over observations."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    @torch.no_grad()
    def value(self, state: Rows) -> Tensor:
        """See `Value`; states of an ensemble are valued by their observation."""
        obs = state if isinstance(state, Tensor) else state.obs
        action = self.policy._predict(obs, deterministic=True)
        return torch.cat(self.policy.critic(obs, action), 1).amin(1)


class Stage(NamedTuple):
    """SAC after so many steps of the real system."""

    steps: int
    act: Act  # its mean actions
    critic: Critic
    data: Data  # the transitions it had learned from


def train_sac(plant: Plant, stages: Sequence[int], seed: int) -> list[Stage]:
    """SAC (Haarnoja et al. 2018, by stable-baselines3) after each of the numbers of real steps.

    One run, looked at several times; an update a step after the first 200 random ones.
    """
    from stable_baselines3 import SAC

    network = {"net_arch": [64, 64]}
    learner = SAC(
        "MlpPolicy", _gymnasium(plant), seed=seed, gamma=0.99, learning_rate=1e-3,
        learning_starts=200, policy_kwargs=network, device="cpu",
    )  # fmt: skip
    seen, found = 0, []
    for steps in sorted(stages):
        learner.learn(steps - seen, reset_num_timesteps=False)
        seen = steps
        policy = copy.deepcopy(learner.policy)
        policy.set_training_mode(False)
        found.append(Stage(steps, _mean_act(policy), Critic(policy), _seen(learner, steps)))
    return found


def _mean_act(policy: Any) -> Act:
    def act(obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        with torch.no_grad():
            return _unscaled(policy, policy._predict(obs, deterministic=True)), None

    return act


def _unscaled(policy: Any, action: Tensor) -> Tensor:
    """From the policy's [-1, 1] to the plant's actions."""
    low, high = (torch.from_numpy(x) for x in (policy.action_space.low, policy.action_space.high))
    return low + (action + 1) / 2 * (high - low)


def _seen(learner: Any, steps: int) -> Data:
    """The transitions in its replay buffer, in the order they happened."""
    buffer = learner.replay_buffer
    parts = (buffer.observations, buffer.actions, buffer.next_observations)
    obs, action, after = (torch.from_numpy(part[:steps, 0].copy()) for part in parts)
    return Data(obs, _unscaled(learner.policy, action), after)


def _gymnasium(plant: Plant) -> Any:
    """The plant as a Gymnasium environment."""
    import gymnasium

    space, bound = gymnasium.spaces.Box, np.full(plant.dim, np.inf, np.float32)

    class Environment(gymnasium.Env):
        observation_space = space(-bound, bound)
        action_space = space(plant.action_space.low.numpy(), plant.action_space.high.numpy())

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self.rng = draws.generator(int(self.np_random.integers(2**62)))
            self.state, self.age = plant.start(1, self.rng), 0
            return self.state[0].numpy(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            moved = plant.dynamics.step(
                self.state, torch.as_tensor(action).view(1, -1), rng=self.rng
            )
            self.state, self.age = moved.state, self.age + 1
            ended = bool(moved.discount == 0)
            cut = self.age >= plant.steps and not ended
            return self.state[0].numpy(), float(moved.reward), ended, cut, {}

    return Environment()
