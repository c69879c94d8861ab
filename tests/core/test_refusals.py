"""What is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    ILQR,
    LQR,
    MCTS,
    MPPI,
    PUCT,
    TDMPC,
    UCT,
    Argmax,
    BeamSearch,
    Box,
    Budget,
    CategoricalCEM,
    DepthFirstSearch,
    Discrete,
    GradCEM,
    GradMPC,
    Gumbel,
    Model,
    ParticleFilter,
    Planner,
    Proposal,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Transition,
    all_actions,
    draws,
    generator,
    reset,
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
    with pytest.raises(ValueError, match=f"^{name} needs Model.{part}, and this model has none"):
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


# What a model or a caller may get wrong


class Line:
    """x' = x + a, reward -x'^2, by a function of state and action where one is given."""

    def __init__(self, step: Callable[[Any, Any], Transition] | None = None) -> None:
        self.own = step

    def step(self, state: Any, action: Any, *, rng: Rng) -> Transition:
        if self.own is not None:
            return self.own(state, action)
        after = state + action
        return Transition(after, -after[:, 0].square(), torch.ones(len(after)))


ZERO = torch.zeros(2, 1)
UNIT = Box(torch.tensor([-1.0]), torch.tensor([1.0]))
SMALL = CEM(horizon=2, samples=16, elites=4, iterations=2)


def moved(state: Tensor, after: Any, reward: Any = None, discount: Any = None) -> Transition:
    zero = torch.zeros(len(state))
    return Transition(
        after, zero if reward is None else reward, zero + 1 if discount is None else discount
    )


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda x, a: moved(x, x, discount=0.9), r"\(32,\) discounts, a tensor, not 0.9"),
        (lambda x, a: moved(x, x, reward=[0.0] * len(x)), "rewards, a tensor, not"),
        (lambda x, a: moved(x, x.add_(a)), "changed the states or actions it was given"),
        (lambda x, a: moved(x, x + a.clamp_(-1, 0)), "changed the states or actions it was given"),
        (lambda x, a: moved(x, (x + a).long()), "a tensor of float32, not a tensor of int64"),
        (lambda x, a: moved(x, {"x": x}), "a tensor of float32, not a dict of x"),
    ],
)
def test_what_a_step_returns_is_checked(step: Callable[[Any, Any], Transition], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SMALL(Model(Line(step), action_space=UNIT), ZERO, rng=generator(0))


def test_the_states_of_a_step_keep_their_precision_and_the_order_of_their_names() -> None:
    def step(state: dict[str, Tensor], action: Tensor) -> Transition:
        speed = state["v"] + 0.1 * action[:, 0]
        place = state["p"] + 0.1 * speed
        return moved(place, {"v": speed.double(), "p": place}, reward=-place.square())

    start = {"p": torch.ones(1), "v": torch.zeros(1)}

    def in_order(state: dict[str, Tensor], action: Tensor) -> Transition:
        after = step(state, action)
        return after._replace(state={"p": after.state["p"], "v": after.state["v"].float()})

    box = Box(torch.tensor([-5.0]), torch.tensor([5.0]))
    for planner in (LQR(horizon=20), LQR(), ILQR(horizon=20), SMALL, GradMPC(horizon=5)):
        plans = [
            planner(Model(world, action_space=box), start, rng=generator(0))[0]
            for world in (Line(step), Line(in_order))
        ]
        torch.testing.assert_close(plans[0].action, plans[1].action)
        torch.testing.assert_close(plans[0].value, plans[1].value)
        assert plans[0].final["v"].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rng": 0}, r"draws from a torch.Generator, or from one per root, not from 0"),
        ({"rng": None}, "not from None: pass rng=generator"),
        ({"budget": 100}, r"a budget is a Budget\(steps=...\), not 100"),
        ({"carry": 3}, "goes on from a carry of its own, not from a int"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        SMALL(Model(Line(), action_space=UNIT), ZERO, **({"rng": generator(0)} | arguments))


@pytest.mark.parametrize("limit", [-5, float("nan")])
def test_limits_below_zero_are_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"CEM: budget\.seconds must be 0 or more, not"):
        SMALL(
            *(Model(Line(), action_space=UNIT), ZERO),
            rng=generator(0),
            budget=Budget(seconds=limit),
        )


def test_a_world_that_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="CEM plans with a Model, not with a Line"):
        SMALL(Line(), ZERO, rng=generator(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="MCTS goes on in a Memory of its own, not in a int"):
        MCTS(simulations=2, candidates=3, reuse=True)(
            tensor_garden(), tensor_rows(["start"]), 3, rng=generator(0)
        )


def test_spaces_without_an_action_are_refused() -> None:
    planner = CategoricalCEM(horizon=2, samples=8, elites=2)
    with pytest.raises(ValueError, match=r"needs at least one action, .* Discrete\(n=0\)"):
        planner(Model(Line(), action_space=Discrete(0)), ZERO, rng=generator(0))
    bad: Any = Box(-1.0, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"bounds that are tensors \[A\], not -1.0"):
        SMALL(Model(Line(), action_space=bad), ZERO, rng=generator(0))


def test_a_missing_policy_is_named_with_what_helps() -> None:
    with pytest.raises(ValueError, match=r"uniform_policy\(action_space\)"):
        BeamSearch(width=1, expand=1, depth=1)(
            Model(Line(), action_space=UNIT), ZERO, rng=generator(0)
        )


class Game:
    """Action 0 hands over to someone who earns us 5 or costs us 5; action 1 earns 1."""

    def __init__(self, chance: bool) -> None:
        self.chance = chance

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        ours = state == 0
        reward = torch.where(ours, (action == 1).float(), 10.0 * action - 5)
        over = ~ours | (action == 1)
        onward = 1.0 if self.chance else -1.0
        return Transition(state + 1, reward, torch.where(over, 0.0, onward))

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        found = all_actions(Discrete(2)).propose(state, num, rng=rng)
        return found._replace(chance=(state == 1) if self.chance else None)


@pytest.mark.parametrize("chance", [True, False])
@pytest.mark.parametrize(
    "planner",
    [
        MCTS(simulations=8, candidates=2, selection=UCT(), reduce=Argmax()),
        BeamSearch(width=4, expand=2, depth=2),
        DepthFirstSearch(expand=2, depth=2, max_nodes=9),
        ParticleFilter(particles=8, depth=2),
        RandomShooting(samples=8, horizon=2),
    ],
)
def test_only_a_search_that_knows_of_others_plans_against_them(planner: Any, chance: bool) -> None:
    model, root = Model(Game(chance), Game(chance)), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"would choose for (nature|the other player)"):
        planner(model, root, rng=generator(0))
    plan, _ = MCTS(simulations=40, candidates=2, selection=UCT())(model, root, rng=generator(0))
    assert plan.action.item() == 1


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Gumbel(considered=0), "Gumbel.considered must be a whole number of at least 1"),
        (Gumbel(scale=-1.0), "Gumbel.scale must be 0 or more"),
        (PUCT(dirichlet_fraction=5.0), "PUCT.dirichlet_fraction must be at most 1"),
        (PUCT(dirichlet_alpha=-1.0), "PUCT.dirichlet_alpha must be above 0"),
        (PUCT(c_base=0.0), "PUCT.c_base must be above 0"),
        (UCT(exploration=float("nan")), "UCT.exploration must be 0 or more, not nan"),
    ],
)
def test_the_settings_of_a_selection_are_checked(selection: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MCTS(simulations=2, candidates=2, selection=selection)


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert CEM(horizon=np.int64(3), samples=np.int32(64)).horizon == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mask", [torch.tensor([True, False]), [True, False], np.array([1, 0], bool)]
)
def test_a_carry_is_reset_by_any_list_of_truth_values(mask: Any) -> None:
    _, carry = SMALL(Model(Line(), action_space=UNIT), ZERO, rng=generator(0))
    assert reset(carry, mask).fresh.tolist() == [True, False]
    for wrong in (torch.tensor([1, 0]), torch.tensor(True), [0.0, 1.0]):
        with pytest.raises(ValueError, match=r"one truth value per root, \[B\] of bool"):
            reset(carry, wrong)


@pytest.mark.parametrize(
    "planner",
    [
        GradMPC(horizon=3, samples=1),
        GradCEM(horizon=3, samples=8, elites=2),
        ILQR(horizon=3),
        LQR(),
    ],
)
def test_gradients_are_had_in_inference_mode_and_from_states_made_in_it(planner: Any) -> None:
    def step(x: Tensor, a: Tensor) -> Transition:
        return moved(x, x * (1 + 0.1 * a), reward=-(x * (a - 0.3))[:, 0].square())

    model = Model(Line(step), action_space=UNIT)
    expected, _ = planner(model, torch.ones(2, 1), rng=generator(0))
    with torch.inference_mode():
        made = torch.ones(2, 1)
        inside, _ = planner(model, made, rng=generator(0))
    outside, _ = planner(model, made, rng=generator(0))
    for plan in (inside, outside):
        assert torch.equal(plan.action, expected.action)
