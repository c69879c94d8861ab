"""The real vLLM, in a process beside this one and as a server on loopback.

Run where vLLM is installed: `pytest -m vllm`. An engine takes half a minute to load, so that all
tests share one, and one server.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from reasoning.embedded import folder_of
from reasoning.engines import (
    EngineError,
    Request,
    Sampling,
    ScoreRequest,
    TransformersEngine,
    load_engine,
)
from reasoning.reasoner import Reasoner
from reasoning.strategies import mcts
from reasoning.tasks import generate_problems

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
pytest.importorskip("vllm")
MODEL = folder_of("embedded", "lm")
QUESTIONS = [problem.question for problem in generate_problems("test", 6, (2, 4), 0)]


@pytest.fixture(scope="module", autouse=True)
def small_cache():
    """A key-value cache of one GiB on the CPU, and no questions to the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def here():
    return TransformersEngine(MODEL, device="cpu")


@pytest.fixture(scope="module")
def beside(small_cache):
    engine = load_engine(MODEL, "vllm", {"dtype": "float32"})
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(small_cache, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    # Not `vllm serve`: that looks up the version of `vllm`, which `vllm-cpu` has not installed.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL]
    options = ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options, "--no-enable-chunked-prefill"],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError:
            time.sleep(0.5)
    yield process, f"http://127.0.0.1:{port}/v1"
    kill(process)


@pytest.fixture(params=["beside", "over HTTP"])
def engine(request):
    if request.param == "beside":
        return request.getfixturevalue("beside")
    _, url = request.getfixturevalue("server")
    return load_engine(MODEL, "openai", {"url": url})


def kill(process: subprocess.Popen[bytes]) -> None:
    """The server and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def requests_of(engine, temperature: float) -> list[Request]:
    prompts = [engine.encode_prompt(question) for question in QUESTIONS]
    return [
        Request(prompt, length, temperature, seed, stop)
        for seed, prompt in enumerate(prompts)
        for length, stop in [(200, ()), (200, ("\n",)), (200, ("has", ">>")), (7, ())]
    ]


def logprobs_of(here, tokens):
    with torch.inference_mode():
        return here.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_greedy_completions_are_those_of_transformers(engine, here):
    requests = requests_of(here, 0.0)
    ours, theirs = engine.generate(requests), here.generate(requests)
    assert {completion.finish for completion in theirs} == {"stop", "eos", "length"}
    for one, other in zip(ours, theirs, strict=True):
        assert (one.tokens, one.finish) == (other.tokens, other.finish)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_logprobs_of_heated_samples_are_those_at_temperature_one(engine, here):
    requests = requests_of(here, 1.4)
    texts = set()
    for request, made in zip(requests, engine.generate(requests), strict=True):
        table = logprobs_of(here, request.tokens + made.tokens)[len(request.tokens) - 1 :]
        wanted = [table[i, token].item() for i, token in enumerate(made.tokens)]
        if made.finish == "eos":
            wanted.append(table[len(made.tokens), min(here.ends)].item())
        assert made.logprobs == pytest.approx(wanted, abs=1e-3)
        said = engine.decode(made.tokens)
        if made.finish == "stop":
            before = engine.decode(made.tokens[:-1])
            assert any(s in said for s in request.stop)
            assert not any(s in before for s in request.stop)
        texts.add(said)
    assert len(texts) > len(QUESTIONS)


def test_tokens_that_are_left_out_are_not_drawn(engine, here):
    prompt = here.encode_prompt(QUESTIONS[0])
    (greedy,) = engine.generate([Request(prompt, 20, 0.0, 0)])
    for asked in (Sampling(2.0, top_k=1), Sampling(2.0, top_p=1e-6), Sampling(2.0, min_p=1.0)):
        (made,) = engine.generate([asked.request(prompt, 20, 1)])
        assert made.tokens == greedy.tokens
        assert made.logprobs == pytest.approx(greedy.logprobs, abs=1e-3)


def test_a_seed_decides_a_sample(engine, here):
    prompt = here.encode_prompt(QUESTIONS[0])

    def draw():
        return [engine.generate([Request(prompt, 40, 1.5, seed)])[0].tokens for seed in range(6)]

    draw()  # computes the prompt; from here on it is read from the cache, and rounds alike
    drawn = draw()
    assert drawn == draw() and len(set(drawn)) > 1  # the model is nearly sure of this one


def test_scores_are_those_of_transformers(engine, here):
    options = here.encode("1") + here.encode("2") + here.encode("\n")
    requests = [
        ScoreRequest(tokens, (3, len(tokens) // 2, len(tokens) - 1), options)
        for tokens in map(here.encode_prompt, QUESTIONS)
    ]
    long = tuple(3 + i % 1000 for i in range(engine.context))
    requests.append(ScoreRequest(long, (0, len(long) - 1), options[:2]))
    for ours, theirs in zip(engine.score(requests), here.score(requests), strict=True):
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-3, rtol=0)


def test_what_does_not_fit_is_refused_here(engine):
    with pytest.raises(ValueError, match=f"do not fit in the {engine.context} tokens"):
        engine.generate([Request((5,) * 20, engine.context, 0.0, 0)])
    with pytest.raises(ValueError, match="to score does not fit"):
        engine.score([ScoreRequest((5,) * (engine.context + 1), (1,), (2, 3))])


def test_what_vllm_refuses_has_failed_alone(engine, here):
    fine = Request(here.encode_prompt(QUESTIONS[0]), 5, 0.0, 0)
    unknown = fine._replace(tokens=(*fine.tokens, 10**6))
    good, bad = engine.generate([fine, unknown])
    assert good == engine.generate([fine])[0]._replace(prefilled=good.prefilled)
    assert (bad.tokens, bad.finish) == ((), "failed") and "vocabulary" in bad.reason
    asked = [ScoreRequest(r.tokens, (len(r.tokens) - 1,), (5, 6)) for r in (unknown, fine)]
    bad_score, good_score = engine.score(asked)
    assert bad_score.logprobs.isnan().all() and good_score.logprobs.exp().sum() == pytest.approx(1)


def test_a_temperature_that_vllm_does_not_know_is_told(beside, here):
    with pytest.raises(ValueError, match="temperature must be in"):
        beside.generate(requests_of(here, 3.0))


def test_a_prompt_is_computed_once(beside, here):
    # No other test begins a question like this, so no block of it is in the cache.
    prompt = here.encode_prompt(" And then: ".join(["Then what?", *QUESTIONS]))
    first, second = (beside.generate([Request(prompt, 5, 1.0, s)])[0] for s in (1, 2))
    assert first.prefilled == len(prompt) > 256
    assert 0 < second.prefilled <= 128, "all but a block"


def test_threads_share_the_batch(beside, here):
    requests = requests_of(here, 0.0)
    before = beside.fill
    with ThreadPoolExecutor(len(requests)) as pool:
        made = list(pool.map(lambda request: beside.generate([request])[0], requests))
    assert [c.tokens for c in made] == [c.tokens for c in here.generate(requests)]
    fill = beside.fill.since(before)
    together = fill.computed / (fill.possible / beside.max_batch)
    assert together > 2, "sequences a step"


def test_a_search_is_the_same_tree_as_on_transformers(engine, here):
    """At temperature 0 no draw is needed, and rounding alone could tell them apart."""
    strategy = mcts(simulations=4, candidates=2, temperature=0.0)
    ours, theirs = (
        Reasoner(engine=e, strategy=strategy, max_tokens=60).plan(QUESTIONS) for e in (engine, here)
    )
    assert [t.text for t in ours.final] == [t.text for t in theirs.final]
    assert ours.cost.tokens.decoded.tolist() == theirs.cost.tokens.decoded.tolist()


def test_a_killed_server_is_an_engine_that_is_gone(server, here):
    process, url = server
    engine = load_engine(MODEL, "openai", {"url": url, "retries": 1, "wait": 0.1})
    requests = [r._replace(max_tokens=800, stop=()) for r in requests_of(here, 2.0)] * 10
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.generate, requests)
        time.sleep(0.5)
        kill(process)
        with pytest.raises(EngineError, match="cannot be reached"):
            answer.result()


def test_a_killed_engine_is_told_to_all_who_wait_and_come_later(beside, here):
    requests = [r._replace(max_tokens=800, stop=()) for r in requests_of(here, 2.0)]
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(beside.generate, requests) for _ in range(2)]
        time.sleep(0.5)
        for child in multiprocessing.active_children():
            child.kill()
        for answer in answers:
            with pytest.raises(EngineError, match="is gone"):
                answer.result(timeout=120)
    with pytest.raises(EngineError, match="is gone"):
        beside.generate(requests)


def test_a_context_is_as_long_as_the_cache_has_room_for(small_cache):
    """By the model's own, vLLM would refuse to begin where memory is short."""
    engine = load_engine(MODEL, "vllm", {"num_gpu_blocks_override": 5})
    try:
        assert engine.context == 4 * 32 - 1, "a block is vLLM's own"
        full = ScoreRequest((5,) * engine.context, (engine.context - 1,), (5, 6))
        assert all(score.logprobs.isfinite().all() for score in engine.score([full, full]))
        with pytest.raises(ValueError, match="do not fit in the 127 tokens"):
            engine.generate([Request(full.tokens, 1, 1.0, 0)])
    finally:
        engine.close()


WITHIN = """
import os
import torch
from reasoning.embedded import folder_of
from reasoning.engines import Request, load_engine

if __name__ == "__main__":
    settings, limiting = dict(os.environ), torch.set_num_threads
    model = folder_of("embedded", "lm")
    engine = load_engine(model, "vllm", {"own_process": False})
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND"):
        assert os.environ.get(name) == settings.get(name)
    assert torch.set_num_threads is limiting
    assert not __import__("multiprocessing").active_children()
    try:
        load_engine(model, "vllm", {"own_process": False})
    except ValueError as error:
        print(error)
    engine.close()
    engine = load_engine(model, "vllm", {"own_process": False})
    request = Request(engine.encode_prompt(QUESTION), 30, 0.0, 0, ())
    print(engine.generate([request])[0].tokens)
    engine.close()
"""


def test_a_process_runs_one_engine_at_a_time_within_itself(small_cache, here, tmp_path):
    script = tmp_path / "within.py"
    script.write_text(WITHIN.replace("QUESTION", repr(QUESTIONS[0])))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    refused, tokens = ran.stdout.splitlines()[-2:]
    request = Request(here.encode_prompt(QUESTIONS[0]), 30, 0.0, 0, ())
    assert tokens == str(here.generate([request])[0].tokens)
    assert refused == f"own_process=false: vLLM cannot run in a process that runs {MODEL} already"


def test_no_engine_runs_in_a_process_that_has_loaded_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    with pytest.raises(ValueError, match="vLLM cannot run in a process that has loaded Numba"):
        load_engine(MODEL, "vllm", {"own_process": False})


HOLDS = """
import time
from multiprocessing import active_children
from reasoning.embedded import folder_of
from reasoning.engines import load_engine

def below(process):
    return [process, *(p for c in children_of(process) for p in below(c))]

def children_of(process):
    with open(f"/proc/{process}/task/{process}/children") as file:
        return map(int, file.read().split())

if __name__ == "__main__":
    engine = load_engine(folder_of("embedded", "lm"), "vllm")
    print(*(process for child in active_children() for process in below(child.pid)), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes")
def test_an_engines_processes_end_with_a_killed_owner(small_cache, tmp_path):
    """Else they would hold the card, and the engine made in place of theirs would find no room."""
    script = tmp_path / "holds.py"
    script.write_text(HOLDS)
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    others = [int(number) for number in owner.stdout.readline().split()]
    assert len(others) > 1 and all(map(runs, others)), "vLLM's core and its worker"
    owner.kill()
    owner.wait()
    until = time.monotonic() + 10
    while (left := [process for process in others if runs(process)]) and time.monotonic() < until:
        time.sleep(0.1)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
