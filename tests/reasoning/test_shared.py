"""One engine under many threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reasoning.embedded import folder_of
from reasoning.engines import (
    EngineError,
    Fill,
    Request,
    ScoreRequest,
    ScriptedEngine,
    Shared,
    load_engine,
)
from tests.language import adding


class Slow(ScriptedEngine):
    """Computes its first batch only when told to; notes the sizes of all."""

    context = 100

    def __init__(self) -> None:
        super().__init__(adding)
        self.sizes: list[int] = []
        self.inside = 0
        self.begun, self.go = threading.Event(), threading.Event()

    def generate(self, requests):
        self.inside += 1
        assert self.inside == 1, "one batch at a time"
        self.sizes.append(len(requests))
        self.begun.set()
        assert self.go.wait(30)
        self.inside -= 1
        if any(request.max_tokens > self.context for request in requests):
            raise ValueError("too long")
        if any(request.temperature > 5 for request in requests):
            raise EngineError("gone")
        return super().generate(requests)


def request(question: str, seed: int = 0, **changes) -> Request:
    tokens = tuple(map(ord, question + "\n"))
    return Request(tokens, 20, 1.0, seed, ("\n",))._replace(**changes)


def called_together(calls):
    """Each call from a thread of its own, all but the first while the first is being computed."""
    slow = Slow()
    shared = Shared(slow)
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(shared.generate, calls[0])]
        assert slow.begun.wait(30)
        futures += [pool.submit(shared.generate, call) for call in calls[1:]]
        while sum(map(len, shared._waiting.values())) < len(calls) - 1:
            threading.Event().wait(0.001)
        slow.go.set()
    return futures, slow


def test_calls_that_wait_become_one_batch_and_each_gets_its_own():
    calls = [[request("3+4", 10 * i + j) for j in range(i + 1)] for i in range(5)]
    futures, slow = called_together(calls)
    assert slow.sizes == [1, 2 + 3 + 4 + 5]
    for call, future in zip(calls, futures, strict=True):
        alone = ScriptedEngine(adding).generate(call)
        assert [c.tokens for c in future.result()] == [c.tokens for c in alone]


def test_a_refused_call_takes_no_other_with_it():
    bad = [request("3+4", max_tokens=1000)]
    futures, _ = called_together([[request("1+2")], [request("3+4")], bad, [request("5+6")]])
    assert [type(future.exception()) for future in futures] == [
        type(None), type(None), ValueError, type(None),
    ]  # fmt: skip


def test_a_lost_engine_is_told_to_all():
    gone = [request("3+4", temperature=9.0)]
    futures, _ = called_together([[request("1+2")], [request("3+4")], gone])
    assert [type(future.exception()) for future in futures] == [
        type(None), EngineError, EngineError,
    ]  # fmt: skip


def test_scores_and_fill_pass_through():
    engine = ScriptedEngine(adding, lambda text, option: ord(option))
    shared = Shared(engine)
    asked = [ScoreRequest((65, 66), (0, 1), (65, 66))]
    assert shared.score(asked)[0].logprobs.tolist() == engine.score(asked)[0].logprobs.tolist()
    assert shared.fill == Fill(2, 2) and shared.fill.ratio == 1
    assert shared.script is adding


def test_nothing_is_asked_of_a_closed_engine():
    shared = Shared(ScriptedEngine(adding))
    shared.close()
    with pytest.raises(EngineError, match="closed"):
        shared.generate([request("3+4")])


def test_an_unknown_engine_or_option_is_told():
    with pytest.raises(ValueError, match=r"no engine 'vlm'; did you mean 'vllm'"):
        load_engine("embedded", "vlm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'transformers' has no such option: .*max_bach"):
        load_engine("embedded", "transformers", {"max_bach": 3})


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_told(device):
    with pytest.raises(ValueError, match=f"device={device} cannot be used here .*leave it out"):
        load_engine(folder_of("embedded"), options={"device": device})
