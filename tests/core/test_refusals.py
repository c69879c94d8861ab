"""What is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    MCTS,
    MPPI,
    TDMPC,
    BeamSearch,
    Box,
    Budget,
    CategoricalCEM,
    GradCEM,
    GradMPC,
    Model,
    Planner,
    Proposal,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Transition,
    draws,
    generator,
    rows,
)
from tests.worlds import Glider, TensorGarden, glider, tensor_garden, tensor_rows, text_garden

PATHS = ["start", "gate"]
TRAJECTORY: list[Planner] = [
    CEM(horizon=2),
    ICEM(horizon=2),
    MPPI(horizon=2),
    TDMPC(horizon=2),
    GradMPC(horizon=2),
    GradCEM(horizon=2),
]


@pytest.mark.parametrize(
    ("planner", "part"),
    [
        (MCTS(simulations=4, candidates=3), "policy"),
        (BeamSearch(width=1, expand=2, depth=2), "policy"),
        (RandomShooting(samples=2, horizon=2), "policy"),
        (RandomShooting(samples=2, horizon=2, actions="uniform"), "action_space"),
        *((planner, "action_space") for planner in TRAJECTORY),
        (CategoricalCEM(horizon=2), "action_space"),
    ],
)
def test_a_planner_names_the_part_it_needs(planner: Planner, part: str) -> None:
    name = type(planner).__name__
    with pytest.raises(ValueError, match=f"^{name} needs Model.{part}, and this model has none$"):
        planner(Model(TensorGarden()), tensor_rows(PATHS), rng=generator(0))


@pytest.mark.parametrize("planner", TRAJECTORY, ids=lambda planner: type(planner).__name__)
def test_text_is_refused_where_actions_must_be_continuous(planner: Planner) -> None:
    with pytest.raises(ValueError, match=r"needs Model\.action_space"):
        planner(text_garden(), PATHS, rng=generator(0))
    with pytest.raises(ValueError, match=r"must be a Box\(low, high\), not Discrete\(n=3\)"):
        planner(tensor_garden(), tensor_rows(PATHS), rng=generator(0))


class Deaf(Glider):
    """A glider that no action moves, with weights that are trained."""

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        return (
            super()
            .step(state, torch.zeros_like(action), rng=rng)
            ._replace(reward=self.critic(state).squeeze(1))
        )


@pytest.mark.parametrize("planner", [GradMPC(horizon=2), GradCEM(horizon=2)])
def test_a_reward_without_a_gradient_is_refused(planner: Planner) -> None:
    model = glider()._replace(dynamics=Deaf())
    with pytest.raises(ValueError, match="can be differentiated with respect to the action"):
        planner(model, torch.ones(2, 2).double(), rng=generator(0))


class Misshapen(TensorGarden):
    """A garden that returns one thing in the wrong shape."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        if self.fault == "states":
            return moved._replace(state=moved.state[1:])
        if self.fault in ("rewards", "discounts"):
            wide = getattr(moved, self.fault[:-1]).unsqueeze(1)
            return moved._replace(**{self.fault[:-1]: wide})
        return moved

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        proposal = super().propose(state, num, rng=rng)
        if self.fault == "log_prior":
            return proposal._replace(log_prior=proposal.log_prior.flatten())
        if self.fault == "actions":
            return proposal._replace(actions=proposal.actions[1:])
        return proposal

    def value(self, state: Tensor) -> Tensor:
        value = super().value(state)
        return value.unsqueeze(1) if self.fault == "values" else value


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("states", "Dynamics.step"),
        ("rewards", "Dynamics.step"),
        ("discounts", "Dynamics.step"),
        ("log_prior", "Policy.propose"),
        ("actions", "Policy.propose"),
        ("values", "Value.value"),
    ],
)
@pytest.mark.parametrize(
    "planner",
    [
        MCTS(simulations=4, candidates=3),
        BeamSearch(width=1, expand=2, depth=2),
        RandomShooting(samples=16, horizon=1),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_a_wrong_shape_is_one_clear_sentence(planner: Planner, fault: str, part: str) -> None:
    model = Misshapen(fault)
    with pytest.raises(ValueError, match=f"^{part} must return .*{fault}.*, not ") as error:
        planner(Model(model, model, model), tensor_rows(PATHS), rng=generator(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CEM(horizon=0), "CEM.horizon"),
        (lambda: CEM(horizon=2.0), "CEM.horizon"),
        (lambda: CEM(horizon=True), "CEM.horizon"),
        (lambda: CEM(horizon=2, samples=8, elites=9), "CEM.elites"),
        (lambda: CEM(horizon=2, momentum=1.0), "CEM.momentum"),
        (lambda: CEM(horizon=2, min_std=-0.1), "CEM.min_std"),
        (lambda: CEM(horizon=2, init_std=0.0), "CEM.init_std"),
        (lambda: CEM(horizon=2, output="median"), "CEM.output"),
        (lambda: MPPI(horizon=2, temperature=0.0), "MPPI.temperature"),
        (lambda: MPPI(horizon=2, temperature=float("nan")), "MPPI.temperature"),
        (lambda: GradMPC(horizon=2, learning_rate=0.0), "GradMPC.learning_rate"),
        (lambda: GradMPC(horizon=2, optimizer="lbfgs"), "GradMPC.optimizer"),
        (lambda: GradMPC(horizon=2, output="mean"), "GradMPC.output"),
        (lambda: GradMPC(horizon=2, last_rate=1.5), "GradMPC.last_rate"),
        (lambda: GradMPC(horizon=2, samples=2, policy_samples=3), "GradMPC.policy_samples"),
        (lambda: GradMPC(horizon=2, policy_std=-0.1), "GradMPC.policy_std"),
        (lambda: GradCEM(horizon=2, gradient_steps=0), "GradCEM.gradient_steps"),
        (lambda: CEM(horizon=2, beta=-1.0), "CEM.beta"),
        (lambda: CEM(horizon=2, knots=3), "CEM.knots"),
        (lambda: CEM(horizon=2, knots=0), "CEM.knots"),
        (lambda: CEM(horizon=2, interpolation="quintic"), "CEM.interpolation"),
        (lambda: CEM(horizon=2, keep_mean="first"), "CEM.keep_mean"),
        (lambda: MPPI(horizon=9, smooth=4), "MPPI.smooth"),
        (lambda: MPPI(horizon=9, smooth=11), "MPPI.smooth"),
        (lambda: MPPI(horizon=9, knots=3, smooth=5), "MPPI.smooth"),
        (lambda: MPPI(horizon=2, control_cost=-1.0), "MPPI.control_cost"),
        (lambda: ICEM(horizon=2, shrink=0.5), "ICEM.shrink"),
        (lambda: ICEM(horizon=2, keep_elites=1.0), "ICEM.keep_elites"),
        (lambda: ICEM(horizon=2, samples=19, elites=10), "ICEM.samples"),
        (lambda: TDMPC(horizon=2, samples=8, elites=9), "TDMPC.elites"),
        (lambda: TDMPC(horizon=2, policy_samples=512), "TDMPC.policy_samples"),
        (lambda: TDMPC(horizon=2, policy_samples=-1), "TDMPC.policy_samples"),
        (lambda: TDMPC(horizon=2, output="median"), "TDMPC.output"),
        (lambda: TDMPC(horizon=2, explore=-1.0), "TDMPC.explore"),
        (lambda: CategoricalCEM(horizon=2, floor=1.0), "CategoricalCEM.floor"),
        (lambda: CategoricalCEM(horizon=2, renew=1.5), "CategoricalCEM.renew"),
        (lambda: CategoricalCEM(horizon=2, samples=8, elites=9), "CategoricalCEM.elites"),
        (lambda: RandomShooting(samples=0, horizon=1), "RandomShooting.samples"),
        (lambda: RandomShooting(samples=1, horizon=1, actions="all"), "RandomShooting.actions"),
        (lambda: BeamSearch(width=0, expand=1, depth=1), "BeamSearch.width"),
        (lambda: MCTS(simulations=-1, candidates=1), "MCTS.simulations"),
        (lambda: MCTS(simulations=1, candidates=1, max_depth=0), "MCTS.max_depth"),
        (lambda: RecedingHorizon(planner=CEM(horizon=1), steps=0), "RecedingHorizon.steps"),
        (
            lambda: RecedingHorizon(planner=CEM(horizon=1), steps=1, execute=0),
            "RecedingHorizon.execute",
        ),
    ],
)
def test_a_hyperparameter_that_makes_no_sense_is_named(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make()


def test_bounds_must_be_in_order() -> None:
    box = Box(torch.tensor([1.0]), torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"CEM needs bounds \[A\] with low < high"):
        CEM(horizon=2)(glider()._replace(action_space=box), torch.zeros(1, 2), rng=generator(0))


def test_a_root_that_is_nan_is_refused() -> None:
    state = torch.tensor([[0.0, 0.0], [0.0, torch.nan]])
    with pytest.raises(ValueError, match=r"NaN or infinity in rows \[1\]"):
        CEM(horizon=2)(glider(), state, rng=generator(0))
    with pytest.raises(ValueError, match=r"NaN or infinity in rows \[0\]"):
        CEM(horizon=2)(glider(), torch.tensor([torch.inf]), rng=generator(0))


def test_no_root_is_refused() -> None:
    with pytest.raises(ValueError, match="no root state"):
        BeamSearch(width=1, expand=1, depth=1)(text_garden(), [], rng=generator(0))
    with pytest.raises(ValueError, match="no root state"):
        CEM(horizon=2)(glider(), torch.zeros(0, 2), rng=generator(0))


def test_there_is_one_generator_or_one_per_root() -> None:
    with pytest.raises(ValueError, match="3 generators for 2 root states"):
        BeamSearch(width=1, expand=1, depth=1)(
            text_garden(), PATHS, rng=[generator(b) for b in range(3)]
        )
    with pytest.raises(ValueError, match="2 generators cannot share 3 rows"):
        draws.uniform([generator(0), generator(1)], 3)


def test_grad_mpc_needs_a_gradient() -> None:
    class Opaque(type(glider().dynamics)):  # type: ignore[misc]
        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            moved = super().step(state, action, rng=rng)
            return moved._replace(state=moved.state.detach(), reward=moved.reward.detach())

    model = glider()._replace(dynamics=Opaque(), value=None)
    with pytest.raises(ValueError, match="reward can be differentiated"):
        GradMPC(horizon=2)(model, torch.zeros(1, 2).double(), rng=generator(0))


@pytest.mark.parametrize(
    "planner",
    [
        MCTS(simulations=4, candidates=3),
        BeamSearch(width=1, expand=2, depth=2),
        RandomShooting(samples=2, horizon=2),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_a_budget_for_nothing_is_refused(planner: Planner) -> None:
    with pytest.raises(ValueError, match="budget does not allow"):
        planner(text_garden(), PATHS, rng=generator(0), budget=Budget(steps=0))


# Rows and draws


def test_rows_are_tensors_lists_and_nests_of_these() -> None:
    nest = {"at": torch.tensor([[1], [2]]), "said": ["x", "y"], "more": (torch.tensor([3, 4]),)}
    twice = rows.repeat(nest, 2)
    assert rows.count(twice) == 4 and twice["said"] == ["x", "x", "y", "y"]
    back = rows.take(twice, torch.tensor([0, 2]))
    assert back["said"] == nest["said"] and torch.equal(back["more"][0], nest["more"][0])
    both = rows.concat([nest, back])
    assert both["at"].flatten().tolist() == [1, 2, 1, 2]
    mixed = rows.where(torch.tensor([True, False]), nest, rows.take(nest, torch.tensor([1, 0])))
    assert mixed["said"] == ["x", "x"] and mixed["at"].flatten().tolist() == [1, 1]


def test_rows_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many rows"):
        rows.count((torch.zeros(2), ["x"]))
    with pytest.raises(ValueError, match="leading batch axis"):
        rows.count(torch.tensor(1.0))
    with pytest.raises(TypeError, match="rows must be"):
        rows.count(3)


@pytest.mark.parametrize(
    "draw",
    [draws.normal, draws.uniform, draws.gumbel, lambda rng, *shape: draws.integers(rng, 9, *shape)],
    ids=["normal", "uniform", "gumbel", "integers"],
)
def test_a_roots_draws_do_not_depend_on_its_batch(draw: Callable[..., Tensor]) -> None:
    together = draw([generator(0), generator(1)], 6, 2)
    alone = [draw([generator(b)], 3, 2) for b in range(2)]
    assert torch.equal(together, torch.cat(alone))
    assert bool(torch.isfinite(together).all())


def test_a_fork_and_a_copy_are_independent_of_their_source() -> None:
    source, twin = generator(3), generator(3)
    copied = draws.copy(source)
    assert torch.equal(draws.uniform(copied, 4), draws.uniform(twin, 4))
    assert torch.equal(draws.uniform(source, 4), draws.uniform(generator(3), 4))
    assert not torch.equal(draws.uniform(draws.fork(source), 4), draws.uniform(source, 4))
