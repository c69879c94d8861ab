"""Compute-optimal choice out of records alone (Snell et al. 2024, arXiv:2408.03314, section 3.2).

Questions are put into bins by how hard they look, and in each bin the strategy that is best at a
size on half of the problems answers the other half. How hard a question is, is predicted from a few
samples without its answer, which costs these samples; or, as a mark that nobody can reach, read off
the right answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evals.scaling.cells import CHOOSING, SAMPLED, TREES, Cell, Sweep, score_temperature
from evals.scaling.curves import (
    UNSCORED,
    Point,
    Record,
    Spent,
    chance_of,
    searched,
    share_of,
    spent_of,
)
from evals.stats import Floats
from reasoning.difficulty import By, Fitted, choice_record, ease

PREDICTED, ORACLE = CHOOSING, "compute_optimal_oracle"
TABLE = "compute_optimal.json"
ORDERS = 10  # random orders of the samples, of which the first are the probe
APART = ("rap", "rap_operations", "receding")
"""What no table holds: another world, a strategy in a strategy."""


class Probing(NamedTuple):
    """How difficulty is estimated."""

    probe: int = 4  # solutions sampled of each question
    bins: int = 5
    by: By = "score"


class Optimal(NamedTuple):
    """Compute-optimal choice at one size."""

    size: int
    predicted: Point  # by what the probe looks like, its cost included
    oracle: Point  # by the share of right samples, at no cost
    fixed: list[Point]  # each strategy for all questions, without a probe
    edges: list[float]  # between the bins, fitted on all problems
    chosen: list[str]  # the strategy of each bin, fitted on all problems


class Option(NamedTuple):
    """A strategy at one size, in one order of the samples: [P] each."""

    point: Point
    spent: Spent  # with the probe


def probing_of(options: Mapping[str, Any]) -> Probing | None:
    """How the difficulty is estimated in a sweep; None where it chooses nothing by it."""
    if CHOOSING not in options["strategies"]:
        return None
    return Probing(**options.get("difficulty", {}))


def check_difficulty(probing: Probing, strategies: Sequence[str], sizes: Sequence[int]) -> None:
    """Raise ValueError where a sweep would end without a choice by difficulty: a probe, bins or an
    estimate that cannot be, no size that holds the probe, or no strategy to choose."""
    if CHOOSING not in strategies:
        return
    _check_probing(probing)
    if sizes[-1] < probing.probe:
        raise ValueError(
            f"{CHOOSING} needs a budget of at least its probe, difficulty.probe={probing.probe}, "
            f"and the largest is {sizes[-1]}"
        )
    if not set(strategies) & ({*SAMPLED, *TREES} - set(APART)):
        raise ValueError(f"{CHOOSING} chooses among the other strategies, of which it needs one")


def _check_probing(probing: Probing) -> None:
    if probing.probe < 1 or probing.bins < 1:
        raise ValueError(f"difficulty needs a probe and bins of at least 1, not {probing}")
    ease((), (), probing.by)


def optimise(
    sweep: Sweep, records: Mapping[str, Sequence[Record]], samples: list[Record], probing: Probing
) -> list[Optimal]:
    """The choice at each size that holds a probe and one strategy at least.

    Candidates are the strategies over whole samples and the finished tree searches, those limited
    by tokens where there are any. Everything is a mean over `ORDERS` random orders of each
    problem's samples: the first `probe` are the probe, the first k what a strategy of k samples
    answers with, so that its samples are the probe's and further ones, as in a run.

    Raises ValueError where there is no probe or no bin.
    """
    _check_probing(probing)
    drawn = [name for name in SAMPLED if name in sweep.options["strategies"]]
    number = len(samples[0]["samples"])
    found = []
    for size in sweep.options["budgets"]:
        trees = _trees(sweep, records, size)
        if probing.probe <= size <= number and (drawn or trees):
            found.append(_at_size(size, drawn, trees, samples, probing, sweep.options))
    return found


def _trees(sweep: Sweep, records: Mapping[str, Sequence[Record]], size: int) -> list[Point]:
    """The tree searches that are finished at a size."""
    cells = [cell for cell in sweep.cells if _offers(cell, size) and cell.name in records]
    by = {cell.by for cell in cells}
    return [
        searched(cell.strategy, cell.by, cell.limit, cell.size, records[cell.name])
        for cell in cells
        if cell.by == ("tokens" if "tokens" in by else "nodes")
    ]


def _offers(cell: Cell, size: int) -> bool:
    return cell.size == size and cell.by != "samples" and cell.strategy not in APART


def _at_size(
    size: int,
    drawn: Sequence[str],
    trees: Sequence[Point],
    samples: list[Record],
    probing: Probing,
    given: Mapping[str, Any],
) -> Optimal:
    rng, soft = np.random.default_rng(given["seed"]), score_temperature(given)
    orders = [_reordered(samples, rng) for _ in range(ORDERS)]
    tried = [_options(size, drawn, trees, samples, order, probing, soft, rng) for order in orders]
    looks = [_looks(order, probing) for order in orders]
    truth = np.array([np.mean([s["correct"] for s in record["samples"]]) for record in samples])
    predicted = [
        _crossed(PREDICTED, size, options, look, probing.bins, charged=True)
        for options, look in zip(tried, looks, strict=True)
    ]
    oracle = [
        _crossed(ORACLE, size, options, truth, probing.bins, charged=False) for options in tried
    ]
    fixed = [_mean_of([options[i].point for options in tried]) for i in range(len(tried[0]))]
    pooled = [_joined([options[i] for options in tried]) for i in range(len(tried[0]))]
    edges, choice = _fitted(pooled, np.concatenate(looks), probing.bins)
    names = [pooled[i].point.strategy for i in choice]
    return Optimal(size, _mean_of(predicted), _mean_of(oracle), fixed, edges.tolist(), names)


def _reordered(samples: Sequence[Record], rng: np.random.Generator) -> list[Record]:
    return [
        {
            **record,
            "samples": [record["samples"][i] for i in rng.permutation(len(record["samples"]))],
        }
        for record in samples
    ]


def _looks(order: Sequence[Record], probing: Probing) -> Floats:
    """How easy each problem looks by its first samples: [P]."""
    found = []
    for record in order:
        probe = record["samples"][: probing.probe]
        values = [-np.inf if sample["value"] is None else sample["value"] for sample in probe]
        found.append(ease(values, [sample["answer"] for sample in probe], probing.by))
    return np.array(found)


def _options(
    size: int,
    drawn: Sequence[str],
    trees: Sequence[Point],
    samples: list[Record],
    order: list[Record],
    probing: Probing,
    soft: float,
    rng: np.random.Generator,
) -> list[Option]:
    """What each strategy answers, and what it spends with and without the probe; `soft` is the
    temperature of soft_best_of_n."""
    number = len(samples[0]["samples"])
    whole = spent_of(samples)
    first = [{**record, "samples": record["samples"][:size]} for record in order]
    share = np.array([np.mean([s["correct"] for s in record["samples"]]) for record in first])
    probe = share_of(whole, probing.probe / number, scorer=probing.by == "score")
    options = []
    for name in drawn:
        spent = share_of(whole, size / number, scorer=name not in UNSCORED)
        correct = chance_of(name, first, soft, rng)(size)
        point = Point(name, "samples", size, size, correct, (share > 0).astype(float), share, spent)
        scored = np.maximum(spent.scored, probe.scored)
        options.append(Option(point, spent._replace(scored=scored)))
    for point in trees:
        total = Spent(*(one + other for one, other in zip(point.spent, probe, strict=True)))
        options.append(Option(point, total))
    return options


def _crossed(
    name: str, size: int, options: Sequence[Option], look: Floats, bins: int, *, charged: bool
) -> Point:
    """The choice fitted on every other problem and used on the rest, both ways round."""
    total = len(look)
    picked = np.zeros(total, dtype=int)
    for fold in (0, 1):
        rest = np.arange(total) % 2 == fold
        fit = ~rest if total > 1 else np.ones_like(rest)
        edges, choice = _fitted([_only(option, fit) for option in options], look[fit], bins)
        picked[rest] = choice[np.searchsorted(edges, look[rest], "right")]

    def pick(rows: Sequence[Floats]) -> Floats:
        return np.stack(rows)[picked, np.arange(total)]

    points = [option.point for option in options]
    spent = [option.spent if charged else option.point.spent for option in options]
    return Point(
        *(name, "samples", size, size),
        correct=pick([point.correct for point in points]),
        any=pick([point.any for point in points]),
        mean=pick([point.mean for point in points]),
        spent=Spent(*(pick(amounts) for amounts in zip(*spent, strict=True))),
    )


def _fitted(options: Sequence[Option], look: Floats, bins: int) -> tuple[Floats, np.ndarray]:
    """Edges between bins of equally many problems, and for each bin the strategy that is right most
    often; of equally good ones the one that decodes fewest tokens, of these the first. An empty bin
    gets what is best for all."""
    edges = np.unique(np.quantile(look, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, look, "right")
    choice = []
    for bin in range(len(edges) + 1):
        inside = place == bin
        inside = inside if inside.any() else np.ones_like(inside)
        scores = [
            (round(float(option.point.correct[inside].mean()), 9),
             -float(option.spent.decoded[inside].mean()))
            for option in options
        ]  # fmt: skip
        choice.append(scores.index(max(scores)))
    return edges, np.array(choice)


def _only(option: Option, rows: np.ndarray) -> Option:
    point, spent = option
    kept = Spent(*(amount[rows] for amount in spent))
    return Option(point._replace(correct=point.correct[rows]), kept)


def _joined(options: Sequence[Option]) -> Option:
    """The same strategy in several orders, end to end."""
    point = options[0].point
    correct = np.concatenate([option.point.correct for option in options])
    spent = Spent(*map(np.concatenate, zip(*(option.spent for option in options), strict=True)))
    return Option(point._replace(correct=correct), spent)


def _mean_of(points: Sequence[Point]) -> Point:
    """The same point in several orders, averaged problem by problem."""
    amounts = zip(*(point.spent for point in points), strict=True)
    return points[0]._replace(
        correct=np.mean([point.correct for point in points], 0),
        any=np.mean([point.any for point in points], 0),
        mean=np.mean([point.mean for point in points], 0),
        spent=Spent(*(np.mean(amount, 0) for amount in amounts)),
    )


def table_of(sweep: Sweep, optimal: Sequence[Optimal]) -> dict[str, Any]:
    """What `strategy=compute_optimal` needs to answer other questions: fitted on all problems."""
    probing = probing_of(sweep.options)
    assert probing is not None
    temperature = sweep.options["temperature"]
    return {
        "fitted_on": {
            name: sweep.options[name] for name in ("task", "split", "limit", *Fitted._fields)
        },
        "probe": {"samples": probing.probe, "temperature": temperature, "by": probing.by},
        "sizes": {
            str(one.size): {
                "edges": one.edges,
                "choices": [_entry(sweep, name, one.size) for name in one.chosen],
            }
            for one in optimal
        },
    }


def _entry(sweep: Sweep, name: str, size: int) -> dict[str, Any]:
    """A strategy at a size as `reasoning.difficulty.compute_optimal` reads it."""
    temperature = sweep.options["temperature"]
    settings = sweep.options.get("options", {}).get(name, {})
    if name in SAMPLED:
        return choice_record(name, {"n": size, "temperature": temperature, **settings}, {})
    cells = [cell for cell in sweep.cells if cell.strategy == name and cell.size == size]
    cell = max(cells, key=lambda cell: cell.by == "tokens")
    given = dict(option.split("=", 1) for option in cell.options)
    options = {
        key.removeprefix("strategy."): int(value) if value.isdigit() else value
        for key, value in given.items()
        if key.startswith("strategy.")
    }
    limits = {
        key.removeprefix("budget."): int(value)
        for key, value in given.items()
        if key.startswith("budget.")
    }
    options |= {**settings, "temperature": temperature}
    return choice_record(given["strategy"], options, limits)


def said_of(probing: Probing) -> str:
    """How the choice is made, for the page."""
    seen = "mean score" if probing.by == "score" else "largest share of equal answers"
    return (
        f"Each question is answered by the strategy that is best, at that size, for questions of "
        f"its difficulty (Snell et al. 2024): {probing.bins} bins with equally many problems. "
        f"Predicted: by the {seen} of {probing.probe} sampled solutions, which are charged; a "
        "strategy over whole samples goes on from them, a search is charged them on top. Oracle: "
        "by the share of right ones among all samples, which needs the answer and is a mark, not a "
        "method; the estimate is charged nothing. Bins and choices are fitted on one half of the "
        "problems and used on the other, both ways round; all is a mean over "
        f"{ORDERS} orders of the samples. The best fixed strategy is the best in hindsight, on the "
        "very problems that it is shown on."
    )
