"""Reward models with a head: engines whose options are the head's classes, not tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from reasoning.engines.base import Completion, Request
from reasoning.engines.transformers import TransformersEngine
from reasoning.engines.vocabulary import unavailable

HEADS = ("score.", "v_head.")  # what published checkpoints call their heads


class HeadEngine(TransformersEngine):
    """Scores texts with a causal backbone and a head of the same checkpoint.

    `score` gives log-probabilities of the head's classes; of a head with one logit they are 1 and
    0, the logit's sigmoid and the rest. The head is computed in float32. It does not generate.

    Backbone and head are read from the weights by the library's own model of that type: code that
    comes with a checkpoint is never run.

    Raises ValueError where the checkpoint holds no head.
    """

    def _load(self, dtype: str | None) -> Any:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        head, said = load_head(self.name), logging.get_verbosity()
        logging.set_verbosity_error()  # the head's weights are no surprise
        try:
            backbone = AutoModel.from_pretrained(
                self.name, dtype=dtype or "auto", trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise unavailable(self.name, error) from error
        finally:
            logging.set_verbosity(said)
        return WithHead(backbone, head).eval().to(self.device)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Refused."""
        return mute(self.name)


class WithHead(nn.Module):
    """A backbone whose logits are those of a head, called like a causal language model."""

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        from transformers import GenerationConfig

        super().__init__()
        self.backbone, self.head = backbone, head
        self.config, self.generation_config = backbone.config, GenerationConfig()

    def forward(self, *, logits_to_keep: int | Tensor, **inputs: Any) -> Any:
        """Logits [n, positions, classes]; a cache is filled in place."""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        out = self.backbone(**inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = classes(self.head, out.last_hidden_state[:, kept])
        return CausalLMOutputWithPast(logits=logits)


def classes(head: nn.Module, hidden: Tensor) -> Tensor:
    """Logits [..., classes] of hidden states [..., D]; a single logit stands against a zero."""
    logits = head(hidden.float())
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def mute(name: str) -> NoReturn:
    """Raise that a reward model cannot generate."""
    raise ValueError(f"{name} is a reward model: it scores texts and does not generate")


def load_head(name: str) -> nn.Sequential:
    """The head of a checkpoint, in float32: linear layers with ReLU between them.

    Raises ValueError where it holds none and FileNotFoundError where there are no weights.
    """
    tensors = _tensors(name)
    layers: list[nn.Module] = []
    for key in sorted(key for key in tensors if key.endswith("weight")):
        weight, bias = tensors[key], tensors.get(key.removesuffix("weight") + "bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [*([nn.ReLU()] if layers else []), layer]
    if not layers:
        raise ValueError(f"{name} holds no head ({' or '.join(HEADS)}...): it is no reward model")
    return nn.Sequential(*layers).float().eval().requires_grad_(False)


def _tensors(name: str) -> dict[str, Tensor]:
    """The head's tensors by name."""
    from safetensors import safe_open

    for single in ("model.safetensors", "pytorch_model.bin"):
        files = _files(name, single)
        if not files:
            continue
        found: dict[str, Tensor] = {}
        for file in files:
            if single.endswith("bin"):
                loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                found |= {key: loaded[key].clone() for key in loaded if key.startswith(HEADS)}
                continue
            with safe_open(file, framework="pt") as shard:
                found |= {k: shard.get_tensor(k) for k in shard.keys() if k.startswith(HEADS)}  # noqa: SIM118
        return found
    raise FileNotFoundError(f"{name} has no weights: neither model.safetensors nor a .bin file")


def _files(name: str, single: str) -> list[Path]:
    """The file of that name, or those of its shards that hold a head; empty without any."""
    index = _file(name, f"{single}.index.json")
    if index is None:
        whole = _file(name, single)
        return [] if whole is None else [whole]
    placed = json.loads(index.read_text())["weight_map"]
    shards = sorted({file for key, file in placed.items() if key.startswith(HEADS)})
    return [path for path in (_file(name, shard) for shard in shards) if path is not None]


def _file(name: str, file: str) -> Path | None:
    """A file of a local folder or of the hub."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file)
    except OSError:
        return None
    return None if found is None else Path(found)
