"""Laws of argmax, vote and weighted vote."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_core import Argmax, Vote, WeightedVote

Answers = list[str | None]


def answers(state: Answers) -> Answers:
    """Here a state is its own answer."""
    return state


def choose(reducer: Vote | WeightedVote | Argmax, returns: list[float], final: Answers) -> tuple:
    chosen, value = reducer(torch.tensor([returns]), final)
    return chosen.item(), pytest.approx(value.item())


def test_argmax_takes_the_first_of_the_best() -> None:
    assert choose(Argmax(), [0.0, 3.0, 3.0], ["a", "b", "c"]) == (1, 3.0)


def test_the_majority_wins_and_its_best_candidate_is_chosen() -> None:
    final: Answers = ["a", "b", "b", "c"]
    assert choose(Vote(answers), [9.0, 1.0, 2.0, 3.0], final) == (2, 0.5)


def test_a_tie_goes_to_the_answer_given_first() -> None:
    assert choose(Vote(answers), [0.0, 1.0, 2.0, 3.0], ["b", "a", "a", "b"]) == (3, 0.5)


def test_who_abstains_has_no_vote_and_no_share() -> None:
    final: Answers = [None, "a", None, None]
    assert choose(Vote(answers), [9.0, 1.0, 2.0, 3.0], final) == (1, 1.0)


def test_where_all_abstain_the_best_return_is_chosen_at_no_value() -> None:
    assert choose(Vote(answers), [1.0, 2.0], [None, None]) == (1, 0.0)


def test_a_candidate_without_a_return_has_no_vote() -> None:
    returns = [-torch.inf, -torch.inf, 1.0]
    assert choose(Vote(answers), returns, ["a", "a", "b"]) == (2, 1.0)
    assert choose(Vote(answers), [-torch.inf] * 3, ["a", "a", "b"])[1] == 0.0


def test_votes_are_weighted_by_the_return() -> None:
    final: Answers = ["a", "a", "b"]
    assert choose(WeightedVote(answers), [0.25, 0.25, 0.75], final) == (2, 0.6)
    assert choose(WeightedVote(answers), [0.5, 0.25, 0.25], final) == (0, 0.75)


def test_where_all_votes_weigh_nothing_the_majority_wins_at_no_value() -> None:
    final: Answers = ["a", "b", "b", None]
    assert choose(WeightedVote(answers), [0.0, 0.0, 0.0, 0.0], final) == (1, 0.0)
    assert choose(WeightedVote(answers), [0.0, 0.0, 0.0, 9.0], final) == (1, 0.0)
    assert choose(WeightedVote(answers), [0.5, 0.0, 0.0, 0.0], final) == (0, 1.0)
    cold = WeightedVote(answers, temperature=1e-3)  # the votes' weights are too small for a float
    assert choose(cold, [1.0, 2.0, 3.0, 9.0], final) == (2, 0.0)


def test_a_negative_return_needs_a_temperature() -> None:
    with pytest.raises(ValueError, match="set a temperature"):
        choose(WeightedVote(answers), [-1.0, 1.0], ["a", "b"])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        WeightedVote(answers, temperature=0.0)


scores = st.lists(st.integers(-8, 8).map(float), min_size=6, max_size=6, unique=True)
voters = st.lists(st.sampled_from(["a", "b", "c"]), min_size=6, max_size=6)


@given(returns=scores, final=voters)
@settings(max_examples=30, deadline=None)
def test_a_cold_weighted_vote_is_argmax(returns: list[float], final: Answers) -> None:
    cold = choose(WeightedVote(answers, temperature=1e-3), returns, final)
    assert cold == (choose(Argmax(), returns, final)[0], 1.0)


@given(returns=scores, final=voters)
@settings(max_examples=30, deadline=None)
def test_a_hot_weighted_vote_is_the_majority(returns: list[float], final: Answers) -> None:
    counts = sorted(final.count(answer) for answer in set(final))
    if counts[-2:] != [counts[-1]] * 2:  # a tie has no limit: the last digit decides
        hot = choose(WeightedVote(answers, temperature=1e9), returns, final)
        assert hot == choose(Vote(answers), returns, final)


@given(returns=scores, final=voters, shift=st.integers(-4, 4))
@settings(max_examples=20, deadline=None)
def test_a_weighted_vote_forgets_a_shift(returns: list[float], final: Answers, shift: int) -> None:
    vote = WeightedVote(answers, temperature=2.0)
    assert choose(vote, returns, final) == choose(vote, [x + shift for x in returns], final)


@pytest.mark.parametrize("reducer", [Argmax(), Vote(answers), WeightedVote(answers, 1.0)])
def test_roots_are_reduced_apart(reducer: Argmax | Vote | WeightedVote) -> None:
    returns = torch.tensor([[0.0, 1.0, 2.0], [5.0, 4.0, 3.0]])
    final = ["a", "a", "b", "x", "y", "y"]
    chosen, value = reducer(returns, final)
    for b in range(2):
        alone, worth = reducer(returns[b : b + 1], final[3 * b : 3 * b + 3])
        assert chosen[b] == alone[0] and value[b] == worth[0]


def test_numbers_in_a_tensor_are_votes_like_any_other() -> None:
    final = torch.tensor([4.0, 7.0, 7.0])
    chosen, share = Vote(lambda state: state)(torch.tensor([[9.0, 1.0, 2.0]]), final)
    assert chosen.tolist() == [2]
    torch.testing.assert_close(share, torch.tensor([2 / 3]))
