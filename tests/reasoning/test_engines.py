"""What every engine promises, on a tiny random model and on a script."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mbrl_core import generator
from reasoning.engines import (
    Completion,
    Engine,
    EngineError,
    Fill,
    Request,
    Sampling,
    ScoreRequest,
    ScriptedEngine,
    TransformersEngine,
    load_engine,
)
from reasoning.engines.cache import KEYWORD, RoomyLayer, make_cache
from reasoning.engines.prefixes import Prefixes
from reasoning.engines.transformers import _states, truncated
from tests.language import recite, save_tiny_model, scripted

TEMPLATE = "{% for m in messages %}<s>[{{ m.role }}] {{ m.content }}{% endfor %} [assistant] "
ENDS = tuple(range(10, 400, 12))
METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def ending_folder(tmp_path_factory):
    """A model whose texts soon end: one token in twelve is an end-of-text token."""
    return save_tiny_model(tmp_path_factory.mktemp("ending"), ends=ENDS, template=TEMPLATE)


@pytest.fixture
def engine(folder):
    return TransformersEngine(folder, device="cpu")


@pytest.fixture
def ending(ending_folder):
    return TransformersEngine(ending_folder, device="cpu")


@pytest.fixture(params=["transformers", "scripted"])
def any_engine(request) -> Engine:
    return scripted() if request.param == "scripted" else request.getfixturevalue("ending")


def prompts(engine: Engine) -> list[tuple[int, ...]]:
    questions = ["1+2", "11+12+13", "3+4+5+6", "70+80"]
    return [engine.encode_prompt(question) for question in questions]


def mixed_requests(engine: Engine) -> list[Request]:
    """Requests that differ in everything, equal prompts among them."""
    some = Sampling(1.3, top_p=0.9, top_k=20, min_p=0.01)
    return [
        *(some.request(prompt, 12, 50 + i) for i, prompt in enumerate(prompts(engine))),
        *_all_tokens(engine),
    ]


def _all_tokens(engine: Engine) -> list[Request]:
    """Those of `mixed_requests` that draw from all tokens."""
    return [
        Request(prompt, max_tokens, temperature, seed, stop)
        for seed, (prompt, max_tokens, temperature, stop) in enumerate(
            (prompt, max_tokens, temperature, stop)
            for prompt in prompts(engine)
            for max_tokens, temperature, stop in [
                (24, 0.0, ()),
                (9, 0.8, ("\n", "a", "1", "e ")),
                (24, 1.5, ()),
                (1, 1.0, ("=", "e")),
            ]
        )
    ]


def same(one: Completion, other: Completion) -> bool:
    """Equality of what was generated; who paid for a shared prompt depends on the batch."""
    return (one.tokens, one.finish) == (other.tokens, other.finish) and one.logprobs == (
        pytest.approx(other.logprobs, abs=1e-3)
    )


def logprobs_of(engine: TransformersEngine, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities [len(tokens), V] of what follows each token, by a plain forward."""
    with torch.inference_mode():
        return engine.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)


# ------------------------------------------------------------------------------ generating


def test_temperature_zero_is_the_librarys_greedy_search(ending):
    requests = [Request(prompt, 80, 0.0, 0) for prompt in prompts(ending)]
    for request, completion in zip(requests, ending.generate(requests), strict=True):
        ids = torch.tensor([request.tokens])
        out = ending.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False
        )
        theirs = out[0, len(request.tokens) :].tolist()
        ended = completion.finish == "eos"
        assert ended == (theirs[-1] in ending.ends)
        assert list(completion.tokens) == theirs[: len(theirs) - ended]


def test_a_completion_is_decided_by_its_request_alone(any_engine):
    requests = mixed_requests(any_engine)
    alone = [any_engine.generate([request])[0] for request in requests]
    assert {completion.finish for completion in alone} == {"stop", "eos", "length"}
    shuffled = random.Random(0).sample(range(len(requests)), len(requests))
    for order in (range(len(requests)), shuffled):
        together = any_engine.generate([requests[i] for i in order])
        assert all(same(c, alone[i]) for c, i in zip(together, order, strict=True))


def test_a_completion_does_not_depend_on_the_largest_batch(ending_folder, ending):
    requests = mixed_requests(ending)
    wide = ending.generate(requests)
    narrow = TransformersEngine(ending_folder, max_batch=3, device="cpu").generate(requests)
    assert all(map(same, wide, narrow))


def test_a_smaller_limit_cuts_the_same_completion(any_engine):
    for request in mixed_requests(any_engine)[::3]:
        longer = any_engine.generate([request._replace(max_tokens=40)])[0]
        for limit in (1, 5, 17):
            shorter = any_engine.generate([request._replace(max_tokens=limit)])[0]
            assert shorter.tokens == longer.tokens[:limit]
            if len(longer.tokens) > limit:
                assert shorter.finish == "length"


def test_other_seeds_give_other_completions(any_engine):
    prompt = prompts(any_engine)[2]
    drawn = any_engine.generate([Request(prompt, 30, 1.0, seed) for seed in range(8)])
    assert len({completion.tokens for completion in drawn}) > 2


def test_copies_of_a_prompt_pay_one_prefill(any_engine):
    distinct = prompts(any_engine)
    requests = [Request(p, 4, 1.0, i) for i, p in enumerate([*distinct, *distinct, *distinct])]
    prefilled = [completion.prefilled for completion in any_engine.generate(requests)]
    assert prefilled == [len(prompt) for prompt in distinct] + [0] * (2 * len(distinct))


@pytest.mark.parametrize(
    "stop",
    [(), ("\n",), ("15",), ("egg",), ("eggs\nso #",), ("#### 15", " = "), ("never", "é"), ("字",)],
    ids=lambda stop: repr(stop),
)
def test_a_stop_string_is_kept_and_its_first_occurrence_ends(engine, stop):
    prompt = engine.encode_prompt("How many?")
    tokens = recite(engine, prompt, "12 + 3 = 15 eggs\nso #### 15 é\n漢字")
    (completion,) = engine.generate([Request(prompt, 100, 0.0, 0, stop)])
    said = (engine.decode(tokens[:n]) for n in range(1, len(tokens) + 1))
    lengths = (n for n, text in enumerate(said, 1) if any(part in text for part in stop))
    assert completion.tokens == tokens[: next(lengths, len(tokens))]
    assert completion.finish == ("stop" if stop else "eos")


def test_a_scripted_stop_ends_within_a_continuation():
    engine = ScriptedEngine(lambda _: [("one\ntwo\nthree\0", 1.0)])
    (completion,) = engine.generate([Request((65,), 100, 0.0, 0, ("o\n", "\n"))])
    assert (engine.decode(completion.tokens), completion.finish) == ("one\n", "stop")


def test_finish_reasons(engine):
    prompt = engine.encode_prompt("How many?")
    tokens = recite(engine, prompt, "15 eggs\n")
    more, exact, fewer = (
        engine.generate([Request(prompt, len(tokens) + spare, 0.0, 0)])[0] for spare in (1, 0, -1)
    )
    assert (more.tokens, more.finish) == (tokens, "eos")
    assert len(more.logprobs) == len(tokens) + 1, "the end of a text is drawn too"
    assert (exact.tokens, exact.finish) == (tokens, "length")
    assert (fewer.tokens, fewer.finish) == (tokens[:-1], "length")


def test_logprobs_are_those_of_a_plain_forward(ending):
    requests = [Request(p, 30, 1.3, seed) for seed in range(3) for p in prompts(ending)]
    for request, completion in zip(requests, ending.generate(requests), strict=True):
        table = logprobs_of(ending, request.tokens + completion.tokens)[len(request.tokens) - 1 :]
        wanted = [table[i, token].item() for i, token in enumerate(completion.tokens)]
        assert completion.logprobs[: len(wanted)] == pytest.approx(wanted, abs=1e-3)
        assert len(completion.logprobs) == len(wanted) + (completion.finish == "eos")
        assert completion.logprob == pytest.approx(sum(completion.logprobs))


def test_samples_follow_the_distribution(folder):
    """Chi-square over the likeliest tokens and the rest; 12 degrees, 32.9 has probability 0.001."""
    engine = TransformersEngine(folder, max_batch=5000, device="cpu")
    prompt, number, temperature = prompts(engine)[1], 5000, 0.7
    drawn = engine.generate([Request(prompt, 1, temperature, seed) for seed in range(number)])
    first = torch.tensor([completion.tokens[0] if completion.tokens else 2 for completion in drawn])
    expected = (logprobs_of(engine, prompt)[-1] / temperature).softmax(0) * number
    top = expected.topk(12).indices
    seen = first.bincount(minlength=len(expected)).float()
    seen, expected = (torch.cat([x[top], (x.sum() - x[top].sum())[None]]) for x in (seen, expected))
    assert ((seen - expected) ** 2 / expected).sum() < 32.9


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_left_out_as_by_the_warpers_of_transformers(seed):
    """Each row by options of its own. Of equal logits top_p keeps some, and which is not said; the
    others keep all or none."""
    options = list(product([1.0, 0.95, 0.5, 1e-3], [None, 1, 5, 40, 500], [0.0, 0.05, 0.5, 1.0]))
    logits = 3 * torch.randn(len(options), 200, generator=generator(seed))
    top_p, top_k, min_p = zip(*options, strict=True)
    logits[: top_p.count(1.0), :60] = logits[: top_p.count(1.0), :60].round()
    ours = truncated(
        logits,
        torch.tensor(top_p).unsqueeze(1),
        torch.tensor([min(k or 200, 200) for k in top_k]).unsqueeze(1),
        torch.tensor(min_p).unsqueeze(1),
    )
    for row, (p, k, least) in enumerate(options):
        theirs = logits[row : row + 1]
        warpers = [] if k is None else [TopKLogitsWarper(k)]
        warpers += [TopPLogitsWarper(p)] if p < 1 else []
        for warp in [*warpers, MinPLogitsWarper(least)]:
            theirs = warp(None, theirs)
        assert torch.equal(ours[row], theirs[0]), options[row]


def test_samples_come_from_the_tokens_that_are_kept(folder):
    """Chi-square over the kept tokens; and log-probabilities are the unmodified model's."""
    engine = TransformersEngine(folder, max_batch=5000, device="cpu")
    prompt, number = prompts(engine)[1], 3000
    asked = Sampling(0.9, top_p=0.8, top_k=12, min_p=0.02)
    drawn = engine.generate([asked.request(prompt, 1, seed) for seed in range(number)])
    plain = logprobs_of(engine, prompt)[-1]
    warped = TopKLogitsWarper(12)(None, (plain / 0.9).unsqueeze(0))
    warped = MinPLogitsWarper(0.02)(None, TopPLogitsWarper(0.8)(None, warped))[0]
    seen = torch.tensor([one.tokens[0] if one.tokens else 2 for one in drawn]).bincount(
        minlength=len(plain)
    )
    kept = warped > -torch.inf
    assert 2 <= kept.sum() <= 12 and seen[~kept].sum() == 0
    expected = warped[kept].softmax(0) * number
    degrees = int(kept.sum()) - 1
    assert ((seen[kept] - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5
    wanted = [plain[one.tokens[0] if one.tokens else 2].item() for one in drawn]
    assert [one.logprobs[0] for one in drawn] == pytest.approx(wanted, abs=1e-3)


def test_one_token_kept_is_the_likeliest(engine):
    prompt = prompts(engine)[0]
    (greedy,) = engine.generate([Request(prompt, 20, 0.0, 0)])
    for asked in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(min_p=1.0)):
        (made,) = engine.generate([asked.request(prompt, 20, 3)])
        assert made.tokens == greedy.tokens


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"min_p": 1.5}, "min_p must be between 0 and 1, not 1.5"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"step_tokens": 0}, "step_tokens must be at least 1, not 0"),
    ],
)
def test_sampling_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


def test_fill_counts_the_rows_of_every_step(engine):
    prompt, before = engine.encode_prompt("How many?"), engine.fill
    assert before == Fill(0, 0) and before.ratio == 0
    tokens = recite(engine, prompt, "15 eggs\n")
    few, steps = 2, len(tokens) + 1  # the end of the text is a step, too
    engine.generate([Request(prompt, 50, 0.0, i) for i in range(6)])
    assert engine.fill == Fill(6 * steps, engine.max_batch * steps)
    more = [Request(prompt, few if i else 50, 0.0, i) for i in range(4)]
    engine.generate(more)
    since = engine.fill.since(Fill(6 * steps, engine.max_batch * steps))
    assert since == Fill(3 * few + steps, engine.max_batch * steps), "who is done does not count"


# ------------------------------------------------------------------------------ the cache


def test_the_roomy_cache_is_the_librarys(engine):
    model, steps = engine.model, RoomyLayer.SPARE + 20
    tokens = torch.randint(4, 400, (3, 5 + steps), generator=torch.Generator().manual_seed(0))
    caches = [make_cache(model.config), DynamicCache(config=model.config)]
    assert all(type(layer) is RoomyLayer for layer in caches[0].layers)
    with torch.inference_mode():
        pieces = [tokens[:, :5], *tokens[:, 5:].split(1, 1)]
        for number in range(len(pieces)):
            if number in (10, 11, steps - 5):  # rows leave, change places and come twice
                index = {10: [2, 0], 11: [0, 1, 1], steps - 5: [1, 2]}[number]
                pieces = [piece[index] for piece in pieces]
                for cache in caches:
                    cache.batch_select_indices(torch.tensor(index))
            ours, theirs = (
                model(input_ids=pieces[number], use_cache=True, **{KEYWORD: cache}).logits
                for cache in caches
            )
            torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)


# ------------------------------------------------------------------------------ going on


def grown(engine: TransformersEngine, key: bool, rounds: int = 4) -> list[list[Completion]]:
    """Three texts for each of two questions that grow by steps, all of them at once."""
    heads = [engine.encode_prompt(question) for question in ("1+2", "What is 70+80, in eggs?")]
    texts, said = [(head, head) for head in heads for _ in range(3)], []
    for number in range(rounds):
        requests = [
            Request(text, 12, 1.2, 100 * number + i, ("\n", "a", "e", "1"), head if key else None)
            for i, (head, text) in enumerate(texts)
        ]
        said.append(engine.generate(requests))
        texts = [
            (head, text + completion.tokens)
            for (head, text), completion in zip(texts, said[-1], strict=True)
        ]
    return said


@pytest.mark.parametrize("max_batch", [256, 4])
def test_what_is_known_is_not_computed_again(folder, max_batch):
    plain = TransformersEngine(folder, device="cpu", max_batch=max_batch, reuse=0)
    engine = TransformersEngine(folder, device="cpu", max_batch=max_batch)
    whole, reused = grown(plain, True), grown(engine, True)
    assert [[c.finish for c in row] for row in whole] != [["length"] * 6] * 4
    for ours, theirs in zip(reused, whole, strict=True):
        assert all(map(same, ours, theirs))
    assert [[c.prefilled for c in row] for row in grown(engine, False)] == [
        [c.prefilled for c in row] for row in whole
    ]
    for before, after in pairwise(reused):
        for step, later in zip(before, after, strict=True):
            # What ended by itself leaves its last token, anything else is read again.
            new = 1 if step.finish == "stop" else max(1, len(step.tokens))
            assert later.prefilled in (0, new)


def test_what_does_not_fit_is_computed_again(folder):
    engine = TransformersEngine(folder, device="cpu")
    whole = grown(engine, False)
    for room in (0, 1, 100_000):
        engine.prefixes.room = room
        engine.forget()
        assert all(
            same(*pair)
            for ours, theirs in zip(grown(engine, True), whole, strict=True)
            for pair in zip(ours, theirs, strict=True)
        )
        assert engine.prefixes.bytes <= room
        assert engine.prefixes.bytes == sum(tree.bytes for tree in engine.prefixes.trees.values())


def test_keys_unlike_values_are_not_kept(folder, monkeypatch):
    """As of models whose cache holds something else than equal keys and values."""
    engine = TransformersEngine(folder, device="cpu")
    whole = grown(engine, False)
    monkeypatch.setattr("reasoning.engines.transformers._states", lambda cache, start: None)
    found = grown(engine, True)
    assert all(
        same(*pair) for one in zip(found, whole, strict=True) for pair in zip(*one, strict=True)
    )
    assert engine.prefixes.bytes == 0
    layer = RoomyLayer()
    layer.keys, layer.values = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4)
    cache = make_cache(engine.model.config)
    cache.layers = [layer]
    monkeypatch.undo()
    assert _states(cache, 0) is None
    layer.values = torch.ones(1, 1, 2, 3)
    assert _states(cache, 1).shape == (1, 2, 1, 1, 1, 3)


def test_the_oldest_key_goes_first():
    kept = Prefixes(room=3 * 4)
    states = torch.zeros(1)
    for key in "abc":
        kept.add(kept.find(key, (1, 2), 2)[-1], (1, 2), states)
    kept.find("a", (1, 2), 2)
    kept.add(kept.find("d", (1,), 1)[-1], (1,), states)
    assert [len(kept.find(key, (1, 2), 2)) for key in "acd"] == [2, 2, 2]
    assert len(kept.find("b", (1, 2), 2)) == 1
    assert len(kept.find("a", (1, 2), 1)) == 1  # a piece is taken whole or not at all


def test_the_longest_known_text_is_found():
    kept = Prefixes(room=100)
    [root] = kept.find("a", (1, 2, 3, 4), 4)
    one = kept.add(root, (1, 2), torch.zeros(1))
    kept.add(root, (1,), torch.zeros(1))
    two = kept.add(one, (3,), torch.zeros(1))
    assert kept.add(one, (3,), torch.ones(1)) is two
    assert kept.find("a", (1, 2, 3, 4), 4) == [root, one, two]
    assert kept.find("a", (1, 2, 4), 3) == [root, one]
    assert kept.find("b", (1, 2, 4), 3)[-1].tokens == ()


def test_growing_texts_are_scored_as_if_they_were_new(folder):
    engine = TransformersEngine(folder, device="cpu")
    head, options = engine.encode_prompt("1+2"), engine.encode("+")[:1] + engine.encode("-")[:1]
    lines = [engine.encode(text) for text in ("It is 3.\n", "3+4=7\n", "#### 7")]
    for upto in range(1, 4):
        text = head + tuple(token for line in lines[:upto] for token in line)
        shared = len(text) - len(lines[upto - 1])
        request = ScoreRequest(text, (len(text) - 1,), options, shared, head)
        other = request._replace(tokens=(*text[:-1], text[-1] + 1))
        for asked in (request, other):
            [alone] = engine.score([asked._replace(cache_key=None)])
            [known] = engine.score([asked])
            torch.testing.assert_close(known.logprobs, alone.logprobs, atol=1e-4, rtol=1e-4)
            assert alone.read == len(text)
            new = len(text) if upto == 1 and asked is request else len(lines[upto - 1])
            assert known.read == new


# ------------------------------------------------------------------------------ scoring


def score_requests(engine: TransformersEngine) -> list[ScoreRequest]:
    """Ragged texts, some of which share a beginning and some of which do not say so."""
    short, long = engine.encode_prompt("1+2"), engine.encode_prompt("What is 70+80, in eggs?")
    plus, minus, one = (engine.encode(sign)[0] for sign in "+-1")
    tails = [engine.encode(text) for text in ("1\n", "12 is it\n3+4=7\n", "#### 150")]
    requests = [
        ScoreRequest(head + tail, (len(head), len(head + tail) - 1), (plus, minus), len(head))
        for head in (short, long)
        for tail in tails
    ]
    whole = long + tails[1]
    return [
        *requests,
        ScoreRequest(whole, (0, 3, len(whole) - 1), (one, plus, minus)),
        ScoreRequest(short, (len(short) - 1,), (minus, plus)),
    ]


@pytest.mark.parametrize("which", ["all", "sharing", "whole", "each alone"])
@pytest.mark.parametrize("max_batch", [256, 2])
def test_scores_are_those_of_a_plain_forward(engine, which, max_batch):
    engine.max_batch = max_batch
    requests = score_requests(engine)
    requests = {"sharing": requests[:-2], "whole": requests[-2:]}.get(which, requests)
    random.Random(1).shuffle(requests)
    groups = [[r] for r in requests] if which == "each alone" else [requests]
    results = [result for group in groups for result in engine.score(group)]
    for request, result in zip(requests, results, strict=True):
        table = logprobs_of(engine, request.tokens)[list(request.positions)]
        wanted = table[:, list(request.options)].log_softmax(-1)
        assert result.logprobs.shape == (len(request.positions), len(request.options))
        torch.testing.assert_close(result.logprobs, wanted, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------ memory


def batches_of(engine: TransformersEngine, kind: str, monkeypatch) -> list[list[int]]:
    """The lengths of texts in each batch that will be computed."""
    made: list[list[int]] = []
    compute = getattr(engine, kind)
    note = lambda batch: made.append([len(request.tokens) for request in batch])  # noqa: E731
    monkeypatch.setattr(engine, kind, lambda batch: note(batch) or compute(batch))
    return made


def test_a_batch_has_no_more_tokens_than_the_engine_takes(folder, monkeypatch):
    free = TransformersEngine(folder, device="cpu")
    bound = TransformersEngine(folder, device="cpu", max_num_batched_tokens=70)
    requests = score_requests(free)
    made = batches_of(bound, "_score", monkeypatch)
    for one, other in zip(bound.score(requests), free.score(requests), strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)
    assert all(len(batch) * max(batch) <= 70 for batch in made) and 1 < len(made) < len(requests)
    made = batches_of(free, "_score", monkeypatch)
    free.score(requests * 30)
    assert len(made) == 1, "on a CPU"


def test_copies_of_a_prompt_count_once(folder, monkeypatch):
    engine = TransformersEngine(folder, device="cpu", max_num_batched_tokens=30)
    prompt = engine.encode_prompt("1+2")
    made = batches_of(engine, "_generate", monkeypatch)
    engine.generate([Request(prompt, 2, 1.0, seed) for seed in range(9)])
    assert made == [[len(prompt)] * 9] and len(prompt) <= 30 < 9 * len(prompt)


def run_out(engine: TransformersEngine, rows: int, monkeypatch) -> None:
    """Have memory for batches of so many rows."""
    forward = engine.model.forward

    def limited(**inputs):
        if len(inputs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(**inputs)

    monkeypatch.setattr(engine.model, "forward", limited)


def test_a_batch_that_memory_has_no_room_for_is_halved(ending_folder, ending, monkeypatch):
    requests, scored = mixed_requests(ending), score_requests(ending)
    engine = TransformersEngine(ending_folder, device="cpu")
    run_out(engine, 3, monkeypatch)
    assert all(map(same, engine.generate(requests), ending.generate(requests)))
    assert 1 < engine.max_batch < len(requests), "it does not try again what did not fit"
    for one, other in zip(engine.score(scored), ending.score(scored), strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)


def test_one_text_that_memory_has_no_room_for_is_told(ending, monkeypatch):
    run_out(ending, 0, monkeypatch)
    with pytest.raises(EngineError, match=r"^cpu has no memory left to compute .* dtype=bfloat16"):
        ending.generate(mixed_requests(ending))


def test_scripted_scores_are_normalised_weights():
    engine = ScriptedEngine(lambda _: [("", 1.0)], lambda text, o: 3.0 if o == text[-1] else 1.0)
    (result,) = engine.score([ScoreRequest((65, 66), (0, 1), (65, 66))])
    torch.testing.assert_close(result.logprobs.exp(), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))


# ------------------------------------------------------------------------------ prompts and errors


def test_the_plain_prompt_is_that_of_training(engine):
    assert not engine.chat
    prompt = engine.encode_prompt("How {many}?")
    assert prompt[0] == engine.tokenizer.bos_token_id
    assert engine.decode(prompt) == "Question: How {many}?\nAnswer:\n"


def test_a_text_starts_with_what_the_model_expects(engine):
    assert engine.encode("12 eggs", start=True) == (1, *engine.encode("12 eggs"))


def test_a_chat_template_is_used_where_there_is_one(ending, ending_folder):
    assert ending.chat
    ending.instruction = "Think."
    prompt = ending.encode_prompt("How many?")
    assert prompt.count(ending.tokenizer.bos_token_id) == 1
    assert ending.decode(prompt) == "[user] Think.\n\nHow many? [assistant] "
    plain = TransformersEngine(ending_folder, chat=False, device="cpu")
    assert plain.decode(plain.encode_prompt("How many?")).startswith("Question: How many?")


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_chat_without_a_template_is_refused(folder):
    with pytest.raises(ValueError, match="has no chat template: set chat=false") as error:
        TransformersEngine(folder, chat=True, device="cpu")
    one_sentence(error)


def test_requests_beyond_the_context_are_refused(engine):
    request = Request(prompts(engine)[0], 5, 0.0, 0)
    room = engine.context - len(request.tokens)
    assert len(engine.generate([request._replace(max_tokens=room)])[0].tokens) <= room
    with pytest.raises(ValueError, match=f"{room + 1} to generate do not fit in the 256") as error:
        engine.generate([request, request._replace(max_tokens=room + 1)])
    one_sentence(error)


def test_texts_to_score_beyond_the_context_are_refused(engine):
    text = tuple(range(3, 3 + engine.context))
    assert engine.score([ScoreRequest(text, (5, 255), (7, 8))])[0].logprobs.shape == (2, 2)
    with pytest.raises(ValueError, match="257 tokens to score does not fit in the 256") as error:
        engine.score([ScoreRequest((*text, 3), (5,), (7, 8))])
    one_sentence(error)


def test_an_empty_prompt_is_refused(engine):
    with pytest.raises(ValueError, match="at least one prompt token"):
        engine.generate([Request((), 5, 0.0, 0)])


def test_a_missing_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot load a causal language model") as error:
        TransformersEngine(tmp_path / "nowhere", device="cpu")
    assert "nowhere" in one_sentence(error)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json") as error:
        TransformersEngine(tmp_path, device="cpu")
    one_sentence(error)


def test_nothing_asked_is_nothing_given(any_engine):
    assert any_engine.generate([]) == [] and any_engine.score([]) == []


@pytest.mark.parametrize(("said", "method"), [({}, "spawn"), ({METHOD: "fork"}, "fork")])
def test_vllm_does_not_fork_where_nobody_asks_it_to(said, method):
    script = f"import os, reasoning.engines.vllm; print(os.environ['{METHOD}'])"
    rest = {name: value for name, value in os.environ.items() if name != METHOD}
    root = str(Path(__file__).parents[2])
    told = subprocess.check_output(
        [sys.executable, "-c", script], env={**rest, "PYTHONPATH": root, **said}, text=True
    )
    assert told.strip() == method


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"max_batch": -1}, "max_batch must be a whole number from 1 on, not -1"),
        ({"max_batch": 0}, "max_batch must be a whole number from 1 on, not 0"),
        ({"max_batch": "abc"}, "max_batch must be a whole number from 1 on, not 'abc'"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens must be a whole number"),
        ({"dtype": "foo"}, "dtype must be one of float32, bfloat16, float16, not 'foo'"),
        ({"reuse": "abc"}, "reuse must be a number of GiB, 0 or more, not 'abc'"),
        ({"reuse": -1}, "reuse must be a number of GiB, 0 or more, not -1"),
    ],
)
def test_options_that_no_engine_can_have_are_refused(option, told):
    with pytest.raises(ValueError, match=told):
        load_engine("nowhere", "transformers", option)


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_revision_of_the_weights_alone_is_refused(folder, kind):
    with pytest.raises(ValueError, match="revision"):
        load_engine(str(folder), kind, {"revision": "v2"})
