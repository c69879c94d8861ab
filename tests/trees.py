"""Random trees small enough to enumerate: every number a multiple of 1/8, so sums are exact."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_core import Model, Proposal, Rng, Transition, draws

WORDS = "abc"


class Leaf(NamedTuple):
    """A complete plan: ended, or cut at a depth."""

    path: str
    value: float  # discounted return, with the value of the last place where it has not ended
    chance: float  # that the policy draws it


class RandomTree:
    """States are the letters taken so far; what follows each is drawn once from `seed`.

    `endings`: the chance that a step ends; `dead_ends`: that nothing is proposed at a place.
    """

    def __init__(self, seed: int, *, endings: float = 0.25, dead_ends: float = 0.0) -> None:
        self.seed, self.endings, self.dead_ends = seed, endings, dead_ends
        for name in ("options", "arrive", "worth"):  # seeding a generator takes long
            setattr(self, name, cache(getattr(self, name)))

    def _drawn(self, what: str, path: str) -> Random:
        return Random(f"{self.seed} {what} {path}")

    def options(self, path: str) -> list[tuple[str, float]]:
        """The letters proposed at a place and their chances, the likeliest first."""
        drawn = self._drawn("options", path)
        if path and drawn.random() < self.dead_ends:
            return []
        letters = drawn.sample(WORDS, drawn.choice([1, 2, 3, 3]))
        shares = sorted((drawn.randint(1, 8) for _ in letters), reverse=True)
        return [(a, share / sum(shares)) for a, share in zip(letters, shares, strict=True)]

    def arrive(self, path: str) -> tuple[float, float]:
        """Reward and discount of the step that leads to a place."""
        drawn = self._drawn("arrive", path)
        ends = drawn.random() < self.endings
        return drawn.randint(-8, 8) / 8, 0.0 if ends else drawn.choice([0.5, 1.0])

    def worth(self, path: str) -> float:
        return self._drawn("worth", path).randint(-8, 8) / 8

    def score(self, path: str) -> float:
        """Discounted reward on the way to a place plus what it is worth."""
        earned, weight = 0.0, 1.0
        for i in range(len(path)):
            reward, discount = self.arrive(path[: i + 1])
            earned, weight = earned + weight * reward, weight * discount
        return earned + weight * self.worth(path)

    def step(self, state: list[str], action: list[str], *, rng: Rng) -> Transition:
        made = [path + letter for path, letter in zip(state, action, strict=True)]
        rewards, discounts = zip(*map(self.arrive, made), strict=True)
        return Transition(made, torch.tensor(rewards), torch.tensor(discounts))

    def propose(self, state: list[str], num: int, *, rng: Rng) -> Proposal:
        """The `num` likeliest; asked for one, a draw."""
        letters: list[str] = []
        prior = torch.full((len(state), num), -torch.inf)
        points = draws.uniform(rng, len(state)).tolist() if num == 1 else [0.0] * len(state)
        for row, (path, point) in enumerate(zip(state, points, strict=True)):
            options = self.options(path)
            if num == 1 and options:
                options = [_at(options, point)]
            for slot, (letter, chance) in enumerate(options[:num]):
                prior[row, slot] = torch.tensor(chance).log()
                letters.append(letter)
            letters += ["a"] * (num - len(options[:num]))
        return Proposal(letters, prior)

    def value(self, state: list[str]) -> Tensor:
        return torch.tensor([self.worth(path) for path in state])

    def model(self) -> Model:
        return Model(self, self, self)

    def leaves(self, depth: int, path: str = "") -> Iterator[Leaf]:
        """Every complete plan of at most `depth` steps on from a place, depth first."""
        if depth == 0:
            yield Leaf(path, self.worth(path), 1.0)
            return
        for letter, chance in self.options(path):
            below = path + letter
            reward, discount = self.arrive(below)
            rest = [Leaf(below, 0.0, 1.0)] if discount == 0 else self.leaves(depth - 1, below)
            for leaf in rest:
                yield Leaf(leaf.path, reward + discount * leaf.value, chance * leaf.chance)


def _at(options: list[tuple[str, float]], point: float) -> tuple[str, float]:
    """The option in whose share of [0, 1) a point lies."""
    for option in options:
        point -= option[1]
        if point < 0:
            return option
    return options[-1]
