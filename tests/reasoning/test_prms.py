"""Reward models of the public families: read as published, and the same laws for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from reasoning.embedded import folder_of
from reasoning.scorers import (
    FAMILIES,
    ReadingScorer,
    family_of,
    load_prm,
)
from reasoning.scorers.families import Family
from reasoning.world import Step, TextWorld, Thought
from tests.prms import FAMILY_NAMES, save_prm

QUESTION = "How many eggs?"
LINES = ("3+4=7 eggs.\n", "7 - 2 = 5\n", "#### 5\n")
OTHERS = ("3+4=8 eggs are there.\n", "8 - 2 = 6\n", "So: \n", "#### 6\n")
STEPWISE = [family for family in FAMILY_NAMES if family != "outcome"]


class Loaded(NamedTuple):
    folder: Path
    scorer: ReadingScorer


def thought_of(*lines: str, question: str = QUESTION) -> Thought:
    steps = tuple(Step((1,), line) for line in lines)
    ended = bool(lines) and lines[-1].startswith("####")
    return Thought(question, (1,), steps, finish="answered" if ended else "open")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {f: save_prm(f, tmp_path_factory.mktemp(f)) for f in FAMILY_NAMES}


@pytest.fixture(scope="module")
def scorers(folders) -> dict[str, Loaded]:
    return {f: Loaded(folder, load_prm(str(folder))) for f, folder in folders.items()}


def numbers(scores: Any) -> Any:
    """A nested list of scores that compares up to rounding."""
    return [None if s is None else pytest.approx(s, abs=2e-5) for s in scores]


# The same laws for every implementation.


def check_scorer(scorer: Any) -> None:
    """What a scorer of either engine and any family keeps, judging by its own numbers."""
    assert scorer.kind in ("step", "potential", "terminal")
    assert scorer.aggregate in ("product", "min", "mean", "last")
    one, two = thought_of(*LINES), thought_of(*OTHERS)
    open_ = thought_of(*LINES[:2])
    ((whole, other, part, none), read) = scorer.score([one, two, open_, open_], [3, 4, 2, 0])
    assert none == () and read[3] == 0
    assert all(0 <= score <= 1 for score in whole + other + part)
    assert all(number > 0 for number in read[:2])
    if scorer.kind == "terminal":
        assert len(whole) == len(other) == 1 and part == ()
        assert scorer.score([one._replace(scores=whole)], [1])[0] == [()]  # once and no more
    else:
        assert (len(whole), len(other), len(part)) == (3, 4, 2)
        assert whole[:2] == pytest.approx(part, abs=2e-5)  # later steps change no earlier score
        for end in (1, 2, 3):  # incremental is whole
            ((new,), _) = scorer.score([thought_of(*LINES[:end])], [1])
            assert new == pytest.approx(whole[end - 1 : end], abs=2e-5)
    ((alone,), _) = scorer.score([one], [3])
    assert alone == pytest.approx(whole, abs=2e-5)
    check_refusals(scorer, one, whole)


def check_refusals(scorer: Any, one: Thought, whole: tuple[float, ...]) -> None:
    """What cannot be read is told apart and spares the others."""
    tokenizer = scorer.engine.tokenizer
    tag = {
        "MathShepherd": "ки",
        "QwenPRM": "<extra_0>",
        "StepScorer": "<step>",
    }.get(type(scorer).__name__, tokenizer.eos_token)
    sly = thought_of(f"3+4=7 {tag} eggs.\n", "#### 7\n")
    asking = thought_of(*LINES, question=f"How {tag} many?")
    long = thought_of("7 " * 600 + "\n", "#### 7\n")
    thoughts = [sly, one, long, asking]
    scores, read = scorer.score(thoughts, [2, 3, 2, 3])
    assert scores[0] is scores[2] is scores[3] is None
    assert scores[1] == pytest.approx(whole, abs=2e-5)
    assert read[0] == read[2] == read[3] == 0 < read[1]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_laws_of_a_scorer(scorers, family):
    check_scorer(scorers[family].scorer)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_family_is_recognised_and_brings_its_own_aggregate(scorers, family):
    folder, scorer = scorers[family]
    assert family_of(str(folder)) == family and type(scorer) is FAMILIES[family]
    wanted = {"math_shepherd": "min", "rlhflow": "mean", "skywork_prm": "mean", "outcome": "last"}
    assert scorer.aggregate == wanted.get(family, "product")
    thought = thought_of(*LINES)._replace(scores=(0.5, 0.2))
    score = {"product": 0.1, "min": 0.2, "mean": 0.35, "last": 0.2}
    assert TextWorld(scorer).score(thought) == pytest.approx(score[scorer.aggregate])
    assert TextWorld(scorer, "last").score(thought) == 0.2


# The published recipes, written out as in their model cards and inference code.


def last_hidden(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    with torch.inference_mode():
        return model(torch.tensor([ids])).last_hidden_state[0]


def head_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {k: v for k, v in tensors.items() if k.startswith(("score", "v_head"))}


def label_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def math_shepherd(folder: Path, tokenizer: Any) -> list[float]:
    text = "Step 1: 3+4=7 eggs. ки\nStep 2: 7 - 2 = 5 ки\nStep 3: #### 5 ки"
    ids = tokenizer.encode(f"{QUESTION} {text}")
    labels = tokenizer.encode("+ -")[1:]
    tag = tokenizer.encode("ки")[-1]
    assert (tag, *labels) == (12902, 648, 387)
    scores = label_logits(folder, ids)[:, labels].softmax(-1)[:, 0]
    return scores[torch.tensor(ids) == tag].tolist()


def rlhflow(folder: Path, tokenizer: Any) -> list[float]:
    labels = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    turns, scores = [], []
    for number, line in enumerate(LINES):
        text = f"{QUESTION} {line.strip()}" if not number else line.strip()
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        scores.append(label_logits(folder, ids)[-3, labels].softmax(-1)[0].item())
    return scores


def qwen_prm(folder: Path, tokenizer: Any) -> list[float]:
    steps = [line.strip() for line in LINES]
    turns = [
        {
            "role": "system",
            "content": "Please reason step by step, and put your final answer within \\boxed{}.",
        },
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))
    head, hidden = head_of(folder), last_hidden(folder, ids)
    inner = F.linear(hidden, head["score.0.weight"], head["score.0.bias"]).relu()
    logits = F.linear(inner, head["score.2.weight"], head["score.2.bias"])
    places = torch.tensor(ids) == tokenizer.encode("<extra_0>")[0]
    return logits.softmax(-1)[places, 1].tolist()


def skywork_input(tokenizer: Any, response: str) -> tuple[list[int], list[int]]:
    """Tokens and the places of rewards: the end of every line, blank or not."""
    ids, places = tokenizer.encode(f"{tokenizer.bos_token}{QUESTION}\n"), []
    for line in response.split("\n"):
        ids += [*(tokenizer.encode(line) if line else []), tokenizer.encode("\n")[-1]]
        places.append(len(ids) - 1)
    return ids, places


def skywork_prm(folder: Path, tokenizer: Any) -> list[float]:
    ids, places = skywork_input(tokenizer, "".join(LINES).removesuffix("\n"))
    head = head_of(folder)
    weight, bias = head["v_head.summary.weight"], head["v_head.summary.bias"]
    return F.linear(last_hidden(folder, ids), weight, bias)[places, 0].sigmoid().tolist()


def outcome(folder: Path, tokenizer: Any) -> list[float]:
    text = "".join(LINES).strip("\n")
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))
    logit = F.linear(last_hidden(folder, ids)[-1], head_of(folder)["score.weight"])
    return logit.sigmoid().tolist()


@pytest.mark.parametrize("published", [math_shepherd, rlhflow, qwen_prm, skywork_prm, outcome])
def test_scores_are_those_of_the_published_code(scorers, published):
    folder, scorer = scorers[published.__name__]
    ((scores,), _) = scorer.score([thought_of(*LINES)], [3])
    assert scores == pytest.approx(
        published(folder, AutoTokenizer.from_pretrained(folder)), abs=2e-5
    )


@pytest.mark.parametrize(
    ("steps", "flags"),
    [
        (("3+4=7\n", "7-2=5\n", "#### 5"), [0, 1, 2]),
        (("3+4=7\n", "\n7-2=5\n", "\n#### 5\n"), [0, 2, 4]),  # a step is a line
        (("3+4=7\n\n", "7-2=5\n\n", "#### 5"), [0, 2, 4]),  # a paragraph
        (("3+4=7\nSo:\n\n", "\n  \n7-2=5\n\n", "#### 5"), [1, 5, 7]),
        (("\n3+4=7\n", "\n", "#### 5\n"), [1, 2, 3]),  # a blank candidate of a list
    ],
)
def test_skywork_reads_the_published_tokens_and_a_flag_per_step(scorers, steps, flags):
    """Each step is read at the flag of its last line that says something."""
    folder, scorer = scorers["skywork_prm"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, places = skywork_input(tokenizer, "".join(steps).removesuffix("\n"))
    for new in range(1, len(steps) + 1):
        layout = scorer.layout(thought_of(*steps), new)
        assert list(layout.tokens) == ids
        assert [places.index(place) for place in layout.places] == flags[-new:]
    for end in range(1, len(steps)):  # what is kept of a prefix goes on with the rest
        before, after = (scorer.layout(thought_of(*steps[:n]), 1) for n in (end, end + 1))
        assert after.shared == before.places[0] + 1
        assert after.tokens[: after.shared] == before.tokens[: after.shared]


def test_a_step_of_several_lines_is_judged_at_its_last(scorers):
    """A paragraph says as much as its lines do: for a scorer of lines it is as good as the last."""
    scorer = scorers["skywork_prm"].scorer
    (apart, whole), _ = scorer.score(
        [thought_of("3+4=7 eggs.\n", "7 - 2 = 5\n"), thought_of("3+4=7 eggs.\n7 - 2 = 5\n\n")],
        [2, 1],
    )
    assert whole == pytest.approx(apart[1:])


# What is refused.


def test_other_models_are_refused_with_what_is_supported(folders, tmp_path):
    for family, change in [
        ("rlhflow", {}),  # under a name that says nothing
        ("steps", {"scorer_family": None}),  # its tokenizer serves the language model, too
        ("outcome", {"id2label": {"0": "A", "1": "B", "2": "C"}}),
        ("qwen_prm", {"architectures": ["BertForMaskedLM"]}),
    ]:
        copy = tmp_path / family
        copy.mkdir()
        for file in folders[family].iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        config = json.loads((copy / "config.json").read_text()) | change
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"no scorer known here; supported are .*Skywork"):
            load_prm(str(copy))
    named = load_prm(str(tmp_path / "rlhflow"), options={"family": "rlhflow"})
    assert type(named) is FAMILIES["rlhflow"]
    with pytest.raises(ValueError, match="did you mean 'rlhflow'"):
        load_prm(str(copy), options={"family": "rlhflo"})
    with pytest.raises(ValueError, match="no scorer known here; supported are"):
        load_prm(folder_of("embedded", "lm"))
    assert family_of(folder_of("embedded", "scorer")) == "steps"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_prm("nowhere/at/all")


def test_an_option_that_no_engine_of_a_head_has_is_told(folders):
    with pytest.raises(ValueError, match=r"'transformers' of a scorer with a head has no such opt"):
        load_prm(str(folders["qwen_prm"]), options={"foo": 1})


@pytest.mark.parametrize(
    ("family", "on", "reason"),
    [
        ("math_shepherd", "rlhflow", "not the tokenizer of that model"),
        ("rlhflow", "math_shepherd", "no chat template"),
        ("qwen_prm", "rlhflow", "'<extra_0>' as one token"),
        ("steps", "rlhflow", "'<step>' as one token"),
    ],
)
def test_a_tokenizer_of_another_family_is_refused(scorers, family: Family, on, reason):
    with pytest.raises(ValueError, match=reason):
        FAMILIES[family](scorers[on].scorer.engine)  # type: ignore[call-arg]


def test_a_model_without_a_head_and_a_server_are_refused(folders):
    with pytest.raises(ValueError, match="holds no head"):
        load_prm(str(folders["rlhflow"]), options={"family": "outcome"})
    with pytest.raises(ValueError, match="scorer_engine=transformers or scorer_engine=vllm"):
        load_prm(str(folders["qwen_prm"]), "openai")


def test_a_reward_model_does_not_generate(scorers):
    with pytest.raises(ValueError, match="does not generate"):
        scorers["qwen_prm"].scorer.engine.generate([])


# On vLLM.


@pytest.mark.vllm
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_vllm_agrees(scorers, folders, family):
    pytest.importorskip("vllm")
    on_vllm = load_prm(str(folders[family]), "vllm", {"dtype": "float32"})
    head, computed = getattr(on_vllm.engine, "head", torch.nn.Identity()), []
    head.register_forward_hook(lambda *_: computed.append(1))
    try:
        thoughts = [thought_of(*LINES), thought_of(*OTHERS), thought_of(*LINES[:1])]
        ours, read = scorers[family].scorer.score(thoughts, [3, 4, 1])
        theirs, read_there = on_vllm.score(thoughts, [3, 4, 1])
        assert len(computed) <= 1, "the head, for all positions together"
        assert theirs == [pytest.approx(score, abs=1e-3) for score in ours]
        again, anew = on_vllm.score(thoughts, [3, 4, 1])  # now from the prefix cache
        judged = [bool(score) for score in ours]  # an unfinished solution may not be: nothing read
        assert [number > 0 for number in read] == [number > 0 for number in anew] == judged
        assert all(a <= b for a, b in zip(anew, read_there, strict=True))
        assert again == [pytest.approx(score, abs=1e-3) for score in ours]
        check_refusals(on_vllm, thoughts[0], theirs[0])
    finally:
        on_vllm.engine.close()
