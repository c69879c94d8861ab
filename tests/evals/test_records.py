"""Run folders survive kills, and refuse to mix two runs."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from evals.records import RecordStore, check_format, hash_arguments, load_run, read_records

ARGUMENTS = {"env": "dmc/cartpole-swingup", "seed": 0, "planner": {"horizon": 12, "noise": 1.0}}

WRITER = """
import sys
from evals.records import RecordStore
with RecordStore(sys.argv[1], {"seed": 0}) as store:
    for number in range(1000000):
        if number not in store:
            store.append(number, {"text": "x" * 20000})
            print(number, flush=True)
"""


def test_records_are_on_disk_as_they_are_appended(tmp_path):
    with RecordStore(tmp_path / "run", ARGUMENTS) as store:
        store.append("a-0", {"score": np.float64(1.5), "steps": np.array([1, 2])})
        (found,) = read_records(tmp_path / "run/records.jsonl")
        assert found == {"id": "a-0", "score": 1.5, "steps": [1, 2]}
        assert store.done == {"a-0"} and "a-0" in store and len(store) == 1
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config == {"hash": hash_arguments(ARGUMENTS), "arguments": ARGUMENTS}
    assert load_run(tmp_path / "run") == (ARGUMENTS, [found])


def test_the_same_run_continues_and_refuses_duplicates(tmp_path):
    with RecordStore(tmp_path, ARGUMENTS) as store:
        store.append(0, {"score": 1.0})
    with RecordStore(tmp_path, dict(reversed(ARGUMENTS.items()))) as store:
        assert store.done == {0}
        with pytest.raises(ValueError, match="record for 0 already"):
            store.append(0, {"score": 1.0})
        store.append(1, {"score": None})
        assert store.records == [{"id": 0, "score": 1.0}, {"id": 1, "score": None}]


def test_another_run_is_refused_with_the_difference(tmp_path):
    with RecordStore(tmp_path, ARGUMENTS) as store:
        store.append(0, {"score": 1.0})
    other = {"env": "dmc/cartpole-swingup", "seed": 1, "planner": {"horizon": 20, "noise": 1}}
    with pytest.raises(ValueError) as error:
        RecordStore(tmp_path, other)
    message = str(error.value)
    assert "planner.horizon was 12, now 20, seed was 0, now 1" in message
    assert "noise" not in message and "env" not in message.split("arguments:")[1]
    with pytest.raises(ValueError, match="extra was absent, now true"):
        RecordStore(tmp_path, ARGUMENTS | {"extra": True})


def test_a_run_that_has_left_nothing_makes_room(tmp_path):
    RecordStore(tmp_path, ARGUMENTS).close()
    other = ARGUMENTS | {"seed": 1}
    RecordStore(tmp_path, other).close()
    assert load_run(tmp_path) == (other, [])
    with RecordStore(tmp_path / "workers" / "1-1", {}) as store:
        store.append(0, {"score": 1.0})  # a worker's, which a killed run has not taken over
    with pytest.raises(ValueError, match="seed was 1, now 0"):
        RecordStore(tmp_path, ARGUMENTS)


@pytest.mark.parametrize("place", [".", "workers/1-1"])
def test_records_that_do_not_say_of_which_run_they_are_are_refused(tmp_path, place):
    with RecordStore(tmp_path / place, ARGUMENTS) as store:
        store.append(0, {"score": 1.0})
    (tmp_path / place / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds records, but no config\.json .* another folder"):
        RecordStore(tmp_path, ARGUMENTS | {"seed": 1})
    assert not (tmp_path / "config.json").exists()


def test_what_a_record_lacks_is_named():
    records = [{"id": 0, "correct": True, "strict": True}, {"id": 1, "correct": True}]
    check_format("run", records, "correct")
    with pytest.raises(ValueError, match=r"run is a run of an earlier format.*has no 'strict'"):
        check_format("run", records, "correct", "strict")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_not_plain_finite_data_is_refused_and_leaves_no_trace(tmp_path, value):
    with RecordStore(tmp_path, ARGUMENTS) as store:
        with pytest.raises(ValueError, match="record of 'a' is not plain finite data"):
            store.append("a", {"score": value})
        store.append("a", {"score": 1})
        with pytest.raises(ValueError, match="summary"):
            store.write_summary({"score": value})
    assert len(list(read_records(tmp_path / "records.jsonl"))) == 1


def test_a_cut_last_line_is_dropped_and_rewritten(tmp_path):
    with RecordStore(tmp_path, ARGUMENTS) as store:
        store.append(0, {"score": 1.0})
        store.append(1, {"score": 2.0})
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert [record["id"] for record in load_run(tmp_path)[1]] == [0]
    with RecordStore(tmp_path, ARGUMENTS) as store:
        assert store.done == {0}
        store.append(1, {"score": 2.0})
    assert [record["id"] for record in read_records(path)] == [0, 1]


@pytest.mark.parametrize(
    "line", ['{"id": 1, "sc', "[1]", '{"score": 1}', "", '{"id": 0}', '{"id": [1]}']
)
def test_a_malformed_line_in_the_middle_is_an_error_with_its_place(tmp_path, line):
    RecordStore(tmp_path, ARGUMENTS).close()
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": 0}\n' + line + '\n{"id": 2}\n')
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2: "):
        RecordStore(tmp_path, ARGUMENTS)
    path.write_text('{"id": 0}\n{"id": 2}\n')
    RecordStore(tmp_path, ARGUMENTS).close()  # the refusal did not keep the lock


def test_a_second_writer_is_refused(tmp_path):
    with (
        RecordStore(tmp_path, ARGUMENTS),
        pytest.raises(BlockingIOError, match="being written by another process"),
    ):
        RecordStore(tmp_path, ARGUMENTS)


def test_killed_while_writing_and_continued(tmp_path):
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            told = [int(line) for line in process.stdout.read().split()]
        with RecordStore(tmp_path, {"seed": 0}) as store:
            assert store.done == set(range(len(store)))  # none lost in the middle, none twice
            assert not told or told[-1] in store  # what was told as done is done
    assert len(store) >= 3


def test_summary_replaces_the_old_one_whole(tmp_path):
    with RecordStore(tmp_path, ARGUMENTS) as store:
        store.write_summary({"score": 1})
        path = store.write_summary({"score": 2})
    assert json.loads(path.read_text()) == {"score": 2}
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        ".lock",
        "config.json",
        "records.jsonl",
        "summary.json",
    ]


def test_disk_errors_name_the_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot create .*file"):
        RecordStore(tmp_path / "file", ARGUMENTS)
    with RecordStore(tmp_path / "run", ARGUMENTS) as store:
        store.append(0, {"score": 1})

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write .*records\.jsonl: No space left"):
            store.append(1, {"score": 2})
        with pytest.raises(OSError, match=r"cannot write .*summary\.json"):
            store.write_summary({})
        monkeypatch.undo()
        store.append(1, {"score": 3})  # the half-written line was taken back
    assert [record["score"] for record in load_run(tmp_path / "run")[1]] == [1, 3]


@pytest.mark.parametrize(
    "ids", [["test-2", "test-10", "test-10-b", "train-1"], [9, 10, 101], ["7", "a", "a0", "a00"]]
)
def test_records_are_read_in_the_order_of_problems(tmp_path, ids):
    for number, order in enumerate(permutations(ids)):
        with RecordStore(tmp_path / str(number), ARGUMENTS) as store:
            for id in order:
                store.append(id, {})
        assert [record["id"] for record in load_run(tmp_path / str(number))[1]] == ids


def test_load_run_refuses_another_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        load_run(tmp_path)
    assert not list(Path(tmp_path).iterdir())
