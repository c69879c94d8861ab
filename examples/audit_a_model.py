"""How far ahead can the world model that comes with the package be trusted?

    python examples/audit_a_model.py

Holds it against recorded reality, then asks how plans depend on the horizon and on noise.
"""

import torch

from control.world_model import load_world_model
from mbrl_core import CEM, generator
from mbrl_core.audit import Recording, compounding_error, elite_stability, horizon_audit

world, rng = load_world_model("cartpole-swingup"), generator(0)
model, planner = world.model(propagation="mean"), CEM(horizon=12, samples=64, elites=8)

# Sixteen decisions in the real simulator, from four starts.
env, carry = world.make_env(num_envs=4), None
obs, actions, rewards = [env.reset(seeds=[0, 1, 2, 3])], [], []
for _ in range(16):
    plan, carry = planner(model, world.root(obs[-1]), carry, rng=rng)
    result = env.step(plan.action)
    obs, actions = [*obs, result.obs], [*actions, plan.action]
    rewards.append(result.reward)
reward = torch.stack(rewards, 1)
logged = Recording(obs, actions, reward, torch.ones_like(reward))

errors = compounding_error(model, logged, root=world.root, observe=lambda s: s.obs, rng=rng)
for h in (1, 4, 16):
    print(f"{h:2d} steps ahead the prediction is {errors.rolled[:, h - 1].mean():.3f} off")
cut = horizon_audit(planner, model, world.root(obs[8]), [1, 3, 6, 9, 12], rng=rng)
for horizon, share in zip(cut.horizons.tolist(), cut.changed.tolist(), strict=True):
    print(f"a horizon of {horizon:2d} changes {share:.0%} of the actions")
elite = elite_stability(
    planner, model, obs[8], 0.1, horizon=12, samples=64, top=8, root=world.root, rng=rng
)
print(f"of the 8 best of 64 candidates {elite.overlap.mean():.0%} survive noise of 0.1")
