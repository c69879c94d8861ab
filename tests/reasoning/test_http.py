"""Servers that speak OpenAI's protocol, and all that can go wrong with them."""

from __future__ import annotations

import math

import pytest
import torch

from reasoning.engines import (
    EngineError,
    Request,
    Sampling,
    ScoreRequest,
    TransformersEngine,
    load_engine,
)
from reasoning.engines.http import Client
from reasoning.engines.openai import ChatEngine, OpenAIEngine, cut, spread
from tests.language import save_tiny_model
from tests.reasoning.servers import serving

QUICK = {"wait": 0.001, "retries": 3, "timeout": 20.0}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    ends = range(10, 400, 40)
    folder = save_tiny_model(tmp_path_factory.mktemp("lm"), ends=ends)
    return TransformersEngine(folder, device="cpu")


def echo(path, body):
    return {"echo": body["n"]}


def like_vllm(engine):
    """Answers as vLLM does: token ids in, token ids out."""

    def answer(path, body):
        tokens = tuple(body["prompt"])
        if "logprob_token_ids" in body:
            options = tuple(body["logprob_token_ids"])
            (scores,) = engine.score([ScoreRequest(tokens, (len(tokens) - 1,), options)])
            scores = scores.logprobs
            names = [f"token_id:{option}" for option in options]
            table = dict(zip(names, scores[0].tolist(), strict=True))
            choice = {"logprobs": {"top_logprobs": [table]}, "finish_reason": "length"}
            return {"choices": [choice]}
        stop = tuple(body.get("stop", ()))
        assert body["return_token_ids"] and body["include_stop_str_in_output"]
        assert body["repetition_penalty"] == 1, "the model's own default would sample otherwise"
        asked = Sampling(body["temperature"], body["top_p"], body["top_k"] or None, body["min_p"])
        (made,) = engine.generate([asked.request(tokens, body["max_tokens"], body["seed"], stop)])
        end = [min(engine.ends)] if made.finish == "eos" else []
        choice = {
            "token_ids": [*made.tokens, *end],
            "finish_reason": "length" if made.finish == "length" else "stop",
            "stop_reason": stop[0] if made.finish == "stop" else None,
            "logprobs": {"token_logprobs": list(made.logprobs)},
        }
        return {"choices": [choice], "usage": {"prompt_tokens_details": {"cached_tokens": 2}}}

    return answer


def vllm_card(engine):
    return {"id": engine.name, "owned_by": "vllm", "max_model_len": engine.context + 1}


# ------------------------------------------------------------------------------ the client


def test_answers_come_in_order_and_connections_are_kept():
    with serving(echo) as server:
        client = Client(server.url, key="sesame", **QUICK, concurrency=8)
        for _ in range(3):
            answers = client.post("/completions", [{"n": n} for n in range(40)])
            assert answers == [{"echo": n} for n in range(40)]
        assert server.keys == {"Bearer sesame"}
        assert 0 < client.fill.ratio <= 1 and client.fill.possible == 3 * 40 * 8
        client.close()


@pytest.mark.parametrize("fault", [429, 500, 503, "hang up", "garbage"])
def test_what_may_pass_is_tried_again(fault):
    with serving(echo) as server:
        server.faults = [fault] * 3
        client = Client(server.url, **QUICK)
        assert client.post("/completions", [{"n": 1}]) == [{"echo": 1}]
        assert len(server.bodies) == 4
        server.faults = [fault] * 4
        ((reason,),) = client.post("/completions", [{"n": 1}])
        assert reason.startswith("4 tries came to nothing, the last one: ")


def test_a_silent_server_is_not_waited_for_for_ever():
    with serving(echo) as server:
        server.faults = ["sleep"]
        client = Client(server.url, wait=0.001, retries=1, timeout=0.2)
        assert client.post("/completions", [{"n": 1}]) == [{"echo": 1}]
        server.faults = ["sleep", "sleep"]
        ((reason,),) = client.post("/completions", [{"n": 1}])
        assert reason.endswith("timed out")


def test_a_refused_request_is_not_tried_again_and_fails_alone():
    with serving(echo) as server:
        server.faults = [400]
        client = Client(server.url, **QUICK, concurrency=1)
        refused, fine = client.post("/completions", [{"n": 1}, {"n": 2}])
        assert refused == ("the server refused it (400): no 400 today",)
        assert fine == {"echo": 2} and len(server.bodies) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_wants_none_of_it_is_told_at_once(status):
    with serving(echo) as server:
        server.faults = [status] * 2
        client = Client(server.url, **QUICK, concurrency=1)
        with pytest.raises(EngineError, match=f"answered {status}: no {status} today"):
            client.post("/completions", [{"n": 1}])
        assert len(server.bodies) == 1


def test_a_server_says_how_long_to_wait():
    with serving(echo) as server:
        server.faults, server.headers = [429], {"Retry-After": "1"}
        client = Client(server.url, **QUICK)
        client._jitter.uniform = lambda low, high: 0.0  # type: ignore[method-assign]
        assert client._exchange("POST", "/completions", b'{"n": 1}')[:2] == (429, 1.0)


def test_a_dead_server_is_an_engine_that_is_gone():
    with serving(echo) as server:
        client = Client(server.url, **QUICK)
        assert client.post("/completions", [{"n": 1}]) == [{"echo": 1}]
    with pytest.raises(EngineError, match="cannot be reached"):
        client.post("/completions", [{"n": 1}, {"n": 2}])
    with pytest.raises(EngineError, match="cannot be reached"):
        load_engine("any", "chat", {"url": server.url, **QUICK})


@pytest.mark.parametrize("data", [b"", b"<html>Welcome</html>", b"[]", b"\xff"])
def test_a_server_of_something_else_is_told(data, monkeypatch):
    client = Client("http://localhost:1/v1", **QUICK)
    monkeypatch.setattr(client, "_exchange", lambda *_: (200, 0.0, data))
    with pytest.raises(EngineError, match="/v1/models answered with no JSON object"):
        client.get("/models")


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="url must be like http://localhost:8000/v1, not 'host'"):
        Client("host")
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        Client("http://host/v1", concurrency=0)


# ------------------------------------------------------------------------------ token ids


def requests_of(engine):
    prompts = [engine.encode_prompt(question) for question in ("1+2", "3+4+5", "How many?")]
    return [
        Request(prompt, length, temperature, seed, stop)
        for seed, prompt in enumerate(prompts)
        for length, temperature, stop in [(90, 0.0, ()), (40, 1.0, ("e", "1", "a")), (4, 1.2, ())]
    ] + [Sampling(1.2, 0.9, 10, 0.01).request(prompts[0], 20, seed) for seed in range(2)]


def test_a_server_of_token_ids_loses_nothing(local):
    requests = requests_of(local)
    wanted = local.generate(requests)
    assert {completion.finish for completion in wanted} == {"stop", "eos", "length"}
    with serving(like_vllm(local), vllm_card(local)) as server:
        engine = OpenAIEngine(local.name, url=server.url, concurrency=1, **QUICK)
        assert engine.ids and engine.context == local.context
        server.faults = [500, "hang up", "garbage"]
        for one, other, request in zip(engine.generate(requests), wanted, requests, strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
            assert one.prefilled == len(request.tokens) - 2, "the server says what it had cached"
        options = engine.encode("1") + engine.encode("+") + engine.encode("e")
        asked = [ScoreRequest(r.tokens, (2, len(r.tokens) - 1), options) for r in requests[::3]]
        for ours, theirs in zip(engine.score(asked), local.score(asked), strict=True):
            torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-4, rtol=1e-4)


def test_what_a_server_refuses_has_failed_and_the_others_have_not(local):
    with serving(like_vllm(local), vllm_card(local)) as server:
        engine = OpenAIEngine(local.name, url=server.url, concurrency=1, **QUICK)
        server.faults = [400]
        requests = requests_of(local)[:2]
        bad, good = engine.generate(requests)
        assert (bad.tokens, bad.finish) == ((), "failed") and "(400): no 400 today" in bad.reason
        assert good.finish != "failed"
        server.faults = [400]
        text = requests[0].tokens
        bad_score, good_score = engine.score([ScoreRequest(text, (3,), (40, 41))] * 2)
        assert bad_score.logprobs.isnan().all() and bad_score.read == 0
        assert good_score.logprobs.exp().sum() == pytest.approx(1)


def test_an_answer_of_another_kind_has_failed(local):
    with serving(lambda path, body: {"choices": [{}]}, vllm_card(local)) as server:
        engine = OpenAIEngine(local.name, url=server.url, **QUICK)
        (completion,) = engine.generate(requests_of(local)[:1])
        assert completion.finish == "failed" and "without what was asked for" in completion.reason


def test_a_request_beyond_the_context_is_refused_here(local):
    with serving(like_vllm(local), vllm_card(local)) as server:
        engine = OpenAIEngine(local.name, url=server.url, **QUICK)
        with pytest.raises(ValueError, match="do not fit in the 256"):
            engine.generate([Request((5, 6), engine.context, 0.0, 0)])
        assert not server.bodies


# ------------------------------------------------------------------------------ text


def test_a_server_of_texts_gets_and_gives_texts(local):
    said = {"text": "12 eggs\n#### 12", "finish_reason": "stop"}
    pieces = ["12", " eggs", "\n", "#### ", "12"]
    said["logprobs"] = {"tokens": pieces, "token_logprobs": [-1.0, -2.0, -0.5, -0.25, -4.0]}
    with serving(lambda path, body: {"choices": [said]}, {"id": "any"}) as server:
        engine = OpenAIEngine("any", url=server.url, tokenizer=local.name, **QUICK)
        assert not engine.ids
        prompt = engine.encode_prompt("How many?")
        whole, step = engine.generate(
            [Request(prompt, 50, 1.0, 3), Sampling(1.0, 0.9, 7).request(prompt, 50, 3, ("\n",))]
        )
    assert server.bodies[0]["prompt"] == "Question: How many?\nAnswer:\n"
    asked = [[body.get(name) for name in ("top_p", "top_k", "min_p")] for body in server.bodies]
    assert sorted(asked, key=str) == [[0.9, 7, None], [1.0, None, None]]
    assert all("stop" not in body for body in server.bodies)
    assert (engine.decode(whole.tokens), whole.finish) == ("12 eggs\n#### 12", "eos")
    assert (engine.decode(step.tokens), step.finish) == ("12 eggs\n", "stop")
    assert whole.logprob == pytest.approx(-7.75) and step.logprob == pytest.approx(-3.5)
    assert (whole.prefilled, step.prefilled) == (len(prompt), 0)


def test_what_is_cut_and_what_is_spread():
    assert cut("a\nb\n", ("\n", "b"), "length") == ("a\n", "stop")
    assert cut("ab", ("\n",), "length") == ("ab", "length")
    assert cut("ab", (), "stop") == ("ab", "eos")
    assert cut("ab", (), "content_filter") == ("ab", "failed")
    assert spread("ab", 2, ["a", "b", "c"], [-1.0, -2.0, -9.0]) == (-1.0, -2.0)
    assert spread("abc", 2, ["a", "b", "c"], [-1.0, -2.0, -3.0]) == (-3.0, -3.0)
    assert all(map(math.isnan, spread("ab", 2, None, None)))
    assert spread("", 0, [], []) == ()


# ------------------------------------------------------------------------------ chat


def test_a_chat_server_gets_turns_and_goes_on_from_a_step():
    said = {"message": {"content": "It is 7.\n#### 7"}, "finish_reason": "stop"}
    with serving(lambda path, body: {"choices": [said]}) as server:
        engine = ChatEngine(
            "gpt", url=server.url, instruction="Think.", limit="max_completion_tokens",
            more={"reasoning_effort": "low"}, concurrency=1, **QUICK,
        )  # fmt: skip
        prompt = engine.encode_prompt("3+4?")
        assert engine.decode(prompt) == "Think.\n\n3+4?"
        begun = prompt + engine.encode("Well,\n")
        whole, step = engine.generate(
            [Request(prompt, 50, 1.0, 3), Sampling(1.0, 0.9).request(begun, 50, 3, ("\n",))]
        )
    first, second = server.bodies
    assert "top_p" not in first and second["top_p"] == 0.9 and "top_k" not in second
    assert first["messages"] == [{"role": "user", "content": "Think.\n\n3+4?"}]
    assert first["max_completion_tokens"] == 50 and first["reasoning_effort"] == "low"
    assert "continue_final_message" not in first and second["continue_final_message"]
    assert second["messages"][-1] == {"role": "assistant", "content": "Well,\n"}
    assert (engine.decode(whole.tokens), whole.finish) == ("It is 7.\n#### 7", "eos")
    assert (engine.decode(step.tokens), step.finish) == ("It is 7.\n", "stop")
    assert math.isnan(whole.logprob)
    assert engine.score([]) == []
    with pytest.raises(ValueError, match="a chat API cannot score"):
        engine.score([ScoreRequest(prompt, (1,), (2, 3))])
