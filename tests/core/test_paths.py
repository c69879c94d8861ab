"""The actions of a plan, read off whatever search found it."""

from __future__ import annotations

import pytest
import torch

from mbrl_core import (
    CEM,
    MCTS,
    UCT,
    Argmax,
    BeamSearch,
    DepthFirstSearch,
    Model,
    ParticleFilter,
    Planner,
    RandomShooting,
    RecedingHorizon,
    actions_of,
    generator,
)
from tests.worlds import GATES, glider, tensor_garden, tensor_rows, text_garden

ROOTS = list(GATES[:2])
TREES: dict[str, Planner] = {
    "beam": BeamSearch(width=4, expand=3, depth=3),
    "depth first": DepthFirstSearch(expand=3, depth=3, max_nodes=50),
    "particles": ParticleFilter(particles=8, depth=3),
    "mcts": MCTS(simulations=60, candidates=3, selection=UCT()),
    "mcts, best": MCTS(simulations=60, candidates=3, selection=UCT(), reduce=Argmax()),
}


@pytest.mark.parametrize("name", TREES)
def test_the_actions_of_a_tree_lead_to_where_its_plan_ends(name: str) -> None:
    model = text_garden()
    plan, _ = TREES[name](model, ROOTS, rng=generator(0))
    for root, state in enumerate(ROOTS):
        here = [state]
        actions = actions_of(plan, root)
        assert actions[0] == plan.action[root]
        for action in actions:
            here = model.dynamics.step(here, [action], rng=generator(0)).state
        assert here == [plan.final[root]]


@pytest.mark.parametrize("name", ["beam", "depth first"])
def test_several_actions_of_a_tree_are_committed_as_planned(name: str) -> None:
    state = tensor_rows(ROOTS)
    plan, _ = TREES[name](tensor_garden(), state, rng=generator(0))
    episode, _ = RecedingHorizon(planner=TREES[name], steps=3, execute=3)(
        tensor_garden(), state, rng=generator(0)
    )
    assert torch.equal(episode.final, plan.final)
    torch.testing.assert_close(episode.value, plan.value)


def test_more_actions_than_a_tree_is_deep_cannot_be_committed() -> None:
    planner = RecedingHorizon(planner=BeamSearch(width=2, expand=2, depth=1), steps=2, execute=2)
    with pytest.raises(ValueError, match="BeamSearch planned no more than 1 actions ahead"):
        planner(text_garden(), ROOTS[:1], rng=generator(0))


def test_the_actions_of_a_sequence_are_the_sequence() -> None:
    plan, _ = CEM(horizon=4, samples=16, elites=4)(
        glider(), torch.zeros(2, 2).double(), rng=generator(0)
    )
    assert torch.equal(actions_of(plan, 1), torch.stack([plan.action, *plan.then], 1)[1])
    drawn, _ = RandomShooting(samples=4, horizon=2)(text_garden(), ROOTS, rng=generator(0))
    assert actions_of(drawn, 1) == [drawn.action[1], drawn.then[0][1]]
    with pytest.raises(ValueError, match="roots 0 to 1, and no root 2"):
        actions_of(plan, 2)


def test_where_nothing_was_found_there_are_no_actions() -> None:
    class Hopeless:
        def step(self, state, action, *, rng):  # type: ignore[no-untyped-def]
            moved = text_garden().dynamics.step(state, action, rng=rng)
            return moved._replace(reward=moved.reward * torch.nan)

    model = Model(Hopeless(), text_garden().policy)
    with pytest.warns(RuntimeWarning):
        plan, _ = TREES["beam"](model, ROOTS[:1], rng=generator(0))
    assert actions_of(plan) == []
