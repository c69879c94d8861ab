"""TD-MPC2's published checkpoints, single-task and multitask, as a `LatentWorld`.

They are state dicts of github.com/nicklashansen/tdmpc2, in one of two layouts: the value networks'
tensors numbered one by one (`_Qs.params.5`), or by layer and name (`_Qs.params.1.weight`). All
sizes are read from the tensors. `python -m evals.control model=<file> env=dmc/walker-walk` plans
with one.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from control.latent import LatentWorld, Size
from mbrl_core.types import Box, Discrete

ACTION_REPEAT = 2  # of the published models in the DeepMind Control Suite
TASKS = (
    *("walker-stand", "walker-walk", "walker-run", "cheetah-run", "reacher-easy", "reacher-hard"),
    *("acrobot-swingup", "pendulum-swingup", "cartpole-balance", "cartpole-balance-sparse"),
    *("cartpole-swingup", "cartpole-swingup-sparse", "cup-catch", "finger-spin"),
    *("finger-turn-easy", "finger-turn-hard", "fish-swim", "hopper-stand", "hopper-hop"),
)
"""The tasks of the suite that the multitask models know, in the order of their embeddings; 11 tasks
of the authors' own and, in the model of 80 tasks, 50 of Meta-World follow."""

PARTS = {
    "_encoder.state": "encoder",
    "_dynamics": "dynamics",
    "_reward": "reward",
    "_termination": "ended",
    "_pi": "policy",
}
NAMES = ("weight", "bias", "ln.weight", "ln.bias")  # of a layer's tensors, in their numbering


def weights_of(payload: dict[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a published checkpoint by their names there; None where it is none."""
    inner = payload.get("model", payload)
    if not isinstance(inner, dict) or "_dynamics.0.weight" not in inner:
        return None
    return {name: x for name, x in inner.items() if isinstance(x, Tensor)}


def build(weights: dict[str, Tensor]) -> LatentWorld:
    """The frozen networks of a published checkpoint.

    Raises ValueError where tensors are missing, or shaped as no such model's are.
    """
    try:
        world = LatentWorld(**_arguments(weights))
        world.load_state_dict(convert(weights))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"this is no TD-MPC2 model on states: {error}") from error
    return world.requires_grad_(False).eval()


def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names to those of `LatentWorld.state_dict()`."""
    own = {}
    for theirs, part in PARTS.items():
        for name, x in weights.items():
            if name.startswith(f"{theirs}."):
                own[part + name.removeprefix(theirs).replace(".ln.", ".norm.")] = x
    for number, layer in enumerate(_heads(weights, "_Qs.params")):
        own[f"values.weights.{number}"] = layer["weight"]
        own[f"values.biases.{number}"] = layer["bias"].unsqueeze(1)
        if "ln.weight" in layer:
            own[f"values.scales.{number}"] = layer["ln.weight"].unsqueeze(1)
            own[f"values.shifts.{number}"] = layer["ln.bias"].unsqueeze(1)
    if "_task_emb.weight" in weights:  # which is kept within the unit ball when it is read there
        own["tasks"] = weights["_task_emb.weight"].renorm(2, 0, 1.0)
    return own


def task_number(world: LatentWorld, env: str) -> int | None:
    """Which of a multitask model's tasks `env` is; None for a single-task model.

    Raises ValueError where the model does not know it.
    """
    if world.tasks is None:
        return None
    name = env.removeprefix("dmc/").replace("_", "-").replace("ball-in-cup", "cup")
    if name not in TASKS:
        raise ValueError(f"the multitask models know no {env}: of the suite they know {TASKS}")
    return TASKS.index(name)


def check_fit(world: LatentWorld, observation_dim: int, space: Box | Discrete) -> None:
    """Raises ValueError where an environment's spaces are not those of the model (of a multitask
    model: where they are larger)."""
    if isinstance(space, Discrete):
        raise ValueError("the model takes continuous actions, and the environment discrete ones")
    theirs = (observation_dim, len(space.low))
    own = (world.observation_dim, world.action_dim)
    fits = theirs == own if world.tasks is None else theirs[0] <= own[0] and theirs[1] <= own[1]
    if not fits:
        raise ValueError(
            f"the model is of {own[0]} observations and {own[1]} actions, the environment of "
            f"{theirs[0]} and {theirs[1]}"
        )


def _arguments(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What to build the networks with, read from the shapes."""
    encoder = _layers(weights, "_encoder.state")
    heads = _heads(weights, "_Qs.params")
    latent = len(weights["_dynamics.2.bias"])
    embedding = weights.get("_task_emb.weight")
    tasks, width = (0, 0) if embedding is None else tuple(embedding.shape)
    action_dim = weights["_dynamics.0.weight"].shape[1] - latent - width
    masks = weights.get("_action_masks")
    known = [action_dim] * tasks if masks is None else masks.sum(1).int().tolist()
    return {
        "observation_dim": encoder[0].shape[1] - width,
        "action_dim": action_dim,
        "episodic": "_termination.0.weight" in weights,
        "task_actions": known,
        "size": Size(
            encoder=encoder[0].shape[0],
            encoder_layers=len(encoder) - 1,
            hidden=len(weights["_dynamics.0.bias"]),
            latent=latent,
            heads=len(heads[0]["weight"]),
            task=width or Size.task,
            bins=len(weights["_reward.2.bias"]),
        ),
    }


def _layers(weights: dict[str, Tensor], part: str) -> list[Tensor]:
    """The weight matrices of a network's layers."""
    found: list[Tensor] = []
    while f"{part}.{len(found)}.weight" in weights:
        found.append(weights[f"{part}.{len(found)}.weight"])
    return found


def _heads(weights: dict[str, Tensor], prefix: str) -> list[dict[str, Tensor]]:
    """The tensors of the value networks' layers by name, from either layout."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, x in weights.items():
        if old := re.fullmatch(rf"{re.escape(prefix)}\.(\d+)", name):
            layer, number = divmod(int(old[1]), len(NAMES))
            layers.setdefault(layer, {})[NAMES[number]] = x
        elif new := re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)", name):
            layers.setdefault(int(new[1]), {})[new[2]] = x
    return [layers[number] for number in sorted(layers)]
