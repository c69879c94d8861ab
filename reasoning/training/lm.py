"""Training of the embedded language model from scratch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from configs.processes import held
from reasoning.tasks.gsm8k import load_gsm8k
from reasoning.tasks.words import GSM8K
from reasoning.training.corpus import Batch, Corpus, assemble, encode, pack, training_problems
from reasoning.training.loop import Job, Run, Team, job_of, launch
from reasoning.training.optim import load_checkpoint
from reasoning.training.tokenizer import PROMPT, save_tokenizer, train_tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerBase, width: int, layers: int, heads: int, inner: int
) -> LlamaForCausalLM:
    """A Llama with tied embeddings in float32, half as many key heads as query heads."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).float()


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError on sizes that `build_model` cannot use: pairs of heads share keys, and the
    positions turn pairs of a head's entries."""
    if heads < 2 or heads % 2:
        raise ValueError(f"heads must be an even number from 2 on, not {heads}")
    if width < 1 or width % (2 * heads):
        raise ValueError(f"width must be a multiple of {2 * heads} for heads={heads}, not {width}")


def same_document(documents: torch.Tensor) -> torch.Tensor:
    """Attention mask ``[R, 1, T, T]``: causal, and only within a document.

    Padding (-1) attends to padding, so that no row of the softmax is empty.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]


def token_weights(batch: Batch, question_weight: float) -> torch.Tensor:
    """Weight ``[R, T - 1]`` of predicting each next token: 1 in solutions, less in questions."""
    weights = torch.where(batch.answer, 1.0, question_weight)
    within = batch.documents[:, 1:] == batch.documents[:, :-1]
    return weights[:, 1:] * (within & (batch.documents[:, 1:] >= 0))


def loss_of(
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted mean of the next-token cross entropy, in nats."""
    logits = model(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
    ).logits
    each = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return (each * weights.flatten()).sum() / weights.sum()


def prepare(
    out: Path,
    gsm8k: str | Path | None,
    num_problems: int,
    redraws: int,
    problem_steps: tuple[int, int],
    vocab_size: int,
    length: int,
    seed: int,
) -> None:
    """Write the tokenizer and ``corpus.npz`` into ``out``."""
    real = [] if gsm8k is None else load_gsm8k(gsm8k, "train")
    problems = training_problems(num_problems, real, redraws, problem_steps, seed)
    sample = problems[:: max(1, len(problems) // 30_000)]
    texts = (PROMPT.format(question=p.question) + GSM8K.write(p) for p in sample)
    tokenizer = train_tokenizer(texts, vocab_size)
    save_tokenizer(tokenizer, out)
    corpus = encode(problems, tokenizer, length)
    if not len(corpus.prompts):
        raise ValueError(f"no problem fits in length={length} tokens: give more")
    np.savez(out / "corpus.npz", **corpus._asdict())


def train_lm(
    *,
    out: str | Path,
    gsm8k: str | Path | None = None,
    steps: int = 8000,
    minutes: float | None = None,
    num_problems: int = 80_000,
    redraws: int = 1,
    problem_steps: tuple[int, int] = (1, 5),
    vocab_size: int = 1024,
    width: int = 192,
    layers: int = 4,
    heads: int = 6,
    inner: int = 512,
    rows: int = 12,
    length: int = 256,
    lr: float = 3e-3,
    question_weight: float = 0.1,
    seed: int = 0,
    compile: bool = True,
    workers: int = 1,
    save_every: float = 180.0,
    log_every: int = 20,
) -> Path:
    """Train the tokenizer and the language model, and save both in the hub's format.

    Args:
        out: folder for the weights, the tokenizer and ``checkpoint.pt``; a run that finds a
            checkpoint there goes on from it.
        gsm8k: GSM8K's folder or training file; None trains on generated problems alone.
        steps: optimiser steps.
        minutes: wall-clock budget; the learning rate follows whichever of steps and minutes is
            further on. Without it a run is reproducible from its seed.
        num_problems: generated problems in one epoch.
        redraws: versions with other numbers tried for each problem of GSM8K.
        problem_steps: range of solution lines of the generated problems.
        vocab_size: tokens, special ones included.
        width, layers, heads, inner: sizes of the Llama model.
        rows, length: packed rows in a batch (over all workers), and tokens in a row.
        lr: highest learning rate.
        question_weight: weight of question tokens in the loss; solution tokens count 1.
        seed: of the data, its order and the initial weights.
        compile: use ``torch.compile``.
        workers: processes that share each batch, each with one thread when above 1. On busy
            cores they lose less than threads, which wait for each other in every operation.
        save_every: seconds between checkpoints.
        log_every: steps between progress lines.

    Returns:
        The folder ``out``.

    Raises:
        ValueError: sizes that make no model, a number that is too small, or a checkpoint with
            other settings.
        FloatingPointError: the loss is not finite.
    """
    given = dict(locals())
    check_heads(width, heads)
    job = job_of(given | {"gsm8k": True if gsm8k else None})  # where it lies may change
    with held(job.out):
        if load_checkpoint(job.out / "checkpoint.pt", job.settings) is None:
            prepare(job.out, gsm8k, num_problems, redraws, problem_steps, vocab_size, length, seed)
        launch(_train_worker, job, workers)
    return job.out


def _train_worker(rank: int, job: Job, team: Team) -> None:
    """One process of :func:`train_lm`."""
    chosen = job.settings
    tokenizer = AutoTokenizer.from_pretrained(job.out)
    torch.manual_seed(chosen["seed"])
    model = build_model(
        tokenizer, chosen["width"], chosen["layers"], chosen["heads"], chosen["inner"]
    )
    fit_corpus(model, job, team)


def fit_corpus(model: LlamaForCausalLM, job: Job, team: Team) -> None:
    """Train ``model`` on the job's ``corpus.npz``, then save it; one process of ``team``."""
    chosen = job.settings
    with np.load(job.out / "corpus.npz") as arrays:
        corpus = Corpus(**arrays)
    if team.first:
        size = sum(p.numel() for p in model.parameters())
        print(
            f"{len(corpus.prompts)} documents, {len(corpus.tokens)} tokens, {size} parameters",
            flush=True,
        )
    loss = torch.compile(loss_of) if job.compile else loss_of
    length = chosen["length"]

    def batch_loss(model: LlamaForCausalLM, chunk: Sequence[tuple[int, ...]]) -> torch.Tensor:
        batch = assemble(corpus, chunk, length)
        weights = token_weights(batch, chosen["question_weight"])
        return loss(model, batch.ids, batch.positions, same_document(batch.documents), weights)

    run = Run(model, job, team)
    run.fit(lambda epoch: pack(corpus, length, chosen["seed"] + epoch), batch_loss)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("reasoning_lm", train_lm, __doc__ or ""))
