"""The page of a run: made from its files alone, whole, and true to metrics.csv."""

import csv
import json

import pytest

from control import page
from control.page import Page, render, run_page, write_page
from control.types import RunInfo
from tests.pages import parse, stands_alone

EVIL = '<script>alert(1)</script> & "quotes"'


@pytest.fixture
def run(tmp_path):
    """The folder of a run with 300 rows, an evaluation in every 50th."""
    rows = [
        {"frames": 10 * i, "return": i, "seconds": i, "fps": 9 + i % 2, "loss": 1000 / i**2}
        | ({"eval_return": 2 * i, "eval_low": i, "eval_high": 3 * i} if i % 50 == 0 else {})
        for i in range(1, 301)
    ]
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[49]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def tips(html: str) -> list[list[str]]:
    """What the charts' points tell, line by line."""
    return [a["data-tip"].split("\n") for _, a in parse(html).tags if "data-tip" in a]


def test_metrics_alone_make_a_page_that_stands_alone(run):
    html = run_page(run=run, say=lambda line: None).read_text()
    stands_alone(html)
    text = " ".join(parse(html).text)
    assert "3,000 frames in 5.0 minutes; last evaluation 600.0; last training return 300.0." in text
    assert "loss (log scale)" in text and "frames per second" in text and "Films" not in text
    assert ["evaluation", "frames: 500", "return: 100 [50, 150]"] in tips(html)


def test_rows_are_summed_up_to_mean_and_range(run):
    told = [tip for tip in tips(render(run)) if tip[0] == "training"]
    assert len(told) == 2 * 100 <= 2 * page.POINTS  # in a wide chart and in a narrow one
    assert told[0] == told[100] == ["training", "frames: 30", "return: 2 [1, 3]"]
    assert told[-1] == ["training", "frames: 3k", "return: 299 [298, 300]"]


def test_recipe_and_machines_are_on_the_page_as_text(run):
    arguments = {"agent": {"_target_": "control.agents.pets.PETS", "name": EVIL}, "env": "gym/X"}
    (run / "arguments.json").write_text(json.dumps(arguments | {"seed": 3}))
    (run / "machine.json").write_text('[{"processor": "EPYC", "commit": "abc1234"}]')
    watcher = Page()
    watcher.start(RunInfo(run, "gym/X", 1, None, 3, 600, arguments, []))
    watcher.close()
    text = "\n".join(parse((run / "page.html").read_text()).text)
    for expected in ("PETS, gym/X, seed 3", "agent.name", EVIL, "processor", "EPYC", "abc1234"):
        assert expected in text


def test_the_first_and_the_last_film_are_inside(run):
    (run / "videos").mkdir()
    for frames in (500, 1000, 1500):
        (run / f"videos/{frames:09d}.mp4").write_bytes(b"film %d" % frames)
    html = render(run)
    stands_alone(html)
    films = [a["src"] for tag, a in parse(html).tags if tag == "video"]
    assert films == ["data:video/mp4;base64,ZmlsbSA1MDA=", "data:video/mp4;base64,ZmlsbSAxNTAw"]
    text = parse(html).text
    assert "After 1,500 frames; the evaluation's mean return is 300.0." in text
    for frames in (1000, 1500):
        (run / f"videos/{frames:09d}.mp4").unlink()
    assert sum(tag == "video" for tag, _ in parse(render(run)).tags) == 1


def test_a_film_under_another_name_is_left_out(run):
    (run / "videos").mkdir()
    for name in ("000000500", "best", "²"):
        (run / f"videos/{name}.mp4").write_bytes(b"film")
    assert sum(tag == "video" for tag, _ in parse(render(run)).tags) == 1


def test_a_page_that_fails_is_told_once_and_ends_no_training(run, monkeypatch):
    def broken(folder) -> None:
        raise OSError("no room")

    monkeypatch.setattr(page, "write_page", broken)
    (run / "machine.json").write_text("{")
    told: list[str] = []
    watcher = Page(say=told.append)
    watcher.start(RunInfo(run, "gym/X", 1, None, 3, 600, {}, []))
    watcher.on_row({"frames": 1, "eval_return": 1})
    watcher.close()
    later = f"training goes on, and this writes it later: python -m control.page run={run}"
    assert len(told) == 1 and told[0].startswith("no page (") and told[0].endswith(f"); {later}")
    (run / "machine.json").unlink()
    watcher = Page(say=told.append)
    watcher.start(RunInfo(run, "gym/X", 1, None, 3, 600, {}, []))
    watcher.close()
    assert told[1:] == [f"no page (OSError: no room); {later}"]
    Page().close()  # a run that did not start


@pytest.mark.parametrize("last", ["3010,301", "3010,301,3", "3010,3013020,302,1,10,0.1,,,\n"])
def test_a_last_row_that_is_cut_or_runs_into_another_is_left_out(run, last):
    whole = page.read_rows(run / "metrics.csv")
    with (run / "metrics.csv").open("a") as file:
        file.write(last)
    assert page.read_rows(run / "metrics.csv") == whole and len(whole) == 300
    render(run)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("metrics.csv", "frames,loss\n1\n2,3\n", "metrics.csv is no table of metrics: a row has 1"),
        ("metrics.csv", "frames,loss\n1,x\n2,3\n", "metrics.csv is no table .*not convert.*'x'"),
        ("metrics.csv", "frames,loss\n1,2\n", "metrics.csv .*: it has a row without seconds"),
        ("arguments.json", "{", "arguments.json is damaged"),
        ("arguments.json", "[]", "arguments.json is damaged .it holds no dict"),
        ("machine.json", "{}", "machine.json is damaged .it holds no list"),
        ("machine.json", "[1]", "machine.json is damaged .it holds something else than machines"),
    ],
)
def test_a_damaged_file_is_named(run, name, text, sentence):
    (run / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        run_page(run=run)


def test_files_that_hold_nothing_are_shown_as_nothing(run):
    (run / "arguments.json").write_text("{}")
    (run / "machine.json").write_text("[]")
    parse(render(run))


def test_empty_runs_and_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.csv: name the folder of a training"):
        run_page(run=tmp_path)
    (tmp_path / "metrics.csv").write_text("frames,return,eval_return\n")
    assert "Nothing is logged yet." in " ".join(parse(write_page(tmp_path).read_text()).text)
    (tmp_path / "metrics.csv").write_text("frames,seconds,loss\n5,1,nan\n6,2,inf\n7,3,0\n")
    parse(render(tmp_path))
