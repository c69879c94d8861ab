"""How much of an engine's speed a whole search keeps, and what many problems at once gain.

    python -m evals.throughput strategy=mcts limit=64
    python -m evals.throughput engine=vllm strategy=tree_of_thoughts limit=64 groups=2

Three things are timed in turn: the search on all problems at once; the bare engine, given all
requests of that search in one call; and the search on one problem at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

from evals.reasoning import in_threads, load_scorer
from evals.records import write_atomically
from reasoning.embedded import folder_of
from reasoning.engines import (
    Completion,
    Engine,
    EngineKind,
    Request,
    Score,
    ScoreRequest,
    load_engine,
)
from reasoning.reasoner import Reasoner
from reasoning.scorers import JUDGES, make_judge
from reasoning.strategies import Strategy
from reasoning.tasks import Problem, find_task
from reasoning.world import Scorer


class Noted:
    """An engine that keeps what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.generated: list[Request] = []
        self.scored: list[ScoreRequest] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        self.generated += requests
        return self.engine.generate(requests)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        self.scored += requests
        return self.engine.score(requests)


class Round(NamedTuple):
    """One measurement of all three, in seconds."""

    together: float  # the search, all problems at once
    bare: float  # the engines alone, on the same requests
    alone: float  # the search on one problem after the other, per problem
    fill: float  # of the language model's batches in the first
    tokens: int  # decoded by the search


def throughput(
    *,
    strategy: Strategy,
    model: str = "embedded",
    scorer: str | None = None,
    engine: EngineKind = "transformers",
    engine_options: Mapping[str, Any] | None = None,
    task: str = "generated",
    data: str | None = None,
    limit: int = 64,
    groups: int = 1,
    alone: int = 8,
    rounds: int = 3,
    seed: int = 0,
    max_tokens: int = 256,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure and return the medians over the rounds.

    Args:
        strategy, model, scorer, engine, engine_options, task, data, max_tokens: see
            `evals.reasoning`; the scorer runs on the same kind of engine, a judge on the model's.
        limit: problems answered at once.
        groups: groups they are divided into, each a thread.
        alone: problems, evenly spread among them, answered one at a time.
        rounds: how often all is measured, with other draws each time.
        seed: of the first round's draws.
        out: file for the result, as JSON.
        say: receives progress lines.

    Raises:
        ValueError: fewer than one problem, group or round.
    """
    for name, value in (("groups", groups), ("alone", alone), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    kind = find_task(task)
    problems = kind.load(data=data, limit=limit)
    with ExitStack() as stack:
        lm = Noted(load_engine(folder_of(model, "lm"), engine, engine_options))
        stack.callback(lm.close)
        engines = [lm]
        judge: Scorer | None
        if scorer in JUDGES:
            judge = make_judge(scorer, cast(Engine, lm))
        elif (judge := load_scorer(scorer, engine, engine_options)) is not None:
            engines.append(Noted(judge.engine))
            judge.engine = engines[1]
            stack.callback(judge.engine.close)
        reasoner = Reasoner(
            engine=cast(Engine, lm),
            strategy=strategy,
            scorer=judge,
            calculator=False,
            max_tokens=max_tokens,
            task=kind,
        )
        _search(reasoner, problems[:2], 1, seed)  # what is slow the first time only
        measured = []
        for number in range(rounds):
            measured.append(_round(reasoner, engines, problems, groups, alone, seed + number))
            say(_told(measured, len(problems)))
    result = _summary(measured, len(problems))
    if out is not None:
        write_atomically(Path(out), json.dumps(result, indent=2) + "\n")
    return result


def _round(
    reasoner: Reasoner,
    engines: Sequence[Noted],
    problems: list[Problem],
    groups: int,
    alone: int,
    seed: int,
) -> Round:
    """Measure all three; the language model's engine is the first of `engines`."""
    lm = engines[0]
    _forget(engines)
    fill = lm.fill
    together, tokens = _timed(lambda: _search(reasoner, problems, groups, seed))
    ratio = lm.fill.since(fill).ratio
    asked = [(noted.engine, list(noted.generated), list(noted.scored)) for noted in engines]

    def replay() -> None:
        for engine, generated, scored in asked:
            engine.generate(generated)
            engine.score(scored)

    _forget(engines)
    bare, _ = _timed(replay)
    _forget(engines)
    chosen = problems[:: max(1, len(problems) // alone)][:alone]
    singly, _ = _timed(lambda: [_search(reasoner, [problem], 1, seed) for problem in chosen])
    return Round(together, bare, singly / len(chosen), ratio, tokens)


def _search(reasoner: Reasoner, problems: list[Problem], groups: int, seed: int) -> int:
    """Answer the problems; how many tokens were decoded for it."""

    def answer(part: list[Problem]) -> int:
        questions, ids = [p.question for p in part], [p.id for p in part]
        plan = reasoner.plan(questions, ids=ids, seed=seed)
        return int(plan.cost.tokens.decoded.sum())

    parts = [part for part in (problems[i::groups] for i in range(groups)) if part]
    return sum(in_threads(answer, parts, len(parts)))


def _forget(engines: Sequence[Noted]) -> None:
    """Begin anew: no request noted, no prompt cached."""
    for noted in engines:
        noted.generated, noted.scored = [], []
        noted.engine.forget()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _summary(rounds: Sequence[Round], problems: int) -> dict[str, Any]:
    return {
        "tokens_per_second": median(r.tokens / r.together for r in rounds),
        "bare_tokens_per_second": median(r.tokens / r.bare for r in rounds),
        "share_of_bare": median(r.bare / r.together for r in rounds),
        "problems_per_hour": median(3600 * problems / r.together for r in rounds),
        "problems_per_hour_one_at_a_time": median(3600 / r.alone for r in rounds),
        "times_one_at_a_time": median(problems * r.alone / r.together for r in rounds),
        "fill": median(r.fill for r in rounds),
        "problems": problems,
        "rounds": [r._asdict() for r in rounds],
    }


def _told(rounds: Sequence[Round], problems: int) -> str:
    result = _summary(rounds[-1:], problems)
    return (
        f"round {len(rounds)}: {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['share_of_bare']:.0%} of the bare engine's; "
        f"{result['problems_per_hour']:.0f} problems/h, "
        f"{result['times_one_at_a_time']:.1f} times as many as one at a time; "
        f"batches {result['fill']:.0%} full"
    )


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("throughput", throughput, __doc__ or ""))
