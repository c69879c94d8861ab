"""The true simulator as a model: what planning is worth when nothing has to be learned.

    world = true_world("dmc/cartpole-swingup", action_repeat=8)
    env = world.make_env(num_envs=4)
    env.reset([0, 1, 2, 3])
    plan, carry = planner(world.model(), world.root(env), rng=rng)

What it predicts for a sequence of actions is what the environment will pay, to the last bit: the
mark that a learned model of the same environment is measured against.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from control.envs import DMControl, VectorEnv, make_env
from control.known_models import gym_dynamics
from control.readouts import find_readout
from mbrl_core.policies import uniform_policy
from mbrl_core.types import Box, Discrete, Model, Rng, Rows, Transition

WIDEST_EPISODE = 10_000  # numbers that a state may spend on the model its episode has drawn
DRAWN_BY_EXAMPLE = range(4)  # seeds of episodes that show what of the model they draw


class TrueDynamics(Protocol):
    """`Dynamics` that can read the state of a running environment."""

    @property
    def action_space(self) -> Box | Discrete:
        """What actions it takes."""
        ...

    def root(self, env: VectorEnv) -> Rows:
        """The present states of an environment's B rows, to plan from."""
        ...

    def step(self, state: Rows, action: Tensor, *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        ...


@dataclass(frozen=True)
class TrueWorld:
    """An environment and the model that is right about it."""

    env: str  # a name for `make_env`
    action_repeat: int  # simulator frames per model step
    dynamics: TrueDynamics

    def root(self, env: VectorEnv) -> Rows:
        """The present states of `env`, of which there is one per row, to plan from.

        Raises ValueError where `env` is another environment, holds actions otherwise or was not
        reset.
        """
        if (env.name, env.action_repeat) != (self.env, self.action_repeat):
            raise ValueError(
                f"a model of {self.env} at action repeat {self.action_repeat} cannot plan for "
                f"{env.name} at action repeat {env.action_repeat}"
            )
        if bool(env.done.all()):
            raise ValueError(f"no episode of {self.env} is under way: reset the environment first")
        return self.dynamics.root(env)

    def model(self) -> Model:
        """What planners take."""
        space = self.dynamics.action_space
        return Model(self.dynamics, uniform_policy(space), None, space)

    def make_env(
        self, num_envs: int = 1, seed: int = 0, max_frames: int | None = None
    ) -> VectorEnv:
        """The environment itself, at the model's action repeat."""
        return make_env(self.env, num_envs, self.action_repeat, seed, max_frames)


def true_world(env: str, action_repeat: int = 1, discount: float = 1.0) -> TrueWorld:
    """The true model of a named environment.

    Time limits are not part of it: it plans as if episodes went on.

    Args:
        env: any `dmc/<domain>-<task>`, or a `gym/<id>` whose rules are known (see `gym_dynamics`).
        action_repeat: frames for which an action is held; their rewards are summed.
        discount: gamma, of one model step.

    Raises:
        ValueError: an unknown environment, or one that cannot be a model.
    """
    if action_repeat < 1:
        raise ValueError(f"action_repeat must be at least 1, not {action_repeat}")
    suite, _, task = env.partition("/")
    dynamics: TrueDynamics
    if suite == "dmc":
        dynamics = SuiteDynamics(task, action_repeat, discount)
    else:
        dynamics = gym_dynamics(env, action_repeat, discount)
    return TrueWorld(env, action_repeat, dynamics)


class SuiteDynamics:
    """A task of the DeepMind Control Suite as `Dynamics`, simulated by MuJoCo.

    A state [S] in float64 is MuJoCo's integration state (time, positions, velocities, activations,
    controls, applied forces, mocap poses, the solver's warm start) and then whatever arrays of the
    model the task draws anew for each episode (a reacher's target). The next state is bit for bit
    that of the environment.

    Rewards are the task's own, of every frame. Where a `Readout` of them exists they are computed
    for all rows at once and agree with the task's within rounding; otherwise, or where `ask_task`,
    the task is asked frame by frame, which is exact and takes up to seven times as long.

    Actions are clipped to the action space. A row whose simulation diverges (or that is given NaN)
    stays where it is and earns NaN, which planners count as -inf; other rows do not notice.
    """

    def __init__(
        self, task: str, action_repeat: int = 1, discount: float = 1.0, *, ask_task: bool = False
    ) -> None:
        """Load `task`, for example "cartpole-swingup", in a simulator of its own.

        Raises ValueError where the task is unknown or draws too much for each episode to be held
        in a state (the terrain of quadruped-escape).
        """
        self._mujoco = importlib.import_module("mujoco")
        simulator = DMControl(task)
        self.action_space = simulator.action_space
        self.action_repeat = action_repeat
        self.discount = discount
        native = simulator.native
        self._task, self._physics = native.task, native.physics
        self._steps_per_frame = native._n_sub_steps
        base = importlib.import_module("dm_control.rl.control").Task
        self.terminates = type(self._task).get_termination is not base.get_termination
        self._integration = self._mujoco.mjtState.mjSTATE_INTEGRATION.value
        self._drawn = self._arrays_drawn(simulator)
        drawn = sum(array.size for array in self._drawn_of(self._model))
        if drawn > WIDEST_EPISODE:
            raise ValueError(
                f"each episode of dmc/{task} draws {drawn} numbers of its model, too many for a "
                f"state ({WIDEST_EPISODE} at most)"
            )
        self._width = self._mujoco.mj_stateSize(self._model, self._integration)
        self._columns = self._width + drawn
        self._runge_kutta = self._model.opt.integrator == self._mujoco.mjtIntegrator.mjINT_RK4.value
        self._warned = self._data.warning.number  # a view of MuJoCo's own counters
        self._quiet = np.ones_like(self._warned).tobytes()
        self._readout = None if ask_task else find_readout(*simulator.task, self._physics)

    @property
    def _model(self) -> Any:
        return self._physics.model.ptr

    @property
    def _data(self) -> Any:
        return self._physics.data.ptr

    # States

    def root(self, env: VectorEnv) -> Tensor:
        """The present states [B, S] of a running environment of this task."""
        natives = [simulator.native for simulator in env.simulators]  # type: ignore[attr-defined]
        return torch.from_numpy(np.stack([self._state_of(native.physics) for native in natives]))

    def _state_of(self, physics: Any) -> np.ndarray:
        """The state [S] of an environment's physics."""
        model, data, state = physics.model.ptr, physics.data.ptr, np.empty(self._width)
        self._mujoco.mj_getState(model, data, state, self._integration)
        return np.concatenate([state, *(array.ravel() for array in self._drawn_of(model))])

    def _save(self, state: np.ndarray) -> None:
        """Write to `state` [S] where the simulator is; what the episode drew has not changed."""
        self._mujoco.mj_getState(self._model, self._data, state[: self._width], self._integration)

    def _restore(self, state: np.ndarray) -> None:
        """Set the simulator to a state [S], with all that depends on positions and velocities."""
        self._warned[:] = 1
        start = self._width
        for array in self._drawn_of(self._model):
            array.flat[:] = state[start : start + array.size]
            start += array.size
        self._mujoco.mj_setState(self._model, self._data, state[: self._width], self._integration)
        self._mujoco.mj_step1(self._model, self._data)

    def _drawn_of(self, model: Any) -> list[np.ndarray]:
        return [getattr(model, name) for name in self._drawn]

    def _arrays_drawn(self, simulator: DMControl) -> list[str]:
        """The names of the model's arrays in which episodes differ."""
        names = [n for n in dir(self._model) if isinstance(getattr(self._model, n), np.ndarray)]
        simulator.reset(DRAWN_BY_EXAMPLE[0])
        first = {name: getattr(self._model, name).copy() for name in names}
        drawn = set()
        for seed in DRAWN_BY_EXAMPLE[1:]:
            simulator.reset(seed)
            drawn |= {n for n in names if not np.array_equal(getattr(self._model, n), first[n])}
        return sorted(drawn)

    # Simulating

    def step(self, state: Tensor, action: Tensor, *, rng: Rng) -> Transition:
        """R states [R, S] and actions [R, A] to R transitions; nothing in them is random."""
        if state.dtype != torch.float64 or state.shape[1:] != (self._columns,):
            raise ValueError(
                f"simulator states must be float64 [R, {self._columns}], as root(env) gives them, "
                f"not {state.dtype} {list(state.shape)}"
            )
        start, control = state.detach().cpu().numpy(), self._clipped(action)
        usable = np.isfinite(start).all(1) & np.isfinite(control).all(1)
        chosen = np.flatnonzero(usable)
        run = self._run_asking if self._readout is None else self._run_reading
        states, rewards, discounts = run(start[chosen], control[chosen])
        moved, reward, discount = start.copy(), np.full(len(start), np.nan), np.ones(len(start))
        moved[chosen], reward[chosen], discount[chosen] = states, rewards, discounts
        numbers = (moved, reward, self.discount * discount)
        new_state, earned, weight = (torch.from_numpy(x).to(state.device) for x in numbers)
        return Transition(new_state, earned, weight)

    def _clipped(self, action: Tensor) -> np.ndarray:
        assert isinstance(self.action_space, Box)
        low, high = (bound.double().numpy() for bound in self.action_space)
        if action.shape[1:] != low.shape:
            raise ValueError(f"actions must be [R, {len(low)}], not {list(action.shape)}")
        return np.clip(action.detach().cpu().double().numpy(), low, high)

    def _run_asking(self, state: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, ...]:
        """R rows to (states, rewards, discounts); the task says what each frame is worth."""
        moved, reward, discount = state.copy(), np.full(len(state), np.nan), np.ones(len(state))
        for r in range(len(state)):
            self._restore(state[r])
            total, ending = 0.0, None
            for _ in range(self.action_repeat):
                self._task.before_step(control[r], self._physics)
                self._advance()
                self._task.after_step(self._physics)
                if self._diverged():
                    break
                total += self._task.get_reward(self._physics)
                ending = self._task.get_termination(self._physics)
                if ending is not None:
                    break
            if not self._diverged():
                self._save(moved[r])
                reward[r], discount[r] = total, 1.0 if ending is None else ending
        return moved, reward, discount

    def _run_reading(self, state: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, ...]:
        """R rows to (states, rewards, discounts); all frames' rewards are computed together."""
        assert self._readout is not None
        views, held = self._readout.views, self._data.ctrl
        widths = [len(view) for view in views]
        seen = np.empty((len(state), self.action_repeat, sum(widths)))
        moved, diverged = state.copy(), np.zeros(len(state), dtype=bool)
        for r in range(len(state)):
            self._restore(state[r])
            held[:] = control[r]
            for frame in seen[r]:
                self._advance()
                np.concatenate(views, out=frame)
            if self._diverged():
                diverged[r], seen[r] = True, 0.0
            else:
                self._save(moved[r])
        parts = np.split(seen.reshape(-1, sum(widths)), np.cumsum(widths)[:-1], axis=1)
        rewards = self._readout.reward(*parts).astype(np.float64).reshape(seen.shape[:2])
        # Frame by frame, as an environment adds them up: `sum` over the axis rounds otherwise.
        total = np.zeros(len(state))
        for each in rewards.T:
            total += each
        return moved, np.where(diverged, np.nan, total), np.ones(len(state))

    def _advance(self) -> None:
        """One frame, by the suite's own order of calls.

        It leaves what depends on positions and velocities up to date, and what depends on
        accelerations one physics step behind (Tunyasuvunakool et al. 2020, arXiv:2006.12983).
        """
        mujoco, model, data, steps = self._mujoco, self._model, self._data, self._steps_per_frame
        if self._runge_kutta:
            mujoco.mj_step(model, data, steps)
        else:
            mujoco.mj_step2(model, data)
            if steps > 1:
                mujoco.mj_step(model, data, steps - 1)
        mujoco.mj_step1(model, data)

    def _diverged(self) -> bool:
        """Whether MuJoCo has met NaN, huge numbers or a full buffer since the last `_restore`.

        It then counts a warning, or starts the simulation over and counts from 0: either way the
        counts are not the ones they were set to. It prints a warning only where its count is 0.
        """
        return self._warned.tobytes() != self._quiet
