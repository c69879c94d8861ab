"""Learn a world model in an environment: collect an episode, learn from all of them, plan, again.

    python -m control.train agent=pets env=dmc/cartpole-swingup out=runs/cartpole

Everything lies in the run's folder. A run that was stopped, however roughly, continues when the
same command is given again, and on a CPU gives bit for bit what it would have given.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from control import checkpoints
from control.ensemble import NotFiniteError
from control.envs import VectorEnv, make_env
from control.episodes import Episodes, random_actions, run_episodes
from control.replay import Replay
from control.world_model import WorldModel, save_world_model
from mbrl_core.types import Carry, Planner

KIND = "training run"
Row = dict[str, float]


class Learner(Protocol):
    """What an algorithm has to provide; it draws from the generator it was started with."""

    def act(self, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Observations [B, D] to actions [B, A]; the carry is None when episodes start."""
        ...

    def learn(self, replay: Replay) -> dict[str, float]:
        """Learn from all experience; returns what to log."""
        ...

    def world_model(self, record: dict[str, Any]) -> WorldModel:
        """What was learned."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


class Recipe(Protocol):
    """An algorithm's hyperparameters, a frozen dataclass."""

    def start(self, env: VectorEnv, planner: Planner, *, rng: torch.Generator) -> Learner:
        """A learner that knows nothing yet."""
        ...


def train(
    *,
    env: str,
    agent: Recipe,
    planner: Planner,
    out: str | Path,
    seed: int = 0,
    frames: int = 30_000,
    action_repeat: int = 1,
    num_envs: int = 1,
    random_episodes: int = 2,
    max_frames: int | None = None,
    arguments: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train until `frames` simulator frames are seen, at whole episodes; returns the model's path.

    Args:
        env: a name for `make_env`.
        agent: the algorithm, such as `PETS()`.
        planner: chooses the actions once random collection is over.
        out: the run's folder. It holds `checkpoint.pt` (and the one before), `metrics.csv`,
            `metrics.jsonl`, `model.pt` for `load_world_model` and `arguments.json`.
        seed: decides everything random.
        frames: simulator frames, the random ones included. A finished run can be given more.
        action_repeat: frames for which an action is held.
        num_envs: episodes collected side by side between two fits.
        random_episodes: rounds of `num_envs` episodes of uniformly random actions that come first.
        max_frames: cuts episodes.
        arguments: these arguments as plain data, for the record; taken from the objects where None.
        say: receives progress lines.

    Raises:
        ValueError: `out` holds a run with other arguments, an unknown environment, damaged
            checkpoints (CheckpointError), or a loss that is not finite (its batch is saved there).
    """
    folder = Path(out)
    described = arguments or _describe(
        env=env, agent=agent, planner=planner, seed=seed, action_repeat=action_repeat,
        num_envs=num_envs, random_episodes=random_episodes, max_frames=max_frames,
    )  # fmt: skip
    described = {name: v for name, v in described.items() if name not in ("out", "frames")}
    _claim(folder, described)
    run = _Run(make_env(env, num_envs, action_repeat, seed, max_frames), agent, planner, seed)
    run.resume(folder / "checkpoint.pt", say)
    while run.frames < frames:
        started = time.perf_counter()
        episodes = run.collect(explore=run.rounds < random_episodes)
        collected = time.perf_counter()
        try:
            learned = run.learner.learn(run.replay)
        except NotFiniteError as error:
            bad = folder / "not-finite-batch.pt"
            checkpoints.save(bad, {"kind": "batch", **error.batch})
            where = f"after {run.frames} frames; the batch is in {bad}"
            raise ValueError(f"{error}, {where}") from error
        seconds = {"collect_s": collected - started, "learn_s": time.perf_counter() - collected}
        run.log(episodes, learned | seconds)
        run.write(folder, described)
        say(_line(run.metrics[-1]))
    say(f"wrote {folder / 'model.pt'} after {run.frames} frames")
    return folder / "model.pt"


class _Run:
    """All that changes during training; what `write` saves and `resume` restores."""

    def __init__(self, env: VectorEnv, agent: Recipe, planner: Planner, seed: int) -> None:
        self.env = env
        self.rng = torch.Generator().manual_seed(seed)
        self.learner = agent.start(env, planner, rng=self.rng)
        self.replay = Replay()
        self.frames = 0
        self.metrics: list[Row] = []

    @property
    def rounds(self) -> int:
        """How many times experience was collected."""
        return len(self.metrics)

    def collect(self, *, explore: bool) -> Episodes:
        """One episode in every environment, kept in the replay."""

        def act(obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
            if explore:
                return random_actions(self.env.action_space, len(obs), self.rng), None
            return self.learner.act(obs, carry)

        episodes = run_episodes(self.env, act)
        self.replay.add(episodes.steps)
        self.frames += int(episodes.frames.sum())
        return episodes

    def log(self, episodes: Episodes, learned: dict[str, float]) -> None:
        """Add a row of metrics."""
        returns = {
            "return": float(episodes.returns.mean()),
            "return_min": float(episodes.returns.min()),
            "return_max": float(episodes.returns.max()),
        }
        row = {"round": self.rounds + 1, "frames": self.frames, "decisions": len(self.replay)}
        self.metrics.append(row | returns | learned)

    def write(self, folder: Path, described: dict[str, Any]) -> None:
        """Model and metrics first: what the checkpoint claims is then already there."""
        record = {
            "arguments": described,
            "frames": self.frames,
            "episodes": self.rounds * self.env.num_envs,
            "last_returns": [row["return"] for row in self.metrics[-5:]],
        }
        save_world_model(folder / "model.pt", self.learner.world_model(record))
        _write_metrics(folder, self.metrics)
        payload = {
            "kind": KIND,
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "env": self.env.state_dict(),
            "rng": self.rng.get_state(),
            "frames": self.frames,
            "metrics": self.metrics,
        }
        checkpoints.save(folder / "checkpoint.pt", payload, keep_previous=True)

    def resume(self, path: Path, say: Callable[[str], None]) -> None:
        """Go on from the checkpoint, if there is one."""
        if not path.exists() and not checkpoints.previous(path).exists():
            return
        payload, warning = checkpoints.load_newest(path, KIND)
        if warning:
            say(warning)
        self.learner.load_state_dict(payload["learner"])
        self.replay.load_state_dict(payload["replay"])
        self.env.load_state_dict(payload["env"])
        self.rng.set_state(payload["rng"])
        self.frames = payload["frames"]
        self.metrics = payload["metrics"]
        say(f"continuing after {self.frames} frames")


def _describe(**arguments: Any) -> dict[str, Any]:
    """Arguments as plain data; objects by their repr, which for dataclasses tells every field."""
    plain = (str, int, float, bool, type(None))
    return {name: v if isinstance(v, plain) else repr(v) for name, v in arguments.items()}


def _claim(folder: Path, arguments: dict[str, Any]) -> None:
    """Make the folder this run's. Raises ValueError where a run with other arguments has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "arguments.json"
    mine = json.loads(json.dumps(arguments))
    if path.exists():
        theirs = json.loads(path.read_text())
        differ = [n for n in sorted({*mine, *theirs}) if mine.get(n) != theirs.get(n)]
        if differ:
            was = ", ".join(f"{n}={theirs.get(n)!r} (now {mine.get(n)!r})" for n in differ)
            raise ValueError(f"{folder} holds a run with {was}: choose another folder")
        return
    if (folder / "checkpoint.pt").exists():
        raise ValueError(f"{folder} holds a run without arguments.json: choose another folder")
    text = json.dumps(mine, indent=2) + "\n"
    checkpoints.write_atomically(path, lambda temporary: temporary.write_text(text))


def _write_metrics(folder: Path, metrics: list[Row]) -> None:
    """Both files anew each time, so that they never hold rows the checkpoint does not know."""

    def as_csv(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(metrics[0]))
            writer.writeheader()
            writer.writerows(metrics)

    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    checkpoints.write_atomically(folder / "metrics.csv", as_csv)
    checkpoints.write_atomically(folder / "metrics.jsonl", lambda path: path.write_text(lines))


def _line(row: Row) -> str:
    fit = f"holdout error {row['holdout_gmse']:.2e}  " if "holdout_gmse" in row else ""
    return (
        f"round {row['round']:3.0f}  frames {row['frames']:6.0f}  return {row['return']:7.1f}  "
        f"{fit}collect {row['collect_s']:.1f} s  learn {row['learn_s']:.1f} s"
    )


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("control_train", train, __doc__ or ""))
