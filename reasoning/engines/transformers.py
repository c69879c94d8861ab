"""Any causal language model in the Hugging Face format, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Finish, Request, ScoreRequest

PLAIN_PROMPT = "Question: {question}\nAnswer:\n"


class TransformersEngine:
    """Batched sampling and scoring with a `transformers` model.

    model: a local folder or a hub name.
    chat: put questions in the tokenizer's chat template; by default where it has one. Otherwise
        the plain prompt of PLAIN_PROMPT is used.
    instruction: for the chat template, said before the question.
    max_batch: rows computed at once.
    device, dtype: by default CUDA where there is one; float32 on CPU, the checkpoint's own on CUDA.

    Sampling draws one uniform number per token from the request's own seed and inverts the
    cumulative distribution, so a completion depends on its batch only through rounding. Requests
    with equal prompts share one prefill and its KV cache.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat: bool | None = None,
        instruction: str = "Solve the problem step by step, one step per line. End with a line "
        "'#### <number>'.",
        max_batch: int = 256,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> None:
        from reasoning.engines.cache import make_cache

        self.make_cache = make_cache
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or ("float32" if self.device.type == "cpu" else None)
        self.name = str(model)
        self.model, self.tokenizer = _load(self.name, dtype, self.device)
        if chat and not self.tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template: set chat=false")
        self.chat = bool(self.tokenizer.chat_template) if chat is None else chat
        self.instruction = instruction
        self.max_batch = max_batch
        self.context = int(getattr(self.model.config, "max_position_embeddings", 2**31))
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self._closing: dict[str, Tensor] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """See `Engine`."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """See `Engine`."""
        if not self.chat:
            return tuple(self.tokenizer(PLAIN_PROMPT.format(question=question))["input_ids"])
        turns = [{"role": "user", "content": f"{self.instruction}\n\n{question}"}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Engine`."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    # Generating

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        for request in requests:
            self._check(request)
        done: dict[int, Completion] = {}
        for batch in self._batches([request.tokens for request in requests]):
            for i, completion in zip(
                batch, self._generate([requests[i] for i in batch]), strict=True
            ):
                done[i] = completion
        return [done[i] for i in range(len(requests))]

    def _check(self, request: Request) -> None:
        if not request.tokens:
            raise ValueError("a request needs at least one prompt token")
        if request.max_tokens < 1 or len(request.tokens) + request.max_tokens > self.context:
            raise ValueError(
                f"a prompt of {len(request.tokens)} tokens and {max(request.max_tokens, 1)} to "
                f"generate do not fit in the {self.context} tokens of {self.name}"
            )

    def _batches(self, texts: list[tuple[int, ...]]) -> Iterator[list[int]]:
        """Indices in batches; texts of similar length, equal ones side by side."""
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i], i))
        for start in range(0, len(order), self.max_batch):
            yield order[start : start + self.max_batch]

    def _generate(self, requests: list[Request]) -> list[Completion]:
        prompts = list(dict.fromkeys(request.tokens for request in requests))
        rows = _Rows(self, requests)
        cache, mask, logits = self._prefill(prompts, [request.tokens for request in requests])
        while True:
            last = rows.advance(logits)
            if not rows.active:
                break
            keep = rows.compact()
            if keep is not None:
                cache.batch_select_indices(keep)
                mask, last = mask[keep], last[keep]
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
            out = self.model(
                input_ids=last.unsqueeze(1),
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            cache, logits = out.past_key_values, out.logits[:, -1]
        first = {requests[i].tokens: i for i in reversed(range(len(requests)))}
        return [
            completion._replace(prefilled=len(request.tokens) * (first[request.tokens] == i))
            for i, (request, completion) in enumerate(zip(requests, rows.results(), strict=True))
        ]

    def _pad(self, texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Texts padded on the left to one width: token ids and mask, int64 [n, L]."""
        width = max(map(len, texts))
        tokens = torch.zeros((len(texts), width), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for i, text in enumerate(texts):
            tokens[i, width - len(text) :] = torch.tensor(text)
            mask[i, width - len(text) :] = 1
        return tokens.to(self.device), mask.to(self.device)

    def may_close(self, ending: str) -> Tensor:
        """Which tokens [V] bool may complete a stop string that ends in the character `ending`.

        Those that hold it, and those that end within a character and show as U+FFFD.
        """
        if ending not in self._closing:
            size = self.model.get_output_embeddings().weight.shape[0]
            pieces = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            table = torch.zeros(size, dtype=torch.bool)
            closes = [ending in piece or "\ufffd" in piece for piece in pieces[:size]]
            table[: len(closes)] = torch.tensor(closes)
            self._closing[ending] = table
        return self._closing[ending]

    # Scoring

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """See `Engine`. Requests that share their leading tokens share one prefill of these."""
        longest = max((len(request.tokens) for request in requests), default=0)
        if longest > self.context:
            raise ValueError(
                f"a text of {longest} tokens to score does not fit in the {self.context} tokens of "
                f"{self.name}"
            )
        done: dict[int, Tensor] = {}
        for batch in self._batches([request.tokens for request in requests]):
            chosen = [requests[i] for i in batch]
            for i, logits in zip(batch, self._score(chosen), strict=True):
                done[i] = logits.float().log_softmax(-1).cpu()
        return [done[i] for i in range(len(requests))]

    def _score(self, requests: list[ScoreRequest]) -> list[Tensor]:
        """Logits [positions, options] of each request."""
        heads = list(dict.fromkeys(request.tokens[: request.shared] for request in requests))
        rests = [request.tokens[request.shared :] for request in requests]
        mask, cache = torch.zeros((len(requests), 0), dtype=torch.int64), None
        if len(heads) < len(requests) and heads != [()]:
            cache, mask, _ = self._prefill(heads, [r.tokens[: r.shared] for r in requests])
        else:
            rests = [request.tokens for request in requests]
        tokens, rest_mask = self._pad(rests)
        mask = torch.cat([mask.to(self.device), rest_mask], 1)
        # Texts end together: a position is counted from the right edge.
        places = [[tokens.shape[1] - len(r.tokens) + p for p in r.positions] for r in requests]
        read = sorted({place for row in places for place in row})
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
            past_key_values=cache,
            logits_to_keep=torch.tensor(read, device=self.device),
        )
        where = {place: i for i, place in enumerate(read)}
        return [
            out.logits[row, [where[place] for place in placed]][:, list(request.options)]
            for row, (request, placed) in enumerate(zip(requests, places, strict=True))
        ]

    def _prefill(
        self, prompts: list[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]
    ) -> tuple[Any, Tensor, Tensor]:
        """Cache, mask [n, L] and next-token logits [n, V] of n `wanted` prompts, each computed
        once."""
        where = {prompt: i for i, prompt in enumerate(prompts)}
        source = torch.tensor([where[prompt] for prompt in wanted], device=self.device)
        tokens, mask = self._pad(prompts)
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=self.make_cache(self.model.config),
            use_cache=True,
            logits_to_keep=1,
        )
        out.past_key_values.batch_select_indices(source)
        return out.past_key_values, mask[source], out.logits[:, -1][source]


class _Rows:
    """The requests of one batch while they grow."""

    def __init__(self, engine: TransformersEngine, requests: list[Request]) -> None:
        self.engine, self.requests = engine, requests
        longest = max(request.max_tokens for request in requests)
        self.draws = torch.stack(
            [torch.rand(longest, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
        ).to(engine.device)
        temperatures = torch.tensor([request.temperature for request in requests])
        self.temperature = temperatures.to(engine.device).unsqueeze(1)
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self.finish: list[Finish | None] = [None] * len(requests)
        self.rows = list(range(len(requests)))  # which request each row of the batch is
        self.length = 0
        endings = {stop[-1] for request in requests for stop in request.stop}
        self.closing = {ending: engine.may_close(ending) for ending in endings}

    @property
    def active(self) -> bool:
        """Whether any request is still growing."""
        return any(self.finish[i] is None for i in self.rows)

    def advance(self, logits: Tensor) -> Tensor:
        """Sample the next token [n] of every row from `logits` [n, V] and note who is done."""
        index = torch.tensor(self.rows, device=logits.device)
        chosen, logprob = self._sample(logits.float(), index)
        self.length += 1
        for i, token, logp in zip(self.rows, chosen.tolist(), logprob.tolist(), strict=True):
            if self.finish[i] is None:
                self._append(i, token, logp)
        return chosen

    def _sample(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        logprob = logits.log_softmax(-1)
        temperature = self.temperature[index]
        heated = torch.softmax(logits / temperature.clamp(min=1e-6), -1).cumsum(-1)
        draw = self.draws[index, self.length].unsqueeze(1) * heated[:, -1:]
        drawn = torch.searchsorted(heated, draw, right=True).clamp(max=logits.shape[1] - 1)
        best = logits.argmax(-1, keepdim=True)
        chosen = torch.where(temperature > 0, drawn, best)
        return chosen.squeeze(1), logprob.gather(1, chosen).squeeze(1)

    def _append(self, i: int, token: int, logprob: float) -> None:
        request, tokens = self.requests[i], self.tokens[i]
        self.logprobs[i].append(logprob)
        if token in self.engine.ends:
            self.finish[i] = "eos"
            return
        tokens.append(token)
        if any(self.closing[stop[-1]][token] for stop in request.stop):
            reach = max(len(stop.encode()) for stop in request.stop)  # a token has a byte or more
            tail = self.engine.decode(tokens[-reach - 1 :])
            if any(stop in tail for stop in request.stop):
                self.finish[i] = "stop"
                return
        if len(tokens) == request.max_tokens:
            self.finish[i] = "length"

    def compact(self) -> Tensor | None:
        """Drop the finished rows when they are at least a quarter; which rows [n] stay, or None."""
        keep = [row for row, i in enumerate(self.rows) if self.finish[i] is None]
        if len(keep) > 0.75 * len(self.rows):
            return None
        self.rows = [self.rows[row] for row in keep]
        return torch.tensor(keep, device=self.engine.device)

    def results(self) -> list[Completion]:
        """The completions in the order of the requests."""
        return [
            Completion(tuple(tokens), finish or "length", tuple(logprobs), 0)
            for tokens, finish, logprobs in zip(
                self.tokens, self.finish, self.logprobs, strict=True
            )
        ]


def _load(name: str, dtype: str | None, device: torch.device) -> tuple[Any, Any]:
    """The model and its tokenizer; FileNotFoundError, in one sentence, where they cannot be had."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(f"{name} is no model folder: it has no config.json")
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"cannot load a causal language model from {name!r} (a local folder or a hub name): "
            f"{reason}"
        ) from error
    return model.eval().to(device), tokenizer
