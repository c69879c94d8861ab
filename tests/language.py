"""Small language models for tests: random weights in the hub's format, and a script that adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from reasoning.engines import ScriptedEngine, TransformersEngine
from reasoning.tasks import generate_problems
from reasoning.training.tokenizer import PROMPT, train_tokenizer
from reasoning.world import Aggregate, Kind, Thought


def save_tiny_model(
    folder: Path, *, ends: Sequence[int] = (), context: int = 256, template: str | None = None
) -> Path:
    """A random Llama and its tokenizer; `ends` are token ids that end a text besides `</s>`.

    The weights are wide enough that the likeliest token is not decided by rounding.
    """
    texts = [PROMPT.format(question=p.question) for p in generate_problems("train", 20, (1, 3))]
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Reciter(nn.Module):
    """A language model that says given tokens after any prompt of a given length."""

    def __init__(self, model: Any, prompt: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config, self.prompt = model, model.config, prompt
        self.said = torch.tensor(tokens)

    def get_output_embeddings(self) -> nn.Module:
        return self.model.get_output_embeddings()

    def forward(self, position_ids: Tensor, **keywords: Any) -> Any:
        out = self.model(position_ids=position_ids, **keywords)
        number = (position_ids[:, -1] + 1 - self.prompt).clamp(max=len(self.said) - 1)
        out.logits = torch.full_like(out.logits, -100.0)
        out.logits[torch.arange(len(number)), -1, self.said[number]] = 100.0
        return out


def recite(engine: TransformersEngine, prompt: Sequence[int], text: str) -> tuple[int, ...]:
    """Make the engine say `text` and end-of-text after `prompt`; the tokens of `text`."""
    tokens = engine.encode(text)
    eos = engine.tokenizer.eos_token_id
    engine.model = Reciter(engine.model, len(prompt), [*tokens, eos])
    return tokens


def adding(text: str) -> list[tuple[str, float]]:
    """A scripted model that adds "3+4+5" step by step: "3+4=7\\n", "7+5=12\\n", "#### 12\\n".

    At every step it is likelier to be off by one than right. After its answer it rambles on.
    """
    question, *lines = text.split("\n")[:-1]
    first, *others = map(int, question.split("+"))
    if lines and lines[-1].startswith("####"):
        return [("1+1=3\n#### 3\n\0", 1.0)]
    total = int(lines[-1].split("=")[1]) if lines else first
    if len(lines) == len(others):
        return [(f"#### {total}\n", 3.0), (f"That is {total}.\0", 1.0)]
    line = f"{total}+{others[len(lines)]}="
    right = total + others[len(lines)]
    return [(f"{line}{right + 1}\n", 5.0), (f"{line}{right}\n", 4.0), (f"{line}{right - 1}\n", 2.0)]


def scripted() -> ScriptedEngine:
    return ScriptedEngine(adding)


def total_of(question: str) -> str:
    return str(sum(map(int, question.split("+"))))


class Checker:
    """A scorer that believes right sums (0.9) more than wrong ones (0.2), and remembers."""

    kind: Kind = "step"
    aggregate: Aggregate = "product"

    def __init__(self) -> None:
        self.asked: list[tuple[Thought, int]] = []

    def score(
        self, thoughts: Sequence[Thought], added: Sequence[int]
    ) -> tuple[list[tuple[float, ...]], list[int]]:
        self.asked += zip(thoughts, added, strict=True)
        new = [t.steps[len(t.steps) - n :] for t, n in zip(thoughts, added, strict=True)]
        scores = [tuple(_judge(step.text) for step in steps) for steps in new]
        return scores, [sum(len(step.tokens) for step in steps) for steps in new]


def _judge(line: str) -> float:
    sum_, equals, result = line.strip().partition("=")
    if not equals:
        return 1.0
    return 0.9 if str(sum(map(int, sum_.split("+")))) == result else 0.2
