"""Compute-optimal choice from records: what is fitted, what is counted, what nobody may see."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from configs import cli
from evals.reasoning import evaluate
from evals.scaling.cells import Cell, Sweep
from evals.scaling.command import scaling
from evals.scaling.curves import SPENT, Parameters, searched
from evals.scaling.optimal import Optimal, Probing, optimise, probing_of, said_of, table_of
from reasoning.difficulty import Fitted, compute_optimal
from reasoning.strategies import best_of_n, tree_of_thoughts
from tests.evals.commands import records_of
from tests.language import save_tiny_model

SIZE, SAMPLES, PROBLEMS = 4, 8, 40
PROBING = Probing(probe=2, bins=2)
TREE = Cell(
    "tree_of_thoughts",
    "tokens",
    90,
    SIZE,
    ("strategy=tree_of_thoughts", "strategy.width=1", "budget.tokens=90"),
)
WHOLE = Cell("samples", "samples", SAMPLES, SAMPLES, ("strategy=best_of_n",))


def sweep_of(*strategies: str, cells=(WHOLE, TREE)) -> Sweep:
    options = {
        "strategies": [*strategies, "compute_optimal"],
        "budgets": [1, SIZE, SAMPLES],
        "seed": 0,
        "temperature": 0.7,
        "difficulty": PROBING._asdict(),
        **dict.fromkeys(("task", "split", "limit", "model", "scorer", "aggregate"), "x"),
        "lm_weight": 0.0,
        "calculator": True,
    }
    return Sweep(options, Parameters(10), list(cells))


def record(number: int, samples, correct: bool, tokens: float) -> dict:
    named = ("answer", "correct", "value")
    solutions = [dict(zip(named, sample, strict=True)) for sample in samples]
    spent = dict.fromkeys(SPENT, 1.0) | {"tokens": tokens}
    return {"id": number, "samples": solutions, "correct": correct, **spent}


def easy(i: int) -> bool:
    return i % 4 < 2  # both folds hold both kinds


def samples() -> list[dict]:
    """Easy questions: high scores and a right majority. Hard ones: low scores, always wrong."""
    right, wrong = ("1", True, 0.9), ("2", False, 0.2)
    return [
        record(i, [right] * 7 + [wrong] if easy(i) else [wrong] * 8, False, 80.0)
        for i in range(PROBLEMS)
    ]


def tree() -> list[dict]:
    """A search that is right on the hard questions alone."""
    return [record(i, [], not easy(i), 60.0) for i in range(PROBLEMS)]


def found(sweep: Sweep, probing: Probing = PROBING, searches=None) -> dict[int, Optimal]:
    records = {WHOLE.name: samples(), TREE.name: searches or tree()}
    return {one.size: one for one in optimise(sweep, records, samples(), probing)}


def test_each_kind_of_question_gets_its_strategy():
    """Neither strategy answers more than half; by difficulty nearly all are right."""
    one = found(sweep_of("self_consistency"))[SIZE]
    assert [point.correct.mean() for point in one.fixed] == [0.5, 0.5]
    assert one.oracle.correct.tolist() == [1.0] * PROBLEMS
    assert one.predicted.correct.mean() > 0.95
    assert one.chosen == ["tree_of_thoughts", "self_consistency"]


def test_what_is_spent_holds_the_probe():
    """10 tokens a sample: 4 of them, or a search of 60 and a probe of 2; the oracle pays none."""
    one = found(sweep_of("self_consistency"))[SIZE]
    assert one.oracle.spent.decoded.tolist() == [40.0 if easy(i) else 60.0 for i in range(PROBLEMS)]
    hard = [i for i in range(PROBLEMS) if not easy(i)]
    assert one.predicted.spent.decoded[hard] == pytest.approx(80.0)
    # a search is charged the prompt twice, its own and the probe's, and the scores of the probe
    assert one.predicted.spent.prefilled[hard] == pytest.approx(2.0)
    assert one.predicted.spent.scored[hard] == pytest.approx(1.25)
    assert one.oracle.spent.scored.tolist() == [0.0 if easy(i) else 1.0 for i in range(PROBLEMS)]


def test_one_strategy_is_that_strategy():
    cells = (WHOLE,)
    for name in ("best_of_n", "weighted_vote"):
        for size, one in found(sweep_of(name, cells=cells)).items():
            (fixed,) = one.fixed
            for mine, theirs in zip(one.predicted[4:7], fixed[4:7], strict=True):
                assert mine == pytest.approx(theirs)
            assert one.predicted.spent.decoded == pytest.approx(10.0 * size)
            assert set(one.chosen) == {name}


def test_sizes_below_the_probe_have_no_choice():
    sweep = sweep_of("best_of_n")
    assert list(found(sweep)) == [SIZE, SAMPLES]
    assert list(found(sweep, Probing(probe=6, bins=2))) == [SAMPLES]


def test_nobody_sees_his_own_answer():
    """Whatever a problem's own result is, what it is answered by stays: it is fitted on others."""
    sweep = sweep_of("self_consistency")
    before = found(sweep)[SIZE].predicted.spent.decoded
    for mine in (0, 3, 18):
        changed = copy.deepcopy(tree())
        for other in changed:
            if other["id"] % 2 == mine % 2:
                other["correct"] = not other["correct"]
        after = found(sweep, searches=changed)[SIZE].predicted.spent.decoded
        own = np.arange(PROBLEMS) % 2 == mine % 2
        assert (after[own] == before[own]).all() and (after[~own] != before[~own]).any()


def test_a_vote_says_how_hard_a_question_is_too():
    one = found(sweep_of("self_consistency"), Probing(probe=2, bins=2, by="vote"))[SIZE]
    # of hard questions all samples agree as well: the vote cannot tell, the score can
    assert one.predicted.correct.mean() < 0.95 < one.oracle.correct.mean()


def test_of_equally_good_strategies_the_cheaper_one_is_chosen():
    searches = [record(i, [], easy(i), 5.0) for i in range(PROBLEMS)]
    one = found(sweep_of("self_consistency"), searches=searches)[SIZE]
    assert one.chosen[0] == "tree_of_thoughts"  # nobody is right on the hard ones


def test_the_table_holds_what_was_fitted(tmp_path):
    sweep = sweep_of("best_of_n")
    one = found(sweep)[SIZE]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table_of(sweep, [one])))
    read = compute_optimal(path, SIZE)
    assert (read.probe, read.temperature, read.by) == (2, 0.7, "score")
    assert list(read.edges) == one.edges
    assert read.fitted_on == Fitted("x", "x", "x", 0.0, True)
    search, sampling = read.choices
    assert search.strategy == tree_of_thoughts(width=1, temperature=0.7)
    assert search.budget.tokens == 90
    assert sampling.strategy == best_of_n(n=SIZE, temperature=0.7)


def test_the_table_holds_what_a_sweep_sets():
    settings = {
        "tree_of_thoughts": {"unit": "list"},
        "soft_best_of_n": {"score_temperature": 0.02},
    }
    sweep = sweep_of("soft_best_of_n")
    sweep = sweep._replace(options={**sweep.options, "options": settings})
    table = table_of(sweep, [found(sweep)[SIZE]._replace(chosen=list(settings))])
    search, sampling = (entry["options"] for entry in table["sizes"][str(SIZE)]["choices"])
    assert search == {"width": 1, "unit": "list", "temperature": 0.7}
    assert sampling == {"n": SIZE, "temperature": 0.7, "score_temperature": 0.02}


def test_what_makes_no_difficulty_is_refused():
    with pytest.raises(ValueError, match="a probe and bins of at least 1"):
        found(sweep_of("best_of_n"), Probing(probe=0))
    with pytest.raises(ValueError, match="by must be score or vote, not 'luck'"):
        found(sweep_of("best_of_n"), Probing(probe=2, by="luck"))  # type: ignore[arg-type]
    sweep = sweep_of("best_of_n")
    assert probing_of({**sweep.options, "strategies": ["best_of_n"]}) is None
    assert "4 sampled solutions" in said_of(Probing())


def test_points_of_cells_are_what_they_are_elsewhere():
    one = found(sweep_of("best_of_n"))[SIZE]
    alone = searched("tree_of_thoughts", "tokens", 90, SIZE, tree())
    assert one.fixed[-1].correct.tolist() == alone.correct.tolist()
    assert one.fixed[-1].spent.decoded.tolist() == alone.spent.decoded.tolist()


def test_a_sweep_writes_a_table_that_answers_questions(tmp_path, monkeypatch, capsys):
    """The commands: fit on the training split, answer the test split by the table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = save_tiny_model(tmp_path / "lm", ends=range(10, 400, 50), context=512)
    strategies = "strategies=[best_of_n,self_consistency,lookahead,mcts_rollouts,compute_optimal]"
    small = [f"model={model}", "limit=4", "group=4", "max_tokens=12"]
    given = [
        *small,
        strategies,
        "scorer=null",
        "budgets=[1,2]",
        "by=[tokens]",
        "difficulty.probe=2",
    ]
    assert cli.run("scaling", scaling, "", argv=[*given, "split=train", "out=fit"]) == 0
    with open("fit/curves.csv", newline="") as file:
        names = [row["strategy"] for row in csv.DictReader(file)]
    assert names.count("compute_optimal") == names.count("compute_optimal_oracle") == 1
    assert "Compute-optimal choice" in Path("fit/report.html").read_text()
    table = json.loads(Path("fit/compute_optimal.json").read_text())
    assert list(table["sizes"]) == ["2"] and table["fitted_on"]["split"] == "train"

    chosen = ["strategy=compute_optimal", "strategy.table=fit/compute_optimal.json"]
    run = [*small, *chosen, "n=2", "out=run"]
    assert cli.run("evals_reasoning", evaluate, "", argv=run) == 0
    capsys.readouterr()
    assert cli.run("evals_reasoning", evaluate, "", argv=[*run[:-1], "scorer=critique", "out=x"])
    assert "fitted with scorer=null, not scorer=critique" in capsys.readouterr().err
    records = records_of(tmp_path / "run")
    assert len(records) == 4 and all(len(record["samples"]) >= 2 for record in records)
    capsys.readouterr()
    assert cli.run("evals_reasoning", evaluate, "", argv=[*run[:-2], "n=8", "out=other"]) == 2
    assert "holds the sizes 2, not 8" in capsys.readouterr().err
