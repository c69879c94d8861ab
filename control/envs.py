"""One environment interface over the DeepMind Control Suite and Gymnasium.

    env = make_env("dmc/cartpole-swingup", num_envs=4, action_repeat=8)
    obs = env.reset(seeds=[0, 1, 2, 3])
    while not env.done.all():
        obs, reward, terminated, truncated, frames = env.step(actions)

Unlike Gymnasium's vector environments nothing is reset by itself: `step` returns the observation in
which an episode ended, an ended row stands still, and `reset(mask=...)` starts new episodes, of any
rows while the others go on with theirs.

A frame is one control step of the simulator; an action is held for `action_repeat` of them.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mbrl_core.types import Box, Discrete

# States need no renderer, and MuJoCo looks for one when it is imported.
os.environ.setdefault("MUJOCO_GL", "disabled")


class StepResult(NamedTuple):
    """One decision in each of B environments."""

    obs: Tensor  # [B, D] float32, after the step: where an episode ended, its last observation
    reward: Tensor  # [B] float32, summed over the frames the action was held
    terminated: Tensor  # [B] bool: the episode ended by itself; what follows is worth nothing
    truncated: Tensor  # [B] bool: the episode was cut by a time limit; bootstrap through it
    frames: Tensor  # [B] int64: simulator frames this step took; 0 in rows that had ended before


class Frame(NamedTuple):
    """One simulator frame of a single environment."""

    obs: np.ndarray  # [D] float32
    reward: float
    terminated: bool
    truncated: bool


class Simulator(Protocol):
    """A single environment; what a new suite has to provide."""

    action_space: Box | Discrete
    frames_per_episode: int | None  # its time limit; None for none

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` alone decides; returns the observation [D]."""
        ...

    def frame(self, action: np.ndarray) -> Frame:
        """Simulate one frame with `action` ([A], or a whole number [])."""
        ...


def make_env(
    name: str,
    num_envs: int = 1,
    action_repeat: int = 1,
    seed: int = 0,
    max_frames: int | None = None,
) -> VectorEnv:
    """B = `num_envs` copies of a named environment.

    Args:
        name: `dmc/<domain>-<task>` (`dmc/cartpole-swingup`, `dmc/ball-in-cup-catch`) or `gym/<id>`
            (`gym/Pendulum-v1`; `gym/module:Name-v0` where a module of yours registers it), with
            settings after question marks (`gym/FrozenLake-v1?is_slippery:false?map_name:8x8`).
        num_envs: how many run side by side.
        action_repeat: frames for which an action is held.
        seed: decides the episodes of `reset()` without seeds.
        max_frames: cut episodes after so many frames, if the environment's own limit is later.

    Raises:
        ValueError: an unknown name, an environment that cannot be made here, or a number below 1.
        ModuleNotFoundError: the suite is missing.
    """
    for what, number in [("num_envs", num_envs), ("action_repeat", action_repeat)]:
        if number < 1:
            raise ValueError(f"{what} must be at least 1, not {number}")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, not {max_frames}")
    suite, _, task = name.partition("/")
    if suite not in _SUITES:
        raise ValueError(f"unknown environment {name!r}: write dmc/<domain>-<task> or gym/<id>")
    simulators = [_SUITES[suite](task) for _ in range(num_envs)]
    return VectorEnv(name, simulators, action_repeat, seed, max_frames)


class VectorEnv:
    """B independent environments; see `make_env`.

    An episode is decided by its seed and the actions taken, whichever row and batch it runs in.
    Without seeds row b's k-th episode has a seed made of (`seed`, b, k). So k, the running
    episode's seed and its actions until now are all that `state_dict` has to hold, whatever the
    simulator: `load_state_dict` takes the actions again.
    """

    def __init__(
        self,
        name: str,
        simulators: Sequence[Simulator],
        action_repeat: int,
        seed: int,
        max_frames: int | None,
    ) -> None:
        self.name = name
        self.num_envs = len(simulators)
        self.action_repeat = action_repeat
        self.seed = seed
        self._simulators = list(simulators)
        self.action_space = simulators[0].action_space
        limits = [limit for limit in (max_frames, simulators[0].frames_per_episode) if limit]
        self.frames_per_episode: int | None = min(limits, default=None)
        self.observation_dim = len(simulators[0].reset(0))
        self.episodes = [0] * self.num_envs  # episodes begun without a given seed
        self.terminated = torch.zeros(self.num_envs, dtype=torch.bool)
        self.truncated = torch.ones(self.num_envs, dtype=torch.bool)  # nothing to step before reset
        self._elapsed = [0] * self.num_envs
        self._started: list[int | None] = [None] * self.num_envs  # seeds of the running episodes
        self._actions: list[list[np.ndarray]] = [[] for _ in simulators]  # taken in them
        self._obs = np.zeros((self.num_envs, self.observation_dim), dtype=np.float32)

    @property
    def simulators(self) -> Sequence[Simulator]:
        """The B single environments."""
        return self._simulators

    @property
    def done(self) -> Tensor:
        """Which rows [B] have ended and wait for a reset."""
        return self.terminated | self.truncated

    @property
    def obs(self) -> Tensor:
        """The observations [B, D] that each row is at."""
        return torch.from_numpy(self._obs.copy())

    def reset(self, seeds: Sequence[int] | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Start new episodes and return all observations [B, D].

        Args:
            seeds: one per row [B]; rows outside `mask` ignore theirs.
            mask: the rows [B] bool to start anew; all of them where None.
        """
        if seeds is not None and len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds were given for {self.num_envs} environments")
        chosen = range(self.num_envs) if mask is None else mask.nonzero().squeeze(1).tolist()
        for b in chosen:
            self._begin(b, self._next_seed(b) if seeds is None else int(seeds[b]))
        return self.obs

    def step(self, action: Tensor) -> StepResult:
        """Hold `action` ([B, A], or int64 [B] if discrete) for `action_repeat` frames at most.

        Rows that have ended stand still: the same observation and flags, no reward, no frames.
        """
        actions = action.detach().cpu().numpy()
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions were given for {self.num_envs} environments")
        reward = torch.zeros(self.num_envs)
        frames = torch.zeros(self.num_envs, dtype=torch.int64)
        for b in (~self.done).nonzero().squeeze(1).tolist():
            reward[b], frames[b] = self._hold(b, actions[b].copy())
        return StepResult(self.obs, reward, self.terminated.clone(), self.truncated.clone(), frames)

    def state_dict(self) -> dict[str, Any]:
        """Where every episode is, as plain data and tensors."""
        return {
            "episodes": list(self.episodes),
            "seeds": list(self._started),
            "actions": [torch.from_numpy(np.array(taken)) for taken in self._actions],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play every episode again up to where `state` was taken.

        Raises ValueError where it is of another number of environments.
        """
        if len(state["episodes"]) != self.num_envs:
            raise ValueError(
                f"the saved state is of {len(state['episodes'])} environments, not {self.num_envs}"
            )
        self.episodes = list(state["episodes"])
        for b, seed in enumerate(state["seeds"]):
            if seed is not None:
                self._begin(b, seed)
                for action in state["actions"][b].numpy():
                    self._hold(b, action)

    def _begin(self, b: int, seed: int) -> None:
        """Row b: start the episode that `seed` decides."""
        self._obs[b] = self._simulators[b].reset(seed)
        self._elapsed[b] = 0
        self._started[b], self._actions[b] = seed, []
        self.terminated[b] = self.truncated[b] = False

    def _hold(self, b: int, action: np.ndarray) -> tuple[float, int]:
        """Row b: up to `action_repeat` frames, at most to the end. Returns (reward, frames)."""
        self._actions[b].append(action)
        total, spent, limit = 0.0, 0, self.frames_per_episode
        while spent < self.action_repeat:
            frame = self._simulators[b].frame(action)
            total += frame.reward
            spent += 1
            self._elapsed[b] += 1
            cut = frame.truncated or (limit is not None and self._elapsed[b] >= limit)
            if frame.terminated or cut:
                self.terminated[b] = frame.terminated
                self.truncated[b] = cut and not frame.terminated
                break
        self._obs[b] = frame.obs
        return total, spent

    def _next_seed(self, b: int) -> int:
        episode = self.episodes[b]
        self.episodes[b] += 1
        return int(np.random.SeedSequence([self.seed, b, episode]).generate_state(1)[0])


class DMControl:
    """One task of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690), states flat.

    The suite's time limit ends an episode with discount 1: that is truncation. Its discount 0 is
    termination.
    """

    def __init__(self, task: str) -> None:
        suite = importlib.import_module("dm_control.suite")
        self.task: tuple[str, str] = _look_up("dmc", task.replace("_", "-"), suite_tasks())
        # Some models are themselves drawn at random (lqr): the same one in every copy.
        self._env = suite.load(*self.task, task_kwargs={"random": 0})
        spec = self._env.action_spec()
        if os.environ["MUJOCO_GL"] == "disabled":
            _forgo_rendering(self._env.physics)
        bounds = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        self.action_space: Box | Discrete = Box(
            *(torch.tensor(bound, dtype=torch.float32) for bound in bounds)
        )
        limit = self._env._step_limit
        self.frames_per_episode = math.ceil(limit) if math.isfinite(limit) else None

    @property
    def native(self) -> Any:
        """The suite's own environment, for those who need its full state."""
        return self._env

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` alone decides; returns the observation [D]."""
        self._env.task._random = np.random.RandomState(seed % 2**32)
        return self._flat(self._env.reset().observation)

    def frame(self, action: np.ndarray) -> Frame:
        """Simulate one control step."""
        moved = self._env.step(action)
        ended = moved.last()
        return Frame(
            self._flat(moved.observation),
            float(moved.reward),
            ended and moved.discount == 0,
            ended and moved.discount != 0,
        )

    @staticmethod
    def _flat(observation: dict[str, Any]) -> np.ndarray:
        parts = [np.ravel(np.asarray(part, dtype=np.float32)) for part in observation.values()]
        return np.concatenate(parts)


def _forgo_rendering(physics: Any) -> None:
    """Let a task see that there is no renderer: quadruped-escape would try to make one."""
    headless = {"contexts": None, "__module__": type(physics).__module__}
    physics.__class__ = type(type(physics).__name__, (type(physics),), headless)


def suite_tasks() -> dict[str, tuple[str, str]]:
    """Every task of the suite, by the name it has here; `cup-catch` is known by a second one."""
    suite = importlib.import_module("dm_control.suite")
    tasks = {"-".join(pair).replace("_", "-"): pair for pair in suite.ALL_TASKS}
    return tasks | {"cup-catch": ("ball_in_cup", "catch")}


class Gymnasium:
    """One Gymnasium environment with its observation flattened (one-hot where it is discrete).

    Its settings follow its name: `FrozenLake-v1?is_slippery:false?map_name:8x8`. One that a module
    registers when it is imported is named `module:Name-v0`, as in Gymnasium.
    """

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        gymnasium = importlib.import_module("gymnasium")
        name, *settings = task.split("?")
        _import_of(name)
        _look_up("gym", name.rpartition(":")[2], dict.fromkeys(gymnasium.registry))
        given = dict(map(_setting, settings))
        shown = {} if render_mode is None else {"render_mode": render_mode}
        try:
            self._env = gymnasium.make(name, **shown, **given)
        except TypeError as error:
            raise ValueError(f"gym/{name} cannot be made with {given}: {error}") from error
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(f"gym/{name} cannot be made here: {error}") from error
        self._flatten = gymnasium.spaces.flatten
        space = self._env.action_space
        self._first_action = int(getattr(space, "start", 0))
        if isinstance(space, gymnasium.spaces.Discrete):
            self.action_space: Box | Discrete = Discrete(int(space.n))
        elif isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
            self.action_space = Box(torch.tensor(space.low), torch.tensor(space.high))
        else:
            raise ValueError(
                f"gym/{task} has actions {space}: only Discrete and flat Box work here"
            )
        assert self._env.spec is not None
        self.frames_per_episode = self._env.spec.max_episode_steps

    @property
    def native(self) -> Any:
        """The suite's own environment, for those who need its full state."""
        return self._env

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode that `seed` alone decides; returns the observation [D]."""
        observation, _ = self._env.reset(seed=seed)
        return self._flat(observation)

    def frame(self, action: np.ndarray) -> Frame:
        """Simulate one step."""
        discrete = isinstance(self.action_space, Discrete)
        moved = self._env.step(int(action) + self._first_action if discrete else action)
        observation, reward, terminated, truncated, _ = moved
        return Frame(self._flat(observation), float(reward), bool(terminated), bool(truncated))

    def _flat(self, observation: Any) -> np.ndarray:
        flat = self._flatten(self._env.observation_space, observation)
        return np.asarray(flat, dtype=np.float32)


def _import_of(name: str) -> None:
    """Import the module of `module:Name-v0`, which registers it; of another name none."""
    module, colon, _ = name.partition(":")
    try:
        if colon:
            importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"gym/{name} needs the module {module}: {error}") from error


def _setting(text: str) -> tuple[str, Any]:
    """`is_slippery:false` as a keyword and its value, which is text where it is no JSON."""
    name, colon, value = text.partition(":")
    if not (name and colon):
        raise ValueError(f"{text!r} is no setting of an environment: write name:value")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


_SUITES: dict[str, Callable[[str], Simulator]] = {"dmc": DMControl, "gym": Gymnasium}


def _look_up(suite: str, name: str, known: dict[str, Any]) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:3]
    listed = ", ".join(f"{suite}/{other}" for other in near)
    raise ValueError(f"unknown environment '{suite}/{name}': the nearest names are {listed}")
