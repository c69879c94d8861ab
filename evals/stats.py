"""Statistics of records: intervals by bootstrap, and what k samples out of n would have done.

Every function is vectorised over problems (leading axis P) and draws only from the generator it is
given, so a table is the same each time it is recomputed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
CHUNK = 2**22  # resampled values held at once, 32 MB
NORMAL_QUANTILE = 1.959963984540054  # two-sided, 95%
# Two-sided 95% quantiles of Student's t for 1 to 30 degrees of freedom.
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Estimate(NamedTuple):
    """A number and the interval that covers it in 95% of repetitions."""

    mean: float
    low: float
    high: float


def check_seed(seed: int) -> None:
    """Raise ValueError where NumPy could not draw from a seed."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")


def mean_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean of `values` [n] and its percentile-bootstrap interval (Efron 1979).

    The interval is honest about spread between the values only: average over episodes first where
    seeds are what varies. One value has an interval of zero width. Raises ValueError for no values
    or values that are not finite (a failure is `None` in the records: count it apart).
    """
    sample = _finite(values)
    means = _resampled_means(sample, rng, resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sample.mean()), float(low), float(high))


def t_interval(values: ArrayLike) -> Estimate:
    """The mean of `values` [n] and Student's 95% interval, for the few values of a control table.

    A bootstrap of four episodes covers about 80%. One value has no interval: low and high are the
    value itself. Raises ValueError as `mean_interval` does.
    """
    sample = _finite(values)
    mean, n = float(sample.mean()), len(sample)
    if n == 1:
        return Estimate(mean, mean, mean)
    half = _quantile(n - 1) * float(sample.std(ddof=1)) / np.sqrt(n)
    return Estimate(mean, mean - float(half), mean + float(half))


def welch_interval(values: ArrayLike, mean: float, std: float, number: int) -> Estimate:
    """How far the mean of `values` [n] is above a published one, and Welch's 95% interval.

    The latter is of `number` values with standard deviation `std` (Welch 1947; the degrees of
    freedom are rounded down). Raises ValueError where either has fewer than two, and as
    `mean_interval` does.
    """
    sample = _finite(values)
    if min(len(sample), number) < 2:
        raise ValueError("the spread of a difference needs two values on either side")
    difference = float(sample.mean()) - mean
    parts = (float(sample.var(ddof=1)) / len(sample), len(sample)), (std**2 / number, number)
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Estimate(difference, difference, difference)
    freedom = variance**2 / sum(part**2 / (n - 1) for part, n in parts)
    half = _quantile(int(freedom)) * variance**0.5
    return Estimate(difference, difference - half, difference + half)


def _quantile(freedom: int) -> float:
    """Of Student's t, two-sided, 95%.

    Beyond the table it is the expansion z + g1/v + g2/v^2 + g3/v^3 in the degrees of freedom v
    (Abramowitz and Stegun 1964, 26.7.5), which is right to five decimals there.
    """
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = NORMAL_QUANTILE
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The mean of `first - second` [n], whose entries share a problem or a seed, and its interval.

    Pairing takes the difficulty of the problems out of the interval. Raises ValueError where the
    two have different lengths, and as `mean_interval` does.
    """
    one, two = _finite(first), _finite(second)
    if one.shape != two.shape:
        raise ValueError(f"pairs need equally many values, not {len(one)} and {len(two)}")
    return mean_interval(one - two, rng, level=level, resamples=resamples)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The ratio of two sums over [n] and its interval, for shares of things that come in groups.

    `numerators[i]` of the `denominators[i]` things of group i count; groups are resampled whole
    (percentile bootstrap), because what is of one group is alike. Resamples without a thing are
    left out. Raises ValueError where the two differ in length, there is nothing at all, or as
    `mean_interval` does.
    """
    over, under = _finite(numerators), _finite(denominators)
    if over.shape != under.shape or not under.sum() > 0:
        raise ValueError("a ratio needs equally many numerators and denominators, not all 0")
    counts = rng.multinomial(len(over), np.full(len(over), 1 / len(over)), size=resamples)
    below = counts @ under
    ratios = (counts @ over)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(over.sum() / under.sum()), float(low), float(high))


def wilson_interval(successes: int, trials: int, *, z: float = NORMAL_QUANTILE) -> Estimate:
    """The share of successes and its Wilson score interval (Wilson 1927).

    Centre (p + z^2/2n) / (1 + z^2/n); unlike p +- z s it stays inside [0, 1] and has a width at 0
    and 1. `z` is the normal quantile, 95% as it stands. Raises ValueError unless
    0 <= successes <= trials and trials > 0.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is no share")
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / denominator
    # At 0 and 1 the interval ends there exactly; rounding would put it a hair beside.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Estimate(share, low, high)


def pass_at_k(correct: ArrayLike, samples: ArrayLike, k: int) -> Floats:
    """Chance that k of n samples, drawn without replacement, hold a correct one: [P].

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374).

    Args:
        correct: c [P], how many of a problem's samples are correct.
        samples: n [P] or one number for all.
        k: how many are drawn; raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    c, n = np.broadcast_arrays(np.asarray(correct, np.int64), np.asarray(samples, np.int64))
    _check_k(k, int(n.min(initial=k)))
    if ((c < 0) | (c > n)).any():
        raise ValueError("there cannot be more correct samples than samples, nor fewer than none")
    return 1.0 - np.exp(_log_choose(n - c, k) - _log_choose(n, k))


def best_of_k(scores: ArrayLike, correct: ArrayLike, k: int) -> Floats:
    """Chance that the best-scored of k out of n samples is correct, exactly: [P].

    Sorted by score descending, sample j (from 1) is the best in C(n - j, k - 1) of the C(n, k)
    draws, so the chance is sum_j correct_j C(n - j, k - 1) / C(n, k). Ties: samples of equal score
    are equally likely to win, so each counts with the mean correctness of its tie.

    Args:
        scores: [P, n]; -inf for a sample that the scorer could not read.
        correct: [P, n] of 0 and 1.
        k: how many are drawn; raises ValueError unless 1 <= k <= n, or where a score is NaN.
    """
    s = np.atleast_2d(np.asarray(scores, np.float64))
    c = np.atleast_2d(np.asarray(correct, np.float64))
    if s.shape != c.shape:
        raise ValueError(f"scores {s.shape} and correctness {c.shape} must have one shape")
    if np.isnan(s).any():
        raise ValueError("a score is NaN: give -inf to a sample that could not be scored")
    n = s.shape[1]
    _check_k(k, n)
    order = np.argsort(-s, axis=1, kind="stable")
    s, c = np.take_along_axis(s, order, 1), np.take_along_axis(c, order, 1)
    wins = np.exp(_log_choose(n - np.arange(1, n + 1), k - 1) - _log_choose(np.array(n), k))
    return (_mean_within_ties(s, c) * wins).sum(1)


def maj_at_k(
    answers: Sequence[Sequence[Hashable | None]],
    truth: Sequence[Hashable],
    k: int,
    rng: np.random.Generator,
    *,
    weights: ArrayLike | None = None,
    subsets: int = 200,
) -> Floats:
    """Chance that the majority of k out of n samples is correct, over random k-subsets: [P].

    Ties: answers with equally many votes share the win, so one of two counts a half. An answer of
    `None` (nothing could be read) does not vote; where nobody votes the problem counts as wrong.
    One vote and all n are exact; otherwise the standard error is at most 0.5 / sqrt(subsets).

    Args:
        answers: P lists of n answers.
        truth: [P], the right answers.
        k: how many vote; raises ValueError unless 1 <= k <= n.
        weights: [P, n] of a weighted majority, not below 0; each vote counts 1 where `None`.
        subsets: how many random subsets are averaged.
    """
    n = len(answers[0]) if len(answers) else k
    if any(len(row) != n for row in answers) or len(truth) != len(answers):
        raise ValueError("every problem needs one truth and equally many answers")
    _check_k(k, n)
    all_weights = np.ones((len(answers), n)) if weights is None else np.asarray(weights, np.float64)
    if all_weights.shape != (len(answers), n) or not (all_weights >= 0).all():
        raise ValueError(f"weights must be [{len(answers)}, {n}] and not below 0")
    result = np.zeros(len(answers))
    for problem, row in enumerate(answers):
        chosen = _subsets(n, k, subsets, rng)
        result[problem] = _vote(row, truth[problem], chosen, all_weights[problem])
    return result


def _subsets(n: int, k: int, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All k-subsets of n where they are each one alone or all together, else `number` random ones:
    [subsets, k]."""
    if k in (1, n):
        return np.arange(n).reshape(-1, k)
    return np.argsort(rng.random((number, n)), axis=1)[:, :k]


def _vote(
    answers: Sequence[Hashable | None], truth: Hashable, chosen: NDArray[np.int64], weights: Floats
) -> float:
    """Mean win of `truth` over the subsets `chosen` [draws, k] of one problem's answers."""
    kinds = [kind for kind in dict.fromkeys(answers) if kind is not None]
    if truth not in kinds:
        return 0.0
    is_kind = np.array([[answer == kind for answer in answers] for kind in kinds], np.float64)
    votes = (is_kind * weights)[:, chosen].sum(-1)  # [kinds, draws]
    top = votes.max(0)
    winners = np.isclose(votes, top, rtol=1e-12, atol=0) & (top > 0)
    share = winners / np.maximum(winners.sum(0), 1)
    return float(share[kinds.index(truth)].mean())


def _finite(values: ArrayLike) -> Floats:
    sample = np.asarray(values, np.float64).reshape(-1)
    if sample.size == 0:
        raise ValueError("there are no values to average")
    if not np.isfinite(sample).all():
        raise ValueError("every value must be finite: leave failures out and count them apart")
    return sample


def _resampled_means(sample: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Means of `resamples` draws with replacement: [resamples]."""
    rows = max(1, CHUNK // sample.size)
    means = [
        sample[rng.integers(sample.size, size=(min(rows, resamples - start), sample.size))].mean(1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(means)


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} samples cannot be drawn from {n}")


def _log_choose(n: ArrayLike, k: int) -> Floats:
    """log C(n, k), -inf where n < k. A sum of k logarithms: exact enough, and needs no gamma."""
    n = np.asarray(n, np.float64)
    with np.errstate(divide="ignore"):
        terms = [np.log(np.maximum(n - i, 0.0)) - np.log(k - i) for i in range(k)]
    return np.sum(terms, axis=0) if terms else np.zeros_like(n)


def _mean_within_ties(scores: Floats, correct: Floats) -> Floats:
    """`correct` [P, n] with each entry replaced by the mean over the samples of its score.

    `scores` [P, n] are sorted along the last axis.
    """
    starts = np.ones(scores.shape, bool)
    starts[:, 1:] = scores[:, 1:] != scores[:, :-1]
    group = np.cumsum(starts.reshape(-1)) - 1
    sums = np.bincount(group, weights=correct.reshape(-1))
    sizes = np.bincount(group)
    return (sums / sizes)[group].reshape(scores.shape)
