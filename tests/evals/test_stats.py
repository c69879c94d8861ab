"""Known answers, and brute force over every subset for small n."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from evals.stats import (
    best_of_k,
    maj_at_k,
    mean_interval,
    paired_difference,
    pass_at_k,
    t_interval,
    welch_interval,
    wilson_interval,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_mean_interval_of_a_normal_sample_matches_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = mean_interval(values, rng())
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(2).exponential(1.0, (400, 40))
    found = [mean_interval(draw, rng(), resamples=500) for draw in draws]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.88 <= covered <= 0.98


def test_one_value_has_an_interval_of_no_width():
    assert mean_interval([4.0], rng()) == (4.0, 4.0, 4.0)


def test_the_interval_is_the_same_for_the_same_generator():
    values = [1.0, 5.0, 2.0]
    assert mean_interval(values, rng()) == mean_interval(values, rng())


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_nothing_and_failures_are_refused(values):
    with pytest.raises(ValueError):
        mean_interval(values, rng())


def test_pairing_takes_the_problems_difficulty_out():
    difficulty = np.random.default_rng(3).normal(0.0, 10.0, 50)
    found = paired_difference(difficulty + 1.0, difficulty, rng())
    assert found == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="equally many"):
        paired_difference([1.0], [1.0, 2.0], rng())


def test_wilson_known_answers():
    scipy_stats = pytest.importorskip("scipy.stats")
    for successes, trials in [(0, 10), (3, 10), (10, 10), (71, 100)]:
        want = scipy_stats.binomtest(successes, trials).proportion_ci(method="wilson")
        found = wilson_interval(successes, trials)
        assert found == pytest.approx((successes / trials, want.low, want.high), abs=1e-9)
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


def test_pass_at_k_known_answers():
    assert pass_at_k([0, 1, 2, 5], 5, 1) == pytest.approx([0.0, 0.2, 0.4, 1.0])
    assert pass_at_k([1], 5, 5) == pytest.approx([1.0])
    assert pass_at_k([3], 200, 100) == pytest.approx(
        [1 - math.comb(197, 100) / math.comb(200, 100)]
    )
    with pytest.raises(ValueError):
        pass_at_k([1], 5, 6)
    with pytest.raises(ValueError):
        pass_at_k([6], 5, 2)


samples = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3).map(float), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.integers(1, n),
    )
)


@given(samples)
def test_pass_at_k_is_the_mean_over_all_subsets(case):
    _, correct, k = case
    subsets = list(itertools.combinations(correct, k))
    want = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k([sum(correct)], len(correct), k)[0] == pytest.approx(want)


def wins_share(scores, correct, subset) -> float:
    """Correctness of the best of one subset, ties shared."""
    best = max(scores[i] for i in subset)
    tied = [correct[i] for i in subset if scores[i] == best]
    return sum(tied) / len(tied)


@given(samples)
def test_best_of_k_is_the_mean_over_all_subsets(case):
    scores, correct, k = case
    subsets = list(itertools.combinations(range(len(scores)), k))
    want = np.mean([wins_share(scores, correct, subset) for subset in subsets])
    other = ([0.0] * len(scores), [1.0] * len(scores))  # rows are independent
    found = best_of_k([scores, other[0]], [correct, other[1]], k)
    assert found == pytest.approx([want, 1.0])


@given(samples)
def test_best_of_k_lies_between_chance_and_pass_at_k(case):
    scores, correct, k = case
    assert best_of_k([scores], [correct], 1)[0] == pytest.approx(np.mean(correct))
    oracle = best_of_k([np.array(correct, float)], [correct], k)[0]
    assert oracle == pytest.approx(pass_at_k([sum(correct)], len(correct), k)[0])
    assert best_of_k([scores], [correct], k)[0] <= oracle + 1e-12


def test_best_of_k_reads_minus_infinity_and_refuses_nan():
    scores = [[-math.inf, 1.0]]
    assert best_of_k(scores, [[1, 0]], 2) == pytest.approx([0.0])
    with pytest.raises(ValueError, match="NaN"):
        best_of_k([[math.nan, 1.0]], [[1, 0]], 2)
    with pytest.raises(ValueError, match="shape"):
        best_of_k([[1.0, 1.0]], [[1]], 1)


def majority(answers, truth, weights, subset) -> float:
    votes: dict[object, float] = {}
    for i in subset:
        if answers[i] is not None:
            votes[answers[i]] = votes.get(answers[i], 0.0) + weights[i]
    top = max(votes.values(), default=0.0)
    winners = [answer for answer, count in votes.items() if count == top and top > 0]
    return (truth in winners) / len(winners) if winners else 0.0


def test_maj_at_k_is_near_the_mean_over_all_subsets():
    answers = [[1, 1, 2, 2, None, 3], [7, 8, 8, 7, 7, None]]
    weights = np.array([[1.0, 2, 1, 1, 5, 4], [1, 1, 1, 0, 1, 1]])
    for k in range(1, 7):
        for used in (None, weights):
            found = maj_at_k(answers, [1, 7], k, rng(), weights=used, subsets=4000)
            w = np.ones((2, 6)) if used is None else used
            subsets = list(itertools.combinations(range(6), k))
            for p, truth in enumerate([1, 7]):
                want = np.mean([majority(answers[p], truth, w[p], s) for s in subsets])
                assert found[p] == pytest.approx(want, abs=0.03)


def test_maj_at_k_one_vote_is_the_mean_and_all_votes_are_exact():
    answers = [["a", "a", "b", "c"]]
    assert maj_at_k(answers, ["a"], 1, rng(), subsets=3)[0] == 0.5
    assert maj_at_k(answers, ["a"], 4, rng())[0] == 1.0
    assert maj_at_k([["a", "b"]], ["a"], 2, rng())[0] == 0.5
    assert maj_at_k([[None, None]], ["a"], 2, rng())[0] == 0.0
    assert maj_at_k([[None, "a"]], ["a"], 2, rng())[0] == 1.0
    with pytest.raises(ValueError):
        maj_at_k(answers, ["a"], 5, rng())


@pytest.mark.parametrize("number", [2, 5, 31, 32, 33, 41, 61, 121, 1001])
def test_the_interval_of_a_mean_is_students(number: int) -> None:
    values = np.random.default_rng(number).normal(size=number)
    found = t_interval(values)
    half = student.ppf(0.975, number - 1) * values.std(ddof=1) / math.sqrt(number)
    assert found.high - found.mean == pytest.approx(half, rel=3e-4)  # a table of three decimals
    assert found.mean - found.low == pytest.approx(half, rel=3e-4)


def test_the_difference_to_published_means_has_welchs_interval() -> None:
    values = [840.0, 850.0, 860.0]
    found = welch_interval(values, 839.4, 43.1, 3)
    # scipy.stats.ttest_ind_from_stats gives 2.2147 degrees of freedom; 2 are taken
    assert found.mean == pytest.approx(10.6)
    half = 4.303 * (100 / 3 + 43.1**2 / 3) ** 0.5
    assert found.high - found.mean == pytest.approx(half)
    assert welch_interval([3.0, 3.0], 1.0, 0.0, 5) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="two values on either side"):
        welch_interval([1.0], 1.0, 1.0, 3)
