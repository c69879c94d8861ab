"""Reasoning strategies: each a planner of the core and the grain at which it samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Argmax,
    BeamSearch,
    DepthFirstSearch,
    Gumbel,
    ParticleFilter,
    Planner,
    RandomShooting,
    RawQ,
    Reducer,
    Rows,
    Selection,
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


def soft_best_of_n(
    n: int = 16, score_temperature: float = 0.1, temperature: float = 0.8
) -> Strategy:
    """The answer of highest sum of exp(score / score_temperature).

    Between the majority (infinitely hot) and the sample of highest score (cold).
    """
    return _sampled(n, temperature, WeightedVote(FinalNumber(), score_temperature))


def tree_of_thoughts(
    width: int = 4, expand: int = 4, depth: int = 12, temperature: float = 0.8
) -> Strategy:
    """Beam search over steps by score (Yao et al. 2023, breadth first)."""
    planner = BeamSearch(width=width, expand=expand, depth=depth)
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def dvts(width: int = 4, expand: int = 4, depth: int = 12, temperature: float = 0.8) -> Strategy:
    """Diverse verifier tree search (Beeching et al. 2024): `width` subtrees, each followed along
    its best step."""
    planner = BeamSearch(width=width, expand=expand, depth=depth, groups=width)
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def tree_of_thoughts_dfs(
    expand: int = 3,
    depth: int = 12,
    max_nodes: int = 64,
    prune_below: float | None = 0.3,
    enough: float | None = None,
    temperature: float = 0.8,
) -> Strategy:
    """Depth-first search over steps (Yao et al. 2023): a solution whose score falls below
    `prune_below` is given up, one that scores `enough` ends the search."""
    planner = DepthFirstSearch(
        expand=expand, depth=depth, max_nodes=max_nodes, prune_below=prune_below, enough=enough
    )
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def particle_filter(
    particles: int = 16,
    depth: int = 24,
    score_temperature: float = 0.1,
    weigh: Literal["gain", "score"] = "gain",
    resample_at: float = 1.0,
    temperature: float = 0.8,
    choose: Literal["best", "vote"] = "vote",
) -> Strategy:
    """Sequential Monte Carlo over steps (Puri et al. 2025): solutions multiply and die by score.

    `choose` takes the particle of `best` score or the answer of the highest sum of weights.
    """
    planner = ParticleFilter(
        particles=particles,
        depth=depth,
        temperature=score_temperature,
        weigh=weigh,
        resample_at=resample_at,
        judge="return" if choose == "best" else "weight",
        reduce=_chosen_by(choose),
    )
    return Strategy(planner=planner, unit="step", temperature=temperature)


def mcts(
    simulations: int = 32,
    candidates: int = 4,
    selection: Literal["puct", "uct", "gumbel"] = "puct",
    exploration: float = 1.0,
    temperature: float = 0.8,
    choose: Literal["best", "vote"] = "best",
    leaves: int = 1,
) -> Strategy:
    """Monte Carlo tree search over steps; counts of equal steps are priors, scores are values.

    `exploration` is the weight of what was seldom tried, for `puct` and `uct`. `choose` takes, of
    the complete solutions in the tree, the `best` by score or the answer of the highest sum of
    scores. `leaves` steps are taken in each tree at once.
    """
    selections: dict[str, Selection] = {
        "puct": PUCT(c_init=exploration, q=RawQ()),
        "uct": UCT(exploration=exploration),
        "gumbel": Gumbel(),
    }
    if selection not in selections:
        raise ValueError(f"selection must be one of {', '.join(selections)}, not {selection!r}")
    planner = MCTS(
        simulations=simulations,
        candidates=candidates,
        selection=selections[selection],
        reduce=_chosen_by(choose),
        leaves=leaves,
    )
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def _chosen_by(choose: Literal["best", "vote"]) -> Reducer:
    if choose not in ("best", "vote"):
        raise ValueError(f"choose must be best or vote, not {choose!r}")
    return Argmax() if choose == "best" else WeightedVote(FinalNumber())


def _sampled(n: int, temperature: float, reduce: Reducer) -> Strategy:
    planner = RandomShooting(samples=n, horizon=1, reduce=reduce)
    return Strategy(planner=planner, unit="solution", temperature=temperature)
