"""Records graded, valued and chosen from again: no model is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mbrl_core import Argmax, Reducer, Vote, WeightedVote
from reasoning.arithmetic import miscalculated
from reasoning.grading import load_grader
from reasoning.world import AGGREGATES

Record = Mapping[str, Any]
Sample = Mapping[str, Any]


def _answers(samples: Sequence[Sample]) -> list[str | None]:
    return [sample["answer"] for sample in samples]


VOTES: dict[str, Reducer] = {
    "best": Argmax(),
    "majority": Vote(_answers),
    "weighted": WeightedVote(_answers),
}


def regraded(record: Record, grader: str) -> dict[str, Any]:
    """The record with the answer and every sample graded by another grader.

    `numeric`, by which accuracy is counted, and each sample's `correct` become what `grader` says.
    A solution that was cut, or had no answer, stays wrong. Raises ValueError on an unknown grader.
    """
    grade = load_grader(grader)

    def right(solution: Sample) -> bool:
        answered = solution["answer"] is not None
        return answered and bool(grade(solution["text"], record["reference"]).correct)

    samples = [{**sample, "correct": right(sample)} for sample in record["samples"]]
    return {**record, "numeric": right(record), "samples": samples}


def revalued(sample: Sample, aggregate: str, *, calculator: bool) -> float:
    """What a sample is worth under another aggregate of its step scores; -inf where it was cut.

    As `reasoning.world.TextWorld` has it: 0 where an equation does not hold and `calculator` looks,
    and the value on record where there are no step scores. Raises ValueError on an unknown
    aggregate.
    """
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATES)}, not {aggregate!r}")
    if sample["value"] is None:
        return -math.inf
    if calculator and any(map(miscalculated, sample["text"].splitlines())):
        return 0.0
    return AGGREGATES[aggregate](sample["scores"]) if sample["scores"] else sample["value"]


def chosen_by(
    record: Record, vote: str, aggregate: str = "product", *, calculator: bool = False
) -> Sample:
    """The sample that `vote` (best, majority or weighted) chooses, ties as in a real run.

    Raises ValueError on an unknown vote, and where the record holds no sample.
    """
    if vote not in VOTES:
        raise ValueError(f"vote must be one of {', '.join(VOTES)}, not {vote!r}")
    samples = list(record["samples"])
    if not samples:
        raise ValueError(f"the record of {record.get('id')!r} holds no sample")
    values = [revalued(sample, aggregate, calculator=calculator) for sample in samples]
    index, _ = VOTES[vote](torch.tensor([values], dtype=torch.float64), samples)
    return samples[int(index)]
