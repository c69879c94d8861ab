"""Curves of accuracy against compute: known answers, equivalences, and the command."""

from __future__ import annotations

import csv
import json
import math
import time

import numpy as np
import pytest
import torch

from configs import cli
from evals.models import count_parameters
from evals.reasoning import _record
from evals.records import RecordStore
from evals.scaling.cells import (
    SAMPLED,
    TREES,
    Cell,
    Sweep,
    Unit,
    check,
    check_kept,
    check_settings,
    finished,
    load_sweep,
    option_text,
    save_sweep,
    score_temperature,
    tree_cells,
    unit_of,
)
from evals.scaling.command import scaling
from evals.scaling.curves import (
    SPENT,
    Parameters,
    Point,
    Spent,
    at_equal,
    common,
    per_doubling,
    sampled,
    searched,
    stops_paying,
)
from evals.scaling.page import Results, _families, _gains_of_scores
from evals.scaling.rescore import chosen_by, regraded, revalued
from mbrl_core import Argmax, RandomShooting, Vote, WeightedVote
from reasoning.reasoner import Reasoner
from reasoning.strategies import FinalAnswer, Strategy, mcts, soft_best_of_n, tree_of_thoughts
from reasoning.tasks import Problem
from reasoning.world import AGGREGATES
from tests.evals.commands import kill_after_first_record, records_of, start, timeless
from tests.language import Checker, save_tiny_model, scripted, total_of

SUMS = [Problem(q, q, total_of(q)) for q in ("3+4+5", "10+20", "1+2+3+4", "7+7+7", "5+6", "8+1+2")]


def answered(strategy: Strategy, aggregate: str = "product", seed: int = 0, lm_weight: float = 0.0):
    asking = Reasoner(
        engine=scripted(),
        strategy=strategy,
        scorer=Checker(),
        aggregate=aggregate,  # type: ignore[arg-type]
        lm_weight=lm_weight,
    )
    plan = asking.plan([p.question for p in SUMS], seed=seed)
    return [
        {"id": p.id, **_record(plan, row, p), "seconds": 1.0, "fill": 1.0}
        for row, p in enumerate(SUMS)
    ]


def whole(n: int, reduce) -> Strategy:
    return Strategy(planner=RandomShooting(samples=n, horizon=1, reduce=reduce), unit="solution")


VOTES = {
    "best": Argmax(),
    "majority": Vote(FinalAnswer()),
    "weighted": WeightedVote(FinalAnswer()),
}


# ------------------------------------------------------------------------- records, without a model


@pytest.mark.parametrize("lm_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("vote", VOTES)
def test_choosing_again_is_choosing_with_the_model(vote, aggregate, lm_weight):
    """From the records of best-of-7 by product comes what every other run would have chosen."""
    on_record = answered(whole(7, Argmax()))
    really = answered(whole(7, VOTES[vote]), aggregate, lm_weight=lm_weight)
    how = {"calculator": False, "lm_weight": lm_weight}
    chosen = [chosen_by(record, vote, aggregate, **how) for record in on_record]
    assert [sample["text"] for sample in chosen] == [record["text"] for record in really]
    for one, other in zip(on_record, really, strict=True):
        values = [revalued(sample, aggregate, **how) for sample in one["samples"]]
        assert values == pytest.approx([sample["value"] for sample in other["samples"]])


def test_gains_of_scores_are_differences_at_every_size():
    records = answered(whole(9, Argmax()))
    sizes = [1, 3, 9]
    lines = [sampled(name, sizes, records) for name in ("best_of_n", "self_consistency")]
    best, votes = ([point.correct.mean() for point in line] for line in lines)
    greedy = sampled("best_of_n", [2], records)[0]._replace(strategy="greedy", size=1)
    sweep = Sweep({"budgets": sizes}, Parameters(None), [])
    points = [*lines[0], *lines[1], greedy]
    [table] = _gains_of_scores(Results(sweep, len(SUMS), 0, 0, points, [], records, []))
    told = [[row[0], *(gain.mean / 100 for gain in row[1:])] for row in table.rows]
    ahead = [
        [size, one - vote, one - greedy.correct.mean()]
        for size, one, vote in zip(sizes, best, votes, strict=True)
    ]
    assert told == [pytest.approx(row) for row in ahead] and max(ahead[-1][1:]) > 0.1


def test_many_curves_are_drawn_in_families():
    """Every strategy is in one family, and best-of-N, to compare with, in all of them."""
    few = ["best_of_n", "mcts", "dvts"]
    assert _families(few) == {"": few} and _families([]) == {}
    many = [*SAMPLED, *TREES, "compute_optimal", "compute_optimal_oracle"]
    families = _families(many)
    assert len(families) == 4 and all("best_of_n" in family for family in families.values())
    drawn = [name for family in families.values() for name in family if name != "best_of_n"]
    assert sorted([*drawn, "best_of_n"]) == sorted(many)
    assert "best_of_n" not in _families(list(TREES))["Tree search with backup"]


def test_the_calculator_looks_at_text_alone():
    sample = {"text": "It is <<2+2=5>>5.\n#### 5", "scores": [0.9, 0.8], "value": 0.72}
    sample |= {"logprob": -1.0, "tokens": 4}
    assert revalued(sample, "min", calculator=False) == 0.8
    assert revalued(sample, "min", calculator=True) == 0.0
    assert revalued({**sample, "value": None}, "min", calculator=True) == -math.inf
    with pytest.raises(ValueError, match="aggregate must be one of product, min, mean, last"):
        revalued(sample, "sum", calculator=False)


def test_another_grader_needs_the_records_alone():
    records = answered(whole(5, Argmax()))
    for record in records:
        for grader in ("strict", "flexible", "numeric"):
            assert regraded(record, grader)["correct"] == record[grader]
    said = [s for r in records for s in regraded(r, "strict")["samples"] if "That is" in s["text"]]
    assert said and not any(sample["correct"] for sample in said)


@pytest.mark.parametrize("strategy", [mcts(simulations=15), tree_of_thoughts(width=2, expand=3)])
def test_a_tree_on_record_spells_out_its_solutions(strategy):
    for record in answered(strategy):
        tree = record["tree"]
        assert tree["parent"][0] == -1 and tree["text"][0] == ""
        assert all(parent < node for node, parent in enumerate(tree["parent"]))
        spelt = {}
        for node in range(1, len(tree["parent"])):
            texts, scores, at = [], [], node
            while at:
                texts.insert(0, tree["text"][at])
                scores[:0] = tree["scores"][at]
                at = tree["parent"][at]
            if tree["finish"][node] == "answered":
                spelt["".join(texts)] = scores
                assert tree["reward"][node] == pytest.approx(math.prod(scores), rel=1e-5)
        for sample in record["samples"]:
            assert spelt[sample["text"]] == sample["scores"]
        assert sum(sample["tokens"] for sample in record["samples"]) > 0


# --------------------------------------------------------------------------------- points and lines


def test_all_samples_give_what_the_run_itself_gave():
    records = answered(whole(9, Argmax()))
    really = [float(record["numeric"]) for record in records]
    (best,) = sampled("best_of_n", [9], records)
    # Equal solutions tie, and the run takes the first of them: they are equally right.
    assert best.correct == pytest.approx(really)
    (ceiling,) = sampled("pass", [9], records)
    assert ceiling.correct.tolist() == [any(s["correct"] for s in r["samples"]) for r in records]
    assert (best.correct <= ceiling.correct + 1e-9).all()
    for name, reduce in (
        ("self_consistency", Vote(FinalAnswer())),
        ("weighted_vote", WeightedVote(FinalAnswer())),
        ("soft_best_of_n", soft_best_of_n(n=9).planner.reduce),
    ):
        (point,) = sampled(name, [9], records)
        voted = np.array([record["numeric"] for record in answered(whole(9, reduce))], float)
        settled = (point.correct == 0) | (point.correct == 1)  # the others are ties
        assert (point.correct == voted)[settled].all() and settled.sum() >= 4


def test_a_vote_of_weight_zero_decides_where_no_other_is():
    def record(*samples):
        named = ("answer", "correct", "value")
        solutions = [dict(zip(named, sample, strict=True)) for sample in samples]
        return {"samples": solutions, **dict.fromkeys(SPENT, 0)}

    records = [
        record(("5", True, 0.0), ("6", False, 0.0), (None, False, None)),
        record(("5", True, 0.0), ("6", False, 0.5), ("5", True, 0.0)),
    ]
    for name in ("weighted_vote", "soft_best_of_n"):
        (three,) = sampled(name, [3], records, temperature=1e-3)
        assert three.correct.tolist() == [0.5, 0.0]
        (one,) = sampled(name, [1], records)
        assert one.correct.tolist() == one.mean.tolist()


def test_a_curve_votes_as_a_run_where_the_calculator_refutes_all():
    """Every sample is worth 0: the majority wins in the run, on its curve and chosen again."""
    answers = ["6", "5", "6", "5", "5", None, "7"]
    samples = [
        {"answer": answer, "correct": answer == "5", "value": 0.0, "text": "<<1+1=3>>3"}
        | {"scores": [], "logprob": -1.0, "tokens": 4}
        for answer in answers
    ]
    record = {"question": "?", "samples": samples, **dict.fromkeys(SPENT, 0)}
    for name, reduce in (
        ("weighted_vote", WeightedVote(lambda votes: votes)),
        ("soft_best_of_n", WeightedVote(lambda votes: votes, 0.1)),
    ):
        (point,) = sampled(name, [7], [record])
        index, _ = reduce(torch.zeros((1, 7)), answers)
        assert point.correct[0] == samples[int(index)]["correct"] == 1
    assert chosen_by(record, "weighted", calculator=True) == samples[1]


def test_a_part_of_the_samples_costs_its_part():
    records = answered(whole(8, Argmax()))
    two, eight = sampled("best_of_n", [2, 8, 16], records)  # 16 were not sampled
    assert [record["tokens"] for record in records] == eight.spent.decoded.tolist()
    assert two.spent.decoded == pytest.approx(eight.spent.decoded / 4)
    assert two.spent.scored == pytest.approx(eight.spent.scored / 4)
    assert (two.spent.prefilled == eight.spent.prefilled).all()
    (vote,) = sampled("self_consistency", [8], records)
    assert not vote.spent.scored.any()
    one = sampled("best_of_n", [1], records)[0]
    assert one.correct == pytest.approx(one.mean) and one.any == pytest.approx(one.mean)
    flops = eight.spent.flops(Parameters(10, 3))
    written = eight.spent.decoded + eight.spent.prefilled
    assert flops == pytest.approx(20 * written + 6 * eight.spent.scored)
    assert eight.spent.flops(Parameters(10)) is None is eight.spent.flops(Parameters(None))


def test_tree_searches_have_their_three_meanings_of_solved():
    records = answered(mcts(simulations=15))
    point = searched("mcts", "nodes", 15, 4, records)
    assert point.correct.tolist() == [float(r["numeric"]) for r in records]
    assert (point.mean <= point.any).all() and (point.correct <= point.any).all()
    assert (point.spent.nodes <= 16).all()


def point(correct, decoded: float, size: int = 1) -> Point:
    values = np.asarray(correct, float)
    spent = Spent(*(np.full(len(values), x) for x in (decoded, 0.0, 0.0, 1.0, 1.0)))
    return Point("x", "tokens", size, size, values, values, values, spent)


def test_gain_per_doubling_is_the_slope_of_the_line():
    rng = np.random.default_rng(0)
    base, slope = rng.random(50), rng.normal(0.04, 0.02, 50)
    line = [point(base + slope * i, 100 * 2**i, 2**i) for i in range(5)]
    found = per_doubling(line)
    assert found is not None and found.mean == pytest.approx(slope.mean())
    assert found.low < slope.mean() < found.high and found.high - found.low < 0.02
    assert per_doubling(line[:1]) is None and per_doubling([line[0], line[0]]) is None


def test_compute_stops_paying_where_the_interval_reaches_zero():
    better = np.arange(100) < 30
    first = point(np.zeros(100), 100, 1)
    second = point(better, 200, 2)
    third = point(np.roll(better, 3), 400, 4)  # as many, though others
    flat = stops_paying([first, second, third])
    assert flat is not None and (flat.start, flat.end) == (2, 4)
    assert flat.gain.mean == 0 and flat.gain.low < 0 < flat.gain.high
    assert stops_paying([first, second]) is None
    worse = stops_paying([second, first])
    assert worse is not None and worse.gain.high < 0


def test_equal_amounts_lie_between_the_rungs_and_nowhere_else():
    ladder = [point([0, 0, 1], 100), point([0, 1, 1], 400)]

    def between(decoded):
        return at_equal(point([0, 0, 0], decoded), ladder, lambda spent: spent.decoded)

    assert between(100).tolist() == [0, 0, 1] and between(400).tolist() == [0, 1, 1]
    assert between(200) == pytest.approx([0, 0.5, 1])
    assert between(99) is None and between(401) is None


def test_compared_are_problems_that_every_cell_answered():
    cells = {"a": [{"id": 3}, {"id": 1}, {"id": 2}], "b": [{"id": 1}, {"id": 3}, {"id": 4}]}
    assert common(cells) == ([3, 1], 2)
    assert common({}) == ([], 0)


# ------------------------------------------------------------------------------------------ cells


def test_tree_searches_are_limited_to_what_whole_solutions_take():
    unit = unit_of(answered(whole(6, Argmax())))
    cells = tree_cells(["tree_of_thoughts", "mcts", "greedy"], [1, 8], ["nodes", "tokens"], unit)
    assert [(c.strategy, c.by, c.size) for c in cells[:4]] == [
        ("tree_of_thoughts", "nodes", 1),
        ("mcts", "nodes", 1),
        ("tree_of_thoughts", "tokens", 1),
        ("mcts", "tokens", 1),
    ]
    assert cells[4].limit == math.ceil(8 * unit.nodes)
    assert f"budget.steps={cells[4].limit}" in cells[4].options
    assert f"budget.tokens={math.ceil(8 * unit.tokens)}" in cells[6].options
    assert len({cell.name for cell in cells}) == len(cells) == 8


def test_a_search_that_a_size_does_not_pay_for_is_left_out():
    """A simulation of RAP is a step and a rollout: depth 2 is what 3 nodes pay for."""
    told = []
    unit = Unit(nodes=1.5, tokens=30.0)
    cells = tree_cells(["rap", "mcts"], [1, 2, 8], ["nodes", "tokens"], unit, told.append)
    depths = {c.size: c.options[2] for c in cells if c.strategy == "rap"}
    assert depths == {n: f"strategy.depth={d}" for n, d in ((1, 1), (2, 2), (8, 5))}
    cells = tree_cells(["rap", "mcts_rollouts", "mcts"], [1], ["nodes"], Unit(0.9, 9), told.append)
    assert [cell.strategy for cell in cells] == ["mcts"]
    assert told == [
        "rap is left out at size 1: 1 nodes do not pay for a step",
        "mcts_rollouts is left out at size 1: 1 nodes do not pay for a step",
    ]


def test_particles_limited_by_nodes_go_as_deep_as_a_solution():
    """All that is allowed is set aside for whole particles: 86 // 6 = 14 of the 16 are."""
    cells = tree_cells(["particle_filter"], [1, 16], ["nodes", "tokens"], Unit(5.35, 60.0))
    assert [(cell.size, cell.by, *cell.options[1:3]) for cell in cells] == [
        (1, "nodes", "strategy.particles=1", "strategy.depth=6"),
        (1, "tokens", "strategy.particles=1", "strategy.depth=6"),
        (16, "nodes", "strategy.particles=16", "strategy.depth=6"),
        (16, "tokens", "strategy.particles=16", "strategy.depth=24"),
    ]


def test_a_simulation_over_operations_takes_the_square_root_of_a_size():
    """Of 16 solutions, four beginnings and four ends of every line are four solutions' worth."""
    cells = tree_cells(["rap_operations"], [1, 4, 16, 100], ["tokens"], Unit(5.5, 85.0))
    shape = {
        cell.size: [option.partition("=")[2] for option in cell.options[2:6]] for cell in cells
    }
    assert shape == {
        1: ["5", "operations", "1", "1"],
        4: ["8", "operations", "2", "2"],
        16: ["8", "operations", "4", "4"],
        100: ["8", "operations", "4", "8"],
    }


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: check(["mcst"], [1], []), "no strategy 'mcst': choose among greedy, best_of_n"),
        (lambda: check(["greedy"], [4, 2], []), "budgets must be rising whole numbers"),
        (lambda: check(["mcts"], [1], ["time"]), "by takes nodes and tokens, not 'time'"),
        (lambda: check(["greedy", "mcts"], [1], []), "by names no limit, and mcts needs nodes or"),
        (lambda: check([], [1], ["nodes"]), "strategies names none: choose among greedy"),
        (lambda: sampled("mcts", [1], answered(whole(2, Argmax()))), "no strategy over whole"),
        (lambda: sampled("pass", [1], answered(mcts(simulations=9))), "no run of whole solutions"),
        (lambda: unit_of([]), "nothing to measure"),
    ],
)
def test_what_makes_no_sweep_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"particle_filer": {}},
            "names 'particle_filer', which .*; did you mean 'particle_filter'",
        ),
        ({"dvts": {}}, "names 'dvts', which is no strategy of this sweep"),
        ({"compute_optimal": {"probe": 3}}, "no strategy of this sweep that takes any"),
        (
            {"particle_filter": {"score_temprature": 1.0}},
            r"options of particle_filter: .*did you mean 'strategy\.score_temperature'",
        ),
        ({"particle_filter": {"score_temperature": "hot"}}, "must be a number, not 'hot'"),
        ({"soft_best_of_n": {"score_temperature": 0.0}}, "options of soft_best_of_n: .*above 0"),
        ({"particle_filter": {"particles": 9}}, "the sweep itself decides 'particles'"),
        ({"best_of_n": {"n": 9}}, "the sweep itself decides 'n'"),
        ({"mcts_uct": {"selection": "puct"}}, "the sweep itself decides 'selection'"),
        ({"mcts_uct": {"temperature": 0.5}}, "the sweep itself decides 'temperature'"),
    ],
)
def test_settings_that_no_strategy_takes_are_refused(settings, told):
    swept = ["best_of_n", "soft_best_of_n", "particle_filter", "mcts_uct", "compute_optimal"]
    with pytest.raises(ValueError, match=told):
        check_settings(settings, swept, [1, 4])


def test_settings_reach_the_cells_and_the_curve():
    settings = {
        "particle_filter": {"score_temperature": 0.005, "weigh": "score"},
        "soft_best_of_n": {"score_temperature": 1e-3},
        "mcts_uct": {"exploration": 2},
    }
    swept = list(settings)
    check_settings(settings, swept, [1, 4])
    cells = tree_cells(swept, [4], ["nodes"], Unit(5.0, 80.0), settings=settings)
    particles, uct = (cli.compose("evals_reasoning", cell.options).options for cell in cells)
    assert particles.strategy.score_temperature == 0.005 and particles.strategy.weigh == "score"
    assert uct.strategy.exploration == 2 and uct.budget.steps == 20
    bare = tree_cells(swept, [4], ["nodes"], Unit(5.0, 80.0))
    assert [cell.name for cell in bare] == [cell.name for cell in cells]
    assert score_temperature({"options": settings}) == 1e-3
    assert score_temperature({}) == soft_best_of_n().planner.reduce.temperature


def test_a_damaged_sweep_is_named(tmp_path):
    for text in ("{x", "[]", '{"options": {}, "cells": [{}], "parameters": {}}'):
        (tmp_path / "scaling.json").write_text(text)
        with pytest.raises(ValueError, match=r"scaling\.json is damaged .*writes it anew"):
            load_sweep(tmp_path)


def test_options_reach_the_cells_as_they_were():
    options = {
        "data": "it's a \\ file.jsonl",
        "scorer": None,
        "steps": [2, 4],
        "calculator": False,
        "engine_options": {"url": "http://host:80/v1", "max_batch": 8, "eager": True},
    }
    given = [option_text(name, value) for name, value in options.items()]
    found = cli.compose("evals_reasoning", given).options
    assert {name: found[name] for name in options} == options


# ---------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("lm"), ends=range(10, 400, 50), context=512)


def options(model, *more: str) -> list[str]:
    small = ["limit=4", "group=2", "budgets=[1,4]", "max_tokens=20", "scorer=null", "out=run"]
    searches = "strategies=[greedy,best_of_n,self_consistency,tree_of_thoughts,mcts]"
    return [f"model={model}", *small, searches, *more]


def run(argv: list[str]) -> int:
    return cli.run("scaling", scaling, "", argv=argv)


def test_a_killed_sweep_goes_on_and_its_page_needs_no_model(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = start("evals.scaling", options(model), tmp_path)
    first = tmp_path / "run" / "samples-4"
    while process.poll() is None and not first.exists():
        time.sleep(0.01)
    kill_after_first_record(process, first)
    kept = (first / "records.jsonl").read_bytes()
    assert run(options(model)) == 0
    assert (first / "records.jsonl").read_bytes().startswith(kept)
    names = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert len(names) == 2 + 2 * 2 * 2 and {"greedy-1", "samples-4"} < names
    for name in names:
        assert len(records_of(tmp_path / "run" / name)) == 4

    page = (tmp_path / "run/report.html").read_text()
    with open("run/curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # greedy, best-of-N, self-consistency and any of N at two sizes, two searches by two limits
    assert len(rows) == 1 + 3 * 2 + 2 * 2 * 2
    limited = [row for row in rows if row["by"] == "nodes"]
    assert limited and all(float(row["nodes"]) <= int(row["limit"]) + 1 for row in limited)
    assert all(float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in rows)
    assert {row["problems"] for row in rows} == {"4"}
    sizes = json.loads((tmp_path / "run/scaling.json").read_text())["parameters"]
    assert sizes == {"model": count_parameters(model), "scorer": None}
    assert float(rows[0]["flops"]) == pytest.approx(
        2 * sizes["model"] * (float(rows[0]["decoded"]) + float(rows[0]["prefilled"])), rel=1e-4
    )

    capsys.readouterr()
    assert run(["report=run", "model=gone"]) == 0
    assert (tmp_path / "run/report.html").read_text() == page
    assert "Best-of-N of 4 against self-consistency of 4" in capsys.readouterr().out
    assert run(["report=run", "out=elsewhere/page"]) == 0
    assert (tmp_path / "elsewhere/page/report.html").read_text() == page
    written = {path.name for path in (tmp_path / "elsewhere/page").iterdir()}
    assert written == {"report.html", "curves.csv", "tables.md"}
    assert run(["report=nowhere"]) == 1
    assert not (tmp_path / "nowhere").exists()
    assert "nowhere holds no sweep" in capsys.readouterr().err


def test_samples_that_are_mostly_empty_leave_each_size_limits_of_its_own():
    empty = [{"samples": [{"text": ""}, {"text": ""}, {"text": "a\n"}], "tokens": 2}]
    cells = tree_cells(list(TREES), (1, 2, 4), ["nodes", "tokens"], unit_of(empty), print)
    assert len({cell.name for cell in cells}) == len(cells) > 0


def test_small_sizes_do_not_stop_a_sweep(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    searches = "strategies=[greedy,lookahead,particle_filter,mcts_rollouts,receding,rap]"
    small = [searches, "budgets=[1,2]", "by=[nodes]", "limit=2"]
    small += ["options={particle_filter:{score_temperature:0.005}}"]
    assert run(options(model, *small)) == 0, capsys.readouterr().err
    assert (tmp_path / "run/report.html").exists()
    assert list((tmp_path / "run").glob("rap-*-nodes/summary.json"))
    assert list((tmp_path / "run").glob("particle_filter-*-nodes/summary.json"))
    assert "score_temperature" in (tmp_path / "run/report.html").read_text()
    kept = json.loads((tmp_path / "run/scaling.json").read_text())
    assert kept["options"]["options"] == {"particle_filter": {"score_temperature": 0.005}}


def test_one_sample_is_a_curve_of_one_point(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    small = ["strategies=[greedy,best_of_n]", "budgets=[1]", "limit=2", "aggregate=min"]
    assert run(options(model, *small)) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "is not finished yet" not in told and "Best-of-N of 1 against greedy" in told
    assert told.count("note: 'aggregate' has no effect") == 1


def test_solutions_are_shown_to_what_writes_solutions(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    small = ["strategies=[rap_operations]", "budgets=[4]", "by=[tokens]", "limit=2", "shots=1"]
    assert run(options(model, *small)) == 0, capsys.readouterr().err
    assert list((tmp_path / "run").glob("rap_operations-*-tokens/summary.json"))


def test_what_a_sweep_could_not_end_with_is_refused_before_it_begins(model, tmp_path, capsys):
    out = f"out={tmp_path / 'run'}"
    chosen = "strategies=[best_of_n,compute_optimal]"
    for wrong, told in (
        ([chosen, "difficulty.by=scores"], "by must be score or vote, not 'scores'"),
        ([chosen, "difficulty.bins=0"], "a probe and bins of at least 1"),
        ([chosen, "difficulty.probe=5"], "a budget of at least its probe, difficulty.probe=5"),
        (["strategies=[greedy,rap,compute_optimal]"], "chooses among the other strategies"),
        (["strategies=[rap]", "shots=2"], "which rap does not write"),
        (["seed=-1"], "seed must be 0 or more, not -1"),
    ):
        assert run(options(model, *wrong, out)) in (1, 2)
        assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", [{"budgets": [1]}, {"by": ["nodes"]}, {"strategies": ["greedy"]}])
def test_a_part_of_a_sweep_does_not_replace_its_page(tmp_path, part):
    whole = {"budgets": [1, 2], "by": ["nodes", "tokens"], "strategies": ["greedy", "mcts"]}
    save_sweep(tmp_path, Sweep({**whole, "lm_weight": 0.0}, Parameters(10), []))
    check_kept(tmp_path, {**whole, "budgets": [1, 2, 4]})
    check_kept(tmp_path / "other", part)
    (name,) = part
    with pytest.raises(ValueError, match=f"holds a sweep with {name}=.*, and its page would lose"):
        scaling(**{**whole, **part}, out=tmp_path)


def test_cells_of_an_earlier_format_are_refused(tmp_path):
    cell = Cell("greedy", "samples", 1, 1, ())
    with RecordStore(tmp_path / cell.name, {}) as store:
        store.append("a", {"flexible": True, "samples": []})
        store.write_summary({})
    with pytest.raises(ValueError, match="greedy-1 is a run of an earlier format: run it again"):
        finished(tmp_path, [cell])


def test_two_workers_find_what_one_does(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    small = ["strategies=[best_of_n]", "budgets=[3]"]
    assert run(options(model, *small)) == 0
    assert run(options(model, *small, "workers=2", "out=spread")) == 0
    one, two = ({r["id"]: timeless(r) for r in records_of(tmp_path / out / "samples-3")}
                for out in ("run", "spread"))  # fmt: skip
    # A worker has fewer threads, and sums of probabilities differ in their last digits.
    for id, record in one.items():
        for mine, other in zip(record["samples"], two[id]["samples"], strict=True):
            assert mine.pop("logprob") == pytest.approx(other.pop("logprob"), rel=1e-5)
    assert one == two
