"""Laws of action repeat and of chunks: several actions of one plan before the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    CEM,
    ICEM,
    MCTS,
    ActionRepeat,
    Budget,
    CategoricalCEM,
    Discrete,
    Model,
    Particles,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Rows,
    Transition,
    draws,
    generator,
    repeat_actions,
    rows,
)
from mbrl_core.rollouts import simulate_actions
from mbrl_core.testing import check_model, check_planner
from mbrl_core.world import World
from tests.worlds import Glider, glider, metered_garden, tensor_garden, tensor_rows, text_garden

PATHS = ["start", "gate>left", "start>right"]
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.2, 0.1]]).double()


def returns(model: Model, state: Rows, actions: Tensor) -> Tensor:
    world = World("test", model, state, rng=generator(0))
    with torch.no_grad():
        return simulate_actions(world, state, actions).returns


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_repeated_action_is_the_same_action_several_times(times: int) -> None:
    smooth = torch.rand(3, 5, 4, 1, generator=generator(0)).double() - 0.5
    long = smooth.repeat_interleave(times, 2)
    torch.testing.assert_close(
        returns(repeat_actions(glider(), times), START, smooth), returns(glider(), START, long)
    )


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("world", ["tensors", "text"])
def test_what_comes_after_the_end_of_an_episode_does_not_count(world: str, times: int) -> None:
    # The garden's numbers are multiples of powers of two: equality is exact.
    moves = torch.cartesian_prod(torch.arange(3), torch.arange(3)).expand(3, 9, 2)
    model = tensor_garden()
    expected = returns(model, tensor_rows(PATHS), moves.repeat_interleave(times, 2))
    if world == "tensors":
        got = returns(repeat_actions(model, times), tensor_rows(PATHS), moves)
        assert torch.equal(got, expected)
        return
    text = ActionRepeat(text_garden().dynamics, times)
    for n in range(9):
        state, total, weight = PATHS, torch.zeros(3), torch.ones(3)
        for t in range(2):
            words = [("left", "right", "stop")[int(moves[b, n, t])] for b in range(3)]
            alive = (weight != 0).nonzero().squeeze(1)
            if len(alive) == 0:
                break
            moved = text.step(rows.take(state, alive), rows.take(words, alive), rng=generator(0))
            total[alive] += weight[alive] * moved.reward
            weight[alive] *= moved.discount
            for b, path in zip(alive.tolist(), moved.state, strict=True):
                state = [path if c == b else old for c, old in enumerate(state)]
        total += weight * text_garden().value.value(state) * (weight != 0)
        assert torch.equal(total, expected[:, n])


@pytest.mark.parametrize(
    ("model", "state"),
    [
        (repeat_actions(glider(), 3), START),
        (repeat_actions(tensor_garden(0.25), 2), tensor_rows(PATHS)),
        (repeat_actions(text_garden(0.25), 2), PATHS),
        (repeat_actions(metered_garden(), 3), PATHS),
        (repeat_actions(repeat_actions(tensor_garden(0.25), 2), 2), tensor_rows(PATHS)),
    ],
    ids=["glider", "tensors", "text", "metered", "nested"],
)
def test_a_model_with_action_repeat_keeps_the_contract(model: Model, state: Rows) -> None:
    check_model(model, state)
    check_planner(MCTS(simulations=6, candidates=2), model, state)


def test_planners_keep_the_contract_on_repeated_actions() -> None:
    model = repeat_actions(glider(), 2)
    check_planner(CEM(horizon=2, samples=8, elites=3, iterations=2), model, START)
    garden = repeat_actions(tensor_garden(0.25), 2)
    planner = CategoricalCEM(horizon=2, samples=8, elites=3, iterations=2)
    check_planner(planner, garden, tensor_rows(PATHS))
    cloud = Particles(garden, 2)
    check_planner(planner, cloud.model(), cloud.root(tensor_rows(PATHS)))


def test_the_ledger_counts_the_steps_inside() -> None:
    planner = CEM(horizon=3, samples=8, elites=3, iterations=2)
    plan, _ = planner(repeat_actions(glider(), 4), START, rng=generator(0))
    assert plan.cost.steps.tolist() == [2 * 8 * 3 * 4] * 3
    limit = Budget(steps=100)
    plan, _ = planner(repeat_actions(glider(), 4), START, rng=generator(0), budget=limit)
    assert plan.cost.steps.max() <= 100


def test_a_row_that_has_ended_is_stepped_no_more() -> None:
    seen: list[int] = []

    class Counting(Glider):
        terminates = True

        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            seen.append(len(state))
            discount = torch.where(state[:, 0] > 0, 0.0, 0.5).to(state)
            return Transition(state + 1, state[:, 0], discount)

    state = torch.tensor([[-5.0, 0], [-1.0, 0], [1.0, 0]]).double()
    moved = ActionRepeat(Counting(), 4).step(state, torch.zeros(3, 1), rng=generator(0))
    assert seen == [3, 2, 2, 1]
    assert moved.state[:, 0].tolist() == [-1.0, 2.0, 2.0]
    # -5 - 4/2 - 3/4 - 2/8;  -1 + 0/2 + 1/4, ended;  1, ended
    assert moved.reward.tolist() == [-8.0, -0.75, 1.0]
    assert moved.discount.tolist() == [0.0625, 0.0, 0.0]


@pytest.mark.parametrize("times", [0, 2.5, True])
def test_action_repeat_must_be_a_positive_number(times: int) -> None:
    with pytest.raises(
        ValueError, match=r"ActionRepeat\.times must be a whole number of at least 1"
    ):
        ActionRepeat(Glider(), times)


# Chunks


@pytest.mark.parametrize("planner", [CEM(horizon=4, samples=16, elites=4, iterations=2)])
def test_a_whole_plan_executed_at_once_is_what_was_predicted(planner: CEM) -> None:
    model = glider()._replace(value=None)
    plan, carry = planner(model, START, rng=generator(0))
    episode, after = RecedingHorizon(planner=planner, steps=4, execute=4)(
        model, START, rng=generator(0)
    )
    torch.testing.assert_close(episode.value, plan.value)
    torch.testing.assert_close(episode.final, plan.final)
    assert torch.equal(torch.stack([episode.action, *episode.then]).squeeze(), plan_of(plan))
    assert torch.equal(after.mean, carry.shift(3).mean)


def plan_of(plan: object) -> Tensor:
    return torch.stack([plan.action, *plan.then]).squeeze()  # type: ignore[attr-defined]


def test_chunks_are_the_head_of_each_plan() -> None:
    planner = ICEM(horizon=4, samples=16, elites=4, iterations=2)
    episode, _ = RecedingHorizon(planner=planner, steps=5, execute=2)(
        glider(), START, rng=generator(0)
    )
    state, carry, rng = START, None, generator(0)
    expected = []
    for number in (2, 2, 1):
        plan, carry = planner(glider(), state, carry, rng=rng)
        for action in [plan.action, *plan.then][:number]:
            with torch.no_grad():
                state = glider().dynamics.step(state, action, rng=rng).state
            expected.append(action)
        carry = carry.shift(number - 1)
    torch.testing.assert_close(torch.stack(episode.trace.actions), torch.stack(expected))
    torch.testing.assert_close(episode.final, state)


def test_shifting_by_several_steps_is_shifting_one_by_one() -> None:
    planner = ICEM(horizon=4, samples=16, elites=4, iterations=2)
    _, carry = planner(glider(), START, rng=generator(0))
    for a, b in zip(carry.shift(1).shift(1).shift(1), carry.shift(3), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(carry.shift(9).mean, torch.full((3, 4, 1), -0.25).double())


def test_a_root_that_ends_within_a_chunk_leaves_the_others() -> None:
    garden = tensor_garden()
    planner = RandomShooting(samples=6, horizon=3, actions="uniform")
    chunks = RecedingHorizon(planner=planner, steps=4, execute=3)
    check_planner(chunks, garden, tensor_rows(PATHS))


def test_a_planner_that_plans_one_action_cannot_give_chunks() -> None:
    chunks = RecedingHorizon(planner=MCTS(simulations=1, candidates=2), steps=4, execute=2)
    with pytest.raises(ValueError, match="execute is 2, but MCTS planned no more than 1 action"):
        chunks(tensor_garden(), tensor_rows(["start"]), rng=generator(0))


def test_a_plan_whose_futures_all_end_is_executed_to_the_end_of_its_chunk() -> None:
    class Brittle(Glider):
        """Ends in every future that is imagined, and in the one played with its own generator."""

        terminates = True

        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            moved = super().step(state, action, rng=rng)
            ended = draws.uniform(rng, len(state)) < 0.6
            return moved._replace(discount=torch.where(ended, 0.0, moved.discount))

    model = glider()._replace(dynamics=Brittle())
    for actions in ("uniform", "policy"):
        inner = RandomShooting(samples=2, horizon=3, actions=actions)  # type: ignore[arg-type]
        chunks = RecedingHorizon(planner=inner, steps=4, execute=2)
        for seed in range(10):
            check_planner(chunks, model, START, seed=seed)
        nested = RecedingHorizon(
            planner=RecedingHorizon(planner=inner, steps=3), steps=4, execute=3
        )
        for seed in range(10):
            nested(model, START[:1], rng=generator(seed))


def test_the_budget_is_shared_among_plans_not_steps() -> None:
    planner = CEM(horizon=2, samples=1000, elites=10, iterations=1)
    limit = Budget(steps=2 * 100)
    one, _ = RecedingHorizon(planner=planner, steps=4, execute=2)(
        glider(), START, rng=generator(0), budget=limit
    )
    assert one.cost.steps.tolist() == [2 * (98 + 2)] * 3


def test_a_discrete_plan_holds_its_whole_sequence() -> None:
    planner = CategoricalCEM(horizon=3, samples=9, elites=3, iterations=2)
    model = tensor_garden()
    assert model.action_space == Discrete(3)
    plan, _ = planner(model, tensor_rows(PATHS), rng=generator(0))
    sequence = torch.stack([plan.action, *plan.then], 1)
    value = returns(model, tensor_rows(PATHS), sequence.unsqueeze(1))[:, 0]
    assert torch.equal(value, plan.value)
