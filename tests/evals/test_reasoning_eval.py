"""`python -m evals.reasoning` on a tiny random model: records, resuming, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from configs import cli
from evals import reasoning
from evals.reasoning import (
    _record,
    budget_of,
    check_table,
    evaluate,
    idle_options,
    problems_of,
    summarize,
)
from evals.runner import Crew
from mbrl_core import Budget
from reasoning.difficulty import Choice, ComputeOptimal, Fitted
from reasoning.engines import ScriptedEngine, TransformersEngine
from reasoning.reasoner import Reasoner
from reasoning.strategies import (
    best_of_n,
    greedy,
    mcts,
    rap,
    self_consistency,
    tree_of_thoughts,
)
from reasoning.tasks import Problem, generate_problems
from reasoning.tasks.words import WordTask
from tests.evals.commands import killed_and_resumed, records_of, summary_of, timeless
from tests.language import Checker, save_tiny_model, scripted, total_of

PROBLEMS = 10


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    ends = range(10, 400, 50)
    return save_tiny_model(tmp_path_factory.mktemp("lm"), ends=ends, context=512)


@pytest.fixture
def options(model, tmp_path, monkeypatch):
    """Options of a small run in the folder `run` of an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def options(*more: str, out: str = "run") -> list[str]:
        plain = [f"model={model}", "scorer=null", "n=4", f"limit={PROBLEMS}", "group=2"]
        return [*plain, "max_tokens=100", f"out={out}", *more]

    return options


def run(argv: list[str]) -> int:
    return cli.run("evals_reasoning", evaluate, "Answer problems.", argv=argv)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(options, tmp_path):
    whole = tmp_path / "whole"
    records, output = killed_and_resumed("evals.reasoning", options(), tmp_path, PROBLEMS)
    assert f"on {PROBLEMS} problems" in output
    ids = [problem.id for problem in generate_problems("test", PROBLEMS, (2, 4), 0)]
    assert [record["id"] for record in records] == ids
    assert run(options(out="whole")) == 0
    assert timeless(summary_of(tmp_path / "run")) == timeless(summary_of(whole))
    assert list(map(timeless, records)) == list(map(timeless, records_of(whole)))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}


def test_records_hold_enough_to_recompute_the_summary(options, tmp_path):
    assert run(options("limit=4")) == 0
    records = records_of(tmp_path / "run")
    assert summarize(records) == summary_of(tmp_path / "run")
    for record in records:
        assert len(record["samples"]) == 4 and record["steps"] == 4
        values = [sample["value"] for sample in record["samples"]]
        best = max((value for value in values if value is not None), default=None)
        assert record["value"] == best
        assert record["text"] in [s["text"] for s in record["samples"] if s["value"] == best]
        assert record["prefilled"] > 0 and record["scored"] == 0 and record["tokens"] > 4


@pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
def test_one_token_to_draw_from_makes_all_samples_the_greedy_solution(options, tmp_path):
    assert run(options("limit=2", "top_k=1", "n=3")) == 0
    assert run(options("limit=2", "strategy=greedy", out="greedy")) == 0
    for drawn, first in zip(
        records_of(tmp_path / "run"), records_of(tmp_path / "greedy"), strict=True
    ):
        assert [sample["text"] for sample in drawn["samples"]] == [first["text"]] * 3
        assert drawn["samples"][0]["logprob"] == pytest.approx(first["samples"][0]["logprob"])


def test_python_draws_what_the_command_draws(options, model, tmp_path):
    """Its defaults are the same; groups are, so that roundings are."""
    assert run(options("limit=2", "strategy=self_consistency")) == 0
    problems = generate_problems("test", 2, (3, 5), 0)
    reasoner = Reasoner(
        engine=TransformersEngine(model), strategy=self_consistency(n=4), max_tokens=100
    )
    found = reasoner([p.question for p in problems], ids=[p.id for p in problems])
    records = records_of(tmp_path / "run")
    assert [record["text"] for record in records] == [answer.text for answer in found]
    assert [record["tokens"] for record in records] == [answer.tokens for answer in found]


def test_a_finished_run_is_left_as_it_is(options, tmp_path, capsys):
    assert run(options("limit=2")) == 0
    records = (tmp_path / "run/records.jsonl").read_bytes()
    assert run(options("limit=2", "model=moved-away")[1:]) == 1  # another model is another run
    capsys.readouterr()
    assert run(options("limit=2")) == 0
    assert (tmp_path / "run/records.jsonl").read_bytes() == records


def test_searches_can_be_looked_at_also_afterwards(options, tmp_path):
    assert run(options("limit=3", "strategy=mcts")) == 0
    records = (tmp_path / "run/records.jsonl").read_bytes()
    assert not (tmp_path / "run/trees").exists()
    assert run(options("limit=3", "strategy=mcts", "trees=2")) == 0
    assert (tmp_path / "run/records.jsonl").read_bytes() == records
    pages = sorted((tmp_path / "run/trees").iterdir())
    assert [page.name for page in pages] == [f"generated-test-0-{i}.html" for i in range(2)]
    for page, record in zip(pages, records_of(tmp_path / "run"), strict=False):
        (packed,) = re.findall(r'application/json">(.*?)</script>', page.read_text())
        (root,) = json.loads(packed)["roots"]
        chosen = [n for n, is_chosen in enumerate(root["columns"]["chosen"]) if is_chosen]
        steps = [root["columns"]["text"][node] for node in chosen]
        assert steps[0] == record["question"]
        assert "".join("".join(steps[1:]).split()) == "".join(record["text"].split())


@pytest.mark.parametrize("strategy", ["best_of_n", "mcts"])
def test_what_an_engine_met_before_changes_no_cost(options, tmp_path, strategy):
    with Crew() as crew:
        for out in ("one", "two"):
            given = options("limit=2", f"strategy={strategy}", out=out)
            cli.call("evals_reasoning", evaluate, given, crew=crew, say=lambda line: None)
    one, two = (list(map(timeless, records_of(tmp_path / out))) for out in ("one", "two"))
    assert one == two and all(record["prefilled"] > 0 for record in two)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=1", "seed was 0, now 1"),
        ("n=5", "n was 4, now 5, strategy.n was 4, now 5"),
        ("temperature=0.5", "temperature was 1.0, now 0.5"),
        ("budget.steps=9", "budget.steps was null, now 9"),
    ],
)
def test_a_folder_of_another_run_is_refused(options, capsys, change, told):
    assert run(options("limit=1")) == 0
    assert run(options("limit=1", change)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: run holds a run with other arguments: ") and told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("strategy=best_of_m", "did you mean 'best_of_n'?"),
        ("strategy.simulatons=3", "unknown option 'strategy.simulatons'"),
        ("limt=3", "did you mean 'limit'?"),
        ("budget.token=3", "did you mean 'budget.tokens'?"),
        ("limit=few", "option 'limit' must be"),
        ("strategy.n=0", "RandomShooting.samples must be a whole number of at least 1, not 0"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_names_the_nearest(
    options, tmp_path, capsys, wrong, told
):
    assert run(options(wrong)) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("task=gsm8", "did you mean 'gsm8k'?"),
        ("group=0", "group must be at least 1, not 0"),
        ("limit=0", "limit must be at least 1, not 0"),
        ("trees=-1", "trees must be 0 or more, not -1"),
        ("steps=[2]", "steps must be [least,greatest], not [2]"),
        ("data=missing.jsonl task=gsm8k", "GSM8K: there is no file at missing.jsonl"),
        ("data=missing.jsonl task=jsonl", "The task 'jsonl': there is no file at missing.jsonl"),
        ("budget.tokens=-5", "budget.tokens must be above 0, or null for no limit"),
        ("budget.tokens=9", "this strategy samples whole solutions in one go: limit their number"),
        ("model=run/nowhere/at/all", "cannot load a causal language model"),
        ("aggregate=sum", "aggregate"),
        ("top_p=0", "top_p must be above 0 and at most 1, not 0"),
        ("step_tokens=0", "step_tokens must be at least 1, not 0"),
        ("separator=tab", "separator"),
        ("scorer=embedded scorer_options={family:stepz}", "did you mean 'steps'"),
        ("lm_weight=2", "lm_weight must be between 0 and 1, not 2"),
        ("lm_weight=0.5 scorer=null", "weighs the model's own probability against a scorer's word"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence(options, capsys, wrong, told):
    assert run(options(*wrong.split())) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert told in error


def test_examples_of_solutions_are_refused_where_none_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"shots=3 shows whole solutions.*give strategy\.shots"):
        evaluate(task="generated", strategy=rap(), shots=3, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["correct", "strict", "samples", "finish"])
def test_a_folder_of_an_earlier_format_is_refused(options, tmp_path, capsys, field):
    assert run(options("limit=2")) == 0
    path = tmp_path / "run" / "records.jsonl"
    path.write_text(path.read_text().replace(f'"{field}"', '"formerly"'))
    capsys.readouterr()
    assert run(options("limit=2")) in (1, 2)
    error = capsys.readouterr().err
    assert "run is a run of an earlier format: run it again in another folder" in error
    assert f"has no '{field}'" in error


@pytest.mark.parametrize(
    ("name", "hint"), [("critiqe", "did you mean 'critique'"), ("", "Judges"), ("abc", "Judges")]
)
def test_a_name_that_can_be_no_scorers_is_refused_at_once(name, hint, tmp_path, monkeypatch):
    monkeypatch.setattr(reasoning, "find_task", None)
    with pytest.raises(ValueError, match=f"'{name}' is no scorer: {hint}"):
        evaluate(task="gsm8k", strategy=best_of_n(n=2), scorer=name, out=tmp_path / "run")


@dataclass(frozen=True)
class Own(WordTask):
    """A task of one's own with these ids."""

    name: ClassVar[str] = "own"
    ids: tuple[str, ...]

    def load(self, *, data=None, split="test", limit=None, seed=0):
        return [Problem(name, "1+1=?", "2") for name in self.ids[:limit]]


@pytest.mark.parametrize(
    ("ids", "limit", "told"),
    [
        (("a", "b", "a"), None, "'own' gives 2 problems the id 'a'"),
        ((), None, "'own' has no problems in the split 'test'"),
        (("a", "b"), 0, "limit must be at least 1, not 0"),
        (("a", "b"), -1, "limit must be at least 1, not -1"),
    ],
)
def test_problems_that_no_run_can_keep_apart_are_refused(ids, limit, told):
    with pytest.raises(ValueError, match=told):
        problems_of(Own(ids), limit=limit)
    assert [problem.id for problem in problems_of(Own(("a", "b")), limit=1)] == ["a"]


def test_a_command_asks_no_problems_of_ones_own_that_it_cannot_keep(tmp_path, monkeypatch):
    task = Own(("a", "a"))
    monkeypatch.setattr(reasoning, "find_task", lambda name, steps: task)
    with pytest.raises(ValueError, match="gives 2 problems the id 'a'"):
        evaluate(task="own", strategy=greedy(), out=tmp_path / "run")


def write_lines(path, *pairs):
    rows = (json.dumps({"question": question, "answer": answer}) for question, answer in pairs)
    path.write_text("".join(f"{row}\n" for row in rows))


def test_data_that_changed_under_their_name_are_another_run(options, tmp_path, capsys):
    asked, shown = tmp_path / "q.jsonl", tmp_path / "shots.jsonl"
    worked = ("What is 1 and 1?", "It is <<1+1=2>>2.\n#### 2"), ("And 2?", "#### 2")
    given = options("task=gsm8k", f"data={asked}", f"shots_data={shown}", "shots=1", "limit=1")
    write_lines(asked, ("What is 3 and 9?", "#### 12"), ("And 9?", "#### 9"))
    write_lines(shown, *worked)
    assert run(given) == 0
    write_lines(asked, ("What is 3 and 9?", "#### 12"), ("And 9?", "#### 8"))
    assert run(given) == 0, "what changed was not asked"
    write_lines(asked, ("What is 3 and 9?", "#### 99"))
    assert run(given) == 1
    assert "run holds a run with other arguments: data_contents was" in capsys.readouterr().err
    write_lines(asked, ("What is 3 and 9?", "#### 12"))
    write_lines(shown, ("What is 1 and 2?", "It is <<1+2=3>>3.\n#### 3"))
    assert run(given) == 1
    assert "other arguments: shots_contents was" in capsys.readouterr().err


def test_a_run_that_could_not_begin_leaves_its_folder_free(options, tmp_path):
    assert run(options("limit=1", f"model={tmp_path / 'typo'}")) == 1
    assert (tmp_path / "run" / "config.json").exists()
    assert run(options("limit=1")) == 0


def test_records_of_other_problems_count_nowhere(options, tmp_path, capsys):
    assert run(options("limit=2")) == 0
    summary, path = summary_of(tmp_path / "run"), tmp_path / "run" / "records.jsonl"
    foreign = records_of(tmp_path / "run")[0] | {"id": "elsewhere/0", "correct": True}
    path.write_text(path.read_text() + json.dumps(foreign) + "\n")
    assert run(options("limit=2")) == 0
    assert summary_of(tmp_path / "run") == summary
    assert "1 records are of problems that were not asked" in capsys.readouterr().out


def test_what_decides_nothing_is_said():
    given = {"shots": 0, "shots_data": None, "scorer": None}
    assert idle_options(best_of_n(n=2), **given, aggregate=None, scorer_options={}) == []
    assert idle_options(greedy(), **given) == [] == idle_options(mcts(temperature=0.0), **given)
    for more, told in (
        ({"aggregate": "min"}, "'aggregate' has no effect with scorer=null"),
        ({"scorer_options": {"foo": 1}}, "'scorer_options' has no effect with scorer=null"),
        ({"shots_data": "/nope.jsonl"}, "'shots_data' has no effect with shots=0"),
    ):
        assert idle_options(best_of_n(n=2), **given | more) == [told]
    assert idle_options(best_of_n(n=2), **given | {"scorer": "x"}, aggregate="min") == []
    (told,) = idle_options(best_of_n(n=2, temperature=0.0), **given)
    assert told == "at temperature 0 the 2 samples of a question are the same"


def test_a_note_is_part_of_a_run(options, capsys):
    assert run(options("limit=1", "aggregate=min")) == 0
    assert "note: 'aggregate' has no effect with scorer=null" in capsys.readouterr().out


def test_a_probe_keeps_no_limit_of_tokens():
    choosing = ComputeOptimal(
        probe=1, temperature=1.0, by="score", edges=(), choices=(Choice(mcts()),)
    )
    with pytest.raises(ValueError, match="the probe of compute_optimal samples whole solutions"):
        budget_of(choosing, {"tokens": 500})
    assert budget_of(choosing, {"steps": 8, "tokens": None}) == Budget(steps=8)
    assert budget_of(mcts(), {"tokens": 500}) == Budget(tokens=500)
    for wrong in (0, -5, float("nan")):
        with pytest.raises(ValueError, match=r"budget\.seconds must be above 0"):
            budget_of(mcts(), {"seconds": wrong})


def test_a_table_of_other_models_is_refused_where_scores_decide():
    def table(by, fitted_on):
        return ComputeOptimal(
            probe=1,
            temperature=1.0,
            by=by,
            edges=(),
            choices=(Choice(best_of_n(n=2)),),
            fitted_on=fitted_on,
        )

    fitted = Fitted("a", "judge", "min", 0.0, True)
    given = fitted._replace(scorer=None)
    for same in (
        (table("score", fitted), fitted),
        (table("vote", fitted), given),
        (table("score", None), given),
    ):
        check_table(*same)
    with pytest.raises(ValueError, match="fitted with scorer=judge, not scorer=null"):
        check_table(table("score", fitted), given)
    with pytest.raises(ValueError, match=r"fitted with lm_weight=0\.0, not lm_weight=0\.5"):
        check_table(table("score", fitted), fitted._replace(lm_weight=0.5))
    with pytest.raises(ValueError, match="fitted with model=a, not model=b"):
        check_table(table("score", fitted), fitted._replace(model="b"))


def test_gsm8k_files_in_the_original_format(options, tmp_path):
    rows = [
        ("How many eggs are 3 and 4?", "They are <<3+4=7>>7 eggs.\n#### 7"),
        ("And 1000 times 2?", "It is 1000*2=<<1000*2=2000>>2,000.\n#### 2,000"),
        ("And none?", "None.\n#### 0"),
    ]
    with open("test.jsonl", "w") as file:
        for question, answer in rows:
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
    assert run(options("task=gsm8k", "data=test.jsonl", "strategy=self_consistency")) == 0
    records = records_of(tmp_path / "run")
    assert [record["question"] for record in records] == [question for question, _ in rows]
    assert [record["reference"] for record in records] == ["7", "2000", "0"]
    assert summary_of(tmp_path / "run")["problems"] == 3


# ------------------------------------------------------------------------------ records


def plan_records(strategy, problems, **options):
    asking = Reasoner(engine=scripted(), strategy=strategy, scorer=Checker())
    plan = asking.plan([problem.question for problem in problems], **options)
    measured = {"seconds": 0, "fill": 1}
    return [_record(plan, row, problem) | measured for row, problem in enumerate(problems)]


SUMS = [Problem(q, q, total_of(q)) for q in ("3+4+5", "10+20", "1+2+3+4", "7+7+7")]


@pytest.mark.parametrize(
    ("strategy", "budget"),
    [
        (best_of_n(n=6), None),
        (mcts(simulations=20), None),
        (mcts(simulations=20), Budget(tokens=80)),
        (tree_of_thoughts(), None),
        (tree_of_thoughts(), Budget(tokens=1)),
        (tree_of_thoughts(depth=1), None),
    ],
)
def test_the_chosen_solution_is_one_of_the_samples(strategy, budget):
    """So `any`, the share of problems with a right sample, is never below the accuracy."""
    records = plan_records(strategy, SUMS, budget=budget)
    for record in records:
        assert record["text"] in [sample["text"] for sample in record["samples"]]
        texts = [sample["text"] for sample in record["samples"]]
        assert all(re.search(r"#### \d+\n|That is \d+\.", text) for text in texts)
    summary = summarize(records)
    assert summary["any"] >= summary["accuracy"]["mean"]
    assert summary["any"] >= summary["mean"]


def test_a_cut_solution_is_no_answer_and_wrong_by_every_grader():
    asking = Reasoner(engine=scripted(), strategy=best_of_n(n=2), max_tokens=5)
    record = _record(asking.plan(["3+4"]), 0, Problem("a", "3+4", "3"))
    assert record["text"].startswith("3+4=") and record["answer"] is None
    assert not (record["strict"] or record["flexible"] or record["numeric"])
    assert [(s["answer"], s["correct"]) for s in record["samples"]] == [(None, False)] * 2
    summary = summarize([record | {"seconds": 1, "fill": 1}])
    assert summary["unparsed"] == summary["cut"] == 1
    assert record["value"] is None


def test_a_solution_that_says_nothing_is_not_cut():
    engine = ScriptedEngine(lambda text: [("Who knows?\0", 1.0)])
    plan = Reasoner(engine=engine, strategy=best_of_n(n=2)).plan(["3+4"])
    record = _record(plan, 0, Problem("a", "3+4", "7")) | {"seconds": 1, "fill": 1}
    summary = summarize([record])
    assert summary["unparsed"] == 1 and summary["cut"] == 0
