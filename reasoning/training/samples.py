"""Solutions that a language model samples, and what their steps are worth by its own rollouts.

Both are JSONL files written part by part: a run that was stopped goes on after the last whole part,
and gives what it would have given.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs.processes import end_with
from reasoning.tasks.types import Problem
from reasoning.tasks.words import GSM8K
from reasoning.training.sampling import complete, sample, sampler
from reasoning.training.tokenizer import PROMPT

PART = 64
"""Problems in a part."""


class Sampled(NamedTuple):
    """A problem and solutions of it, equal ones as often as they were drawn."""

    problem: Problem
    texts: list[str]


class Valued(NamedTuple):
    """A problem, distinct solutions of it, and of each of their lines the share of rollouts from
    there that reach the right answer."""

    problem: Problem
    texts: list[str]
    values: list[list[float]]


def is_right(problem: Problem, text: str) -> bool:
    """Whether a whole solution ends in the right answer, marked as such."""
    return GSM8K.closing in text and bool(GSM8K.grade(text, problem).correct)


def write_samples(
    path: Path,
    lm: str | Path,
    problems: Sequence[Problem],
    *,
    num: int,
    temperature: float,
    seed: int,
    workers: int,
) -> None:
    """Write ``num`` solutions of each problem by the language model at ``lm``, a line per problem.

    ``workers`` processes share the parts; each part's draws depend on ``seed`` and its number.
    """
    work = partial(_sample_part, str(lm), num, temperature)
    _write_parts(path, work, list(problems), seed, workers)


def read_samples(path: Path) -> list[Sampled]:
    """What :func:`write_samples` wrote."""
    records = map(json.loads, path.read_text().splitlines())
    return [Sampled(_problem(record[0]), record[1]) for record in records]


def write_values(
    path: Path,
    lm: str | Path,
    samples: Sequence[Sampled],
    *,
    rollouts: int,
    temperature: float,
    seed: int,
    workers: int,
) -> None:
    """Write what each line of each distinct solution is worth, a line per problem.

    As in Math-Shepherd (Wang et al. 2024, "Math-Shepherd: verify and reinforce LLMs step-by-step
    without human annotations", equation 4) a line is worth the share of ``rollouts`` completions
    from there that come to the right answer (their soft estimation). The sampled solutions that
    pass through a line are completions of it, too, and count.
    """
    work = partial(_value_part, str(lm), rollouts, temperature)
    _write_parts(path, work, list(samples), seed, workers)


def read_values(path: Path) -> list[Valued]:
    """What :func:`write_values` wrote."""
    records = map(json.loads, path.read_text().splitlines())
    return [Valued(_problem(record[0]), record[1], record[2]) for record in records]


def _problem(fields: Sequence[Any]) -> Problem:
    return Problem(fields[0], fields[1], fields[2], tuple(fields[3]))


def _write_parts(
    path: Path,
    work: Callable[[tuple[list[Any], int]], list[Any]],
    items: list[Any],
    seed: int,
    workers: int,
) -> None:
    """Append ``work`` of each part that the file does not hold yet."""
    parts = [(items[i : i + PART], seed * 100_003 + i // PART) for i in range(0, len(items), PART)]
    done = _whole_parts(path, len(items))
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "a"))
        results: Iterable[list[Any]] = map(work, parts[done:])
        if workers > 1 and done < len(parts):
            pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (os.getpid(),))
            results = stack.enter_context(pool).map(work, parts[done:])
        for number, records in enumerate(results, done + 1):
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            print(f"{path.name}: {min(number * PART, len(items))}/{len(items)}", flush=True)


def _whole_parts(path: Path, total: int) -> int:
    """How many of the parts of ``total`` items the file holds; what follows them is cut off."""
    if not path.is_file():
        return 0
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    kept = total if len(lines) == total else len(lines) // PART * PART
    with open(path, "r+") as file:
        file.truncate(sum(len(line.encode()) for line in lines[:kept]))
    return -(-kept // PART)


def _begin_worker(parent: int) -> None:
    end_with(parent)
    torch.set_num_threads(1)


def _sample_part(
    lm: str, num: int, temperature: float, part: tuple[list[Problem], int]
) -> list[Any]:
    problems, seed = part
    texts = sample(sampler(lm), problems, num, temperature, seed=seed)
    return [[problem, drawn] for problem, drawn in zip(problems, texts, strict=True)]


def _value_part(
    lm: str, rollouts: int, temperature: float, part: tuple[list[Sampled], int]
) -> list[Any]:
    samples, seed = part
    passed = [_passed(sampled) for sampled in samples]
    few = [
        (number, prefix)
        for number, outcomes in enumerate(passed)
        for prefix, seen in outcomes.items()
        if len(seen) < rollouts and not _is_end(prefix)
    ]
    prompts = [
        PROMPT.format(question=samples[number].problem.question) + prefix + "\n"
        for number, prefix in few
    ]
    texts = complete(sampler(lm), prompts, rollouts, temperature, seed=seed)
    for (number, prefix), drawn in zip(few, texts, strict=True):
        problem = samples[number].problem
        passed[number][prefix] += [is_right(problem, f"{prefix}\n{text}") for text in drawn]
    return [_valued(sampled, outcomes) for sampled, outcomes in zip(samples, passed, strict=True)]


def _passed(sampled: Sampled) -> dict[str, list[bool]]:
    """Of each prefix in whole lines, whether the sampled solutions through it are right."""
    passed: dict[str, list[bool]] = defaultdict(list)
    for text in sampled.texts:
        right = is_right(sampled.problem, text)
        for prefix in _prefixes(text):
            passed[prefix].append(right)
    return passed


def _prefixes(text: str) -> list[str]:
    lines = text.split("\n")
    return ["\n".join(lines[: i + 1]) for i in range(len(lines))]


def _is_end(prefix: str) -> bool:
    return prefix.rsplit("\n", 1)[-1].startswith(GSM8K.closing)


def _valued(sampled: Sampled, passed: dict[str, list[bool]]) -> list[Any]:
    texts = list(dict.fromkeys(sampled.texts))
    values = [
        [round(sum(passed[prefix]) / len(passed[prefix]), 4) for prefix in _prefixes(text)]
        for text in texts
    ]
    return [sampled.problem, texts, values]
