"""Every planner on every world it applies to, and every model, keep the public contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

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
    CategoricalCEM,
    CVaR,
    DepthFirstSearch,
    Discrete,
    GradCEM,
    GradMPC,
    Gumbel,
    ListedActions,
    MeanStd,
    Model,
    ParticleFilter,
    Particles,
    Planner,
    Proposal,
    RandomActions,
    RandomShooting,
    RecedingHorizon,
    Reflex,
    Rng,
    Rows,
    Transition,
    Vote,
    Widening,
    Worst,
    all_actions,
    draws,
    generator,
)
from mbrl_core.testing import check_model, check_planner
from tests.worlds import (
    Glider,
    TensorGarden,
    double_rewards,
    exported_planners,
    glider,
    gusty_glider,
    metered_garden,
    tensor_garden,
    tensor_rows,
    text_answers,
    text_garden,
)

PATHS = ["start", "gate>left", "start>right"]


class Fenced(Glider):
    """A glider whose episode ends where its first number leaves [-1, 1]."""

    terminates = True

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        moved = super().step(state, action, rng=rng)
        out = moved.state[:, 0].abs() > 1
        return moved._replace(discount=torch.where(out, 0.0, moved.discount))


FENCED = Fenced()
ROLLING = tensor_garden(0.25)._replace(rollout=tensor_garden().policy)
RISKY = Particles(ROLLING, 3, CVaR(0.5))
RISKY_TEXT = Particles(text_garden(0.25), 2, Worst())
WINDY = Particles(gusty_glider(), 3, MeanStd(0.5))
WORLDS: dict[str, tuple[Model, Rows]] = {
    "tensors": (tensor_garden(), tensor_rows(PATHS)),
    "slippery_tensors": (ROLLING, tensor_rows(PATHS)),
    "double_rewards": (double_rewards(), tensor_rows(PATHS)),
    "text": (text_garden(0.25), PATHS),
    "text_with_tokens": (metered_garden(), PATHS),
    "differentiable": (glider(), torch.randn(3, 2, generator=generator(0)).double()),
    "fenced": (  # all futures of the first root end at once, those of the last never
        glider()._replace(dynamics=FENCED, value=FENCED),
        torch.tensor([[3.0, 0.2], [0.8, 0.5], [0.1, -0.2]]).double(),
    ),
    "tensor_particles": (RISKY.model(), RISKY.root(tensor_rows(PATHS))),
    "text_particles": (RISKY_TEXT.model(), RISKY_TEXT.root(PATHS)),
    "differentiable_particles": (
        WINDY.model(),
        WINDY.root(torch.randn(3, 2, generator=generator(0)).double()),
    ),
}
ANYWHERE: dict[str, Planner] = {
    "best_of_n": RandomShooting(samples=5, horizon=4),
    "follow_policy": Reflex(),
    "beam": BeamSearch(width=2, expand=3, depth=3),
    "dvts": BeamSearch(width=4, expand=2, depth=3, groups=2),
    "dfs": DepthFirstSearch(expand=3, depth=3, max_nodes=10, prune_below=-8.0),
    "particle_filter": ParticleFilter(particles=4, depth=3, temperature=0.5),
    "particle_filter_by_need": ParticleFilter(
        particles=4,
        depth=3,
        temperature=0.5,
        weigh="score",
        resample_at=0.5,
        resampling="multinomial",
        judge="weight",
    ),
    "puct": MCTS(simulations=10, candidates=3),
    "uct": MCTS(simulations=10, candidates=2, selection=UCT(), reduce=Argmax()),
    "gumbel": MCTS(simulations=10, candidates=3, selection=Gumbel()),
    "gumbel_leaves": MCTS(simulations=10, candidates=3, selection=Gumbel(), leaves=3),
    "uct_rollouts": MCTS(simulations=5, candidates=3, selection=UCT(), rollouts=2, rollout_depth=3),
    "uct_solutions": MCTS(
        simulations=5, candidates=2, selection=UCT(), rollouts=2, rollout_depth=2, reduce=Argmax()
    ),
    "beam_lookahead": BeamSearch(width=2, expand=2, depth=2, rollouts=2, rollout_depth=2),
    "puct_reuse": MCTS(
        simulations=10,
        candidates=3,
        selection=PUCT(dirichlet_fraction=0.25),
        widening=Widening(),
        leaves=2,
        reuse=True,
        temperature=1.0,
    ),
    "step_level_search": RecedingHorizon(
        planner=MCTS(simulations=6, candidates=3, selection=Gumbel()), steps=2
    ),
    "step_level_beam": RecedingHorizon(
        planner=BeamSearch(width=2, expand=2, depth=2, groups=2), steps=2
    ),
    "step_level_dfs": RecedingHorizon(
        planner=DepthFirstSearch(expand=2, depth=2, max_nodes=4), steps=2
    ),
    "step_level_particles": RecedingHorizon(
        planner=ParticleFilter(particles=3, depth=2, temperature=0.5), steps=2
    ),
}
TEXT_ONLY: dict[str, Planner] = {
    "self_consistency": RandomShooting(samples=5, horizon=4, reduce=Vote(text_answers))
}
OPEN_LOOP: dict[str, Planner] = {
    "uniform": RandomShooting(samples=5, horizon=3, actions="uniform"),
    "random": Reflex(action="random"),
    "zero": Reflex(action="zero"),
}
DISCRETE: dict[str, Planner] = {
    **OPEN_LOOP,
    "categorical_cem": CategoricalCEM(horizon=3, samples=8, elites=3, iterations=3),
    "categorical_mode": CategoricalCEM(horizon=3, samples=8, elites=3, iterations=2, output="mean"),
    "categorical_chunks": RecedingHorizon(
        planner=CategoricalCEM(horizon=3, samples=6, elites=3, iterations=2), steps=3, execute=2
    ),
}
CONTINUOUS: dict[str, Planner] = {
    **OPEN_LOOP,
    "cem": CEM(horizon=3, samples=16, elites=4, iterations=3),
    "cem_mean": CEM(horizon=3, samples=16, elites=4, iterations=3, output="mean"),
    "mppi": MPPI(horizon=3, samples=16, iterations=3),
    "cem_knots": CEM(
        horizon=5, samples=16, elites=4, iterations=3, knots=2, interpolation="linear", beta=1.0
    ),
    "mppi_charged": MPPI(horizon=5, samples=16, iterations=3, control_cost=0.1, smooth=3),
    "icem": ICEM(horizon=3, samples=16, elites=4, iterations=3, keep_elites=0.5),
    "icem_knots": ICEM(horizon=4, samples=16, elites=4, iterations=3, knots=2),
    "tdmpc": TDMPC(horizon=3, samples=16, elites=4, policy_samples=3, iterations=3),
    "tdmpc_explores": TDMPC(
        horizon=2, samples=8, elites=4, policy_samples=0, iterations=2, explore=1.0
    ),
    "grad_mpc": GradMPC(horizon=3, samples=3, iterations=4),
    "ilqr": ILQR(horizon=3, samples=4, iterations=3),
    "lqr": LQR(horizon=3),
    "lqr_for_ever": LQR(),
    "policy_grad_mpc": GradMPC(
        horizon=3, samples=3, iterations=4, policy_samples=2, policy_std=0.1, optimizer="rmsprop"
    ),
    "grad_cem": GradCEM(horizon=3, samples=8, elites=3, iterations=2, output="mean"),
    "chunks": RecedingHorizon(
        planner=ICEM(horizon=3, samples=8, elites=4, iterations=2), steps=5, execute=2
    ),
    "mpc_episode": RecedingHorizon(
        planner=CEM(horizon=3, samples=16, elites=4, iterations=2), steps=2
    ),
}
BY_POLICY: dict[str, Planner] = {
    "tdmpc_by_policy": TDMPC(horizon=3, samples=8, elites=8, policy_samples=6, output="best"),
    "grad_mpc_by_policy": GradMPC(horizon=3, samples=3, iterations=2, policy_samples=3),
}
METERED = ("best_of_n", "beam", "dvts", "dfs", "particle_filter", "gumbel")
SECOND_ORDER: dict[str, Planner] = {
    "ddp": ILQR(horizon=3, samples=4, iterations=3, second_order=True),
}
PAIRS = [
    (world, name, planner)
    for world, planners in {
        "tensors": ANYWHERE | DISCRETE,
        "slippery_tensors": DISCRETE,
        "double_rewards": DISCRETE
        | {name: ANYWHERE[name] for name in ("best_of_n", "beam", "puct")},
        "text": ANYWHERE | TEXT_ONLY,
        "text_with_tokens": {name: ANYWHERE[name] for name in METERED},
        "differentiable": ANYWHERE | CONTINUOUS | SECOND_ORDER,
        "fenced": ANYWHERE | CONTINUOUS | BY_POLICY,
        "tensor_particles": ANYWHERE | OPEN_LOOP,
        "text_particles": ANYWHERE,
        "differentiable_particles": CONTINUOUS,
    }.items()
    for name, planner in planners.items()
]


@pytest.mark.parametrize("world", WORLDS)
def test_model_keeps_its_contract(world: str) -> None:
    check_model(*WORLDS[world])


@pytest.mark.parametrize(
    ("world", "planner"),
    [pytest.param(world, planner, id=f"{world}-{name}") for world, name, planner in PAIRS],
)
def test_planner_keeps_its_contract(world: str, planner: Planner) -> None:
    check_planner(planner, *WORLDS[world])


def test_every_planner_is_here() -> None:
    assert {type(planner) for _, _, planner in PAIRS} == exported_planners()
    assert {CEM, MCTS, RecedingHorizon} < exported_planners()


@pytest.mark.parametrize(
    "policy",
    [
        ListedActions(torch.tensor([0, 2])),
        all_actions(Discrete(3)),
        RandomActions(Discrete(3)),
    ],
    ids=["listed", "all", "random"],
)
@pytest.mark.parametrize("num", [1, 2, 5])
def test_policies_without_learning_keep_the_contract(policy: Any, num: int) -> None:
    garden = TensorGarden()
    check_model(Model(garden, policy), tensor_rows(PATHS), num=num)


# What the checks must catch: each model or planner breaks one law, and the sentence names it.


class Broken(TensorGarden):
    """A garden with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.calls = 0

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        self.calls += 1
        moved = super().step(state, action, rng=rng)
        reward, discount = moved.reward, moved.discount
        if self.fault == "mutates":
            state[:, 1] += 1
        faults: dict[str, Callable[[], Transition]] = {
            "mixes rows": lambda: moved._replace(reward=reward - reward.mean()),
            "wide reward": lambda: moved._replace(reward=reward.unsqueeze(1)),
            "discount": lambda: moved._replace(discount=discount + 1),
            "nan": lambda: moved._replace(reward=reward / 0 * 0),
            "remembers": lambda: moved._replace(reward=reward + self.calls),
            "whole numbers": lambda: moved._replace(reward=reward.long()),
            "shared draws": lambda: moved._replace(
                reward=draws.uniform(
                    rng if isinstance(rng, torch.Generator) else rng[0], len(state)
                )
            ),
        }
        return faults.get(self.fault, lambda: moved)()

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        proposal = super().propose(state, num, rng=rng)
        if self.fault == "nothing":
            return proposal._replace(log_prior=torch.full_like(proposal.log_prior, -torch.inf))
        if self.fault == "too few actions":
            return proposal._replace(actions=proposal.actions[1:])
        if self.fault == "drawn":
            return proposal._replace(drawn=torch.zeros(len(state), dtype=torch.int64))
        if self.fault == "nan prior":
            return proposal._replace(log_prior=proposal.log_prior * torch.nan)
        return proposal

    def value(self, state: Tensor) -> Tensor:
        value = super().value(state)
        return value.unsqueeze(1) if self.fault == "wide value" else value


class NeverEnding(TensorGarden):
    """Claims what is not so."""

    terminates = False


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("mutates", "Dynamics.step changed the rows it was given"),
        ("mixes rows", "Dynamics.step gives row 0 another result alone"),
        ("shared draws", "Dynamics.step gives row 1 another result alone"),
        ("wide reward", r"Dynamics.step must return reward \[3\]"),
        ("whole numbers", "reward in floating point"),
        ("discount", r"discounts in \[-1, 1\]"),
        ("nan", "finite reward"),
        ("remembers", "Dynamics.step gave two results for one seed"),
        ("nothing", "at least one candidate"),
        ("too few actions", "must return 9 actions"),
        ("nan prior", "log_prior that is finite"),
        ("drawn", "drawn .* between the slots it filled"),
        ("wide value", r"Value.value must return values \[3\]"),
    ],
)
def test_check_model_names_the_broken_law(fault: str, sentence: str) -> None:
    broken = Broken(fault)
    with pytest.raises(AssertionError, match=sentence):
        check_model(Model(broken, broken, broken), tensor_rows(PATHS))


def test_check_model_sees_a_false_promise_never_to_end() -> None:
    with pytest.raises(AssertionError, match="terminates = False"):
        check_model(Model(NeverEnding()), tensor_rows(PATHS), action=torch.tensor([2, 2, 2]))


class Careful(NamedTuple):
    """A carry of the planner below."""

    mean: Tensor

    def reset(self, mask: Tensor) -> Careful:
        return Careful(torch.where(mask, 0.0, self.mean))


class Careless:
    """Beam search with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.plans = 0

    def __call__(self, model: Model, state: Rows, carry: Any = None, **options: Any) -> Any:
        if self.fault == "budget":
            options["budget"] = None
        plan, warm = BeamSearch(width=2, expand=2, depth=2)(model, state, **options)
        self.plans += self.fault == "settings"
        faults = {
            "ledger": lambda: plan._replace(cost=plan.cost._replace(steps=plan.cost.steps + 1)),
            "gradient": lambda: plan._replace(value=nn.Parameter(plan.value)),
            "then": lambda: plan._replace(then=[plan.action[:1]]),
            "unseeded": lambda: plan._replace(value=plan.value + torch.rand(())),
            "nan": lambda: plan._replace(value=plan.value * torch.nan),
            "rows": lambda: plan._replace(value=plan.value - plan.value.mean()),
            "later": lambda: plan._replace(then=[plan.action - plan.action[:1]]),
        }
        if self.fault == "carry":
            if carry is not None:
                plan = plan._replace(value=plan.value + carry.mean)
            warm = Careful(plan.value - plan.value.mean())
        return faults.get(self.fault, lambda: plan)(), warm


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("ledger", "booked"),
        ("gradient", "carries a gradient"),
        ("then", "Plan.then of 3 rows, not 1"),
        ("unseeded", "two plans for one seed"),
        ("nan", "finite Plan.value"),
        ("rows", "gives root 0 another Plan.value alone"),
        ("later", "gives root 1 another Plan.then alone"),
        ("carry", "another Plan.value alone than in a batch, by its carry"),
        ("settings", "changed its own hyperparameters"),
        ("budget", "of a budget of"),
    ],
)
def test_check_planner_names_the_broken_law(fault: str, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_planner(Careless(fault), *WORLDS["tensors"])


def test_what_a_policy_proposes_is_brought_inside_the_bounds() -> None:
    model, state = WORLDS["differentiable"]
    narrow = model._replace(action_space=Box(torch.tensor([-0.1]), torch.tensor([0.1])))
    check_planner(ANYWHERE["best_of_n"], narrow, state)
