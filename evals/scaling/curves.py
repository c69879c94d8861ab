"""Points of accuracy against compute, out of records alone.

Every point keeps its values per problem, in one order of problems for all points, so that whatever
is made of them (differences, slopes, interpolations) is linear in these values, and a bootstrap
over problems is paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from evals.scaling.rescore import chosen_by
from evals.stats import Estimate, Floats, best_of_k, maj_at_k, mean_interval, pass_at_k
from reasoning.tasks import GSM8K, Task

Record = dict[str, Any]
UNSCORED = ("self_consistency", "greedy", "pass")  # reads no scores and is charged no scorer
SUBSETS = 200  # random k-subsets behind a vote of k samples
SOFT = 0.1  # score_temperature of soft_best_of_n, unless a sweep sets it
LEAST_WEIGHT = 1e-100
ROUNDING = 1e-9  # of a difference of shares
SPENT = ("tokens", "prefilled", "scored", "steps", "seconds")  # as records name them


class Parameters(NamedTuple):
    """Sizes of the models, for FLOPs; None where they are not known."""

    model: int | None
    scorer: int | None = None


class Spent(NamedTuple):
    """What each problem took: [P] each."""

    decoded: Floats  # tokens generated
    prefilled: Floats  # prompt tokens computed, cached ones not counted
    scored: Floats  # tokens read by the scorer
    nodes: Floats  # steps or whole solutions appended
    seconds: Floats

    @property
    def uncached(self) -> Floats:
        """All tokens computed."""
        return self.decoded + self.prefilled + self.scored

    def flops(self, parameters: Parameters) -> Floats | None:
        """2 x parameters x tokens (Kaplan et al. 2020), the scorer's own among them; None where a
        size is not known."""
        if parameters.model is None or (parameters.scorer is None and self.scored.any()):
            return None
        written = 2.0 * parameters.model * (self.decoded + self.prefilled)
        return written + 2.0 * (parameters.scorer or 0) * self.scored


class Point(NamedTuple):
    """One strategy at one size."""

    strategy: str
    by: str  # what limits it: samples, nodes or tokens
    limit: int  # so many of them, per problem
    size: int  # the same in whole solutions
    correct: Floats  # [P] chance that the answer is right: 0 or 1 where it was really given
    any: Floats  # [P] chance that some solution is right
    mean: Floats  # [P] share of solutions that are right
    spent: Spent


def common(cells: Mapping[str, Sequence[Record]]) -> tuple[list[str], int]:
    """The problems that every cell has answered, in the order of the first cell, and how many
    others some cell has: an engine failed at these elsewhere."""
    found = [{record["id"]: None for record in records} for records in cells.values()]
    ids = [id for id in (found[0] if found else {}) if all(id in one for one in found)]
    return ids, len({id for one in found for id in one}) - len(ids)


def searched(name: str, by: str, limit: int, size: int, records: Sequence[Record]) -> Point:
    """The point of one cell: what its search chose, and what it met. Greedy decoding is charged no
    scorer, though its one solution is scored, so that all cells run on the same engines."""
    shares = [[float(s["correct"]) for s in record["samples"]] or [0.0] for record in records]
    return Point(
        *(name, by, limit, size),
        correct=np.array([float(record["correct"]) for record in records]),
        any=np.array([max(share) for share in shares]),
        mean=np.array([sum(share) / len(share) for share in shares]),
        spent=share_of(spent_of(records), 1.0, scorer=name not in UNSCORED),
    )


def sampled(
    strategy: str,
    sizes: Sequence[int],
    records: Sequence[Record],
    *,
    temperature: float = SOFT,
    seed: int = 0,
) -> list[Point]:
    """The points of a strategy over whole samples at every k of `sizes`, out of the largest run.

    best_of_n and pass are exact; votes are means over `SUBSETS` random k-subsets, exact for one
    sample and for all, where answers with equal votes share the win. Costs are k/n of the run's,
    but for the prompt, which is charged whole at every k. What does not read scores is not charged
    for them.

    Args:
        strategy: best_of_n, self_consistency, weighted_vote, soft_best_of_n, or pass (some sample
            is right: what a perfect scorer would reach).
        sizes: k; those above the run's n are left out.
        records: of a run that sampled n solutions of each problem.
        temperature: of soft_best_of_n.
        seed: of the subsets.

    Raises ValueError on an unknown strategy or a run of unequal numbers of samples.
    """
    n = samples_of(records)
    chance = chance_of(strategy, records, temperature, np.random.default_rng(seed))
    right = np.array([sum(s["correct"] for s in record["samples"]) for record in records])
    points = []
    for k in (k for k in sizes if k <= n):
        spent = share_of(spent_of(records), k / n, scorer=strategy not in UNSCORED)
        points.append(
            Point(
                *(strategy, "samples", k, k),
                correct=chance(k),
                any=pass_at_k(right, n, k),
                mean=right / n,
                spent=spent,
            )
        )
    return points


def samples_of(records: Sequence[Record]) -> int:
    """How many samples each problem has. Raises ValueError where they differ."""
    numbers = {len(record["samples"]) for record in records}
    if len(numbers) != 1:
        raise ValueError(f"problems have {sorted(numbers)} samples each: no run of whole solutions")
    return numbers.pop()


def chance_of(
    strategy: str, records: Sequence[Record], temperature: float, rng: np.random.Generator
) -> Callable[[int], Floats]:
    """From k to the chance [P] that k samples lead to the right answer."""
    values = np.array([[_value(s) for s in record["samples"]] for record in records])
    right = np.array([[bool(s["correct"]) for s in record["samples"]] for record in records])
    if strategy == "best_of_n":
        return lambda k: best_of_k(values, right, k)
    if strategy == "pass":
        return lambda k: pass_at_k(right.sum(1), right.shape[1], k)
    answers, truth = ballots(records)
    weights = vote_weights(strategy, values, temperature)
    return lambda k: maj_at_k(answers, truth, k, rng, weights=weights, subsets=SUBSETS)


def vote_weights(strategy: str, values: Floats, temperature: float) -> Floats | None:
    """What each sample's vote weighs [P, n], from its value; -inf weighs nothing, and 0 hardly
    anything: as in a run, it decides where no vote weighs more."""
    if strategy == "self_consistency":
        return None
    if strategy == "weighted_vote":
        weights = values
    elif strategy == "soft_best_of_n":
        top = values.max(1, keepdims=True)
        weights = np.exp((values - np.where(np.isfinite(top), top, 0.0)) / temperature)
    else:
        raise ValueError(f"{strategy!r} is no strategy over whole samples")
    return np.where(np.isfinite(values), np.maximum(weights, LEAST_WEIGHT), 0.0)


def ballots(records: Sequence[Record]) -> tuple[list[list[str | None]], list[str]]:
    """What each sample votes for and the right answer, for `maj_at_k`; answers that were graded
    right are one candidate, however they are written."""
    right = "the right answer"
    answers = [
        [right if s["correct"] else s["answer"] for s in record["samples"]] for record in records
    ]
    return answers, [right] * len(answers)


def _value(sample: Mapping[str, Any]) -> float:
    return -math.inf if sample["value"] is None else float(sample["value"])


def spent_of(records: Sequence[Record]) -> Spent:
    """What the problems of a run took."""
    return Spent(*(np.array([float(r[name]) for r in records]) for name in SPENT))


def share_of(spent: Spent, share: float, *, scorer: bool) -> Spent:
    """What a share of the samples takes."""
    return Spent(
        spent.decoded * share,
        spent.prefilled,
        spent.scored * share * scorer,
        spent.nodes * share,
        spent.seconds * share,
    )


# ----------------------------------------------------------------------------------------- measures


def accuracy(point: Point, seed: int = 0) -> Estimate:
    """With its bootstrap interval over problems."""
    return mean_interval(point.correct, np.random.default_rng(seed))


def difference(one: Floats, other: Floats, seed: int = 0) -> Estimate:
    """The mean of `one - other` [P] and its paired bootstrap interval. All differences of a page
    resample problems alike, since they start from one seed."""
    return mean_interval(one - other, np.random.default_rng(seed))


def per_doubling(points: Sequence[Point], seed: int = 0) -> Estimate | None:
    """Accuracy gained when the decoded tokens double: the slope of a straight line over log2 of the
    mean tokens, fitted by least squares, with its paired bootstrap interval.

    None where there are fewer than two different amounts.
    """
    x = np.array([math.log2(max(point.spent.decoded.mean(), 1e-9)) for point in points])
    x = x - x.mean() if len(x) else x
    if len(x) < 2 or not (x**2).sum() > 1e-12:
        return None
    slopes = np.stack([point.correct for point in points], 1) @ (x / (x**2).sum())
    return mean_interval(slopes, np.random.default_rng(seed))


class Flat(NamedTuple):
    """The first step to a larger size that does not pay."""

    start: int  # size from which
    end: int  # to which
    gain: Estimate


def stops_paying(points: Sequence[Point], seed: int = 0) -> Flat | None:
    """The first step from one size to the next whose paired interval includes 0 or lies below;
    None where every step pays."""
    for one, two in pairwise(points):
        gain = difference(two.correct, one.correct, seed)
        if gain.low <= ROUNDING:
            return Flat(one.size, two.size, gain)
    return None


def at_equal(
    point: Point, ladder: Sequence[Point], amount: Callable[[Spent], Floats]
) -> Floats | None:
    """What another strategy would have got out of as much as `point` spent: [P].

    `ladder` are its points in rising order; between two of them accuracy goes straight in the
    logarithm of the mean amount. None where the point spent less than the first or more than the
    last of them: nothing is extrapolated.
    """
    wanted = float(amount(point.spent).mean())
    spent = [float(amount(step.spent).mean()) for step in ladder]
    if not spent or not spent[0] <= wanted * (1 + 1e-9) or wanted > spent[-1] * (1 + 1e-9):
        return None
    after = next((i for i, value in enumerate(spent) if value >= wanted), len(spent) - 1)
    if after == 0 or spent[after] == wanted:
        return ladder[after].correct
    low, high = spent[after - 1], spent[after]
    part = (math.log(wanted) - math.log(low)) / (math.log(high) - math.log(low))
    return (1 - part) * ladder[after - 1].correct + part * ladder[after].correct


# ------------------------------------------------------------------------------- other aggregations


def recombined(
    records: Sequence[Record],
    *,
    calculator: bool,
    lm_weight: float = 0.0,
    aggregates: Sequence[str],
    votes: Sequence[str],
    task: Task = GSM8K,
    seed: int = 0,
) -> list[tuple[str, str, Estimate]]:
    """Accuracy of all samples of a run under other aggregates of the step scores and other votes:
    (aggregate, vote, accuracy). Nothing is generated, scored or read again."""
    found = []
    for aggregate in aggregates:
        for vote in votes:
            choose = partial(
                chosen_by, vote=vote, aggregate=aggregate, calculator=calculator,
                lm_weight=lm_weight, task=task,
            )  # fmt: skip
            right = [float(choose(record)["correct"]) for record in records]
            estimate = mean_interval(right, np.random.default_rng(seed))
            found.append((aggregate, vote, estimate))
    return found
