"""One planner, two worlds: over tensors and over text every planner does the very same thing.

The garden of `tests/worlds.py` is written once with tensors and once with strings. A planner must
return the same plan, the same trace, table by table, and the same ledger on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Argmax,
    BeamSearch,
    Cost,
    DepthFirstSearch,
    Event,
    Gumbel,
    ParticleFilter,
    Plan,
    Planner,
    RandomShooting,
    RecedingHorizon,
    Rng,
    Rows,
    Tree,
    Vote,
    WeightedVote,
    Widening,
    generator,
)
from tests.worlds import (
    MOVES,
    read,
    tensor_answers,
    tensor_garden,
    tensor_rows,
    text_answers,
    text_garden,
)

ROOTS = ["start", "gate>left", "wall", "start>right>left"]
Answers = Callable[[Rows], list[int | None]]
# The reducer that counts answers must read the world's states: it alone differs between the two.
PLANNERS: dict[str, Callable[[Answers], Planner]] = {
    "best_of_n": lambda _: RandomShooting(samples=6, horizon=4),
    "self_consistency": lambda key: RandomShooting(samples=6, horizon=4, reduce=Vote(key)),
    "weighted_vote": lambda key: RandomShooting(
        samples=6, horizon=3, reduce=WeightedVote(key, temperature=0.5)
    ),
    "beam": lambda _: BeamSearch(width=2, expand=3, depth=4),
    "beam_voting": lambda key: BeamSearch(width=4, expand=2, depth=3, reduce=Vote(key)),
    "dvts": lambda _: BeamSearch(width=4, expand=2, depth=4, groups=2),
    "dfs": lambda _: DepthFirstSearch(expand=3, depth=4, max_nodes=20),
    "dfs_pruning": lambda _: DepthFirstSearch(
        expand=3, depth=4, max_nodes=20, prune_below=0.0, enough=0.75
    ),
    "dfs_voting": lambda key: DepthFirstSearch(expand=2, depth=4, max_nodes=20, reduce=Vote(key)),
    "particle_filter": lambda _: ParticleFilter(particles=6, depth=4, temperature=0.5),
    "particle_filter_by_need": lambda _: ParticleFilter(
        particles=6,
        depth=4,
        temperature=0.25,
        weigh="score",
        resample_at=0.5,
        resampling="multinomial",
    ),
    "particle_filter_voting": lambda key: ParticleFilter(
        particles=6, depth=4, temperature=0.5, judge="weight", reduce=WeightedVote(key)
    ),
    "uct": lambda _: MCTS(simulations=20, candidates=3, selection=UCT()),
    "uct_two_candidates": lambda _: MCTS(simulations=20, candidates=2, selection=UCT()),
    "puct": lambda _: MCTS(simulations=20, candidates=3, selection=PUCT()),
    "puct_leaves": lambda _: MCTS(simulations=20, candidates=3, leaves=3),
    "puct_widening": lambda _: MCTS(simulations=20, candidates=3, widening=Widening()),
    "uct_rollouts": lambda _: MCTS(
        simulations=10, candidates=3, selection=UCT(), rollouts=2, rollout_depth=3
    ),
    "uct_rollouts_voting": lambda key: MCTS(
        simulations=10, candidates=3, selection=UCT(), rollouts=2, rollout_depth=3, reduce=Vote(key)
    ),
    "beam_lookahead": lambda _: BeamSearch(width=2, expand=3, depth=3, rollouts=2, rollout_depth=2),
    "puct_shallow": lambda _: MCTS(simulations=20, candidates=3, max_depth=2),
    "gumbel": lambda _: MCTS(simulations=20, candidates=3, selection=Gumbel(considered=2)),
    "uct_best_solution": lambda _: MCTS(
        simulations=20, candidates=3, selection=UCT(), reduce=Argmax()
    ),
    "puct_voting": lambda key: MCTS(simulations=20, candidates=3, reduce=Vote(key)),
    "gumbel_voting": lambda key: MCTS(
        simulations=20, candidates=3, selection=Gumbel(), reduce=Vote(key)
    ),
    "step_level_search": lambda _: RecedingHorizon(
        planner=MCTS(simulations=8, candidates=3, selection=Gumbel()), steps=4
    ),
    "step_level_best_of_n": lambda _: RecedingHorizon(
        planner=RandomShooting(samples=4, horizon=2), steps=4
    ),
    "step_level_dfs": lambda _: RecedingHorizon(
        planner=DepthFirstSearch(expand=2, depth=3, max_nodes=6), steps=4
    ),
    "step_level_particles": lambda _: RecedingHorizon(
        planner=ParticleFilter(particles=4, depth=2, temperature=0.5), steps=4
    ),
}


def states_as_tensor(states: list[str | None]) -> Tensor:
    """Text states as the rows of the tensor garden; unused places as zeros."""
    return torch.tensor([(0, 0, 0) if path is None else read(path) for path in states])


def actions_as_tensor(actions: list[str | None]) -> Tensor:
    return torch.tensor([0 if word is None else MOVES.index(word) for word in actions])


def assert_same(tensors: Any, texts: Any, what: str) -> None:
    """Equality of records, bit by bit; wall time is nobody's promise."""
    if isinstance(tensors, Tensor) and isinstance(texts, list):
        of_actions = "action" in what or ".then" in what
        to_tensor = actions_as_tensor if of_actions else states_as_tensor
        texts = to_tensor(texts)
    if isinstance(tensors, Tensor):
        assert torch.equal(tensors, texts), f"{what}: {tensors} on tensors, {texts} on text"
    elif isinstance(tensors, list):  # the actions of a rollout, step by step
        assert len(tensors) == len(texts), what
        for t, (x, y) in enumerate(zip(tensors, texts, strict=True)):
            assert_same(x, y, f"{what}[{t}]")
    elif hasattr(tensors, "_fields"):
        for name in tensors._fields:
            if not (isinstance(tensors, Cost) and name == "seconds"):
                assert_same(getattr(tensors, name), getattr(texts, name), f"{what}.{name}")
    else:
        assert tensors == texts, f"{what}: {tensors} on tensors, {texts} on text"


def generators(seed: int, *, per_root: bool) -> Rng:
    if per_root:
        return [generator(100 * seed + b) for b in range(len(ROOTS))]
    return generator(seed)


@pytest.mark.parametrize("per_root", [False, True], ids=["one_generator", "one_per_root"])
@pytest.mark.parametrize("slip", [0.0, 0.25], ids=["certain", "slippery"])
@pytest.mark.parametrize("name", PLANNERS)
def test_tensors_and_text_are_planned_for_identically(
    name: str, slip: float, per_root: bool
) -> None:
    for seed in range(2):
        on_tensors, carry = PLANNERS[name](tensor_answers)(
            tensor_garden(slip), tensor_rows(ROOTS), rng=generators(seed, per_root=per_root)
        )
        on_text, text_carry = PLANNERS[name](text_answers)(
            text_garden(slip), list(ROOTS), rng=generators(seed, per_root=per_root)
        )
        assert all(isinstance(word, str) for word in on_text.action)
        assert_same(on_tensors, on_text, "plan")
        assert carry is None and text_carry is None


@pytest.mark.parametrize(
    "name", ["best_of_n", "beam", "dvts", "dfs", "particle_filter", "uct", "gumbel"]
)
def test_events_are_identical_too(name: str) -> None:
    heard: tuple[list[Event], list[Event]] = ([], [])
    worlds = ((tensor_garden(), tensor_rows(ROOTS)), (text_garden(), ROOTS))
    for (model, state), events in zip(worlds, heard, strict=True):
        PLANNERS[name](text_answers)(model, state, rng=generator(1), listen=events.append)
    assert len(heard[0]) > 0
    for one, other in zip(*heard, strict=True):
        assert (one.kind, one.number) == (other.kind, other.number)
        for key in one.data:
            assert_same(one.data[key], other.data[key], key)


def test_the_text_in_a_tree_reads_as_text() -> None:
    plan: Plan = BeamSearch(width=2, expand=3, depth=2)(text_garden(), ["start"], rng=generator(0))[
        0
    ]
    assert isinstance(plan.trace, Tree)
    assert set(plan.trace.states[1:4]) == {"start>left", "start>right", "start>stop"}
    assert plan.final[0].startswith("start>")
