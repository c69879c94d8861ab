"""Tokenizer, packing, sampling, redraws, labels, and resuming of the trainers."""

import math
import os
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from reasoning.arithmetic import evaluate
from reasoning.tasks import GSM8K, Problem, generate_problems, load_gsm8k
from reasoning.training import loop
from reasoning.training.augment import redraw
from reasoning.training.corpus import assemble, encode, pack, training_problems
from reasoning.training.expert import expert_iteration, verified
from reasoning.training.lm import build_model, same_document, token_weights, train_lm
from reasoning.training.optim import learning_rate
from reasoning.training.samples import (
    PART,
    Sampled,
    Valued,
    read_samples,
    read_values,
    write_samples,
    write_values,
)
from reasoning.training.sampling import complete, sample, sampler
from reasoning.training.scorer import (
    assemble_trees,
    encode_trees,
    expected,
    log_odds,
    scorer_loss,
    sign_ids,
    tagged,
    train_scorer,
)
from reasoning.training.tokenizer import PROMPT, train_tokenizer

GSM8K_DATA = Path(os.environ.get("GSM8K_DIR", Path(__file__).parents[3] / "shared" / "gsm8k"))
TINY = {"width": 32, "layers": 2, "heads": 2, "inner": 48, "rows": 2, "vocab_size": 420}


@pytest.fixture(scope="module")
def problems():
    return generate_problems("train", 60, (1, 4))


@pytest.fixture(scope="module")
def tokenizer(problems):
    texts = [PROMPT.format(question=p.question) + GSM8K.write(p) for p in problems]
    return train_tokenizer(texts, 500)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return build_model(tokenizer, 32, 2, 4, 48).eval()


# ------------------------------------------------------------------------------ tokenizer
@pytest.mark.parametrize(
    "text", ["a\nb", "12345", "x = 3.50\n\n", "ünïcødé 漢字 🙂", "\t  tabs  ", ""]
)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text


def test_digits_signs_and_newlines_stand_alone(tokenizer):
    ids = tokenizer.encode("has <<12*34=408>>408 eggs.\n5+5-1/2\n#### 10", add_special_tokens=False)
    for token in map(tokenizer.decode, ids):
        assert len(token) == 1 or not set(token) & set("0123456789+-*/=<>\n")


def test_steps_can_be_cut_at_newlines(tokenizer, problems):
    for problem in problems[:20]:
        prompt = PROMPT.format(question=problem.question)
        pieces = [prompt, *(line + "\n" for line in problem.solution)]
        whole = tokenizer.encode("".join(pieces), add_special_tokens=False)
        parts = [tokenizer.encode(p, add_special_tokens=False) for p in pieces]
        assert [t for part in parts for t in part] == whole


def test_tokenizer_loads_from_its_folder(tokenizer, problems, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = problems[0].question + "\n<step>" + GSM8K.write(problems[0])
    assert again.encode(text) == tokenizer.encode(text)
    assert again.eos_token_id == tokenizer.eos_token_id
    assert len(again.encode("<step>", add_special_tokens=False)) == 1


# ------------------------------------------------------------------------------ packing
def test_packing_keeps_every_document_once(tokenizer, problems):
    corpus = encode(problems, tokenizer, 300)
    rows = pack(corpus, 300, seed=1, window=16)
    assert sorted(d for row in rows for d in row) == list(range(len(problems)))
    sizes = corpus.starts[1:] - corpus.starts[:-1]
    assert max(sum(sizes[d] for d in row) for row in rows) <= 300
    assert pack(corpus, 300, seed=1) != pack(corpus, 300, seed=2)


def test_a_packed_document_sees_only_itself(tokenizer, model, problems):
    corpus = encode(problems, tokenizer, 400)
    row = next(r for r in pack(corpus, 400, seed=0) if len(r) > 1)
    batch = assemble(corpus, [row], 400)
    packed = model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask=same_document(batch.documents),
    ).logits[0]
    at = 0
    for d in row:
        ids = corpus.tokens[corpus.starts[d] : corpus.starts[d + 1]].astype(int)
        alone = model(input_ids=torch.tensor(ids)[None]).logits[0]
        torch.testing.assert_close(packed[at : at + len(ids)], alone, atol=1e-5, rtol=1e-5)
        at += len(ids)


def test_weights_count_each_predicted_token_once(tokenizer, problems):
    corpus = encode(problems[:5], tokenizer, 400)
    batch = assemble(corpus, [(0, 1), (2,)], 400)
    sizes = (corpus.starts[1:] - corpus.starts[:-1])[:3]
    assert token_weights(batch, 1.0).sum() == sum(sizes) - 3
    assert token_weights(batch, 0.0).sum() == sum(sizes) - sum(corpus.prompts[:3])


# ------------------------------------------------------------------------------ sampling
@pytest.fixture(scope="module")
def folder(tokenizer, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def test_greedy_sampling_equals_the_library(tokenizer, model, folder, problems):
    prompts = [PROMPT.format(question=problem.question) for problem in problems[:5]]
    ours = complete(sampler(folder), prompts, max_tokens=12)
    for prompt, texts in zip(prompts, ours, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
        )
        assert texts == [tokenizer.decode(out[0, ids.shape[1] :]).removesuffix("</s>")]


def test_sampling_repeats_with_its_seed(folder, problems):
    lm = sampler(folder)

    def draw(seed):
        return sample(lm, problems[:2], 3, 1.0, seed=seed)

    assert draw(0) == draw(0) != draw(1)
    assert [len(texts) for texts in draw(0)] == [3, 3]


def test_sampled_text_holds_no_special_token(tokenizer, folder, problems):
    # A tag that the model happened to draw would be taken for one that the scorer reads.
    texts = sample(sampler(folder), problems[:8], 4, 2.0)
    joined = "".join(text for of_problem in texts for text in of_problem)
    assert not [token for token in tokenizer.all_special_tokens if token in joined]


# ------------------------------------------------------------------------------ redraws
def test_evaluate():
    assert evaluate("2*(3+4)/7") == 2
    assert evaluate("1,000-.5") == evaluate("999.5")
    assert evaluate("$3 × 4 − 1$") == evaluate(r"\left(3 \times 4\right) - 2 \div 2") == 11
    assert evaluate("1,2") is None and evaluate("(1, 2)") is None
    for bad in ("2**9", "__import__('os')", "1/0", "x+1", "", "2+", "True+1", "0x10", "1e5"):
        assert evaluate(bad) is None


def test_text_beside_numbers_is_quietly_no_arithmetic(recwarn):
    assert evaluate("5and 3") is None and evaluate("3(4)") is None
    assert not recwarn


def test_redraw_is_consistent():
    problem = Problem(
        "p",
        "Ann has 12 pens and buys 5 packs of 4. She gives half away. How many are left?",
        "16",
        (
            "She buys 5*4=<<5*4=20>>20 pens.",
            "She has 12+20=<<12+20=32>>32.",
            "Half is 32/2=<<32/2=16>>16.",
        ),
    )
    versions = [redraw(problem, Random(i)) for i in range(20)]
    kept = [v for v in versions if v is not None]
    assert len({v.question for v in kept}) > 10
    for version in kept:
        for line in version.solution:
            left, right = line.split("<<")[1].split(">>")[0].split("=")
            assert evaluate(left) == evaluate(right) > 0
        assert version.solution[-1].endswith(f">>{version.answer}.")
        assert f"/2={version.answer}" in version.solution[-1]


def test_redraw_refuses_what_it_cannot_follow():
    wrong = Problem("p", "3 and 4?", "8", ("3+4=<<3+4=8>>8",))
    assert redraw(wrong, Random(0)) is None
    assert redraw(wrong._replace(solution=("Seven.",)), Random(0)) is None


@pytest.mark.skipif(not GSM8K_DATA.is_dir(), reason=f"no GSM8K at {GSM8K_DATA}")
def test_no_test_question_enters_the_training_set():
    train = load_gsm8k(GSM8K_DATA, "train")[::20]
    texts = {p.question for p in training_problems(50, train, 2, (1, 5), seed=0)}
    assert len(texts) > 1.5 * len(train)
    assert not texts & {p.question for p in load_gsm8k(GSM8K_DATA, "test")}
    assert not texts & {p.question for p in generate_problems("test", 200)}


# ------------------------------------------------------------------------------ samples
SAMPLING = {"temperature": 1.0, "seed": 3, "workers": 1}


def test_samples_go_on_where_they_were_stopped(folder, problems, tmp_path):
    several = (problems * 2)[: PART + 5]
    for torn in (0, 30, -20):
        path = tmp_path / f"{torn}.jsonl"
        write_samples(path, folder, several, num=1, **SAMPLING)
        whole = path.read_bytes()
        path.write_bytes(whole[: torn or None])
        write_samples(path, folder, several, num=1, **SAMPLING)
        assert path.read_bytes() == whole
    assert [sampled.problem for sampled in read_samples(path)] == several


def test_a_line_is_worth_its_rollouts(folder, tmp_path):
    problem = Problem("p", "Ann has 3 bags of 4. How many?", "17")
    fine, wrong, other = "A\nB\n#### 17", "A\nC\n#### 18", "D\n#### 17"
    sampled = Sampled(problem, [fine, fine, wrong, other])
    path = tmp_path / "values.jsonl"
    write_values(path, folder, [sampled], rollouts=1, **SAMPLING)
    [(_, texts, values)] = read_values(path)
    # One line needs no rollout of its own: as many samples as asked for pass through each.
    assert texts == [fine, wrong, other]
    assert values == [[0.6667, 1, 1], [0.6667, 0, 0], [1, 1]]


def test_rollouts_count_beside_the_samples(folder, tmp_path, monkeypatch):
    asked = []

    def complete(lm, prompts, num, temperature, seed):
        asked.extend(prompts)
        return [["#### 5", "#### 6", "#### 5"]] * len(prompts)

    monkeypatch.setattr("reasoning.training.samples.complete", complete)
    sampled = Sampled(Problem("p", "Why?", "5"), ["A\n#### 5", "B\n#### 6"])
    write_values(tmp_path / "v", folder, [sampled], rollouts=3, **SAMPLING)
    assert asked == [PROMPT.format(question="Why?") + start for start in ("A\n", "B\n")]
    [(_, _, values)] = read_values(tmp_path / "v")
    assert values == [[0.75, 1], [0.5, 0]]


def test_only_right_solutions_with_right_equations_are_verified():
    problem = Problem("p", "", "7")
    good, lucky, wrong = "<<3+4=7>>7\n#### 7", "<<3+3=7>>7\n#### 7", "<<3+3=6>>6\n#### 6"
    bare = "words"
    kept = verified(Sampled(problem, [lucky, wrong, good, good, bare]), keep=2)
    assert kept == [problem._replace(solution=("<<3+4=7>>7",))]
    assert GSM8K.write(kept[0]) == good


# ------------------------------------------------------------------------------ scorer
@torch.inference_mode()
def score_steps(model, tokenizer, problem, texts):
    """P(+) of each line of each solution, text by text."""
    plus, minus = sign_ids(tokenizer)
    tag = tokenizer.convert_tokens_to_ids("<step>")
    scores = []
    for text in texts:
        prompt = PROMPT.format(question=problem.question) + tagged(text.split("\n"))
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0][:, [plus, minus]]
        scores.append(logits.softmax(-1)[ids[0] == tag, 0].tolist())
    return scores


def test_a_branch_sees_its_prompt_and_itself(tokenizer, model, problems):
    texts = [[GSM8K.write(p), "It is <<1+1=2>>2.\n#### 2"] for p in problems[:3]]
    values = [[[0.75] * (len(p.solution) + 1), [0.25, 0.0]] for p in problems[:3]]
    trees = encode_trees(list(map(Valued, problems, texts, values)), tokenizer, 400)
    batch = assemble_trees(trees, [(0, 1), (2,)], 600)
    signs = torch.tensor(sign_ids(tokenizer))
    odds = log_odds(model, signs, batch.ids, batch.positions, batch.mask)
    packed = odds.sigmoid()[batch.labels >= 0]
    alone = [
        score
        for problem, pair in zip(problems[:3], texts, strict=True)
        for scores in score_steps(model, tokenizer, problem, pair)
        for score in scores
    ]
    torch.testing.assert_close(packed, torch.tensor(alone), atol=1e-5, rtol=1e-5)
    wanted = batch.labels[batch.labels >= 0]
    assert sorted(set(wanted.tolist())) == [0, 0.25, 0.75]
    expected = -(wanted * packed.log() + (1 - wanted) * (1 - packed).log()).mean()
    torch.testing.assert_close(scorer_loss(odds, batch, 0.0), expected)
    # Of each problem one solution ends with 0.75 and one with 0: three pairs.
    good, bad = odds[batch.ends >= 0].view(3, 2).unbind(1)
    compared = -torch.sigmoid(good - bad).log().mean()
    torch.testing.assert_close(scorer_loss(odds, batch, 2.0), expected + 2 * compared)
    assert batch.ends[batch.ends >= 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_likelihoods_are_those_of_the_text_without_tags(tokenizer, model, problems):
    texts = [[GSM8K.write(p), "It is <<1+1=2>>2.\n#### 2"] for p in problems[:3]]
    values = [[[0.5] * (len(p.solution) + 1), [0.5, 0.5]] for p in problems[:3]]
    trees = encode_trees(list(map(Valued, problems, texts, values)), tokenizer, 400)
    batch = assemble_trees(trees, [(0, 1), (2,)], 600)
    likely = expected(model, batch)
    alone = []
    for problem, pair in zip(problems[:3], texts, strict=True):
        prompt = tokenizer(PROMPT.format(question=problem.question))["input_ids"]
        for text in pair:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            alone += logits.softmax(-1)[range(len(ids)), ids].tolist()
    told = batch.before >= 0
    torch.testing.assert_close(likely[told], torch.tensor(alone), atol=1e-5, rtol=1e-4)
    odds = torch.zeros_like(batch.labels)
    with_it, without = scorer_loss(odds, batch, 0.0, likely), scorer_loss(odds, batch, 0.0)
    assert with_it - without == pytest.approx(math.log(2), rel=1e-5)


def test_tag_follows_every_line():
    assert tagged(["a", "b"]) == "a<step>\nb<step>"


# ------------------------------------------------------------------------------ trainers
def test_learning_rate():
    assert learning_rate(0.03, 1.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 1.0) == pytest.approx(0.02)
    rates = [learning_rate(f / 100, 1.0) for f in range(3, 101)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < learning_rate(0.0, 1.0) < learning_rate(0.01, 1.0)


def _train(out, **changes):
    options = {"steps": 6, "num_problems": 40, "length": 200, "compile": False, "save_every": 0.0}
    return train_lm(out=out, **(options | TINY | changes))


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    straight = LlamaForCausalLM.from_pretrained(_train(tmp_path / "a"))
    advance = loop.Run.advance

    def killed(self, *arguments):
        if self.step == 3:
            raise KeyboardInterrupt
        return advance(self, *arguments)

    monkeypatch.setattr(loop.Run, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "b")
    monkeypatch.undo()
    resumed = LlamaForCausalLM.from_pretrained(_train(tmp_path / "b"))
    for p, q in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="other values of lr"):
        _train(tmp_path / "b", lr=1e-4)


def test_a_diverged_run_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        _train(tmp_path, lr=math.nan)


def test_training_learns_and_the_scorer_follows(tmp_path, capsys):
    lm = _train(tmp_path / "lm", steps=30, log_every=10, lr=1e-2)
    losses = [float(line.split("loss ")[1].split()[0]) for line in _progress(capsys)]
    assert losses[-1] < losses[0] - 0.5
    options = {"num_problems": 6, "samples": 2, "rows": 2, "steps": 2, "compile": False}
    better = expert_iteration(
        out=tmp_path / "expert", lm=lm, rounds=1, known=20, validation=4, length=200, **options
    )
    rounds = (tmp_path / "expert" / "rounds.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rounds] == ["round", "0", "1"]
    folder = train_scorer(out=tmp_path / "scorer", lm=better, length=700, rollouts=1, **options)
    scorer = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (problem,) = generate_problems("test", 1)
    (scores,) = score_steps(scorer, tokenizer, problem, [GSM8K.write(problem)])
    assert len(scores) == len(problem.solution) + 1
    assert all(0 < s < 1 for s in scores)


def _progress(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"num_problems": 0}, "num_problems must be at least 1"),
        ({"heads": 1}, "heads must be an even number"),
        ({"heads": 5}, "heads must be an even number"),
        ({"width": 30, "heads": 4}, "width must be a multiple of 8 for heads=4, not 30"),
        ({"length": 5}, "no problem fits in length=5 tokens"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"minutes": -1.0}, "minutes must be above 0"),
    ],
)
def test_bad_arguments(tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        _train(tmp_path, **changes)


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="samples must be at least 1"):
        train_scorer(out=tmp_path, lm="embedded", samples=0)


def test_data_that_a_folder_was_not_trained_on_are_refused(tmp_path):
    _train(tmp_path, steps=1)
    with pytest.raises(ValueError, match="other values of gsm8k"):
        _train(tmp_path, steps=1, gsm8k="elsewhere")
