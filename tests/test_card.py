"""What is planned on a card is what the CPU plans: nothing is left on the other device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from control import checkpoints
from control.agents.sac import SAC
from control.multitask import train_multitask
from control.replay import Replay
from control.train import train
from mbrl_core import Planner, generator
from reasoning.engines.base import Request, ScoreRequest
from reasoning.engines.transformers import TransformersEngine
from tests.card import CARD, card, on_card, on_host, outside
from tests.control import test_contract_control as learned
from tests.control import test_multitask as multitask
from tests.control import test_svg as svg
from tests.control import test_train as training
from tests.core import test_contract as small
from tests.prms import save_qwen
from tests.worlds import exported_planners

KINDS = {
    "tensors": small.ANYWHERE | small.DISCRETE,
    "differentiable": small.CONTINUOUS | small.SECOND_ORDER,
    "fenced": small.BY_POLICY,
    "tensor_particles": {name: small.ANYWHERE[name] for name in ("best_of_n", "beam", "puct")},
    "ensemble": learned.BOX,
    "mean_ensemble": learned.GRADIENT,
    "ensemble_particles": {name: learned.BOX[name] for name in ("uniform", "cem", "tdmpc")},
    "lake": learned.POLICY,
}
CASES = [
    pytest.param(*(small.WORLDS | learned.WORLDS)[world], planner, id=f"{world}-{name}")
    for world, planners in KINDS.items()
    for name, planner in planners.items()
]

LEARNERS = training.AGENTS | {
    name: training.AGENTS["mbpo"] | {"agent": agent}
    for name, agent in {
        "sac": SAC(hidden=(8,), batch_size=8, random_frames=training.EPISODE),
        "svg": dataclasses.replace(svg.TINY, sac=SAC(hidden=(8,), batch_size=8, random_frames=80)),
    }.items()
}


def same(here: Any, there: Any) -> None:
    """Both trees hold the same numbers."""
    here, there = tree_flatten(here)[0], tree_flatten(on_host(there))[0]
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(other, one.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)


REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "mixed": lambda x: x + torch.ones(3),
    "joined": lambda x: torch.cat([x, torch.ones(3)]),
    "indexed": lambda x: torch.ones(3)[x > 0],
    "array": lambda x: x.numpy(),
    "drawn": lambda x: torch.rand(3, generator=generator(0), device=x.device),
}


@pytest.mark.parametrize("does", REFUSED.values(), ids=REFUSED)
def test_a_card_refuses_what_lies_elsewhere(does: Callable[[torch.Tensor], Any]) -> None:
    with card(), pytest.raises((RuntimeError, TypeError)):
        does(torch.ones(3).to(CARD))


@pytest.mark.parametrize(("model", "state", "planner"), CASES)
def test_a_plan_made_on_a_card_is_the_one_made_on_the_cpu(
    model: Any, state: Any, planner: Planner
) -> None:
    here, carry = planner(model, state, rng=generator(0))
    again, _ = planner(model, state, carry, rng=generator(1))
    with card():
        model, state = on_card((model, state))
        there, carry = planner(model, state, rng=generator(0, CARD))
        same(here, there)
        there, _ = planner(model, state, carry, rng=generator(1, CARD))
        same(again, there)


@pytest.mark.parametrize("name", ["cem", "mppi", "icem", "tdmpc", "grad_mpc", "grad_cem"])
def test_no_iteration_waits_for_the_card_where_no_world_ends(name: str) -> None:
    planner = small.CONTINUOUS[name]
    asked = []
    for iterations in (2, 5):
        more = dataclasses.replace(planner, iterations=iterations, horizon=3 * iterations)
        with card() as it:
            model, state = on_card(small.WORLDS["differentiable"])
            more(model, state, rng=generator(0, CARD))
        asked.append(it.asked)
    assert asked[0] == asked[1] <= 4


def test_every_planner_is_here() -> None:
    assert {type(each) for kind in KINDS.values() for each in kind.values()} == exported_planners()


def placed(recipe: Any) -> Any:
    """The recipe of an agent, with every device in it the card."""
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    nested = {k: placed(v) for k, v in fields.items() if dataclasses.is_dataclass(v)}
    there = {"device": str(CARD)} if "device" in fields else {}
    return dataclasses.replace(recipe, **nested | there)


@pytest.mark.parametrize("name", LEARNERS)
def test_training_on_a_card_is_training_on_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last quarter goes on from a checkpoint. Mapped files of a replay lie on the CPU."""
    options, frames = LEARNERS[name], 2 * training.EPISODE
    train(out=tmp_path / "here", frames=frames, **options)
    monkeypatch.setattr(Replay, "_grow", outside(Replay._grow))
    with card() as there:
        options = options | {"agent": placed(options["agent"])}
        train(out=tmp_path / "there", frames=frames * 3 // 4, **options)
        train(out=tmp_path / "there", frames=frames, **options)
    assert there.asked
    same(*(training.outcome(tmp_path / each) for each in ("here", "there")))


def test_several_tasks_are_learned_on_a_card_as_on_the_cpu(tmp_path: Path) -> None:
    agent, quiet = multitask.AGENT, multitask.QUIET
    data = [
        train(env=env, agent=agent, out=tmp_path / str(n), frames=200, eval_frames=None, **quiet)
        for n, env in enumerate(multitask.ENVS)
    ]
    options = {"data": data, "updates": 4, **quiet}
    here = train_multitask(agent=agent, out=tmp_path / "here", **options)
    with card() as it:
        there = train_multitask(agent=placed(agent), out=tmp_path / "there", **options)
    assert it.asked
    same(*(checkpoints.load(each / "checkpoint.pt", multitask.KIND) for each in (here, there)))


def completed(folder: Path, device: str) -> Any:
    """What an engine there makes of prompts and texts: sampled, greedy, anew, and going on."""
    engine = TransformersEngine(folder, device=device, dtype="float32")
    start, more = (tuple(engine.tokenizer.encode(text)) for text in ("hello", "hello there"))
    requests = [
        Request(start, 12, 1.0, 3, stop=("e",)),
        Request(more, 9, 0.7, 5, cache_key=more[:3], top_p=0.9, top_k=20),
        Request(start + more, 9, 0.0, 5, cache_key=start),
    ]
    scored = [
        ScoreRequest(more + start, (2, 4), (1, 2)),
        ScoreRequest(start + more, (3,), (1, 2), cache_key=start),
    ]
    made = engine.generate(requests) + engine.generate(requests)
    texts = [(torch.tensor(each.tokens), torch.tensor(each.logprobs)) for each in made]
    return texts, [score.logprobs for score in engine.score(scored)]


def test_an_engine_on_a_card_completes_and_scores_as_on_the_cpu(tmp_path: Path) -> None:
    folder = save_qwen(tmp_path / "model")
    here = completed(folder, "cpu")
    with card() as it:
        there = completed(folder, str(CARD))
    assert it.asked
    same(here, there)
