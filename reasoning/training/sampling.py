"""Solutions for training data, sampled by the engine that evaluations use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbrl_core import generator
from mbrl_core.draws import integers
from reasoning.engines import Engine
from reasoning.engines.base import Request
from reasoning.engines.transformers import TransformersEngine
from reasoning.tasks.types import Problem
from reasoning.training.tokenizer import PROMPT


def sampler(lm: str | Path) -> Engine:
    """The engine of the language model in the folder ``lm``."""
    return TransformersEngine(lm, chat=False)


def complete(
    lm: Engine,
    texts: Sequence[str],
    num: int = 1,
    temperature: float = 0.0,
    *,
    seed: int = 0,
    max_tokens: int = 192,
) -> list[list[str]]:
    """``num`` continuations of each text, without special tokens.

    Args:
        lm: the language model.
        texts: each goes on where it ends.
        num: continuations of each.
        temperature: of the softmax; 0 takes the likeliest token.
        seed: of the sampling.
        max_tokens: longest continuation, in tokens; longer ones are cut.
    """
    seeds = integers(generator(seed), 2**31 - 1, len(texts), num).tolist()
    requests = [
        Request(tokens, max_tokens, temperature, seed)
        for tokens, row in zip((lm.encode(text, start=True) for text in texts), seeds, strict=True)
        for seed in row
    ]
    drawn = [lm.decode(completion.tokens) for completion in lm.generate(requests)]
    return [drawn[i : i + num] for i in range(0, len(drawn), num)]


def sample(
    lm: Engine,
    problems: Sequence[Problem],
    num: int = 1,
    temperature: float = 0.0,
    *,
    seed: int = 0,
) -> list[list[str]]:
    """``num`` solution texts for each problem; see :func:`complete`."""
    texts = [PROMPT.format(question=problem.question) for problem in problems]
    return complete(lm, texts, num, temperature, seed=seed)
