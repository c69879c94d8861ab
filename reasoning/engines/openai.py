"""Any server that speaks OpenAI's protocol."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasoning.engines.base import (
    Completion,
    Fill,
    Finish,
    Request,
    Score,
    ScoreRequest,
    Turn,
    failure,
)
from reasoning.engines.http import Client, Refused
from reasoning.engines.vocabulary import INSTRUCTION, Vocabulary
from reasoning.prompts import Prompt

LOCAL = "http://localhost:8000/v1"


class OpenAIEngine(Vocabulary):
    """Sampling and scoring by the completions API of a server.

    model: the server's name for it.
    url: of the API; by default the environment's OPENAI_BASE_URL, or a server on this machine.
    tokenizer: its folder or hub name; by default `model`.
    ids: whether the server takes and gives token ids, as vLLM does; by default whether it says it
        is vLLM.
    context: tokens of prompt and completion together; by default what the server says.
    chat, instruction: as for the other engines.
    connection: key, timeout, retries and concurrency of `Client`.

    With token ids nothing is lost. Without, prompts are sent as text, and so comes what is drawn:
    its tokens are those that the tokenizer here makes of it, and its log-probability is spread
    over them evenly where they are not the server's. Such servers do not tell which of two reasons
    ended a completion and cut the stop string off, so that none is sent: a step costs as much as
    the whole rest of its solution. Scores need options among the five likeliest tokens there.
    top_k and min_p are sent where they are asked for: OpenAI's own servers have neither.

    Raises EngineError where the server cannot be reached, and what `Vocabulary` raises.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        url: str | None = None,
        tokenizer: str | None = None,
        ids: bool | None = None,
        context: int | None = None,
        chat: bool | None = None,
        instruction: str = INSTRUCTION,
        **connection: Any,
    ) -> None:
        self.client = Client(url or os.environ.get("OPENAI_BASE_URL") or LOCAL, **connection)
        card = _card(self.client.get("/models"), str(model))
        super().__init__(tokenizer or model, chat=chat, instruction=instruction)
        self.model = str(model)
        self.ids = card.get("owned_by") == "vllm" if ids is None else ids
        told = card.get("max_model_len")
        # One token is kept for what is drawn after a text that is scored.
        self.context = context or (int(told) - 1 if told else 2**31)

    @property
    def fill(self) -> Fill:
        """See `Engine`. A batch is what the client has under way, and may have."""
        return self.client.fill

    def forget(self) -> None:
        """See `Engine`: nothing is kept here."""

    def close(self) -> None:
        """See `Engine`."""
        self.client.close()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        for request in requests:
            if not request.tokens:
                raise ValueError("a request needs at least one prompt token")
            if request.max_tokens < 1 or len(request.tokens) + request.max_tokens > self.context:
                raise ValueError(
                    f"a prompt of {len(request.tokens)} tokens and {max(request.max_tokens, 1)} to "
                    f"generate do not fit in the {self.context} tokens of {self.name}"
                )
        answers = self.client.post("/completions", [self._sampling(r) for r in requests])
        read = self._read_ids if self.ids else self._read_text
        first = {request.tokens: i for i, request in reversed(list(enumerate(requests)))}
        return [
            _guarded(read, answer, request, first[request.tokens] == i)
            for i, (answer, request) in enumerate(zip(answers, requests, strict=True))
        ]

    def _sampling(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": self._prompt(request.tokens),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "logprobs": 1,
        }
        if self.ids:
            body |= {"return_token_ids": True, "include_stop_str_in_output": True}
            # Else the server takes these from the model's generation_config.json.
            body |= {"top_k": request.top_k or 0, "min_p": request.min_p, "repetition_penalty": 1.0}
            body |= {"stop": list(request.stop)} if request.stop else {}
            return body
        return body | _asked_for(request, "top_k", "min_p")

    def _prompt(self, tokens: tuple[int, ...]) -> list[int] | str:
        if self.ids:
            return list(tokens)
        starts = tokens[0] == self.tokenizer.bos_token_id  # the server puts one before every text
        return self.tokenizer.decode(list(tokens[starts:]), skip_special_tokens=False)

    def _read_ids(self, answer: dict[str, Any], request: Request, first: bool) -> Completion:
        (choice,) = answer["choices"]
        tokens, logprobs = tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"])
        finish = choice["finish_reason"]
        if finish not in ("stop", "length"):
            return failure(f"the server ended a request for the reason {finish!r}")
        ended = finish == "stop" and not isinstance(choice.get("stop_reason"), str)
        return Completion(
            tokens[:-1] if ended else tokens,
            "eos" if ended else finish,
            logprobs,
            _prefilled(answer, len(request.tokens), first),
        )

    def _read_text(self, answer: dict[str, Any], request: Request, first: bool) -> Completion:
        (choice,) = answer["choices"]
        drawn = choice.get("logprobs") or {}
        text, finish = cut(choice["text"], request.stop, choice["finish_reason"])
        if finish == "failed":
            return failure(f"the server ended a request for the reason {choice['finish_reason']!r}")
        tokens = self.encode(text)
        pieces, logprobs = drawn.get("tokens"), drawn.get("token_logprobs")
        shares = spread(text, len(tokens), pieces, logprobs)
        return Completion(tokens, finish, shares, _prefilled(answer, len(request.tokens), first))

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        for request in requests:
            if len(request.tokens) > self.context:
                raise ValueError(
                    f"a text of {len(request.tokens)} tokens to score does not fit in the "
                    f"{self.context} tokens of {self.name}"
                )
        asked = [(request, place) for request in requests for place in request.positions]
        answers = iter(self.client.post("/completions", [self._reading(*one) for one in asked]))
        return [
            self._scored(request, [next(answers) for _ in request.positions])
            for request in requests
        ]

    def _scored(self, request: ScoreRequest, answers: Sequence[dict[str, Any] | Refused]) -> Score:
        """The score of a request, by the answers about its positions."""
        read = [
            0 if isinstance(answer, Refused) else _prefilled(answer, place + 1, first=True)
            for answer, place in zip(answers, request.positions, strict=True)
        ]
        found = [self._read_options(answer, request) for answer in answers]
        return Score(torch.stack(found), sum(read))

    def _reading(self, request: ScoreRequest, place: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": self._prompt(request.tokens[: place + 1]),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": 5,
        }
        if self.ids:
            body["logprob_token_ids"] = list(request.options)
            body["return_tokens_as_token_ids"] = True
        return body

    def _read_options(self, answer: dict[str, Any] | Refused, request: ScoreRequest) -> Tensor:
        """Log-probabilities [options]; NaN where none of them was told."""
        name = "token_id:{}".format if self.ids else lambda option: self.decode([option])
        try:
            table = {} if isinstance(answer, Refused) else _likeliest(answer)
        except (KeyError, IndexError, TypeError):
            table = {}
        found = torch.tensor([table.get(name(option), -math.inf) for option in request.options])
        return found.log_softmax(-1)  # NaN where all are -inf


class ChatEngine:
    """Sampling by the chat API of a server, where it has no other.

    model: the server's name for it.
    url: of the API; by default the environment's OPENAI_BASE_URL, or a server on this machine.
    instruction: said before each question.
    limit: what the server calls the limit of tokens, such as max_completion_tokens.
    more: further fields of every request.
    connection: key, timeout, retries and concurrency of `Client`.

    What is lost: nobody here knows the model's tokens, so that a token is a character, in budgets
    and ledgers, too. Log-probabilities are spread over the characters, and NaN where the server
    gives none. A stop string is not sent but cut at, and a step costs as much as the whole rest of
    its solution. To go on from a step the server must be able to continue a message
    (`continue_final_message`, as vLLM and SGLang); others answer whole questions only, and
    requests that go on are refused. There are no scores. Of top_p, top_k and min_p only what is
    asked for is sent; for the rest the server does as its model's configuration says.
    """

    context = 2**31
    chat = True

    def __init__(
        self,
        model: str,
        *,
        url: str | None = None,
        instruction: str = INSTRUCTION,
        limit: str = "max_tokens",
        more: Mapping[str, Any] | None = None,
        **connection: Any,
    ) -> None:
        self.client = Client(url or os.environ.get("OPENAI_BASE_URL") or LOCAL, **connection)
        self.client.get("/models")
        self.model, self.instruction, self.limit = str(model), instruction, limit
        self.more = dict(more or {})

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """See `Engine`."""
        return tuple(map(ord, text))

    def encode_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """See `Engine`. A turn begins with a negative number for its role."""
        roles = [-1 - ROLES.index(turn.role) for turn in turns]
        begun = [(role, *self.encode(turn.text)) for role, turn in zip(roles, turns, strict=True)]
        opened = () if turns and turns[-1].role == "assistant" else (-1 - ROLES.index("assistant"),)
        return tuple(token for turn in [*begun, opened] for token in turn)

    def encode_prompt(self, question: str) -> tuple[int, ...]:
        """See `Engine`."""
        return Prompt(instruction=self.instruction).encode(self, question)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Engine`."""
        return "".join(chr(token) for token in tokens if token >= 0)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        answers = self.client.post("/chat/completions", [self._body(r) for r in requests])
        first = {request.tokens: i for i, request in reversed(list(enumerate(requests)))}
        return [
            _guarded(self._read, answer, request, first[request.tokens] == i)
            for i, (answer, request) in enumerate(zip(answers, requests, strict=True))
        ]

    def _body(self, request: Request) -> dict[str, Any]:
        turns = _turns(request.tokens)
        begun = bool(turns[-1]["content"])
        goes_on = {"continue_final_message": True, "add_generation_prompt": False}
        return {
            "model": self.model,
            "messages": turns if begun else turns[:-1],
            self.limit: request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "logprobs": True,
            **_asked_for(request, "top_p", "top_k", "min_p"),
            **(goes_on if begun else {}),
            **self.more,
        }

    def _read(self, answer: dict[str, Any], request: Request, first: bool) -> Completion:
        (choice,) = answer["choices"]
        drawn = (choice.get("logprobs") or {}).get("content") or []
        text, finish = cut(
            choice["message"]["content"] or "", request.stop, choice["finish_reason"]
        )
        if finish == "failed":
            return failure(f"the server ended a request for the reason {choice['finish_reason']!r}")
        pieces, logprobs = [d["token"] for d in drawn], [d["logprob"] for d in drawn]
        shares = spread(text, len(text), pieces or None, logprobs or None)
        return Completion(
            self.encode(text), finish, shares, _prefilled(answer, len(request.tokens), first)
        )

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`. There is no such thing: ValueError."""
        if not requests:
            return []
        raise ValueError("a chat API cannot score: give the scorer an engine of its own")

    @property
    def fill(self) -> Fill:
        """See `Engine`. A batch is what the client has under way, and may have."""
        return self.client.fill

    def forget(self) -> None:
        """See `Engine`: nothing is kept here."""

    def close(self) -> None:
        """See `Engine`."""
        self.client.close()


def _asked_for(request: Request, *names: str) -> dict[str, Any]:
    """Those of the named options of sampling that are not as they would be by themselves: not every
    server knows them."""
    values = {name: getattr(request, name) for name in names}
    return {n: value for n, value in values.items() if value != Request._field_defaults[n]}


ROLES = ("system", "user", "assistant")


def _turns(tokens: tuple[int, ...]) -> list[dict[str, str]]:
    """Messages of a conversation that `ChatEngine` encoded."""
    turns: list[dict[str, str]] = []
    for token in tokens:
        if token < 0:
            turns.append({"role": ROLES[-1 - token], "content": ""})
        else:
            turns[-1]["content"] += chr(token)
    return turns


def cut(text: str, stop: Sequence[str], reason: str) -> tuple[str, Finish]:
    """A completion up to and including the first stop string, and why it ended."""
    ends = [text.find(part) + len(part) for part in stop if part in text]
    if ends:
        return text[: min(ends)], "stop"
    finishes: dict[str, Finish] = {"stop": "eos", "length": "length"}
    return text, finishes.get(reason, "failed")


def spread(
    text: str, number: int, pieces: Sequence[str] | None, logprobs: Sequence[float] | None
) -> tuple[float, ...]:
    """Log-probabilities of `number` tokens of `text`, from those of the server's `pieces`.

    Pieces after the end of the text do not count. NaN where the server gives none.
    """
    if pieces is None or logprobs is None:
        return (math.nan,) * number
    kept, said = [], 0
    for piece, logprob in zip(pieces, logprobs, strict=True):
        if said >= len(text):
            break
        said += len(piece)
        kept.append(float(logprob))
    if len(kept) == number:
        return tuple(kept)
    return (sum(kept) / number,) * number if number else ()


def _guarded(
    read: Any, answer: dict[str, Any] | Refused, request: Request, first: bool
) -> Completion:
    """What an answer says; a failure where it says too little."""
    if isinstance(answer, Refused):
        return failure(answer.reason)
    try:
        return read(answer, request, first)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return failure(f"an answer without what was asked for: {type(error).__name__} {error}")


def _prefilled(answer: dict[str, Any], length: int, first: bool) -> int:
    """Prompt tokens computed, by what the server says; else all, once for equal prompts."""
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return length * first if cached is None else length - cached


def _likeliest(answer: dict[str, Any]) -> dict[str, float]:
    """Log-probability of the likeliest next tokens, by their text."""
    return answer["choices"][0]["logprobs"]["top_logprobs"][0]


def _card(models: dict[str, Any], name: str) -> dict[str, Any]:
    """What the server says about a model; nothing where it does not know it."""
    cards = [card for card in models.get("data") or [] if isinstance(card, dict)]
    return next((card for card in cards if card.get("id") == name), cards[0] if cards else {})
