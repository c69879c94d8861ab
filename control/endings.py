"""Which steps end an episode, learned from those that did."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.actor_critic import Layers
from control.ensemble import Normalizer
from control.finite import check_finite
from mbrl_core import draws


class Ending(nn.Module):
    """A classifier of steps (obs, action, next obs): an `EndFunction` for `Ensemble`.

    A step is said to end the episode where that is the likelier. Ends are rare, so half of every
    batch are ends; the log-odds `prior` of the data, which that takes out of what the network
    learns, are added to its answer (King and Zeng 2001, "Logistic regression in rare events data",
    section 4.1).
    """

    prior: Tensor

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (64, 64),
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        width = 2 * observation_dim + action_dim
        self.layers = Layers(1, [width, *hidden, 1], rng)
        self.inputs = Normalizer(width)
        self.register_buffer("prior", torch.tensor(-torch.inf))  # no end was seen: none is foretold

    def logit(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """R steps to the log-odds [R] of an end where half of all steps are ends."""
        return self.layers(self.inputs(torch.cat([obs, action, next_obs], 1)))[0, :, 0]

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """R steps to bool [R]: whether the episode ended."""
        return self.logit(obs, action, next_obs) + self.prior > 0


def fit_ending(
    model: Ending,
    optimizer: torch.optim.Optimizer,
    obs: Tensor,
    action: Tensor,
    next_obs: Tensor,
    terminated: Tensor,
    *,
    rng: torch.Generator,
    updates: int = 1000,
    batch_size: int = 128,
) -> float:
    """Fit the classifier to n real steps, changing it in place; the mean loss in nats per step.

    There must be ends and steps that are none among `terminated` [n] bool. Raises NotFiniteError
    before a loss that is NaN or infinite is applied.
    """
    ends, others = terminated.nonzero().squeeze(1), (~terminated).nonzero().squeeze(1)
    model.inputs.fit(torch.cat([obs, action, next_obs], 1))
    model.prior.fill_(len(ends) / len(others)).log_()
    half, total = batch_size // 2, 0.0
    label = (torch.arange(2 * half) < half).to(obs)
    for _ in range(updates):
        index = torch.cat([pool[draws.integers(rng, len(pool), half)] for pool in (ends, others)])
        batch = {"obs": obs[index], "action": action[index], "next_obs": next_obs[index]}
        loss = F.binary_cross_entropy_with_logits(model.logit(**batch), label)
        check_finite(loss, batch, "the loss of the classifier of ends")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / updates
