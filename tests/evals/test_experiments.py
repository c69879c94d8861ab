"""The course's experiments: true plants, fair learners, and pages that come from records alone."""

import json
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest
import torch

from configs import cli
from evals.experiments import agents, command, compounding, dyna, hybrid, learned, penalty, plants
from evals.experiments.drawing import curve, picture, power
from evals.experiments.horizon import Horizon
from evals.experiments.terminal import Terminal
from evals.records import read_records
from evals.report import Section, Table, markdown
from evals.stats import Estimate
from mbrl_core import DynaQ, generator
from mbrl_core.viewer.charts import LineChart
from tests.golden import golden_files

RECORDS = Path(__file__).parents[2] / "records" / "experiments"


# Plants


def test_the_pendulum_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    env, rng = gymnasium.make("Pendulum-v1"), generator(0)
    obs, _ = env.reset(seed=3)
    act = agents.random_act(plants.pendulum_plant().action_space, rng)
    for _ in range(50):
        state = torch.from_numpy(obs).unsqueeze(0)
        action, _ = act(state, None)
        moved = plants.Pendulum().step(state, action, rng=rng)
        obs, reward, *_ = env.step(action[0].numpy())
        torch.testing.assert_close(moved.state[0], torch.from_numpy(obs), rtol=0, atol=1e-5)
        assert float(moved.reward) == pytest.approx(float(reward), abs=1e-5)


def test_the_cart_pole_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    env, rng = gymnasium.make("CartPole-v1"), generator(0)
    obs, _ = env.reset(seed=0)
    state, ended = torch.from_numpy(obs).unsqueeze(0), False
    while not ended:
        push = int(torch.randint(2, (1,), generator=rng))
        moved = plants.CartPole().step(state, torch.tensor([[2.0 * push - 1]]), rng=rng)
        obs, reward, ended, _, _ = env.step(push)
        state = moved.state
        torch.testing.assert_close(state[0], torch.from_numpy(obs), rtol=1e-5, atol=1e-5)
        assert bool(moved.discount == 0) == ended and float(moved.reward) == reward


def test_dry_friction_holds_and_never_turns_the_motion_round():
    held = plants.Pendulum(friction=0.6)
    rest = torch.tensor([[-1.0, 0.0, 0.0]])
    assert float(held.step(rest, torch.tensor([[0.5]]), rng=generator(0)).state[0, 2]) == 0
    state = plants.pendulum_plant().start(200, generator(0))
    action = torch.zeros(200, 1)
    free = plants.Pendulum().step(state, action, rng=generator(0)).state[:, 2]
    slowed = held.step(state, action, rng=generator(0)).state[:, 2]
    assert bool((free * slowed >= 0).all()) and bool((slowed.abs() <= free.abs()).all())


def test_play_ends_with_the_last_episode_and_collects_only_what_happened():
    plant, rng = plants.cartpole_plant(), generator(0)
    act = agents.random_act(plant.action_space, rng)
    played = plants.play(plant, act, plant.start(6, rng), rng=rng)
    assert bool((played.discounts[:, -1] == 0).all()) and len(played.actions) < plant.steps
    assert torch.equal(played.rewards, played.happened.float())
    data = plants.transitions(played)
    assert len(data.obs) == int(played.happened.sum())
    moved = plant.dynamics.step(data.obs, data.action, rng=rng)
    assert torch.equal(moved.state, data.after)
    assert len(plants.collect(plant, act, 100, rng=rng).obs) == 100


# Learners


def test_known_values_of_the_lakes():
    assert dyna.optimum(dyna.table(dyna.LAKE, False)) == pytest.approx(0.99**5)
    assert dyna.optimum(dyna.table(dyna.WEST, False)) == pytest.approx(0.99**5)
    assert dyna.optimum(dyna.table(dyna.EAST, False)) == pytest.approx(0.99**5)


@pytest.mark.parametrize("slippery", [False, True])
@pytest.mark.parametrize("file", golden_files("frozenlake_values.json"))
def test_greedy_values_agree_with_values_computed_by_others(file, slippery):
    for case in json.loads(file.read_text())["cases"]:
        wanted = ("4x4", slippery, dyna.DISCOUNT, "infinite")
        if (case["map"], case["is_slippery"], case["gamma"], case["horizon"]) == wanted:
            world = dyna.table(dyna.LAKE, slippery)
            assert dyna.optimum(world) == pytest.approx(case["V_start"], abs=1e-9)
            q = torch.tensor(case["Q"], dtype=torch.float64)
            assert dyna.greedy_value(world, q) == pytest.approx(case["V_start"], abs=1e-9)
            return
    pytest.fail("the golden cases hold no lake of this kind")


@pytest.mark.parametrize("order", ["uniform", "sweep"])
def test_a_model_of_everything_is_dyna_q_and_one_of_nothing_is_q_learning(order):
    world = dyna.table(dyna.LAKE, True)

    def learned_by(planning: int, known: float) -> torch.Tensor:
        recipe = DynaQ(states=16, actions=4, planning=planning, order=order)
        learner = dyna.Learner(recipe, torch.full((16,), known), generator(1))
        for _ in range(300):
            learner.step(world)
        return learner.tables.q

    whole = DynaQ(states=16, actions=4, planning=5, order=order)
    tables, _ = whole.run(
        world,
        lambda n, rng: torch.zeros(n, dtype=torch.int64),
        300,
        batch=1,
        rng=generator(1),
        limit=dyna.EPISODE,
    )
    assert torch.equal(learned_by(5, 1.0), tables.q)
    if order == "uniform":
        assert torch.equal(learned_by(5, 0.0), learned_by(0, 1.0))


def test_sac_learns_from_true_transitions_and_its_critic_reads_both_kinds_of_state():
    pytest.importorskip("stable_baselines3")
    plant, rng = plants.pendulum_plant(), generator(0)
    first, second = agents.train_sac(plant, (210, 230), seed=0)
    assert [len(stage.data.obs) for stage in (first, second)] == [210, 230]
    moved = plant.dynamics.step(first.data.obs, first.data.action, rng=rng)
    torch.testing.assert_close(moved.state, first.data.after, rtol=0, atol=1e-5)
    assert torch.equal(first.data.obs, second.data.obs[:210])
    ensemble = learned.fit_ensemble(plant, first.data, rng=rng, epochs=1)
    obs = first.data.obs[:5]
    assert torch.equal(first.critic.value(obs), first.critic.value(ensemble.root(obs)))
    assert not torch.equal(first.critic.value(obs), second.critic.value(obs))
    assert bool((first.act(obs, None)[0].abs() <= 2).all())


def test_equations_without_friction_are_the_truth():
    setting = hybrid.Hybrid(friction=0, drag=0, transitions=(20,), episodes=2, steps=3, horizon=2)
    found = [setting.measure(cell) for cell in setting.cells()[:6] if cell["seed"] == 0]
    assert found[0] == found[1] and found[0]["one_step"] == found[0]["twenty_steps"] == 0


def test_a_correction_learns_the_friction():
    real, rng = plants.pendulum_plant(drag=0.3), generator(0)
    act = agents.random_act(real.action_space, rng, hold=0.8)
    data = plants.collect(real, act, 400, rng=rng, steps=50)
    known = plants.Pendulum()
    model = learned.fit_correction(real, known, data, rng=rng, updates=300)

    def error(dynamics: Any) -> float:
        moved = dynamics.step(data.obs, data.action, rng=rng).state
        return float((moved - data.after).square().mean())

    assert error(model) < 0.1 * error(known)


def test_the_truth_does_not_compound():
    plant, rng = plants.pendulum_plant(), generator(0)
    act = agents.random_act(plant.action_space, rng)
    recording = plants.play(plant, act, plant.start(4, rng), rng=rng, steps=5)
    found = compounding.growth(plant.dynamics, lambda obs: obs, recording, torch.ones(3), rng)
    assert found == {"rolled": [0.0] * 5, "stepped": [0.0] * 5}
    assert compounding.summed([1.0, 2.0, 3.0]) == [1.0, 3.0, 6.0]


def test_every_kind_of_model_is_tried_on_every_kind_of_recording(monkeypatch):
    monkeypatch.setattr(compounding, "UPDATES", 10)
    setting = compounding.Compounding(transitions=40, steps=3, rollouts=2, seeds=2)
    records = [{**cell, **setting.measure(cell)} for cell in setting.cells() if cell["seed"] == 0]
    assert records[0]["rolled"]["mean on random"][0] == records[0]["stepped"]["random"][0]
    section = setting.show(records + records)
    assert len(section.tables[0].rows) == 20 and len(section.figures) == 2


def test_promises_are_what_the_model_says():
    plant, rng = plants.pendulum_plant(), generator(0)
    actions = [torch.zeros(3, 1)] * 4
    start = torch.tensor([[1.0, 0.0, 0.0]]).repeat(3, 1)
    assert torch.equal(penalty.returns(plant.model(), start, actions, rng), torch.zeros(3))
    for weights in ((1.0,), (0.0,)):
        with pytest.raises(ValueError, match=r"weights need 0, .* and one above it"):
            penalty.Penalty(weights=weights)
    penalty.Penalty(weights=(0, 3))


# Commands

SMALL = {
    "dyna": dyna.Dyna(lakes=("firm", "changed"), steps=20, every=5, seeds=2),
    "penalty": penalty.Penalty(
        data=("random",), weights=(0.0, 10.0), roots=4, horizon=3, samples=8, seeds=2
    ),
    "horizon": Horizon(
        plants=("pendulum",), horizons=(1, 2), early=205, late=210, samples=8, episodes=2, limit=5,
        seeds=1,
    ),
    "terminal": Terminal(
        plants=("pendulum",), horizons=(1, 2), steps=205, samples=8, iterations=1, roots=2, seeds=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_small_experiment_is_measured_shown_and_drawn_again_from_records(name, tmp_path, capsys):
    if name in ("horizon", "terminal"):
        pytest.importorskip("stable_baselines3")
    page = command.perform(experiment=SMALL[name], out=tmp_path, say=lambda _: None)
    records = list(read_records(tmp_path / "records.jsonl"))
    assert len(records) == len(SMALL[name].cells())
    section = SMALL[name].show(records)
    assert section.tables[0].rows and (tmp_path / "tables.md").read_text().count("| --- ") >= 1
    plots = sorted(tmp_path.glob("plot*.svg"))
    assert len(plots) == len(section.figures)
    for plot in plots:
        xml.fromstring(plot.read_text())
    drawn = {path: path.read_bytes() for path in (*plots, page)}
    command.perform(experiment=_refusing(SMALL[name]), out=tmp_path, say=lambda _: None)
    assert drawn == {path: path.read_bytes() for path in drawn}


def _refusing(experiment: Any) -> Any:
    """The same experiment, which cannot measure."""
    kind = type(experiment)

    def measure(self: Any, cell: command.Cell) -> dict[str, Any]:
        raise AssertionError(f"{cell} was to come from its record")

    other = object.__new__(type(kind.__name__, (kind,), {"measure": measure}))
    other.__dict__.update(experiment.__dict__)
    return other


class Counted:
    """An experiment that is interrupted before one of its cells."""

    def __init__(self, fails: int, measured: list[int]) -> None:
        self.fails, self.measured = fails, measured

    def cells(self) -> list[command.Cell]:
        return [{"number": number} for number in range(4)]

    def measure(self, cell: command.Cell) -> dict[str, Any]:
        if cell["number"] == self.fails:
            raise KeyboardInterrupt
        self.measured.append(cell["number"])
        return {"square": cell["number"] ** 2}

    def show(self, records: Any) -> Section:
        return Section("squares", tables=[Table(["n"], [[r["square"]] for r in records])])


def test_an_experiment_that_was_stopped_measures_what_is_missing(tmp_path, capsys):
    measured: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        command.perform(experiment=Counted(2, measured), out=tmp_path, arguments={"a": 1})
    command.perform(experiment=Counted(-1, measured), out=tmp_path, arguments={"a": 1})
    assert measured == [0, 1, 2, 3]
    assert [r["square"] for r in read_records(tmp_path / "records.jsonl")] == [0, 1, 4, 9]


@pytest.mark.parametrize("name", sorted(p.name for p in RECORDS.glob("*") if p.is_dir()))
def test_the_plots_of_the_repository_come_from_its_records(name, tmp_path, monkeypatch, capsys):
    """By the command as it stands: the records are those of its default options."""
    shutil.copytree(RECORDS / name, tmp_path / name)
    options = cli.compose("experiments", [f"experiment={name}"]).options
    kind = type(cli.instantiate(options.experiment))
    monkeypatch.setattr(kind, "measure", lambda self, cell: pytest.fail(f"no record of {cell}"))
    overrides = [f"experiment={name}", f"out={tmp_path / name}"]
    assert cli.run("experiments", command.perform, "", argv=overrides) == 0


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (dyna.Dyna, {"lakes": ["dry"]}, "lakes has no 'dry': choose from firm, "),
        (dyna.Dyna, {"every": 0}, "every must be at least 1, not 0"),
        (dyna.Dyna, {"every": 200, "steps": 100}, "every must be at most steps=100"),
        (Horizon, {"plants": ["foo"]}, "plants has no 'foo': choose from "),
        (Horizon, {"horizons": []}, "horizons must list at least one"),
        (Horizon, {"early": 230, "late": 210}, "early=230 must be below late=210"),
        (Terminal, {"seeds": 0}, "seeds must be at least 1, not 0"),
        (hybrid.Hybrid, {"transitions": []}, "transitions must list at least one"),
        (penalty.Penalty, {"data": ["foo"]}, "data has no 'foo': choose from random, narrow"),
        (compounding.Compounding, {"steps": 0}, "steps must be at least 1, not 0"),
    ],
)
def test_settings_that_would_fail_after_measuring_are_refused(kind, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**settings)


# Drawing


def test_curves_are_means_over_seeds_and_logarithms_where_asked():
    drawn = curve("a", [1, 2], [[1.0, 10.0], [100.0, 10.0]], "log")
    assert drawn.mean == pytest.approx([1.0, 1.0])
    assert drawn.low[1] == drawn.high[1] == pytest.approx(1.0) and drawn.low[0] < 1 < drawn.high[0]
    assert curve("a", [1], [[1.0], [3.0]]).mean == [2.0]
    assert power(Estimate(0, -1, 1)) == pytest.approx(Estimate(1, 0.1, 10))


def test_pictures_and_tables_stand_alone():
    chart = LineChart([curve("a & b", [1, 2], [[1.0, 2.0], [2.0, 3.0]])], "x", "y")
    root = xml.fromstring(picture(chart))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "--s0" in root[0].text
    text = markdown(Table(["a", "b"], [["x", None], ["y", Estimate(1, 0, 2)]], "caption"))
    lines = text.splitlines()
    assert lines[0] == "| a | b |" and lines[2] == "| x | – |" and lines[5] == "caption"
    assert lines[3] == "| y | 1.000 [0.000, 2.000] |"
