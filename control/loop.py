"""What a training run does at every step, and all that it must remember.

act -> step -> remember -> begin anew the rows that ended -> learn -> evaluate -> save
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from control import checkpoints, finite
from control.envs import VectorEnv
from control.episodes import random_actions, run_episodes
from control.finite import NotFiniteError, Reaction
from control.metrics import Metrics
from control.replay import Replay, Steps
from control.types import Act, Evaluation, Learner, Recipe, RunInfo, Watcher
from control.world_model import save_world_model
from mbrl_core import Box, CategoricalCEM, Discrete, draws, reset
from mbrl_core.planners.trajectory import TrajectoryPlanner
from mbrl_core.types import Carry, Planner

KIND = "run of control.train"

# What each independent stream of random numbers is seeded by, next to the run's seed.
EPISODES, EVALUATION, LEARNING, ACTING, SHOWING = range(5)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often things happen, in simulator frames; None is never.

    random: uniformly random actions that come first.
    log, evaluate, checkpoint: one of each whenever so many frames were passed.
    """

    random: int
    log: int
    evaluate: int | None
    checkpoint: int


class Run:
    """One training run: `advance` takes a step, `save` and `resume` cross the gap in between."""

    def __init__(
        self,
        info: RunInfo,
        agent: Recipe,
        planner: Planner | None,
        env: VectorEnv,
        judge: VectorEnv,
        *,
        pace: Pace,
        capacity: int,
        nan: Reaction,
        watchers: list[Watcher],
        say: Callable[[str], None],
    ) -> None:
        """A run that has seen nothing.

        `env` is what is learned in, `judge` has an environment for every episode of an evaluation;
        `say` receives notes. Raises ValueError where evaluations would have no end, on a planner of
        other actions than the environment's, and on a replay that is too small for the agent.
        """
        if pace.evaluate and judge.frames_per_episode is None:
            raise ValueError(
                f"episodes of {info.env} have no time limit: give max_frames, or eval_frames=null"
            )
        if isinstance(env.action_space, Discrete) and isinstance(planner, TrajectoryPlanner):
            raise ValueError(
                f"{type(planner).__name__} needs continuous actions, and those of {info.env} are "
                "numbered: take planner=gumbel (with a policy and values), mcts or categorical_cem"
            )
        if isinstance(env.action_space, Box) and isinstance(planner, CategoricalCEM):
            raise ValueError(
                f"CategoricalCEM needs numbered actions, and those of {info.env} are continuous: "
                "take planner=cem"
            )
        self.info, self.pace, self.nan, self.watchers = info, pace, nan, watchers
        self.env, self.judge, self.say = env, judge, say
        self.rng = _generator(info.seed, LEARNING)
        self.learner: Learner = agent.start(env, planner, rng=self.rng)
        decisions = math.ceil(info.frames / env.action_repeat)  # where no action is cut short
        if getattr(self.learner, "learns_from_all", False) and capacity < decisions:
            raise ValueError(
                f"{type(agent).__name__} learns from every decision, and {info.frames} frames are "
                f"at least {decisions}: give replay_capacity={decisions} or more, not {capacity}"
            )
        self.act_rng = _generator(info.seed, ACTING, device=self.learner.device)
        self.replay = Replay(
            info.folder / "replay",
            env.observation_dim,
            env.action_space,
            num_envs=env.num_envs,
            capacity=capacity,
        )
        self.metrics = Metrics(info.folder)
        self.frames = 0
        self.unlearned = 0  # rows added since `learn` was last called
        self.saved = -1  # the frames of the latest checkpoint
        self.obs: Tensor = env.obs
        self.carry: Carry = None
        self.earned = torch.zeros(env.num_envs, dtype=torch.float64)  # by the running episodes

    # One step

    def advance(self) -> None:
        """One decision in every environment, and all that is due after it."""
        before = self.frames
        self.collect()
        failed = self.learn()
        evaluation = self.evaluate() if self._due(self.pace.evaluate, before) else None
        if evaluation is not None or self._due(self.pace.log, before):
            self.report(evaluation)
        if self._due(self.pace.checkpoint, before) or self.replay.full:
            self.save()
        if failed is not None and self.nan == "stop":
            self.save()
            finite.stop(self.info.folder, failed, f"{self.frames} frames")

    def collect(self) -> None:
        """Act, step, remember, and begin anew the rows whose episodes ended."""
        env, obs = self.env, self.obs
        if self.frames < self.pace.random:
            action = random_actions(env.action_space, env.num_envs, self.act_rng)
        else:
            action, self.carry = self.learner.act(obs, self.carry, explore=True, rng=self.act_rng)
        action = action.detach().cpu()
        moved = env.step(action)
        steps = Steps(obs, action, moved.reward, moved.obs, moved.terminated)
        self.replay.add(steps, moved.truncated)
        self.frames += int(moved.frames.sum())
        self.unlearned += env.num_envs
        self.earned += moved.reward
        self.obs = moved.obs
        ended = moved.terminated | moved.truncated
        if bool(ended.any()):
            self.metrics.ended(self.earned[ended].tolist())
            self.earned[ended] = 0
            self.obs = env.reset(mask=ended)
            self.carry = reset(self.carry, ended)

    def learn(self) -> NotFiniteError | None:
        """Let the agent learn; what is left out because a loss is not finite is counted."""
        if self.frames < self.pace.random:
            return None
        steps, self.unlearned = self.unlearned, 0
        try:
            self.metrics.learned(self.learner.learn(self.replay, steps))
        except NotFiniteError as error:
            self.metrics.learned(error.logged)
            self.metrics.skipped += error.left_out
            return error
        return None

    def report(self, evaluation: Evaluation | None) -> None:
        """Add a row of metrics, and tell the watchers."""
        row = self.metrics.row(self.frames, self.replay.total, evaluation)
        for watcher in self.watchers:
            watcher.on_row(row)

    def evaluate(self) -> Evaluation | None:
        """Play the evaluation's episodes, the same ones each time, with draws of their own.

        None, and a word, where nothing was learned yet.
        """
        if not self.metrics.updates:
            self.say(f"not evaluated after {self.frames} frames: nothing was learned yet")
            return None
        seeds = _state(self.info.seed, EPISODES, words=self.judge.num_envs)
        played = run_episodes(self.judge, self._actor(EVALUATION), seeds)
        first = played.steps.action[: int(played.decisions[0])]
        evaluation = Evaluation(self.frames, played.returns, played.frames, seeds[0], first)
        for watcher in self.watchers:
            watcher.on_evaluation(evaluation, self._actor(SHOWING))
        return evaluation

    def _actor(self, stream: int) -> Act:
        """The agent without exploration, drawing from a generator made for this moment."""
        rng = _generator(self.info.seed, stream, self.frames, device=self.learner.device)
        return partial(self.learner.act, explore=False, rng=rng)

    def _due(self, every: int | None, before: int) -> bool:
        """Whether a multiple of `every` frames was passed since there were `before`."""
        return every is not None and before // every < self.frames // every

    # Stopping and going on

    def finish(self) -> None:
        """Save, and evaluate what was learned unless the last step did.

        The row of that evaluation is not in the checkpoint: a run that is given more frames goes on
        as if it had not ended here.
        """
        self.save()
        last = self.metrics.rows[-1] if self.metrics.rows else {}
        if self.pace.evaluate is None or (
            last.get("frames") == self.frames and "eval_return" in last
        ):
            return
        evaluation = self.evaluate()
        if evaluation is not None:
            self.report(evaluation)

    def begin(self) -> None:
        """Start the first episodes."""
        self.obs = self.env.reset()
        self.metrics.write()

    def save(self) -> None:
        """Write the model, then the checkpoint; the replay is already on disk."""
        if self.saved == self.frames:
            return
        folder, info = self.info.folder, self.info
        if self.metrics.updates:
            record = {
                "arguments": info.arguments,
                "frames": self.frames,
                "episodes": self.metrics.episodes,
                "last_returns": [r["return"] for r in self.metrics.rows if "return" in r][-5:],
            }
            model = self.learner.world_model(record)
            if model is not None:
                save_world_model(folder / "model.pt", model)
        payload = {
            "kind": KIND,
            "frames": self.frames,
            "unlearned": self.unlearned,
            "earned": self.earned,
            "carry": checkpoints.pack(self.carry),
            "rng": self.rng.get_state(),
            "act_rng": self.act_rng.get_state(),
            "env": self.env.state_dict(),
            "metrics": self.metrics.state_dict(),
            "replay": self.replay.commit(),
            "learner": self.learner.state_dict(),
        }
        checkpoints.save(folder / "checkpoint.pt", payload, keep_previous=True)
        self.saved = self.frames

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False where there is none."""
        path = self.info.folder / "checkpoint.pt"
        if not path.exists() and not checkpoints.previous(path).exists():
            return False
        state, warning = checkpoints.load_newest(path, KIND)
        if warning:
            self.say(warning)
        self.frames = self.saved = state["frames"]
        self.unlearned = state["unlearned"]
        self.earned = state["earned"]
        self.learner.load_state_dict(state["learner"])
        self.carry = checkpoints.unpack(state["carry"], device=self.learner.device)
        self.rng.set_state(state["rng"])
        checkpoints.restore_generator(self.act_rng, state["act_rng"])
        self.env.load_state_dict(state["env"])
        self.obs = self.env.obs
        self.replay.restore(state["replay"])
        self.metrics.load_state_dict(state["metrics"])
        self.metrics.write()
        self.say(f"continuing after {self.frames} frames")
        return True


def _state(seed: int, *stream: int, words: int) -> list[int]:
    return np.random.SeedSequence(seed, spawn_key=stream).generate_state(words).tolist()


def _generator(seed: int, *stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    return draws.generator(_state(seed, *stream, words=1)[0], device)
