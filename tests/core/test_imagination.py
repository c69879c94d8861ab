"""Returns of sequences: their ends, their limits, and the naive sums they stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrl_core import generator
from mbrl_core.returns import advantages, discounted_return, lambda_returns, n_step_returns

T = 7


def sequence(seed: int, *, ends: bool = True) -> dict[str, Tensor]:
    """Three random sequences of T steps, some of them with terminations and cuts."""
    gen = generator(seed)
    rewards, values = torch.randn(2, 3, T, generator=gen, dtype=torch.float64)
    discounts = torch.rand(3, T, generator=gen, dtype=torch.float64)
    truncated = torch.rand(3, T, generator=gen) < (0.2 if ends else 0.0)
    terminated = torch.rand(3, T, generator=gen) < (0.2 if ends else 0.0)
    discounts = torch.where(terminated & ~truncated, 0.0, discounts)
    return {"rewards": rewards, "discounts": discounts, "values": values, "truncated": truncated}


def naive_n_step(s: dict[str, Tensor], b: int, t: int, n: int) -> Tensor:
    """The sum as the textbook writes it, for one step of one sequence."""
    total, weight = torch.zeros(()).double(), torch.ones(()).double()
    for k in range(t, T):
        total = total + weight * s["rewards"][b, k]
        weight = weight * s["discounts"][b, k]
        if k == t + n - 1 or k == T - 1 or bool(s["truncated"][b, k]):
            return total + weight * s["values"][b, k]
    raise AssertionError


def naive(of: Callable[[int, int], Tensor]) -> Tensor:
    return torch.stack([torch.stack([of(b, t) for t in range(T)]) for b in range(3)])


seeds = given(seed=st.integers(0, 999))
few = settings(max_examples=15, deadline=None)


@seeds
@few
def test_n_step_returns_are_the_naive_sums(seed: int) -> None:
    s = sequence(seed)
    for n in (1, 2, 3, T, T + 5):
        expected = naive(lambda b, t, n=n: naive_n_step(s, b, t, n))
        torch.testing.assert_close(n_step_returns(**s, n=n), expected)


@seeds
@few
def test_an_n_step_return_is_one_step_and_a_shorter_one(seed: int) -> None:
    s = sequence(seed, ends=False)
    for n in (2, 4):
        longer, shorter = n_step_returns(**s, n=n), n_step_returns(**s, n=n - 1)
        expected = s["rewards"][:, :-1] + s["discounts"][:, :-1] * shorter[:, 1:]
        torch.testing.assert_close(longer[:, :-1], expected)


@seeds
@few
def test_a_lambda_return_is_the_mixture_of_all_n_step_returns(seed: int) -> None:
    s, mix = sequence(seed), 0.7
    returns = {n: n_step_returns(**s, n=n) for n in range(1, T + 1)}
    expected = mix**T * returns[T]
    for n, value in returns.items():
        expected = expected + (1 - mix) * mix ** (n - 1) * value
    torch.testing.assert_close(lambda_returns(**s, mix=mix), expected)


@seeds
@few
def test_the_ends_of_lambda_are_one_step_and_monte_carlo(seed: int) -> None:
    s = sequence(seed)
    torch.testing.assert_close(
        lambda_returns(**s, mix=0.0), s["rewards"] + s["discounts"] * s["values"]
    )
    torch.testing.assert_close(lambda_returns(**s, mix=1.0), n_step_returns(**s, n=T))
    whole = sequence(seed, ends=False)
    first = discounted_return(whole["rewards"], whole["discounts"], whole["values"][:, -1])
    torch.testing.assert_close(lambda_returns(**whole, mix=1.0)[:, 0], first)


@seeds
@few
def test_advantages_are_the_sums_of_the_errors_of_the_value(seed: int) -> None:
    s, mix = sequence(seed), 0.6
    here = torch.randn(3, T, generator=generator(seed + 1), dtype=torch.float64)
    # Where time goes on, the value a step leads to is the one the next step leaves.
    goes_on = ~s["truncated"][:, :-1]
    s["values"][:, :-1] = torch.where(goes_on, here[:, 1:], s["values"][:, :-1])
    error = s["rewards"] + s["discounts"] * s["values"] - here
    total, expected = torch.zeros(3).double(), []
    for t in reversed(range(T)):
        total = torch.where(s["truncated"][:, t], 0.0, total)
        total = error[:, t] + s["discounts"][:, t] * mix * total
        expected.append(total)
    found = advantages(**s, here=here, mix=mix)
    torch.testing.assert_close(found, torch.stack(expected[::-1], 1))


def test_nothing_passes_a_termination_and_only_the_value_passes_a_cut() -> None:
    one = torch.ones(4).double()
    s = {"rewards": one, "discounts": 0.5 * one, "values": 10 * one}
    ended = torch.tensor([0.5, 0.0, 0.5, 0.5]).double()
    assert lambda_returns(one, ended, 10 * one, 1.0).tolist() == [1.5, 1.0, 4.0, 6.0]
    cut = torch.tensor([False, True, False, False])
    assert lambda_returns(**s, mix=1.0, truncated=cut).tolist() == [4.0, 6.0, 4.0, 6.0]
    assert n_step_returns(**s, n=3, truncated=cut).tolist() == [4.0, 6.0, 4.0, 6.0]
    both = lambda_returns(one, ended, 10 * one, 1.0, truncated=cut)
    assert both.tolist() == [1.5, 1.0, 4.0, 6.0]  # terminated wins: there is no state to value


def test_the_true_value_is_its_own_return_at_any_lambda() -> None:
    # One reward a step for ever, discounted by 0.9: V = 10, wherever the sequence is cut.
    one = torch.ones(2, 5).double()
    for mix in (0.0, 0.3, 0.95, 1.0):
        torch.testing.assert_close(lambda_returns(one, 0.9 * one, 10 * one, mix), 10 * one)
        torch.testing.assert_close(advantages(one, 0.9 * one, 10 * one, 10 * one, mix), 0 * one)


def test_gradients_flow_through_rewards_and_values() -> None:
    s = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in sequence(0).items()}
    inputs = [s["rewards"], s["discounts"], s["values"]]
    assert torch.autograd.gradcheck(
        lambda r, d, v: lambda_returns(r, d, v, 0.8, truncated=s["truncated"]), inputs
    )


def test_what_makes_no_sense_is_refused() -> None:
    one = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"lambda in \[0, 1\], not 1.5"):
        lambda_returns(one, one, one, 1.5)
    with pytest.raises(ValueError, match="n of at least 1, not 0"):
        n_step_returns(one, one, one, 0)
    with pytest.raises(ValueError, match=r"values of the rewards' shape \[2, 3\], not \[2, 4\]"):
        lambda_returns(one, one, torch.ones(2, 4), 0.5)
    with pytest.raises(ValueError, match=r"V\(s_t\)"):
        advantages(one, one, one, torch.ones(2, 4), 0.5)
    with pytest.raises(ValueError, match="at least one step"):
        lambda_returns(one[:, :0], one[:, :0], one[:, :0], 0.5)
