"""Reasoning strategies: each a planner of the core and the grain at which it samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mbrl_core import (
    MCTS,
    PUCT,
    Argmax,
    BeamSearch,
    Planner,
    RandomShooting,
    RawQ,
    Reducer,
    Rows,
    Vote,
    WeightedVote,
)
from reasoning.grading import extract_numeric, shortest
from reasoning.world import Thought


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How to search for a solution.

    planner: any planner of the core that works on text.
    unit: what one action is, a whole `solution` or a `step`.
    temperature: of sampling; 0 is greedy.
    merge: equal candidates of a node become one, their count its prior.
    """

    planner: Planner
    unit: Literal["solution", "step"]
    temperature: float = 0.8
    merge: bool = False


@dataclass(frozen=True)
class FinalNumber:
    """What each solution votes for: its number, or None where it is unfinished or has none.

    One number is one candidate, however it is written: 18, 18.0 and $18.
    """

    def __call__(self, thoughts: Rows) -> list[str | None]:
        """See `mbrl_core.reducers.Key`."""
        return [answer_of(thought) for thought in thoughts]


def answer_of(thought: Thought) -> str | None:
    """The number a finished solution ends with, in its shortest form; else None."""
    found = extract_numeric(thought.text) if thought.finish == "answered" else None
    return None if found is None else shortest(found)


def greedy() -> Strategy:
    """Chain of thought at temperature 0 (Wei et al. 2022)."""
    return Strategy(planner=RandomShooting(samples=1, horizon=1), unit="solution", temperature=0.0)


def self_consistency(n: int = 16, temperature: float = 0.8) -> Strategy:
    """The majority answer of n samples (Wang et al. 2022)."""
    return _sampled(n, temperature, Vote(FinalNumber()))


def best_of_n(n: int = 16, temperature: float = 0.8) -> Strategy:
    """The sample of highest score (Cobbe et al. 2021)."""
    return _sampled(n, temperature, Argmax())


def weighted_vote(n: int = 16, temperature: float = 0.8) -> Strategy:
    """The answer whose samples have the highest sum of scores (Li et al. 2023)."""
    return _sampled(n, temperature, WeightedVote(FinalNumber()))


def tree_of_thoughts(
    width: int = 4, expand: int = 4, depth: int = 12, temperature: float = 0.8
) -> Strategy:
    """Beam search over steps by score (Yao et al. 2023, breadth first)."""
    planner = BeamSearch(width=width, expand=expand, depth=depth)
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def mcts(
    simulations: int = 32,
    candidates: int = 4,
    c_puct: float = 1.0,
    temperature: float = 0.8,
    choose: Literal["best", "vote"] = "best",
) -> Strategy:
    """Monte Carlo tree search over steps; counts of equal steps are priors, scores are values.

    `choose` takes, of the complete solutions in the tree, the `best` by score or the answer of the
    highest sum of scores.
    """
    if choose not in ("best", "vote"):
        raise ValueError(f"choose must be best or vote, not {choose!r}")
    reduce: Reducer = Argmax() if choose == "best" else WeightedVote(FinalNumber())
    planner = MCTS(
        simulations=simulations,
        candidates=candidates,
        selection=PUCT(c_init=c_puct, q=RawQ()),
        reduce=reduce,
    )
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def _sampled(n: int, temperature: float, reduce: Reducer) -> Strategy:
    planner = RandomShooting(samples=n, horizon=1, reduce=reduce)
    return Strategy(planner=planner, unit="solution", temperature=temperature)
