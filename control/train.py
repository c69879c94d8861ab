"""Learn to control an environment: act, remember, learn, and again.

    python -m control.train agent=pets env=dmc/cartpole-swingup out=runs/cartpole

Everything lies in the run's folder. A run that was stopped, however roughly, continues when the
same command is given again, and on a CPU gives bit for bit what it would have given. Where it is
computed (`device`, `compiled`) and what stops it (`nan`) may change in between.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from configs.processes import held
from control import arguments as recorded
from control.envs import make_env
from control.finite import Reaction, check_reaction
from control.loop import Pace, Run
from control.machine import note_machine
from control.metrics import line
from control.types import Learner, Recipe, RunInfo, Watcher
from mbrl_core.types import Planner

__all__ = ["Learner", "Recipe", "Watcher", "train"]

# What may differ between two calls of the same run, next to `recorded.FREE`.
FREE = ("out", "frames", "checkpoint_frames", "watch")


def _tell(text: str) -> None:
    print(text, flush=True)  # to be read on the way, also from a file


def train(
    *,
    env: str,
    agent: Recipe,
    planner: Planner | None = None,
    out: str | Path,
    seed: int = 0,
    frames: int = 100_000,
    action_repeat: int | None = None,
    num_envs: int = 1,
    max_frames: int | None = None,
    eval_frames: int | None = 10_000,
    eval_episodes: int = 10,
    log_frames: int = 1_000,
    checkpoint_frames: int = 10_000,
    replay_capacity: int = 1_000_000,
    nan: Reaction = "stop",
    watch: Sequence[Watcher] | Mapping[str, Watcher | None] = (),
    arguments: dict[str, Any] | None = None,
    say: Callable[[str], None] = _tell,
) -> Path:
    """Train until `frames` simulator frames are seen; returns the run's folder.

    Args:
        env: a name for `make_env`.
        agent: the algorithm, such as `PETS()`.
        planner: chooses the actions; where None the agent's own, if it has one.
        out: the run's folder. It holds `checkpoint.pt` (and the one before), `replay`,
            `metrics.csv` and `.jsonl` (see `control/metrics.py`), `arguments.json`, `machine.json`
            (what computed it, see `control/machine.py`), and `model.pt` for `load_world_model`
            where the agent learns a model.
        seed: decides everything random.
        frames: simulator frames, the random ones included. A finished run can be given more.
        action_repeat: frames for which an action is held; None is what the agent was made for in
            the DeepMind Control Suite, and 1 elsewhere.
        num_envs: environments stepped side by side, each in an episode of its own.
        max_frames: cuts episodes.
        eval_frames: frames between two evaluations, which are episodes apart from training,
            without exploration, in environments and with draws of their own; there is one at the
            end, too, whose row a run that is given more frames drops. None for none.
        eval_episodes: episodes of each, the same ones every time.
        log_frames: frames between two rows of metrics.
        checkpoint_frames: frames between two checkpoints.
        replay_capacity: latest decisions that are learned from. Agents that fit a model to all of
            them (PETS, MBPO, SVG) need room for the whole run.
        nan: what a loss that is not finite does. Its update is left out and counted; "stop" then
            saves its batch and a checkpoint and raises, "skip" goes on.
        watch: what is told of rows and evaluations; under names, None switches one off.
        arguments: these arguments as plain data, for the record; taken from the objects where None.
        say: receives progress lines.

    Raises:
        ValueError: `out` holds a run with other arguments, an unknown environment, damaged
            checkpoints (CheckpointError), or a loss that is not finite (its batch is saved there).
            What cannot work is refused before `out` is taken.
        OSError: another process writes to `out`, or the disk is full; the checkpoint before is
            intact.
        KeyboardInterrupt: after a checkpoint, on SIGINT or SIGTERM; at once on a second one.
    """
    folder = Path(out)
    repeat = _repeat(env, agent) if action_repeat is None else action_repeat
    given = arguments or {
        "env": env, "agent": agent, "planner": planner, "seed": seed, "action_repeat": repeat,
        "num_envs": num_envs, "max_frames": max_frames, "eval_frames": eval_frames,
        "eval_episodes": eval_episodes, "log_frames": log_frames,
        "replay_capacity": replay_capacity, "nan": nan,
    }  # fmt: skip
    described = {name: recorded.plain(v) for name, v in given.items() if name not in FREE}
    check_reaction(nan)
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    _check(
        frames=frames,
        log_frames=log_frames,
        checkpoint_frames=checkpoint_frames,
        eval_frames=eval_frames,
        eval_episodes=eval_episodes,
    )
    with held(folder):
        recorded.check(folder, described)
        watchers = [w for w in (watch.values() if isinstance(watch, Mapping) else watch) if w]
        run = Run(
            RunInfo(folder, env, repeat, max_frames, seed, frames, described, []),
            agent,
            planner,
            make_env(env, num_envs, repeat, seed, max_frames),
            make_env(env, eval_episodes if eval_frames else 1, repeat, seed, max_frames),
            pace=Pace(
                random=agent.random_frames,
                log=log_frames,
                evaluate=eval_frames,
                checkpoint=checkpoint_frames,
            ),
            capacity=replay_capacity,
            nan=nan,
            watchers=watchers,
            say=say,
        )
        recorded.record(folder, described)
        if not run.resume():
            run.begin()
        note_machine(folder, run.frames)
        with ExitStack() as ending:  # closes all of them, also where one fails
            for watcher in reversed(watchers):  # it begins with what it was given last
                ending.callback(watcher.close)
            for watcher in watchers:
                watcher.start(run.info._replace(rows=list(run.metrics.rows)))
            _drive(run, frames, say)
    return folder


def _drive(run: Run, frames: int, say: Callable[[str], None]) -> None:
    """Advance to the end, or until told to stop; either way the last step is saved."""
    with _noted_signals() as noted:
        told = len(run.metrics.rows)
        while run.frames < frames:
            run.advance()
            told = _tell_rows(run, told, frames, say)
            if noted:
                run.save()
                say(f"stopped after {run.frames} frames; the same command continues")
                raise KeyboardInterrupt
        run.finish()
        _tell_rows(run, told, frames, say)
    say(f"done after {run.frames} frames: {run.info.folder}")


def _tell_rows(run: Run, told: int, frames: int, say: Callable[[str], None]) -> int:
    """Say the latest row where there are more than `told`; how many there are."""
    if len(run.metrics.rows) > told:
        say(line(run.metrics.rows, frames))
    return len(run.metrics.rows)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM is put on; the next one does what it always does."""
    noted: list[int] = []
    handlers: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        noted.append(number)
        restore()
        os.write(2, b"stopping after this step; the same signal again stops at once\n")

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def _repeat(env: str, agent: Recipe) -> int:
    return agent.action_repeat if env.startswith("dmc/") else 1


def _check(**counts: int | None) -> None:
    for name, number in counts.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("control_train", train, __doc__ or ""))
