"""Planning written once: the same planners over learned world models and over language models."""

from torch import Tensor

from mbrl_core.draws import generator
from mbrl_core.planners.beam import BeamSearch
from mbrl_core.planners.gradient import GradMPC
from mbrl_core.planners.mcts import MCTS
from mbrl_core.planners.receding import RecedingHorizon
from mbrl_core.planners.sampling import CEM, MPPI
from mbrl_core.planners.selection import (
    PUCT,
    UCT,
    CompletedQ,
    Gumbel,
    MinMaxQ,
    NodeStats,
    QTransform,
    RawQ,
    Selection,
    SiblingsQ,
)
from mbrl_core.planners.shooting import RandomShooting
from mbrl_core.planners.trajectory import WarmStart
from mbrl_core.policies import ListedActions, RandomActions, all_actions, grid_actions
from mbrl_core.reducers import Argmax, Reducer, Vote, WeightedVote
from mbrl_core.types import (
    Box,
    Budget,
    Carry,
    Cost,
    Discrete,
    Dynamics,
    Event,
    Listener,
    Model,
    Plan,
    Planner,
    Policy,
    Proposal,
    Rng,
    Rollout,
    Rows,
    Tokens,
    Transition,
    Tree,
    Value,
)

__all__ = [
    "CEM",
    "MCTS",
    "MPPI",
    "PUCT",
    "UCT",
    "Argmax",
    "BeamSearch",
    "Box",
    "Budget",
    "Carry",
    "CompletedQ",
    "Cost",
    "Discrete",
    "Dynamics",
    "Event",
    "GradMPC",
    "Gumbel",
    "ListedActions",
    "Listener",
    "MinMaxQ",
    "Model",
    "NodeStats",
    "Plan",
    "Planner",
    "Policy",
    "Proposal",
    "QTransform",
    "RandomActions",
    "RandomShooting",
    "RawQ",
    "RecedingHorizon",
    "Reducer",
    "Rng",
    "Rollout",
    "Rows",
    "Selection",
    "SiblingsQ",
    "Tokens",
    "Transition",
    "Tree",
    "Value",
    "Vote",
    "WarmStart",
    "WeightedVote",
    "all_actions",
    "generator",
    "grid_actions",
    "reset",
]


def reset(carry: Carry, mask: Tensor) -> Carry:
    """The carry with the rows where `mask` [B] bool is true forgotten; None stays None."""
    return None if carry is None else carry.reset(mask)
