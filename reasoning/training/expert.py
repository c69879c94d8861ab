"""Expert iteration: the language model's own verified solutions as its training data.

    python -m reasoning.training.expert gsm8k=openai/gsm8k rounds=3 out=runs/expert

What Dyna is to control, with search as the model that imagines: each round samples solutions of new
training problems, keeps those that end in the right answer and calculate rightly, and fine-tunes on
them beside the known solutions (Anthony et al. 2017, "Thinking fast and slow with deep learning and
tree search", arXiv:1705.08439; for language models Zelikman et al. 2022, "STaR", arXiv:2203.14465).
"""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from configs.processes import held
from reasoning.arithmetic import miscalculated
from reasoning.embedded import folder_of
from reasoning.tasks.generator import generate_problems
from reasoning.tasks.gsm8k import load_gsm8k
from reasoning.tasks.types import Problem
from reasoning.tasks.words import GSM8K
from reasoning.training.corpus import encode, training_problems
from reasoning.training.lm import fit_corpus
from reasoning.training.loop import Job, Team, job_of, launch, load_lm
from reasoning.training.samples import Sampled, is_right, read_samples, write_samples
from reasoning.training.sampling import sample, sampler

VALIDATION = 999_983
"""Seed of the validation problems, of the split "reward"; no round trains on that stream."""


def verified(sampled: Sampled, keep: int) -> list[Problem]:
    """The problem with each of its first ``keep`` distinct solutions that are right.

    Right is a solution that ends in the right answer and holds no equation that is wrong: a wrong
    one that came out right all the same would teach what does not follow.
    """
    problem, kept = sampled.problem, []
    for text in dict.fromkeys(sampled.texts):
        lines = text.split("\n")
        if is_right(problem, text) and not any(map(miscalculated, lines)):
            steps = tuple(line for line in lines if not line.startswith(GSM8K.closing))
            kept.append(problem._replace(solution=steps))
    return kept[:keep]


def expert_iteration(
    *,
    out: str | Path,
    lm: str | Path = "embedded",
    gsm8k: str | Path | None = None,
    rounds: int = 3,
    num_problems: int = 6000,
    samples: int = 8,
    keep: int = 4,
    known: int = 20_000,
    redraws: int = 1,
    temperature: float = 1.0,
    problem_steps: tuple[int, int] = (2, 5),
    steps: int = 800,
    minutes: float | None = None,
    rows: int = 12,
    length: int = 256,
    lr: float = 1e-3,
    question_weight: float = 0.1,
    validation: int = 500,
    seed: int = 2,
    compile: bool = True,
    workers: int = 1,
    save_every: float = 120.0,
    log_every: int = 20,
) -> Path:
    """Sample, keep what is verified, fine-tune; ``rounds`` times.

    Args:
        out: folder of ``rounds.csv``, a folder per round, and ``best``: the round with the highest
            greedy accuracy on the validation problems, in the hub's format. What is found there is
            used again.
        lm: folder of the language model to start from.
        gsm8k: GSM8K's folder or training file; its problems are among the known ones.
        rounds: how many.
        num_problems: new problems in a round, half of them in wordings that ``train_lm`` did not
            see.
        samples: solutions sampled of each.
        keep: distinct verified solutions of a problem that are trained on, at most.
        known: generated problems with the generator's own solution, new ones in each round.
        redraws: see ``train_lm``; likewise ``rows``, ``length`` and ``question_weight``.
        temperature: of the sampling.
        problem_steps: range of solution lines.
        steps, minutes: of each round's training.
        lr: highest learning rate of a round.
        validation: problems that the rounds are compared on.
        seed: of the problems and the sampling.
        compile, workers, save_every, log_every: see ``train_lm``.

    Returns:
        The folder of the best round.

    Raises:
        ValueError: a number below 1, or a folder of a run with other settings.
        FloatingPointError: the loss is not finite.
    """
    for name, number in [("rounds", rounds), ("keep", keep), ("validation", validation)]:
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    folders = [Path(folder_of(str(lm)))]
    shared = {
        "num_problems": num_problems, "samples": samples, "keep": keep, "known": known,
        "redraws": redraws, "temperature": temperature, "problem_steps": problem_steps,
        "steps": steps, "minutes": minutes, "rows": rows, "length": length, "lr": lr,
        "question_weight": question_weight, "compile": compile, "workers": workers,
        "save_every": save_every, "log_every": log_every,
    }  # fmt: skip
    real = [] if gsm8k is None else load_gsm8k(gsm8k, "train")
    judged = generate_problems("reward", validation, problem_steps, VALIDATION)
    results = [_result(0, folders[0], judged)]
    for number in range(1, rounds + 1):
        folder = Path(out) / f"round-{number}"
        draw = seed * 1009 + number
        job = job_of(shared | {"out": folder, "lm": str(folders[-1]), "seed": draw})
        problems = _problems(num_problems, problem_steps, draw)
        options: dict[str, Any] = {"num": samples, "temperature": temperature, "workers": workers}
        with held(folder):
            path = folder / "samples.jsonl"
            write_samples(path, folders[-1], problems, seed=draw, **options)
            kept = [own for sampled in read_samples(path) for own in verified(sampled, keep)]
            if not (folder / "corpus.npz").is_file():
                others = training_problems(known, real, redraws, problem_steps, draw)
                _write_corpus(folder, folders[-1], kept + others, length)
            launch(_train_worker, job, workers)
        folders.append(folder)
        results.append(_result(number, folder, judged) | {"kept": len(kept)})
        _write_table(Path(out) / "rounds.csv", results)
    best = max(range(len(results)), key=lambda i: results[i]["greedy"])
    leave = shutil.ignore_patterns("checkpoint.pt", "corpus.npz", "samples.jsonl", "*.tmp")
    shutil.copytree(folders[best], Path(out) / "best", dirs_exist_ok=True, ignore=leave)
    print(f"the best is round {best}: {results[best]['greedy']:.1%} greedy", flush=True)
    return Path(out) / "best"


def _problems(num: int, steps: tuple[int, int], seed: int) -> list[Problem]:
    """Half in wordings that the language model was first trained on, half in others."""
    half = num // 2
    return [
        *generate_problems("train", num - half, steps, seed),
        *(generate_problems("reward", half, steps, seed) if half else []),
    ]


def _write_corpus(folder: Path, lm: Path, problems: Sequence[Problem], length: int) -> None:
    """The tokenizer and ``corpus.npz``, which is there whole or not at all."""
    tokenizer = AutoTokenizer.from_pretrained(lm)
    tokenizer.save_pretrained(str(folder))
    partial = folder / "corpus.tmp.npz"
    np.savez(partial, **encode(problems, tokenizer, length)._asdict())
    partial.rename(folder / "corpus.npz")


def _train_worker(rank: int, job: Job, team: Team) -> None:
    """One process of a round."""
    torch.manual_seed(job.settings["seed"])
    fit_corpus(load_lm(job.settings["lm"]), job, team)


def _result(number: int, folder: Path, problems: Sequence[Problem]) -> dict[str, Any]:
    """A round's greedy accuracy on the validation problems."""
    texts = sample(sampler(folder), problems)
    right = [is_right(problem, text) for problem, (text,) in zip(problems, texts, strict=True)]
    result = {"round": number, "greedy": sum(right) / len(right), "problems": len(right), "kept": 0}
    print(f"round {number}: {result['greedy']:.1%} greedy on {len(right)}", flush=True)
    return result


def _write_table(path: Path, results: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("reasoning_expert", expert_iteration, __doc__ or ""))
