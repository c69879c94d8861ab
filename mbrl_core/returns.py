"""Returns of recorded or imagined sequences: what value learning bootstraps towards.

All take T steps [..., T], time last. Step t leads from s_t to s_{t+1}:

    rewards[t]    r_t, earned by the step
    discounts[t]  d_t, the weight of everything after it: gamma, or 0 where the episode terminated;
                  gamma is folded in here once and nowhere else
    values[t]     V(s_{t+1}), of the state the step leads to, not of the one it leaves
    truncated[t]  the sequence was cut after this step though the episode could have gone on: what
                  follows in time belongs to another episode

A terminated step has discount 0: its value counts for nothing. A truncated one keeps its discount,
and the return continues with V of the state in which it was cut (not of the state a reset gave
instead). The last step of a sequence is always treated like that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def discounted_return(rewards: Tensor, discounts: Tensor, value: Tensor | None = None) -> Tensor:
    """sum_t (prod_{s<t} d_s) r_t + (prod_t d_t) value, for `rewards`, `discounts` [..., H]: [...].

    `value` [...] is that of the state after the last step; none counts as zero.
    """
    return return_of(rewards.unbind(-1), discounts.unbind(-1), value)


def return_of(
    rewards: Sequence[Tensor], discounts: Sequence[Tensor], value: Tensor | None = None
) -> Tensor:
    """As `discounted_return`, for H entries [...] each: G_t = r_t + d_t G_{t+1}, G_H = value."""
    *earlier, last = zip(rewards, discounts, strict=True)
    returns = last[0] if value is None else torch.addcmul(last[0], last[1], value)
    for reward, discount in reversed(earlier):
        returns = torch.addcmul(reward, discount, returns)
    return returns


def n_step_returns(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    n: int,
    *,
    truncated: Tensor | None = None,
) -> Tensor:
    """The n-step return [..., T] of each step (Sutton and Barto 2018, eq. 7.1).

        G_t = r_t + d_t r_{t+1} + ... + d_t .. d_{t+n-1} V(s_{t+n})

    Where fewer than n steps follow before a cut or the end of the sequence, that many are taken.
    Raises ValueError where the shapes differ or n is below 1.
    """
    if n < 1:
        raise ValueError(f"an n-step return needs n of at least 1, not {n}")
    cut = _cuts(rewards, discounts, values, truncated)
    rest = values
    for _ in range(n):
        returns = rewards + discounts * torch.where(cut, values, rest)
        rest = torch.cat([returns[..., 1:], values[..., -1:]], -1)
    return returns


def lambda_returns(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    mix: float,
    *,
    truncated: Tensor | None = None,
) -> Tensor:
    """The lambda-return [..., T] of each step, `mix` = lambda (Sutton and Barto 2018, eq. 12.20).

        G_t = r_t + d_t ((1 - lambda) V(s_{t+1}) + lambda G_{t+1}),   G_T = V(s_T)

    lambda 0 is the one-step return, 1 the sum of all rewards with V where the sequence is cut. This
    is Dreamer's target, too (Hafner et al. 2020, eq. 6), in which r_t and d_t are those predicted
    at s_{t+1}. Gradients flow through all arguments. Raises ValueError where the shapes differ or
    lambda is not in [0, 1].
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"a lambda-return needs lambda in [0, 1], not {mix}")
    cut = _cuts(rewards, discounts, values, truncated)
    after, returns = values[..., -1], []
    for t in reversed(range(rewards.shape[-1])):
        value = values[..., t]
        mixed = torch.where(cut[..., t], value, torch.lerp(value, after, mix))
        after = rewards[..., t] + discounts[..., t] * mixed
        returns.append(after)
    return torch.stack(returns[::-1], -1)


def advantages(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    here: Tensor,
    mix: float,
    *,
    truncated: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimates [..., T] (Schulman et al. 2016, eq. 16): the lambda-return
    less `here` [..., T], the values V(s_t) of the states the steps leave.

        A_t = delta_t + d_t lambda A_{t+1},   delta_t = r_t + d_t V(s_{t+1}) - V(s_t)

    Raises ValueError as `lambda_returns` does.
    """
    if here.shape != rewards.shape:
        raise ValueError(
            f"advantages need the values V(s_t) {list(rewards.shape)}, not {list(here.shape)}"
        )
    return lambda_returns(rewards, discounts, values, mix, truncated=truncated) - here


def _cuts(rewards: Tensor, discounts: Tensor, values: Tensor, truncated: Tensor | None) -> Tensor:
    """After which steps [..., T] bool the return goes on with the value."""
    parts = {"discounts": discounts, "values": values, "truncated": truncated}
    for name, part in parts.items():
        if part is not None and part.shape != rewards.shape:
            raise ValueError(
                f"returns need {name} of the rewards' shape {list(rewards.shape)}, not "
                f"{list(part.shape)}"
            )
    if rewards.shape[-1] == 0:
        raise ValueError("returns need at least one step")
    end = torch.zeros_like(rewards, dtype=torch.bool)
    end[..., -1] = True
    return end if truncated is None else end | truncated
