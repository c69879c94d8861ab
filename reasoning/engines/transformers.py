"""Any causal language model in the Hugging Face format, on CPU or GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Fill, Finish, Request, ScoreRequest
from reasoning.engines.vocabulary import INSTRUCTION, Vocabulary, unavailable

END, CLOSE = 2, 1  # what a token may end, see `TransformersEngine.marks`


class TransformersEngine(Vocabulary):
    """Batched sampling and scoring with a `transformers` model.

    model: a local folder or a hub name.
    chat: put questions in the tokenizer's chat template; by default where it has one.
    instruction: for the chat template, said before the question.
    max_batch: rows computed at once.
    device, dtype: by default CUDA where there is one; float32 on CPU, the checkpoint's own on CUDA.

    Sampling draws one uniform number per token from the request's own seed and inverts the
    cumulative distribution, so a completion depends on its batch only through rounding. Requests
    with equal prompts share one prefill and its KV cache.

    One thread at a time; `Shared` makes it an engine for many.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat: bool | None = None,
        instruction: str = INSTRUCTION,
        max_batch: int = 256,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> None:
        from reasoning.engines.cache import make_cache

        super().__init__(model, chat=chat, instruction=instruction)
        self.make_cache = make_cache
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or ("float32" if self.device.type == "cpu" else None)
        self.model = self._load(dtype)
        self.max_batch = max_batch
        self.context = int(getattr(self.model.config, "max_position_embeddings", 2**31))
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self.fill = Fill(0, 0)
        self._marks: dict[tuple[str, ...], Tensor] = {}

    def close(self) -> None:
        """See `Engine`. The weights go with the last reference to the engine."""

    def _load(self, dtype: str | None) -> Any:
        """The model, as it is called from here on."""
        return _load(self.name, dtype, self.device)

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
            self._count(rows.growing)
            last = rows.advance(logits)
            if not rows.growing:
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

    def _count(self, rows: int) -> None:
        """Note that one model step computed so many rows."""
        self.fill = Fill(self.fill.computed + rows, self.fill.possible + self.max_batch)

    def _pad(self, texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Texts padded on the left to one width: token ids and mask, int64 [n, L]."""
        width = max(map(len, texts))
        tokens = torch.zeros((len(texts), width), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for i, text in enumerate(texts):
            tokens[i, width - len(text) :] = torch.tensor(text)
            mask[i, width - len(text) :] = 1
        return tokens.to(self.device), mask.to(self.device)

    def marks(self, stop: tuple[str, ...]) -> Tensor:
        """What a token may end, uint8 [V]: END for end-of-text, CLOSE for one of `stop`, else 0.

        A token may close a stop string where it holds the string's last character, or ends within
        a character and shows as U+FFFD.
        """
        if stop not in self._marks:
            endings = {text[-1] for text in stop} | ({"\ufffd"} if stop else set())
            table = torch.zeros(self.model.get_output_embeddings().weight.shape[0])
            closing = [
                CLOSE * any(ending in piece for ending in endings)
                for piece in self.pieces[: len(table)]
            ]
            table[: len(closing)] = torch.tensor(closing, dtype=table.dtype)
            for end in self.ends:
                table[end] = END
            self._marks[stop] = table.to(torch.uint8).to(self.device)
        return self._marks[stop]

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
        self._count(len(requests))
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
    """The requests of one batch while they grow.

    Everything that happens at every token happens on the device, for all rows at once; the host
    reads, once per step, which rows may have ended.
    """

    def __init__(self, engine: TransformersEngine, requests: list[Request]) -> None:
        self.engine, self.requests = engine, requests
        limits = [request.max_tokens for request in requests]
        longest, device = max(limits), engine.device
        self.draws = torch.stack(
            [torch.rand(longest, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
        ).to(device)
        temperatures = torch.tensor([request.temperature for request in requests])
        self.temperature = temperatures.to(device).unsqueeze(1)
        stops = list(dict.fromkeys(request.stop for request in requests))
        self.marks = torch.stack([engine.marks(stop) for stop in stops])
        self.stop = torch.tensor([stops.index(r.stop) for r in requests], device=device)
        self.tokens = torch.zeros((len(requests), longest), dtype=torch.int64, device=device)
        self.logprobs = torch.zeros((len(requests), longest), device=device)
        self.full: dict[int, list[int]] = defaultdict(list)  # by the length that fills them
        for i, limit in enumerate(limits):
            self.full[limit].append(i)
        self.finish: dict[int, tuple[Finish, int]] = {}  # why, and after how many draws
        self.index = torch.arange(len(requests), device=device)  # which request each row is
        self.length = 0

    @property
    def growing(self) -> int:
        """How many requests are not finished."""
        return len(self.requests) - len(self.finish)

    def advance(self, logits: Tensor) -> Tensor:
        """Sample the next token [n] of every row from `logits` [n, V] and note who is done."""
        chosen, logprob = self._sample(logits.float())
        self.tokens[self.index, self.length] = chosen
        self.logprobs[self.index, self.length] = logprob
        self.length += 1
        marks = self.marks[self.stop[self.index], chosen]
        ended = torch.stack([self.index, marks])[:, marks > 0].tolist()  # the host waits here
        for i, mark in zip(*ended, strict=True):
            if i not in self.finish and mark == END:
                self.finish[i] = "eos", self.length
            elif i not in self.finish and self._closed(i):
                self.finish[i] = "stop", self.length
        for i in self.full[self.length]:
            self.finish.setdefault(i, ("length", self.length))
        return chosen

    def _sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logprob = logits.log_softmax(-1)
        temperature = self.temperature[self.index]
        heated = torch.softmax(logits / temperature.clamp(min=1e-6), -1).cumsum(-1)
        draw = self.draws[self.index, self.length].unsqueeze(1) * heated[:, -1:]
        drawn = torch.searchsorted(heated, draw, right=True).clamp(max=logits.shape[1] - 1)
        best = logits.argmax(-1, keepdim=True)
        chosen = torch.where(temperature > 0, drawn, best)
        return chosen.squeeze(1), logprob.gather(1, chosen).squeeze(1)

    def _closed(self, i: int) -> bool:
        """Whether the newest token of request i completes one of its stop strings."""
        stop = self.requests[i].stop
        reach = max(len(text.encode()) for text in stop)  # a token has a byte or more
        first = max(0, self.length - reach - 1)
        tail = self.engine.decode(self.tokens[i, first : self.length].tolist())
        return any(text in tail for text in stop)

    def compact(self) -> Tensor | None:
        """Drop the finished rows when they are at least a quarter; which rows [n] stay, or None."""
        if self.growing > 0.75 * len(self.index):
            return None
        stay = [row for row, i in enumerate(self.index.tolist()) if i not in self.finish]
        keep = torch.tensor(stay, device=self.engine.device)
        self.index = self.index[keep]
        return keep

    def results(self) -> list[Completion]:
        """The completions in the order of the requests."""
        done = [self.finish[i] for i in range(len(self.requests))]
        return [
            Completion(
                tuple(tokens[: drawn - (finish == "eos")]), finish, tuple(logprobs[:drawn]), 0
            )
            for (finish, drawn), tokens, logprobs in zip(
                done, self.tokens.tolist(), self.logprobs.tolist(), strict=True
            )
        ]


def _load(name: str, dtype: str | None, device: torch.device) -> Any:
    """The model; FileNotFoundError, in one sentence, where it cannot be had."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto")
    except (OSError, ValueError) as error:
        raise unavailable(name, error) from error
    return model.eval().to(device)
