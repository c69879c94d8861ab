"""Who may import whom, what the wheel holds, and what `import mbrl_core` costs."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mbrl_core", "reasoning", "control", "evals", "configs")
WORLDS = {"dm_control", "gymnasium", "mujoco", "datasets", "transformers", "vllm"}
MAY_NOT_IMPORT = {
    "mbrl_core": {"control", "reasoning", "evals", "configs", "hydra", "omegaconf", "ray", *WORLDS},
    "control": {"reasoning", "evals", "transformers", "datasets", "vllm", "ray"},
    "reasoning": {"control", "evals", "mujoco", "dm_control", "gymnasium"},
    "configs": {"control", "reasoning", "evals", "mbrl_core", "torch"},
    "evals": set[str](),
}
pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} has a relative import"
            yield node.lineno, (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_forbidden_import(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name in MAY_NOT_IMPORT[package]
    ]
    assert not breaches


def test_only_the_command_line_knows_hydra():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path != ROOT / "configs/cli.py":
                assert not {"hydra", "omegaconf"} & {name for _, name in imports(path)}, path


def test_every_folder_of_the_packages_is_in_the_wheel_and_no_other():
    include = pyproject["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(include) == {*PACKAGES, *(f"{package}.*" for package in PACKAGES)}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_the_core_pulls_no_world():
    core = " ".join(pyproject["project"]["dependencies"])
    assert not [name for name in (*WORLDS, "hydra", "ray") if name in core.replace("-", "_")]


def test_the_core_loads_nothing_of_the_worlds_and_little_but_torch():
    code = """
import sys, time
start = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - start
import mbrl_core
own_seconds = time.perf_counter() - start - torch_seconds
print(torch_seconds, own_seconds, *{name.split(".")[0] for name in sys.modules})
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    torch_seconds, own_seconds, *loaded = done.stdout.split()
    later = {"networkx"}  # not before it is asked for
    assert not (MAY_NOT_IMPORT["mbrl_core"] | later) & set(loaded)
    # The slack is for a busy machine; by itself the core takes some hundredths of torch's time.
    assert float(own_seconds) < 0.5 * float(torch_seconds) + 0.2


def test_the_wheel_holds_code_options_and_data_and_nothing_else(tmp_path):
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    # The build writes beside the sources, so it gets a copy of them.
    source = tmp_path / "source"
    source.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "LICENSE", "README.md"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in PACKAGES:
        kept = (path for path in (ROOT / package).rglob("*") if path.is_file())
        wanted = {str(p.relative_to(ROOT)) for p in kept if "__pycache__" not in p.parts}
        missing = {name for name in wanted if not name.rpartition("/")[2].startswith(".")} - names
        assert not missing, f"not in the wheel: {missing}"
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(".pyc")]
