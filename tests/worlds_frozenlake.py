"""FrozenLake by Gymnasium's own rules: the true dynamics, for planners and learners."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mbrl_core import Discrete, Model, Proposal, Rng, Transition, draws
from mbrl_core.dyna import value_iteration


@dataclass(frozen=True)
class FrozenLake:
    """States [R] int64, row * columns + column; actions left, down, right, up. Ends in holes and at
    the goal, which alone is rewarded, with 1."""

    chance: Tensor  # [S, A, S]
    reward: Tensor  # [S, A, S]
    final: Tensor  # [S] bool
    gamma: float

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        ladder = self.chance[state, action].cumsum(1)
        dice = draws.uniform(rng, len(state)).double().unsqueeze(1)
        after = (dice >= ladder).sum(1).clamp(max=len(self.final) - 1)
        reward = self.reward[state, action, after]
        return Transition(after, reward, self.going_on(reward, after))

    def going_on(self, reward: Tensor, after: Tensor) -> Tensor:
        """The discount of steps to `after`."""
        return torch.full_like(reward, self.gamma).masked_fill(self.final[after], 0.0)

    def expected(self) -> tuple[Tensor, Tensor]:
        """Expected rewards [S, A] and discounted probabilities [S, A, S], zero at the ends."""
        going = ~self.final
        leads = self.gamma * self.chance * going
        return (
            (self.chance * self.reward).sum(2) * going[:, None],
            leads * going[:, None, None],
        )

    def returns_of(self, policy: Tensor) -> Tensor:
        """Values [S] of a policy's probabilities [S, A]."""
        earned, leads = self.expected()
        through = torch.einsum("sa,sat->st", policy, leads)
        return torch.linalg.solve(torch.eye(len(through)) - through, (policy * earned).sum(1))

    def optimum(self) -> Tensor:
        """Q [S, A] of the best policy."""
        return value_iteration(*self.expected())


def frozen_lake(name: str, *, slippery: bool, gamma: float) -> FrozenLake:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slippery).unwrapped
    size, actions = env.observation_space.n, env.action_space.n
    chance, reward = torch.zeros(2, size, actions, size, dtype=torch.float64)
    for state, moves in env.P.items():
        for action, outcomes in moves.items():
            for probability, after, paid, _ in outcomes:
                chance[state, action, after] += probability
                reward[state, action, after] = paid
    final = torch.tensor([bytes(tile) in (b"H", b"G") for tile in env.desc.flatten()])
    return FrozenLake(chance, reward, final, gamma)


class LakeInTwo:
    """The lake for tree search: the player's move leads to a place between, number S + state * 4 +
    action, from which nature moves on. Values are those of the uniform policy: far too low, but
    they point the right way."""

    def __init__(self, lake: FrozenLake) -> None:
        self.lake, self.size = lake, len(lake.final)
        uniform = torch.full((self.size, 4), 0.25).double()
        value = lake.returns_of(uniform)
        earned, leads = lake.expected()
        self.values = torch.cat([value, (earned + leads @ value).flatten()])
        self.odds, self.outcome = lake.chance.flatten(0, 1).topk(4)

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        between = state >= self.size
        pair = torch.where(between, state - self.size, state * 4 + action)
        after = self.outcome[pair, action]
        reward = torch.where(between, self.lake.reward.flatten(0, 1)[pair, after], 0.0)
        discount = torch.where(between, self.lake.going_on(reward, after), 1.0)
        return Transition(torch.where(between, after, self.size + pair), reward, discount)

    def propose(self, state: Tensor, num: int, *, rng: Rng) -> Proposal:
        between = state >= self.size
        odds = self.odds[(state - self.size).clamp(min=0)].log()
        prior = torch.where(between[:, None], odds, 0.0)
        return Proposal(torch.arange(4).repeat(len(state)), prior, chance=between)

    def value(self, state: Tensor) -> Tensor:
        return self.values[state]

    def model(self) -> Model:
        return Model(self, self, self, Discrete(4))
