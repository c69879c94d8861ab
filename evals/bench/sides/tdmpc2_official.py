"""TD-MPC2 by its authors: one update, or one planned decision.

Their code names a CUDA device throughout. It runs here as a copy in which that device is the CPU,
the optimisers' option that needs CUDA graphs is off, and the model, which is there already, is not
moved to its device (what moves it does not work with the present tensordict). Nothing else is
changed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from evals.bench import numbers, training
from evals.bench.client import FOLDERS
from evals.bench.worker import Job, serve

CHANGES = {
    "cuda:0": "cpu",
    "capturable=True": "capturable=False",
    "WorldModel(cfg).to(self.device)": "WorldModel(cfg)",
}
PUBLISHED = {  # config.yaml, as published
    "multitask": False, "episodic": False, "obs": "state", "task_dim": 0, "tasks": ["benchmark"],
    "num_enc_layers": 2, "num_q": 5, "dropout": 0.01, "simnorm_dim": 8,
    "num_bins": 101, "vmin": -10, "vmax": 10, "bin_size": 20 / 100,
    "log_std_min": -10, "log_std_max": 2, "entropy_coef": 1e-4,
    "reward_coef": 0.1, "value_coef": 0.1, "termination_coef": 1, "consistency_coef": 20,
    "rho": 0.5, "lr": 3e-4, "enc_lr_scale": 0.3, "grad_clip_norm": 20, "tau": 0.01,
    "discount_denom": 5, "discount_min": 0.95, "discount_max": 0.995,
    "mpc": True, "iterations": 6, "num_samples": 512, "num_elites": 64, "num_pi_trajs": 24,
    "min_std": 0.05, "max_std": 2, "temperature": 0.5,
}  # fmt: skip


def prepare(settings: Mapping[str, Any]) -> Job:
    """The job that the cell names, of the size that it names."""
    torch.manual_seed(0)
    agent = _agent(settings)

    def count(_: object) -> int:
        model = agent.model
        parts = (model._encoder, model._dynamics, model._reward, model._pi, model._Qs.params)
        return sum(p.numel() for part in parts for p in part.parameters())

    if settings["planner"] == "update":
        obs, action, reward = map(torch.from_numpy, training.batch())
        reward = reward.unsqueeze(-1)
        ended = torch.zeros_like(reward)
        return Job(lambda: agent._update(obs, action, reward, ended), count)
    obs = torch.from_numpy(numbers.states(1))[0]
    agent.act(obs, t0=True)
    return Job(lambda: agent.act(obs), count)


def _agent(settings: Mapping[str, Any]) -> Any:
    size = training.SIZES[settings["size"]]
    config = SimpleNamespace(
        **PUBLISHED,
        horizon=training.HORIZON,
        batch_size=training.BATCH,
        obs_shape={"state": (numbers.STATE,)},
        action_dim=numbers.ACTION,
        episode_length=training.EPISODE,
        enc_dim=size["encoder"],
        mlp_dim=size["hidden"],
        latent_dim=size["latent"],
        compile=settings["compiled"],
    )
    sys.path.insert(0, str(_on_the_cpu(FOLDERS / "tdmpc2_official")))
    return importlib.import_module("tdmpc2").TDMPC2(config)


def _on_the_cpu(folder: Path) -> Path:
    """Their sources with `CHANGES` made."""
    source, copy = folder / "source" / "tdmpc2", folder / "cpu"
    for path in [source / "tdmpc2.py", *(source / "common").glob("*.py")]:
        text = path.read_text()
        for theirs, here in CHANGES.items():
            text = text.replace(theirs, here)
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return copy


if __name__ == "__main__":
    serve(prepare)
