"""A run remembers what computed it."""

from __future__ import annotations

import json

import pytest

from control import machine
from control.agents.sac import SAC
from control.train import train


def test_a_machine_is_noted_where_it_is_another(tmp_path, monkeypatch):
    machines = iter([{"cores": 2}, {"cores": 2}, {"cores": 64}, {"cores": 2}])
    monkeypatch.setattr(machine, "describe_machine", lambda: next(machines))
    for frames in (0, 100, 200, 300):
        machine.note_machine(tmp_path, frames)
    assert machine.read_machines(tmp_path) == [
        {"from frame": 0, "cores": 2},
        {"from frame": 200, "cores": 64},
        {"from frame": 300, "cores": 2},
    ]


def test_a_run_notes_its_machine_and_commit_when_it_begins_and_goes_on(tmp_path, monkeypatch):
    options = {"env": "gym/Pendulum-v1", "agent": SAC(hidden=(8,)), "eval_frames": None}
    for frames, told in ((4, "aaa1111"), (8, "bbb2222"), (9, "bbb2222")):
        monkeypatch.setattr(machine, "commit", lambda told=told: told)
        train(out=tmp_path, frames=frames, say=lambda line: None, **options)
    noted = json.loads((tmp_path / "machine.json").read_text())
    assert [(note["from frame"], note["commit"]) for note in noted] == [
        (0, "aaa1111"),
        (4, "bbb2222"),
    ]
    assert {"processor", "cores", "torch", "Python"} <= noted[0].keys()
    (tmp_path / "machine.json").write_text("{")
    with pytest.raises(ValueError, match=r"machine\.json is damaged"):
        train(out=tmp_path, frames=12, say=lambda line: None, **options)
