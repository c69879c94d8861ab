"""Every planner that applies keeps the contract on a learned ensemble, the true simulator, a table.

A new planner is one line in the dictionary of what it needs.
"""

from __future__ import annotations

import pytest
import torch

from control.ensemble import Ensemble, Propagation
from control.known_models import gym_dynamics
from control.simulator import true_world
from mbrl_core import (
    CEM,
    ICEM,
    ILQR,
    LQR,
    MCTS,
    MPPI,
    TDMPC,
    UCT,
    BeamSearch,
    Box,
    CategoricalCEM,
    DepthFirstSearch,
    GradCEM,
    GradMPC,
    Gumbel,
    Model,
    ParticleFilter,
    Particles,
    Planner,
    RandomActions,
    RandomShooting,
    RecedingHorizon,
    Reflex,
    Rows,
    all_actions,
    generator,
)
from mbrl_core.testing import check_model, check_planner
from tests.worlds import exported_planners

POLICY: dict[str, Planner] = {  # needs a policy
    "best_of_n": RandomShooting(samples=4, horizon=3),
    "follow_policy": Reflex(),
    "beam": BeamSearch(width=2, expand=2, depth=2),
    "dfs": DepthFirstSearch(expand=2, depth=2, max_nodes=4),
    "particle_filter": ParticleFilter(particles=4, depth=2),
    "puct": MCTS(simulations=6, candidates=2),
    "uct": MCTS(simulations=6, candidates=2, selection=UCT()),
    "gumbel": MCTS(simulations=6, candidates=2, selection=Gumbel()),
}
BOX: dict[str, Planner] = {  # needs continuous actions
    "uniform": RandomShooting(samples=4, horizon=2, actions="uniform"),
    "random": Reflex(action="random"),
    "zero": Reflex(action="zero"),
    "cem": CEM(horizon=2, samples=8, elites=3, iterations=2),
    "icem": ICEM(horizon=2, samples=8, elites=3, iterations=2),
    "mppi": MPPI(horizon=2, samples=8, iterations=2),
    "tdmpc": TDMPC(horizon=2, samples=8, elites=3, policy_samples=2, iterations=2),
    "mpc": RecedingHorizon(planner=CEM(horizon=2, samples=6, elites=2, iterations=1), steps=2),
}
GRADIENT: dict[str, Planner] = {  # needs a model that can be differentiated
    "grad_mpc": GradMPC(horizon=2, samples=2, iterations=2),
    "grad_cem": GradCEM(horizon=2, samples=6, elites=3, iterations=2),
    "ilqr": ILQR(horizon=2, samples=3, iterations=2),
    "lqr": LQR(horizon=2),
}
DISCRETE: dict[str, Planner] = {  # needs discrete actions
    "uniform": RandomShooting(samples=4, horizon=3, actions="uniform"),
    "categorical_cem": CategoricalCEM(horizon=3, samples=6, elites=2, iterations=2),
}


def ensemble(propagation: Propagation) -> tuple[Model, Rows]:
    """A small ensemble with random weights, and three observations."""
    box = Box(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 2.0]))
    dynamics = Ensemble(
        3, box, members=2, hidden=[8], discount=0.9, propagation=propagation, rng=generator(0)
    )
    dynamics.inputs.fit(torch.randn(50, 5, generator=generator(1)))
    dynamics.targets.fit(0.3 * torch.randn(50, 4, generator=generator(2)))
    dynamics.requires_grad_(False)
    model = Model(dynamics, RandomActions(box), action_space=box)
    return model, dynamics.root(torch.randn(3, 3, generator=generator(3)))


def cloud() -> tuple[Model, Rows]:
    """The ensemble with two futures per candidate, one by each member."""
    model, state = ensemble("ts_inf")
    particles = Particles(model, 2)
    return particles.model(), particles.root(state)


def simulated(name: str) -> tuple[Model, Rows]:
    """The true model of an environment, and two states after some actions."""
    world = true_world(name, 2, discount=0.9)
    env = world.make_env(2)
    env.reset([0, 1])
    for _ in range(10):
        env.step(env.action_space.high.expand(2, -1))
    model = world.model()
    return model._replace(policy=RandomActions(model.action_space)), world.root(env)


def lake() -> tuple[Model, Rows]:
    """Slippery FrozenLake by its table, from the start and from beside the goal."""
    dynamics = gym_dynamics("gym/FrozenLake-v1", discount=0.9)
    space = dynamics.action_space
    return Model(dynamics, all_actions(space), action_space=space), torch.tensor([0, 14])


WORLDS = {
    "ensemble": ensemble("ts_inf"),
    "mean_ensemble": ensemble("mean"),
    "ensemble_particles": cloud(),
    "cartpole": simulated("dmc/cartpole-swingup"),
    "cheetah": simulated("dmc/cheetah-run"),
    "pendulum": simulated("gym/Pendulum-v1"),
    "lake": lake(),
}
PLANNERS: dict[str, dict[str, Planner]] = {
    "ensemble": POLICY | BOX,
    "mean_ensemble": GRADIENT,
    "ensemble_particles": BOX,
    "cartpole": POLICY | BOX,
    "cheetah": {name: BOX[name] for name in ("cem", "mppi")} | {"beam": POLICY["beam"]},
    "pendulum": GRADIENT,
    "lake": POLICY | DISCRETE,
}


@pytest.mark.parametrize("world", WORLDS)
def test_model_keeps_its_contract(world: str) -> None:
    exact = world in ("cartpole", "cheetah", "pendulum", "lake")
    check_model(*WORLDS[world], tolerance=0 if exact else 1e-4)


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world in PLANNERS for name in PLANNERS[world]]
)
def test_planner_keeps_its_contract(world: str, name: str) -> None:
    check_planner(PLANNERS[world][name], *WORLDS[world])


def test_every_planner_is_here() -> None:
    made = {type(planner) for planners in PLANNERS.values() for planner in planners.values()}
    assert made == exported_planners()
