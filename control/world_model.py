"""Trained world models as files: weights, and all that is needed to plan with them.

    world = load_world_model("cartpole-swingup")  # or a path
    plan, carry = planner(world.model(), world.root(obs), rng=rng)

Two kinds so far, both driven by every planner that they can serve: PETS's ensemble over
observations, and TD-MPC2's latent world, which comes with a policy and values. `control/train.py`
makes such files; TD-MPC2's published checkpoints are read, too.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from control import checkpoints, tdmpc2_checkpoints
from control.actor_critic import Actor, ActorPolicy, Critics, CriticValue, observed
from control.checkpoints import CheckpointError
from control.endings import Ending
from control.ensemble import Ensemble, EnsembleState, width_of
from control.envs import VectorEnv, make_env
from control.latent import LatentModel, LatentWorld, Size, discount_for
from control.rewards import known_task, repeated
from mbrl_core.policies import uniform_policy
from mbrl_core.types import Box, Discrete, Model, Rows

KIND = "world model"
PRETRAINED = Path(__file__).parent / "pretrained"


class WorldModel(ABC):
    """A learned model and the environment it is a model of."""

    NAME: ClassVar[str]  # of its kind, in files
    SETTINGS: ClassVar[tuple[str, ...]]  # what `model` may be told besides the discount

    env: str  # a name for `make_env`
    action_repeat: int  # simulator frames per model step
    record: dict[str, Any]  # how it was made: seed, frames, episodes, ...
    # What it was planned with while it was learned, unless told else:
    particles: int = 1  # futures simulated per candidate
    penalty: float = 0.0  # times the disagreement of what it consists of, taken off every reward

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its weights lie; generators that planners draw from have to lie there, too."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move its weights."""

    @property
    @abstractmethod
    def observation_dim(self) -> int:
        """D."""

    @property
    @abstractmethod
    def action_space(self) -> Box | Discrete:
        """What actions the model takes."""

    @abstractmethod
    def root(self, obs: Tensor) -> Rows:
        """Observations [B, D] as states to plan from."""

    def model(self, *, discount: float | None = None, **settings: Any) -> Model:
        """What planners take, with the settings of training where none (or None) are given.

        Raises ValueError where this kind of model has no such setting.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        for name in given:
            if name not in self.SETTINGS:
                raise ValueError(
                    f"a world model of kind {self.NAME!r} has no {name}: its settings are "
                    f"{', '.join(self.SETTINGS)}"
                )
        return self._model(discount, **given)

    def make_env(
        self, num_envs: int = 1, seed: int = 0, max_frames: int | None = None
    ) -> VectorEnv:
        """The environment the model was learned in, at its action repeat."""
        return make_env(self.env, num_envs, self.action_repeat, seed, max_frames)

    def of(self, env: str | None) -> WorldModel:
        """The model of that environment: itself, or one of several tasks it was trained on.

        Raises ValueError where it knows no such environment.
        """
        if env not in (None, self.env):
            raise ValueError(f"the world model was trained for {self.env}, not for {env}")
        return self

    @abstractmethod
    def _model(self, discount: float | None, **settings: Any) -> Model:
        """`model` with settings that exist."""

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """What its file holds besides its record: `metadata` for JSON, tensors by name."""

    @classmethod
    @abstractmethod
    def restore(cls, metadata: dict[str, Any], payload: dict[str, Any]) -> WorldModel:
        """The model that `contents` was taken of."""


# ------------------------------------------------------------------------------------- ensembles


@dataclass(frozen=True)
class EnsembleWorld(WorldModel):
    """PETS's: what follows an observation, by a probabilistic ensemble.

    Settings: `propagation` and `aleatoric`, see `Ensemble`. Planners that differentiate want
    `propagation="mean"`: one smooth, deterministic model.
    """

    NAME = "ensemble"
    SETTINGS: ClassVar[tuple[str, ...]] = ("propagation", "aleatoric")

    ensemble: Ensemble
    env: str
    action_repeat: int
    reward: str  # "learned" or "given"
    record: dict[str, Any]
    particles: int = field(default=1, kw_only=True)
    penalty: float = field(default=0.0, kw_only=True)

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return self.ensemble.inputs.mean.device

    def to(self, device: torch.device) -> None:
        """See `WorldModel.to`."""
        self.ensemble.to(device)

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

    def _model(self, discount: float | None, **settings: Any) -> Model:
        dynamics = self.ensemble.using(discount=discount, **settings)
        policy = uniform_policy(self.action_space, self.device)
        return Model(dynamics, policy, None, self.action_space)

    def contents(self) -> dict[str, Any]:
        """See `WorldModel.contents`."""
        ensemble = self.ensemble
        settings = {
            "members": ensemble.members,
            "hidden": list(ensemble.hidden),
            "propagation": ensemble.propagation,
            "aleatoric": ensemble.aleatoric,
            "discount": ensemble.discount,
        }
        if isinstance(ensemble.terminated, Ending):
            settings["ending"] = list(ensemble.terminated.hidden)
        metadata = {
            "env": self.env,
            "action_repeat": self.action_repeat,
            "observation_dim": self.observation_dim,
            "reward": self.reward,
            "particles": self.particles,
            "penalty": self.penalty,
            "ensemble": settings,
        }
        weights = dict(ensemble.state_dict())
        return {"metadata": metadata, "actions": _plain(self.action_space), "weights": weights}

    @classmethod
    def restore(cls, metadata: dict[str, Any], payload: dict[str, Any]) -> EnsembleWorld:
        """See `WorldModel.restore`."""
        ensemble = build_ensemble(
            metadata["env"],
            metadata["action_repeat"],
            metadata["observation_dim"],
            _space(payload["actions"]),
            reward=metadata["reward"],
            **metadata["ensemble"],
        )
        ensemble.load_state_dict(payload["weights"])
        ensemble.requires_grad_(False).eval()
        return cls(
            ensemble,
            metadata["env"],
            metadata["action_repeat"],
            metadata["reward"],
            metadata["record"],
            particles=metadata.get("particles", 1),  # files of PETS had neither once
            penalty=metadata.get("penalty", 0.0),
        )


@dataclass(frozen=True)
class ActorCriticWorld(EnsembleWorld):
    """MBPO's and SVG's: an ensemble with the policy that was learned in it, and its critics."""

    NAME = "actor_critic"

    actor: Actor
    critics: Critics

    def to(self, device: torch.device) -> None:
        """See `WorldModel.to`."""
        for networks in (self.ensemble, self.actor, self.critics):
            networks.to(device)

    def _model(self, discount: float | None, **settings: Any) -> Model:
        model = super()._model(discount, **settings)
        return model._replace(
            policy=ActorPolicy(self.actor, observed),
            value=CriticValue(self.actor, self.critics, observed),
        )

    def contents(self) -> dict[str, Any]:
        """See `WorldModel.contents`."""
        contents = super().contents()
        contents["metadata"]["hidden"] = list(self.actor.hidden)
        contents["metadata"]["layer_norm"] = self.critics.layer_norm
        contents["actor"] = dict(self.actor.state_dict())
        contents["critics"] = dict(self.critics.state_dict())
        return contents

    @classmethod
    def restore(cls, metadata: dict[str, Any], payload: dict[str, Any]) -> ActorCriticWorld:
        """See `WorldModel.restore`."""
        world = EnsembleWorld.restore(metadata, payload)
        space = world.action_space
        assert isinstance(space, Box)
        actor = Actor(world.observation_dim, space, metadata["hidden"])
        critics = Critics(
            world.observation_dim,
            space,
            metadata["hidden"],
            layer_norm=metadata["layer_norm"],
        )
        for networks, name in ((actor, "actor"), (critics, "critics")):
            networks.load_state_dict(payload[name])
            networks.requires_grad_(False)
        return cls(**vars(world), actor=actor, critics=critics)


def build_ensemble(
    env: str,
    action_repeat: int,
    observation_dim: int,
    action_space: Box | Discrete,
    *,
    reward: str,
    rng: torch.Generator | None = None,
    ending: Sequence[int] | None = None,
    **settings: Any,
) -> Ensemble:
    """An ensemble for an environment, with what is known of it (`reward`: "learned" or "given").

    Learned rewards come without known ends of episodes: nothing ends in such a model, unless by a
    learned `ending` of these hidden layers.
    """
    if reward not in ("learned", "given"):
        raise ValueError(f"reward must be 'learned' or 'given', not {reward!r}")
    if reward == "given":
        task = known_task(env)
        settings |= {"reward": repeated(task.reward, action_repeat), "terminated": task.terminated}
    if ending is not None:
        settings["terminated"] = Ending(observation_dim, width_of(action_space), ending, rng)
    return Ensemble(observation_dim, action_space, rng=rng, **settings)


# ----------------------------------------------------------------------------------- latent worlds


@dataclass(frozen=True)
class Task:
    """One environment that a latent world knows."""

    env: str  # a name for `make_env`
    action_repeat: int  # simulator frames per model step
    observation_dim: int
    action_space: Box | Discrete
    discount: float  # per model step
    number: int | None = None  # which row of the task embeddings; None where there are none


@dataclass(frozen=True)
class LatentWorldModel(WorldModel):
    """TD-MPC2's: latent dynamics with rewards, a policy and values, of one task or several.

    Settings: `heads`, the numbers of the value networks that a plan's end is judged by (the first
    two; `LatentModel` says how the published code chooses), and `half_precision`.
    """

    NAME = "tdmpc2"
    SETTINGS = ("heads", "half_precision")

    world: LatentWorld
    tasks: tuple[Task, ...]
    record: dict[str, Any]
    chosen: int = 0  # which task it is a model of at present

    @property
    def device(self) -> torch.device:
        """See `WorldModel.device`."""
        return self.world.device

    def to(self, device: torch.device) -> None:
        """See `WorldModel.to`."""
        self.world.to(device)

    @property
    def env(self) -> str:  # type: ignore[override]
        """Of the task chosen."""
        return self.tasks[self.chosen].env

    @property
    def action_repeat(self) -> int:  # type: ignore[override]
        """Of the task chosen."""
        return self.tasks[self.chosen].action_repeat

    @property
    def observation_dim(self) -> int:
        """D of the task chosen."""
        return self.tasks[self.chosen].observation_dim

    @property
    def action_space(self) -> Box | Discrete:
        """Of the task chosen."""
        return self.tasks[self.chosen].action_space

    def of(self, env: str | None) -> LatentWorldModel:
        """See `WorldModel.of`."""
        if env is None:
            return self
        names = [task.env for task in self.tasks]
        if env not in names:
            raise ValueError(f"the world model was trained for {', '.join(names)}, not for {env}")
        return replace(self, chosen=names.index(env))

    def root(self, obs: Tensor) -> Tensor:
        """Observations [B, D] as latent states [B, L]."""
        return self._view().root(obs)

    def _model(self, discount: float | None, **settings: Any) -> Model:
        return self._view(discount, **settings).model()

    def _view(self, discount: float | None = None, **settings: Any) -> LatentModel:
        task = self.tasks[self.chosen]
        settings = {"heads": (0, 1)} | settings
        return LatentModel(
            self.world,
            task.action_space,
            discount=task.discount if discount is None else discount,
            task=task.number,
            **settings,
        )

    def contents(self) -> dict[str, Any]:
        """See `WorldModel.contents`."""
        tasks = [{**vars(task), "action_space": None} for task in self.tasks]
        return {
            "metadata": {"tasks": tasks, "world": self.world.arguments()},
            "actions": [_plain(task.action_space) for task in self.tasks],
            "weights": {name: x.cpu() for name, x in self.world.state_dict().items()},
        }

    @classmethod
    def restore(cls, metadata: dict[str, Any], payload: dict[str, Any]) -> LatentWorldModel:
        """See `WorldModel.restore`."""
        arguments = metadata["world"]
        world = LatentWorld(**{**arguments, "size": Size(**arguments["size"])})
        world.load_state_dict(payload["weights"])
        world.requires_grad_(False).eval()
        tasks = tuple(
            Task(**{**task, "action_space": _space(actions)})
            for task, actions in zip(metadata["tasks"], payload["actions"], strict=True)
        )
        return cls(world, tasks, metadata["record"])


def published_world_model(path: Path, weights: dict[str, Tensor], env: str | None) -> WorldModel:
    """A published TD-MPC2 checkpoint as a model of `env`, which its file does not name.

    Raises CheckpointError where none is named, or the networks are of another size than its spaces.
    """
    if env is None:
        raise CheckpointError(
            f"{path} is a published TD-MPC2 checkpoint, which does not say what environment it is "
            "for: give its name"
        )
    world = tdmpc2_checkpoints.build(weights)
    repeat = tdmpc2_checkpoints.ACTION_REPEAT if env.startswith("dmc/") else 1
    real = make_env(env, action_repeat=repeat)
    try:
        number = tdmpc2_checkpoints.task_number(world, env)
        tdmpc2_checkpoints.check_fit(world, real.observation_dim, real.action_space)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    discount = discount_for(real.frames_per_episode, repeat)
    task = Task(env, repeat, real.observation_dim, real.action_space, discount, number)
    return LatentWorldModel(world, (task,), {"published": path.name})


# ------------------------------------------------------------------------------------------ files


_KINDS: dict[str, type[WorldModel]] = {
    kind.NAME: kind for kind in (EnsembleWorld, ActorCriticWorld, LatentWorldModel)
}


def save_world_model(path: Path, world: WorldModel) -> None:
    """Write `world` to a file that `load_world_model` reads."""
    contents = world.contents()
    metadata = contents.pop("metadata") | {"record": world.record}
    checkpoints.save(
        path, {"kind": KIND, "model": world.NAME, "metadata": json.dumps(metadata), **contents}
    )


def load_world_model(path: str | Path, env: str | None = None) -> WorldModel:
    """Read a world model; its parameters are frozen.

    Args:
        path: a file, or the name of a model that comes with the package (`"cartpole-swingup"`).
            Published TD-MPC2 checkpoints are read, too.
        env: which environment it is to be a model of, where it knows several or its file does not
            say.

    Raises:
        CheckpointError (a ValueError): the file is missing, damaged or something else.
        ValueError: the model knows no environment `env`.
    """
    path = find_world_model(path)
    payload = checkpoints.read(path)
    weights = tdmpc2_checkpoints.weights_of(payload)
    if weights is not None:
        return published_world_model(path, weights, env)
    if payload.get("kind") != KIND:
        raise CheckpointError(f"{path} does not hold a {KIND}")
    try:
        kind = _KINDS[payload.get("model", EnsembleWorld.NAME)]
        world = kind.restore(json.loads(payload["metadata"]), payload)
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} holds no world model of this version: {error}") from error
    return world.of(env)


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


def _plain(space: Box | Discrete) -> dict[str, Any]:
    """A space as plain data and tensors."""
    return {"n": space.n} if isinstance(space, Discrete) else space._asdict()


def _space(actions: dict[str, Any]) -> Box | Discrete:
    return Discrete(**actions) if "n" in actions else Box(**actions)
