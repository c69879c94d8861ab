"""The planner of TD-MPC: MPPI over elites, helped by a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import check_counts, check_not_negative, check_positive
from mbrl_core.planners.sampling import (
    Noise,
    SamplingPlanner,
    check_elites,
    exponential_weights,
    scaled_elites,
    select_elites,
    weighted_moments,
)
from mbrl_core.planners.trajectory import Search, WarmStart, fresh_nowhere, keep, next_step
from mbrl_core.types import Rows
from mbrl_core.world import Bounds, World


@dataclass(frozen=True, kw_only=True)
class TDMPC(SamplingPlanner):
    """MPPI as TD-MPC runs it (Hansen et al. 2022, "Temporal difference learning for model
    predictive control", algorithm 1; settings of TD-MPC2, Hansen et al. 2024).

    Mean and standard deviation are those of the `elites`, weighted by exp(return / temperature);
    `policy_samples` of the candidates are rollouts of the model's policy, the same in every
    iteration; only the mean is carried on to the next control step. The published inverse
    temperature 0.5 is `temperature` 2, the published std in [0.05, 2] `min_std` and `init_std` (no
    later one exceeds half the range, where actions are bounded); from 20 action dimensions on
    TD-MPC2 runs two iterations more.

    output: what is returned: an `elite` drawn by its weight, as published, the final `mean`, as is
        usual in evaluation, or the `best` candidate.
    explore: noise added to the first action, in final standard deviations; published: 1 while
        learning, 0 in evaluation. `Plan.value` is the return without it.
    """

    samples: int = 512
    iterations: int = 6
    elites: int = 64
    policy_samples: int = 24
    temperature: float = 2.0
    init_std: float = 2.0
    min_std: float = 0.05
    keep_mean: Literal["always", "last", "never"] = "never"
    output: Literal["best", "mean", "elite"] = "elite"  # type: ignore[assignment]
    explore: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self, self.elites)
        check_positive(self, "temperature")
        check_counts(self, "policy_samples", least=0)
        check_not_negative(self, "explore")
        if self.policy_samples >= self.samples:
            raise ValueError(
                f"TDMPC.policy_samples ({self.policy_samples}) must be below TDMPC.samples "
                f"({self.samples})"
            )

    def outputs(self) -> tuple[str, ...]:
        """See `SequencePlanner.outputs`."""
        return ("elite", "mean", "best")

    def needs(self) -> tuple[str, ...]:
        """See `SequencePlanner.needs`."""
        return (*super().needs(), "policy") if self.policy_samples else super().needs()

    def begin(self, world: World, bounds: Bounds, state: Rows, carry: WarmStart | None) -> Search:
        """See `TrajectoryPlanner.begin`."""
        search = super().begin(world, bounds, state, carry)
        if self.policy_samples == 0:
            return search
        sequences = self.policy_sequences(world, state, self.policy_samples)
        return search._replace(kept=None if sequences is None else self.encode(bounds, sequences))

    def refit(self, search: Search, sequences: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """See `Population.refit`."""
        elites, top = select_elites(sequences, returns, self._number(returns))
        return weighted_moments(elites, exponential_weights(top, self.temperature))

    def noise(self, world: World, search: Search, samples: int, iteration: int) -> Noise:
        """See `Population.noise`."""
        noise = super().noise(world, search, samples, iteration)
        if self.output != "elite":
            return noise
        return noise._replace(choice=draws.uniform(world.rng, world.roots, 1).to(search.mean))

    def remember(
        self, search: Search, noise: Noise, sequences: Tensor, returns: Tensor, final: Rows
    ) -> Search:
        """See `Population.remember`: the best, or the elite that was drawn."""
        if noise.choice is None:
            return super().remember(search, noise, sequences, returns, final)
        top, index = returns.topk(self._number(returns), 1)
        reached = exponential_weights(top, self.temperature).cumsum(1)
        threshold = noise.choice * reached[:, -1:]
        place = torch.searchsorted(reached, threshold, right=True).clamp(max=top.shape[1] - 1)
        value, drawn = top.gather(1, place).squeeze(1), index.gather(1, place).squeeze(1)
        return keep(search, sequences, value, drawn, final, value > -torch.inf)

    def warm_start(self, bounds: Bounds, search: Search, plan: Tensor) -> WarmStart:
        """See `SequencePlanner.warm_start`: the mean, whatever was returned."""
        return WarmStart(next_step(bounds, self.decode(bounds, search.mean)), fresh_nowhere(plan))

    def act(self, world: World, bounds: Bounds, search: Search, action: Tensor) -> Tensor:
        """See `SequencePlanner.act`."""
        if self.explore == 0:
            return action
        noise = draws.normal(world.rng, *action.shape).to(action)
        return bounds.clip(action + self.explore * search.std[:, 0] * noise)

    def _number(self, returns: Tensor) -> int:
        return scaled_elites(self.elites, returns.shape[1], self.samples)
