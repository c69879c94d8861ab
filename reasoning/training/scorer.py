"""Training of the step scorer: a process reward model fine-tuned from the language model.

Format, as in Math-Shepherd (Wang et al. 2024): every solution line is followed by the tag
``<step>``; at the tag, ``P(+) = softmax(logit of "+", logit of "-")`` is the score of the step.

Labels are automatic. The generator knows each problem's derivation, so a line is right when all
lines before it are and its equation is one of the derivation's that has not been used yet; the
last line is right when the answer is.
"""

import copy
import json
import random
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from reasoning.arithmetic import ANNOTATION, evaluate
from reasoning.embedded import folder_of
from reasoning.tasks.generator import generate_problems
from reasoning.tasks.types import Problem
from reasoning.training.corpus import Corpus, pack
from reasoning.training.loop import Job, Run, Team, job_of, launch
from reasoning.training.optim import load_checkpoint
from reasoning.training.sampling import sample
from reasoning.training.tokenizer import PROMPT, STEP_TAG

_SIMPLE = re.compile(r"<<([0-9]+)([-+*/])([0-9]+)=([0-9]+)>>[0-9]+")


def equation_key(line: str) -> tuple[str, ...] | None:
    """What a line computes, the same for ``3*4`` and ``4*3``; None without a right equation."""
    match = ANNOTATION.search(line)
    if match is None:
        return None
    expression, result = match[1].replace(" ", ""), match[2].strip()
    value = evaluate(expression)
    if value is None or value != evaluate(result):
        return None
    for sign in "+*":
        if re.fullmatch(rf"[\d.]+(\{sign}[\d.]+)+", expression):
            return (sign, *sorted(expression.split(sign)), result)
    return (expression, result)


def label_steps(problem: Problem, text: str) -> list[tuple[str, bool]]:
    """The lines of a solution, each with whether everything up to it is right."""
    known = [equation_key(line) for line in problem.solution]
    labelled, fine = [], True
    for line in text.split("\n"):
        if line.startswith("####"):
            fine = fine and line.removeprefix("####").strip() == problem.answer
        else:
            key = equation_key(line)
            fine = fine and key is not None and key in known
            if fine:
                known.remove(key)
        labelled.append((line, fine))
    return labelled


def tagged(lines: Sequence[str]) -> str:
    """Text of a solution as the scorer reads it: the tag after each line."""
    return "\n".join(line + STEP_TAG for line in lines)


class Trees(NamedTuple):
    """Several solutions of each problem behind one prompt; all arrays cover the same tokens.

    Fields:
        corpus: a document is a prompt and the solutions, end to end.
        positions: int64, as if each solution came directly after the prompt.
        branches: int64, 0 for the prompt and 1, 2, ... for the solutions.
        labels: int64, at a tag 1 (right) or 0 (wrong), -1 elsewhere.
    """

    corpus: Corpus
    positions: np.ndarray
    branches: np.ndarray
    labels: np.ndarray


def encode_trees(
    problems: Sequence[Problem],
    solutions: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
) -> Trees:
    """Tokens and labels of sampled solutions, each once; what exceeds ``longest`` is left out."""
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    columns: list[list[int]] = [[], [], [], []]
    starts, prompts = [0], []
    for problem, texts in zip(problems, solutions, strict=True):
        ids = tokenizer(PROMPT.format(question=problem.question))["input_ids"]
        document = [(t, i, 0, -1) for i, t in enumerate(ids)]
        for branch, text in enumerate(dict.fromkeys(texts), start=1):
            steps = label_steps(problem, text)
            body = tokenizer(tagged([s for s, _ in steps]), add_special_tokens=False)["input_ids"]
            marks = iter(fine for _, fine in steps)
            part = [
                (t, len(ids) + i, branch, int(next(marks)) if t == tag else -1)
                for i, t in enumerate(body)
            ]
            if len(document) + len(part) <= longest:
                document += part
        for column, values in zip(columns, zip(*document, strict=True), strict=True):
            column.extend(values)
        starts.append(len(columns[0]))
        prompts.append(len(ids))
    tokens, positions, branches, labels = (np.array(c) for c in columns)
    return Trees(Corpus(tokens, np.array(starts), np.array(prompts)), positions, branches, labels)


def assemble_trees(
    trees: Trees, rows: Sequence[tuple[int, ...]], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors of packed rows: ids, positions, mask ``[R, 1, T, T]`` and labels ``[R, T]``.

    A solution sees its own prompt and itself, not its siblings.
    """
    shape = (len(rows), length)
    ids, positions, branches = (np.zeros(shape, np.int64) for _ in range(3))
    documents, labels = np.full(shape, -1), np.full(shape, -1)
    for r, row in enumerate(rows):
        at = 0
        for d in row:
            span = slice(trees.corpus.starts[d], trees.corpus.starts[d + 1])
            here = (r, slice(at, at + span.stop - span.start))
            ids[here], positions[here] = trees.corpus.tokens[span], trees.positions[span]
            branches[here], labels[here] = trees.branches[span], trees.labels[span]
            documents[here] = d
            at += span.stop - span.start
    own, branch = torch.from_numpy(documents), torch.from_numpy(branches)
    sees = (own[:, :, None] == own[:, None, :]) & (
        (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    )
    mask = (sees & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return torch.from_numpy(ids), torch.from_numpy(positions), mask, torch.from_numpy(labels)


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
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(lm.state_dict(), strict=False)
    for layer in list(model.model.layers)[lm.config.num_hidden_layers :]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def scorer_loss(
    model: LlamaForCausalLM,
    signs: torch.Tensor,
    ids: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Mean cross entropy over the tags; ``signs`` holds the ids of ``-`` and ``+``, in nats."""
    hidden = model.model(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    logits = F.linear(hidden, model.lm_head.weight[signs]).float()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)


def sample_training_data(
    lm: str | Path,
    path: Path,
    num_problems: int,
    num: int,
    temperature: float,
    steps: tuple[int, int],
    seed: int,
    workers: int,
) -> None:
    """Write ``num`` solutions by the language model of each generated problem, as JSONL.

    Of every four problems three are of the stream ``(seed, "reward")``, whose wordings the language
    model has not seen, and one of ``(seed, "train")``; ``workers`` processes share them.
    """
    familiar = num_problems // 4
    problems = generate_problems("reward", num_problems - familiar, steps, seed)
    problems += generate_problems("train", familiar, steps, seed) if familiar else []
    random.Random(seed).shuffle(problems)
    size = 128
    parts = [problems[i : i + size] for i in range(0, num_problems, size)]
    jobs = [(lm, part, num, temperature, seed + i) for i, part in enumerate(parts)]
    with ExitStack() as stack, open(path, "w") as file:
        results: Iterable[list[list[str]]] = map(_sample_part, jobs)
        if workers > 1:
            pool = ProcessPoolExecutor(workers, get_context("spawn"), _one_thread)
            results = stack.enter_context(pool).map(_sample_part, jobs)
        for part, texts in zip(parts, results, strict=True):
            for problem, solutions in zip(part, texts, strict=True):
                file.write(json.dumps([problem, solutions]) + "\n")
            print(f"sampled for problem {part[-1].id}", flush=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _sample_part(job: tuple[str | Path, list[Problem], int, float, int]) -> list[list[str]]:
    """One process's share of :func:`sample_training_data`."""
    lm, problems, num, temperature, seed = job
    model = LlamaForCausalLM.from_pretrained(lm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    return sample(model, tokenizer, problems, num, temperature, seed=seed)


def append_corrupted(
    path: Path, num_problems: int, num: int, steps: tuple[int, int], seed: int
) -> None:
    """Add generated problems with their solution, right and spoilt in ``num`` - 1 ways.

    The language model is right too often to show what a wrong line looks like; so one line of the
    known solution gets a wrong result, operator or number, and the rest is left out.
    """
    rng = random.Random(seed)
    with open(path, "a") as file:
        for problem in generate_problems("reward", num_problems, steps, seed + 1):
            texts = [problem.solution_text()] + [corrupt(problem, rng) for _ in range(num - 1)]
            file.write(json.dumps([problem, texts]) + "\n")


def corrupt(problem: Problem, rng: random.Random) -> str:
    """The solution up to one line, drawn at random, and that line with a mistake in it."""
    last = rng.randrange(len(problem.solution))
    line = problem.solution[last]
    found = _SIMPLE.search(line)
    if found is None:
        return "\n".join(problem.solution[: last + 1])
    a, operator, b, result = int(found[1]), found[2], int(found[3]), int(found[4])
    kind = rng.choice(("result", "operator", "operand"))
    if kind == "operator":
        operator = rng.choice([o for o in "+-*" if o != operator])
    elif kind == "operand":
        numbers = [int(n) for n in re.findall(r"[0-9]+", problem.question)] + [a + 1, b + 1, b + 2]
        a, b = rng.choice([(rng.choice(numbers), b), (a, rng.choice(numbers))])
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // max(b, 1)}[operator]
    if kind == "result":
        value = result + rng.choice((-10, -9, -2, -1, 1, 2, 9, 10, 20))
    spoilt = line.replace(found[0], f"<<{a}{operator}{b}={value}>>{value}")
    return "\n".join((*problem.solution[:last], spoilt))


def read_training_data(path: Path) -> tuple[list[Problem], list[list[str]]]:
    """Problems and their solutions from :func:`sample_training_data`."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    problems = [Problem(p[0], p[1], p[2], tuple(p[3])) for p, _ in records]
    return problems, [texts for _, texts in records]


def train_scorer(
    *,
    out: str | Path,
    lm: str | Path,
    steps: int = 1000,
    minutes: float | None = None,
    num_problems: int = 8000,
    samples: int = 8,
    corrupted: int = 4000,
    temperature: float = 1.0,
    problem_steps: tuple[int, int] = (2, 5),
    extra_layers: int = 0,
    rows: int = 8,
    length: int = 768,
    lr: float = 1e-3,
    seed: int = 1,
    compile: bool = True,
    workers: int = 1,
    save_every: float = 120.0,
    log_every: int = 20,
) -> Path:
    """Sample solutions from the language model, label their steps, and fine-tune the scorer.

    Args:
        out: folder for weights, tokenizer, ``samples.jsonl`` and ``checkpoint.pt``; samples and
            checkpoint found there are used again.
        lm: folder of the language model.
        steps: optimiser steps.
        minutes: wall-clock budget, see ``train_lm``.
        num_problems, samples: problems, three in four with wordings that the language model has not
            seen, and solutions sampled for each.
        corrupted: further problems, with their solution and spoilt copies of it.
        temperature: of the sampling.
        problem_steps: range of solution lines.
        extra_layers: layers added on top of the language model's.
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
    load_checkpoint(job.out / "checkpoint.pt", job.settings)
    path = job.out / "samples.jsonl"
    if not path.is_file():
        partial = path.with_suffix(".tmp")
        sample_training_data(
            lm, partial, num_problems, samples, temperature, problem_steps, seed, workers
        )
        append_corrupted(partial, corrupted, 6, problem_steps, seed)
        partial.rename(path)
    AutoTokenizer.from_pretrained(lm).save_pretrained(str(job.out))
    launch(_train_worker, job, workers)
    return job.out


def _train_worker(rank: int, job: Job, team: Team) -> None:
    """One process of :func:`train_scorer`."""
    chosen = job.settings
    tokenizer = AutoTokenizer.from_pretrained(job.out)
    problems, texts = read_training_data(job.out / "samples.jsonl")
    length = chosen["length"]
    trees = encode_trees(problems, texts, tokenizer, length)
    plus, minus = sign_ids(tokenizer)
    signs = torch.tensor([minus, plus])
    torch.manual_seed(chosen["seed"])
    lm = LlamaForCausalLM.from_pretrained(chosen["lm"], dtype=torch.float32)
    model = deepen(lm, chosen["extra_layers"])
    if team.first:
        marks = trees.labels[trees.labels >= 0]
        print(f"{len(marks)} labelled steps, {100 * marks.mean():.1f}% right", flush=True)
    loss = torch.compile(scorer_loss) if job.compile else scorer_loss

    def batch_loss(model: LlamaForCausalLM, chunk: Sequence[tuple[int, ...]]) -> torch.Tensor:
        return loss(model, signs, *assemble_trees(trees, chunk, length))

    run = Run(model, job, team)
    run.fit(lambda epoch: pack(trees.corpus, length, chosen["seed"] + epoch), batch_loss)


@torch.inference_mode()
def score_steps(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    texts: Sequence[str],
) -> list[list[float]]:
    """P(+) of each line of each solution."""
    plus, minus = sign_ids(tokenizer)
    tag = tokenizer.convert_tokens_to_ids(STEP_TAG)
    prompt = PROMPT.format(question=problem.question)
    inputs = tokenizer(
        [prompt + tagged(text.split("\n")) for text in texts], return_tensors="pt", padding=True
    )
    hidden = model.model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    logits = F.linear(hidden, model.lm_head.weight[[plus, minus]]).float()
    right = logits.softmax(-1)[..., 0]
    return [row[ids == tag].tolist() for row, ids in zip(right, inputs["input_ids"], strict=True)]


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("reasoning_scorer", train_scorer, __doc__ or ""))
