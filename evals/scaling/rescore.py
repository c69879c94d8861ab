"""Records graded, valued and chosen from again: no model is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mbrl_core import Argmax, Reducer, Vote, WeightedVote
from reasoning.tasks import GSM8K, Problem, Task
from reasoning.world import AGGREGATES, judged, mean_probability

Record = Mapping[str, Any]
Sample = Mapping[str, Any]


def _answers(samples: Sequence[Sample]) -> list[str | None]:
    return [sample["answer"] for sample in samples]


VOTES: dict[str, Reducer] = {
    "best": Argmax(),
    "majority": Vote(_answers),
    "weighted": WeightedVote(_answers),
}


def regraded(record: Record, grader: str | None = None, task: Task = GSM8K) -> dict[str, Any]:
    """The record with the answer and every sample graded again, by the task's own grader or by
    another of `task.graders`.

    Its `correct` and each sample's become what the grader says. A solution that was cut, or had no
    answer, stays wrong. Raises ValueError on an unknown grader.
    """
    if grader is not None and grader not in task.graders:
        known = ", ".join(task.graders) or "none beside its own"
        raise ValueError(f"the task {task.name!r} has no grader {grader!r}; it has {known}")
    grade = task.grade if grader is None else task.graders[grader]
    problem = Problem(record["id"], record["question"], record["reference"])

    def right(solution: Sample) -> bool:
        answered = solution["answer"] is not None
        return answered and bool(grade(solution["text"], problem).correct)

    samples = [{**sample, "correct": right(sample)} for sample in record["samples"]]
    return {**record, "correct": right(record), "samples": samples}


def revalued(
    sample: Sample,
    aggregate: str | None,
    *,
    calculator: bool,
    lm_weight: float = 0.0,
    question: str = "",
    task: Task = GSM8K,
) -> float:
    """What a sample is worth under another aggregate of its step scores; -inf where it was cut.

    As `reasoning.world.TextWorld` has it: 0 where calculation refutes a step and `calculator`
    looks, the language model's own probability weighed in by `lm_weight`, and the value on record
    where there are no step scores. Without an aggregate it is the mean token probability, as
    without a scorer. Raises ValueError on an unknown aggregate.
    """
    if aggregate is not None and aggregate not in AGGREGATES:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, not {aggregate!r}")
    if sample["value"] is None:
        return -math.inf
    if calculator and task.refuted(question, sample["text"].splitlines()):
        return 0.0
    if aggregate is None:
        return mean_probability(sample["logprob"], sample["tokens"])
    if not sample["scores"]:
        return sample["value"]
    return judged(AGGREGATES[aggregate](sample["scores"]), sample["logprob"], lm_weight)


def chosen_by(
    record: Record,
    vote: str,
    aggregate: str = "product",
    *,
    calculator: bool = False,
    lm_weight: float = 0.0,
    task: Task = GSM8K,
) -> Sample:
    """The sample that `vote` (best, majority or weighted) chooses, ties as in a real run.

    Raises ValueError on an unknown vote, and where the record holds no sample.
    """
    if vote not in VOTES:
        raise ValueError(f"vote must be one of {', '.join(VOTES)}, not {vote!r}")
    samples = list(record["samples"])
    if not samples:
        raise ValueError(f"the record of {record.get('id')!r} holds no sample")
    question = record["question"] if calculator else ""
    values = [
        revalued(
            sample,
            aggregate,
            calculator=calculator,
            lm_weight=lm_weight,
            question=question,
            task=task,
        )
        for sample in samples
    ]
    index, _ = VOTES[vote](torch.tensor([values], dtype=torch.float64), samples)
    return samples[int(index)]
