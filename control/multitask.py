"""Learn one TD-MPC2 model of several tasks from the experience of finished training runs.

    python -m control.multitask data='[runs/cartpole,runs/walker]' out=runs/both
    python -m evals.control model=runs/both/model.pt env=dmc/walker-walk planner=tdmpc2

Hansen et al. 2024, arXiv:2310.16828, section 3.3: every network also reads an embedding of the
task, learned with the rest and kept within the unit ball; observations are filled up with zeros to
the longest, actions too, and what a task lacks is masked. Each stretch of a batch is of a task
drawn uniformly. A run that was stopped continues when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.processes import held
from control import arguments as recorded
from control import checkpoints, finite, loop
from control.agents.tdmpc2 import LOGGED, TDMPC2, Batch, Updates, unit_actions
from control.devices import find_device
from control.envs import make_env
from control.finite import NotFiniteError, Reaction, check_reaction
from control.latent import LatentWorld, discount_for, size_named
from control.metrics import Metrics
from control.replay import Replay
from control.world_model import LatentWorldModel, Task, save_world_model
from mbrl_core import draws
from mbrl_core.types import Discrete

KIND = "run of control.multitask"
FREE = ("out", "updates", "checkpoint_updates")  # what may differ between two calls


def train_multitask(
    *,
    data: Sequence[str | Path],
    agent: TDMPC2,
    out: str | Path,
    seed: int = 0,
    updates: int = 100_000,
    log_updates: int = 1_000,
    checkpoint_updates: int = 10_000,
    nan: Reaction = "stop",
    arguments: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Make `updates` updates from the replays of `data`; returns the run's folder.

    Args:
        data: folders of runs of `control.train`, of one task each. They are only read.
        agent: the hyperparameters; those of acting and collecting have no effect. Without a
            `discount` each task has that of its run (see `read_run`).
        out: the run's folder. It holds `model.pt`, which `evals.control` plays in each of the
            tasks, `metrics.csv` and `.jsonl`, `arguments.json`, and `checkpoint.pt` (and the one
            before).
        seed: decides everything random.
        updates: in all; a finished run can be given more.
        log_updates: updates between two rows of metrics.
        checkpoint_updates: updates between two checkpoints.
        nan: what a loss that is not finite does. Its update is left out and counted; "stop" then
            saves its batch and a checkpoint and raises, "skip" goes on.
        arguments: these arguments as plain data, for the record; taken from the objects where None.
        say: receives progress lines.

    Raises:
        ValueError: `data` holds no run, two runs of one task, or one of discrete actions; `out`
            holds a run with other arguments; a loss is not finite (its batch is saved there).
    """
    check_reaction(nan)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    if min(updates, log_updates, checkpoint_updates) < 1:
        raise ValueError("updates, log_updates and checkpoint_updates must be at least 1")
    given = arguments or {
        "data": [str(path) for path in data], "agent": agent, "seed": seed,
        "log_updates": log_updates, "nan": nan,
    }  # fmt: skip
    described = {name: recorded.plain(v) for name, v in given.items() if name not in FREE}
    folder, rng = Path(out), draws.generator(seed)
    dataset = Dataset([read_run(path, agent.discount, say) for path in data], agent.horizon)
    may_end = any(not task.env.startswith("dmc/") for task in dataset.tasks)
    world = LatentWorld(
        dataset.observation_dim,
        dataset.action_dim,
        size=size_named(agent.size),
        episodic=may_end if agent.episodic is None else agent.episodic,
        task_actions=[len(task.action_space.low) for task in dataset.tasks],  # type: ignore[union-attr]
        rng=rng,
    )
    run = _Run(folder, Updates(agent, world.to(find_device(agent.device)), rng), dataset, rng)
    with held(folder):
        recorded.check(folder, described)
        recorded.record(folder, described)
        run.resume(say)
        while run.done < updates:
            failed = run.advance()
            if run.done % log_updates == 0 or run.done == updates:
                say(f"updates {run.done:7d}  " + run.log())
            if run.done % checkpoint_updates == 0 or run.done == updates:
                run.save()
            if failed is not None and nan == "stop":
                run.save()
                finite.stop(folder, failed, f"{run.done} updates")
    say(f"done after {run.done} updates: {folder}")
    return folder


class Dataset:
    """The replays of several tasks, as batches of stretches."""

    def __init__(self, runs: Sequence[tuple[Task, Replay]], horizon: int) -> None:
        """Raises ValueError where there is nothing to learn from, or a task comes twice."""
        names = [task.env for task, _ in runs]
        if not runs or len({*names}) < len(names):
            raise ValueError(f"data must be runs of one or more different tasks, not of {names}")
        for task, replay in runs:
            if isinstance(task.action_space, Discrete):
                raise ValueError(f"{task.env} has discrete actions: several tasks need continuous")
            if replay.count(horizon) == 0:
                raise ValueError(f"the run of {task.env} has no episode of {horizon} steps")
        self.tasks = [replace(task, number=i) for i, (task, _) in enumerate(runs)]
        self.replays = [replay for _, replay in runs]
        self.horizon = horizon
        self.observation_dim = max(task.observation_dim for task in self.tasks)
        self.action_dim = max(len(task.action_space.low) for task in self.tasks)  # type: ignore[union-attr]

    def batch(self, number: int, rng: torch.Generator, device: torch.device) -> Batch:
        """`number` stretches, each of a task drawn uniformly, sorted by task."""
        share = draws.integers(rng, len(self.tasks), number).bincount(minlength=len(self.tasks))
        parts = []
        for task, replay, count in zip(self.tasks, self.replays, share.tolist(), strict=True):
            if count == 0:
                continue
            drawn = replay.sequences(count, self.horizon, rng, device)
            parts.append(
                Batch(
                    _filled(drawn.obs, self.observation_dim),
                    _filled(unit_actions(drawn.action, task.action_space), self.action_dim),
                    drawn.reward,
                    drawn.terminated.float(),
                    torch.full((count,), task.discount, device=device),
                    torch.full((count,), task.number or 0, device=device),
                )
            )
        columns = zip(*parts, strict=True)
        return Batch(*(torch.cat(column, min(column[0].dim() - 1, 1)) for column in columns))


class _Run:
    """All that changes while learning from a dataset."""

    def __init__(
        self, folder: Path, updates: Updates, dataset: Dataset, rng: torch.Generator
    ) -> None:
        self.folder, self.updates, self.dataset, self.rng = folder, updates, dataset, rng
        self.metrics = Metrics(folder)
        self.done = 0
        self._sum = torch.zeros(len(LOGGED))
        self._number = 0

    def advance(self) -> NotFiniteError | None:
        """One update, or one that is left out because its loss is not finite."""
        device = self.updates.world.device
        batch = self.dataset.batch(self.updates.recipe.batch_size, self.rng, device)
        self.done += 1
        try:
            self._sum = self._sum.to(device) + self.updates.update(batch)
        except NotFiniteError as error:
            self.metrics.skipped += error.left_out
            return error
        self._number += 1
        return None

    def log(self) -> str:
        """Add the means since the last row to the metrics; the row as a line."""
        means = {}
        if self._number:
            means = dict(zip(LOGGED, (self._sum / self._number).tolist(), strict=True))
        self.metrics.learned({"updates": self._number, **means})
        self._sum, self._number = torch.zeros(len(LOGGED)), 0
        self.metrics.row(0, 0, None)
        return "  ".join(f"{name} {value:.3g}" for name, value in means.items())

    def save(self) -> None:
        """The model, then the checkpoint."""
        tasks = tuple(self.dataset.tasks)
        record = {"updates": self.done, "tasks": [task.env for task in tasks]}
        model = LatentWorldModel(self.updates.world, tasks, record)
        save_world_model(self.folder / "model.pt", model)
        payload = {
            "kind": KIND,
            "tasks": record["tasks"],
            "done": self.done,
            "rng": self.rng.get_state(),
            "sum": self._sum,
            "number": self._number,
            "metrics": self.metrics.state_dict(),
            "updates": self.updates.state_dict(),
        }
        checkpoints.save(self.folder / "checkpoint.pt", payload, keep_previous=True)

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists() and not checkpoints.previous(path).exists():
            return
        state, warning = checkpoints.load_newest(path, KIND)
        if warning:
            say(warning)
        self.done, self._sum, self._number = state["done"], state["sum"], state["number"]
        self.rng.set_state(state["rng"])
        self.metrics.load_state_dict(state["metrics"])
        self.updates.load_state_dict(state["updates"])
        say(f"continuing after {self.done} updates")


def read_run(
    folder: str | Path, discount: float | None = None, say: Callable[[str], None] = print
) -> tuple[Task, Replay]:
    """The task and the replay of a run of `control.train`, in whose folder nothing is written.

    The task's discount is the one given, else that of the run where TD-MPC2 was told one, else that
    which suits the length of its episodes (`discount_for`). `say` is told where the newest
    checkpoint is damaged and the one before is read.

    Raises CheckpointError where there is no such run.
    """
    folder = Path(folder)
    state, warning = checkpoints.read_newest(folder / "checkpoint.pt", loop.KIND)
    if warning:
        say(warning)
    arguments = recorded.read(folder)
    name, repeat = arguments["env"], arguments["action_repeat"]
    if repeat is None:  # which a command leaves to the agent
        repeat = _repeat(arguments["agent"]) if name.startswith("dmc/") else 1
    env = make_env(name, action_repeat=repeat, max_frames=arguments["max_frames"])
    replay = Replay(
        folder / "replay",
        env.observation_dim,
        env.action_space,
        num_envs=arguments["num_envs"],
        capacity=arguments["replay_capacity"],
    )
    replay.restore(state["replay"], read_only=True)
    if discount is None and arguments["agent"]["_target_"].endswith(".TDMPC2"):
        discount = arguments["agent"]["discount"]
    if discount is None:
        discount = discount_for(env.frames_per_episode, repeat)
    return Task(name, repeat, env.observation_dim, env.action_space, discount), replay


def _repeat(agent: dict[str, Any]) -> int:
    """The frames for which an agent holds an action, from its record; MBPO and SVG leave them to
    the SAC that is a part of them."""
    return agent["action_repeat"] if "action_repeat" in agent else agent["sac"]["action_repeat"]


def _filled(rows: Tensor, width: int) -> Tensor:
    """Rows [..., n] followed by zeros, [..., width]."""
    return F.pad(rows, (0, width - rows.shape[-1]))


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("control_multitask", train_multitask, __doc__ or ""))
