"""Engines by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, get_args

from reasoning.engines.base import Engine

EngineKind = Literal["transformers", "vllm", "openai", "chat"]
ENGINES: tuple[str, ...] = get_args(EngineKind)


@contextmanager
def naming_options(who: str) -> Iterator[None]:
    """Raise ValueError, in place of TypeError, for a keyword that is no option of `who`."""
    try:
        yield
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"{who} has no such option: {error}") from error


def load_engine(
    model: str, kind: EngineKind = "transformers", options: Mapping[str, Any] | None = None
) -> Engine:
    """An engine that many threads may use at once.

    Args:
        model: a local folder or a hub name; for `openai` and `chat` the server's name for it.
        kind: `transformers` computes in this process, one batch at a time; `vllm` beside it, in
            one continuous batch; `openai` asks the completions API of a server, `chat` the chat
            API.
        options: keywords of `TransformersEngine`, `VLLMEngine`, `OpenAIEngine` or `ChatEngine`.

    Raises:
        ValueError: an unknown kind or option, or an option that does not fit the model.
        FileNotFoundError: the model cannot be had.
        EngineError: the server cannot be reached.
        ModuleNotFoundError: vLLM is not installed.
    """
    keywords = dict(options or {})
    with naming_options(f"the engine {kind!r}"):
        match kind:
            case "transformers":
                from reasoning.engines.shared import Shared
                from reasoning.engines.transformers import TransformersEngine

                return Shared(TransformersEngine(model, **keywords))
            case "vllm":
                from reasoning.engines.vllm import VLLMEngine

                return VLLMEngine(model, **keywords)
            case "openai":
                from reasoning.engines.openai import OpenAIEngine

                return OpenAIEngine(model, **keywords)
            case "chat":
                from reasoning.engines.openai import ChatEngine

                return ChatEngine(model, **keywords)
    near = get_close_matches(str(kind), ENGINES, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"there is no engine {kind!r}; did you mean {near!r}? Engines: {', '.join(ENGINES)}"
    )
