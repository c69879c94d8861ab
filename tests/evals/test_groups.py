"""Groups of searches that run at once on one engine, and what fails among them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from evals import models, reasoning
from evals.models import Loaded, claim_of, share_card, side_by_side
from evals.reasoning import evaluate, in_threads
from evals.records import FAILURES
from evals.runner import Claim
from reasoning.engines import EngineError, ScriptedEngine, Shared, failure, load_engine
from reasoning.strategies import best_of_n, mcts, tree_of_thoughts
from tests.evals.commands import records_of, summary_of, timeless
from tests.language import adding, save_tiny_model, total_of

pytestmark = pytest.mark.filterwarnings("ignore:.* no candidate of roots:RuntimeWarning")
QUESTIONS = [f"{a}+{b}+{c}" for a in (1, 2, 3) for b in (4, 5) for c in (6, 7)]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "test.jsonl"
    lines = [{"question": q, "answer": f"#### {total_of(q)}"} for q in QUESTIONS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def answer(data, tmp_path, monkeypatch):
    """Evaluate with an engine of ours; records by id, without times."""

    def answer(engine: Any, out: str, **options: Any) -> dict[str, dict[str, Any]]:
        monkeypatch.setattr(reasoning, "load_lm", lambda _: engine)
        given = {"strategy": best_of_n(n=3), "group": 5, "say": lambda line: None} | options
        evaluate(task="gsm8k", data=str(data), out=tmp_path / out, **given)
        return {r["id"]: timeless(r) for r in records_of(tmp_path / out)}

    return answer


class Flaky(ScriptedEngine):
    """Fails for questions that begin with `bad`; with `gone`, for good after so many calls."""

    def __init__(self, bad: str = "never", gone: int | None = None) -> None:
        super().__init__(adding)
        self.bad, self.gone = bad, gone

    def generate(self, requests):
        if self.gone is not None and self.calls >= self.gone:
            raise EngineError("the engine is gone")
        made = super().generate(requests)
        bad = [self.decode(request.tokens).startswith(self.bad) for request in requests]
        return [failure("timed out") if b else c for b, c in zip(bad, made, strict=True)]


@pytest.mark.parametrize(
    "strategy", [best_of_n(n=3), tree_of_thoughts(), mcts(simulations=6)], ids=["n", "beam", "mcts"]
)
def test_groups_change_no_record(answer, strategy):
    def records(out: str, **options: int):
        return answer(Shared(ScriptedEngine(adding)), out, strategy=strategy, **options)

    alone = records("one", group=1)
    assert len(alone) == len(QUESTIONS)
    assert records("groups", group=2, groups=4) == records("whole", group=12) == alone


def test_groups_change_nothing_but_rounding_on_a_real_engine(answer, tmp_path):
    folder = str(save_tiny_model(tmp_path / "lm", ends=range(10, 400, 12)))
    one, many = (
        answer(load_engine(folder), out, model=folder, max_tokens=30, group=3, groups=groups)
        for out, groups in (("one", 1), ("many", 4))
    )
    assert one.keys() == many.keys()
    for id, record in one.items():
        assert many[id]["text"] == record["text"]
        assert many[id]["value"] == pytest.approx(record["value"], abs=1e-3)


@pytest.mark.parametrize("groups", [1, 3])
def test_what_failed_is_counted_apart_and_done_when_the_command_is_repeated(
    answer, tmp_path, groups
):
    sound = answer(ScriptedEngine(adding), "sound")
    partly = answer(Flaky("1+"), "run", groups=groups)
    failed = {id for id in sound if sound[id]["question"].startswith("1+")}
    assert len(failed) == 4 and partly == {id: sound[id] for id in sound.keys() - failed}
    summary = summary_of(tmp_path / "run")
    assert (summary["failed"], summary["problems"]) == (4, len(QUESTIONS) - 4)
    right = sum(record["numeric"] for record in partly.values())
    assert summary["accuracy"]["mean"] == right / len(partly)
    before = (tmp_path / "run/records.jsonl").read_bytes()
    assert answer(ScriptedEngine(adding), "run", groups=groups) == sound
    assert (tmp_path / "run/records.jsonl").read_bytes().startswith(before)
    assert summary_of(tmp_path / "run")["failed"] == 0
    reasons = [json.loads(line) for line in (tmp_path / "run" / FAILURES).read_text().splitlines()]
    assert {line["id"] for line in reasons} == failed
    assert {line["reason"] for line in reasons} == {"timed out"}


@pytest.mark.parametrize("groups", [1, 3])
def test_a_lost_engine_loses_no_record(answer, tmp_path, groups):
    with pytest.raises(EngineError, match="the engine is gone"):
        answer(Flaky(gone=2), "run", group=3, groups=groups)
    assert len(records_of(tmp_path / "run")) == 2 * 3
    sound = answer(ScriptedEngine(adding), "sound", group=3)
    assert answer(ScriptedEngine(adding), "run", group=3) == sound


def test_a_run_in_which_all_failed_has_no_accuracy(answer, tmp_path):
    with pytest.raises(ValueError, match="no problem could be answered: timed out"):
        answer(Flaky(""), "run")
    assert not (tmp_path / "run/summary.json").exists()


def test_a_question_that_fills_the_context_has_failed(answer, tmp_path):
    class Narrow(ScriptedEngine):
        context = 6

    with pytest.raises(ValueError, match="a prompt of 6 tokens fills the model's 6"):
        answer(Narrow(adding), "run")
    assert records_of(tmp_path / "run") == []


def test_examples_never_come_from_the_problems_themselves(answer):
    with pytest.raises(ValueError, match="shots need shots_data"):
        answer(ScriptedEngine(adding), "run", shots=2)


# ------------------------------------------------------------------------------ threads


def test_jobs_run_at_once_and_come_as_they_are_done():
    together = threading.Barrier(3)

    def work(job: int) -> int:
        together.wait(30)
        time.sleep(0.05 * job)
        return job

    assert list(in_threads(work, [2, 1, 0], 3)) == [0, 1, 2]
    assert list(in_threads(lambda job: -job, [2, 1, 0], 1)) == [-2, -1, 0]


def test_an_error_stops_what_has_not_begun_and_keeps_what_had():
    begun = []
    together = threading.Barrier(2)

    def work(job: int) -> int:
        begun.append(job)
        if job < 2:
            together.wait(30)
        if job == 0:
            raise EngineError("gone")
        time.sleep(0.2)
        return job

    found = []
    with pytest.raises(EngineError, match="gone"):
        for result in in_threads(work, range(50), 2):
            found.append(result)
    assert 1 in found and len(begun) < 10 and sorted([0, *found]) == sorted(begun)


# ------------------------------------------------------------------------------ two models


def test_two_models_on_one_card_leave_each_other_room(monkeypatch):
    sizes = {"small": 1.5e9, "large": 7.6e9}
    monkeypatch.setattr(models, "count_parameters", lambda name: sizes.get(str(name)))
    small, large = Loaded("small", "vllm", {"max_batch": 3}), Loaded("large", "vllm", {})
    for lm, scorer in ((small, large), (large, small)):
        shared = share_card(lm, scorer)
        for before, after in zip((lm, scorer), shared, strict=True):
            room = 24e9 * after.options["gpu_memory_utilization"]  # of the smallest cards in use
            assert room > 2 * sizes[before.name] + 1e9
            assert after.options.items() >= before.options.items()
        assert sum(one.options["gpu_memory_utilization"] for one in shared) == pytest.approx(0.9)
    unknown = share_card(small, Loaded("elsewhere", "vllm", {}))
    assert [one.options["gpu_memory_utilization"] for one in unknown] == [0.45, 0.45]
    said = large._replace(options={"gpu_memory_utilization": 0.2})
    assert share_card(small, said)[1] == said
    here = Loaded("large", "transformers", {})
    assert share_card(here, here) == (here, here)
    assert share_card(small, here)[1] == here
    judge = Loaded("critique", "vllm", {})
    assert share_card(small, judge) == (small, judge), "the model judges itself: there is no other"


def test_models_on_different_cards_have_one_each(monkeypatch):
    monkeypatch.setattr(models, "count_parameters", lambda name: None)
    lm = Loaded("lm", "vllm", {})
    for scorer in (
        Loaded("prm", "vllm", {"device_ids": [1]}),
        Loaded("prm", "transformers", {"device": "cuda:1"}),
        Loaded("prm", "transformers", {"device": "cpu"}),
    ):
        assert share_card(lm, scorer) == (lm, scorer)
    wide = Loaded("lm", "vllm", {"tensor_parallel_size": 2})
    assert share_card(wide, Loaded("prm", "vllm", {"device_ids": [1]}))[0] != wide


def test_a_part_of_a_card_is_what_models_divide(monkeypatch):
    monkeypatch.setattr(models, "count_parameters", lambda name: None)

    def taken(*scorer: Any, gpus: float) -> list[float | None]:
        both = side_by_side("lm", "vllm", {}, *(scorer or (None, None, None)), gpus)
        return [one and one.options.get("gpu_memory_utilization") for one in both]

    assert taken(gpus=0.5) == [0.45, None]
    assert taken("some/prm", "vllm", {}, gpus=0.5) == [0.225, 0.225]
    assert taken("critique", "vllm", {}, gpus=0.5) == [0.45, None]
    assert taken(gpus=0) == taken(gpus=1) == taken(gpus=2) == [None, None]


def test_what_models_claim_of_the_cards():
    lm, small = Loaded("lm", "vllm", {}), Loaded("lm", "transformers", {})
    assert claim_of(lm, None) == claim_of(lm, Loaded("critique", "vllm", {})) == Claim(1, True)
    assert claim_of(lm, lm._replace(options={"device_ids": [1]})) == Claim(2, True)
    assert claim_of(lm._replace(options={"tensor_parallel_size": 4}), small) == Claim(4, True)
    assert claim_of(small, small) == Claim(1, False)
    assert claim_of(small._replace(options={"device": "cpu"}), None) == Claim(0, False)
    assert claim_of(Loaded("lm", "openai", {}), None) == Claim(0, False)
