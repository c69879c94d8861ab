"""Training of the step scorer: a process reward model fine-tuned from the language model.

Format, as in Math-Shepherd (Wang et al. 2024): every solution line is followed by the tag
``<step>``; at the tag, ``P(+) = softmax(logit of "+", logit of "-")`` is the score of the step.

Labels are automatic, by Monte Carlo: a line is worth the share of the language model's own
completions from there that come to the right answer (`reasoning/training/samples.py`). Most of what
these labels say is how hard the problem is, which chooses no solution; so the right solutions of a
problem are also compared with its wrong ones (as in Ouyang et al. 2022, equation 1). And at every
other token of a solution the same two signs learn how likely the language model holds that token:
where it is surprised a solution is often wrong, which a few thousand problems do not teach.
"""

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from configs.processes import held
from reasoning.embedded import folder_of
from reasoning.tasks.generator import generate_problems
from reasoning.tasks.types import Problem
from reasoning.training.corpus import Corpus, pack
from reasoning.training.loop import Job, Run, Team, job_of, launch, load_lm
from reasoning.training.optim import load_checkpoint
from reasoning.training.samples import (
    Valued,
    read_samples,
    read_values,
    write_samples,
    write_values,
)
from reasoning.training.tokenizer import PROMPT, STEP_TAG


def tagged(lines: Sequence[str]) -> str:
    """Text of a solution as the scorer reads it: the tag after each line."""
    return "\n".join(line + STEP_TAG for line in lines)


class Trees(NamedTuple):
    """Several solutions of each problem behind one prompt; all arrays cover the same tokens.

    Fields:
        corpus: a document is a prompt and the solutions, end to end.
        positions: int64, as if each solution came directly after the prompt.
        branches: int64, 0 for the prompt and 1, 2, ... for the solutions.
        labels: float32, at a tag what the line is worth in [0, 1], -1 elsewhere.
        untagged: int64, the positions as if there were no tags.
        before: int64, from which token of its document a solution's token is predicted where there
            are no tags; -1 for the prompt and the tags themselves.
    """

    corpus: Corpus
    positions: np.ndarray
    branches: np.ndarray
    labels: np.ndarray
    untagged: np.ndarray
    before: np.ndarray


def encode_trees(
    valued: Sequence[Valued], tokenizer: PreTrainedTokenizerBase, longest: int
) -> Trees:
    """Tokens and labels of solutions; what exceeds ``longest`` is left out."""
    [tag] = tokenizer.encode(STEP_TAG, add_special_tokens=False)
    columns: list[list[Any]] = [[], [], [], [], [], []]
    starts, prompts = [0], []
    for problem, texts, values in valued:
        ids = tokenizer(PROMPT.format(question=problem.question))["input_ids"]
        document = [(t, i, 0, -1.0, i, -1) for i, t in enumerate(ids)]
        for branch, (text, worth) in enumerate(zip(texts, values, strict=True), start=1):
            body = tokenizer(tagged(text.split("\n")), add_special_tokens=False)["input_ids"]
            if len(document) + len(body) <= longest:
                document += _branch(body, branch, worth, tag, len(ids), len(document))
        for column, entries in zip(columns, zip(*document, strict=True), strict=True):
            column.extend(entries)
        starts.append(len(columns[0]))
        prompts.append(len(ids))
    tokens, positions, branches = (np.array(column) for column in columns[:3])
    labels = np.array(columns[3], np.float32)
    corpus = Corpus(tokens, np.array(starts), np.array(prompts))
    return Trees(corpus, positions, branches, labels, *map(np.array, columns[4:]))


def _branch(
    body: Sequence[int], branch: int, worth: Sequence[float], tag: int, prompt: int, start: int
) -> list[tuple[Any, ...]]:
    """The entries of a solution's tokens, which stand from ``start`` on in their document."""
    marks, entries = iter(worth), []
    last, plain = prompt - 1, prompt  # of the tokens that are no tags
    for i, token in enumerate(body):
        if token == tag:
            entries.append((token, prompt + i, branch, next(marks), plain, -1))
        else:
            entries.append((token, prompt + i, branch, -1.0, plain, last))
            last, plain = start + i, plain + 1
    return entries


class Batch(NamedTuple):
    """Packed rows of trees; a solution sees its own prompt and itself, not its siblings.

    Fields:
        ids, positions: int64 ``[R, T]``.
        mask: bool ``[R, 1, T, T]``, who sees whom.
        labels: float32 ``[R, T]``, at a tag what the line is worth, -1 elsewhere.
        ends: int64 ``[R, T]``, at a solution's last tag the number of its problem, -1 elsewhere.
        untagged: int64 ``[R, T]``, positions without tags.
        before: int64 ``[R, T]``, from where in its row a token is predicted; -1: from nowhere.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    ends: torch.Tensor
    untagged: torch.Tensor
    before: torch.Tensor


def assemble_trees(trees: Trees, rows: Sequence[tuple[int, ...]], length: int) -> Batch:
    """The batch of packed rows, each some documents of ``trees``."""
    shape = (len(rows), length)
    ids, positions, branches, untagged = (np.zeros(shape, np.int64) for _ in range(4))
    ends, before = np.full(shape, -1), np.full(shape, -1)
    documents, labels = np.full(shape, -1), np.full(shape, -1, np.float32)
    for r, row in enumerate(rows):
        at = 0
        for d in row:
            span = slice(trees.corpus.starts[d], trees.corpus.starts[d + 1])
            here = (r, slice(at, at + span.stop - span.start))
            ids[here], positions[here] = trees.corpus.tokens[span], trees.positions[span]
            branches[here], labels[here] = trees.branches[span], trees.labels[span]
            documents[here], untagged[here] = d, trees.untagged[span]
            before[here] = np.where(trees.before[span] < 0, -1, trees.before[span] + at)
            branch = trees.branches[span]
            ends[here] = np.where((branch > 0) & (branch != np.append(branch[1:], 0)), d, -1)
            at += span.stop - span.start
    own, apart = torch.from_numpy(documents), torch.from_numpy(branches)
    sees = (own[:, :, None] == own[:, None, :]) & (
        (apart[:, None, :] == 0) | (apart[:, :, None] == apart[:, None, :])
    )
    mask = (sees & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    rest = (torch.from_numpy(array) for array in (labels, ends, untagged, before))
    return Batch(torch.from_numpy(ids), torch.from_numpy(positions), mask, *rest)


def sign_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Token ids of ``+`` and ``-``.

    Raises:
        ValueError: one of them is not a single token.
    """
    plus, minus = (tokenizer.encode(s, add_special_tokens=False) for s in "+-")
    if len(plus) != 1 or len(minus) != 1:
        raise ValueError("The tokenizer must hold + and - as single tokens.")
    return plus[0], minus[0]


def deepen(lm: LlamaForCausalLM, extra: int) -> LlamaForCausalLM:
    """The language model with ``extra`` layers on top that begin as the identity.

    What the language model expected at a token is known only after its last layer; the new layers
    can compare it with the token that came.
    """
    config = copy.deepcopy(lm.config)
    config.num_hidden_layers += extra
    config.scorer_family = "steps"  # as `reasoning.scorers.family_of` asks
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(lm.state_dict(), strict=False)
    for layer in list(model.model.layers)[lm.config.num_hidden_layers :]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def log_odds(
    model: LlamaForCausalLM,
    signs: torch.Tensor,
    ids: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Logit of ``+`` over that of ``-`` at every token [R, T]; ``signs`` holds the ids of both."""
    hidden = model.model(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    plus, minus = model.lm_head.weight[signs]
    return F.linear(hidden, (plus - minus)[None]).squeeze(-1).float()


@torch.no_grad()
def expected(lm: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The language model's probability [R, T] of each token that has a ``before``, without tags."""
    seen = batch.mask & (batch.labels < 0)[:, None, None]
    seen |= torch.eye(batch.mask.shape[-1], dtype=torch.bool)
    logits = lm(
        input_ids=batch.ids, position_ids=batch.untagged, attention_mask=seen, use_cache=False
    ).logits
    shares = logits.softmax(-1)
    rows = torch.arange(len(shares))[:, None]
    return shares[rows, batch.before.clamp(min=0), batch.ids]


def scorer_loss(
    odds: torch.Tensor, batch: Batch, comparisons: float, likely: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross entropy over the tags, in nats, and ``comparisons`` times that of which of two
    solutions is the right one, over the pairs of a right and a wrong one of a problem; with
    ``likely`` [R, T] also that of the other tokens, which are worth so much."""
    tags, ends = batch.labels >= 0, batch.ends >= 0
    loss = F.binary_cross_entropy_with_logits(odds[tags], batch.labels[tags])
    last, worth, problem = odds[ends], batch.labels[ends], batch.ends[ends]
    pairs = (problem[:, None] == problem) & (worth[:, None] > worth)
    if comparisons and pairs.any():
        loss = loss + comparisons * F.softplus(last - last[:, None])[pairs].mean()
    if likely is not None:
        told = batch.before >= 0
        loss = loss + F.binary_cross_entropy_with_logits(odds[told], likely[told])
    return loss


def scorer_problems(num: int, steps: tuple[int, int], seed: int) -> list[Problem]:
    """Problems to sample solutions of, in a random order.

    Of every four, three are of the stream ``(seed, "reward")``, whose wordings the language model
    has not seen, and one of ``(seed, "train")``.
    """
    familiar = num // 4
    problems = generate_problems("reward", num - familiar, steps, seed)
    problems += generate_problems("train", familiar, steps, seed) if familiar else []
    random.Random(seed).shuffle(problems)
    return problems


def train_scorer(
    *,
    out: str | Path,
    lm: str | Path,
    steps: int = 2000,
    minutes: float | None = None,
    num_problems: int = 6000,
    samples: int = 12,
    rollouts: int = 6,
    temperature: float = 1.0,
    problem_steps: tuple[int, int] = (2, 5),
    extra_layers: int = 2,
    comparisons: float = 1.0,
    likelihood: bool = True,
    rows: int = 8,
    length: int = 768,
    lr: float = 1e-3,
    seed: int = 1,
    compile: bool = True,
    workers: int = 1,
    save_every: float = 120.0,
    log_every: int = 20,
) -> Path:
    """Sample solutions from the language model, value their steps, and fine-tune the scorer.

    Args:
        out: folder for weights, tokenizer, ``samples.jsonl``, ``values.jsonl`` and
            ``checkpoint.pt``; what is found there is used again.
        lm: folder of the language model.
        steps: optimiser steps.
        minutes: wall-clock budget of the training, see ``train_lm``.
        num_problems, samples: problems, three in four with wordings that the language model has not
            seen, and solutions sampled for each.
        rollouts: completions from each line that fewer samples pass through.
        temperature: of the sampling.
        problem_steps: range of solution lines.
        extra_layers: layers added on top of the language model's.
        comparisons: weight of the comparisons between right and wrong solutions of a problem.
        likelihood: whether it also learns how likely the language model holds each token.
        rows, length: packed rows in a batch, and tokens in a row.
        lr: highest learning rate.
        seed: stream of the problems; must differ from the language model's, so that it is
            sampled on problems that it has not been trained on.
        compile, workers, save_every, log_every: see ``train_lm``.

    Returns:
        The folder ``out``.

    Raises:
        ValueError: ``steps`` or ``workers`` below 1, or a checkpoint with other settings.
        FloatingPointError: the loss is not finite.
    """
    lm = folder_of(str(lm))
    job = job_of(dict(locals()))
    with held(job.out):
        if load_checkpoint(job.out / "checkpoint.pt", job.settings) is None:
            options: dict[str, Any] = {"temperature": temperature, "seed": seed, "workers": workers}
            problems = scorer_problems(num_problems, problem_steps, seed)
            write_samples(job.out / "samples.jsonl", lm, problems, num=samples, **options)
            sampled = read_samples(job.out / "samples.jsonl")
            write_values(job.out / "values.jsonl", lm, sampled, rollouts=rollouts, **options)
        AutoTokenizer.from_pretrained(lm).save_pretrained(str(job.out))
        launch(_train_worker, job, workers)
    return job.out


def _train_worker(rank: int, job: Job, team: Team) -> None:
    """One process of :func:`train_scorer`."""
    chosen = job.settings
    tokenizer = AutoTokenizer.from_pretrained(job.out)
    length = chosen["length"]
    trees = encode_trees(read_values(job.out / "values.jsonl"), tokenizer, length)
    plus, minus = sign_ids(tokenizer)
    signs = torch.tensor([plus, minus])
    torch.manual_seed(chosen["seed"])
    lm = load_lm(chosen["lm"])
    model = deepen(lm, chosen["extra_layers"])
    if team.first:
        marks = trees.labels[trees.labels >= 0]
        print(f"{len(marks)} valued steps, {marks.mean():.3f} on average", flush=True)
    odds_of = torch.compile(log_odds) if job.compile else log_odds
    likely_of = torch.compile(expected) if job.compile else expected

    def batch_loss(model: LlamaForCausalLM, chunk: Sequence[tuple[int, ...]]) -> torch.Tensor:
        batch = assemble_trees(trees, chunk, length)
        odds = odds_of(model, signs, batch.ids, batch.positions, batch.mask)
        likely = likely_of(lm, batch) if chosen["likelihood"] else None
        return scorer_loss(odds, batch, chosen["comparisons"], likely)

    run = Run(model, job, team)
    run.fit(lambda epoch: pack(trees.corpus, length, chosen["seed"] + epoch), batch_loss)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("reasoning_scorer", train_scorer, __doc__ or ""))
