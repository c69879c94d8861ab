"""Figures of the embedded model and its scorer, as in ``reasoning/embedded/record.json``."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

from reasoning.grading import GRADERS
from reasoning.tasks import DEFAULT_STEPS, load_task
from reasoning.tasks.types import Problem
from reasoning.training.sampling import sample
from reasoning.training.scorer import score_steps

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "product": lambda s: math.prod(s),
    "min": lambda s: min(s, default=0.0),
    "mean": lambda s: sum(s) / max(len(s), 1),
    "last": lambda s: s[-1] if s else 0.0,
}


def bootstrap_interval(
    values: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean over problems.

    For a paired comparison, give the differences per problem (Efron and Tibshirani 1993, ch. 13).
    """
    data = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = [data[rng.integers(0, len(data), len(data))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _right(problem: Problem, text: str) -> bool:
    return bool(GRADERS["numeric"](text, problem.answer).correct)


def _figure(values: Sequence[bool]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "interval95": bootstrap_interval(values)}


def _vote(answers: Sequence[str | None], weights: Sequence[float]) -> int:
    """Index of the first solution whose answer has the largest total weight; ties: first seen."""
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    return answers.index(max(totals, key=totals.__getitem__)) if totals else 0


def search_figures(
    lm: LlamaForCausalLM,
    scorer: LlamaForCausalLM | None,
    tokenizer: Any,
    problems: Sequence[Problem],
    samples: int,
    temperature: float,
    seed: int,
) -> dict[str, Any]:
    """Greedy, mean of the samples, any-of-n, vote, best-of-n for each aggregate, with intervals."""
    firsts = [texts[0] for texts in sample(lm, tokenizer, problems)]
    greedy = [_right(p, text) for p, text in zip(problems, firsts, strict=True)]
    texts = sample(lm, tokenizer, problems, samples, temperature, seed=seed)
    right = [[_right(p, t) for t in ts] for p, ts in zip(problems, texts, strict=True)]
    figures: dict[str, Any] = {
        "greedy": _figure(greedy),
        "mean_of_samples": float(np.mean(right)),
        f"any_of_{samples}": _figure([any(r) for r in right]),
    }
    answers = [[GRADERS["numeric"].extract(t) for t in ts] for ts in texts]

    def add(name: str, picks: Sequence[int]) -> None:
        chosen = [r[pick] for r, pick in zip(right, picks, strict=True)]
        gain = [float(c) - float(g) for c, g in zip(chosen, greedy, strict=True)]
        figures[name] = _figure(chosen) | {
            "over_greedy": float(np.mean(gain)),
            "over_greedy_interval95": bootstrap_interval(gain),
        }

    add(f"vote_of_{samples}", [_vote(a, [1.0] * len(a)) for a in answers])
    if scorer is not None:
        scores = [
            score_steps(scorer, tokenizer, p, ts) for p, ts in zip(problems, texts, strict=True)
        ]
        for name, aggregate in AGGREGATES.items():
            each = [[aggregate(steps) for steps in row] for row in scores]
            add(f"best_of_{samples}_{name}", [row.index(max(row)) for row in each])
            picks = [_vote(a, row) for a, row in zip(answers, each, strict=True)]
            add(f"weighted_vote_of_{samples}_{name}", picks)
    return figures


def evaluate_embedded(
    *,
    lm: str | Path,
    scorer: str | Path | None = None,
    gsm8k: str | Path | None = None,
    limit: int = 400,
    steps: tuple[int, int] = DEFAULT_STEPS,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure the language model and the scorer on held-out generated problems and on GSM8K.

    Args:
        lm: folder of the language model.
        scorer: folder of the step scorer; None leaves best-of-n out.
        gsm8k: GSM8K's folder or test file; None leaves it out. Greedy decoding only.
        limit: generated test problems.
        steps: their range of solution lines.
        samples, temperature: of any-of-n and best-of-n.
        seed: of the problems and of the sampling. 0 is the test; tune on others.
        out: file to merge the figures into, as JSON.

    Returns:
        The figures, with what is needed to make them again.
    """
    begun = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    model = LlamaForCausalLM.from_pretrained(lm, dtype=torch.float32).eval()
    judge = None
    if scorer is not None:
        judge = LlamaForCausalLM.from_pretrained(scorer, dtype=torch.float32).eval()
    problems = load_task("generated", limit=limit, seed=seed, steps=steps)
    record: dict[str, Any] = {
        "task": {"name": "generated", "split": "test", "seed": seed, "steps": list(steps)},
        "problems": limit,
        "samples": samples,
        "temperature": temperature,
        "grader": "numeric",
        "parameters": sum(p.numel() for p in model.parameters()),
        "figures": search_figures(model, judge, tokenizer, problems, samples, temperature, seed),
    }
    if gsm8k is not None:
        real = load_task("gsm8k", data=gsm8k, split="test")
        texts = sample(model, tokenizer, real, max_tokens=256)
        record["gsm8k_test_greedy"] = {
            "problems": len(real),
            **_figure([_right(p, t[0]) for p, t in zip(real, texts, strict=True)]),
            "unparsed": sum(GRADERS["numeric"].extract(t[0]) is None for t in texts),
        }
    record["machine"] = f"{torch.get_num_threads()} threads, {platform.machine()} CPU"
    record["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    record["date"] = date.today().isoformat()
    record["seconds"] = round(time.monotonic() - begun, 1)
    if out is not None:
        path = Path(out)
        kept = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(kept | {"evaluation": record}, indent=2) + "\n")
    return record
