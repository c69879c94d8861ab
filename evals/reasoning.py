"""Answer the problems of a task with a language model and a search strategy.

    python -m evals.reasoning task=gsm8k data=test.jsonl limit=200 strategy=best_of_n n=16 out=DIR

writes DIR/records.jsonl, a line per problem, and DIR/summary.json. Killed and started again with
the same arguments it answers what is missing.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from evals.models import Loaded, claim_of, load_lm, load_scorer, side_by_side
from evals.records import RecordStore, check_format, fingerprint
from evals.runner import Claim, Crew, Kept, Runner, RunnerKind, runner_of
from evals.stats import wilson_interval
from mbrl_core import Budget, Plan, RandomShooting, Rollout, Tree
from mbrl_core.viewer import save_html
from reasoning.difficulty import ComputeOptimal, Fitted, paths
from reasoning.embedded import folder_of
from reasoning.engines import Engine, EngineKind, Sampling
from reasoning.grading import GRADERS
from reasoning.prompts import Prompt, pick_shots
from reasoning.reasoner import Outcome, Reasoner
from reasoning.scorers import JUDGES, make_judge
from reasoning.strategies import FinalAnswer, Strategy
from reasoning.tasks import Generated, Problem, Task, find_task
from reasoning.tasks.types import Grading, check_limit
from reasoning.world import (
    Aggregate,
    Continuation,
    Scorer,
    Separator,
    Thought,
    check_lm_weight,
    check_separator,
)

NOT_DECIDING = ("trees", "groups", "runner", "workers", "cpus", "gpus", "address")
"""Options that decide no record: it is the same run without them."""

AVERAGED = ("tokens", "prefilled", "scored", "steps", "fill")
"""What summaries say of the average problem."""


def evaluate(
    *,
    task: str,
    strategy: Strategy | ComputeOptimal,
    model: str = "embedded",
    scorer: str | None = None,
    calculator: bool = True,
    data: str | None = None,
    split: Literal["train", "test"] = "test",
    limit: int | None = None,
    steps: list[int] | None = None,
    out: str | Path,
    seed: int = 0,
    group: int = 50,
    groups: int = 1,
    engine: EngineKind = "transformers",
    engine_options: Mapping[str, Any] | None = None,
    scorer_engine: EngineKind | None = None,
    scorer_options: Mapping[str, Any] | None = None,
    shots: int = 0,
    shots_data: str | None = None,
    aggregate: Aggregate | None = None,
    lm_weight: float = 0.0,
    max_tokens: int = 256,
    step_tokens: int | None = None,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    separator: Separator = "newline",
    budget: Mapping[str, float | None] | None = None,
    trees: int = 0,
    runner: RunnerKind = "local",
    workers: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
    crew: Crew | None = None,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Answer the problems of a task and return the summary.

    Args:
        task: a name in `reasoning.tasks.TASKS`, or `package.module:NAME` for one's own.
        strategy: how to search, from `reasoning.strategies`, or `reasoning.difficulty`'s choice
            among them.
        model: a folder or hub name of a causal language model; `embedded` comes with the package.
        scorer: the same of a reward model, or a judge that asks `model` itself: critique,
            verdicts, votes or likelihood (see `reasoning.scorers`); null scores a solution by its
            tokens' mean probability.
        calculator: whether a solution with a step that calculation alone refutes is worth 0, such
            as `<<3*4=13>>`, or in the Game of 24 an operation that is not legal.
        data: a local file or hub name of the task, where it needs one.
        split: train or test.
        limit: answer only the first so many problems.
        steps: least and greatest number of steps of generated problems.
        out: the run folder.
        seed: decides everything random: problem i's draws depend on `seed` and its id.
        group: problems that advance together.
        groups: groups that are answered at once, each in a thread; the engine computes them in
            one batch as far as it can.
        engine: what runs the model: `transformers`, `vllm`, `openai` or `chat`, see `load_engine`.
        engine_options: keywords of the engine.
        scorer_engine, scorer_options: the same for the scorer, by default on vLLM where the model
            is, else on transformers; a judge takes its own parameters.
        shots: worked examples shown before each question.
        shots_data: where they come from; by default the training split of the task, or what the
            task has of its own. A question that is asked is never among them.
        aggregate: how step scores make a solution's score: product, min, mean or last; null is
            the scorer's own.
        lm_weight: of the language model's own probability beside the scorer's word, 0 to 1, see
            `reasoning.world.judged`.
        max_tokens: decoded at most for a whole solution, be it sampled, a rollout or what completes
            one.
        step_tokens: the same for a step, or a list of steps; null is max_tokens.
        top_p, top_k, min_p: from which tokens a strategy draws, see `reasoning.engines.Sampling`;
            temperature is the strategy's.
        separator: what ends a step, newline or blank_line.
        budget: limits per problem, by the names of `mbrl_core.Budget`.
        trees: of the first so many problems, what the search looked at is written to
            `out`/trees, a page each, also where they are on record already.
        runner, workers: where the problems are answered, and on how many engines: `local`
            processes or actors of `ray`. One local worker is this process.
        cpus, gpus: of each worker. address: of a Ray cluster that is running already.
        crew: workers that several runs share, in place of these five.
        arguments: what the run folder records; by default the plain ones given here.
        say: receives progress lines.

    Raises:
        ValueError: an unknown task, a malformed data file, a model that does not fit, a budget that
            cannot be kept, or `out` holds a run of other arguments, data or weights.
        FileNotFoundError: a file or model that cannot be had.
        EngineError: an engine is gone; what was found so far is on record.
    """
    deciding = {
        "task": task, "strategy": repr(strategy), "model": model, "scorer": scorer,
        "calculator": calculator, "data": data,
        "split": split, "limit": limit, "steps": steps, "seed": seed, "group": group,
        "engine": engine, "engine_options": dict(engine_options or {}),
        "scorer_engine": scorer_engine, "scorer_options": dict(scorer_options or {}),
        "shots": shots, "shots_data": shots_data,
        "aggregate": aggregate, "lm_weight": lm_weight, "max_tokens": max_tokens,
        "step_tokens": step_tokens, "top_p": top_p, "top_k": top_k, "min_p": min_p,
        "separator": separator, "budget": dict(budget or {}),
    }  # fmt: skip
    check_options(strategy, steps, shots, group=group, groups=groups, trees=trees)
    check_lm_weight(lm_weight, scorer=scorer is not None)
    limits = budget_of(strategy, budget or {})
    decoding = Decoding(top_p, top_k, min_p, max_tokens, step_tokens, separator)
    check_decoding(decoding)
    described = {
        k: v for k, v in (arguments or deciding).items() if k not in ("out", *NOT_DECIDING)
    }
    if isinstance(strategy, ComputeOptimal):  # a table may change under its name
        check_table(strategy, Fitted(model, scorer, aggregate, lm_weight, calculator))
        described["table"] = _digest(strategy)
    lm, judge = side_by_side(
        model, engine, engine_options, scorer, scorer_engine, scorer_options, gpus
    )
    described["weights"] = fingerprint(folder_of(model, "lm"))
    described["scorer_weights"] = scorer and fingerprint(folder_of(scorer, "scorer"))
    kind = find_task(task, steps=(steps[0], steps[1]) if steps else None)
    problems = problems_of(kind, data, split, limit)
    prompt = few_shot(kind, shots, shots_data, data, problems)
    if not isinstance(kind, Generated):  # and so may the data
        described["data_contents"] = _digest(problems)
        described["shots_contents"] = _digest(prompt.shots) if shots and prompt else None
    folder = Path(out) / "trees"
    pages = {p.id: folder / f"{p.id.replace('/', '-')}.html" for p in problems[:trees]}
    work = Answering(
        task=kind,
        strategy=strategy,
        model=lm,
        scorer=judge,
        calculator=calculator,
        aggregate=aggregate,
        lm_weight=lm_weight,
        decoding=decoding,
        prompt=prompt,
        group=group,
        groups=groups,
        seed=seed,
        budget=limits,
        pages=pages,
    )
    with RecordStore(out, described) as store, ExitStack() as stack:
        check_records(out, store.records, kind)
        if crew is None:  # runs that share one have said so once
            for sentence in idle_options(
                strategy,
                shots,
                shots_data,
                scorer,
                aggregate=aggregate,
                scorer_engine=scorer_engine,
                scorer_options=scorer_options,
            ):
                say(f"note: {sentence}")
            where = placed(runner, workers, cpus, gpus, address, claim_of(lm, judge))
            crew = stack.enter_context(Crew(runner=where))
        crew.do(
            work,
            problems,
            store,
            batch=group * groups,
            missing=lambda problem: _missing(problem, store, pages),
            say=say,
        )
        return _closed(store, problems, kind, out, say)


def check_options(
    strategy: Strategy | ComputeOptimal, steps: list[int] | None, shots: int, **counts: int
) -> None:
    """Raise ValueError on options that make no sense, alone or together."""
    for name, value in counts.items():
        least = 0 if name == "trees" else 1
        if value < least:
            at_least = f"at least {least}" if least else "0 or more"
            raise ValueError(f"{name} must be {at_least}, not {value}")
    if steps is not None and len(steps) != 2:
        raise ValueError(f"steps must be [least,greatest], not {steps}")
    world = strategy.world if isinstance(strategy, Strategy) else None
    if shots and world is not None and world.prompt is not None:
        raise ValueError(
            f"shots={shots} shows whole solutions, which this strategy does not write: give "
            "strategy.shots"
        )


def budget_of(strategy: Strategy | ComputeOptimal, limits: Mapping[str, float | None]) -> Budget:
    """The limits of each problem.

    Raises ValueError on one that is not above 0, and on one of tokens where nothing could keep it.
    """
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"budget.{name} must be above 0, or null for no limit, not {limit}")
    if limits.get("tokens") is not None and _in_one_go(strategy):
        probes = isinstance(strategy, ComputeOptimal)
        raise ValueError(
            "budget.tokens stops a search between its steps, and "
            f"{'the probe of compute_optimal' if probes else 'this strategy'} samples whole "
            "solutions in one go: limit their number, by n or by budget.steps"
        )
    return Budget(**limits)  # type: ignore[arg-type]


def _in_one_go(strategy: Strategy | ComputeOptimal) -> bool:
    """Whether whole solutions are sampled at once, by the strategy or by its probe."""
    if isinstance(strategy, ComputeOptimal):
        return True
    return isinstance(strategy.planner, RandomShooting) and strategy.planner.horizon == 1


def idle_options(
    strategy: Strategy | ComputeOptimal,
    shots: int,
    shots_data: str | None,
    scorer: str | None,
    **of_scorer: object,
) -> list[str]:
    """What was set and decides nothing, a sentence each."""
    said = []
    if scorer is None:
        set_ = [name for name, value in of_scorer.items() if value]
        said += [f"{name!r} has no effect with scorer=null" for name in set_]
    if shots_data and not shots:
        said.append("'shots_data' has no effect with shots=0")
    planner = strategy.planner if isinstance(strategy, Strategy) else None
    if isinstance(planner, RandomShooting) and planner.samples > 1 and strategy.temperature == 0:
        said.append(f"at temperature 0 the {planner.samples} samples of a question are the same")
    return said


def check_records(folder: str | Path, records: Sequence[Mapping[str, Any]], task: Task) -> None:
    """Raise ValueError where a record lacks what a summary is made of."""
    check_format(folder, records, "correct", "text", "answer", "samples", "seconds", *AVERAGED)
    check_format(folder, records, *task.graders)
    check_format(folder, (s for r in records for s in r["samples"]), "text", "correct", "finish")


def _closed(
    store: RecordStore,
    problems: Sequence[Problem],
    task: Task,
    out: str | Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the summary of a run that is done, and say what came of it."""
    records = _of(problems, store)
    failures = store.failures
    failed = [failures[problem.id] for problem in problems if problem.id in failures]
    if not records:
        raise ValueError(f"no problem could be answered: {failed[0]}")
    summary = summarize(records, len(failed), tuple(task.graders))
    store.write_summary(summary)
    mean, low, high = summary["accuracy"].values()
    answered = summary["problems"]
    cut = f" ({summary['cut']:.1%} cut short)" if summary["cut"] else ""
    say(
        f"accuracy {mean:.1%} [{low:.1%}, {high:.1%}] on {answered} problems, "
        f"{summary['tokens']:.0f} tokens a problem, {summary['unparsed']:.1%} without an answer"
        f"{cut}; records in {out}"
    )
    if len(store) > answered:
        say(f"{len(store) - answered} records are of problems that were not asked: not counted")
    if failed:
        say(
            f"{len(failed)} of {answered + len(failed)} problems failed and count nowhere "
            f"({failed[0]}); the same command tries them again"
        )
    return summary


def _of(problems: Sequence[Problem], store: RecordStore) -> list[dict[str, Any]]:
    """The records of these problems, in their order."""
    return [store[problem.id] for problem in problems if problem.id in store]


def _digest(value: object) -> str:
    """Twelve hexadecimal digits of plain data."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def check_table(strategy: ComputeOptimal, given: Fitted) -> None:
    """Raise ValueError where scores decide by a table that was fitted to other scores."""
    fitted = strategy.fitted_on
    if fitted is None or strategy.by != "score":
        return
    for name, was in fitted._asdict().items():
        now = getattr(given, name)
        if was != now:
            raise ValueError(
                f"the table was fitted with {name}={_plain(was)}, not {name}={_plain(now)}, and "
                "tells questions apart by their scores: fit one for these options with "
                "evals.scaling"
            )


def _plain(value: object) -> str:
    """An option as the command line has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_decoding(decoding: Decoding) -> None:
    """Raise ValueError on what no engine can do."""
    top_p, top_k, min_p, max_tokens, step_tokens, separator = decoding
    Sampling(0.0, top_p, top_k, min_p, max_tokens, step_tokens)
    check_separator(separator)


class Decoding(NamedTuple):
    """How text is drawn and cut into steps: see `Reasoner`."""

    top_p: float
    top_k: int | None
    min_p: float
    max_tokens: int
    step_tokens: int | None
    separator: Separator


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Answers problems with an engine that it loads where it works; see `evals.runner.Work`."""

    task: Task
    strategy: Strategy | ComputeOptimal
    model: Loaded
    scorer: Loaded | None
    calculator: bool
    aggregate: Aggregate | None
    lm_weight: float
    decoding: Decoding
    prompt: Prompt | None
    group: int
    groups: int
    seed: int
    budget: Budget
    pages: Mapping[str, Path]

    def __call__(
        self,
        store: RecordStore,
        batch: Sequence[Problem],
        kept: Kept,
        say: Callable[[str], None],
    ) -> None:
        """Answer what is missing."""
        if not any(_missing(problem, store, self.pages) for problem in batch):
            return
        lm = kept.get(
            ("model", repr(self.model)),
            lambda: load_lm(self.model),
            lambda engine: engine.close(),
        )
        lm.forget()  # what a problem costs does not depend on what the engine has met before
        reasoner = Reasoner(
            engine=lm,
            strategy=self.strategy,
            scorer=self._scorer(kept, lm),
            calculator=self.calculator,
            aggregate=self.aggregate,
            lm_weight=self.lm_weight,
            task=self.task,
            prompt=self.prompt,
            **self.decoding._asdict(),
        )
        sizes = self.group, self.groups
        problems = list(batch)
        _answer_all(store, reasoner, problems, *sizes, self.seed, self.budget, self.pages, say)

    def _scorer(self, kept: Kept, lm: Engine) -> Scorer | None:
        scorer = self.scorer
        if scorer is None:
            return None
        if scorer.name in JUDGES:
            return make_judge(scorer.name, lm, scorer.options)
        judge = kept.get(
            ("scorer", repr(scorer)),
            lambda: load_scorer(scorer),
            lambda judge: judge.engine.close(),
        )
        judge.engine.forget()
        return judge


def placed(
    runner: RunnerKind,
    workers: int,
    cpus: float,
    gpus: float,
    address: str | None,
    claim: Claim,
) -> Runner | None:
    """The runner of a run's options and models; None where all is done in this process."""
    if runner == "local" and workers == 1:
        return None
    return runner_of(runner, workers, cpus, gpus, address, claim)


def problems_of(
    task: Task, data: str | None = None, split: str = "test", limit: int | None = None
) -> list[Problem]:
    """The problems that a run asks, whoever wrote the task.

    Raises ValueError where there are none, and on an id that comes twice: of two problems of one
    id a run would keep one.
    """
    check_limit(limit)
    problems = task.load(data=data, split=split, limit=limit)
    if not problems:
        raise ValueError(f"the task {task.name!r} has no problems in the split {split!r}")
    ids = Counter(problem.id for problem in problems)
    name, times = ids.most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"the task {task.name!r} gives {times} problems the id {name!r}: let `load` give each "
            "its own"
        )
    return problems


def few_shot(
    task: Task,
    number: int,
    shots_data: str | None,
    data: str | None,
    asked: Sequence[Problem],
) -> Prompt | None:
    """The task's prompt with worked examples, none of which is asked; see `Task.examples`.

    Raises ValueError where there are too few examples, or they would come from the file that holds
    the problems.
    """
    if number == 0:
        return task.prompt()
    questions = {problem.question for problem in asked}
    known = [p for p in task.examples(data, shots_data) if p.question not in questions]
    return task.prompt(pick_shots(known, number, write=task.write))


class Group(NamedTuple):
    """Problems that advance together, and what came of it."""

    problems: list[Problem]
    outcome: Outcome
    seconds: float  # of one problem
    fill: float  # of the language model's batches meanwhile


def _answer_all(
    store: RecordStore,
    reasoner: Reasoner,
    problems: list[Problem],
    group: int,
    groups: int,
    seed: int,
    budget: Budget,
    pages: Mapping[str, Path],
    say: Callable[[str], None],
) -> None:
    todo = _groups(store, reasoner, problems, group, pages)
    at_once = max(1, min(groups, len(todo)))

    def answer(together: list[Problem]) -> Group:
        started, fill = time.perf_counter(), reasoner.engine.fill
        outcome = reasoner.attempt(
            [problem.question for problem in together],
            ids=[problem.id for problem in together],
            seed=seed,
            budget=budget,
        )
        seconds = (time.perf_counter() - started) / len(together) / at_once
        return Group(together, outcome, seconds, reasoner.engine.fill.since(fill).ratio)

    for done in in_threads(answer, todo, at_once):
        _keep(store, done, pages)
        correct = [record["correct"] for record in _of(problems, store)]
        accuracy = f"accuracy {np.mean(correct):.1%}" if correct else "all failed"
        say(f"{len(correct):5d}/{len(problems)}  {accuracy}  {done.seconds:.2f} s a problem")


def _groups(
    store: RecordStore,
    reasoner: Reasoner,
    problems: list[Problem],
    group: int,
    pages: Mapping[str, Path],
) -> list[list[Problem]]:
    """What is to be done, in groups. What failed in an earlier run makes groups of its own."""
    failed = store.failures
    todo = []
    for part in (
        [problem for problem in problems if problem.id not in failed],
        [problem for problem in problems if problem.id in failed],
    ):
        for first in range(0, len(part), group):
            # A group is answered whole even if part of it is on record: equal shapes round alike.
            together = part[first : first + group]
            if any(_missing(problem, store, pages) for problem in together):
                todo.append([p for p in together if _fits(reasoner, p, store)])
    return [together for together in todo if together]


def _keep(store: RecordStore, group: Group, pages: Mapping[str, Path]) -> None:
    """Record a group's problems; of those that failed, that they did."""
    plan, failed = group.outcome
    for row, problem in enumerate(group.problems):
        reason = failed[row]
        if problem.id in pages and reason is None:
            _save_page(pages[problem.id], plan, row, problem)
        if problem.id in store:
            continue
        if reason is not None:
            store.fail(problem.id, reason)
        else:
            measured = {"seconds": group.seconds, "fill": group.fill}
            store.append(problem.id, _record(plan, row, problem) | measured)


T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], jobs: Sequence[T], threads: int) -> Iterator[R]:
    """The results of all jobs as they come, so many jobs at once.

    Where one raises, no further one begins, and the error is raised after the results of those
    that had begun.
    """
    if threads == 1:
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(threads)
    errors = []
    try:
        futures = [pool.submit(work, job) for job in jobs]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if (error := future.exception()) is None:
                yield future.result()
            else:
                errors.append(error)
                for other in futures:
                    other.cancel()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if errors:
        raise errors[0]


def _missing(problem: Problem, store: RecordStore, pages: Mapping[str, Path]) -> bool:
    """Whether a problem has no record, or not the page that it should have."""
    if problem.id not in store:
        return True
    page = pages.get(problem.id)
    return page is not None and not page.exists()


def _save_page(path: Path, plan: Plan, row: int, problem: Problem) -> None:
    caption = f"{problem.question}\nThe right answer is {problem.answer}."
    save_html(plan, path, describe=describe, title=problem.id, caption=caption, roots=[row])


def describe(thought: Thought | None, action: Continuation | None) -> str:
    """The text of a node of a search: its step, or the question at the root."""
    if action is not None:
        return "".join(step.text for step in action.steps).strip() or "(no text)"
    return thought.question if thought is not None else ""


def _fits(reasoner: Reasoner, problem: Problem, store: RecordStore) -> bool:
    """Whether a question leaves room to answer it; if not, that is noted."""
    length, context = len(reasoner.encode(problem.question)), reasoner.engine.context
    if length < context:
        return True
    if problem.id not in store:
        store.fail(problem.id, f"a prompt of {length} tokens fills the model's {context}")
    return False


def summarize(
    records: list[dict[str, Any]], failed: int = 0, graders: Sequence[str] = tuple(GRADERS)
) -> dict[str, Any]:
    """Accuracy by each grader, what the samples held, and what a problem cost on average.

    `accuracy` is that of the chosen solution by the task's own grader; `any` the share of problems
    of which some complete solution is right, `mean` the average share of right ones. `unparsed` is
    the share whose chosen solution says no answer, and `cut` that of those among them which were
    cut short, by max_tokens or by the model's context: more tokens might help. The `failed`
    problems, at which an engine failed, have no record and count nowhere else. Of the `ungraded`
    ones the grader did not find out whether the answer is right: it counts as wrong. `fill` is how
    full the engine's batches were.
    """
    correct = [record["correct"] for record in records]

    def average(name: str) -> float:
        return float(np.mean([record[name] for record in records]))

    return {
        "problems": len(records),
        "accuracy": wilson_interval(sum(correct), len(correct))._asdict(),
        **{grader: average(grader) for grader in graders},
        "failed": failed,
        "ungraded": sum("ungraded" in record for record in records),
        "unparsed": float(np.mean([record["answer"] is None for record in records])),
        "cut": float(np.mean([_is_cut(record) for record in records])),
        "any": float(np.mean([any(s["correct"] for s in r["samples"]) for r in records])),
        "mean": float(
            np.mean([np.mean([s["correct"] for s in r["samples"]] or [0.0]) for r in records])
        ),
        **{name: average(name) for name in AVERAGED},
        "seconds": float(sum(record["seconds"] for record in records)),
    }


def _is_cut(record: Mapping[str, Any]) -> bool:
    """Whether the chosen solution, which is among the samples, was cut short."""
    chosen = (s for s in record["samples"] if s["text"] == record["text"])
    return record["answer"] is None and any(sample["finish"] == "cut" for sample in chosen)


def _record(plan: Plan, row: int, problem: Problem) -> dict[str, Any]:
    """What one problem leaves behind: enough to grade and to choose again without the model."""
    thought = plan.final[row]
    tokens = plan.cost.tokens
    complete = _complete(plan, row)
    answer, *answers = FinalAnswer()([thought, *(sample for sample, _ in complete)])
    return {
        "question": problem.question,
        "reference": problem.answer,
        "text": thought.text,
        "answer": answer,
        **_graded(thought, problem),
        **{name: _accepts(grade, thought, problem) for name, grade in thought.task.graders.items()},
        "value": _finite(float(plan.value[row])),
        "tokens": int(tokens.decoded[row]),
        "prefilled": int(tokens.prefilled[row]),
        "scored": int(tokens.scored[row]),
        "steps": int(plan.cost.steps[row]),
        "samples": [
            {
                "text": sample.text,
                "answer": said,
                **_graded(sample, problem),
                "value": _finite(value),
                "scores": list(sample.scores),
                "logprob": _finite(sample.logprob),
                "finish": sample.finish,
                "tokens": sum(len(step.tokens) for step in sample.steps),
            }
            for (sample, value), said in zip(complete, answers, strict=True)
        ],
        **({"tree": _nodes(plan.trace, row)} if isinstance(plan.trace, Tree) else {}),
    }


def _nodes(tree: Tree, row: int) -> dict[str, list[Any]]:
    """One problem's search tree, a column per quantity and an entry per node; the root, which has
    no parent (-1), is first. `scores` are those of the node's own steps."""
    size = int(tree.size[row])
    thoughts = tree.states[row * tree.parent.shape[1] :][:size]
    parents = tree.parent[row, :size].tolist()
    above = [thoughts[parent] if parent >= 0 else thought for thought, parent in
             zip(thoughts, parents, strict=True)]  # fmt: skip
    return {
        "parent": parents,
        "text": [t.text[len(a.text) :] for t, a in zip(thoughts, above, strict=True)],
        "scores": [list(t.scores[len(a.scores) :]) for t, a in zip(thoughts, above, strict=True)],
        "finish": [thought.finish for thought in thoughts],
        **{
            name: [_finite(value) for value in getattr(tree, name)[row, :size].tolist()]
            for name in ("visits", "value", "raw_value", "prior", "reward")
        },
    }


def _graded(thought: Thought, problem: Problem) -> dict[str, Any]:
    """Whether the task accepts a solution, and why that was not found out where it was not; a cut
    solution is wrong."""
    if thought.finish != "answered":
        return {"correct": False}
    grade = thought.task.grade(thought.text, problem)
    reason = {"ungraded": grade.reason} if grade.reason else {}
    return {"correct": bool(grade.correct), **reason}


def _accepts(grade: Grading, thought: Thought, problem: Problem) -> bool:
    return thought.finish == "answered" and bool(grade(thought.text, problem).correct)


def _finite(value: float) -> float | None:
    """A value for a record; None for the -inf of a solution that was cut, or what is not known."""
    return value if math.isfinite(value) else None


def _complete(plan: Plan, row: int) -> list[tuple[Thought, float]]:
    """All solutions that the search of one problem met, cut ones included, and their returns.

    Where the search completed none, the one that was completed after it is all there is.
    """
    found = _met(plan, row)
    chosen = plan.final[row]
    if all(thought != chosen for thought, _ in found):
        found.append((chosen, float(plan.value[row])))
    return found


def _met(plan: Plan, row: int) -> list[tuple[Thought, float]]:
    trace = plan.trace
    if isinstance(trace, Rollout):
        number = trace.returns.shape[1]
        thoughts = trace.final[row * number : (row + 1) * number]
        return list(zip(thoughts, trace.returns[row].tolist(), strict=True))
    width = trace.parent.shape[1]
    size = int(trace.size[row])
    thoughts = trace.states[row * width : row * width + size]
    pairs = zip(thoughts, paths(trace, row)[0], strict=True)
    found = [(thought, worth) for thought, worth in pairs if thought.finish != "open"]
    if trace.played is not None:
        for i in (trace.played.root == row).nonzero().squeeze(1).tolist():
            found.append((trace.played.final[i], float(trace.played.returns[i])))
    return found


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("evals_reasoning", evaluate, __doc__ or ""))
