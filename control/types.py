"""What crosses a boundary in training: agents, replay, those who watch a run.

An agent is a frozen dataclass of hyperparameters, a `Recipe`; `start` makes its `Learner`, which
holds all that changes. `control/train.py` drives it. A `Watcher` is told of metrics, evaluations
and the end, for logs and videos.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from mbrl_core.types import Carry, Planner

if TYPE_CHECKING:
    from control.envs import VectorEnv
    from control.replay import Replay
    from control.world_model import WorldModel

Act: TypeAlias = Callable[[Tensor, Carry], tuple[Tensor, Carry]]
"""(obs [B, D], carry) to (actions [B, A], carry); the carry is None when episodes start."""

Row: TypeAlias = dict[str, float]
"""Metrics by name; an evaluation's are absent from a row without one."""


class Learner(Protocol):
    """An agent at work."""

    device: torch.device  # where its tensors lie; the generators `act` is given lie there, too
    # A learner that learns from every step of the run, and not from the latest alone, says so by
    # `learns_from_all = True`.

    def act(
        self, obs: Tensor, carry: Carry, *, explore: bool, rng: torch.Generator
    ) -> tuple[Tensor, Carry]:
        """Observations [B, D], float32 on the CPU, to actions [B, A] (int64 [B] if discrete).

        The carry is None when all episodes start; rows that begin anew later are reset in it by
        `mbrl_core.reset(carry, mask)`. While experience is collected `explore` is true, in an
        evaluation it is not. Draws come from `rng` alone, and nothing is remembered but in the
        carry: an evaluation must not change what follows.
        """
        ...

    def learn(self, replay: Replay, steps: int) -> dict[str, float]:
        """Learn what is due now that `steps` rows were added to `replay` since the last call.

        Called after every step of the environments once the random phase is over; the first call
        is told all of that phase's rows. Returns metrics, {} where nothing was done: `updates` are
        the gradient steps made and are added up, everything else is averaged until it is logged.
        Draws come from the generator given to `Recipe.start`.

        A loss that is NaN or infinite is not applied: its update is left out, the others are made,
        and at the end NotFiniteError says so (`Attempts` in `control/finite.py` does that). The
        learner can be called again then.
        """
        ...

    def world_model(self, record: dict[str, Any]) -> WorldModel | None:
        """What was learned, to be saved with `record`; None where there is no model to plan with.

        Not asked for before `learn` returned an update.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from, as plain data and tensors: weights, optimisers, counters,
        generators of its own (that given to `start` is the loop's to save)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


class Recipe(Protocol):
    """An algorithm's hyperparameters, a frozen dataclass."""

    @property
    def random_frames(self) -> int:
        """Simulator frames of uniformly random actions that come first."""
        ...

    @property
    def action_repeat(self) -> int:
        """Frames for which it holds an action in the DeepMind Control Suite, unless told else."""
        ...

    def start(self, env: VectorEnv, planner: Planner | None, *, rng: torch.Generator) -> Learner:
        """A learner that knows nothing yet.

        `env` says what there is to observe and to do; it is not to be stepped. Without a planner an
        agent takes the one it was published with, or none. `rng` lies on the CPU.
        """
        ...


class Evaluation(NamedTuple):
    """Episodes apart from training, without exploration."""

    frames: int  # of training until then
    returns: Tensor  # [E] undiscounted
    lengths: Tensor  # [E] int64 simulator frames
    seed: int  # of the first of the episodes
    actions: Tensor  # [T, A] or int64 [T] that were taken in it: with the seed, all of it


class RunInfo(NamedTuple):
    """What a watcher may want to know of a run before its first row."""

    folder: Path
    env: str  # a name for `make_env`
    action_repeat: int
    max_frames: int | None
    seed: int
    frames: int  # to be seen in all
    arguments: dict[str, Any]  # as they are recorded
    rows: list[Row]  # metrics so far; what lies past them on disk, a stopped run will do again


class Watcher(Protocol):
    """Told what happens in a run; `control/logs.py` and `control/video.py` have some."""

    def start(self, run: RunInfo) -> None:
        """Before the first step, also of a run that is continued."""
        ...

    def on_row(self, row: Row) -> None:
        """A row was added to metrics.csv."""
        ...

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        """An evaluation is done. `act` is the agent as it was evaluated, with a generator of its
        own: it may be played in other environments without changing the run."""
        ...

    def close(self) -> None:
        """The run ends, finished or not."""
        ...
