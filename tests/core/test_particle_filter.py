"""Laws of the particle filter: what its weighted particles are draws from, and how they die out."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import (
    Budget,
    BudgetError,
    Event,
    ParticleFilter,
    Plan,
    RandomShooting,
    Rng,
    Transition,
    Tree,
    Vote,
    WeightedVote,
    generator,
)
from tests.trees import RandomTree
from tests.worlds import tensor_garden, tensor_rows, text_garden

ROOTS = ["start", "gate>left", "wall", "start>right>left"]
DEPTH = 3


def tree_of(plan: Plan) -> Tree:
    assert isinstance(plan.trace, Tree)
    return plan.trace


class Run(NamedTuple):
    """What a filter did, step by step."""

    plan: Plan
    nodes: list[Tensor]  # [B, N] each: the node at which each particle stands
    log_weights: list[Tensor]  # [B, N] each
    places: list[list[list[str]]]  # the states at the nodes

    def uninterrupted(self) -> int:
        """How many of the first root's particles were extended, not replaced, in every step."""
        above = tree_of(self.plan).parent[0]
        own = [above[after[0]] == before[0] for before, after in pairwise(self.nodes)]
        return int(torch.stack(own).all(0).sum())


def run(world: RandomTree, roots: list[str], rng: Rng, **options: Any) -> Run:
    heard: list[Event] = []
    plan, _ = ParticleFilter(**options)(world.model(), roots, rng=rng, listen=heard.append)
    tree = tree_of(plan)
    room = tree.parent.shape[1]
    nodes = [event.data["nodes"] for event in heard]
    places = [
        [[tree.states[b * room + n] for n in own] for b, own in enumerate(table.tolist())]
        for table in nodes
    ]
    return Run(plan, nodes, [event.data["log_weight"] for event in heard], places)


# Known limits


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
@pytest.mark.parametrize("per_root", [False, True], ids=["one_generator", "one_per_root"])
@pytest.mark.parametrize("slip", [0.0, 0.25])
def test_without_resampling_it_is_best_of_n_draw_for_draw(
    slip: float, per_root: bool, resampling: Any
) -> None:
    for seed in range(5):

        def rng(seed: int = seed) -> Rng:
            return [generator(9 * seed + b) for b in range(4)] if per_root else generator(seed)

        planner = ParticleFilter(
            particles=6, depth=4, temperature=1e6, resample_at=0, resampling=resampling
        )
        mine, _ = planner(tensor_garden(slip), tensor_rows(ROOTS), rng=rng())
        best, _ = RandomShooting(samples=6, horizon=4)(
            tensor_garden(slip), tensor_rows(ROOTS), rng=rng()
        )
        for what in ("action", "value", "final", "valid"):
            assert torch.equal(getattr(mine, what), getattr(best, what)), what
        assert torch.equal(mine.cost.steps, best.cost.steps)


def test_at_a_high_temperature_systematic_resampling_leaves_all_as_they_are() -> None:
    done = run(
        RandomTree(4, endings=0.0), [""], generator(0), particles=6, depth=4, temperature=1e9
    )
    assert len(set(done.places[-1][0])) > 1
    assert done.uninterrupted() == 6


def test_at_a_low_temperature_all_follow_the_best_of_every_step() -> None:
    for seed in range(10):
        world = RandomTree(seed, endings=0.0)
        done = run(world, [""], generator(seed), particles=6, depth=4, temperature=1e-4)
        for before, after in pairwise(done.places):
            best = max(world.score(path) for path in before[0])
            assert {world.score(path[:-1]) for path in after[0]} == {best}


# The posterior, exactly and by sampling


def posterior(world: RandomTree, temperature: float) -> tuple[dict[str, float], float]:
    """p(plan) exp(return / temperature) of every complete plan, normalised, and its sum."""
    mass = {
        leaf.path: leaf.chance * math.exp(leaf.value / temperature) for leaf in world.leaves(DEPTH)
    }
    total = sum(mass.values())
    return {path: share / total for path, share in mass.items()}, total


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
@pytest.mark.parametrize("resample_at", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", [1, 8])
def test_weighted_particles_are_draws_from_the_posterior(
    seed: int, resample_at: float, resampling: Any
) -> None:
    world, roots, particles = RandomTree(seed), 4, 1000
    exact, _ = posterior(world, 0.5)
    assert len(exact) > 4
    done = run(
        world,
        [""] * roots,
        generator(seed),
        particles=particles,
        depth=DEPTH,
        temperature=0.5,
        resample_at=resample_at,
        resampling=resampling,
    )
    found: Counter[str] = Counter()
    for own, log_weight in zip(done.places[-1], done.log_weights[-1], strict=True):
        for path, share in zip(own, log_weight.softmax(0).tolist(), strict=True):
            found[path] += share / roots
    assert set(found) <= set(exact)
    for path, share in exact.items():
        # Four standard errors, the particles' dependence and weights allowed for by a factor 3.
        error = math.sqrt(3 * share * (1 - share) / (roots * particles))
        assert found[path] == pytest.approx(share, abs=4 * error + 1e-3)


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
@pytest.mark.parametrize("seed", [1, 8])
def test_the_normaliser_is_unbiased_with_few_particles(seed: int, resampling: Any) -> None:
    """The product of the steps' mean weights is right on average for any number of particles."""
    world, roots = RandomTree(seed), 2000
    _, exact = posterior(world, 0.5)
    done = run(
        world,
        [""] * roots,
        generator(seed),
        particles=3,
        depth=DEPTH,
        temperature=0.5,
        resampling=resampling,
    )
    estimate = torch.ones(roots, dtype=torch.float64) * math.exp(world.worth("") / 0.5)
    going = torch.ones(roots, dtype=torch.bool)
    for own, log_weight in zip(done.places, done.log_weights, strict=True):
        mean = log_weight.double().exp().mean(1)
        estimate *= torch.where(going, mean, 1.0)  # roots that are done keep their last weights
        going &= torch.tensor([any(world.arrive(p)[1] != 0 for p in paths) for paths in own])
    assert done.plan.valid.all()
    error = estimate.std().item() / math.sqrt(roots)
    assert estimate.mean().item() == pytest.approx(exact, abs=4 * error)
    assert error < 0.1 * exact


def test_scores_multiply_where_scores_weigh() -> None:
    world = RandomTree(8)
    done = run(
        world,
        [""],
        generator(0),
        particles=20,
        depth=DEPTH,
        temperature=0.5,
        weigh="score",
        resample_at=0,
    )
    for number, path in enumerate(done.places[-1][0]):
        line = [own[0][number] for own in done.places]
        assert line[-1] == path
        expected = sum(world.score(place) for place in line) / 0.5
        assert done.log_weights[-1][0, number].item() == pytest.approx(expected, abs=1e-4)


class Likely(RandomTree):
    """A tree in which a place is worth a chance, and a step earns nothing."""

    def arrive(self, path: str) -> tuple[float, float]:
        return 0.0, 1.0

    def worth(self, path: str) -> float:
        return (super().worth(path) + 1.5) / 3


def test_odds_multiply_where_logits_weigh() -> None:
    """Scores of 0.99, 0.9 and 0.5 have odds of 99, 9 and 1."""
    world = Likely(8)
    settings = {"particles": 20, "depth": DEPTH, "weigh": "logit", "resample_at": 0}
    done = run(world, [""], generator(0), **settings)
    for number in range(20):
        scores = [world.score(own[0][number]) for own in done.places]
        odds = math.prod(score / (1 - score) for score in scores)
        assert done.log_weights[-1][0, number].item() == pytest.approx(math.log(odds), abs=1e-4)
    with pytest.raises(ValueError, match="weigh is logit, which is for scores between 0 and 1"):
        run(RandomTree(8), [""], generator(0), **settings)


# Resampling


class Urn(RandomTree):
    """One step to a, b or c at random, whose values differ; nothing after it changes a score."""

    def __init__(self) -> None:
        super().__init__(0, endings=0.0)

    def options(self, path: str) -> list[tuple[str, float]]:
        return [(letter, 1 / 3) for letter in "abc"] if not path else [("a", 1.0)]

    def arrive(self, path: str) -> tuple[float, float]:
        return 0.0, 1.0

    def worth(self, path: str) -> float:
        return {"": 0.0, "a": -0.5, "b": 0.0, "c": 0.75}[path[:1]]


def test_systematic_resampling_rounds_every_share() -> None:
    for seed in range(30):
        done = run(Urn(), [""], generator(seed), particles=10, depth=2)
        above = tree_of(done.plan).parent[0, done.nodes[1][0]]
        copies = (above.unsqueeze(1) == done.nodes[0][0]).sum(0)
        expected = 10 * done.log_weights[0][0].softmax(0)
        assert bool(((copies - expected).abs() < 1 + 1e-5).all())


def test_both_ways_of_resampling_are_unbiased() -> None:
    for resampling in ("systematic", "multinomial"):
        done = run(Urn(), [""] * 800, generator(0), particles=5, depth=2, resampling=resampling)
        expected = sum(
            share
            for own, row in zip(
                done.places[0], done.log_weights[0].softmax(1).tolist(), strict=True
            )
            for path, share in zip(own, row, strict=True)
            if path == "c"
        )
        copies = sum(path[0] == "c" for own in done.places[1] for path in own)
        assert copies / 5 == pytest.approx(expected, rel=0.06)


def test_particles_are_resampled_only_where_too_few_of_them_count() -> None:
    def at(resample_at: float) -> Run:
        return run(
            Urn(),
            [""],
            generator(1),
            particles=8,
            depth=2,
            temperature=0.7,
            resample_at=resample_at,
        )

    weight = at(0).log_weights[0][0].softmax(0)
    effective = 1 / weight.square().sum().item() / 8
    assert 0.1 < effective < 0.95
    assert at(effective - 0.01).uninterrupted() == 8
    assert at(effective + 0.01).uninterrupted() < 8


def test_a_particle_without_a_return_dies() -> None:
    class Mined(Urn):
        def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
            moved = super().step(state, action, rng=rng)
            mined = torch.tensor([path == "c" for path in moved.state])
            return moved._replace(reward=torch.where(mined, torch.nan, moved.reward))

    done = run(Mined(), [""], generator(1), particles=12, depth=2)
    first = dict(zip(done.places[0][0], done.log_weights[0][0].tolist(), strict=True))
    assert first["c"] == -math.inf and first["a"] > -math.inf
    assert {path[0] for path in done.places[1][0]} <= {"a", "b"}


def test_an_ended_particle_stays_and_costs_nothing() -> None:
    plan, _ = ParticleFilter(particles=8, depth=4, temperature=1e6)(
        text_garden(), ["start"], rng=generator(0)
    )
    tree = tree_of(plan)
    ended = tree.discount[0] == 0
    assert bool(ended.any()) and not bool(ended[tree.parent[0, 1:]].any())
    assert int(plan.cost.steps) == int(tree.size[0]) - 1 < 8 * 4


# The choice


def test_a_vote_by_weight_is_that_of_the_posterior() -> None:
    world = RandomTree(8)
    reduce = WeightedVote(lambda paths: [path[0] for path in paths])
    done = run(
        world,
        [""],
        generator(2),
        particles=50,
        depth=DEPTH,
        temperature=0.5,
        judge="weight",
        reduce=reduce,
    )
    plan = done.plan
    tally: Counter[str] = Counter()
    shares = done.log_weights[-1][0].softmax(0).tolist()
    for path, share in zip(done.places[-1][0], shares, strict=True):
        tally[path[0]] += share
    winner, share = tally.most_common(1)[0]
    assert plan.final[0][0] == plan.action[0] == winner
    assert plan.value.item() == pytest.approx(share, abs=1e-5)
    exact, _ = posterior(world, 0.5)
    sums: Counter[str] = Counter()
    for path, part in exact.items():
        sums[path[0]] += part
    assert winner == sums.most_common(1)[0][0]


def test_a_vote_by_return_counts_heads() -> None:
    done = run(
        RandomTree(8),
        [""],
        generator(2),
        particles=21,
        depth=DEPTH,
        reduce=Vote(lambda paths: [path[0] for path in paths]),
    )
    heads = Counter(path[0] for path in done.places[-1][0])
    assert done.plan.value.item() == pytest.approx(max(heads.values()) / 21)


def test_visits_count_the_particles_below() -> None:
    done = run(RandomTree(8), [""], generator(2), particles=21, depth=DEPTH)
    tree, last = tree_of(done.plan), Counter(done.nodes[-1][0].tolist())
    assert tree.visits[0, 0] == 21
    for node in range(int(tree.size[0])):
        below = tree.visits[0][tree.parent[0] == node].sum()
        assert tree.visits[0, node] == below + last[node]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"particles": 0}, r"ParticleFilter\.particles must be a whole number"),
        ({"temperature": 0.0}, r"ParticleFilter\.temperature must be above 0"),
        ({"resample_at": 1.5}, r"resample_at must be between 0 and 1, not 1\.5"),
        ({"resampling": "stratified"}, "resampling must be systematic or multinomial"),
        ({"weigh": "value"}, "weigh must be gain or score"),
        ({"judge": "vote"}, "judge must be return or weight"),
    ],
)
def test_a_setting_without_meaning_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ParticleFilter(**({"particles": 2, "depth": 2} | options))


def test_a_budget_of_fewer_steps_than_the_depth_is_spent_by_one_particle() -> None:
    state, planner = tensor_rows(["start", "gate"]), ParticleFilter(particles=8, depth=24)
    for budget in (Budget(steps=2), Budget(proposals=2)):
        plan, _ = planner(tensor_garden(), state, rng=generator(0), budget=budget)
        assert bool(plan.valid.all()) and int(plan.cost.steps.max()) <= 2
    with pytest.raises(BudgetError, match="the budget does not allow one step"):
        planner(tensor_garden(), state, rng=generator(0), budget=Budget(steps=0))
