"""Time of a whole plan over the time of its bare model calls, and beside other libraries.

Every ratio is of medians of runs that took turns (A B A B ...), so that a busy machine slows both.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evals.report import Cell, Table, print_table
from mbrl_core import CEM, MPPI, Box, Model, Planner, Transition, generator
from reasoning.embedded import folder_of
from reasoning.engines import Request, TransformersEngine

STATE, ACTION, HORIZON, ITERATIONS = 24, 6, 15, 6


class MLPWorld(nn.Module):
    """A learned model as planners meet it: one network from state and action to the next state."""

    terminates = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(STATE + ACTION, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, STATE + 1),
        )

    def step(self, state: Tensor, action: Tensor, *, rng: object) -> Transition:
        """See `Dynamics`."""
        out = self.net(torch.cat([state, action], 1))
        return Transition(state + out[:, 1:], out[:, 0], torch.ones(len(out)))


def bench(
    *,
    samples: int = 512,
    width: int = 256,
    batches: list[int] | None = None,
    repeats: int = 15,
    threads: int | None = None,
) -> Table:
    """Print and return the table.

    Args:
        samples: candidates per root and iteration.
        width: units of the model's two hidden layers.
        batches: numbers of roots planned for at once; 1 and 16 by default.
        repeats: runs of each side; the median counts.
        threads: of PyTorch; its own choice by default.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    world = MLPWorld(width).requires_grad_(False)
    model = Model(world, action_space=Box(-torch.ones(ACTION), torch.ones(ACTION)))
    rows: list[list[Cell]] = []
    for roots in batches or [1, 16]:
        state = torch.randn(roots, STATE)
        for name, planner in _planners(samples).items():
            plan, bare = _take_turns(
                partial(planner, model, state, rng=generator(0)),
                partial(_bare, world, state, samples),
                repeats,
            )
            rows.append([name, roots, plan * 1e3, bare * 1e3, plan / bare])
    rows += _against_pytorch_mppi(world, model, samples, repeats)
    rows.append(_decoding(repeats=max(3, repeats // 5)))
    table = Table(
        ["planner", "roots", "ms a plan", "ms of the other", "ratio"],
        rows,
        f"The other is the bare model calls unless named. {samples} candidates, horizon {HORIZON}, "
        f"{ITERATIONS} iterations, network 2 x {width}; {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}.",
    )
    print_table(table)
    return table


def _planners(samples: int) -> dict[str, Planner]:
    shape: dict[str, Any] = {"horizon": HORIZON, "samples": samples, "iterations": ITERATIONS}
    return {"CEM": CEM(elites=64, **shape), "MPPI": MPPI(output="best", **shape)}


@torch.no_grad()
def _bare(world: MLPWorld, state: Tensor, samples: int) -> None:
    """The model calls of one plan and nothing else."""
    start = state.repeat_interleave(samples, 0)
    action = torch.zeros(len(start), ACTION)
    for _ in range(ITERATIONS):
        now = start
        for _ in range(HORIZON):
            now = world.step(now, action, rng=None).state


def _take_turns(
    one: Callable[[], object], other: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Median seconds of both, run in turn after one run each to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for call, spent in zip((one, other), times, strict=True):
            started = time.perf_counter()
            call()
            if turn:
                spent.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _against_pytorch_mppi(
    world: MLPWorld, model: Model, samples: int, repeats: int
) -> list[list[Cell]]:
    """One MPPI iteration here and in pytorch-mppi; one row saying so where it is not installed."""
    try:
        from pytorch_mppi import MPPI as Peer
    except ImportError as error:
        return [[f"pytorch-mppi: cannot be imported ({error})", 1, None, None, None]]

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        return world.step(state, action, rng=None).state

    def cost(state: Tensor, action: Tensor) -> Tensor:
        return state[:, 0]

    with torch.no_grad():
        peer = Peer(
            dynamics,
            cost,
            STATE,
            torch.eye(ACTION),
            num_samples=samples,
            horizon=HORIZON,
            u_min=-torch.ones(ACTION),
            u_max=torch.ones(ACTION),
        )
        own = MPPI(horizon=HORIZON, samples=samples, iterations=1)
        state = torch.randn(1, STATE)
        ours, theirs = _take_turns(
            lambda: own(model, state, rng=generator(0)), lambda: peer.command(state[0]), repeats
        )
    return [["MPPI, 1 iteration, against pytorch-mppi", 1, ours * 1e3, theirs * 1e3, ours / theirs]]


def _decoding(repeats: int) -> list[Cell]:
    """128 samples of 40 tokens with the cache that grows in place and with the library's."""
    from transformers import DynamicCache

    engine = TransformersEngine(folder_of("embedded", "lm"))
    prompt = engine.encode_prompt("Tom has 3 apples and buys 4 more. " * 8)
    requests = [Request(prompt, 40, 1.0, seed) for seed in range(128)]
    in_place = engine.make_cache

    def decode(make_cache: Callable[..., Any]) -> None:
        engine.make_cache = make_cache
        engine.generate(requests)

    ours, theirs = _take_turns(
        partial(decode, in_place),
        partial(decode, lambda config: DynamicCache(config=config)),
        repeats,
    )
    return ["decoding, against the library's cache", 128, ours * 1e3, theirs * 1e3, ours / theirs]


if __name__ == "__main__":
    from configs.cli import run

    raise SystemExit(run("bench", bench, __doc__ or ""))
