"""`python -m evals.control` with a tiny, untrained world model: records, resuming, refusals."""

from __future__ import annotations

import pytest
import torch

from configs import cli
from control.world_model import EnsembleWorld, build_ensemble, save_world_model
from evals.control import evaluate, summarize
from mbrl_core import Box, generator
from tests.evals.commands import killed_and_resumed, records_of, summary_of, timeless

EPISODES, REPEAT = 10, 10
ENV = "gym/Pendulum-v1"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A world model of the pendulum, whose episodes are 20 decisions of 10 frames."""
    box = Box(torch.tensor([-2.0]), torch.tensor([2.0]))
    ensemble = build_ensemble(
        ENV, REPEAT, 3, box, reward="given", rng=generator(0), members=2, hidden=[8]
    )
    for part in (ensemble.inputs, ensemble.targets):  # as if fitted to standard normal data
        part.fitted.fill_(True)
    path = tmp_path_factory.mktemp("world") / "model.pt"
    save_world_model(path, EnsembleWorld(ensemble, ENV, REPEAT, "given", {}))
    return path


@pytest.fixture
def options(model, tmp_path, monkeypatch):
    """Options of a small run in the folder `run` of an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def options(*more: str, out: str = "run") -> list[str]:
        plain = [f"env={ENV}", f"model={model}", f"episodes={EPISODES}", "parallel=2", f"out={out}"]
        small = ["planner.horizon=5", "planner.samples=16", "planner.iterations=3"]
        return [*plain, *small, "planner.elites=4", "planner.output=best", *more]

    return options


def run(argv: list[str]) -> int:
    return cli.run("evals_control", evaluate, "Play episodes.", argv=argv)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(options, tmp_path):
    whole = tmp_path / "whole"
    records, output = killed_and_resumed("evals.control", options(), tmp_path, EPISODES)
    assert f"over {EPISODES} episodes" in output
    assert [record["id"] for record in records] == list(range(EPISODES))
    assert run(options(out="whole")) == 0
    assert timeless(summary_of(tmp_path / "run")) == timeless(summary_of(whole))
    assert list(map(timeless, records)) == list(map(timeless, records_of(whole)))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}


def test_the_simulator_plays_what_has_no_time_limit_for_so_many_frames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = ["env=gym/CliffWalking-v1", "model=simulator", "planner=mcts", "episodes=1", "out=run"]
    assert run([*plain, "planner.simulations=4"]) == 1
    assert run([*plain, "planner.simulations=4", "max_frames=3"]) == 0
    assert records_of(tmp_path / "run")[0]["frames"] == 3
    assert run([*plain, "max_frames=3", "seed=-1"]) == 1


def test_particles_are_paid_for_by_the_budget_and_change_what_is_played(options, tmp_path):
    for out, *more in (
        ["bare", "particles=1"],
        ["many", "particles=4", "risk=cvar", "risk.share=0.25"],
        ["shy", "penalty=1.0"],
        ["less", "particles=4", "budget.steps=480"],
    ):
        assert run(options("episodes=1", *more, out=out)) == 0
    bare, many, shy, less = (records_of(tmp_path / out) for out in ("bare", "many", "shy", "less"))
    each = 5 * 16 * 3
    assert [r["steps_per_decision"] for r in (bare[0], many[0], shy[0])] == [each, 4 * each, each]
    assert 0 < less[0]["steps_per_decision"] <= 480
    assert len({records[0]["return"] for records in (bare, many, shy, less)}) == 4
    assert run(options("particles=0", out="none")) == 1
    assert run(options("model=simulator", "penalty=1.0", out="none")) == 1
    assert not (tmp_path / "none").exists()


def test_records_hold_enough_to_recompute_the_summary(options, tmp_path):
    assert run(options("episodes=3", "keep=1")) == 0
    records = records_of(tmp_path / "run")
    assert summarize(records) == summary_of(tmp_path / "run")
    for record in records:
        assert (record["frames"], record["decisions"]) == (200, 20)
        assert record["steps_per_decision"] == 5 * 16 * 3
    assert ["trace" in record for record in records] == [True, False, False]
    trace = records[0]["trace"]
    assert len(trace["obs"]) == len(trace["action"]) == len(trace["reward"]) == 20
    assert sum(trace["reward"]) == pytest.approx(records[0]["return"], rel=1e-5)
    assert all(-2 <= action <= 2 for (action,) in trace["action"])


def test_an_episode_does_not_depend_on_those_beside_it(options, tmp_path):
    """Up to rounding, which 20 decisions by sampling may amplify: hence the first decisions."""
    for parallel in (1, 2):
        argv = options("episodes=2", "keep=2", f"parallel={parallel}", out=f"run{parallel}")
        assert run(argv) == 0
    alone, together = (records_of(tmp_path / f"run{parallel}") for parallel in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert one["trace"]["obs"][0] == other["trace"]["obs"][0]
        assert one["trace"]["action"][0] == pytest.approx(other["trace"]["action"][0], abs=1e-4)


@pytest.mark.parametrize("planner", ["cem", "mppi", "random_shooting", "grad_mpc"])
@pytest.mark.parametrize("limit", [37, 200])
def test_a_budget_of_steps_is_respected(model, tmp_path, monkeypatch, planner, limit):
    monkeypatch.chdir(tmp_path)
    argv = [f"env={ENV}", f"model={model}", "episodes=1", "out=run", f"planner={planner}"]
    assert run([*argv, "planner.horizon=5", f"budget.steps={limit}", "propagation=mean"]) == 0
    (record,) = records_of(tmp_path / "run")
    assert 0 < record["steps_per_decision"] <= limit


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=1", "seed was 0, now 1"),
        ("planner.horizon=4", "planner.horizon was 5, now 4"),
        ("budget.steps=99", "budget.steps was null, now 99"),
    ],
)
def test_a_folder_of_another_run_is_refused(options, capsys, change, told):
    assert run(options("episodes=1")) == 0
    assert run(options("episodes=1", change)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: run holds a run with other arguments: ") and told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "code", "told"),
    [
        ("env=dmc/cartpole-swingup", 1, f"was trained for {ENV}, not for dmc/cartpole-swingup"),
        ("model=cartpole", 1, "there is no world model cartpole"),
        ("episodes=0", 1, "episodes must be at least 1, not 0"),
        ("parallel=0", 1, "parallel must be at least 1, not 0"),
        ("planner=cma", 2, "unknown planner 'cma'"),
        ("planner.horizn=3", 2, "did you mean 'planner.horizon'?"),
        ("propagation=ts1", 2, "propagation"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence(options, capsys, wrong, code, told):
    assert run(options("episodes=1", wrong)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert told in error


def test_a_budget_too_small_for_one_candidate_is_warned_of_and_played_on(options, tmp_path):
    with pytest.warns(RuntimeWarning, match="no candidate of roots"):
        assert run(options("episodes=1", "budget.steps=1")) == 0
    (record,) = records_of(tmp_path / "run")
    assert record["steps_per_decision"] == 0


def test_a_risk_needs_particles(options, capsys):
    assert run(options("risk=worst")) == 1
    assert "set particles" in capsys.readouterr().err
