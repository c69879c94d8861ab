"""Training text of the embedded model as token sequences, and their packing into rows."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from reasoning.tasks.generator import generate_problem
from reasoning.tasks.types import Problem
from reasoning.tasks.words import GSM8K
from reasoning.training.augment import redraw
from reasoning.training.tokenizer import PROMPT


class Corpus(NamedTuple):
    """Documents end to end.

    Fields:
        tokens: uint16 ``[total]``.
        starts: int64 ``[D + 1]``, document ``d`` is ``tokens[starts[d]:starts[d + 1]]``.
        prompts: int64 ``[D]``, how many tokens of each document belong to the prompt.
    """

    tokens: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray


class Batch(NamedTuple):
    """Packed rows, all ``[R, T]``: a document never sees another one of its row.

    Fields:
        ids: int64 tokens, padded with 0.
        positions: int64, counted from 0 within each document.
        documents: int64 number of the document within the row; -1 on padding.
        answer: bool, True where the token belongs to a solution.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    documents: torch.Tensor
    answer: torch.Tensor


def training_problems(
    num: int, gsm8k: Sequence[Problem], redraws: int, steps: tuple[int, int], seed: int
) -> list[Problem]:
    """Generated problems from the train templates, and GSM8K's training problems with redraws.

    Args:
        num: generated problems, of the stream ``(seed, "train")``.
        gsm8k: problems of GSM8K's training split (never the test split).
        redraws: new versions tried for each of them.
        steps: range of solution lines of the generated problems.
        seed: of the generator and of the new numbers.
    """
    problems = [generate_problem("train", i, steps, seed) for i in range(num)]
    for problem in gsm8k:
        problems.append(problem)
        versions = (redraw(problem, Random(f"{seed}/{problem.id}/{j}")) for j in range(redraws))
        problems.extend(version for version in versions if version is not None)
    return problems


def encode(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, longest: int) -> Corpus:
    """Tokens of ``prompt + solution + eos``; documents above ``longest`` tokens are dropped."""
    prompts = tokenizer([PROMPT.format(question=p.question) for p in problems])["input_ids"]
    texts = [GSM8K.write(p) for p in problems]
    answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    documents = [(len(p), [*p, *a, eos]) for p, a in zip(prompts, answers, strict=True)]
    documents = [d for d in documents if len(d[1]) <= longest]
    starts = np.cumsum([0] + [len(ids) for _, ids in documents])
    tokens = np.fromiter((t for _, ids in documents for t in ids), np.uint16, int(starts[-1]))
    return Corpus(tokens, starts, np.array([n for n, _ in documents]))


def pack(corpus: Corpus, length: int, seed: int, window: int = 4096) -> list[tuple[int, ...]]:
    """Group documents into rows of at most ``length`` tokens, in a random order of rows.

    Best fit, longest first, within windows of ``window`` shuffled documents: few tokens of
    padding, and whole documents only.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(corpus.prompts))
    sizes = np.diff(corpus.starts)
    rows: list[tuple[int, ...]] = []
    for begin in range(0, len(order), window):
        part = order[begin : begin + window]
        rows.extend(_best_fit(part[np.argsort(-sizes[part], kind="stable")], sizes, length))
    return [rows[i] for i in rng.permutation(len(rows))]


def _best_fit(documents: np.ndarray, sizes: np.ndarray, length: int) -> list[tuple[int, ...]]:
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    rows: list[list[int]] = []
    for document in documents.tolist():
        size = int(sizes[document])
        place = bisect_left(free, (size, -1))
        if place < len(free):
            room, row = free.pop(place)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(document)
        insort(free, (room - size, row))
    return [tuple(row) for row in rows]


def assemble(corpus: Corpus, rows: Sequence[tuple[int, ...]], length: int) -> Batch:
    """Tensors of a few packed rows (see :class:`Batch`)."""
    ids = np.zeros((len(rows), length), np.int64)
    positions, documents = np.zeros_like(ids), np.full_like(ids, -1)
    answer = np.zeros(ids.shape, bool)
    for r, row in enumerate(rows):
        at = 0
        for number, d in enumerate(row):
            begin, end = corpus.starts[d], corpus.starts[d + 1]
            size = int(end - begin)
            ids[r, at : at + size] = corpus.tokens[begin:end]
            positions[r, at : at + size] = np.arange(size)
            documents[r, at : at + size] = number
            answer[r, at + corpus.prompts[d] : at + size] = True
            at += size
    return Batch(*map(torch.from_numpy, (ids, positions, documents, answer)))
