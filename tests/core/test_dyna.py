"""Dyna-Q and prioritised sweeping against known optima; tree search on the same lake."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mbrl_core import MCTS, UCT, Rng, Transition, generator
from mbrl_core.dyna import DynaQ, Episodes, Tables, expected_update, value_iteration
from tests.golden import golden_files
from tests.worlds_frozenlake import FrozenLake, LakeInTwo, frozen_lake

Order = Literal["uniform", "sweep"]
ORDERS: list[Order] = ["uniform", "sweep"]


def cases_in(file: Path) -> list[dict[str, Any]]:
    """Cases whose optimum is unique up to ties of equally good actions, which needs gamma < 1."""
    cases = json.loads(file.read_text())["cases"]
    return [case for case in cases if "optimal_actions" in case and case["gamma"] < 1]


def lake_of(case: dict[str, Any]) -> FrozenLake:
    return frozen_lake(case["map"], slippery=case["is_slippery"], gamma=case["gamma"])


def at_start(number: int, rng: Rng) -> Tensor:
    return torch.zeros(number, dtype=torch.int64)


@pytest.mark.parametrize("file", golden_files("frozenlake_values*.json"))
def test_value_iteration_on_the_rules_of_gymnasium_gives_the_golden_values(file: Path) -> None:
    for case in cases_in(file):
        lake = lake_of(case)
        expected = torch.tensor(case["Q"], dtype=torch.float64)
        torch.testing.assert_close(lake.optimum(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("file", golden_files("frozenlake_values*.json"))
def test_dyna_finds_the_best_policy_of_the_lake(file: Path, order: Order) -> None:
    for case in cases_in(file):
        lake, values = lake_of(case), torch.tensor(case["V"], dtype=torch.float64)
        if case["gamma"] < 0.95 or len(values) > 16:
            continue
        slippery = case["is_slippery"]
        dyna = DynaQ(states=len(values), actions=4, planning=20, order=order, epsilon=0.5)
        steps = 1000 if slippery else 100
        rng = generator(0)
        tables, _ = dyna.run(lake, at_start, steps, batch=32, rng=rng)
        for _ in range(300):  # what is known, thought through: real steps leave noise behind
            tables = dyna.plan(tables, rng=rng)
        chosen = tables.q.argmax(1)
        reached = lake.returns_of(one_hot(chosen, 4).double())
        # A slippery lake is known as well as the frequencies of 32,000 steps are.
        said = f"{order}, {case['map']}, slippery {slippery}, gamma {case['gamma']}"
        assert (values - reached).abs().max().item() <= (0.005 if slippery else 1e-9), said
        learned = (tables.q.amax(1) - values)[~lake.final].abs().max().item()
        assert learned <= (0.05 if slippery else 1e-9), said
        best = [actions for actions in case["optimal_actions"] if actions]
        right = [a in good for a, good in zip(chosen[~lake.final].tolist(), best, strict=True)]
        assert sum(right) >= len(right) - slippery, said


@pytest.mark.parametrize("file", golden_files("frozenlake_values*.json"))
def test_tree_search_on_the_true_lake_takes_a_best_action(file: Path) -> None:
    for case in cases_in(file):
        lake = lake_of(case)
        if len(lake.final) > 16:
            continue
        live = (~lake.final).nonzero().squeeze(1)
        planner = MCTS(simulations=500, candidates=4, selection=UCT())
        plan, _ = planner(LakeInTwo(lake).model(), live, rng=generator(0))
        q = torch.tensor(case["Q"], dtype=torch.float64)[live]
        lost = q.amax(1) - q.gather(1, plan.action[:, None])[:, 0]
        # On slippery ice two actions may differ by less than 500 simulations can tell.
        assert lost.max().item() <= (0.04 if case["is_slippery"] else 1e-9), case["gamma"]
        assert int((lost <= 1e-9).sum()) >= len(live) - 1, case["gamma"]


# The maze of the textbook


class Maze:
    """Sutton and Barto's figure 8.2: 6 rows of 9 cells, walls, a goal of reward 1, gamma 0.95."""

    WALLS = ((1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7))
    GOAL = 8

    def __init__(self) -> None:
        row, column = torch.arange(54) // 9, torch.arange(54) % 9
        down, right = torch.tensor([-1, 1, 0, 0]), torch.tensor([0, 0, -1, 1])
        row = (row[:, None] + down).clamp(0, 5)
        column = (column[:, None] + right).clamp(0, 8)
        self.after = 9 * row + column
        blocked = torch.isin(self.after, torch.tensor([9 * r + c for r, c in self.WALLS]))
        self.after = torch.where(blocked, torch.arange(54)[:, None], self.after)

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        after = self.after[state, action]
        won = after == self.GOAL
        return Transition(after, won.double(), torch.where(won, 0.0, 0.95).double())


def enter(number: int, rng: Rng) -> Tensor:
    return torch.full((number,), 18)  # third row, first column


def steps_of_episodes(planning: int, order: Order) -> float:
    """Mean length of episodes 2 to 5, over five learners."""
    total = 0
    for seed in range(5):
        dyna = DynaQ(states=54, actions=4, planning=planning, order=order)
        tables, lengths, episodes, rng = dyna.start(), [], None, generator(seed)
        while len(lengths) < 5:
            tables, record = dyna.run(
                Maze(), enter, 20, batch=1, rng=rng, tables=tables, episodes=episodes
            )
            lengths, episodes = lengths + record.lengths, record.episodes
        total += sum(lengths[1:5])
    return total / 20


def test_planning_saves_real_steps_in_the_maze() -> None:
    some, many, swept = (
        steps_of_episodes(planning, order)
        for planning, order in ((5, "uniform"), (50, "uniform"), (50, "sweep"))
    )
    # 14 steps is the shortest way; a tenth of random actions makes it some 2 more.
    assert 14 <= swept <= many < 0.6 * some
    assert many < 40


def test_sweeping_needs_fewer_updates_than_drawing_pairs() -> None:
    filler = DynaQ(states=54, actions=4, planning=0, epsilon=1.0, learning_rate=0.0, order="sweep")
    tables, _ = filler.run(Maze(), enter, 400, batch=32, rng=generator(0))

    def updates(order: Order) -> int:
        mine = Tables(*(table.clone() for table in tables))
        planner = replace(filler, order=order, planning=10)
        best = value_iteration(*_frequencies(mine))
        rng = generator(1)
        for count in range(1, 3000):
            planner.plan(mine, rng=rng)
            if torch.allclose(mine.q, best, atol=1e-5):
                return 10 * count
        return 30_000

    assert 3 * updates("sweep") < updates("uniform") < 30_000


def _frequencies(tables: Tables) -> tuple[Tensor, Tensor]:
    visits = tables.visits.clamp(min=1)
    return tables.earned / visits, tables.leads / visits.unsqueeze(2)


# What the tables mean


def test_the_model_is_the_frequencies_seen() -> None:
    dyna = DynaQ(states=3, actions=2, planning=0)
    state, action = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 0])
    moved = Transition(
        torch.tensor([1, 2, 2, 2]),
        torch.tensor([1.0, 0.0, 3.0, 7.0]),
        torch.tensor([0.5, 0.5, 0.0, 0.5]),
    )
    tables = dyna.learn(dyna.start(), state, action, moved, rng=generator(0))
    tables.q.copy_(torch.tensor([[0.0, 0.0], [8.0, 4.0], [2.0, 6.0]]))
    # (0, 1): 4/3 of reward; to 1 with 0.5, to 2 with 0.5, and once the episode ended in 2.
    expected = [4 / 3 + (0.5 * 8 + 0.5 * 6) / 3, 7 + 0.5 * 6]
    found = expected_update(tables, torch.tensor([1, 2]))
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert tables.visits.tolist() == [[0, 3], [1, 0], [0, 0]]


def test_several_episodes_at_one_place_move_a_value_to_the_mean_of_their_targets() -> None:
    dyna = DynaQ(states=2, actions=1, planning=0, learning_rate=0.5)
    both = torch.zeros(2, dtype=torch.int64)
    moved = Transition(both + 1, torch.tensor([1.0, 3.0]), torch.zeros(2))
    tables = dyna.learn(dyna.start(), both, both, moved, rng=generator(0))
    assert tables.q.flatten().tolist() == [1.0, 0.0]


def test_a_model_of_the_latest_transition_follows_a_changed_world() -> None:
    here = torch.zeros(1, dtype=torch.int64)
    for kind, expected in (("last", 0.0), ("counts", 0.5)):
        dyna = DynaQ(states=1, actions=1, planning=5, model=kind)  # type: ignore[arg-type]
        tables = dyna.start()
        for reward in (1.0, 0.0):
            moved = Transition(here, torch.tensor([reward]), torch.zeros(1))
            tables = dyna.learn(tables, here, here, moved, rng=generator(0))
        assert tables.q.item() == expected, kind


def test_of_one_pair_in_a_batch_the_last_row_is_believed() -> None:
    dyna = DynaQ(states=2, actions=1, planning=0, model="last")
    here = torch.zeros(3, dtype=torch.int64)
    moved = Transition(
        torch.tensor([1, 1, 0]), torch.tensor([1.0, 2.0, 5.0]), torch.full((3,), 0.5)
    )
    tables = dyna.learn(dyna.start(), here, here, moved, rng=generator(0))
    assert tables.visits.flatten().tolist() == [1, 0] and tables.earned.flatten().tolist() == [5, 0]
    assert tables.leads.flatten().tolist() == [0.5, 0, 0, 0]


def test_ties_are_broken_at_random_and_epsilon_is_a_share() -> None:
    dyna = DynaQ(states=1, actions=4, epsilon=0.2)
    tables = dyna.start()
    state = torch.zeros(20_000, dtype=torch.int64)
    free = dyna.act(tables, state, rng=generator(0)).bincount(minlength=4) / len(state)
    assert bool(((free - 0.25).abs() < 0.015).all())
    tables.q[0, 2] = 1.0
    greedy = dyna.act(tables, state, rng=generator(0)).bincount(minlength=4) / len(state)
    assert abs(greedy[2].item() - (0.8 + 0.2 / 4)) < 0.015


def test_a_time_limit_is_no_end() -> None:
    class Treadmill:
        def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
            return Transition(state, torch.ones(len(state)), torch.full((len(state),), 0.5))

    dyna = DynaQ(states=1, actions=1, planning=50, learning_rate=1.0)
    tables, record = dyna.run(Treadmill(), at_start, 40, batch=2, rng=generator(0), limit=10)
    assert record.returns == [10.0] * 8 and record.lengths == [10] * 8
    assert tables.q.item() == pytest.approx(2.0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_saved_and_continued_is_the_run_itself(order: Order) -> None:
    lake = frozen_lake("4x4", slippery=True, gamma=0.95)
    dyna = DynaQ(states=16, actions=4, order=order)
    whole, record = dyna.run(lake, at_start, 60, batch=3, rng=generator(5))
    rng = generator(5)
    tables, first = dyna.run(lake, at_start, 25, batch=3, rng=rng)
    file = io.BytesIO()
    torch.save((tuple(tables), tuple(first.episodes), rng.get_state()), file)
    file.seek(0)
    saved, episodes, numbers = torch.load(file)
    again = torch.Generator()
    again.set_state(numbers)
    tables, second = dyna.run(
        lake, at_start, 35, batch=3, rng=again, tables=Tables(*saved), episodes=Episodes(*episodes)
    )
    assert all(torch.equal(a, b) for a, b in zip(tables, whole, strict=True))
    assert first.returns + second.returns == record.returns
    assert first.lengths + second.lengths == record.lengths


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DynaQ\.states must be a whole number"):
        DynaQ(states=0, actions=2)
    with pytest.raises(ValueError, match=r"DynaQ\.order must be uniform or sweep"):
        DynaQ(states=1, actions=2, order="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DynaQ\.epsilon must be in \[0, 1\], not 2"):
        DynaQ(states=1, actions=2, epsilon=2)
    dyna, one = DynaQ(states=2, actions=2), torch.ones(1, dtype=torch.int64)
    moved = Transition(one + 1, torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="DynaQ has states 0 to 1, and was given 2 to 2"):
        dyna.learn(dyna.start(), one, one, moved, rng=generator(0))
    with pytest.raises(ValueError, match="not within"):
        value_iteration(torch.ones(1, 1), torch.ones(1, 1, 1), sweeps=10)
