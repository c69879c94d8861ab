"""Films of evaluations: the very episode, rendered apart from the training, or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs.processes import hold
from control import video
from control.envs import DMControl, Gymnasium, make_env
from control.episodes import random_actions, run_episodes
from control.types import Evaluation, RunInfo
from control.video import Episode, Film, load_episode, save_episode

ROOT = Path(__file__).parents[2]


def played(env: str, action_repeat: int, max_frames: int | None, seed: int = 3):
    """An episode of random actions, its length in frames, and its last observation."""
    judge = make_env(env, 2, action_repeat, max_frames=max_frames)
    rng = torch.Generator().manual_seed(0)
    episodes = run_episodes(
        judge, lambda obs, _: (random_actions(judge.action_space, 2, rng), None), [seed, seed + 1]
    )
    first = episodes.steps.action[: int(episodes.decisions[0])]
    last = episodes.steps.next_obs[len(first) - 1]
    return Episode(env, action_repeat, max_frames, seed, first), int(episodes.frames[0]), last


@pytest.mark.parametrize(
    ("env", "repeat", "limit"),
    [("dmc/cartpole-swingup", 8, 60), ("gym/CartPole-v1", 3, None), ("gym/FrozenLake-v1", 1, None)],
)
def test_an_episode_is_played_again_to_its_last_observation(env, repeat, limit, tmp_path):
    episode, frames, last = played(env, repeat, limit)
    save_episode(tmp_path / "episode.pt", episode)
    again = load_episode(tmp_path / "episode.pt")
    suite, _, task = env.partition("/")
    simulator = DMControl(task) if suite == "dmc" else Gymnasium(task)
    seen = []
    whole = simulator.frame
    simulator.frame = lambda action: seen.append(whole(action)) or seen[-1]
    numbers = list(video._play(simulator, again))
    assert numbers == list(range(frames + 1))
    assert seen[-1].obs.tolist() == last.tolist()


def test_films_show_the_episode_at_its_own_speed(tmp_path):
    (tmp_path / "videos").mkdir()
    for name, env, repeat, limit in [
        ("000000010", "dmc/cartpole-swingup", 8, 60),
        ("000000020", "gym/Pendulum-v1", 2, 30),
    ]:
        save_episode(tmp_path / f"videos/{name}.pt", played(env, repeat, limit)[0])
    assert len(video._unrendered(tmp_path)) == 2
    done = subprocess.run(
        [sys.executable, "-m", "control.video", f"run='{tmp_path}'"],
        cwd=ROOT,
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
    )
    if "nothing can be rendered here" in done.stderr:
        pytest.skip(done.stderr)
    films = sorted((tmp_path / "videos").glob("*.mp4"))
    assert [line.split("/")[-1] for line in done.stdout.splitlines()] == [f.name for f in films]
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    for film, size, fps, pictures in [
        (films[0], (320, 240), 25, 16),  # every 4th of 60 frames of 10 ms, and the first
        (films[1], (500, 500), 30, 31),
    ]:
        reader = ffmpeg.read_frames(str(film))
        about = next(reader)
        shots = [torch.frombuffer(bytearray(shot), dtype=torch.uint8) for shot in reader]
        assert (about["size"], about["fps"], len(shots)) == (size, fps, pictures)
        assert shots[0].float().std() > 10 and not shots[0].equal(shots[-1])
    # What is rendered is not rendered again; an episode that was kept later is.
    assert video._unrendered(tmp_path) == []
    newer = tmp_path / "videos/000000020.pt"
    os.utime(newer, (2e9, 2e9))
    assert video._unrendered(tmp_path) == [newer]


def test_without_graphics_one_sentence_names_the_packages(monkeypatch, tmp_path):
    def broken(task, size):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(video, "_mujoco_stage", broken)
    episode = Episode("dmc/cartpole-swingup", 1, None, 0, torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"=egl \('None.*packages libegl1 and libgl1, osmesa"):
        video.render(episode, tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds no episodes to render"):
        video.video(run=tmp_path)
    with pytest.raises(ValueError, match="must be at least 1, not -3 and 240"):
        video.video(run=tmp_path, width=-3)


def test_every_nth_evaluation_is_kept_and_the_run_goes_on_without_a_renderer(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'a warning' >&2; echo 'error: no graphics' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    told: list[str] = []

    def watch(rows, frames) -> None:
        film = Film(every=2, say=told.append)
        film.start(RunInfo(tmp_path, "gym/CartPole-v1", 2, 7, 0, 99, {}, rows))
        for number in frames:
            returns = torch.tensor([1.0])
            film.on_evaluation(
                Evaluation(number, returns, returns, number, torch.tensor([0, 1])), None
            )
        film.close()

    watch([], [10, 20, 30])
    watch([{"eval_return": 0.0}, {}, {"eval_return": 0.0}, {"eval_return": 0.0}], [40, 50])
    kept = sorted((tmp_path / "videos").glob("*.pt"))
    assert [path.name for path in kept] == ["000000010.pt", "000000030.pt", "000000050.pt"]
    assert load_episode(kept[1])[:4] == ("gym/CartPole-v1", 2, 7, 30)
    later = f"training goes on, and this renders them later: python -m control.video run={tmp_path}"
    assert told == [f"no videos (no graphics); {later}"] * 2
    Film().close()  # a run that did not start
    with pytest.raises(ValueError, match="every is at least 1"):
        Film(every=0)


def test_a_damaged_episode_keeps_no_other_from_being_rendered(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    paths = [tmp_path / f"videos/{number:09d}.pt" for number in (10, 20, 30)]
    save_episode(paths[1], Episode("gym/CartPole-v1", 1, None, 0, torch.zeros(1)))
    paths[0].write_bytes(b"damaged")
    video.checkpoints.save(paths[2], {"kind": video.KIND})
    monkeypatch.setattr(video, "render", lambda episode, film, size: film.touch())
    told: list[str] = []
    sentence = f"no episode can be read from {paths[0]}, {paths[2]}: delete what is damaged"
    with pytest.raises(ValueError, match=sentence):
        video.video(run=tmp_path, say=told.append)
    assert told == [f"wrote {paths[1].with_suffix('.mp4')}"]


def test_later_episodes_are_rendered_though_an_earlier_one_cannot_be(tmp_path, monkeypatch):
    partial = tmp_path / "python"
    render = 'for f in $(ls */*.pt | grep -v 010); do touch "${f%.pt}.mp4"; done'
    partial.write_text(f"#!/bin/sh\ncd '{tmp_path}'; {render}; echo 'error: damaged' >&2; exit 1\n")
    partial.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(partial))
    told: list[str] = []
    film = Film(say=told.append)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/000000010.pt").write_bytes(b"damaged")
    film.start(RunInfo(tmp_path, "gym/CartPole-v1", 1, None, 0, 99, {}, []))
    for number in (20, 30, 40):
        film.on_evaluation(Evaluation(number, None, None, 0, torch.tensor([0])), None)
        film._renderer.wait()
    film.close()
    assert [path.stem for path in video._unrendered(tmp_path)] == ["000000010"]
    assert len(told) == 1 and told[0].startswith("some videos are missing (damaged); training goes")


KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
from control.types import Evaluation, RunInfo
from control.video import Film

folder = Path(sys.argv[1])
sys.executable = str(folder / "python")
film = Film()
film.start(RunInfo(folder, "gym/CartPole-v1", 1, None, 0, 99, {}, []))
film.on_evaluation(Evaluation(10, None, None, 0, torch.tensor([0])), None)
while not (folder / "ready").exists():
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""
RENDERER = """
import sys, time
from pathlib import Path
from configs.processes import hold
from configs.sweeps import follow_parent

follow_parent()
folder = Path(sys.argv[0]).parent
held = hold(folder)
(folder / "ready").touch()
time.sleep(30)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_the_renderer_ends_with_a_training_that_is_killed(tmp_path):
    (tmp_path / "renderer.py").write_text(RENDERER)
    start = f"PYTHONPATH='{ROOT}' exec '{sys.executable}' '{tmp_path}/renderer.py'"
    (tmp_path / "python").write_text(f"#!/bin/sh\n{start}\n")
    (tmp_path / "python").chmod(0o755)
    killed = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 10
    while True:  # the folder is free when the renderer has ended
        try:
            os.close(hold(tmp_path))
            break
        except BlockingIOError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
