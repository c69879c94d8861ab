"""128 samples of 40 tokens from the embedded language model, with either key-value cache."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import DynamicCache

from evals.bench.worker import Job, serve
from reasoning.embedded import folder_of
from reasoning.engines import Request, TransformersEngine


def prepare(settings: Mapping[str, Any]) -> Job:
    """Decoding with the cache that grows `in place`, or with the library's."""
    engine = TransformersEngine(folder_of("embedded", "lm"))
    if not settings["in_place"]:
        engine.make_cache = lambda config: DynamicCache(config=config)
    prompt = engine.encode_prompt("Tom has 3 apples and buys 4 more. " * 8)
    requests = [Request(prompt, 40, 1.0, seed) for seed in range(settings["roots"])]
    return Job(partial(engine.generate, requests))


if __name__ == "__main__":
    serve(prepare)
