"""The Game of 24 without a language model: all legal moves as candidates, and an exact judge.

With both, any planner of the core plays it on the states of text (`reasoning.world`), which shows
what a search does when proposals or judgements are perfect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mbrl_core import Proposal, Rng
from mbrl_core.draws import uniform
from reasoning.tasks.game24 import (
    GAME24,
    TARGET,
    Numbers,
    expression_of,
    moves_of,
    numbers_of,
    operations,
    solvable,
    walk,
)
from reasoning.world import Aggregate, Continuation, Kind, Step, Thought


def start(question: str) -> Thought:
    """The state before the first move."""
    return Thought(question, (), task=GAME24)


@dataclass(frozen=True)
class LegalMoves:
    """All legal moves that differ in what is left; where there are more than are asked for, so many
    of them at random. A single number is closed by the expression that made it.

    Its thoughts hold text without tokens.
    """

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        most = 30  # six pairs, five moves each
        order = uniform(rng, len(state), most).argsort(1).tolist()
        listed = [_lines(thought) for thought in state]
        chosen = [
            [lines[i] for i in sorted([i for i in row if i < len(lines)][:num])]
            for lines, row in zip(listed, order, strict=True)
        ]
        width = max(map(len, chosen))
        log_prior = torch.full((len(state), width), -torch.inf)
        actions = []
        for row, lines in enumerate(chosen):
            log_prior[row, : len(lines)] = 0.0
            actions += [_continuation(line) for line in lines + lines[:1] * (width - len(lines))]
        return Proposal(actions, log_prior)


def _lines(thought: Thought) -> list[str]:
    lines = thought.text.splitlines()
    left = walk(thought.question, lines).left
    if len(left) > 1:
        return [operation.line for operation in operations(left)]
    numbers = numbers_of(thought.question)
    expression = expression_of(numbers, moves_of(lines))
    return [f"{GAME24.closing} {expression} = {left[0]}"]


def _continuation(line: str) -> Continuation:
    return Continuation((Step((), f"{line}\n"),), "stop", math.nan)


@dataclass(frozen=True)
class Reachable:
    """Exact: 1 where 24 can still be made of the numbers left, or has been; else 0.

    It knows the game by heart: an upper limit for judges, not a judge to report.
    """

    kind: ClassVar[Kind] = "potential"
    aggregate: ClassVar[Aggregate] = "last"

    def score(
        self, thoughts: Sequence[Thought], added: Sequence[int]
    ) -> tuple[list[tuple[float, ...] | None], list[int]]:
        """See `Scorer`."""
        scores: list[tuple[float, ...] | None] = [
            (self._score(thought),) * new for thought, new in zip(thoughts, added, strict=True)
        ]
        return scores, [0] * len(thoughts)

    def _score(self, thought: Thought) -> float:
        left, legal = walk(thought.question, thought.text.splitlines())
        return float(legal and _leads_on(left))


def _leads_on(left: Numbers) -> bool:
    return left == (TARGET,) if len(left) == 1 else all(n >= 0 for n in left) and solvable(left)
