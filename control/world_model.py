"""Trained world models as files: weights, and all that is needed to plan with them.

    world = load_world_model("cartpole-swingup")  # or a path
    plan, carry = planner(world.model(), world.root(obs), rng=rng)

`control/train.py` makes such files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from control import checkpoints
from control.checkpoints import CheckpointError
from control.ensemble import Ensemble, EnsembleState, Propagation
from control.envs import VectorEnv, make_env
from control.rewards import known_task, repeated
from mbrl_core.policies import uniform_policy
from mbrl_core.types import Box, Discrete, Model

KIND = "world model"
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class WorldModel:
    """A learned model and the environment it is a model of."""

    ensemble: Ensemble
    env: str  # a name for `make_env`
    action_repeat: int  # simulator frames per model step
    reward: str  # "learned" or "given"
    record: dict[str, Any]  # how it was made: seed, frames, episodes, ...

    @property
    def observation_dim(self) -> int:
        """D."""
        return self.ensemble.observation_dim

    @property
    def action_space(self) -> Box | Discrete:
        """What actions the model takes."""
        return self.ensemble.action_space

    def root(self, obs: Tensor) -> EnsembleState:
        """Observations [B, D] as states to plan from."""
        return self.ensemble.root(obs)

    def model(
        self,
        *,
        propagation: Propagation | None = None,
        aleatoric: bool | None = None,
        discount: float | None = None,
    ) -> Model:
        """What planners take, with the settings of training where none are given.

        Planners that differentiate want `propagation="mean"`: one smooth, deterministic model.
        """
        dynamics = self.ensemble.using(
            propagation=propagation, aleatoric=aleatoric, discount=discount
        )
        return Model(dynamics, uniform_policy(self.action_space), None, self.action_space)

    def make_env(
        self, num_envs: int = 1, seed: int = 0, max_frames: int | None = None
    ) -> VectorEnv:
        """The environment the model was learned in, at its action repeat."""
        return make_env(self.env, num_envs, self.action_repeat, seed, max_frames)


def build_ensemble(
    env: str,
    action_repeat: int,
    observation_dim: int,
    action_space: Box | Discrete,
    *,
    reward: str,
    rng: torch.Generator | None = None,
    **settings: Any,
) -> Ensemble:
    """An ensemble for an environment, with what is known of it (`reward`: "learned" or "given").

    Learned rewards come without known ends of episodes: nothing ends in such a model.
    """
    if reward not in ("learned", "given"):
        raise ValueError(f"reward must be 'learned' or 'given', not {reward!r}")
    if reward == "given":
        task = known_task(env)
        settings |= {"reward": repeated(task.reward, action_repeat), "terminated": task.terminated}
    return Ensemble(observation_dim, action_space, rng=rng, **settings)


def save_world_model(path: Path, world: WorldModel) -> None:
    """Write `world` to a file that `load_world_model` reads."""
    ensemble, space = world.ensemble, world.action_space
    metadata = {
        "env": world.env,
        "action_repeat": world.action_repeat,
        "observation_dim": world.observation_dim,
        "reward": world.reward,
        "ensemble": {
            "members": ensemble.members,
            "hidden": list(ensemble.hidden),
            "propagation": ensemble.propagation,
            "aleatoric": ensemble.aleatoric,
            "discount": ensemble.discount,
        },
        "record": world.record,
    }
    actions = {"n": space.n} if isinstance(space, Discrete) else space._asdict()
    payload = {
        "kind": KIND,
        "metadata": json.dumps(metadata),
        "actions": actions,
        "weights": dict(ensemble.state_dict()),
    }
    checkpoints.save(path, payload)


def load_world_model(path: str | Path) -> WorldModel:
    """Read a world model; its parameters are frozen.

    Args:
        path: a file, or the name of a model that comes with the package (`"cartpole-swingup"`).

    Raises:
        CheckpointError (a ValueError): the file is missing, damaged or something else.
    """
    path = find_world_model(path)
    payload = checkpoints.load(path, KIND)
    try:
        metadata = json.loads(payload["metadata"])
        actions = payload["actions"]
        space = Discrete(**actions) if "n" in actions else Box(**actions)
        ensemble = build_ensemble(
            metadata["env"],
            metadata["action_repeat"],
            metadata["observation_dim"],
            space,
            reward=metadata["reward"],
            **metadata["ensemble"],
        )
        ensemble.load_state_dict(payload["weights"])
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} holds no world model of this version: {error}") from error
    ensemble.requires_grad_(False).eval()
    return WorldModel(
        ensemble, metadata["env"], metadata["action_repeat"], metadata["reward"], metadata["record"]
    )


def find_world_model(path: str | Path) -> Path:
    """The file of a world model given by path or by the name it has in the package.

    Raises CheckpointError where there is neither.
    """
    shipped = PRETRAINED / f"{path}.pt"
    if not Path(path).exists() and shipped.is_file():
        return shipped
    if not Path(path).exists():
        names = ", ".join(sorted(file.stem for file in PRETRAINED.glob("*.pt"))) or "none"
        raise CheckpointError(f"there is no world model {path}; with the package come: {names}")
    return Path(path)
