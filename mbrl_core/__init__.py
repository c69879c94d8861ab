"""Planning written once: the same planners over learned world models and over language models."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl_core.chunks import Chunked, in_chunks
from mbrl_core.draws import generator
from mbrl_core.dyna import DynaQ
from mbrl_core.export import to_networkx
from mbrl_core.hybrid import Residual, ResidualNet, fit_residual
from mbrl_core.paths import actions_of
from mbrl_core.planners.beam import BeamSearch
from mbrl_core.planners.categorical import CategoricalCEM
from mbrl_core.planners.dfs import DepthFirstSearch
from mbrl_core.planners.game import Game, Rules
from mbrl_core.planners.gradient import GradCEM, GradMPC
from mbrl_core.planners.icem import ICEM, EliteStart
from mbrl_core.planners.ilqr import ILQR
from mbrl_core.planners.lqr import LQR, dare
from mbrl_core.planners.mcts import MCTS, Widening
from mbrl_core.planners.mlp import CompiledMLP, compiled_mlp, run_mlp
from mbrl_core.planners.particles import ParticleFilter
from mbrl_core.planners.receding import RecedingHorizon
from mbrl_core.planners.reflex import Reflex
from mbrl_core.planners.sampling import CEM, MPPI
from mbrl_core.planners.selection import (
    PUCT,
    UCT,
    CompletedQ,
    Gumbel,
    MinMaxQ,
    QTransform,
    RawQ,
    Selection,
    SiblingsQ,
)
from mbrl_core.planners.shooting import RandomShooting
from mbrl_core.planners.tdmpc import TDMPC
from mbrl_core.planners.trajectory import WarmStart
from mbrl_core.policies import (
    ListedActions,
    RandomActions,
    all_actions,
    grid_actions,
    uniform_policy,
)
from mbrl_core.reducers import Argmax, Reducer, Vote, WeightedVote
from mbrl_core.repeat import ActionRepeat, repeat_actions
from mbrl_core.returns import advantages, lambda_returns, n_step_returns
from mbrl_core.types import (
    Box,
    Budget,
    BudgetError,
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
from mbrl_core.uncertainty import (
    Cloud,
    CVaR,
    Mean,
    MeanStd,
    Particles,
    Penalised,
    Risk,
    Unsure,
    Worst,
    penalised,
)
from mbrl_core.viewer import save_html

__all__ = [
    "actions_of",
    "advantages",
    "n_step_returns",
    "lambda_returns",
    "fit_residual",
    "ResidualNet",
    "Residual",
    "DynaQ",
    "CEM",
    "ICEM",
    "MCTS",
    "MPPI",
    "PUCT",
    "TDMPC",
    "UCT",
    "ActionRepeat",
    "Argmax",
    "BeamSearch",
    "Box",
    "Budget",
    "BudgetError",
    "CVaR",
    "Carry",
    "CategoricalCEM",
    "Chunked",
    "Cloud",
    "CompiledMLP",
    "CompletedQ",
    "Cost",
    "DepthFirstSearch",
    "Discrete",
    "Dynamics",
    "EliteStart",
    "Event",
    "GradCEM",
    "Game",
    "GradMPC",
    "Gumbel",
    "ILQR",
    "LQR",
    "ListedActions",
    "Listener",
    "Mean",
    "MeanStd",
    "MinMaxQ",
    "Model",
    "ParticleFilter",
    "Particles",
    "Penalised",
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
    "Reflex",
    "Risk",
    "Rng",
    "Rollout",
    "Rows",
    "Rules",
    "Selection",
    "SiblingsQ",
    "Tokens",
    "Transition",
    "Tree",
    "Unsure",
    "Value",
    "Vote",
    "WarmStart",
    "WeightedVote",
    "Widening",
    "Worst",
    "all_actions",
    "compiled_mlp",
    "dare",
    "generator",
    "grid_actions",
    "in_chunks",
    "penalised",
    "repeat_actions",
    "reset",
    "run_mlp",
    "save_html",
    "to_networkx",
    "uniform_policy",
]


def reset(carry: Carry, mask: Tensor | Sequence[bool]) -> Carry:
    """The carry with the rows where `mask` [B] is true forgotten; None stays None.

    The mask may be a tensor, an array or a list of truth values. Raises ValueError where it holds
    others.
    """
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise ValueError(
            f"reset needs one truth value per root, [B] of bool, not {list(mask.shape)} of "
            f"{str(mask.dtype).removeprefix('torch.')}"
        )
    return None if carry is None else carry.reset(mask)
