"""How much of an engine's speed a whole search keeps, and what many problems at once gain.

    python -m evals.throughput strategy=mcts limit=64
    python -m evals.throughput engine=vllm strategy=tree_of_thoughts limit=64 groups=2
    python -m evals.throughput strategy=mcts limit=64 workers=2

Three things are timed in turn: the search on all problems at once; the bare engine, given all
requests of that search in one call; and the search on one problem at a time. With several workers a
fourth is, before them: the search on all problems by all of them, each with an engine of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

from evals.models import Loaded, claim_of, load_lm, load_scorer, side_by_side
from evals.reasoning import in_threads, placed, problems_of
from evals.records import RecordStore, check_writable, write_atomically
from evals.runner import Crew, Kept, Runner, RunnerKind
from reasoning.engines import Completion, Engine, EngineKind, Request, Score, ScoreRequest
from reasoning.reasoner import Reasoner
from reasoning.scorers import JUDGES, make_judge
from reasoning.strategies import Strategy
from reasoning.tasks import Problem, Task, find_task
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


class Search(NamedTuple):
    """What is measured, in plain data, so that a worker can make it too."""

    strategy: Strategy
    model: Loaded
    scorer: Loaded | None
    task: Task
    max_tokens: int

    def load(self) -> Ready:
        """Load its models. Raises what `load_lm` and `load_scorer` raise."""
        with ExitStack() as stack:
            lm = Noted(load_lm(self.model))
            stack.callback(lm.close)
            engines = [lm]
            judge: Scorer | None = None
            if self.scorer is not None and self.scorer.name in JUDGES:
                judge = make_judge(self.scorer.name, cast(Engine, lm), self.scorer.options)
            elif self.scorer is not None:
                judge = load_scorer(self.scorer)
                engines.append(Noted(judge.engine))
                judge.engine = engines[1]
                stack.callback(judge.engine.close)
            reasoner = Reasoner(
                engine=cast(Engine, lm),
                strategy=self.strategy,
                scorer=judge,
                calculator=False,
                max_tokens=self.max_tokens,
                task=self.task,
            )
            return Ready(reasoner, engines, stack.pop_all())


class Ready(NamedTuple):
    """A search with its models."""

    reasoner: Reasoner
    engines: list[Noted]  # the language model's, and a scorer's that has one of its own
    models: ExitStack  # to be closed

    def answer(self, problems: Sequence[Problem], groups: int, seed: int) -> int:
        """Answer the problems; how many tokens were decoded for it."""

        def decoded(part: Sequence[Problem]) -> int:
            questions, ids = [p.question for p in part], [p.id for p in part]
            plan = self.reasoner.plan(questions, ids=ids, seed=seed)
            return int(plan.cost.tokens.decoded.sum())

        parts = [part for part in (problems[i::groups] for i in range(groups)) if part]
        return sum(in_threads(decoded, parts, len(parts)))

    def forget(self) -> None:
        """Begin anew: no request noted, no prompt cached."""
        for noted in self.engines:
            noted.generated, noted.scored = [], []
            noted.engine.forget()


class Share(NamedTuple):
    """What a worker does: a part of the problems, all at once (a `Work` of `evals.runner`)."""

    search: Search
    groups: int
    seed: int

    def __call__(
        self, store: RecordStore, batch: Sequence[Problem], kept: Kept, say: Callable[[str], None]
    ) -> None:
        """Answer the problems of `batch`."""
        loaded = kept.get("search", self.search.load, lambda loaded: loaded.models.close())
        loaded.forget()
        loaded.answer(batch, self.groups, self.seed)
        for problem in batch:
            store.append(problem.id, {})


class Round(NamedTuple):
    """One measurement of all, in seconds."""

    together: float  # the search, all problems at once
    bare: float  # the engines alone, on the same requests
    alone: float  # the search on one problem after the other, per problem
    spread: float | None  # the search by all workers, where there are several
    fill: float  # of the language model's batches in the first
    tokens: int  # decoded by the search


def throughput(
    *,
    strategy: Strategy,
    model: str = "embedded",
    scorer: str | None = None,
    engine: EngineKind = "transformers",
    engine_options: Mapping[str, Any] | None = None,
    scorer_engine: EngineKind | None = None,
    scorer_options: Mapping[str, Any] | None = None,
    task: str = "generated",
    data: str | None = None,
    limit: int = 64,
    groups: int = 1,
    alone: int = 8,
    rounds: int = 3,
    seed: int = 0,
    max_tokens: int = 256,
    runner: RunnerKind = "local",
    workers: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure and return the medians over the rounds.

    Args:
        strategy, model, scorer, engine, engine_options, scorer_engine, scorer_options, task, data,
            max_tokens: see `evals.reasoning`.
        limit: problems answered at once.
        groups: groups they are divided into, each a thread.
        alone: problems, evenly spread among them, answered one at a time.
        rounds: how often all is measured, with other draws each time.
        seed: of the first round's draws.
        runner, workers, cpus, gpus, address: where the problems are answered once more, in equal
            parts, see `evals.reasoning`; with one local worker they are not.
        out: file for the result, as JSON.
        say: receives progress lines.

    Raises:
        ValueError: fewer than one problem, group, round or worker, or fewer problems than workers.
        OSError: workers are lost, or `out` cannot be written.
    """
    for name, value in (("groups", groups), ("alone", alone), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if out is not None:
        check_writable(Path(out))
    kind = find_task(task)
    problems = problems_of(kind, data, limit=limit)
    if len(problems) < workers:
        raise ValueError(f"{workers} workers need as many problems, and there are {len(problems)}")
    models = side_by_side(
        model, engine, engine_options, scorer, scorer_engine, scorer_options, gpus
    )
    shares = [
        Share(Search(strategy, *models, kind, max_tokens), groups, seed + number)
        for number in range(rounds)
    ]
    spreads: list[float | None] = [None] * rounds
    where = placed(runner, workers, cpus, gpus, address, claim_of(*models))
    if where is not None:
        spreads = _by_workers(where, shares, problems, say)
    loaded = shares[0].search.load()
    with loaded.models:
        loaded.answer(problems[:2], 1, seed)  # what is slow the first time only
        measured = []
        for share, spread in zip(shares, spreads, strict=True):
            measured.append(_round(loaded, share, problems, alone)._replace(spread=spread))
            say(_told(measured, len(problems)))
    result = _summary(measured, len(problems))
    if out is not None:
        write_atomically(Path(out), json.dumps(result, indent=2) + "\n")
    return result


def _round(loaded: Ready, share: Share, problems: list[Problem], alone: int) -> Round:
    """Measure all that one engine does."""
    lm, groups, seed = loaded.engines[0], share.groups, share.seed
    loaded.forget()
    fill = lm.fill
    together, tokens = _timed(lambda: loaded.answer(problems, groups, seed))
    ratio = lm.fill.since(fill).ratio
    asked = [(noted.engine, list(noted.generated), list(noted.scored)) for noted in loaded.engines]

    def replay() -> None:
        for engine, generated, scored in asked:
            engine.generate(generated)
            engine.score(scored)

    loaded.forget()
    bare, _ = _timed(replay)
    loaded.forget()
    chosen = problems[:: max(1, len(problems) // alone)][:alone]
    singly, _ = _timed(lambda: [loaded.answer([problem], 1, seed) for problem in chosen])
    return Round(together, bare, singly / len(chosen), None, ratio, tokens)


def _by_workers(
    where: Runner, shares: Sequence[Share], problems: list[Problem], say: Callable[[str], None]
) -> list[float | None]:
    """Seconds in which all workers answer the problems, share after share.

    They end before this process loads its models: on one card there is no room for both.
    """
    found: list[float | None] = []
    with Crew(runner=where) as crew:
        _spread(crew, shares[0], problems[: where.workers])  # what is slow the first time only
        for share in shares:
            seconds = _spread(crew, share, problems)
            say(f"all workers, round {len(found) + 1}: {seconds:.3g} s")
            found.append(seconds)
    return found


def _spread(crew: Crew, share: Share, problems: list[Problem]) -> float:
    """Seconds in which the workers of a crew answer the problems, an equal part each.

    Raises OSError where one of them is lost.
    """
    assert crew.runner is not None
    part = math.ceil(len(problems) / crew.runner.workers)
    with TemporaryDirectory() as folder, RecordStore(folder, {}) as store:
        seconds, _ = _timed(
            lambda: crew.do(share, problems, store, batch=part, say=lambda line: None)
        )
    if crew.lost:
        raise OSError("a worker was lost, and with it the measurement: begin again")
    return seconds


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
        **_of_workers(rounds, problems),
        "fill": median(r.fill for r in rounds),
        "problems": problems,
        "rounds": [r._asdict() for r in rounds],
    }


def _of_workers(rounds: Sequence[Round], problems: int) -> dict[str, float]:
    """What all workers together do; nothing where there are none."""
    pairs = [(r.alone, r.spread) for r in rounds if r.spread is not None]
    if not pairs:
        return {}
    return {
        "problems_per_hour_of_workers": median(3600 * problems / spread for _, spread in pairs),
        "workers_times_one_at_a_time": median(problems * alone / spread for alone, spread in pairs),
    }


def _told(rounds: Sequence[Round], problems: int) -> str:
    result = _summary(rounds[-1:], problems)
    parts = [
        f"round {len(rounds)}: {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['share_of_bare']:.0%} of the bare engine's",
        f"{result['problems_per_hour']:.0f} problems/h, "
        f"{result['times_one_at_a_time']:.1f} times as many as one at a time",
        f"batches {result['fill']:.0%} full",
    ]
    if rounds[-1].spread is not None:
        parts.append(
            f"by all workers {result['problems_per_hour_of_workers']:.0f} problems/h, "
            f"{result['workers_times_one_at_a_time']:.1f} times"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("throughput", throughput, __doc__ or ""))
