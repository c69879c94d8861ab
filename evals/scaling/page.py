"""The page of a sweep, its CSV and its Markdown tables, from the records alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from evals.records import check_writable, write_atomically
from evals.report import Cell as Shown
from evals.report import Section, Table, document, print_table, write_report
from evals.scaling.cells import (
    SAMPLED,
    TREES,
    Sweep,
    finished,
    load_sweep,
    score_temperature,
)
from evals.scaling.curves import (
    UNSCORED,
    Parameters,
    Point,
    Record,
    Spent,
    accuracy,
    at_equal,
    common,
    difference,
    per_doubling,
    recombined,
    sampled,
    samples_of,
    searched,
    stops_paying,
)
from evals.scaling.optimal import (
    ORACLE,
    PREDICTED,
    TABLE,
    Optimal,
    optimise,
    probing_of,
    said_of,
    table_of,
)
from evals.scaling.rescore import VOTES
from evals.stats import Estimate, Floats
from mbrl_core.viewer.charts import Baseline, Curve, LineChart
from reasoning.tasks import find_task
from reasoning.world import AGGREGATES

Say = Callable[[str], None]
NAMES = {
    "greedy": "greedy",
    "best_of_n": "best-of-N",
    "self_consistency": "self-consistency",
    "weighted_vote": "weighted vote",
    "soft_best_of_n": "soft best-of-N",
    "pass": "any of N",
    "tree_of_thoughts": "BFS (ToT)",
    "dvts": "DVTS",
    "tree_of_thoughts_dfs": "DFS (ToT)",
    "particle_filter": "particle filter",
    "mcts": "MCTS (PUCT)",
    "mcts_uct": "MCTS (UCT)",
    "mcts_gumbel": "MCTS (Gumbel)",
    "mcts_rollouts": "MCTS (UCT, rollouts)",
    "lookahead": "lookahead",
    "receding": "receding MCTS",
    "rap": "RAP",
    "rap_operations": "RAP (operations)",
    PREDICTED: "compute-optimal (predicted)",
    ORACLE: "compute-optimal (oracle)",
}
MARK = "best_of_n"  # what every chart of a family shows, too
MOST_CURVES = 6  # of one chart
FAMILIES = {
    "Whole samples": SAMPLED,
    "Beams and filters": (
        "tree_of_thoughts", "dvts", "tree_of_thoughts_dfs", "lookahead", "particle_filter"
    ),
    "Tree search with backup": (
        "mcts", "mcts_uct", "mcts_gumbel", "mcts_rollouts", "receding", "rap", "rap_operations"
    ),
    "Chosen by difficulty": (PREDICTED, ORACLE),
}  # fmt: skip
BREADTH_FIRST = "tree_of_thoughts"
BY_SCORE = ("best_of_n", "weighted_vote")
RIVALS = tuple(name for name in UNSCORED if name != "pass")  # of these: no score chooses
METHOD = (
    "Intervals are 95%, by a bootstrap over problems; differences are paired by problem. Right is "
    "what the task's own grader accepts. Best-of-k and any-of-k are exact expectations over "
    "the k-subsets of the largest run's samples (Chen et al. 2021), votes are means over 200 "
    "random subsets, exact for one sample and for all, where answers with equal votes share the "
    "win; the runs themselves give ties to the earlier answer. A part of the samples is charged "
    "its part of the tokens and of the time, and the whole prompt; self-consistency is charged no "
    "scorer."
)
EXPLORED = (
    "These are many comparisons on the same problems: of twenty without any difference one shows "
    "an interval beside 0."
)


class Axis(NamedTuple):
    """A measure of compute."""

    label: str
    of: Callable[[Spent, Parameters], Floats | None]
    by: str = "tokens"  # which tree searches are drawn against it


AXES = (
    Axis("decoded tokens per problem", lambda spent, _: spent.decoded),
    Axis("decoded, prefilled and scored tokens per problem", lambda spent, _: spent.uncached),
    Axis("FLOPs per problem, scorer included", lambda spent, size: spent.flops(size)),
    Axis("seconds per problem, of the whole group's batch", lambda spent, _: spent.seconds),
    Axis("steps or solutions appended per problem", lambda spent, _: spent.nodes, "nodes"),
)


class Results(NamedTuple):
    """All points of a sweep, on the same problems."""

    sweep: Sweep
    problems: int
    failed: int  # left out: a request failed in some cell
    unfinished: int  # cells
    points: list[Point]
    ladder: list[Point]  # best-of-k at every k
    samples: list[Record]  # the largest run of whole samples; empty where it is not finished
    optimal: list[Optimal]  # compute-optimal choice at each size, where it was asked for

    def of(self, strategy: str, by: str | None = None) -> list[Point]:
        """The points of a strategy, small sizes first."""
        return [p for p in self.points if p.strategy == strategy and by in (None, p.by)]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Strategies and what limits them, in the order of the page."""
        return list(dict.fromkeys((point.strategy, point.by) for point in self.points))


def write_page(folder: str | Path, say: Say = print, out: str | Path | None = None) -> Path:
    """Write report.html, curves.csv and tables.md into a sweep's folder, or into `out`; returns the
    page's path.

    Only finished cells are shown. Raises FileNotFoundError where `folder` holds no sweep and
    ValueError where no cell is finished or no problem is answered in all that are.
    """
    results = read_results(Path(folder))
    folder = Path(out or folder)
    check_writable(folder / "report.html")
    sections = _sections(results)
    for section in sections[:4]:
        say("")
        say(section.text)
        for table in section.tables:
            print_table(table)
    title = f"{results.sweep.options['model']} on {results.sweep.options['task']}"
    write_atomically(folder / "curves.csv", curves_csv(results))
    if results.optimal:
        fitted = json.dumps(table_of(results.sweep, results.optimal), indent=2)
        write_atomically(folder / TABLE, fitted + "\n")
    write_atomically(folder / "tables.md", document([f"# {title}"], sections))
    page = write_report(
        folder / "report.html", "Accuracy against test-time compute", sections, title
    )
    say(f"\nwrote {page}, curves.csv and tables.md")
    return page


def read_results(folder: Path) -> Results:
    """The points of a sweep. See `write_page` for the errors."""
    sweep = load_sweep(folder)
    cells = finished(folder, sweep.cells)
    ids, failed = common(cells)
    if not ids:
        raise ValueError(f"{folder} has no problem that was answered in every finished cell yet")
    records = {name: _in_order(found, ids) for name, found in cells.items()}
    points: list[Point] = []
    for cell in sweep.cells:
        if cell.name in records and cell.strategy != "samples":
            shape = cell.strategy, cell.by, cell.limit, cell.size
            points.append(searched(*shape, records[cell.name]))
    samples = next(
        (records[c.name] for c in sweep.cells if c.name in records and c.strategy == "samples"), []
    )
    sizes, seed = sweep.options["budgets"], sweep.options["seed"]
    ladder: list[Point] = []
    if samples:
        drawn = [name for name in (*SAMPLED, "pass") if name in sweep.options["strategies"]]
        for name in (*drawn, "pass"):
            soft = score_temperature(sweep.options)
            points += sampled(name, sizes, samples, temperature=soft, seed=seed)
        ladder = sampled("best_of_n", range(1, samples_of(samples) + 1), samples)
    probing = probing_of(sweep.options)
    optimal = optimise(sweep, records, samples, probing) if probing and samples else []
    for size in optimal:
        points += [size.predicted, size.oracle]
    points.sort(key=lambda point: list(NAMES).index(point.strategy))
    unfinished = len(sweep.cells) - len(cells)
    return Results(sweep, len(ids), failed, unfinished, points, ladder, samples, optimal)


def _in_order(records: Sequence[Record], ids: Sequence[str]) -> list[Record]:
    by_id = {record["id"]: record for record in records}
    return [by_id[id] for id in ids]


# ------------------------------------------------------------------------------------------- charts


def _sections(results: Results) -> list[Section]:
    return [
        _summary(results),
        _against_samples(results),
        _two_searches(results),
        *([_optimal(results)] if results.optimal else []),
        _growth(results),
        _compute(results),
        _every_point(results),
        _choosing(results),
        _made(results),
    ]


def _compute(results: Results) -> Section:
    """A chart per measure of compute, or where curves are many one for each family of them."""
    charts = []
    for axis in AXES:
        curves = _curves(results, axis)
        for caption, chosen in _families(list(curves)).items():
            of_family = [curves[name] for name in chosen]
            chart = LineChart(of_family, axis.label, "accuracy", _greedy(results), percent=True)
            charts.append(chart._replace(caption=caption))
    text = (
        "Tree searches are those limited by tokens, on the last axis those limited by nodes. FLOPs "
        "are 2 x parameters x tokens computed, of model and scorer."
    )
    return Section("Accuracy against compute", text, figures=charts)


def _curves(results: Results, axis: Axis) -> dict[str, Curve]:
    """Accuracy against a measure of compute, by strategy, where that is known."""
    curves = {}
    for strategy, by in results.lines:
        if strategy in ("greedy", "pass") or by not in ("samples", axis.by):
            continue
        if axis.by == "nodes" and by == "samples":
            continue
        points = results.of(strategy, by)
        spent = [axis.of(point.spent, results.sweep.parameters) for point in points]
        known = [(p, s) for p, s in zip(points, spent, strict=True) if s is not None]
        if known:
            x = [float(amount.mean()) for _, amount in known]
            curves[strategy] = _curve(strategy, x, [point for point, _ in known])
    return curves


def _families(strategies: Sequence[str]) -> dict[str, list[str]]:
    """The curves of each chart by its caption: all in one where they are few, else a family each,
    with best-of-N in every one to compare with."""
    if not strategies:
        return {}
    if len(strategies) <= MOST_CURVES:
        return {"": list(strategies)}
    found = {}
    for caption, members in FAMILIES.items():
        chosen = [name for name in strategies if name in members]
        if chosen:
            mark = [MARK] if MARK in strategies and MARK not in chosen else []
            found[caption] = mark + chosen
    return found


def _curve(strategy: str, x: Sequence[float], points: Sequence[Point]) -> Curve:
    return Curve(NAMES[strategy], x, *zip(*(accuracy(p) for p in points), strict=True))


def _greedy(results: Results) -> list[Baseline]:
    return [Baseline("greedy", float(p.correct.mean())) for p in results.of("greedy")]


# ----------------------------------------------------------------------------------------- sections


def _summary(results: Results) -> Section:
    """The verdicts in words."""
    left_out = f" {results.failed} more failed in some cell and are left out." * bool(
        results.failed
    )
    unfinished = (
        f" {results.unfinished} of {len(results.sweep.cells)} cells are not finished yet."
        * bool(results.unfinished)
    )
    said = [f"{results.problems} problems.{left_out}{unfinished}", *_choosing_said(results)]
    said += [_cut_said(results)]
    said += [_trees_said(results)] if results.ladder else []
    said += [_ends_said(results)]
    return Section("In short", "\n\n".join(filter(None, said)))


def _cut_said(results: Results) -> str:
    """How many of the whole samples were cut short."""
    finishes = [sample["finish"] for record in results.samples for sample in record["samples"]]
    cut = finishes.count("cut")
    if not cut:
        return ""
    limit = results.sweep.options["max_tokens"]
    return (
        f"{_percent(cut / len(finishes))} of the sampled solutions were cut short, by "
        f"max_tokens={limit} or the model's context, and count as wrong."
    )


def _choosing_said(results: Results) -> list[str]:
    """Best-of-N and the weighted vote at their largest size against choosing without a score."""
    said = []
    for name, rival, pairs in _contests(results):
        one, other = pairs[-1]
        said.append(
            f"{_capital(NAMES[name])} of {one.size} against {NAMES[rival]}"
            f"{f' of {other.size}' * (rival != 'greedy')}: "
            f"{_percent(accuracy(one).mean)} against {_percent(accuracy(other).mean)}, "
            f"{_gain(difference(one.correct, other.correct))}."
        )
    return said


def _contests(results: Results) -> list[tuple[str, str, list[tuple[Point, Point]]]]:
    """What chooses by a score and what does not: two names, and their points size by size; greedy
    decoding has one for all sizes."""
    return [
        (name, rival, list(zip(ours, cycle(theirs), strict=False)))
        for name in BY_SCORE
        for rival in RIVALS
        if (ours := results.of(name)) and (theirs := results.of(rival))
    ]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _ends_said(results: Results) -> str:
    """Where more compute stops paying."""
    ends = []
    for strategy, by in results.lines:
        points = results.of(strategy, by)
        if len(points) > 1 and strategy != "pass":
            flat = stops_paying(points)
            where = f"from {flat.start} to {flat.end}" if flat else "nowhere yet"
            ends.append(f"{NAMES[strategy]}{f' by {by}' * (by != 'samples')} {where}")
    told = "The first step to a larger size without a gain that is shown"
    return f"{told}: {'; '.join(ends)}." if ends else ""


def _trees_said(results: Results) -> str:
    """The best tree search against best-of-N at equal decoded tokens, said plainly."""
    found = [
        (point, equal)
        for point in results.points
        if point.strategy in TREES
        and (equal := at_equal(point, results.ladder, _decoded)) is not None
    ]
    if not found:
        return ""
    point, equal = max(found, key=lambda pair: pair[0].correct.mean())
    gains = [difference(one.correct, other) for one, other in found]
    ahead = [_where(one) for (one, _), gain in zip(found, gains, strict=True) if gain.low > 0]
    behind = sum(gain.high < 0 for gain in gains)
    where = f"Ahead of it are {', '.join(ahead)}" if ahead else "No tree search is ahead of it"
    return (
        "Tree search against best-of-N at equal decoded tokens: the most accurate search, "
        f"{_where(point)}, is right on {_percent(point.correct.mean())} of the problems, best-of-N "
        f"on {_percent(equal.mean())}: {_gain(difference(point.correct, equal))}. {where}; "
        f"{behind} of {len(found)} runs are behind. {EXPLORED}"
    )


def _against_samples(results: Results) -> Section:
    """Whole samples: accuracy against their number, and the ceiling of a perfect scorer."""
    names = [name for name in (*SAMPLED, "pass") if results.of(name)]
    if not names:
        return Section("Whole samples", "The run of whole samples is not finished yet.")
    curves = [_curve(name, [p.size for p in results.of(name)], results.of(name)) for name in names]
    rows: list[list[Shown]] = [
        [size, *(_scaled(accuracy(next(p for p in results.of(n) if p.size == size)))
                 for n in names)]
        for size in results.sweep.options["budgets"]
    ]  # fmt: skip
    chart = LineChart(curves, "samples per problem", "accuracy", _greedy(results), percent=True)
    table = Table(["samples", *(NAMES[n] for n in names)], rows, "Accuracy in %.")
    gains = _gains_of_scores(results)
    return Section("Whole samples", METHOD, figures=[chart], tables=[table, *gains])


def _gains_of_scores(results: Results) -> list[Table]:
    """At every size what choosing by a score gains over choosing without one."""
    contests = _contests(results)
    rows: list[list[Shown]] = [
        [size[0][0].size, *(_scaled(difference(one.correct, other.correct)) for one, other in size)]
        for size in zip(*(pairs for _, _, pairs in contests), strict=True)
    ]
    columns = ["samples", *(f"{NAMES[name]} less {NAMES[rival]}" for name, rival, _ in contests)]
    return [Table(columns, rows, "Gains in percentage points.")] if rows else []


def _two_searches(results: Results) -> Section:
    """Breadth first against MCTS at equal limits, and every tree against best-of-N."""
    tables = []
    rivals = [n for n in ("mcts", "mcts_uct", "mcts_gumbel") if results.of(n)]
    for by in ("nodes", "tokens"):
        rows: list[list[Shown]] = []
        for one in results.of(BREADTH_FIRST, by):
            for name in rivals:
                other = next((p for p in results.of(name, by) if p.limit == one.limit), None)
                if other is not None:
                    rows.append(_row_of_two(one, other))
        if rows:
            columns = [f"{by} allowed", "against", "BFS, %", "MCTS, %", "BFS - MCTS"]
            columns += ["ahead", f"{by}, BFS", f"{by}, MCTS"]
            tables.append(Table(columns, rows, f"BFS against MCTS, equally many {by} allowed."))
    if results.ladder:
        tables += _against_best_of_n(results)
    text = (
        "A limit stops a search at the first check at or past it, and what it leaves open is "
        "completed greedily; what was really spent stands beside what was allowed.\n\n"
        "Best-of-N is taken where it spends as many tokens on average, decoded ones or all that "
        "were computed (decoded, prefilled and scored); between two k its accuracy goes straight "
        "in the logarithm of the tokens. Outside: the search spent less than one sample or more "
        f"than all of them.\n\n{EXPLORED}"
    )
    return Section("Searches compared", text, tables=tables)


def _row_of_two(one: Point, other: Point) -> list[Shown]:
    gain = difference(one.correct, other.correct)
    row: list[Shown] = [one.limit, NAMES[other.strategy]]
    row += [_scaled(accuracy(point)) for point in (one, other)]
    row += [_scaled(gain), _verdict(gain, "BFS", "MCTS")]
    return [*row, *(_mean(_amount(point)) for point in (one, other))]


def _against_best_of_n(results: Results) -> list[Table]:
    rows: list[list[Shown]] = []
    for point in results.points:
        if point.strategy not in TREES:
            continue
        row: list[Shown] = [NAMES[point.strategy], _limit(point), _scaled(accuracy(point))]
        for amount in (_decoded, _uncached):
            equal = at_equal(point, results.ladder, amount)
            if equal is None:
                row += [_mean(amount(point.spent)), None, "outside"]
            else:
                gain = difference(point.correct, equal)
                verdict = _verdict(gain, "search", "best-of-N")
                row += [_mean(amount(point.spent)), _scaled(gain), verdict]
        rows.append(row)
    if not rows:
        return []
    columns = ["search", "allowed", "accuracy, %", "decoded", "less best-of-N", "ahead"]
    columns += ["all tokens", "less best-of-N", "ahead"]
    return [Table(columns, rows, "Tree searches against best-of-N at equal tokens.")]


def _optimal(results: Results) -> Section:
    """What choosing a strategy for each question by its estimated difficulty gives."""
    probing = probing_of(results.sweep.options)
    assert probing is not None
    rows: list[list[Shown]] = []
    for one in results.optimal:
        best = max(one.fixed, key=lambda point: point.correct.mean())
        gain = difference(one.predicted.correct, best.correct)
        row: list[Shown] = [one.size]
        row += [_scaled(accuracy(point)) for point in (one.predicted, one.oracle, best)]
        row += [NAMES[best.strategy], _scaled(gain), _verdict(gain, "choice", "fixed")]
        row += [_mean(point.spent.decoded) for point in (one.predicted, one.oracle, best)]
        equal = at_equal(one.predicted, results.ladder, _decoded) if results.ladder else None
        gained = None if equal is None else _scaled(difference(one.predicted.correct, equal))
        rows.append([*row, gained])
    columns = ["size", "predicted, %", "oracle, %", "best fixed, %", "which", "predicted - fixed"]
    columns += ["ahead", "decoded, predicted", "oracle", "fixed", "predicted less best-of-N"]
    chosen: list[list[Shown]] = [
        [one.size, *(NAMES[name] for name in one.chosen)] for one in results.optimal
    ]
    bins = [
        "size",
        *(f"bin {i + 1}" for i in range(max(len(one.chosen) for one in results.optimal))),
    ]
    bins[1] += ", hardest"
    tables = [
        Table(columns, rows, "Accuracy and mean decoded tokens per problem."),
        Table(bins, chosen, f"What each bin is answered by, fitted on all problems: {TABLE}."),
    ]
    return Section("Compute-optimal choice", said_of(probing), tables=tables)


def _growth(results: Results) -> Section:
    """Gain per doubling, and where it ends."""
    rows: list[list[Shown]] = []
    for strategy, by in results.lines:
        points = results.of(strategy, by)
        if strategy == "pass" or len(points) < 2:
            continue
        slope, flat = per_doubling(points), stops_paying(points)
        last = difference(points[-1].correct, points[0].correct)
        row: list[Shown] = [NAMES[strategy], by, f"{points[0].size} to {points[-1].size}"]
        row += [None if slope is None else _scaled(slope), _scaled(last)]
        row += [f"from {flat.start} to {flat.end}" if flat else "pays to the end"]
        rows.append([*row, _scaled(flat.gain) if flat else None])
    columns = ["strategy", "limited by", "sizes", "gain per doubling of decoded tokens"]
    columns += ["last size less first", "stops paying", "gain there"]
    text = (
        "In percentage points. Gain per doubling: slope of a straight line fitted over log2 of the "
        "mean decoded tokens. More compute stops paying at the first step between sizes whose "
        "paired interval is not above 0. Sizes are in whole solutions."
    )
    return Section("Accuracy per doubling", text, tables=[Table(columns, rows)] if rows else [])


def _every_point(results: Results) -> Section:
    rows: list[list[Shown]] = []
    for point in results.points:
        flops = point.spent.flops(results.sweep.parameters)
        row: list[Shown] = [NAMES[point.strategy], _limit(point), _scaled(accuracy(point))]
        row += [100 * float(point.any.mean()), 100 * float(point.mean.mean())]
        row += [_mean(amount) for amount in point.spent[:-1]]
        row += [None if flops is None else f"{flops.mean():.3g}"]
        rows.append([*row, float(point.spent.seconds.mean())])
    columns = ["strategy", "allowed", "top-1, %", "any, %", "mean, %", "decoded"]
    columns += ["prefilled", "scored", "nodes", "FLOPs", "seconds"]
    text = (
        "top-1: the chosen answer is right; any: some complete solution that was met is; mean: the "
        "share of those that are. Costs are means per problem."
    )
    return Section("Every point", text, tables=[Table(columns, rows)])


def _choosing(results: Results) -> Section:
    """What the same samples give under other aggregates and votes."""
    title = "The same samples, chosen otherwise"
    if not results.samples:
        return Section(title, "The run of whole samples is not finished yet.")
    scored = any(sample["scores"] for record in results.samples for sample in record["samples"])
    aggregates = tuple(AGGREGATES) if scored else ("product",)
    tables = []
    for calculator in (False, True):
        found = recombined(
            results.samples,
            calculator=calculator,
            lm_weight=results.sweep.options["lm_weight"],
            aggregates=aggregates,
            votes=tuple(VOTES),
            task=find_task(results.sweep.options["task"]),
        )
        rows: list[list[Shown]] = [
            [aggregate, *(_scaled(e) for a, _, e in found if a == aggregate)]
            for aggregate in aggregates
        ]
        caption = f"Accuracy in %, {'with' if calculator else 'without'} the calculator's veto."
        tables.append(Table(["aggregate", *VOTES], rows, caption))
    text = (
        f"All {samples_of(results.samples)} samples of each problem, their step scores put "
        "together and voted on in other ways; read from the records."
    )
    return Section(title, text, tables=tables)


def _made(results: Results) -> Section:
    """How to make the page again."""
    sweep = results.sweep
    sizes = {"parameters": sweep.parameters.model, "of the scorer": sweep.parameters.scorer}
    rows = [[name, str(value)] for name, value in (sweep.options | sizes).items()]
    commands = [f"{cell.name}: {' '.join(cell.options)}" for cell in sweep.cells]
    return Section(
        "How it was made",
        "Options of all cells, and what each adds to them; each is a run of evals.reasoning.",
        tables=[Table(["option", "value"], rows)],
        command="\n".join(commands),
    )


# ---------------------------------------------------------------------------------------------- csv

COLUMNS = (
    *("strategy", "by", "limit", "size", "problems", "accuracy", "low", "high", "any", "mean"),
    *("nodes", "decoded", "prefilled", "scored", "uncached", "flops", "seconds"),
)


def curves_csv(results: Results) -> str:
    """A line per point: accuracy with its interval, any, mean, and the mean costs per problem."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in results.points:
        spent, flops = point.spent, point.spent.flops(results.sweep.parameters)
        costs: list[Any] = [spent.nodes, spent.decoded, spent.prefilled, spent.scored]
        costs += [spent.uncached, flops, spent.seconds]
        shares = [*accuracy(point), point.any.mean(), point.mean.mean()]
        writer.writerow(
            [point.strategy, point.by, point.limit, point.size, results.problems]
            + [f"{share:.6g}" for share in shares]
            + ["" if cost is None else f"{cost.mean():.6g}" for cost in costs]
        )
    return text.getvalue()


# --------------------------------------------------------------------------------------------- text


def _decoded(spent: Spent) -> Floats:
    return spent.decoded


def _uncached(spent: Spent) -> Floats:
    return spent.uncached


def _amount(point: Point) -> Floats:
    """Of what limits it."""
    return point.spent.nodes if point.by == "nodes" else point.spent.decoded


def _mean(amount: Floats) -> int:
    return round(float(amount.mean()))


def _scaled(estimate: Estimate) -> Estimate:
    """A share in percent, without the noise of rounding around 0."""
    return Estimate(*(round(100 * value, 9) for value in estimate))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _gain(gain: Estimate) -> str:
    mean, low, high = _scaled(gain)
    verdict = "ahead" if low > 0 else "behind" if high < 0 else "no difference is shown"
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}], {verdict}"


def _verdict(gain: Estimate, first: str, second: str) -> str:
    return first if gain.low > 0 else second if gain.high < 0 else "neither"


def _limit(point: Point) -> str:
    return f"{point.limit:,} {point.by if point.limit > 1 else point.by.removesuffix('s')}"


def _where(point: Point) -> str:
    return f"{NAMES[point.strategy]} with {_limit(point)}"
