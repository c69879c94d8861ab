"""The README's commands that name models and problems of the hub, to the letter but for size."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evals.commands import ROOT, records_of
from tests.hub import save_hub, serve_hub

README = (ROOT / "README.md").read_text().replace("\\\n", " ")
SMALL = ["limit=2", "max_tokens=40"]


def command(module: str) -> list[str]:
    """The arguments of the README's command that runs a module on Qwen's models."""
    (line,) = re.findall(rf"^python -m {module} (.*Qwen/.*)$", README, re.MULTILINE)
    return shlex.split(line)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which a stand-in is the hub, and nothing was downloaded yet."""
    root = tmp_path_factory.mktemp("hub")
    models = ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"]
    save_hub(root, models, "Qwen/Qwen2.5-Math-PRM-7B", "openai/gsm8k")
    with serve_hub(root) as address:
        own = {"HF_ENDPOINT": address, "HF_HOME": str(root / "cache"), "NO_PROXY": "127.0.0.1"}
        taken = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        yield taken | own | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}


def run(module: str, more: list[str], hub: dict[str, str], folder: Path) -> None:
    argv = [sys.executable, "-m", module, *command(module), *SMALL, *more]
    done = subprocess.run(argv, cwd=folder, env=hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_questions_are_answered_by_a_model_from_the_hub(hub, tmp_path):
    run("evals.reasoning", ["n=3"], hub, tmp_path)
    records = records_of(tmp_path / "runs/qwen")
    assert [len(record["samples"]) for record in records] == [3, 3]


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_a_sweep_has_model_scorer_and_problems_from_the_hub(hub, engine, tmp_path):
    if engine == "vllm":
        pytest.importorskip("vllm")
    run("evals.scaling", ["budgets=[1,2]", f"engine={engine}", "out=run"], hub, tmp_path)
    assert (tmp_path / "run/report.html").exists()
    samples = [sample for r in records_of(tmp_path / "run/samples-2") for sample in r["samples"]]
    assert len(samples) == 2 * 2
    scores = [score for sample in samples for score in sample["scores"]]
    assert scores and all(0 < score < 1 for score in scores)
