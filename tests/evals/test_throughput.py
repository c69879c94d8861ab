"""What `python -m evals.throughput` reports, by a clock that only the engine moves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from evals import throughput as module
from evals.runner import Crew, Local
from evals.throughput import _spread, throughput
from reasoning.engines import ScriptedEngine
from reasoning.strategies import best_of_n, greedy, tree_of_thoughts
from reasoning.tasks import Generated, Problem
from tests.language import adding

QUESTIONS = ["3+4+5", "10+20+1", "1+2+3", "7+7+7", "1+1+1", "2+2+2"]


def voting(text: str) -> list[tuple[str, float]]:
    """`adding`, which votes for the first of several choices where it is asked."""
    return [("The best choice is 1.\0", 1.0)] if "best choice" in text else adding(text)


class Ticking(ScriptedEngine):
    """A call takes a second, and a hundredth more for each request."""

    def __init__(self) -> None:
        super().__init__(voting)
        self.now = 0.0

    def generate(self, requests):
        self.now += 1 + len(requests) / 100
        return super().generate(requests)

    def perf_counter(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return 0


@pytest.fixture
def measure(monkeypatch):
    def measure(strategy, **options):
        engine = Ticking()
        monkeypatch.setattr(module, "load_lm", lambda _: engine)
        problems = [Problem(q, q, "0") for q in QUESTIONS]
        monkeypatch.setattr(Generated, "load", lambda *_, **__: problems)
        monkeypatch.setattr(module, "time", engine)
        return throughput(strategy=strategy, rounds=2, say=lambda line: None, **options)

    return measure


@pytest.mark.parametrize(("strategy", "n"), [(greedy(), 1), (best_of_n(n=4), 4)])
def test_a_strategy_of_one_call_is_the_bare_engine(measure, strategy, n):
    result = measure(strategy, alone=3)
    assert result["share_of_bare"] == pytest.approx(1)
    together, singly = 1 + 6 * n / 100, 1 + n / 100
    assert result["times_one_at_a_time"] == pytest.approx(6 * singly / together)
    assert result["problems_per_hour"] == pytest.approx(3600 * 6 / together)
    assert result["fill"] == 1


def test_every_step_of_a_search_costs_a_call_that_the_bare_engine_does_not_make(measure, tmp_path):
    strategy = tree_of_thoughts(width=1, expand=1, depth=9)
    result = measure(strategy, alone=6, out=tmp_path / "result.json")
    (first, second) = result["rounds"]
    calls = 3  # of a question with two sums and an answer
    assert first["together"] >= calls + calls * 6 / 100
    assert 1 < first["bare"] < 1 + 9 * 6 / 100
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert first["tokens"] != second["tokens"], "other draws"


def test_a_judge_asks_the_engine_that_is_timed(measure):
    """Its requests are among those that the bare engine is given."""
    without = measure(tree_of_thoughts(width=2, expand=2, depth=3), alone=3)
    judged = measure(tree_of_thoughts(width=2, expand=2, depth=3), alone=3, scorer="votes")
    for one, other in zip(without["rounds"], judged["rounds"], strict=True):
        assert other["together"] > one["together"] and other["bare"] > one["bare"]


def test_workers_answer_an_equal_part_each_with_an_engine_of_their_own(tmp_path):
    result = throughput(
        strategy=best_of_n(n=2),
        limit=4,
        alone=1,
        rounds=1,
        workers=2,
        say=lambda line: None,
    )
    (only,) = result["rounds"]
    assert result["problems_per_hour_of_workers"] == pytest.approx(3600 * 4 / only["spread"])
    assert result["workers_times_one_at_a_time"] == pytest.approx(
        4 * only["alone"] / only["spread"]
    )


def test_a_lost_worker_spoils_the_measurement(tmp_path):
    """The one that takes its place would be timed while it loads its models."""
    with Crew(runner=Local(workers=2)) as crew, pytest.raises(OSError, match="a worker was lost"):
        _spread(crew, Dying(tmp_path / "died"), [Problem(q, q, "0") for q in QUESTIONS])


class Dying(NamedTuple):
    """A share whose worker ends the first time."""

    mark: Path

    def __call__(self, store, batch, kept, say):
        with contextlib.suppress(FileExistsError):
            self.mark.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        for problem in batch:
            store.append(problem.id, {})


def test_the_file_is_made_sure_of_before_anything_is_measured(measure, tmp_path, monkeypatch):
    measure(greedy(), out=tmp_path / "new" / "folder" / "t.json")
    assert (tmp_path / "new" / "folder" / "t.json").exists()
    monkeypatch.setattr(module, "_round", None)
    with pytest.raises(OSError, match=r"cannot write .*new: it is a folder: name a file"):
        measure(greedy(), out=tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*t.json: "):
        measure(greedy(), out=tmp_path / "file" / "t.json")


def test_senseless_numbers_are_told(measure):
    with pytest.raises(ValueError, match="9 workers need as many problems, and there are 6"):
        measure(greedy(), workers=9)
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        throughput(strategy=greedy(), rounds=0)
