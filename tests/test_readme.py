"""The README's code runs as written."""

from __future__ import annotations

import re
from pathlib import Path
from types import FunctionType

import pytest

import reasoning

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def lines(code: str) -> int:
    return sum(bool(line.strip()) for line in code.splitlines())


@pytest.mark.parametrize("code", BLOCKS, ids=["own dynamics", "own language model"])
def test_python_code_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_own_dynamics_takes_less_than_fifteen_lines_and_own_model_less_than_ten() -> None:
    dynamics, language = BLOCKS
    assert lines(dynamics) < 15
    assert lines(language) < 10


def test_every_strategy_that_is_named_comes_from_the_package() -> None:
    (listed,) = re.findall(r"The other strategies are (.*?), which", README, re.DOTALL)
    names = re.findall(r"`(\w+)`", listed)
    assert {"best_of_n", "rap", "compute_optimal"} <= set(names) <= set(reasoning.__all__)
    assert all(isinstance(getattr(reasoning, name), FunctionType) for name in names)
