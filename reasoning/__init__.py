"""Reasoning: language models as worlds, searched by the planners of the core."""

from reasoning.difficulty import compute_optimal
from reasoning.engines import Engine, ScriptedEngine, TransformersEngine
from reasoning.reasoner import Answer, Reasoner
from reasoning.scorers import StepScorer
from reasoning.strategies import (
    Strategy,
    best_of_n,
    dvts,
    greedy,
    lookahead,
    mcts,
    particle_filter,
    rap,
    receding,
    self_consistency,
    soft_best_of_n,
    tree_of_thoughts,
    tree_of_thoughts_dfs,
    weighted_vote,
)

__all__ = [
    "Answer",
    "Engine",
    "Reasoner",
    "ScriptedEngine",
    "StepScorer",
    "Strategy",
    "TransformersEngine",
    "best_of_n",
    "compute_optimal",
    "dvts",
    "greedy",
    "lookahead",
    "mcts",
    "particle_filter",
    "rap",
    "receding",
    "self_consistency",
    "soft_best_of_n",
    "tree_of_thoughts",
    "tree_of_thoughts_dfs",
    "weighted_vote",
]
