"""One planner object, two worlds: tree search over a cart-pole's actions and over reasoning steps.

    python examples/same_planner_two_worlds.py

Uses the world model and the language model that come with the package; nothing is downloaded.
"""

import torch

from control.world_model import load_world_model
from mbrl_core import MCTS, UCT, Argmax, Box, generator, grid_actions
from reasoning import Reasoner, StepScorer, Strategy, TransformersEngine
from reasoning.embedded import folder_of

search = MCTS(simulations=24, candidates=5, selection=UCT(exploration=1.0), reduce=Argmax())

# Control: five evenly spaced forces as candidates, a learned ensemble as the world.
world = load_world_model("cartpole-swingup")
model = world.model(propagation="mean")
assert isinstance(world.action_space, Box)
model = model._replace(policy=grid_actions(world.action_space, 5))
almost_upright = torch.tensor([[0.0, 0.97, 0.24, 0.0, 0.0]])  # x, cos, sin, velocities
plan, _ = search(model, world.root(almost_upright), rng=generator(0))
print(
    f"cart-pole: push with {plan.action.item():+.1f}; the tree has {plan.trace.size.item()} nodes"
)

# Reasoning: five sampled steps as candidates, a language model as the world.
reasoner = Reasoner(
    engine=TransformersEngine(folder_of("embedded", "lm")),
    scorer=StepScorer(TransformersEngine(folder_of("embedded", "scorer"))),
    calculator=True,
    strategy=Strategy(planner=search, unit="step", merge=True),
)
question = "Sara buys 4 boxes with 6 pens each. Sara gives 5 pens to Tom. How many pens are left?"
plan = reasoner.plan([question])
print(f"\n{question}\n{plan.final[0].text}\nthe tree has {plan.trace.size.item()} nodes")
