"""The benchmark: what it concludes from times, that both sides do the same work, its records."""

import itertools
import json
import subprocess
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from control.latent import size_named
from evals.bench import client, command, numbers, training, worlds
from evals.bench.cells import GROUPS, SMALL, Cell, cells
from evals.bench.client import SIDES, Side, SideError, Worker
from evals.bench.measure import agreement, exponent, geometric_mean, ratio, spread, take_turns
from evals.bench.options import changed
from evals.bench.sides import bare, ours, tdmpc2_ours
from evals.report import Table, markdown
from mbrl_core import generator
from mbrl_core.testing import check_model

TINY = {"planner": "CEM", "roots": 2, "samples": 8, "elites": 2, "width": 4}
TINY |= {"horizon": 3, "iterations": 2}
GAME = {"planner": "MCTS", "selection": "PUCT", "actions": 3, "simulations": 5, "roots": 2}
GAME |= {"width": 4}


class Clock:
    """A side whose runs take the given seconds, and which notes when it ran."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, times):
        self.log.append((self.name, times))
        return self.seconds


class Fake(Clock):
    """Stands for a `Worker` without a process; `broken` libraries do not install."""

    started: ClassVar[list[str]] = []
    broken: ClassVar[set[str]] = set()

    def __init__(self, side, threads):
        super().__init__(side.module, 0.01, [])
        if side.module in self.broken:
            raise SideError("does not install: no such library")
        self.started.append(side.module)
        self.versions = {"torch": "0.0", side.module: "1.2"}

    def prepare(self, settings):
        return 0.5

    def memory(self):
        return 2**20

    def answer(self):
        return [1, 2]

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(command, "Worker", Fake)
    monkeypatch.setattr(Fake, "started", [])
    monkeypatch.setattr(Fake, "broken", set())
    return Fake


def test_sides_take_turns_and_short_runs_are_repeated_within_one():
    log: list[tuple[str, int]] = []
    spent = take_turns([Clock("a", 0.1, log), Clock("b", 0.001, log)], turns=3, seconds=60)
    assert log == [("a", 1), ("b", 1), *[("a", 1), ("b", 50)] * 3]
    assert spent == [[0.1] * 3, [0.001] * 3]


def test_a_slow_cell_gets_fewer_turns_but_never_none(monkeypatch):
    clock = itertools.count(step=30.0)  # every look at the clock is half a minute later
    monkeypatch.setattr("evals.bench.measure.time.perf_counter", lambda: next(clock))
    log: list[tuple[str, int]] = []
    assert len(take_turns([Clock("a", 30.0, log)], turns=31, seconds=20)[0]) == 3
    assert len(take_turns([Clock("a", 30.0, log)], turns=31, seconds=1)[0]) == 1


def test_conclusions_from_times_are_exact_where_the_answer_is_known():
    sizes = [1, 10, 100]
    assert exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [0, 0, 5]) is None
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([]) is None
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    assert ratio([2.0, 4.0, 12.0], [1.0, 2.0, 3.0]) == (2.0, 2.0, 3.0)
    assert agreement([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75
    assert agreement([1], [1, 2]) is None and agreement(None, [1]) is None


@pytest.mark.parametrize("full", [False, True])
def test_cells_have_names_of_their_own_and_sides_that_exist(full):
    listed = [cell for group in GROUPS for cell in cells(group, full)]
    assert len({cell.id for cell in listed}) == len(listed)
    assert {cell.other for cell in listed} - {None} <= set(SIDES)
    assert {cell.group for cell in listed} == set(GROUPS)
    assert all(json.loads(json.dumps(cell.settings)) == cell.settings for cell in listed)


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="no group 'tree': choose among overhead, peers, trees"):
        cells("tree", full=False)


@pytest.mark.parametrize("planner", ["CEM", "MPPI"])
def test_bare_calls_are_those_of_the_plan(planner, monkeypatch):
    stepped = []
    step = worlds.ControlWorld.step

    def counted(self, state, action, *, rng):
        stepped.append(len(state))
        return step(self, state, action, rng=rng)

    monkeypatch.setattr(worlds.ControlWorld, "step", counted)
    for prepare in (ours.prepare, bare.prepare):
        stepped.clear()
        prepare(TINY | {"planner": planner}).run()
        assert stepped == [2 * 8] * (3 * 2)


@pytest.mark.parametrize("world", ["table", "network"])
def test_bare_calls_are_those_of_the_search(world, monkeypatch):
    kind = worlds.TableWorld if world == "table" else worlds.GameWorld
    stepped = []
    step = kind.step

    def counted(self, state, action, *, rng):
        stepped.append(len(action))
        return step(self, state, action, rng=rng)

    monkeypatch.setattr(kind, "step", counted)
    for prepare in (ours.prepare, bare.prepare):
        stepped.clear()
        prepare(GAME | {"world": world}).run()
        assert stepped == [2] * 5


@pytest.mark.parametrize(
    ("world", "state"),
    [
        (worlds.control_model(worlds.ControlWorld(4)), torch.zeros(2, numbers.STATE)),
        (worlds.control_model(worlds.LatentWorld(4)), torch.zeros(2, numbers.STATE)),
        *(worlds.search_problem(world, 3, 2, width=4) for world in worlds.WORLDS),
    ],
    ids=["control", "latent", *worlds.WORLDS],
)
def test_the_models_keep_the_contract(world, state):
    check_model(world, state)


@pytest.mark.parametrize("world", ["table", "network"])
def test_rules_are_the_same_game(world):
    called, compiled = (
        ours.prepare(GAME | {"world": name, "simulations": 40}).run()[0]
        for name in (world, f"{world} rules")
    )
    assert called.action.equal(compiled.action)
    assert called.trace.parent.equal(compiled.trace.parent)
    assert torch.allclose(called.trace.value, compiled.trace.value, atol=1e-5)


def test_networks_are_the_numbers_they_are_made_of():
    layers = numbers.control_layers(8)
    x = np.linspace(-1, 1, 3 * (numbers.STATE + numbers.ACTION), dtype=np.float32).reshape(3, -1)
    expected = x
    for i, (weight, bias) in enumerate(layers):
        expected = (expected / (1 + np.exp(-expected)) if i else expected) @ weight + bias
    assert worlds.network(layers)(torch.from_numpy(x)).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("option", "tolerance"), [("chunks", 1e-5), ("bfloat16", 0.1)])
def test_options_change_the_model_by_rounding_alone(option, tolerance):
    world = worlds.ControlWorld(8)
    state = torch.from_numpy(numbers.states(2051))
    action = torch.full((len(state), numbers.ACTION), 0.5)
    plain = world.step(state, action, rng=generator(0))
    other = changed(world, option).step(state, action, rng=generator(0))
    assert changed(world, None) is world
    assert other.discount.equal(plain.discount)
    assert torch.allclose(other.state, plain.state, atol=tolerance)
    assert torch.allclose(other.reward, plain.reward, atol=tolerance)


def test_quality_is_the_return_of_the_plan_that_was_found():
    job = ours.prepare(TINY)
    plan, carry = job.run()
    assert job.describe((plan, carry)) == pytest.approx(plan.value.mean().item(), rel=1e-5)


def test_a_side_runs_in_a_process_that_survives_errors():
    with Worker(SIDES["bare calls"], threads=1) as worker:
        assert set(worker.versions) == {"torch"}
        with pytest.raises(SideError, match="RuntimeError: nothing has been prepared"):
            worker.run(1)
        with pytest.raises(SideError, match="KeyError: 'width'"):
            worker.prepare({"planner": "CEM"})
        assert worker.prepare(TINY | SMALL) > 0
        assert worker.run(2) > 0
        held = worker.memory()
        assert held is None or held >= 0
        worker._process.kill()
        with pytest.raises(SideError, match="its process ended: exit code -9"):
            worker.run(1)


def test_a_side_that_cannot_start_or_install_says_why(tmp_path, monkeypatch):
    with pytest.raises(SideError, match=r"its process ended: .*No module named"):
        Worker(Side("no_such_side"), threads=1)
    monkeypatch.setattr(client, "FOLDERS", tmp_path)
    lost = Side("lost", install=("--no-index", "--find-links", str(tmp_path), "no-such-library"))
    with pytest.raises(SideError, match="does not install: No matching distribution"):
        Worker(lost, threads=1)


def test_a_run_is_on_record_and_goes_on_where_it_stopped(tmp_path, fake):
    fake.broken = {"torchrl"}
    told: list[str] = []
    run = partial(command.bench, groups=["peers", "growth"], out=tmp_path, say=told.append)
    page = run().read_text()
    count = sum(
        cell.other != "torchrl" for cell in [*cells("peers", False), *cells("growth", False)]
    )
    records = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(records) == count
    assert fake.started.count("ours") == 1
    assert "| CEM |  | mbrl-lib | 64 x 15 steps x 6 | 2 x 64 | 1 |" in page
    assert "does not install: no such library" in page
    fake.broken, fake.started = set(), []
    again = run().read_text()
    assert set(fake.started) == {"ours", "torchrl"}, "only what was missing is measured"
    assert "does not install" not in again
    fake.started = []
    run(report=True)
    assert not fake.started


def test_one_group_does_not_forget_what_another_misses(tmp_path, fake):
    fake.broken = {"mctx"}
    command.bench(groups=["trees"], out=tmp_path, say=lambda line: None)
    page = command.bench(groups=["growth"], out=tmp_path, say=lambda line: None)
    assert "no such library" in page.read_text()


def test_our_own_failure_ends_the_run(tmp_path, fake):
    fake.broken = {"ours"}
    with pytest.raises(ValueError, match=r"our side of 'growth CEM .*' fails: does not install"):
        command.bench(groups=["growth"], out=tmp_path, say=lambda line: None)


def test_tables_in_markdown():
    table = Table(["a", "b"], [["x|y", 0.123456], [None, 12345]], "Below.")
    assert markdown(table).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x\\|y | 0.123 |",
        "| – | 12,345 |",
        "",
        "Below.",
    ]


def test_a_cell_is_named_by_all_that_makes_it():
    cell = Cell("peers", {"planner": "CEM", "roots": 1, "width": 64}, "torchrl")
    assert cell.id == "peers CEM roots=1 width=64 against torchrl"


def test_both_sides_of_training_have_the_same_networks_and_learn():
    for name, size in training.SIZES.items():
        known = size_named(name)
        assert size == {"encoder": known.encoder, "hidden": known.hidden, "latent": known.latent}
    learner = tdmpc2_ours.learner_of("cpu")
    before = [p.detach().clone() for p in learner.updates.world.parameters()]
    learner.updates.update(tdmpc2_ours.batch_of())
    after = learner.updates.world.parameters()
    assert not all(p.equal(q) for p, q in zip(before, after, strict=True))


def test_a_repository_is_fetched_at_its_commit_and_a_missing_one_told(tmp_path, monkeypatch):
    origin, folders = tmp_path / "origin", tmp_path / "peers"
    monkeypatch.setattr(client, "FOLDERS", folders)

    def git(*words: str) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(origin), *author, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    origin.mkdir()
    git("init", "--quiet")
    (origin / "code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    side = Side("there", source=(str(origin), git("rev-parse", "HEAD")))
    client.install(side)
    source = folders / "there" / "source" / "code.py"
    assert source.read_text() == "x = 1\n"
    source.write_text("y")
    client.install(side)  # what is there is not fetched again
    assert source.read_text() == "y"
    with pytest.raises(SideError, match="cannot be fetched: "):
        client.install(Side("gone", source=(str(tmp_path / "nowhere"), "0" * 40)))
