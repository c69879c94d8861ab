"""Any causal language model in the Hugging Face format, on CPU or GPU."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from reasoning.engines.base import (
    Completion,
    EngineError,
    Fill,
    Finish,
    Request,
    Score,
    ScoreRequest,
)
from reasoning.engines.prefixes import Piece, Prefixes
from reasoning.engines.vocabulary import INSTRUCTION, Vocabulary, unavailable

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16"]
ON_CARD = 2**14  # tokens computed at once on a graphics card, by default
END, CLOSE = 2, 1  # what a token may end, see `TransformersEngine.marks`


def find_device(name: str | None) -> torch.device:
    """The device of that name; by default CUDA where there is one, else the CPU.

    Raises ValueError where it cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device={name} cannot be used here ({why}): leave it out") from error
    return torch.device(name)


class TransformersEngine(Vocabulary):
    """Batched sampling and scoring with a `transformers` model.

    model: a local folder or a hub name.
    chat: put questions in the tokenizer's chat template; by default where it has one.
    instruction: for the chat template, said before the question.
    max_batch: rows computed at once.
    max_num_batched_tokens: tokens of prompts, or of texts to score, computed at once; by default
        ON_CARD on CUDA and any number on CPU. A batch that a card has no memory for is halved.
    device, dtype: by default CUDA where there is one; float32 on CPU, the checkpoint's own on CUDA.
    reuse: GiB kept of the keys and values of texts that a search goes on from; 0: none.

    Sampling draws one uniform number per token from the request's own seed and inverts the
    cumulative distribution, so a completion depends on its batch only through rounding. Requests
    with equal prompts share one prefill and its KV cache; of requests with a cache key, only the
    tokens are computed that were not computed under it before.

    One thread at a time; `Shared` makes it an engine for many.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat: bool | None = None,
        instruction: str = INSTRUCTION,
        max_batch: int = 256,
        max_num_batched_tokens: int | None = None,
        device: str | None = None,
        dtype: Dtype | None = None,
        reuse: float = 1.0,
    ) -> None:
        from reasoning.engines.cache import KEYWORD, make_cache, plain

        _check_options(max_batch, max_num_batched_tokens, dtype, reuse)
        super().__init__(model, chat=chat, instruction=instruction)
        self.make_cache, self.keyword = make_cache, KEYWORD
        self.device = find_device(device)
        on_cpu = self.device.type == "cpu"
        self.model = self._load(dtype or ("float32" if on_cpu else None))
        self.max_batch = max_batch
        self.max_tokens = max_num_batched_tokens or (sys.maxsize if on_cpu else ON_CARD)
        self.context = int(getattr(self.model.config, "max_position_embeddings", 2**31))
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self.fill = Fill(0, 0)
        self.prefixes = Prefixes(int(reuse * 2**30) * plain(make_cache(self.model.config)))
        self._marks: dict[tuple[str, ...], Tensor] = {}

    def forget(self) -> None:
        """See `Engine`."""
        self.prefixes = Prefixes(self.prefixes.room)

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
        return self._in_batches(requests, self._generate, once=True)

    def _check(self, request: Request) -> None:
        if not request.tokens:
            raise ValueError("a request needs at least one prompt token")
        if request.max_tokens < 1 or len(request.tokens) + request.max_tokens > self.context:
            raise ValueError(
                f"a prompt of {len(request.tokens)} tokens and {max(request.max_tokens, 1)} to "
                f"generate do not fit in the {self.context} tokens of {self.name}"
            )

    def _in_batches(
        self, requests: Sequence[Any], compute: Callable[[list[Any]], list[T]], *, once: bool
    ) -> list[T]:
        """What comes of each request, in order; `compute` takes a batch, and equal texts `once`."""
        done: dict[int, T] = {}
        for batch in self._batches([request.tokens for request in requests], once):
            computed = self._halving([requests[i] for i in batch], compute)
            done |= zip(batch, computed, strict=True)
        return [done[i] for i in range(len(requests))]

    def _batches(self, texts: list[tuple[int, ...]], once: bool) -> Iterator[list[int]]:
        """Indices in batches; texts of similar length, equal ones side by side.

        A batch has at most max_batch texts, and max_num_batched_tokens where it has several.
        """
        batch: list[int] = []
        rows = 0  # that are computed
        for i in sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i], i)):
            known = once and bool(batch) and texts[i] == texts[batch[-1]]
            tokens = (rows + (not known)) * len(texts[i])
            if batch and (len(batch) >= self.max_batch or tokens > self.max_tokens):
                yield batch
                batch, rows, known = [], 0, False
            batch.append(i)
            rows += not known
        if batch:
            yield batch

    def _halving(self, requests: list[Any], compute: Callable[[list[Any]], list[T]]) -> list[T]:
        """`compute` a batch, or halves of it where the device has no memory for the whole.

        Raises EngineError where one request is too much.
        """
        with suppress(torch.OutOfMemoryError):
            return compute(requests)
        if len(requests) == 1:
            raise EngineError(
                f"{self.device} has no memory left to compute {len(requests[0].tokens)} tokens of "
                f"{self.name}: set dtype=bfloat16 or a smaller reuse in the engine's options"
            )
        self.max_batch = half = len(requests) // 2  # others would not fit either
        return [*self._halving(requests[:half], compute), *self._halving(requests[half:], compute)]

    def _generate(self, requests: list[Request]) -> list[Completion]:
        texts = [Text(request.tokens, request.cache_key) for request in requests]
        rows, begun = _Rows(self, requests), self._begin(texts, logits=True)
        cache, mask, logits = begun.cache, begun.mask, begun.logits
        assert logits is not None
        while True:
            self._count(rows.growing)
            last = rows.advance(logits)
            keep = rows.compact() if rows.growing else None
            if keep is not None or not rows.growing:
                self._remember(rows, begun)
            if not rows.growing:
                break
            if keep is not None:
                cache.batch_select_indices(keep)
                mask, last = mask[keep], last[keep]
                rows.index = rows.index[keep]
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
            out = self.model(
                input_ids=last.unsqueeze(1),
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                use_cache=True,
                **{self.keyword: cache},
            )
            logits = out.logits[:, -1]
        return [
            completion._replace(prefilled=computed)
            for completion, computed in zip(rows.results(), begun.computed, strict=True)
        ]

    def _remember(self, rows: _Rows, begun: Begun) -> None:
        """Keep the states of the steps that have ended, as long as they are in the cache."""
        ended = [
            (row, i)
            for row, i in enumerate(rows.index.tolist())
            if begun.ends[i] is not None and rows.finish.get(i, ("", 0))[0] == "stop"
        ]
        states = _states(begun.cache, begun.mask.shape[1]) if ended else None
        if states is None:
            return
        for row, i in ended:
            length = rows.finish[i][1] - 1  # the last token has not been computed yet
            if length:
                tokens = tuple(rows.tokens[i, :length].tolist())
                self.prefixes.add(begun.ends[i], tokens, states[:, :, row, :, :length].clone())

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
    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`. Requests that share their leading tokens share one prefill of these."""
        longest = max((len(request.tokens) for request in requests), default=0)
        if longest > self.context:
            raise ValueError(
                f"a text of {longest} tokens to score does not fit in the {self.context} tokens of "
                f"{self.name}"
            )
        return self._in_batches(requests, self._score, once=False)

    def _score(self, requests: list[ScoreRequest]) -> list[Score]:
        heads = [Text(request.tokens[: request.shared], request.cache_key) for request in requests]
        if len(set(heads)) == len(heads) and not any(head.key for head in heads):
            heads = [Text((), None)] * len(heads)  # nothing is shared
        begun = self._begin(heads, logits=False)
        rests = [r.tokens[len(head.tokens) :] for r, head in zip(requests, heads, strict=True)]
        tokens, mask = self._pad(rests)
        # Texts end together: a position is counted from the right edge.
        places = [[tokens.shape[1] - len(r.tokens) + p for p in r.positions] for r in requests]
        read = sorted({place for row in places for place in row})
        out = self._forward(begun.cache, torch.cat([begun.mask, mask], 1), tokens, read)
        self._count(len(requests))
        keyed = any(end is not None for end in begun.ends)
        states = _states(begun.cache, begun.mask.shape[1]) if keyed else None
        if states is not None:
            for row, (end, rest) in enumerate(zip(begun.ends, rests, strict=True)):
                if end is not None:
                    self.prefixes.add(end, rest, states[:, :, row, :, -len(rest) :].clone())
        where = {place: i for i, place in enumerate(read)}
        return [
            Score(
                out[row, [where[place] for place in placed]][:, list(request.options)]
                .float()
                .log_softmax(-1)
                .cpu(),
                begun.computed[row] + len(rests[row]),
            )
            for row, (request, placed) in enumerate(zip(requests, places, strict=True))
        ]

    # What both begin with

    def _begin(self, texts: Sequence[Text], *, logits: bool) -> Begun:
        """Compute what a batch of texts begins with, equal ones once, and known pieces not at all.

        With `logits` those of each text's next token are wanted, so that its last token is computed
        in any case.
        """
        found = list(dict.fromkeys(texts))
        paths = [self._known(text, len(text.tokens) - logits) for text in found]
        known = [sum(len(piece.tokens) for piece in path) for path in paths]
        cache, mask = self._laid_out(paths, known)
        rests = [text.tokens[length:] for text, length in zip(found, known, strict=True)]
        last = None
        if any(rests):
            tokens, rest_mask = self._pad(rests)
            start, mask = mask.shape[1], torch.cat([mask, rest_mask], 1)
            last = self._forward(cache, mask, tokens, 1)[:, -1]
            self._extend(paths, rests, cache, start)
        where = {text: i for i, text in enumerate(found)}
        rows = [where[text] for text in texts]
        source = torch.tensor(rows, device=self.device)
        if mask.shape[1] and rows != list(range(len(found))):
            cache.batch_select_indices(source)
        first = {row: i for i, row in reversed(list(enumerate(rows)))}
        return Begun(
            cache,
            mask[source],
            None if last is None else last[source],
            [len(rests[row]) * (first[row] == i) for i, row in enumerate(rows)],
            [paths[row][-1] if paths[row] else None for row in rows],
        )

    def _known(self, text: Text, most: int) -> list[Piece]:
        """The pieces that a text begins with; none where it has no key."""
        if text.key is None or not self.prefixes.room:
            return []
        return self.prefixes.find(text.key, text.tokens, most)

    def _laid_out(self, paths: list[list[Piece]], known: list[int]) -> tuple[Any, Tensor]:
        """A cache that holds the known states of each text, ending together, and its mask."""
        cache, width = self.make_cache(self.model.config), max(known)
        mask = torch.zeros((len(paths), width), dtype=torch.int64, device=self.device)
        if not width:
            return cache, mask
        some = next(piece.states for path in paths for piece in path[1:])
        assert some is not None
        layers, two, heads, _, size = some.shape
        whole = some.new_zeros((layers, two, len(paths), heads, width, size))
        for row, (path, length) in enumerate(zip(paths, known, strict=True)):
            mask[row, width - length :] = 1
            at = width - length
            for piece in path[1:]:
                assert piece.states is not None
                whole[:, :, row, :, at : at + len(piece.tokens)] = piece.states
                at += len(piece.tokens)
        for number, (keys, values) in enumerate(whole):
            cache.update(keys, values, number)
        return cache, mask

    def _extend(
        self, paths: list[list[Piece]], rests: list[tuple[int, ...]], cache: Any, start: int
    ) -> None:
        """Keep what was computed of texts that have a key, behind the pieces that were known.

        The last token is a piece of its own: whoever asks for the same text again computes it only.
        """
        states = _states(cache, start) if any(paths) else None
        if states is not None:
            for row, (path, rest) in enumerate(zip(paths, rests, strict=True)):
                if not path or not rest:
                    continue
                own = states[:, :, row, :, -len(rest) :]
                for part in (slice(-1), slice(-1, None)):
                    if rest[part]:
                        states_of = own[..., part, :].clone()
                        path.append(self.prefixes.add(path[-1], rest[part], states_of))

    def _forward(self, cache: Any, mask: Tensor, tokens: Tensor, keep: int | list[int]) -> Tensor:
        """Logits [n, positions, V] at those of the new `tokens` [n, t] that are to be kept, or the
        last so many; `mask` [n, T] covers the cache and them."""
        kept = keep if isinstance(keep, int) else torch.tensor(keep, device=self.device)
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
            use_cache=True,
            logits_to_keep=kept,
            **{self.keyword: cache},
        )
        return out.logits


class Text(NamedTuple):
    """Tokens, and the key under which what goes on from them may be kept."""

    tokens: tuple[int, ...]
    key: tuple[int, ...] | None


class Begun(NamedTuple):
    """What a batch of n texts goes on from."""

    cache: Any
    mask: Tensor  # int64 [n, T]
    logits: Tensor | None  # of the next tokens [n, V]
    computed: list[int]  # tokens computed for each, once for equal ones
    ends: list[Piece | None]  # after which pieces may be kept


def _states(cache: Any, start: int) -> Tensor | None:
    """Keys and values from a token on, [layers, 2, n, heads, tokens, size]; None where they differ
    in shape, as with multi-head latent attention."""
    tables = [table for layer in cache.layers for table in (layer.keys, layer.values)]
    if len({table.shape for table in tables}) > 1:
        return None
    return torch.stack([table[..., start:, :] for table in tables]).unflatten(0, (-1, 2))


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
        self.truncation = _truncation(requests, engine.marks(()).shape[0], device)
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
        warped = logits / temperature.clamp(min=1e-6)
        if self.truncation is not None:
            warped = truncated(warped, *(part[self.index] for part in self.truncation))
        heated = torch.softmax(warped, -1).cumsum(-1)
        draw = self.draws[self.index, self.length].unsqueeze(1) * heated[:, -1:]
        drawn = torch.searchsorted(heated, draw, right=True).clamp(max=logits.shape[1] - 1)
        best = logits.argmax(-1, keepdim=True)
        kept = warped.gather(1, drawn) > -torch.inf  # rounding may end on a token that is left out
        chosen = torch.where((temperature > 0) & kept, drawn, best)
        return chosen.squeeze(1), logprob.gather(1, chosen).squeeze(1)

    def _closed(self, i: int) -> bool:
        """Whether the newest token of request i completes one of its stop strings."""
        stop = self.requests[i].stop
        reach = max(len(text.encode()) for text in stop)  # a token has a byte or more
        first = max(0, self.length - reach - 1)
        tail = self.engine.decode(self.tokens[i, first : self.length].tolist())
        return any(text in tail for text in stop)

    def compact(self) -> Tensor | None:
        """Which rows [n] stay when the finished ones, at least a quarter, are dropped; or None."""
        if self.growing > 0.75 * len(self.index):
            return None
        stay = [row for row, i in enumerate(self.index.tolist()) if i not in self.finish]
        return torch.tensor(stay, device=self.engine.device)

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


class Truncation(NamedTuple):
    """Of which tokens each of n rows draws, see `Sampling`."""

    top_p: Tensor  # [n, 1]
    top_k: Tensor  # int64 [n, 1]
    min_p: Tensor  # [n, 1]


def _truncation(
    requests: Sequence[Request], vocabulary: int, device: torch.device
) -> Truncation | None:
    """That of a batch; None where all of its requests draw from all tokens."""
    if all((r.top_p, r.top_k, r.min_p) == (1.0, None, 0.0) for r in requests):
        return None
    top_k = [min(r.top_k or vocabulary, vocabulary) for r in requests]
    parts = [r.top_p for r in requests], top_k, [r.min_p for r in requests]
    return Truncation(*(torch.tensor(part, device=device).unsqueeze(1) for part in parts))


def truncated(logits: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Logits [n, V], behind the temperature, -inf where a token is left out (see `Truncation`).

    As `TopKLogitsWarper`, `TopPLogitsWarper` and `MinPLogitsWarper` of `transformers` one after the
    other, each of which keeps at least the likeliest token.
    """
    rising, order = logits.sort(dim=-1, stable=True)  # equal ones are cut alike in any batch
    least = rising.gather(1, rising.shape[1] - top_k)
    rising = rising.masked_fill(rising < least, -torch.inf)
    below = rising.softmax(-1).cumsum(-1) <= 1 - top_p  # the probability up to here can be spared
    below[:, -1] = False
    rising = rising.masked_fill(below & (top_p < 1), -torch.inf)
    share = rising.softmax(-1)
    rising = rising.masked_fill(share < min_p * share[:, -1:], -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, rising)


def _check_options(max_batch: object, most: object, dtype: object, reuse: object) -> None:
    """Raise ValueError on options of an engine that no engine can have."""
    counts = {"max_batch": max_batch, "max_num_batched_tokens": 1 if most is None else most}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")
    dtypes = get_args(Dtype)
    if dtype not in (None, *dtypes):
        raise ValueError(f"dtype must be one of {', '.join(dtypes)}, not {dtype!r}")
    if not isinstance(reuse, int | float) or not 0 <= reuse < math.inf:
        raise ValueError(f"reuse must be a number of GiB, 0 or more, not {reuse!r}")


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
