"""Curves outside of metrics.csv: every row once, however often a run was stopped."""

import sys
from types import SimpleNamespace

import pytest

from configs import cli
from control.logs import TensorBoard, WandB
from control.metrics import line
from control.types import RunInfo

ROWS = [
    {"frames": 100 * i, "return": float(i), "seconds": 2.0 * i, "fps": 50.0, "loss": 1 / i}
    | ({"eval_return": 10.0 * i} if i % 2 else {})
    for i in range(1, 7)
]


def info(folder, rows=()) -> RunInfo:
    return RunInfo(folder, "gym/Pendulum-v1", 1, None, 0, 600, {"seed": 0}, list(rows))


def watch(watcher, folder, before, after) -> None:
    watcher.start(info(folder, before))
    for row in after:
        watcher.on_row(row)


def curves(folder) -> dict[str, list[tuple[int, float, float]]]:
    """Name to (step, value, seconds since the first point)."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    start = read.Scalars("progress/fps")[0].wall_time
    return {
        name: [(e.step, e.value, round(e.wall_time - start, 3)) for e in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def test_tensorboard_of_a_resumed_run_is_that_of_one_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    watch(never := TensorBoard(), whole, [], ROWS)
    never.close()
    # Rows 3 and 4 were written, but the checkpoint knows two: they are done again.
    watch(TensorBoard(), stopped, [], ROWS[:4])
    watch(again := TensorBoard(), stopped, ROWS[:2], ROWS[2:])
    again.close()
    assert curves(stopped) == curves(whole)
    assert curves(whole)["agent/loss"] == [
        (100 * i, pytest.approx(1 / i), pytest.approx(2.0 * (i - 1))) for i in range(1, 7)
    ]
    assert [step for step, *_ in curves(whole)["return/eval_return"]] == [100, 300, 500]


class FakeRun:
    """What `wandb.init` returns, with the curve that the server has."""

    def __init__(self, curve: dict[int, dict[str, float]]) -> None:
        self.curve = curve
        self.finished = False

    @property
    def step(self) -> int:
        return max(self.curve) + 1 if self.curve else 0

    def log(self, values, step) -> None:
        assert step >= self.step, "the package drops what comes late"
        self.curve[step] = values

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package: remembers how runs were opened, and the curves by id."""
    opened, servers = [], {}

    def init(**options):
        curve = servers.setdefault(options["id"], {}) if options["mode"] == "online" else {}
        opened.append((options, FakeRun(curve)))
        return opened[-1][1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return opened


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_goes_on_under_its_id_with_every_row_once(mode, wandb, tmp_path):
    watch(WandB(mode=mode, project="p"), tmp_path, [], ROWS[:4])
    watch(again := WandB(mode=mode, project="p"), tmp_path, ROWS[:2], ROWS[2:])
    again.close()
    (first, _), (second, run) = wandb
    assert first == second and first["resume"] == "allow" and first["config"] == {"seed": 0}
    assert list(run.curve) == [row["frames"] for row in ROWS] and run.finished
    assert run.curve[200] == {
        "return/return": 2.0,
        "progress/seconds": 4.0,
        "progress/fps": 50.0,
        "agent/loss": 0.5,
    }
    other = tmp_path / "other"
    other.mkdir()
    WandB(mode=mode).start(info(other))
    assert wandb[-1][0]["id"] != first["id"]


def test_wandb_is_asked_for_nothing_while_disabled(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    watch(off := WandB(), tmp_path, [], ROWS)
    off.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModuleNotFoundError, match="wandb"):
        WandB(mode="offline").start(info(tmp_path))


def test_progress_tells_speed_and_the_time_that_is_left():
    rows = [row | {"skipped": 0, "eval_low": 0.0, "eval_high": 99.0} for row in ROWS]
    assert line(rows[:2], 600).startswith("frames      200  return     2.0  50 frames/s, 8 s left")
    assert "50 frames/s, 2.0 min left" in line(rows[:2], 6200)
    assert "50 frames/s, 5.6 h left" in line(rows[:2], 1_000_000)
    assert "left" not in line(rows[:1], 600) and "left" not in line(rows, 600)


def test_what_watches_a_run_is_a_matter_of_options():
    got = []

    def train(*, watch):
        got.append(watch)

    for options in ([], ["watch=none"], ["watch.film=null", "watch.wandb.mode=offline"]):
        cli.call("control_train", train, options)
    standard, none, some = got
    assert [type(watcher).__name__ for watcher in standard.values()] == [
        "TensorBoard",
        "WandB",
        "Film",
        "Page",  # the last: it shows the film
    ]
    assert set(none) == set(standard) and not any(none.values())
    assert some["film"] is None and some["wandb"].mode == "offline"
    with pytest.raises(cli.UsageError, match=r"'watch\.wandb\.mode' must be disabled or offline"):
        cli.call("control_train", train, ["watch.wandb.mode=maybe"])


def test_without_tensorboard_the_missing_package_is_what_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    watcher = TensorBoard()
    with pytest.raises(ModuleNotFoundError, match="tensorboard"):
        watcher.start(info(tmp_path))
    watcher.close()  # as `train` does, whatever happened
