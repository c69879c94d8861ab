"""The shipped model and scorer: they load, fit their size, and beat chance by far."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from reasoning.embedded import folder_of
from reasoning.grading import GRADERS
from reasoning.tasks import generate_problems
from reasoning.training.sampling import sample
from reasoning.training.scorer import score_steps

FOLDERS = [Path(folder_of("embedded", part)) for part in ("lm", "scorer")]


def _size(folder):
    return sum(f.stat().st_size for f in folder.iterdir())


def test_sizes():
    lm, scorer = FOLDERS
    assert _size(lm) <= 20e6 and _size(scorer) <= 12e6


@pytest.fixture(scope="module")
def solved():
    problems = generate_problems("test", 24, (1, 3), seed=7)
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS[0])
    model = LlamaForCausalLM.from_pretrained(FOLDERS[0], dtype=torch.float32).eval()
    texts = sample(model, tokenizer, problems, 4, 1.0)
    return tokenizer, problems, texts


def test_model_solves_held_out_problems(solved):
    _, problems, texts = solved
    right = [
        GRADERS["strict"](t[0], p.answer).correct for p, t in zip(problems, texts, strict=True)
    ]
    assert sum(r is True for r in right) >= 10


def test_scorer_gives_every_step_a_probability(solved):
    tokenizer, problems, texts = solved
    scorer = LlamaForCausalLM.from_pretrained(FOLDERS[1], dtype=torch.float32).eval()
    for problem, ts in zip(problems[:4], texts, strict=False):
        for text, scores in zip(ts, score_steps(scorer, tokenizer, problem, ts), strict=True):
            assert len(scores) == len(text.split("\n"))
            assert all(0 <= s <= 1 for s in scores)


def test_record_reports_the_figures():
    record = json.loads((FOLDERS[0].parent / "record.json").read_text())
    figures = record["evaluation"]["figures"]
    assert figures["any_of_16"]["mean"] > figures["greedy"]["mean"]
