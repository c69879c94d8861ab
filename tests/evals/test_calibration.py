"""`python -m evals.calibration` on scores whose worth is known."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from evals.calibration import (
    LIKELIHOOD,
    Measure,
    Steps,
    aggregate_of,
    calibration,
    calibration_error,
    chosen,
    ordered,
    steps_of,
    values_of,
)
from evals.records import RecordStore
from evals.scaling.rescore import revalued
from evals.stats import ratio_interval
from reasoning.tasks import GSM8K
from reasoning.world import AGGREGATES


def sample(correct: bool, *scores: float, text: str | None = None, logprob: float = -1.0):
    """A solution of a line per score."""
    lines = ["<<1+1=2>>2"] * (len(scores) - 1) + ["#### 2"]
    return {
        "text": "\n".join(lines) if text is None else text,
        "answer": "2",
        "correct": correct,
        "value": math.prod(scores) if scores else None,
        "scores": list(scores),
        "logprob": logprob,
        "tokens": 4,
    }


def record(*samples):
    return {"question": "?", "reference": "2", "correct": True, "samples": list(samples)}


def test_scores_that_are_the_frequencies_have_no_calibration_error():
    scores = np.repeat([0.25, 0.75], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0.0])
    assert calibration_error(Steps(np.arange(8), scores, right)) == pytest.approx(0.0)
    shifted = Steps(np.arange(8), scores + 0.125, right)
    assert calibration_error(shifted) == pytest.approx(0.125)
    assert calibration_error(Steps(np.arange(2), np.array([1.0, 1.0]), np.array([1.0, 0.0]))) == 0.5


def test_a_sample_is_a_trial_of_each_of_its_steps():
    records = [record(sample(True, 0.5, 0.9), sample(False, 0.4)), record(sample(False, 0.1, 0.2))]
    steps = steps_of(records)
    assert steps.problem.tolist() == [0, 0, 0, 1, 1]
    assert steps.score.tolist() == [0.5, 0.9, 0.4, 0.1, 0.2]
    assert steps.right.tolist() == [1, 1, 0, 0, 0]
    assert steps_of(records, last=True).score.tolist() == [0.9, 0.4, 0.2]


def test_order_is_the_area_under_the_curve():
    right = np.array([1.0, 0.0, 1.0, 0.0])
    assert ordered(np.array([0.9, 0.1, 0.8, 0.2]), right) == 1
    assert ordered(np.array([0.1, 0.9, 0.2, 0.8]), right) == 0
    assert ordered(np.array([0.5, 0.5, 0.9, 0.7]), right) == pytest.approx(0.625)
    assert ordered(np.array([0.5, 0.5]), np.ones(2)) is None


def test_best_of_k_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    samples = [sample(bool(rng.integers(2)), *rng.random(2)) for _ in range(6)]
    records = [record(*samples)]
    values = values_of(records, GSM8K, Measure(), calculator=False)
    points = chosen(records, values)
    assert [point.k for point in points] == [1, 2, 4, 6]
    for point in points:
        best = [max(s, key=lambda one: one["value"]) for s in combinations(samples, point.k)]
        assert point.right[0] == pytest.approx(np.mean([one["correct"] for one in best]))
        assert point.claimed[0] == pytest.approx(np.mean([one["scores"][-1] for one in best]))
    assert points[0].nats == 0 and points[2].nats == pytest.approx(math.log(4) - 3 / 4)


def test_values_are_those_of_a_run():
    wrong = sample(False, 0.9, 0.9, text="<<1+1=3>>3\n#### 3", logprob=-8 * math.log(2))
    cut = sample(False) | {"logprob": None}
    records = [record(wrong, cut)]
    least, both = Measure("min"), Measure("min", 0.5)
    assert values_of(records, GSM8K, least, calculator=False).tolist() == [[0.9, -math.inf]]
    assert values_of(records, GSM8K, least, calculator=True).tolist() == [[0.0, -math.inf]]
    [[likely, none]] = values_of(records, GSM8K, LIKELIHOOD, calculator=False)
    assert likely == pytest.approx(1 / 4) and none == -math.inf
    assert values_of(records, GSM8K, LIKELIHOOD, calculator=True)[0, 0] == 0
    [[weighed, none]] = values_of(records, GSM8K, both, calculator=False)
    assert weighed == pytest.approx((0.9 * 2**-8) ** 0.5) and none == -math.inf


def test_a_ratio_of_groups():
    rng = np.random.default_rng(0)
    assert tuple(ratio_interval([1, 2, 3], [2, 4, 6], rng)) == (0.5, 0.5, 0.5)
    wide = ratio_interval([3, 0], [3, 3], rng)
    assert tuple(wide) == (0.5, 0.0, 1.0)
    for bad in (([1.0], [1.0, 2.0]), ([0.0], [0.0])):
        with pytest.raises(ValueError, match="a ratio needs"):
            ratio_interval(*bad, rng)


def written(folder, *records):
    with RecordStore(folder, {"task": "generated"}) as store:
        for id, each in enumerate(records):
            store.append(id, each)
    return folder


def test_the_page_says_how_much_of_the_gain_is_none(tmp_path):
    # The scorer prefers wrong solutions: with two samples it sees a gain and there is a loss.
    one = record(sample(True, 0.5), sample(False, 0.9))
    page = calibration(run=written(tmp_path / "run", one, one), say=lambda line: None)
    text = page.with_suffix(".md").read_text()
    assert "goes from 70.0% to 90.0%, the share that is right from 50.0% to 0.0%" in text
    assert "350% of the gain that it sees is none" in text
    assert "accuracy is highest at 1 samples, 50.0%; at 2 it is -50.0 points" in text
    assert f"| {LIKELIHOOD.name} | 0.500" in text
    assert "Over-optimisation" in page.read_text()


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
def test_a_run_tells_its_aggregate(name, lm_weight):
    def valued(*scores):
        one = sample(True, *scores)
        how = {"calculator": True, "lm_weight": lm_weight}
        return one | {"value": revalued(one, name, **how)}

    refuted = sample(False, 0.9, 0.8, text="<<1+1=3>>3\n#### 3") | {"value": 0.0}
    records = [record(valued(0.5, 0.9, 0.8), refuted), record(valued(0.3), sample(False))]
    arguments = {"calculator": True, "lm_weight": lm_weight}
    assert aggregate_of(arguments, records, GSM8K) == name
    with pytest.raises(ValueError, match="by none of product, min, mean, last: set aggregate"):
        aggregate_of(arguments, [record(valued(0.5, 0.5) | {"value": 0.77})], GSM8K)


def test_the_page_goes_by_the_runs_own_aggregate(tmp_path):
    """By min the right one of two is chosen, by product the wrong one."""
    right = sample(True, 0.6, 0.6, 0.6) | {"value": 0.6}
    wrong = sample(False, 0.5, 0.9) | {"value": 0.5}
    run = written(tmp_path / "run", record(right, wrong))
    for aggregate, name, share in ((None, "min", "100.0%"), ("product", "product", "0.0%")):
        page = calibration(run=run, aggregate=aggregate, say=lambda line: None)
        text = page.with_suffix(".md").read_text()
        assert f"By step scores, {name}, accuracy is highest at" in text
        assert f"the share that is right from 50.0% to {share}" in text


def test_a_run_in_which_no_step_was_scored_is_refused(tmp_path):
    cut = sample(False) | {"value": None}
    for name, records, told in (
        ("cut", [record(cut)], "cut holds no scored solution: all were cut, give more max_tokens"),
        ("new", [], "new holds no scored solution: no problem is answered yet"),
    ):
        with pytest.raises(ValueError, match=told):
            calibration(run=written(tmp_path / name, *records), say=lambda line: None)


def test_a_seed_that_nothing_can_be_drawn_from_is_refused(tmp_path):
    run = written(tmp_path / "run", record(sample(True, 0.5), sample(False, 0.9)))
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        calibration(run=run, seed=-1)


def test_a_run_without_step_scores_is_refused(tmp_path):
    bare = sample(True) | {"value": 0.5}
    once = sample(True, 0.5, text="<<1+1=2>>2\n#### 2")  # as scorer=likelihood
    for number, one in enumerate((bare, once)):
        with pytest.raises(ValueError, match="holds no step scores: evaluate with a scorer"):
            calibration(run=written(tmp_path / f"run{number}", record(one)))
    old = {**record(), "samples": [{"correct": True}]}
    with pytest.raises(ValueError, match="run of an earlier format"):
        calibration(run=written(tmp_path / "old", old))
