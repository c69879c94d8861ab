"""Models for vLLM that load a reward model's checkpoint and leave its head out.

vLLM knows a model by the name that a process has registered: importing this module registers them,
here and, as the module of the worker extension `Registered`, in each of vLLM's own processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from vllm import ModelRegistry
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from reasoning.engines.vllm_workers import Owned
from reasoning.scorers.heads import HEADS


class Registered(Owned):
    """The worker extension of any engine, and this module's registrations."""


def _headless(model: Any) -> Any:
    """A subclass of a vLLM model that skips the weights of heads."""

    def load_weights(self: Any, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        body = (pair for pair in weights if not pair[0].startswith((*HEADS, "lm_head.")))
        return model.load_weights(self, body)

    name = f"Headless{model.__name__}"
    return type(name, (model,), {"load_weights": load_weights, "__module__": __name__})


for _model in (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM):
    ModelRegistry.register_model(f"Headless{_model.__name__}", _headless(_model))
