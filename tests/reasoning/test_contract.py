"""Language as a world keeps the public contract of models, and strategies that of planners."""

from __future__ import annotations

import pytest

from mbrl_core.testing import check_model, check_planner
from reasoning.engines.base import Sampling
from reasoning.strategies import (
    Strategy,
    best_of_n,
    dvts,
    greedy,
    lookahead,
    mcts,
    particle_filter,
    receding,
    self_consistency,
    soft_best_of_n,
    tree_of_thoughts,
    tree_of_thoughts_dfs,
    weighted_vote,
)
from reasoning.world import LanguagePolicy, TextWorld, Thought, text_model
from tests.language import Checker, scripted

QUESTIONS = ["3+4+5", "10+20", "1+2+3+4"]
STRATEGIES: dict[str, Strategy] = {
    "greedy": greedy(),
    "best_of_n": best_of_n(n=4),
    "self_consistency": self_consistency(n=4),
    "weighted_vote": weighted_vote(n=4),
    "soft_best_of_n": soft_best_of_n(n=4),
    "tree_of_thoughts": tree_of_thoughts(width=2, expand=2, depth=5),
    "dvts": dvts(width=2, expand=2, depth=5),
    "tree_of_thoughts_dfs": tree_of_thoughts_dfs(expand=2, depth=5, max_nodes=10),
    "particle_filter": particle_filter(particles=4, depth=5),
    "mcts": mcts(simulations=6, candidates=3),
    "mcts_vote": mcts(simulations=6, candidates=3, choose="vote"),
    "mcts_rollouts": mcts(simulations=4, candidates=3, rollouts=2, selection="uct"),
    "lookahead": lookahead(width=2, expand=2, depth=4, ahead=2),
    "receding": receding(mcts(simulations=4, candidates=2, reuse=True), steps=3),
}


def questions() -> list[Thought]:
    engine = scripted()
    return [Thought(question, engine.encode_prompt(question)) for question in QUESTIONS]


@pytest.mark.parametrize("unit", ["solution", "step"])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("scorer", [None, Checker()], ids=["likelihood", "scorer"])
def test_text_keeps_the_contract_of_models(unit, merge, scorer):
    policy = LanguagePolicy(scripted(), unit=unit, merge=merge)
    check_model(text_model(policy, TextWorld(scorer)), questions())


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_strategies_keep_the_contract_of_planners(strategy):
    policy = LanguagePolicy(
        scripted(), strategy.unit, Sampling(strategy.temperature), merge=strategy.merge
    )
    check_planner(strategy.planner, text_model(policy, TextWorld(Checker())), questions())
