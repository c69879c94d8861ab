"""Episodes as films: played again from their seed and actions, and rendered without a display.

    python -m control.video run=runs/cartpole

Training needs no renderer: it keeps the episodes, and a process of its own renders them. That one
takes the graphics library that MUJOCO_GL names, `egl` (Debian: libegl1 libgl1) or `osmesa`
(libosmesa6).
"""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from configs.options import option
from configs.sweeps import PARENT
from control import checkpoints
from control.envs import DMControl, Gymnasium, Simulator
from control.types import Act, Evaluation, Row, RunInfo

KIND = "episode"
FOLDER = "videos"  # in a run's folder
RATE = 25.0  # pictures a second, about: a whole number of simulator frames lies between two

Picture: TypeAlias = Callable[[], np.ndarray]
"""What there is to see now: [height, width, 3] uint8."""


class Episode(NamedTuple):
    """All that it takes to play an episode again."""

    env: str  # a name for `make_env`
    action_repeat: int
    max_frames: int | None
    seed: int
    actions: Tensor  # [T, A], or int64 [T] if discrete


class Film:
    """Watches a run: keeps the first episode of every n-th evaluation, and has it rendered.

    Rendering happens beside the training, one process at a time, which ends with it. Where it fails
    the run goes on; that is said once, and the episodes are kept for the command above. Where
    nothing at all can be rendered it is not tried again.
    """

    def __init__(self, every: int = 1, say: Callable[[str], None] = print) -> None:
        if every < 1:
            raise ValueError(f"one of {every} evaluations cannot be filmed: every is at least 1")
        self.every = every
        self.say = say
        self._run: RunInfo | None = None
        self._renderer: subprocess.Popen[str] | None = None
        self._asked: list[Path] = []  # the episodes that it is to render
        self._told = self._hopeless = False

    def start(self, run: RunInfo) -> None:
        """Before the first step."""
        self._run = run
        self._seen = sum("eval_return" in row for row in run.rows)

    def on_row(self, row: Row) -> None:
        """Nothing to see in a row."""

    def on_evaluation(self, evaluation: Evaluation, act: Act) -> None:
        """Keep the first episode if it is its turn."""
        self._seen += 1
        run = self._run
        if run is None or (self._seen - 1) % self.every:
            return
        episode = Episode(
            run.env, run.action_repeat, run.max_frames, evaluation.seed, evaluation.actions
        )
        folder = run.folder / FOLDER
        folder.mkdir(exist_ok=True)
        save_episode(folder / f"{evaluation.frames:09d}.pt", episode)
        if self._renderer is None or self._renderer.poll() is not None:
            self._render(run.folder)

    def close(self) -> None:
        """Wait until everything is rendered that can be."""
        if self._run is None:
            return
        self._finish(self._run.folder)
        if _unrendered(self._run.folder):
            self._render(self._run.folder)
            self._finish(self._run.folder)

    def _render(self, run: Path) -> None:
        self._finish(run)
        if not self._hopeless:
            self._asked = _unrendered(run)
            self._renderer = subprocess.Popen(
                [sys.executable, "-m", "control.video", option("run", run.resolve())],
                env={**os.environ, PARENT: str(os.getpid())},  # which `follow_parent` reads
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
            )

    def _finish(self, run: Path) -> None:
        """Wait for the process under way; say once that it failed."""
        if self._renderer is None:
            return
        _, told = self._renderer.communicate()
        if self._renderer.returncode:
            self._hopeless = {*self._asked} <= {*_unrendered(run)}
            self._tell(told, run)
        self._renderer = None

    def _tell(self, told: str, run: Path) -> None:
        if not self._told:
            self._told = True
            why = (told.strip().splitlines() or ["killed"])[-1].removeprefix("error: ")
            what = "no videos" if self._hopeless else "some videos are missing"
            again = f"python -m control.video run={run}"
            self.say(f"{what} ({why}); training goes on, and this renders them later: {again}")


def video(
    *, run: str | Path, width: int = 320, height: int = 240, say: Callable[[str], None] = print
) -> list[Path]:
    """Render the episodes that a run kept and that have no film yet; returns the films.

    Args:
        run: folder of a training run.
        width: of a picture in pixels, where the environment lets one choose.
        height: the same.
        say: receives progress lines.

    Raises ValueError where the folder holds no episodes, nothing can be rendered here, or, once all
    others are rendered, where episodes are damaged.
    """
    if min(width, height) < 1:
        raise ValueError(f"width and height must be at least 1, not {width} and {height}")
    folder = Path(run)
    if not list((folder / FOLDER).glob("*.pt")):
        raise ValueError(f"{folder} holds no episodes to render: it was trained without films")
    films, damaged = [], []
    for path in _unrendered(folder):
        try:
            episode = load_episode(path)
        except checkpoints.CheckpointError:
            damaged.append(str(path))
            continue
        film = path.with_suffix(".mp4")
        render(episode, film, (width, height))
        say(f"wrote {film}")
        films.append(film)
    if damaged:
        raise ValueError(
            f"no episode can be read from {', '.join(damaged)}: delete what is damaged"
        )
    return films


def _unrendered(run: Path) -> list[Path]:
    """The episodes without a film, or kept after it was made."""
    episodes = sorted((run / FOLDER).glob("*.pt"))
    return [
        path
        for path in episodes
        if not (film := path.with_suffix(".mp4")).exists()
        or film.stat().st_mtime < path.stat().st_mtime
    ]


def save_episode(path: Path, episode: Episode) -> None:
    """Write an episode for `load_episode`."""
    checkpoints.save(path, {"kind": KIND, **episode._asdict()})


def load_episode(path: Path) -> Episode:
    """Read an episode. Raises CheckpointError where the file is damaged or no episode."""
    payload = checkpoints.load(path, KIND)
    if not {*Episode._fields} <= payload.keys():
        raise checkpoints.CheckpointError(f"{path} holds no whole {KIND}")
    return Episode(**{name: payload[name] for name in Episode._fields})


def render(episode: Episode, path: Path, size: tuple[int, int] = (320, 240)) -> None:
    """Write the film of an episode, H.264 in an MP4 file, `size` pixels (width, height).

    Raises ValueError where this machine cannot render.
    """
    ffmpeg = importlib.import_module("imageio_ffmpeg")
    simulator, picture, seconds = _stage(episode.env, size)
    every = max(1, round(1 / (RATE * seconds)))

    def write(temporary: Path) -> None:
        pictures = (picture() for number in _play(simulator, episode) if number % every == 0)
        first = next(pictures)
        film = ffmpeg.write_frames(
            str(temporary),
            first.shape[1::-1],
            fps=1 / (every * seconds),
            macro_block_size=2,
            output_params=["-f", "mp4", "-movflags", "+faststart"],
        )
        film.send(None)
        for shot in itertools.chain([first], pictures):
            film.send(np.ascontiguousarray(shot))
        film.close()

    checkpoints.write_atomically(path, write)


def _play(simulator: Simulator, episode: Episode) -> Iterator[int]:
    """Play the episode again; yields the number of frames since its start, after each of them."""
    simulator.reset(episode.seed)
    number = 0
    yield number
    for action in episode.actions.numpy():
        for _ in range(episode.action_repeat):
            frame = simulator.frame(action)
            number += 1
            yield number
            if frame.terminated or frame.truncated or number == episode.max_frames:
                return


def _stage(env: str, size: tuple[int, int]) -> tuple[Simulator, Picture, float]:
    """An environment, what there is to see of it, and the seconds that a frame of it takes."""
    suite, _, task = env.partition("/")
    _choose_backend()
    try:
        return _mujoco_stage(task, size) if suite == "dmc" else _gymnasium_stage(task)
    except ValueError:
        raise
    except Exception as error:  # whatever the graphics libraries raise: they have no common error
        raise ValueError(
            f"nothing can be rendered here with MUJOCO_GL={os.environ['MUJOCO_GL']} "
            f"({' '.join(str(error).split())}): egl needs the Debian packages libegl1 and libgl1, "
            "osmesa needs libosmesa6"
        ) from error


def _choose_backend() -> None:
    """EGL unless another is chosen. MuJoCo reads the choice when it is imported, once."""
    if os.environ.get("MUJOCO_GL", "disabled") == "disabled":
        if "mujoco" in sys.modules:
            raise ValueError("MuJoCo was loaded without a renderer: render in a process of its own")
        os.environ["MUJOCO_GL"] = "egl"


def _mujoco_stage(task: str, size: tuple[int, int]) -> tuple[Simulator, Picture, float]:
    simulator = DMControl(task)
    mujoco = importlib.import_module("mujoco")
    physics = simulator.native.physics
    # What costs most on a processor: smooth edges, shadows and reflections.
    physics.model.ptr.vis.quality.offsamples = 0
    renderer = mujoco.Renderer(physics.model.ptr, height=size[1], width=size[0])
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    camera = 0 if physics.model.ncam else -1

    def picture() -> np.ndarray:
        renderer.update_scene(physics.data.ptr, camera=camera)
        return renderer.render()

    picture()  # what is missing shows here
    return simulator, picture, float(simulator.native.control_timestep())


def _gymnasium_stage(task: str) -> tuple[Simulator, Picture, float]:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else it looks for a display
    simulator = Gymnasium(task, render_mode="rgb_array")
    native: Any = simulator.native
    simulator.reset(0)
    native.render()
    return simulator, native.render, 1 / native.metadata.get("render_fps", 30)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("control_video", video, __doc__ or ""))
