"""Runs on several workers: every problem once, whatever becomes of a worker."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from evals.records import WORKERS, RecordStore, read_records
from evals.runner import (
    Claim,
    Crew,
    Local,
    Ray,
    cards_each,
    check_reachable,
    merge,
    runner_of,
)


class Number(NamedTuple):
    id: str
    value: int


class Squares(NamedTuple):
    """Squares numbers. At the number `deadly` the worker kills itself, `deaths` times in all."""

    marks: str  # folder in which deaths are counted
    deadly: int = -1
    deaths: int = 1
    wrong: int = -1  # the number that raises
    slow: float = 0.0

    def __call__(self, store, batch, kept, say):
        engine = kept.get("engine", os.getpid, lambda pid: (Path(self.marks) / f"{pid}").touch())
        for item in batch:
            if item.id in store:
                continue
            if item.value == self.wrong:
                raise ValueError(f"{item.value} is wrong")
            if item.value == self.deadly and self._dies():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.slow)
            store.append(item.id, {"square": item.value**2, "engine": engine})

    def _dies(self) -> bool:
        before = len(list(Path(self.marks).glob("death-*")))
        if before < self.deaths:
            (Path(self.marks) / f"death-{before}").touch()
        return before < self.deaths


NUMBERS = [Number(f"n/{i}", i) for i in range(12)]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed"
)
RUNNERS = [
    pytest.param(Local(workers=2), id="local"),
    pytest.param(Ray(workers=2), id="ray", marks=needs_ray),
]


def squares(out: Path) -> dict[str, int]:
    """Checks that no id is twice on record, and that nothing was left beside the records."""
    records = list(read_records(out / "records.jsonl"))
    assert not (out / WORKERS).exists()
    return {record["id"]: record["square"] for record in records}


ALL = {item.id: item.value**2 for item in NUMBERS}


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_killed_workers_problems_are_done_again_and_none_twice(runner, tmp_path):
    said: list[str] = []
    with Crew(runner=runner) as crew:
        with RecordStore(tmp_path / "a", {}) as store:
            work = Squares(str(tmp_path), deadly=4)
            crew.do(work, NUMBERS, store, batch=3, say=said.append)
        assert squares(tmp_path / "a") == ALL
        lost = [line for line in said if "was lost" in line]
        assert len(lost) == 1 and "with 2 problems" in lost[0]  # 3 of 3, 4, 5 was on record
        with RecordStore(tmp_path / "b", {}) as store:
            crew.do(Squares(str(tmp_path)), NUMBERS, store, batch=3, say=said.append)
        assert squares(tmp_path / "b") == ALL
        engines = [
            {record["engine"] for record in read_records(tmp_path / run / "records.jsonl")}
            for run in "ab"
        ]
        # Two workers and one in place of the lost: the second run loads nothing anew.
        assert len(engines[0] | engines[1]) <= 3 and engines[0] & engines[1]
    closed = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert engines[1] <= closed and len(closed) == 2


def test_what_ends_its_worker_every_time_is_given_up_alone(tmp_path):
    with Crew(runner=Local(workers=2)) as crew, RecordStore(tmp_path / "a", {}) as store:
        work = Squares(str(tmp_path), deadly=7, deaths=99)
        crew.do(work, NUMBERS, store, batch=2, say=str)
        assert list(store.failures) == ["n/7"] and "lost twice" in store.failures["n/7"]
    assert squares(tmp_path / "a") == {id: n for id, n in ALL.items() if id != "n/7"}


def test_an_error_ends_the_run_and_keeps_what_was_found(tmp_path):
    with Crew(runner=Local(workers=1)) as crew, RecordStore(tmp_path / "a", {}) as store:
        with pytest.raises(ValueError, match=r"^5 is wrong$"):
            crew.do(Squares(str(tmp_path), wrong=5), NUMBERS, store, batch=4, say=str)
        crew.do(Squares(str(tmp_path)), NUMBERS, store, batch=4, say=str)
    assert squares(tmp_path / "a") == ALL


def test_without_a_runner_everything_is_done_here(tmp_path):
    with Crew() as crew, RecordStore(tmp_path / "a", {}) as store:
        crew.do(Squares(str(tmp_path)), NUMBERS, store, batch=1)
        assert {record["engine"] for record in store.records} == {os.getpid()}
    assert squares(tmp_path / "a") == ALL


def test_what_workers_of_a_killed_run_left_is_taken_over(tmp_path):
    RecordStore(tmp_path / "a", {}).close()
    left = tmp_path / "a" / WORKERS / "17-1"
    left.mkdir(parents=True)
    lines = [json.dumps({"id": f"n/{i}", "square": i**2}) + "\n" for i in range(3)]
    (left / "records.jsonl").write_text("".join(lines) + '{"id": "n/3", "squ')
    with RecordStore(tmp_path / "a", {}) as store:
        store.append("n/0", {"square": 0})
        merge(store)
        assert store.done == {"n/0", "n/1", "n/2"}
    assert squares(tmp_path / "a") == {"n/0": 0, "n/1": 1, "n/2": 4}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "slurm", "workers": 2}, "runner must be local or ray, not 'slurm'"),
        ({"kind": "ray", "workers": 0}, "workers must be at least 1, not 0"),
        ({"kind": "local", "workers": 2, "gpus": 0.5}, "whole cards"),
    ],
)
def test_options_that_name_no_runner_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        runner_of(**options)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    with pytest.raises(ValueError, match=f"no Ray cluster answers at address={address}"):
        check_reachable(address)
    check_reachable("auto")


# ------------------------------------------------------------------------------ graphics cards


class Cards(NamedTuple):
    """Notes which cards the worker sees."""

    def __call__(self, store, batch, kept, say):
        for item in batch:
            time.sleep(0.5)  # so that both workers have some
            store.append(item.id, {"cards": os.environ.get("CUDA_VISIBLE_DEVICES", "all")})


def seen(runner: Local, tmp_path: Path) -> set[str]:
    """What the workers see, as CUDA_VISIBLE_DEVICES has it."""
    with Crew(runner=runner) as crew, RecordStore(tmp_path / "a", {}) as store:
        crew.do(Cards(), NUMBERS[:4], store, batch=1, say=str)
        return {record["cards"] for record in store.records}


ON_VLLM, ON_TRANSFORMERS, ON_SERVER = Claim(1, whole=True), Claim(1), Claim()


@pytest.mark.parametrize(
    ("runner", "cards"),
    [
        (Local(gpus=2), {"3,5", "6,7"}),
        (Local(claim=ON_VLLM), {"3", "5"}),
        (Local(claim=ON_SERVER), {"3,5,6,7"}),
    ],
    ids=["told", "claimed", "not needed"],
)
def test_a_worker_sees_its_own_cards(runner, cards, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert seen(runner, tmp_path) == cards


def test_more_workers_than_cards_are_refused_before_they_begin(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    told = "^2 workers need gpus=1 each and this machine has gpus=1: set workers=1"
    with pytest.raises(ValueError, match=f"{told}$"):
        seen(Local(gpus=1), tmp_path)
    with pytest.raises(ValueError, match=f"{told}, or runner=ray gpus=0.5 to divide a card"):
        seen(Local(claim=ON_VLLM), tmp_path)
    assert seen(Local(claim=ON_TRANSFORMERS), tmp_path) == {"all"}, "their models share it"


@needs_ray
def test_actors_that_find_no_place_are_refused(tmp_path):
    """They would wait for one for ever."""
    with (
        Crew(runner=Ray(gpus=9)) as crew,
        RecordStore(tmp_path / "a", {}) as store,
        pytest.raises(ValueError, match=r"^2 workers need gpus=9 cpus=1 each and the Ray cluster"),
    ):
        crew.do(Squares(str(tmp_path)), NUMBERS, store, batch=3, say=str)


MACHINES = [{"GPU": 2.0, "CPU": 8.0}, {"CPU": 8.0}, {"GPU": 1.0, "CPU": 2.0}]


@pytest.mark.parametrize(
    ("workers", "gpus", "claim", "each"),
    [
        (3, 1, ON_VLLM, 1),
        (6, 0.5, ON_VLLM, 0.5),
        (8, 0.33, ON_VLLM, 0.33),
        (4, 0.6, ON_VLLM, "set workers=3"),  # a card has no room for two
        (2, 2, ON_VLLM, "the cluster has gpus=3 cpus=18: set workers=1"),
        (1, 4, ON_VLLM, "let each have less"),
        (3, 0, ON_VLLM, 1),
        (2, 0, Claim(2, whole=True), "need gpus=2 cpus=1 each"),
        (4, 0, ON_VLLM, "set workers=3, or runner=ray gpus=0.5 to divide a card"),
        (1, 0, ON_VLLM, 0),  # alone it has all
        (4, 0, ON_TRANSFORMERS, 0),
        (18, 0, ON_SERVER, 0),
        (19, 0, ON_SERVER, "19 workers need gpus=0 cpus=1 each"),
        (19, 0, ON_TRANSFORMERS, "set workers=18"),
    ],
)
def test_cards_for_each_worker(workers, gpus, claim, each):
    def cards() -> float:
        return cards_each(workers, gpus, claim, MACHINES, "the cluster", cpus=1)

    if isinstance(each, str):
        with pytest.raises(ValueError, match=each):
            cards()
    else:
        assert cards() == each


def test_without_cards_none_are_claimed():
    assert cards_each(4, 0, ON_VLLM, [{"GPU": 0}], "this machine") == 0
