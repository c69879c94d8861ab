"""Answer word problems with a language model and a search strategy.

    python -m evals.reasoning task=gsm8k data=test.jsonl limit=200 strategy=best_of_n n=16 out=DIR

writes DIR/records.jsonl, a line per problem, and DIR/summary.json. Killed and started again with
the same arguments it answers what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evals.records import RecordStore, fingerprint
from evals.stats import wilson_interval
from mbrl_core import Budget, Plan, Rollout
from mbrl_core.viewer import save_html
from reasoning.embedded import folder_of
from reasoning.engines import Engine, TransformersEngine
from reasoning.grading import GRADERS
from reasoning.reasoner import Reasoner
from reasoning.scorers import StepScorer
from reasoning.strategies import Strategy, answer_of
from reasoning.tasks import DEFAULT_STEPS, Problem, load_task
from reasoning.world import Aggregate, Continuation, Thought


def evaluate(
    *,
    task: str,
    strategy: Strategy,
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
    aggregate: Aggregate = "product",
    max_tokens: int = 256,
    budget: Mapping[str, float | None] | None = None,
    trees: int = 0,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Answer the problems of a task and return the summary.

    Args:
        task: `gsm8k` or `generated`.
        strategy: how to search, from `reasoning.strategies`.
        model: a folder or hub name of a causal language model; `embedded` comes with the package.
        scorer: the same of a step scorer; null scores a solution by its tokens' mean probability.
        calculator: whether a solution with an equation `<<3*4=13>>` that does not hold is worth 0.
        data: a local file or hub name of the task, where it needs one.
        split: train or test.
        limit: answer only the first so many problems.
        steps: least and greatest number of steps of generated problems.
        out: the run folder.
        seed: decides everything random: problem i's draws depend on `seed` and its id.
        group: problems that advance together.
        aggregate: how step scores make a solution's score: product, min, mean or last.
        max_tokens: decoded at most per solution, or per step where the strategy goes by steps.
        budget: limits per problem, by the names of `mbrl_core.Budget`.
        trees: of the first so many problems, what the search looked at is written to
            `out`/trees, a page each, also where they are on record already.
        arguments: what the run folder records; by default the plain ones given here.
        say: receives progress lines.

    Raises:
        ValueError: an unknown task, a malformed data file, a model that does not fit, or `out`
            holds a run of other arguments.
        FileNotFoundError: a file or model that cannot be had.
    """
    deciding = {
        "task": task, "strategy": repr(strategy), "model": model, "scorer": scorer,
        "calculator": calculator, "data": data,
        "split": split, "limit": limit, "steps": steps, "seed": seed, "group": group,
        "aggregate": aggregate, "max_tokens": max_tokens, "budget": dict(budget or {}),
    }  # fmt: skip
    described = {k: v for k, v in (arguments or deciding).items() if k not in ("out", "trees")}
    if group < 1:
        raise ValueError(f"group must be at least 1, not {group}")
    if trees < 0:
        raise ValueError(f"trees must be 0 or more, not {trees}")
    if steps is not None and len(steps) != 2:
        raise ValueError(f"steps must be [least,greatest], not {steps}")
    described["weights"] = fingerprint(folder_of(model, "lm"))
    described["scorer_weights"] = scorer and fingerprint(folder_of(scorer, "scorer"))
    least, most = steps or DEFAULT_STEPS
    problems = load_task(task, data=data, split=split, limit=limit, steps=(least, most))
    folder = Path(out) / "trees"
    pages = {p.id: folder / f"{p.id.replace('/', '-')}.html" for p in problems[:trees]}
    with RecordStore(out, described) as store:
        if any(_missing(problem, store, pages) for problem in problems):
            reasoner = Reasoner(
                engine=TransformersEngine(folder_of(model, "lm")),
                strategy=strategy,
                scorer=load_scorer(scorer),
                calculator=calculator,
                aggregate=aggregate,
                max_tokens=max_tokens,
            )
            limits = Budget(**(budget or {}))  # type: ignore[arg-type]
            _answer_all(store, reasoner, problems, group, seed, limits, pages, say)
        summary = summarize(store.records)
        store.write_summary(summary)
    mean, low, high = summary["accuracy"].values()
    say(
        f"accuracy {mean:.1%} [{low:.1%}, {high:.1%}] on {len(problems)} problems, "
        f"{summary['tokens']:.0f} tokens a problem, {summary['unparsed']:.1%} without an answer; "
        f"records in {out}"
    )
    return summary


def load_scorer(name: str | None) -> StepScorer | None:
    """A step scorer by folder or hub name; `embedded` is the package's own, None is none."""
    return None if name is None else StepScorer(TransformersEngine(folder_of(name, "scorer")))


def _answer_all(
    store: RecordStore,
    reasoner: Reasoner,
    problems: list[Problem],
    group: int,
    seed: int,
    budget: Budget,
    pages: Mapping[str, Path],
    say: Callable[[str], None],
) -> None:
    for first in range(0, len(problems), group):
        # A group is answered whole even if part of it is on record: equal shapes round alike.
        together = problems[first : first + group]
        if not any(_missing(problem, store, pages) for problem in together):
            continue
        together = [p for p in together if _fits(reasoner.engine, p, store)]
        if not together:
            continue
        started = time.perf_counter()
        plan = reasoner.plan(
            [problem.question for problem in together],
            ids=[problem.id for problem in together],
            seed=seed,
            budget=budget,
        )
        seconds = (time.perf_counter() - started) / len(together)
        for row, problem in enumerate(together):
            if problem.id in pages:
                _save_page(pages[problem.id], plan, row, problem)
            if problem.id not in store:
                store.append(problem.id, _record(plan, row, problem) | {"seconds": seconds})
        records = store.records
        say(
            f"{len(store):5d}/{len(problems)}  accuracy "
            f"{np.mean([record['numeric'] for record in records]):.1%}  "
            f"{seconds:.2f} s a problem"
        )


def _missing(problem: Problem, store: RecordStore, pages: Mapping[str, Path]) -> bool:
    """Whether a problem has no record, or not the page that it should have."""
    if problem.id not in store:
        return True
    page = pages.get(problem.id)
    return page is not None and not page.exists() and "failed" not in store[problem.id]


def _save_page(path: Path, plan: Plan, row: int, problem: Problem) -> None:
    caption = f"{problem.question}\nThe right answer is {problem.answer}."
    save_html(plan, path, describe=describe, title=problem.id, caption=caption, roots=[row])


def describe(thought: Thought | None, action: Continuation | None) -> str:
    """The text of a node of a search: its step, or the question at the root."""
    if action is not None:
        return "".join(step.text for step in action.steps).strip() or "(no text)"
    return thought.question if thought is not None else ""


def _fits(engine: Engine, problem: Problem, store: RecordStore) -> bool:
    """Whether a question leaves room to answer it; if not, that is recorded."""
    length = len(engine.encode_prompt(problem.question))
    if length < engine.context:
        return True
    if problem.id not in store:
        reason = f"a prompt of {length} tokens fills the model's {engine.context}"
        store.append(problem.id, _failure(problem, reason))
    return False


def summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy by each grader, what the samples held, and what a problem cost on average.

    `accuracy` is that of the chosen solution by the numeric grader; `any` the share of problems of
    which some complete solution is right, `mean` the average share of right ones.
    """
    correct = [bool(record["numeric"]) for record in records]

    def average(name: str) -> float:
        return float(np.mean([record[name] for record in records]))

    return {
        "problems": len(records),
        "accuracy": wilson_interval(sum(correct), len(correct))._asdict(),
        **{grader: average(grader) for grader in GRADERS},
        "failed": sum("failed" in record for record in records),
        "unparsed": float(np.mean([record["answer"] is None for record in records])),
        "any": float(np.mean([any(s["correct"] for s in r["samples"]) for r in records])),
        "mean": float(
            np.mean([np.mean([s["correct"] for s in r["samples"]] or [0.0]) for r in records])
        ),
        **{name: average(name) for name in ("tokens", "prefilled", "scored", "steps")},
        "seconds": float(sum(record["seconds"] for record in records)),
    }


def _record(plan: Plan, row: int, problem: Problem) -> dict[str, Any]:
    """What one problem leaves behind: enough to grade and to choose again without the model."""
    thought = plan.final[row]
    tokens = plan.cost.tokens
    return {
        "question": problem.question,
        "reference": problem.answer,
        "text": thought.text,
        **_graded(thought, problem),
        "value": _finite(float(plan.value[row])),
        "tokens": int(tokens.decoded[row]),
        "prefilled": int(tokens.prefilled[row]),
        "scored": int(tokens.scored[row]),
        "steps": int(plan.cost.steps[row]),
        "samples": [
            {
                "text": sample.text,
                "answer": _graded(sample, problem)["answer"],
                "correct": _graded(sample, problem)["numeric"],
                "value": _finite(value),
                "scores": list(sample.scores),
                "logprob": sample.logprob,
            }
            for sample, value in _complete(plan, row)
        ],
    }


def _graded(thought: Thought, problem: Problem) -> dict[str, Any]:
    """The answer and whether each grader accepts it; a cut solution has none and is wrong."""
    if thought.finish != "answered":
        return {"answer": None, **dict.fromkeys(GRADERS, False)}
    grades = {name: grader(thought.text, problem.answer) for name, grader in GRADERS.items()}
    return {
        "answer": answer_of(thought),
        **{name: bool(grade.correct) for name, grade in grades.items()},
    }


def _failure(problem: Problem, reason: str) -> dict[str, Any]:
    """The record of a problem that could not be put to the model: no answer, and why."""
    costs = dict.fromkeys(("tokens", "prefilled", "scored", "steps"), 0)
    return {
        "question": problem.question, "reference": problem.answer, "text": "", "answer": None,
        **dict.fromkeys(GRADERS, False), "value": None, **costs, "samples": [], "seconds": 0.0,
        "failed": reason,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    """A value for a record; None for the -inf of a solution that was cut."""
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
    rewards = trace.reward[row, :size].tolist()  # all of a solution's return comes with its end
    pairs = zip(thoughts, rewards, strict=True)
    return [(thought, reward) for thought, reward in pairs if thought.finish != "open"]


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("evals_reasoning", evaluate, __doc__ or ""))
