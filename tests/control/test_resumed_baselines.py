"""Agents that learn no world model: a run that was stopped ends as one that was not."""

from __future__ import annotations

import json

import pytest
import torch

from control import checkpoints
from control.agents.dynaq import DynaQAgent
from control.agents.stable_baselines import BaselinePPO, BaselineSAC
from control.loop import KIND
from control.metrics import TIMES
from control.train import train

RUNS = {
    "dynaq": (DynaQAgent(planning=3), "gym/FrozenLake-v1"),
    "sb3_sac": (BaselineSAC(hidden=(4,), batch_size=4, random_frames=8), "gym/Pendulum-v1"),
    "sb3_ppo": (BaselinePPO(hidden=(4,), rollout=10, batch_size=10, epochs=1), "gym/CartPole-v1"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_as_one_that_was_not(name, tmp_path):
    agent, env = RUNS[name]
    pytest.importorskip("stable_baselines3")
    small = {"num_envs": 2, "eval_frames": 20, "eval_episodes": 1, "log_frames": 20}
    small |= {"max_frames": 12, "agent": agent, "env": env, "say": lambda line: None}
    for folder, stops in (("once", (60,)), ("often", (14, 34, 60))):
        for frames in stops:
            train(out=tmp_path / folder, frames=frames, **small)
    states, metrics = [], []
    for folder in ("once", "often"):
        states.append(checkpoints.load(tmp_path / folder / "checkpoint.pt", KIND)["learner"])
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        metrics.append([{n: v for n, v in row.items() if n not in TIMES} for row in rows])
    assert metrics[0] == metrics[1] and any("eval_return" in row for row in metrics[0])
    one, other = (torch.utils._pytree.tree_leaves(state) for state in states)
    for a, b in zip(one, other, strict=True):
        assert a.equal(b) if isinstance(a, torch.Tensor) else a == b
