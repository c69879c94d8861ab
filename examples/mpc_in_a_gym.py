"""Model-predictive control of Gymnasium's pendulum with its true equations as the model.

    python examples/mpc_in_a_gym.py

Shows the loop that a real environment needs: act, pass the carry on.
"""

import torch

from control.envs import make_env
from control.rewards import known_task
from mbrl_core import MPPI, Model, Rng, Transition, generator


class Pendulum:
    """Gymnasium's Pendulum-v1: states are its observations (cos, sin, angular velocity)."""

    terminates = False
    reward = staticmethod(known_task("gym/Pendulum-v1").reward)

    def step(self, state: torch.Tensor, action: torch.Tensor, *, rng: Rng) -> Transition:
        """One frame of 0.05 s."""
        angle = torch.atan2(state[:, 1], state[:, 0])
        speed = state[:, 2] + 0.05 * (15 * angle.sin() + 3 * action[:, 0].clamp(-2, 2))
        speed = speed.clamp(-8, 8)
        angle = angle + 0.05 * speed
        after = torch.stack([angle.cos(), angle.sin(), speed], 1)
        reward = self.reward(state, action, after)
        return Transition(after, reward, torch.ones_like(reward))


env = make_env("gym/Pendulum-v1", num_envs=4)
planner = MPPI(horizon=20, samples=64, iterations=2)
model = Model(Pendulum(), action_space=env.action_space)
obs, carry, rng = env.reset(seeds=[0, 1, 2, 3]), None, generator(0)
total = torch.zeros(4)
while not env.done.all():
    plan, carry = planner(model, obs, carry, rng=rng)
    result = env.step(plan.action)
    obs, total = result.obs, total + result.reward
print("returns of four episodes:", [round(value) for value in total.tolist()])
