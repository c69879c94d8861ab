"""One environment interface over the DeepMind Control Suite and Gymnasium.

    env = make_env("dmc/cartpole-swingup", num_envs=4, action_repeat=8)
    obs = env.reset(seeds=[0, 1, 2, 3])
    while not env.done.all():
        obs, reward, terminated, truncated, frames = env.step(actions)

Unlike Gymnasium's vector environments nothing is reset by itself: `step` returns the observation in
which an episode ended, an ended row stands still, and `reset(mask=...)` starts new episodes.

A frame is one control step of the simulator; an action is held for `action_repeat` of them.
"""

from __future__ import annotations

import difflib
import importlib
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
            (`gym/Pendulum-v1`).
        num_envs: how many run side by side.
        action_repeat: frames for which an action is held.
        seed: decides the episodes of `reset()` without seeds.
        max_frames: cut episodes after so many frames, if the environment's own limit is later.

    Raises:
        ValueError: an unknown name, or a number below 1. ModuleNotFoundError: the suite is missing.
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

    An episode is decided by its seed alone, whichever row and batch it runs in. Without seeds row
    b's k-th episode has a seed made of (`seed`, b, k); k is all that `state_dict` holds, so a run
    can be resumed exactly where episodes start.
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
        self._obs = np.zeros((self.num_envs, self.observation_dim), dtype=np.float32)

    @property
    def simulators(self) -> Sequence[Simulator]:
        """The B single environments."""
        return self._simulators

    @property
    def done(self) -> Tensor:
        """Which rows [B] have ended and wait for a reset."""
        return self.terminated | self.truncated

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
            self._obs[b] = self._simulators[b].reset(
                self._next_seed(b) if seeds is None else int(seeds[b])
            )
            self._elapsed[b] = 0
            self.terminated[b] = self.truncated[b] = False
        return torch.from_numpy(self._obs.copy())

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
            total, spent = self._hold(b, actions[b])
            reward[b], frames[b] = total, spent
        return StepResult(
            torch.from_numpy(self._obs.copy()),
            reward,
            self.terminated.clone(),
            self.truncated.clone(),
            frames,
        )

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, taken when no episode is under way."""
        return {"episodes": list(self.episodes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the episodes that `state` has not begun."""
        if len(state["episodes"]) != self.num_envs:
            raise ValueError(
                f"the saved state is of {len(state['episodes'])} environments, not {self.num_envs}"
            )
        self.episodes = list(state["episodes"])

    def _hold(self, b: int, action: np.ndarray) -> tuple[float, int]:
        """Row b: up to `action_repeat` frames, at most to the end. Returns (reward, frames)."""
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
        tasks = {"-".join(pair).replace("_", "-"): pair for pair in suite.ALL_TASKS}
        tasks["cup-catch"] = ("ball_in_cup", "catch")
        self.task: tuple[str, str] = _look_up("dmc", task.replace("_", "-"), tasks)
        # Some models are themselves drawn at random (lqr): the same one in every copy.
        self._env = suite.load(*self.task, task_kwargs={"random": 0})
        spec = self._env.action_spec()
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


class Gymnasium:
    """One Gymnasium environment with its observation flattened (one-hot where it is discrete)."""

    def __init__(self, task: str) -> None:
        gymnasium = importlib.import_module("gymnasium")
        _look_up("gym", task, dict.fromkeys(gymnasium.registry))
        self._env = gymnasium.make(task)
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


_SUITES: dict[str, Callable[[str], Simulator]] = {"dmc": DMControl, "gym": Gymnasium}


def _look_up(suite: str, name: str, known: dict[str, Any]) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:3]
    listed = ", ".join(f"{suite}/{other}" for other in near)
    raise ValueError(f"unknown environment '{suite}/{name}': the nearest names are {listed}")
