"""Batched sampling from a small Llama on a CPU, for making training data and quick evaluations.

Inference proper goes through the engines; this is the shortest code that keeps two cores busy:
one static key-value cache for a batch, prompts padded on the left, and finished rows dropped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from reasoning.tasks.types import Problem
from reasoning.training.tokenizer import PROMPT


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021) of ``x`` [B, H, t, D] in the hub's half-split layout."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class _Cache:
    """Keys and values of one batch, ``[layers, B, kv heads, T, D]``, and which slots are real."""

    def __init__(self, model: LlamaForCausalLM, real: torch.Tensor, room: int) -> None:
        c: Any = model.config
        batch, prompt = real.shape
        shape = (c.num_hidden_layers, batch, c.num_key_value_heads, prompt + room, c.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.real = F.pad(real, (0, room), value=True)
        self.used = 0

    def keep(self, rows: torch.Tensor) -> None:
        """Make the batch consist of these rows: drops them, or repeats them."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.real = self.real[rows]


def _forward(
    model: LlamaForCausalLM, ids: torch.Tensor, positions: torch.Tensor, cache: _Cache
) -> torch.Tensor:
    """Logits ``[B, V]`` after the last of ``ids`` [B, t]; the cache grows by t slots."""
    batch, t = ids.shape
    begin, end = cache.used, cache.used + t
    causal = torch.ones(t, end, dtype=torch.bool).tril(begin)
    # A padded slot attends to itself, lest its softmax be empty and its values NaN.
    itself = torch.eye(end, dtype=torch.bool)[begin:end]
    mask = ((cache.real[:, None, :end] & causal) | itself)[:, None]
    x = model.model.embed_tokens(ids)
    cos, sin = (c[:, None] for c in model.model.rotary_emb(x, positions))
    for i, layer in enumerate(model.model.layers):
        attention, h = layer.self_attn, layer.input_layernorm(x)
        q, k, v = (
            project(h).view(batch, t, -1, model.config.head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cache.keys[i, :, :, begin:end] = _rotate(k, cos, sin)
        cache.values[i, :, :, begin:end] = v
        keys, values = cache.keys[i, :, :, :end], cache.values[i, :, :, :end]
        x = x + attention.o_proj(_attend(_rotate(q, cos, sin), keys, values, mask))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    cache.used = end
    return model.lm_head(model.model.norm(x[:, -1]))


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Grouped-query attention ``[B, t, H * D]``; ``q`` is [B, H, t, D], keys [B, H / g, T, D].

    The queries of a group are stacked along time: the keys are read once and never copied, which
    is what one-token steps spend their time on.
    """
    batch, heads, t, width = q.shape
    groups = heads // keys.shape[1]
    stacked = q.reshape(batch, -1, groups * t, width) * width**-0.5
    logits = stacked @ keys.transpose(-1, -2)
    logits = logits.masked_fill(~mask.repeat(1, 1, groups, 1), -torch.inf)
    out = (logits.softmax(-1) @ values).view(batch, heads, t, width)
    return out.transpose(1, 2).reshape(batch, t, heads * width)


def _choose(logits: torch.Tensor, temperature: float, rng: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)[:, 0]


@torch.inference_mode()
def _sample_batch(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    num: int,
    temperature: float,
    max_tokens: int,
    rng: torch.Generator,
) -> list[list[int]]:
    """``num`` continuations of each tokenised prompt in turn, without the end token."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    pads = torch.tensor([longest - len(p) for p in prompts])
    cache = _Cache(model, torch.arange(longest) >= pads[:, None], max_tokens)
    positions = (torch.arange(longest) - pads[:, None]).clamp(min=0)
    logits = _forward(model, ids, positions, cache)
    copies = torch.arange(len(prompts)).repeat_interleave(num)
    cache.keep(copies)
    logits, positions = logits[copies], positions[copies]
    outputs: list[list[int]] = [[] for _ in copies]
    rows = list(range(len(copies)))
    config: Any = model.config
    for _ in range(max_tokens):
        tokens = _choose(logits, temperature, rng)
        going = tokens.ne(config.eos_token_id)
        for row, token, more in zip(rows, tokens.tolist(), going.tolist(), strict=True):
            if more:
                outputs[row].append(token)
        position = positions[:, -1:] + 1
        if not going.all():
            kept = going.nonzero()[:, 0]
            rows, tokens, position = [rows[i] for i in kept.tolist()], tokens[kept], position[kept]
            cache.keep(kept)
        if not rows:
            break
        positions = position
        logits = _forward(model, tokens[:, None], positions, cache)
    return outputs


def load_lm(folder: str | Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A language model in float32, for sampling or to be trained on, and its tokenizer."""
    logging.disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    num: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 192,
    batch: int = 128,
    seed: int = 0,
) -> list[list[str]]:
    """``num`` continuations of each text.

    Args:
        model: float32 Llama.
        tokenizer: its tokenizer.
        prompts: texts to go on from.
        num: continuations of each.
        temperature: of the softmax; 0 takes the likeliest token.
        max_tokens: longest continuation, in tokens; longer ones are cut.
        batch: continuations sampled at once.
        seed: of the sampling.
    """
    rng = torch.Generator().manual_seed(seed)
    ids: list[list[int]] = tokenizer(list(prompts))["input_ids"] if prompts else []
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    texts: list[list[str]] = [[] for _ in prompts]
    size = max(1, batch // num)
    for begin in range(0, len(order), size):
        part = order[begin : begin + size]
        drawn = _sample_batch(model, [ids[i] for i in part], num, temperature, max_tokens, rng)
        decoded = tokenizer.batch_decode(drawn, skip_special_tokens=True)
        for j, i in enumerate(part):
            texts[i] = decoded[j * num : (j + 1) * num]
    return texts


def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    num: int = 1,
    temperature: float = 0.0,
    **settings: Any,
) -> list[list[str]]:
    """``num`` solution texts for each problem; ``settings`` are those of :func:`complete`."""
    prompts = [PROMPT.format(question=problem.question) for problem in problems]
    return complete(model, tokenizer, prompts, num, temperature, **settings)
