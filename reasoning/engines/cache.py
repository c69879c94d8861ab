"""A KV cache that grows in place."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

NAMES = {field.name for field in fields(CausalLMOutputWithPast)}
KEYWORD = "cache" if "cache" in NAMES else "past_key_values"
"""By which models take their cache: transformers 5.24 renamed it everywhere, and vLLM 0.32 does not
go with that release."""


class RoomyLayer(DynamicLayer):
    """A layer of the library's dynamic cache that keeps spare room after its keys and values.

    The library's layer copies the whole cache for every token, which is most of the time of
    decoding with a small model on a CPU; here a token is written into the room, and the copy comes
    once in `SPARE` tokens.
    """

    SPARE = 64

    def __init__(self) -> None:
        super().__init__()
        self.room: tuple[Tensor, Tensor] | None = None  # [n, heads, length + spare, size] each

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new states; the keys and values of all tokens so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        length = used + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < length:
            self.room = self._make_room(key_states, length), self._make_room(value_states, length)
            if used:
                assert self.keys is not None and self.values is not None
                self.room[0][..., :used, :].copy_(self.keys)
                self.room[1][..., :used, :].copy_(self.values)
        for table, new in zip(self.room, (key_states, value_states), strict=True):
            table[..., used:length, :].copy_(new)
        self.keys, self.values = (table[..., :length, :] for table in self.room)
        return self.keys, self.values

    def _make_room(self, like: Tensor, length: int) -> Tensor:
        return torch.empty(
            (*like.shape[:-2], length + self.SPARE, like.shape[-1]),
            dtype=like.dtype,
            device=like.device,
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`, which may repeat."""
        super().batch_select_indices(indices)
        self.room = None


def make_cache(config: Any) -> DynamicCache:
    """The library's cache for a model, its plain layers replaced by roomy ones."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def plain(cache: DynamicCache) -> bool:
    """Whether all layers keep the keys and values of all tokens, so that parts can be put together
    again; those with a sliding window, or with another kind of state, do not."""
    return bool(cache.layers) and all(type(layer) is RoomyLayer for layer in cache.layers)
