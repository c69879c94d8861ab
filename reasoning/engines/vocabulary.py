"""The text side of engines whose model has a tokenizer in the hub's format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from reasoning.engines.base import Turn
from reasoning.prompts import INSTRUCTION, Prompt

REMEMBERED = 2**14  # texts whose token ids are kept,
LONGEST = 2**10  # of so many characters at most


class Vocabulary:
    """Text to token ids and back.

    name: a local folder or a hub name.
    chat: talk to the model in its chat template; by default where it has one.
    instruction: said before the question of `encode_prompt` in a chat.

    Raises FileNotFoundError where there is no such tokenizer and ValueError where a chat is asked
    for and it has no chat template.
    """

    def __init__(
        self, name: str | Path, *, chat: bool | None = None, instruction: str = INSTRUCTION
    ) -> None:
        self.name = str(name)
        self.tokenizer = load_tokenizer(self.name)
        if chat and not self.tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template: set chat=false")
        self.chat = bool(self.tokenizer.chat_template) if chat is None else chat
        self.instruction = instruction
        self._said: dict[int, str] = {}
        tokenizer = self.tokenizer

        @lru_cache(maxsize=REMEMBERED)
        def encode(text: str, start: bool) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=start)["input_ids"])

        self._encode = encode

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """See `Engine`. In a search the same questions and steps are asked for again and again."""
        known = self._encode if len(text) <= LONGEST else self._encode.__wrapped__
        return known(text, start)

    def encode_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """See `Engine`."""
        if not self.tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template: set chat=false")
        goes_on = bool(turns) and turns[-1].role == "assistant"
        text = self.tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.text} for turn in turns],
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
        return self.encode(text)

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """See `Engine`."""
        instruction = self.instruction if self.chat else None
        return Prompt(instruction=instruction).encode(self, question)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Engine`. Single tokens, of which solutions are full, are looked up."""
        if len(tokens) != 1:
            return self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        (token,) = tokens
        if token not in self._said:
            self._said[token] = self.tokenizer.decode([token], skip_special_tokens=True)
        return self._said[token]

    @cached_property
    def pieces(self) -> list[str]:
        """The text of every token by itself, special ones included; U+FFFD where a token ends
        within a character."""
        return self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])


def load_tokenizer(name: str) -> Any:
    """A tokenizer by folder or hub name; FileNotFoundError, in one sentence, without one."""
    from transformers import AutoTokenizer

    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{name} is no model folder: it has no config.json")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise unavailable(name, error) from error


def unavailable(name: str, error: Exception) -> FileNotFoundError:
    """That a model cannot be had, in one sentence."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return FileNotFoundError(
        f"cannot load a causal language model from {name!r} (a local folder or a hub name): "
        f"{reason}"
    )
