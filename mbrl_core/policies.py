"""Policies that need no learning: every action, a grid of actions, random actions.

And what a policy of one's own may need: legal actions, a temperature, priors for drawn candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_core import draws, rows
from mbrl_core.types import Box, Discrete, Proposal, Rng, Rows


@dataclass(frozen=True)
class ListedActions:
    """The same `actions` [n, ...] everywhere, all equally likely.

    Asked for fewer than n candidates it draws that many without replacement.
    """

    actions: Tensor

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        total, size = rows.count(state), len(self.actions)
        if num >= size:
            chosen = torch.arange(size).repeat(total, 1)
        else:
            chosen = draws.uniform(rng, total, size).argsort(1)[:, :num].cpu()
        actions = self.actions[chosen.flatten().to(self.actions.device)]
        return Proposal(actions, torch.zeros(chosen.shape, device=self.actions.device))


def all_actions(space: Discrete, device: torch.device | None = None) -> ListedActions:
    """Every action of a discrete space, on `device`."""
    return ListedActions(torch.arange(space.n, device=device))


def grid_actions(space: Box, points: int) -> ListedActions:
    """A grid of `points` values per dimension, bounds included: points**A actions.

    Raises ValueError where a bound is infinite or `points` is below 2.
    """
    if points < 2:
        raise ValueError(f"a grid needs at least 2 points per dimension, not {points}")
    low, high = _finite(space)
    ramps = [torch.linspace(0, 1, points, dtype=low.dtype)] * len(low)
    unit = torch.cartesian_prod(*ramps).view(-1, len(low)).to(low.device)
    return ListedActions(low + unit * (high - low))


def _finite(space: Box) -> tuple[Tensor, Tensor]:
    """The bounds of a box as real numbers; ValueError where one is infinite."""
    if not bool((torch.isfinite(space.low) & torch.isfinite(space.high)).all()):
        raise ValueError(
            "a grid of actions and uniform draws need finite bounds, not "
            f"low={space.low.tolist()} high={space.high.tolist()}"
        )
    low, high = (
        bound if bound.is_floating_point() else bound.to(torch.get_default_dtype())
        for bound in space
    )
    return low, high


@dataclass(frozen=True)
class RandomActions:
    """Uniform draws from a space with finite bounds; ValueError where one is infinite."""

    space: Box | Discrete

    def __post_init__(self) -> None:
        if isinstance(self.space, Box):
            _finite(self.space)

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        total = rows.count(state)
        if isinstance(self.space, Discrete):
            actions = draws.integers(rng, self.space.n, total * num)
        else:
            low, high = _finite(self.space)
            unit = draws.uniform(rng, total * num, len(low)).to(low)
            actions = low + unit * (high - low)
        return Proposal(actions, torch.zeros((total, num), device=actions.device))


def uniform_policy(
    space: Box | Discrete, device: torch.device | None = None
) -> ListedActions | RandomActions:
    """What to try where nothing is known: every discrete action, or uniform draws from a box.

    Its actions lie on `device`; where None, on that of the space.
    """
    if isinstance(space, Discrete):
        return all_actions(space, device)
    return RandomActions(space if device is None else Box(*(bound.to(device) for bound in space)))


def numbered(logits: Tensor, num: int, *, rng: Rng) -> Proposal:
    """The proposal of actions 0 .. K-1 by their `logits` [R, K].

    Asked for fewer than K candidates it draws that many without replacement (the highest g +
    logit; one is a sample from the softmax).
    """
    total, size = logits.shape
    if num >= size:
        numbers = torch.arange(size, device=logits.device)
        return Proposal(numbers.expand(total, size).flatten(), logits)
    wish = logits + draws.gumbel(rng, total, size).to(logits)
    chosen = wish.topk(num, dim=1).indices
    return Proposal(chosen.flatten(), logits.gather(1, chosen))


def only_legal(logits: Tensor, legal: Tensor) -> Tensor:
    """`logits` [R, K] less their maximum, -inf where not `legal` [R, K].

    A state without a legal action (one that has ended, say) is given all of them, equally likely.
    """
    masked = torch.where(legal, logits, -torch.inf)
    top = masked.amax(1, keepdim=True)
    return torch.where(top > -torch.inf, masked - top, 0.0)


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits [R, K] of probabilities to the power 1 / `temperature`; 0 leaves only the likeliest.

    The greatest becomes 0. Raises ValueError where the temperature is negative.
    """
    if temperature < 0:
        raise ValueError(f"a temperature must be 0 or more, not {temperature}")
    tiny = torch.finfo(logits.dtype).tiny
    return (logits - logits.amax(1, keepdim=True)) / max(temperature, tiny)


def sampled_prior(log_prob: Tensor, log_sampling: Tensor, counts: Tensor) -> Tensor:
    """Log of Sampled MuZero's prior pi_hat = (beta_hat / beta) pi, [R, K]; -inf where not drawn.

    Hubert et al. 2021, "Learning and planning in complex action spaces", section 5: `log_prob` is
    ln pi, the policy to be improved; `log_sampling` is ln beta, what the candidates were drawn
    from; beta_hat is the share of each candidate's `counts` [R, K] in the draws. For any f the sum
    of pi_hat f estimates that of pi f over all actions without bias.
    """
    share = counts / counts.sum(1, keepdim=True)
    return torch.where(counts > 0, share.log() + log_prob - log_sampling, -torch.inf)


def sampled(actions: Tensor, log_prob: Tensor, log_sampling: Tensor | None = None) -> Proposal:
    """The proposal of a policy that drew `actions` [R, K, ...]: equal ones become one.

    `log_prob` [R, K] as in `sampled_prior`; without `log_sampling` they were drawn from the policy
    itself.
    """
    total, number = log_prob.shape
    flat = actions.view(total, number, -1)
    equal = (flat.unsqueeze(2) == flat.unsqueeze(1)).all(3)
    repeated = equal.tril(-1).any(2)
    counts = torch.where(repeated, 0, equal.sum(2))
    prior = sampled_prior(log_prob, log_prob if log_sampling is None else log_sampling, counts)
    drawn = torch.full((total,), number, device=actions.device)
    return Proposal(actions.flatten(0, 1), prior, drawn=drawn)
