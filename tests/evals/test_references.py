"""From run folders to kept records to the table against published results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from configs import cli
from evals.keep import keep
from evals.kept import Mark, Training, read_marks, read_trainings, write_mark, write_training
from evals.records import RecordStore
from evals.references import CLOSING, OPENING, PUBLISHED, Ours, references, task_of

ENV = "dmc/cartpole-swingup"


def run(agent: str, seed: int, points: dict[float, float], env: str = ENV, **recipe) -> Training:
    """A training run that evaluated to `points`."""
    rows = [{"frames": frames, "eval_return": value} for frames, value in points.items()]
    arguments = {"seed": seed, "size": "cpu", **recipe}
    about = {"action_repeat": 2, "parameters": 1234, "hours": 0.5, "machine": "a machine"}
    return Training(env, agent, seed, about | {"arguments": arguments}, rows)


def table(tmp_path: Path, records: Path, **options) -> str:
    references(records=records, out=tmp_path / "out", say=lambda line: None, **options)
    return (tmp_path / "out" / "references.md").read_text()


def test_what_is_kept_of_a_training_run_is_read_back(tmp_path):
    folder = tmp_path / "tdmpc2-3"
    folder.mkdir()
    arguments = {"env": ENV, "seed": 3, "agent": {"size": "cpu"}}
    (folder / "arguments.json").write_text(json.dumps(arguments))
    with (folder / "metrics.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["frames", "decisions", "eval_return", "seconds", "loss"])
        writer.writerow([1000, 500, "", 3.5, 0.25])
        writer.writerow([2000, 1000, 123.45678, 7200, 0.125])
    noted = [{"from frame": 0, "processor": "EPYC", "cores": 2, "GPU": "none", "torch": "9.9"}]
    noted[0] |= {"commit": "abc1234", "system": "Linux-6.1-x86_64", "Python": "3.11.7"}
    (folder / "machine.json").write_text(json.dumps(noted))
    path = keep(run=folder, records=tmp_path / "kept", say=lambda line: None)
    assert path == tmp_path / "kept" / ENV / "tdmpc2-3.csv"
    [kept] = read_trainings(tmp_path / "kept")
    assert (kept.env, kept.agent, kept.seed) == (ENV, "tdmpc2", 3)
    assert kept.rows[0] == {"frames": 1000, "decisions": 500, "seconds": 3.5}  # agents' own go
    assert kept.evaluations == [(2000, 123.457)]
    assert (kept.about["action_repeat"], kept.about["hours"]) == (2, 2.0)
    assert kept.about["arguments"] == arguments
    assert kept.about["machine"] == "2 x EPYC, Linux, Python 3.11.7"
    assert kept.about["versions"] == {"torch": "9.9"}
    assert kept.about["commit"] == "abc1234"


def test_what_is_kept_of_an_evaluation_is_read_back(tmp_path):
    with RecordStore(tmp_path / "zero", {"env": ENV, "planner": "zero"}) as store:
        for id, value in ((1, 2.5), (0, 1.0)):
            store.append(id, {"return": value})
    keep(run=tmp_path / "zero", records=tmp_path / "kept", say=lambda line: None)
    [mark] = read_marks(tmp_path / "kept")
    assert (mark.env, mark.name, mark.returns) == (ENV, "zero", [1.0, 2.5])


def test_a_folder_without_a_run_or_an_evaluation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run of"):
        keep(run=tmp_path)
    (tmp_path / "arguments.json").write_text('{"env": "e", "seed": 0}')
    (tmp_path / "metrics.csv").write_text("frames,decisions,seconds,eval_return\n10,5,1,\n")
    with pytest.raises(ValueError, match="holds no evaluation yet"):
        keep(run=tmp_path)


def finished(folder: Path, **arguments: object) -> Path:
    """The folder of a training run with one evaluation, and a row that was cut."""
    folder.mkdir(exist_ok=True)
    recorded = {"env": ENV, "seed": 3, "size": "cpu"} | arguments
    (folder / "arguments.json").write_text(json.dumps(recorded))
    rows = "frames,decisions,eval_return,seconds\n2000,1000,7,9\n3000,15"
    (folder / "metrics.csv").write_text(rows)
    (folder / "machine.json").write_text("[]")
    return folder


def test_a_damaged_run_is_kept_as_far_as_it_goes_or_refused_by_its_file(tmp_path):
    folder, more = finished(tmp_path / "a-3"), {"records": tmp_path / "kept"}
    keep(run=folder, **more)
    assert read_trainings(tmp_path / "kept")[0].evaluations == [(2000, 7)]
    for name, text, sentence in [
        ("metrics.csv", "frames\n1\n", "metrics.csv is no table of metrics: .* without decisions"),
        ("machine.json", "{", "machine.json is damaged"),
        ("arguments.json", "{", "arguments.json is damaged"),
        ("arguments.json", "{}", "no run of control.train: arguments.json has no env or seed"),
    ]:
        (finished(folder) / name).write_text(text)
        with pytest.raises(ValueError, match=sentence):
            keep(run=folder, **more)
    for number, (arguments, record) in enumerate([({}, {"return": 1.0}), ({"env": ENV}, {})]):
        with RecordStore(tmp_path / f"other{number}", arguments) as store:
            store.append(0, record)
        with pytest.raises(ValueError, match="a run of something else than evals"):
            keep(run=tmp_path / f"other{number}", **more)


def test_no_record_of_another_run_is_replaced(tmp_path):
    more = {"records": tmp_path / "kept", "say": lambda line: None}
    keep(run=finished(tmp_path / "a-3"), **more)
    keep(run=finished(tmp_path / "a-3", device="cuda"), **more)  # the same run, continued
    other = finished(tmp_path / "b-3", size="5M")
    with pytest.raises(
        ValueError, match=r"another run is kept as a 3, with size='cpu' \(now '5M'\)"
    ):
        keep(run=other, name="a", **more)
    keep(run=other, **more)
    for planner in ("zero", "random"):
        with RecordStore(tmp_path / planner, {"env": ENV, "planner": planner}) as store:
            store.append(0, {"return": 1.0})
    for _ in range(2):
        keep(run=tmp_path / "zero", **more)
    with pytest.raises(ValueError, match="another run is kept as zero, with planner='zero'"):
        keep(run=tmp_path / "random", name="zero", **more)
    assert [len(read(tmp_path / "kept")) for read in (read_trainings, read_marks)] == [2, 1]


@pytest.mark.parametrize("name", ["a/b", "../x"])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"name={name} must be a name without /"):
        keep(run=finished(tmp_path / "a-3"), name=name, records=tmp_path / "kept")


def test_an_evaluation_counts_for_frames_it_is_close_to():
    group = Ours(
        ENV,
        "a",
        [
            run("a", 0, {50_000: 1.0, 100_008: 2.0}),
            run("a", 1, {97_000: 3.0, 103_000: 4.0}),
            run("a", 2, {99_000: 5.0, 99_999: 6.0}),
        ],
    )
    assert group.at(100_000) == {0: 2.0, 2: 6.0}
    assert group.at(500_000) == {}
    assert task_of("dmc/ball-in-cup-catch") == "cup-catch" and task_of(ENV) == "cartpole-swingup"


def test_the_table_shows_seeds_intervals_marks_and_misses_as_they_are(tmp_path):
    records = tmp_path / "kept"
    for seed, value in enumerate((840.0, 850.0, 860.0)):  # t interval: 850 +- 4.303 * 10 / sqrt 3
        write_training(records, run("tdmpc2", seed, {100_000: value}))
    write_training(records, run("pets", 7, {100_000: 900.5}))
    write_training(records, run("tdmpc2", 0, {100_000: 500.0}, env="dmc/walker-walk"))
    write_training(records, run("tdmpc2", 0, {100_000: 1.0}, env="dmc/point-mass-easy"))
    write_mark(records, Mark(ENV, "zero", {}, [0.0, 2.0]))
    text = table(tmp_path, records, methods=["tdmpc2", "sac"])
    [cartpole] = [line for line in text.splitlines() if line.startswith(f"| {ENV} | 900")]
    assert "| 900.5, seed 7 | 850.0 [825.2, 874.8], seeds 0, 1, 2 | 1.0 |" in cartpole
    assert "| 839.4 ± 43.1 | 835.0 ± 9.5 | +10.6 [-99.3, 120.5]: level |" in cartpole
    assert "| -461.9 |" in text  # walker-walk, published 961.9, one seed
    [unpublished] = [
        line for line in text.splitlines() if line.startswith("| dmc/point-mass-easy | – |")
    ]
    assert unpublished.endswith("| – | – | – |")
    assert "500,000 simulator frames" not in text  # nobody has come so far
    assert "No run was evaluated at 500,000 frames." in text
    assert "results/tdmpc2" in text and "dreamerv3" not in text
    assert "| dmc/walker-walk | tdmpc2 | 0 | 2 | 1,234 | 100,000 | 0.5 | a machine |" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure") == 3 and "tdmpc2, ours" in page and "sac, published" in page


def test_agents_are_set_beside_the_one_without_a_model_where_both_have_seeds(tmp_path):
    records = tmp_path / "kept"
    for seed, value in enumerate((100.0, 110.0, 120.0)):
        write_training(records, run("sb3_sac", seed, {20_000: value, 100_000: 840.0}))
        write_training(records, run("mbpo", seed, {20_000: value + 700, 100_000: 840.0}))
    write_training(records, run("pets", 0, {20_000: 800.0, 100_000: 900.0}))
    write_training(records, run("mbpo", 0, {100_000: 1.0}, env="dmc/walker-walk"))
    text = table(tmp_path, records)
    start = text.index("### While learning, beside sb3_sac")
    rows = [line for line in text[start:].split("###")[1].splitlines() if ENV in line]
    # standard errors of 10 / sqrt 3 on either side, four degrees of freedom
    half = 2.776 * (2 * 100 / 3) ** 0.5
    assert rows == [
        f"| {ENV} | mbpo | 20,000 | 810.0 | 110.0 | +700.0 [{700 - half:.1f}, {700 + half:.1f}]: "
        "ahead |",
        f"| {ENV} | mbpo | 100,000 | 840.0 | 840.0 | +0.0 [0.0, 0.0]: level |",
    ]


def test_published_means_are_those_that_the_goal_names():
    with PUBLISHED.open() as file:
        rows = {
            (r["task"], r["method"], r["frames"]): float(r["mean"]) for r in csv.DictReader(file)
        }
    goal = {
        "cartpole-swingup": (839, 876), "reacher-easy": (937, 919), "finger-spin": (948, 985),
        "cup-catch": (981, 985), "walker-walk": (962, 979), "cheetah-run": (519, 758),
    }  # fmt: skip
    for task, means in goal.items():
        found = tuple(round(rows[task, "tdmpc2", frames]) for frames in ("100000", "500000"))
        assert found == means, task


def test_more_results_can_be_given_and_a_missing_file_is_noted(tmp_path):
    records, more = tmp_path / "kept", tmp_path / "more.csv"
    write_training(records, run("tdmpc2", 0, {100_000: 1.0}))
    more.write_text(
        "task,method,step,mean,obs,requested_step\n"
        "cartpole-swingup,mine,100000,12.5,state,100000\n"
        "cartpole-swingup,seen,100000,99.5,pixels,100000\n"
        "cartpole-swingup,mine,9,7,state,last\n"
        "walker-walk,mine,1e5,13.5,state,\n"
    )
    text = table(tmp_path, records, references=[more, tmp_path / "gone.csv"])
    assert "mine, published" in text and "| 12.5 |" in text
    assert "seen" not in text and "gone.csv is not there" in text
    write_training(records, run("tdmpc2", 0, {100_000: 1.0}, env="dmc/walker-walk"))
    assert "| 13.5 |" in table(tmp_path, records, references=[more])
    header = "task,method,step,mean\n"
    for damaged in ("task,method,mean\na,b,1\n", header, header + "a,b\n", header + "a,b,1,nan\n"):
        more.write_text(damaged)
        with pytest.raises(ValueError, match=r"more\.csv is no table of published results"):
            table(tmp_path, records, references=[more])


def test_what_is_asked_for_and_not_there_is_told(tmp_path):
    write_training(tmp_path, run("tdmpc2", 0, {100_000: 1.0}))
    with pytest.raises(ValueError, match=r"nobody published a method 'tdmpc3': choose from .*sac"):
        table(tmp_path, tmp_path, methods=["tdmpc3"])
    page = tmp_path / "page.md"
    page.write_text(f"{OPENING}\nkept\n{CLOSING}\n")
    with pytest.raises(ValueError, match=r"was evaluated at frames=\[7\]"):
        table(tmp_path, tmp_path, frames=[7], page=page)
    assert "kept" in page.read_text()


def test_seeds_that_other_machinery_computed_are_averaged(tmp_path):
    plain = {"device": "cpu", "size": "cpu", "nan": "stop"}
    for seed, how in enumerate(
        [plain, plain | {"device": "cuda", "compiled": True, "nan": "skip"}]
    ):
        write_training(tmp_path, run("tdmpc2", seed, {100_000: 800.0 + seed}, recipe=how))
    assert "800.5" in table(tmp_path, tmp_path)


def test_seeds_that_were_watched_otherwise_are_averaged(tmp_path):
    """How often a run is evaluated teaches it nothing, an option that came with a later version was
    kept at what it had been, and one for discrete actions decides nothing in dmc/."""
    first = {"eval_frames": 5000, "discrete_entropy": 0.01}
    later = {"eval_frames": 20000, "discrete_entropy": 0.1, "interpolation": "zero"}
    for seed, how in enumerate((first, later)):
        write_training(tmp_path, run("tdmpc2", seed, {100_000: 800.0 + seed}, recipe=how))
    assert "800.5" in table(tmp_path, tmp_path)


def test_seeds_of_two_recipes_are_not_averaged(tmp_path):
    for seed, size in enumerate(("cpu", "5M")):
        write_training(tmp_path, run("tdmpc2", seed, {100_000: 1.0}, size=size))
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in size, too"):
        references(records=tmp_path, out=tmp_path / "out")


def test_a_page_gets_the_tables_between_its_lines(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- references -->\nold\n<!-- /references -->\nafter\n")
    write_training(tmp_path / "kept", run("tdmpc2", 0, {100_000: 1.0}))
    text = table(tmp_path, tmp_path / "kept", page=page)
    expected = f"before\n<!-- references -->\n{text}<!-- /references -->\nafter\n"
    for _ in range(2):
        assert page.read_text() == expected
        table(tmp_path, tmp_path / "kept", page=page)
    page.write_text("no lines")
    with pytest.raises(ValueError, match="needs the two lines"):
        table(tmp_path, tmp_path / "kept", page=page)


def test_without_records_the_command_says_what_to_do(tmp_path, capsys):
    argv = [f"records={tmp_path}", f"out={tmp_path / 'out'}"]
    assert cli.run("references", references, "", argv=argv) == 1
    assert "keep some with evals.keep" in capsys.readouterr().err
