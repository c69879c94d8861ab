"""What a step scorer's scores are worth: calibration and over-optimisation, from records alone.

    python -m evals.reasoning scorer=embedded strategy=best_of_n n=64 limit=400 out=runs/best64
    python -m evals.calibration run=runs/best64

A step scorer says how likely a solution is to come out right from a step on. Each sampled solution
is one trial of every one of its steps, so no further rollouts are needed to tell whether that is
so. Over-optimisation is measured as by Gao et al. 2023 ("Scaling laws for reward model
overoptimization", arXiv:2210.10760): best-of-k moves KL = log k - (k - 1) / k nats away from the
language model; drawn are what the scorer thinks of the solution it chose and how often that is
right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evals.records import check_format, load_run, write_atomically
from evals.report import Cell, Section, Table, markdown, print_table, write_report
from evals.scaling.curves import samples_of
from evals.scaling.rescore import revalued
from evals.stats import (
    Estimate,
    Floats,
    best_of_k,
    check_seed,
    mean_interval,
    pass_at_k,
    ratio_interval,
)
from mbrl_core.viewer.charts import Curve, LineChart
from reasoning.tasks import Task, find_task
from reasoning.world import AGGREGATES, Aggregate

Record = dict[str, Any]
BINS = 10
ROUNDING = 1e-4  # of values, which planners keep in single precision
METHOD = (
    "Intervals are 95%, by a bootstrap over problems. The expected calibration error is the mean "
    "distance between score and share over the bins, weighted by their steps; the Brier score is "
    "the mean squared distance between a step's score and what came of it, beside that of always "
    "saying the share of right ones."
)


class Steps(NamedTuple):
    """Scored steps, each with what became of a solution that took it."""

    problem: np.ndarray  # int64 [S]
    score: Floats  # [S]
    right: Floats  # [S] of 0 and 1


class Chosen(NamedTuple):
    """What best-of-k by one measure comes to, per problem: [P] each."""

    k: int
    claimed: Floats  # the scorer's own chance that the chosen solution is right
    right: Floats  # whether it is

    @property
    def nats(self) -> float:
        """How far best-of-k is from the language model, as a Kullback-Leibler divergence."""
        return math.log(self.k) - (self.k - 1) / self.k


def calibration(
    *,
    run: str | Path,
    out: str | Path | None = None,
    aggregate: Aggregate | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Write calibration.html and calibration.md; returns the page's path.

    Args:
        run: a folder of `evals.reasoning`, of whole samples that a step scorer has read.
        out: where the page goes; beside the records where None.
        aggregate: how step scores make a solution's score: product, min, mean or last; by default
            as they did in the run.
        seed: of the bootstrap.
        say: is told where the page lies.

    Raises:
        ValueError: a seed below 0; or the records hold no step scores, or unequal numbers of
            samples, or do not tell by which aggregate they were valued.
        FileNotFoundError: `run` holds no run.
    """
    check_seed(seed)
    arguments, records = load_run(run)
    check_format(run, (s for r in records for s in r.get("samples", [{}])), "tokens")
    if not scores_steps(records):
        raise ValueError(f"{run} holds no step scores: evaluate with a scorer that reads steps")
    if not any(sample["scores"] for record in records for sample in record["samples"]):
        raise ValueError(
            f"{run} holds no scored solution: "
            + ("all were cut, give more max_tokens" if records else "no problem is answered yet")
        )
    task = find_task(arguments.get("task", "generated"))
    chosen_by = aggregate or aggregate_of(arguments, records, task)
    sections = [
        _reliability(records, seed),
        _ranking(records, task, chosen_by, seed),
        _optimisation(records, task, chosen_by, seed),
    ]
    folder = Path(out or run)
    subtitle = f"{run}: {len(records)} problems, {samples_of(records)} samples each"
    path = write_report(folder / "calibration.html", "A scorer's scores", sections, subtitle)
    tables = [table for section in sections for table in section.tables]
    text = [f"{section.text}\n" for section in sections]
    write_atomically(folder / "calibration.md", "\n".join([*text, *map(markdown, tables)]))
    for table in tables:
        print_table(table)
    say(f"page: {path}")
    return path


def scores_steps(records: Sequence[Record]) -> bool:
    """Whether the solutions that were not cut have a score for each of their steps, and not one for
    all of them, as a scorer of finished solutions gives."""
    samples = [s for r in records for s in r["samples"] if s["value"] is not None]
    once = all(len(sample["scores"]) == 1 for sample in samples)
    long = any(len(sample["text"].strip().splitlines()) > 1 for sample in samples)
    return all(sample["scores"] for sample in samples) and not (once and long)


def aggregate_of(arguments: Mapping[str, Any], records: Sequence[Record], task: Task) -> str:
    """The aggregate by which a run valued its solutions, told by the values on record; the first of
    those that agree with all.

    Raises ValueError where none does.
    """
    how: dict[str, Any] = {
        "calculator": arguments.get("calculator", False),
        "lm_weight": arguments.get("lm_weight", 0.0),
        "task": task,
    }
    valued = [(r, s) for r in records for s in r["samples"] if s["value"] is not None]
    for name in AGGREGATES:
        if all(
            math.isclose(
                sample["value"],
                revalued(sample, name, question=record["question"], **how),
                rel_tol=ROUNDING,
                abs_tol=ROUNDING,
            )
            for record, sample in valued
        ):
            return name
    raise ValueError(
        f"the values on record are by none of {', '.join(AGGREGATES)}: set aggregate to one of them"
    )


# -------------------------------------------------------------------------------------- calibration


def steps_of(records: Sequence[Record], *, last: bool = False) -> Steps:
    """All scored steps of the samples, or each sample's last one."""
    rows = [
        (number, score, float(sample["correct"]))
        for number, record in enumerate(records)
        for sample in record["samples"]
        for score in sample["scores"][-1 if last else 0 :]
    ]
    columns = list(zip(*rows, strict=True))
    return Steps(np.array(columns[0]), np.array(columns[1], float), np.array(columns[2], float))


def calibration_error(steps: Steps) -> float:
    """The expected calibration error over `BINS` bins of equal width (Naeini et al. 2015)."""
    bins = _bins(steps.score)
    gaps = np.bincount(bins, weights=steps.score - steps.right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(bins))


def _bins(scores: Floats) -> np.ndarray:
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def _reliability(records: Sequence[Record], seed: int) -> Section:
    curves: list[Curve] = []
    rows: list[list[Cell]] = []
    summary: list[list[Cell]] = []
    for name, last in (("all steps", False), ("last steps", True)):
        steps = steps_of(records, last=last)
        found = _shares(steps, len(records), seed)
        curves.append(Curve(name, [p for p, _, _ in found], *zip(*(e for *_, e in found),
                      strict=True)))  # fmt: skip
        rows += [[name, score, number, share] for score, number, share in found]
        base = steps.right.mean()
        brier = float(((steps.score - steps.right) ** 2).mean())
        summary.append([name, calibration_error(steps), brier, float(base * (1 - base))])
    curves.append(Curve("calibrated", *[[0.0, 1.0]] * 4))
    chart = LineChart(
        curves, "score of a step", "solutions that come out right", log_x=False, percent=True
    )
    errors = Table(["", "calibration error", "Brier score", "of the base rate"], summary)
    bins = Table(["", "mean score", "steps", "solutions right"], rows, "Steps by their score.")
    return Section("Calibration", METHOD, figures=[chart], tables=[errors, bins])


def _shares(steps: Steps, problems: int, seed: int) -> list[tuple[float, int, Estimate]]:
    """Of each bin that is not empty the mean score, how many steps, and the share that is right."""
    bins = _bins(steps.score)
    found = []
    for number in np.unique(bins):
        inside = bins == number
        where = steps.problem[inside]
        right = np.bincount(where, weights=steps.right[inside], minlength=problems)
        all_ = np.bincount(where, minlength=problems)
        share = ratio_interval(right, all_, _rng(seed))
        found.append((float(steps.score[inside].mean()), int(inside.sum()), share))
    return found


# ------------------------------------------------------------------------------------------ ranking


def ordered(values: Floats, right: Floats) -> float | None:
    """The chance that a right one of some solutions is valued above a wrong one, ties being halves
    (the area under the ROC curve); None where all are right or none is."""
    good, bad = values[right > 0], values[right == 0]
    if not len(good) or not len(bad):
        return None
    above = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    return float(above)


def _ranking(records: Sequence[Record], task: Task, aggregate: str, seed: int) -> Section:
    """How well each measure tells right from wrong solutions of one problem."""
    right = _right(records)
    rows: list[list[Cell]] = []
    measures = [Measure(name) for name in AGGREGATES]
    for measure in (*measures, Measure(aggregate, HALF), LIKELIHOOD):
        row: list[Cell] = [measure.name]
        for calculator in (False, True):
            values = values_of(records, task, measure, calculator=calculator)
            areas = [ordered(v, r) for v, r in zip(values, right, strict=True)]
            known = [area for area in areas if area is not None]
            row.append(mean_interval(known, _rng(seed)) if known else None)
        rows.append(row)
    text = (
        "The chance that a right solution is valued above a wrong one of the same problem, over "
        "the problems that have both: 0.5 is luck. With the calculator a solution that it refutes "
        "is worth 0. And the solution's probability: "
        "score^0.5 * probability^0.5 (lm_weight=0.5)."
    )
    columns = ["measure", "alone", "with the calculator"]
    return Section("Telling right from wrong", text, tables=[Table(columns, rows)])


class Measure(NamedTuple):
    """What a solution may be valued by."""

    aggregate: str | None = "product"  # of its step scores; None: its tokens' mean probability
    lm_weight: float = 0.0  # of the whole solution's probability beside them

    @property
    def name(self) -> str:
        """As the tables have it."""
        if self.aggregate is None:
            return "mean token probability"
        scores = f"step scores, {self.aggregate}"
        return f"{scores}, and the solution's probability" if self.lm_weight else scores

    @property
    def short(self) -> str:
        """As charts have it, beside a curve."""
        if self.aggregate is None:
            return "likelihood"
        return "both" if self.lm_weight else "scores"


HALF = 0.5  # lm_weight at which a scorer's word and the model's own count alike
LIKELIHOOD = Measure(None)


def values_of(
    records: Sequence[Record], task: Task, measure: Measure, *, calculator: bool
) -> Floats:
    """What each sample is worth [P, n]; -inf where it was cut, 0 where the calculator looks and
    refutes it."""
    return np.array(
        [
            [
                revalued(
                    sample,
                    measure.aggregate,
                    calculator=calculator,
                    lm_weight=measure.lm_weight,
                    question=record["question"],
                    task=task,
                )
                for sample in record["samples"]
            ]
            for record in records
        ]
    )


def _right(records: Sequence[Record]) -> Floats:
    return np.array([[float(s["correct"]) for s in record["samples"]] for record in records])


# -------------------------------------------------------------------------------- over-optimisation


def chosen(records: Sequence[Record], values: Floats) -> list[Chosen]:
    """Best-of-k by `values` [P, n] for k = 1, 2, 4, ... n: exact expectations over the k-subsets.

    A solution that was cut claims nothing."""
    right, n = _right(records), values.shape[1]
    claims = np.array(
        [[s["scores"][-1] if s["scores"] else 0.0 for s in r["samples"]] for r in records]
    )
    sizes = sorted({2**i for i in range(n.bit_length())} | {n})
    return [
        Chosen(k, best_of_k(values, claims, k), best_of_k(values, right, k))
        for k in sizes
        if k <= n
    ]


def _optimisation(records: Sequence[Record], task: Task, aggregate: str, seed: int) -> Section:
    measures = [Measure(aggregate), Measure(aggregate, HALF), LIKELIHOOD]
    curves, columns, texts = [], ["k", "KL in nats"], []
    cells: list[list[Cell]] = []
    for measure, calculator in product(measures, (False, True)):
        veto = ", calculator" if calculator else ""
        name = measure.name + veto
        points = chosen(records, values_of(records, task, measure, calculator=calculator))
        if not cells:
            cells = [[point.k, point.nats] for point in points]
            curves.append(_curve("claimed by the scorer", points, lambda p: p.claimed, seed))
            columns.append("claimed")
            _extend(cells, [mean_interval(p.claimed, _rng(seed)) for p in points])
            texts.append(_overoptimised(points))
        curves.append(_curve(measure.short + veto, points, lambda point: point.right, seed))
        columns.append(measure.short + veto)
        _extend(cells, [mean_interval(p.right, _rng(seed)) for p in points])
        texts.append(_peak(name, points, seed))
    right = _right(records)
    ceiling = [pass_at_k(right.sum(1), right.shape[1], int(str(row[0]))) for row in cells]
    _extend(cells, [mean_interval(values, _rng(seed)) for values in ceiling])
    columns.append("some of k")
    chart = LineChart(
        curves, "KL of best-of-k from the model, nats", "accuracy", log_x=False, percent=True
    )
    table = Table(columns, cells, "Share of problems, by the k solutions that are chosen from.")
    texts.append(
        "Scores are the step scores, likelihood is the mean token probability, both are the step "
        "scores and the solution's probability."
    )
    return Section("Over-optimisation", "\n\n".join(texts), figures=[chart], tables=[table])


def _overoptimised(points: Sequence[Chosen]) -> str:
    """The rate of over-optimisation: what part of the gain that the scorer sees is none."""
    first, last = points[0], points[-1]
    seen = float(last.claimed.mean() - first.claimed.mean())
    real = float(last.right.mean() - first.right.mean())
    share = f": {1 - real / seen:.0%} of the gain that it sees is none" if seen > 0 else ""
    return (
        f"From 1 to {last.k} samples the scorer's own chance that the chosen solution is right "
        f"goes from {first.claimed.mean():.1%} to {last.claimed.mean():.1%}, the share that is "
        f"right from {first.right.mean():.1%} to {last.right.mean():.1%}{share}."
    )


def _peak(name: str, points: Sequence[Chosen], seed: int) -> str:
    best = max(points, key=lambda point: point.right.mean())
    last = points[-1]
    if best is last:
        return f"By {name}, accuracy is highest at the most samples, {last.right.mean():.1%}."
    lost = mean_interval(100 * (last.right - best.right), _rng(seed))
    return (
        f"By {name}, accuracy is highest at {best.k} samples, {best.right.mean():.1%}; at {last.k} "
        f"it is {lost.mean:+.1f} points [{lost.low:+.1f}, {lost.high:+.1f}] of that."
    )


def _curve(name: str, points: Sequence[Chosen], of: Callable[[Chosen], Floats], seed: int) -> Curve:
    estimates = [mean_interval(of(point), _rng(seed)) for point in points]
    return Curve(name, [point.nats for point in points], *zip(*estimates, strict=True))


def _extend(rows: list[list[Cell]], column: Sequence[Cell]) -> None:
    for row, cell in zip(rows, column, strict=True):
        row.append(cell)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("calibration", calibration, __doc__ or ""))
