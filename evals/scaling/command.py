"""Sweep strategies and budgets on one task and one model, and draw accuracy against compute.

    python -m evals.scaling
    python -m evals.scaling model=Qwen/Qwen2.5-1.5B-Instruct scorer=... task=gsm8k engine=vllm
    python -m evals.scaling report=runs/scaling

writes a folder per cell, report.html, curves.csv and tables.md. The same command finishes a sweep
that was stopped; `report=` draws the page again from the records alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs.cli import call
from evals import reasoning
from evals.models import claim_of, count_parameters, side_by_side
from evals.records import load_run
from evals.runner import Crew, RunnerKind
from evals.scaling.cells import (
    Cell,
    Sweep,
    check,
    check_kept,
    check_settings,
    first_cells,
    option_text,
    save_sweep,
    tree_cells,
    unit_of,
)
from evals.scaling.curves import Parameters
from evals.scaling.optimal import Probing, check_difficulty
from evals.scaling.page import write_page
from evals.stats import check_seed
from reasoning.embedded import folder_of
from reasoning.engines import EngineKind
from reasoning.scorers import JUDGES
from reasoning.strategies import best_of_n
from reasoning.world import Aggregate, Separator, check_lm_weight

Say = Callable[[str], None]


def scaling(
    *,
    task: str = "generated",
    model: str = "embedded",
    scorer: str | None = "embedded",
    strategies: Sequence[str],
    budgets: Sequence[int],
    by: Sequence[Literal["nodes", "tokens"]] = ("nodes", "tokens"),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    difficulty: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    report: str | Path | None = None,
    data: str | None = None,
    split: Literal["train", "test"] = "test",
    limit: int | None = None,
    steps: list[int] | None = None,
    calculator: bool = True,
    aggregate: Aggregate | None = None,
    lm_weight: float = 0.0,
    temperature: float = 1.0,
    max_tokens: int = 256,
    step_tokens: int | None = None,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    separator: Separator = "newline",
    shots: int = 0,
    shots_data: str | None = None,
    engine: EngineKind = "transformers",
    engine_options: Mapping[str, Any] | None = None,
    scorer_engine: EngineKind | None = None,
    scorer_options: Mapping[str, Any] | None = None,
    group: int = 50,
    groups: int = 1,
    seed: int = 0,
    runner: RunnerKind = "local",
    workers: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
    say: Say = print,
) -> Path:
    """Run what is missing of a sweep and write its page; returns the page's path.

    Args:
        task, model, scorer, data, split, limit, steps, calculator, aggregate, lm_weight,
        temperature, max_tokens, step_tokens, top_p, top_k, min_p, separator, shots, shots_data,
        engine, engine_options, scorer_engine, scorer_options, group, groups, seed: of every cell,
        see `evals.reasoning`.
        strategies: which to compare; those over whole samples are read off one run of the largest
            budget.
        budgets: sizes per problem, in whole solutions, rising.
        by: what limits the tree searches: the nodes, and the decoded tokens, that so many whole
            solutions have on average; with both each size is run twice.
        options: more of strategies, by their names: {particle_filter:{score_temperature:0.005}}.
        difficulty: how compute_optimal estimates it: `probe` solutions, `bins`, and `by` score or
            vote, see `evals.scaling.optimal`.
        out: folder of the sweep; one that is there may be given more strategies, sizes and limits;
            by default runs/scaling.
        report: a sweep's folder; its page is written from the records, to `out` where that is
            given, and nothing is run.
        runner, workers, cpus, gpus, address: where the problems are answered, see `evals.runner`.
        say: receives progress lines.

    Raises:
        ValueError: a seed below 0, an unknown strategy, limit or option of a strategy, sizes that
            do not rise, a difficulty by which nothing can be chosen, or `out` holds a run of other
            options or a sweep of which this is a part.
        FileNotFoundError: `report` holds no sweep, or a model cannot be had.
    """
    if report is not None:
        return write_page(report, say, out)
    shared = {
        "task": task, "model": model, "scorer": scorer, "data": data, "split": split,
        "limit": limit, "steps": steps, "calculator": calculator, "aggregate": aggregate,
        "lm_weight": lm_weight, "temperature": temperature, "max_tokens": max_tokens,
        "step_tokens": step_tokens, "top_p": top_p, "top_k": top_k, "min_p": min_p,
        "separator": separator, "shots": shots, "shots_data": shots_data,
        "engine": engine, "engine_options": dict(engine_options or {}),
        "scorer_engine": scorer_engine, "scorer_options": dict(scorer_options or {}),
        "group": group, "groups": groups, "seed": seed,
    }  # fmt: skip
    check_seed(seed)
    check(strategies, budgets, by)
    check_settings(options or {}, strategies, budgets)
    check_lm_weight(lm_weight, scorer=scorer is not None)
    probing = Probing(**(difficulty or {}))
    check_difficulty(probing, strategies, budgets)
    if shots and "rap" in strategies:
        raise ValueError(
            f"shots={shots} shows whole solutions, which rap does not write: leave rap out, or "
            "take rap_operations"
        )
    samples = best_of_n(n=budgets[-1], temperature=temperature)
    for sentence in reasoning.idle_options(
        samples,
        shots,
        shots_data,
        scorer,
        aggregate=aggregate,
        scorer_engine=scorer_engine,
        scorer_options=scorer_options,
    ):
        say(f"note: {sentence}")
    folder = Path(out or "runs/scaling")
    first = first_cells(strategies, budgets)
    chosen: dict[str, Any] = {"strategies": list(strategies), "budgets": list(budgets)}
    chosen |= {"by": list(by)}
    chosen["difficulty"] = probing._asdict()
    chosen["options"] = {name: dict(of_one) for name, of_one in (options or {}).items()}
    sweep = Sweep({**shared, **chosen}, parameters_of(model, scorer), first)
    check_kept(folder, sweep.options)
    models = side_by_side(model, engine, engine_options, scorer, scorer_engine, scorer_options)
    where = reasoning.placed(runner, workers, cpus, gpus, address, claim_of(*models))
    with Crew(runner=where) as crew:
        for cell in first:
            _run(folder, cell, shared, crew, gpus, say)
        unit = unit_of(load_run(folder / first[-1].name)[1], separator)
        trees = tree_cells(strategies, budgets, by, unit, say, options)
        sweep = sweep._replace(cells=[*first, *trees])
        save_sweep(folder, sweep)
        for cell in trees:
            _run(folder, cell, shared, crew, gpus, say)
    return write_page(folder, say)


def _run(
    folder: Path, cell: Cell, shared: dict[str, Any], crew: Crew, gpus: float, say: Say
) -> None:
    """Answer what is missing of one cell."""
    say(cell.name)
    given = [option_text(name, value) for name, value in shared.items()]
    given += [*cell.options, option_text("out", folder / cell.name)]
    given.append(option_text("gpus", gpus))
    call(
        "evals_reasoning",
        reasoning.evaluate,
        _last_of_each(given),
        crew=crew,
        say=lambda line: say(f"  {line}"),
    )


def _last_of_each(options: Sequence[str]) -> list[str]:
    """Options of which a cell's own come last and win."""
    return list({option.partition("=")[0]: option for option in options}.values())


def parameters_of(model: str, scorer: str | None) -> Parameters:
    """How many numbers the models have, by their configurations alone."""
    judge = folder_of(model, "lm") if scorer in JUDGES else folder_of(str(scorer), "scorer")
    return Parameters(
        count_parameters(folder_of(model, "lm")),
        None if scorer is None else count_parameters(judge),
    )
