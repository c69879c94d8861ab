"""States in which nothing can be done: no planner takes an action that was not proposed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    BeamSearch,
    DepthFirstSearch,
    Model,
    ParticleFilter,
    Plan,
    Planner,
    Proposal,
    RandomShooting,
    Reflex,
    Transition,
    generator,
)

PLANNERS: dict[str, Planner] = {
    "shooting": RandomShooting(samples=16, horizon=2),
    "beam": BeamSearch(width=4, expand=2, depth=2),
    "beam, rollouts": BeamSearch(width=4, expand=2, depth=1, rollouts=4),
    "depth first": DepthFirstSearch(expand=2, depth=2, max_nodes=9),
    "particles": ParticleFilter(particles=16, depth=2, temperature=0.1),
    "uct": MCTS(simulations=16, candidates=2, selection=UCT()),
    "puct": MCTS(simulations=16, candidates=2, selection=PUCT()),
    "rollouts": MCTS(simulations=16, candidates=2, selection=UCT(), rollouts=2, rollout_depth=2),
}
OPEN, DEAD, SAFE = 0, 1, 2


class Pit:
    """From OPEN action 0 leads into DEAD, where nothing is legal (and what is not pays 100), and
    action 1 earns 1 and leads to SAFE, where action 1 is legal and earns nothing."""

    def __init__(self) -> None:
        self.illegal = 0

    def step(self, state: Tensor, action: Tensor, *, rng: object) -> Transition:
        self.illegal += int((state == DEAD).sum())
        reward = torch.where(state == DEAD, 100.0, ((state == OPEN) & (action == 1)).float())
        after = torch.where(state == OPEN, torch.where(action == 0, DEAD, SAFE), state)
        return Transition(after, reward, torch.full_like(reward, 0.9))

    def propose(self, state: Tensor, num: int, *, rng: torch.Generator) -> Proposal:
        legal = torch.stack([state == OPEN, state != DEAD], 1)
        log_prior = torch.where(legal, 0.0, -torch.inf)
        actions = torch.arange(2).repeat(len(state), 1)
        if num == 1:
            wish = torch.where(legal, torch.rand(len(state), 2, generator=rng), -1.0)
            actions = wish.argmax(1, keepdim=True)
            log_prior = log_prior.gather(1, actions)
        return Proposal(actions.flatten(), log_prior)


def plan(name: str, *roots: int) -> tuple[Plan, Pit]:
    pit = Pit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = PLANNERS[name](Model(pit, pit), torch.tensor(roots), rng=generator(0))
    return found, pit


@pytest.mark.parametrize("name", PLANNERS)
def test_no_planner_acts_where_nothing_is_proposed(name: str) -> None:
    found, pit = plan(name, OPEN, SAFE)
    assert found.action[0] == 1 and bool(found.valid.all())
    assert pit.illegal == 0


@pytest.mark.parametrize("name", PLANNERS)
def test_a_root_without_candidates_has_no_plan_alone_or_among_others(name: str) -> None:
    alone, _ = plan(name, DEAD)
    among, _ = plan(name, OPEN, DEAD)
    assert alone.valid.tolist() == [False] and among.valid.tolist() == [True, False]
    assert alone.value[0] == among.value[1] == -torch.inf


@pytest.mark.parametrize("name", PLANNERS)
def test_the_warning_names_the_root_and_points_at_the_caller(name: str) -> None:
    pit = Pit()
    with pytest.warns(RuntimeWarning, match=r"roots \[1\] had a finite return") as caught:
        PLANNERS[name](Model(pit, pit), torch.tensor([OPEN, DEAD]), rng=generator(0))
    assert [warning.filename for warning in caught] == [__file__]


def test_a_policy_asked_in_a_dead_end_says_that_its_action_is_none() -> None:
    pit = Pit()
    with pytest.warns(RuntimeWarning, match="Reflex"):
        found, _ = Reflex()(Model(pit, pit), torch.tensor([OPEN, DEAD]), rng=generator(0))
    assert found.valid.tolist() == [True, False]
