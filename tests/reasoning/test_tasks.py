"""Loading of tasks: GSM8K's format, its errors, and the registry."""

import json
import os
import sys

import pytest

from reasoning.tasks import GSM8K, Problem, load_gsm8k, load_task

RECORDS = [
    {"question": "2 and 3?", "answer": "It is 2+3=<<2+3=5>>5.\n#### 5"},
    {"question": "How much?", "answer": "A.\n\nB.\n#### 1,200"},
]


@pytest.fixture
def write(tmp_path):
    def _write(*lines, name="test.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n")
        return path

    return _write


def test_original_format(write):
    path = write(*RECORDS)
    first, second = load_gsm8k(path)
    assert first == Problem("gsm8k/test/0", "2 and 3?", "5", ("It is 2+3=<<2+3=5>>5.",))
    assert second.answer == "1200" and second.solution == ("A.", "B.")
    assert GSM8K.write(first) == RECORDS[0]["answer"]
    assert load_gsm8k(path.parent) == [first, second]
    assert load_gsm8k(path, limit=1) == [first]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 2: not a JSON record"),
        ("[1]", "line 2: a record must be an object"),
        ({"question": "q"}, "line 2: the field 'answer'"),
        ({"question": " ", "answer": "#### 1"}, "line 2: the field 'question'"),
        ({"question": "q", "answer": 5}, "line 2: the field 'answer'"),
        ({"question": "q", "answer": "no mark"}, "line 2: the answer does not end"),
        ({"question": "q", "answer": "####"}, "line 2: the answer does not end"),
    ],
)
def test_malformed_records_name_file_and_line(write, bad, message):
    path = write(RECORDS[0], bad)
    with pytest.raises(ValueError, match=message) as error:
        load_gsm8k(path)
    assert str(path) in str(error.value)
    assert len(load_gsm8k(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("It is 5.\n#### 5\n", True),
        ("It is 5.\n", False),
        ("####\n", False),
        ("**####**\n", False),
        ("####\n\n", False),
        ("####\n18\n", True),
        ("####\n\n$18$\n", True),
    ],
)
def test_a_solution_ends_where_something_is_said_behind_its_mark(text, closed):
    assert GSM8K.closed(text.splitlines(keepends=True)) is closed


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"GSM8K: there is no file at .*absent\.jsonl"):
        load_gsm8k(tmp_path / "absent.jsonl")
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl"):
        load_gsm8k(tmp_path, "train")
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no problems"):
        load_gsm8k(tmp_path)


def test_a_file_that_changed_at_the_same_time_is_read_as_it_is(write):
    path = write({"question": "2 and 3?", "answer": "#### 5"})
    before = path.stat()
    assert [p.answer for p in load_gsm8k(path)] == ["5"]
    write({"question": "2 and 4?", "answer": "#### 6"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [p.answer for p in load_gsm8k(path)] == ["6"]


def test_a_file_may_begin_with_a_mark_and_hold_any_character(tmp_path):
    path = tmp_path / "test.jsonl"
    records = [{"question": "2 and\u20283, \u00bd?", "answer": "#### 5"}, RECORDS[1]]
    text = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [p.question for p in load_gsm8k(path)] == [r["question"] for r in records]


def test_a_file_that_is_no_text_names_the_line(write):
    path = write(*RECORDS)
    path.write_bytes(path.read_bytes() + b'{"question": "caf\xe9", "answer": "#### 1"}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl, line 3: not UTF-8 text"):
        load_gsm8k(path)


def test_a_local_file_is_read_without_the_hubs_library(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load_gsm8k(write(*RECORDS))) == 2


def test_arguments(write):
    path = write(*RECORDS)
    with pytest.raises(ValueError, match="limit"):
        load_gsm8k(path, limit=0)
    with pytest.raises(ValueError, match="split"):
        load_gsm8k(path, "validation")


def test_registry(write):
    assert [p.answer for p in load_task("gsm8k", data=write(*RECORDS))] == ["5", "1200"]
    assert len(load_task("generated", limit=3)) == 3
    assert load_task("generated", limit=3, seed=1) != load_task("generated", limit=3)
    assert all(len(p.solution) == 6 for p in load_task("generated", limit=3, steps=(6, 6)))
    with pytest.raises(ValueError, match="did you mean 'gsm8k'"):
        load_task("gsm8")
    with pytest.raises(ValueError, match="limit"):
        load_task("generated", limit=0)
    with pytest.raises(ValueError, match="reads no data"):
        load_task("generated", data="x.jsonl")
