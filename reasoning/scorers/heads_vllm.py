"""Reward models with a head on vLLM, whose backbone runs there and whose head runs here.

vLLM reads its prefix cache where it pools the last position of a prompt, and not where it pools
all of them. So a step is a prompt that ends at its tag; what comes back is the hidden state there,
and the head, which is small, is computed by the same code as in `reasoning.scorers.heads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Request, Score, ScoreRequest
from reasoning.engines.vllm import VLLMEngine, _Sequence, compared, scored
from reasoning.scorers.heads import classes, load_head, mute

BACKBONES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
"""Model types whose checkpoints vLLM is told to load without their head."""


class VLLMHeadEngine(VLLMEngine):
    """Like `reasoning.scorers.heads.HeadEngine`, with vLLM's batches and prefix cache.

    Options are those of `VLLMEngine`. Raises ValueError where the backbone is none of BACKBONES.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        from transformers import AutoConfig
        from vllm.config import PoolerConfig

        name = str(model)
        self.head = load_head(name)
        kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        if kind not in BACKBONES:
            raise ValueError(
                f"vLLM runs the heads of {', '.join(BACKBONES)} models and {name} is a {kind} "
                "model: use the engine transformers"
            )
        from reasoning.scorers import vllm_models

        super().__init__(
            model,
            **{
                "runner": "pooling",
                "convert": "embed",
                "pooler_config": PoolerConfig(seq_pooling_type="LAST", use_activation=False),
                "hf_overrides": {"architectures": [f"Headless{BACKBONES[kind]}ForCausalLM"]},
                "worker_extension_cls": f"{vllm_models.__name__}.Registered",
                **options,
            },
        )

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Refused."""
        return mute(self.name)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        from vllm import PoolingParams

        for request in requests:
            if len(request.tokens) > self.context:
                raise ValueError(
                    f"a text of {len(request.tokens)} tokens to score does not fit in the "
                    f"{self.context} tokens of {self.name}"
                )
        reading = PoolingParams(task="embed", use_activation=False)
        prompts = [
            _Sequence(request.tokens[: place + 1], reading.clone())
            for request in requests
            for place in request.positions
        ]
        outputs = self._ask(prompts)
        pairs = zip(self._classes(outputs), compared(requests), strict=True)
        logprobs = (logits[list(options)].log_softmax(-1) for logits, options in pairs)
        return scored(requests, outputs, logprobs)

    def _classes(self, outputs: Sequence[Any]) -> Tensor:
        """Logits [n, classes], the head computed once for all; NaN where a request was refused."""
        size = next(self.head.parameters()).shape[1]  # of a hidden state
        hidden = torch.full((len(outputs), size), torch.nan)
        for row, output in enumerate(outputs):
            if not isinstance(output, Exception):
                hidden[row] = output.outputs.data
        return classes(self.head, hidden)
