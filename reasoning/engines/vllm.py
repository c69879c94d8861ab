"""vLLM: continuous batching and a prefix cache, on GPU or CPU (Kwon et al. 2023)."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from reasoning.engines.base import (
    Completion,
    EngineError,
    Fill,
    Request,
    Score,
    ScoreRequest,
    failure,
)
from reasoning.engines.vllm_workers import OWNER, Owned
from reasoning.engines.vocabulary import INSTRUCTION, Vocabulary

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its news would drown a command's own
# Not forked: a fork of a process in which torch has used several threads hangs where it does, too.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")

MOST_STOP_TOKENS = 64
_here: list[str] = []  # the model that vLLM runs in this process
ON_CPU = {
    "enforce_eager": True,  # compiling takes longer than most runs
    "block_size": 32,  # the cache is of whole blocks: in 128 tokens, vLLM's choice, few steps fit
    "enable_chunked_prefill": False,  # seeded requests whose prompt comes in parts end vLLM 0.32
}


class VLLMEngine(Vocabulary):
    """Sampling and scoring with vLLM.

    model: a local folder or a hub name.
    chat: put questions in the tokenizer's chat template; by default where it has one.
    instruction: for the chat template, said before the question.
    max_batch: sequences computed at once.
    dtype: by default float32 on CPU; elsewhere the checkpoint's own, but half precision for one in
        float32.
    own_process: False runs the model in this process, where vLLM's own would work in turn on a CPU
        and wait for one another by spinning: a step of 4 rows takes half the time, of 256 five
        sixths. A process can run one such engine at a time, made before Numba is loaded.
    arguments: any others of `vllm.EngineArgs`: tensor_parallel_size, gpu_memory_utilization, ...

    One thread feeds the requests of all callers into one continuous batch, so that none waits for
    the longest completion of another's. Prompts are cached by prefix: a step deeper in a search
    tree computes only what is new. A request is decided by its own seed, but rounding depends on
    the batch, and with it now and then a token, also at temperature 0.

    Scores are read one position at a time, as what would come next after a prompt that ends there:
    that reads the cache, which vLLM cannot do where it returns log-probabilities of the prompt.

    `context` is one token less than vLLM's own, for the token that it draws after a scored text:
    `max_model_len`, or by default the model's length, or as much of it as the cache has room for.

    vLLM's processes are spawned: a script that makes an engine does so behind
    `if __name__ == "__main__":`.

    Raises ModuleNotFoundError where vLLM is not installed, ValueError for a `revision` or where the
    model cannot run in this process, and what `Vocabulary` raises.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        chat: bool | None = None,
        instruction: str = INSTRUCTION,
        max_batch: int = 256,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        own_process: bool = True,
        **arguments: Any,
    ) -> None:
        if "revision" in arguments:
            raise ValueError(
                f"revision would hold for the weights of {model} alone, not for its tokenizer: "
                "download that revision and name its folder"
            )
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform

        others = set(active_children())
        super().__init__(model, chat=chat, instruction=instruction)
        on_cpu = current_platform.is_cpu()
        settings = {
            "dtype": dtype or ("float32" if on_cpu else "auto"),
            "max_num_seqs": max_batch,
            "max_model_len": -1,  # vLLM fits it to the memory that is left
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "worker_extension_cls": f"{Owned.__module__}.{Owned.__name__}",
            **(ON_CPU if on_cpu else {}),
            **arguments,
        }
        self.max_batch = int(settings["max_num_seqs"])
        self.within = not own_process
        os.environ[OWNER] = str(os.getpid())
        with _within(self.name) if self.within else nullcontext():
            self._engine = LLMEngine.from_engine_args(EngineArgs(model=self.name, **settings))
        self.context = int(self._engine.model_config.max_model_len) - 1
        ends = self._engine.model_config.try_get_generation_config().get("eos_token_id") or []
        ends = [ends] if isinstance(ends, int) else ends
        self.ends = frozenset([*ends, self.tokenizer.eos_token_id])  # vLLM ends at all of these
        self.fill = Fill(0, 0)
        self._closing: dict[tuple[str, ...], tuple[list[str], list[int]]] = {(): ([], [])}
        self.salt: str | None = None  # prompts are cached apart from those of another salt
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._asked: set[_Call] = set()
        self._gone: EngineError | None = None
        self._lock = threading.Lock()  # of these two
        self._names = map(str, itertools.count())
        threads = torch.get_num_threads()
        self._thread = threading.Thread(
            target=self._serve, args=(threads,), name="vllm", daemon=True
        )
        self._thread.start()
        own = [process.sentinel for process in set(active_children()) - others]
        threading.Thread(target=self._watch, args=(own,), name="vllm-watch", daemon=True).start()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `Engine`."""
        for request in requests:
            self._check(len(request.tokens), request.max_tokens)
        outputs = self._ask([_Sequence(r.tokens, self._sampling(r)) for r in requests])
        return [_completion(output, self.ends) for output in outputs]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """See `Engine`."""
        for request in requests:
            if len(request.tokens) > self.context:
                raise ValueError(
                    f"a text of {len(request.tokens)} tokens to score does not fit in the "
                    f"{self.context} tokens of {self.name}"
                )
        outputs = self._ask(
            [
                _Sequence(request.tokens[: place + 1], _reading(request.options))
                for request in requests
                for place in request.positions
            ]
        )
        return scored(requests, outputs, map(_logprobs, outputs, compared(requests)))

    def forget(self) -> None:
        """See `Engine`: no request finds a prompt that was cached before."""
        self.salt = str(time.monotonic_ns())

    def close(self) -> None:
        """See `Engine`."""
        self._inbox.put(None)
        while self._gone is None:
            self._thread.join(1.0)

    def _check(self, prompt: int, more: int) -> None:
        if not prompt:
            raise ValueError("a request needs at least one prompt token")
        if more < 1 or prompt + more > self.context:
            raise ValueError(
                f"a prompt of {prompt} tokens and {max(more, 1)} to generate do not fit in the "
                f"{self.context} tokens of {self.name}"
            )

    def _sampling(self, request: Request) -> Any:
        """SamplingParams of a request."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        strings, tokens = self._stops(request.stop)
        try:
            return SamplingParams(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k or 0,
                min_p=request.min_p,
                seed=request.seed,
                stop=strings,
                stop_token_ids=tokens,
                include_stop_str_in_output=True,
                detokenize=bool(strings),
                logprobs=0,  # of the drawn token alone; vLLM reads them before heating
                flat_logprobs=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )
        except VLLMClientError as error:
            raise ValueError(f"vLLM cannot sample so: {error}") from error

    def _stops(self, stop: tuple[str, ...]) -> tuple[list[str], list[int]]:
        """Strings and token ids to stop at.

        A single ASCII character, the newline above all, is complete with the first token that
        holds it. vLLM's core stops there by itself; at strings this process has to tell it, after
        it has read every token as text, and a token too late. But the core looks every token up in
        a list: where many tokens hold the character strings are cheaper.
        """
        if stop not in self._closing:
            by_token = all(len(text) == 1 and text.isascii() for text in stop)
            tokens = [
                token for token, piece in enumerate(self.pieces) if any(t in piece for t in stop)
            ]
            short = by_token and len(tokens) <= MOST_STOP_TOKENS
            self._closing[stop] = ([], tokens) if short else (list(stop), [])
        return self._closing[stop]

    def _ask(self, sequences: list[_Sequence]) -> list[Any]:
        """What became of each sequence: vLLM's output, or the exception that refused it."""
        if not sequences:
            return []
        call = _Call(sequences)
        with self._lock:
            if self._gone is not None:
                raise self._gone
            self._asked.add(call)
        self._inbox.put(call)
        call.done.wait()
        with self._lock:
            self._asked.discard(call)
        if call.error is not None:
            raise call.error
        return call.outputs

    def _leave(self, reason: str) -> None:
        """Tell everyone who waits, and whoever will come, that there is no engine any more."""
        error = EngineError(f"the vLLM engine of {self.name} is gone: {reason}")
        with self._lock:
            self._gone = self._gone or error
            for call in self._asked:
                call.error = self._gone
                call.done.set()

    def _watch(self, sentinels: list[int]) -> None:
        """Wait for vLLM's process to end: where it is killed the loop waits for it for ever."""
        if sentinels:
            wait(sentinels)
            self._leave("its process ended")

    # The loop: everything below runs in one thread, which alone touches vLLM.

    def _serve(self, threads: int) -> None:
        torch.set_num_threads(threads)  # vLLM's kernels go by the limit of the thread they run in
        running: dict[str, tuple[_Call, int]] = {}
        reason = "it was closed"
        try:
            while self._admit(running):
                together = min(len(running), self.max_batch)
                self.fill = Fill(self.fill.computed + together, self.fill.possible + self.max_batch)
                for output in self._engine.step():
                    if output.finished:
                        call, number = running.pop(output.request_id)
                        call.put(number, output)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        try:
            self._engine.engine_core.shutdown()
        finally:
            if self.within:
                _here.clear()
            self._leave(reason)

    def _admit(self, running: dict[str, tuple[_Call, int]]) -> bool:
        """Hand all waiting calls to vLLM, after one has come if none is running; False to stop."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input

        block = not running
        while True:
            try:
                call = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if call is None:
                return False
            for number, sequence in enumerate(call.sequences):
                name = next(self._names)
                try:
                    prompt = tokens_input(list(sequence.tokens), cache_salt=self.salt)
                    self._engine.add_request(name, prompt, sequence.parameters)
                except (ValueError, VLLMClientError) as error:  # refused: this one alone
                    call.put(number, error)
                else:
                    running[name] = call, number
            block = not running


@contextmanager
def _within(name: str) -> Iterator[None]:
    """Let vLLM run a model in this process, and leave what else computes here as it is.

    Raises ValueError where it cannot: an engine that ends takes what another computes by with it,
    and while one is made vLLM 0.32 looks into all modules, and fails at LLVM's.
    """
    stumbles = "has loaded Numba" if "llvmlite" in sys.modules else None
    if why := f"runs {_here[0]} already" if _here else stumbles:
        raise ValueError(f"own_process=false: vLLM cannot run in a process that {why}")
    _here.append(name)
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    before = {name: os.environ.get(name) for name in settings}
    limiting = torch.set_num_threads
    os.environ.update(settings)
    try:
        yield
    except BaseException:
        _here.clear()
        raise
    finally:
        torch.set_num_threads = limiting
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Sequence(NamedTuple):
    """One prompt for vLLM, and its SamplingParams."""

    tokens: tuple[int, ...]
    parameters: Any


class _Call:
    """What one thread asked for, and what has come of it so far."""

    def __init__(self, sequences: list[_Sequence]) -> None:
        self.sequences = sequences
        self.outputs: list[Any] = [None] * len(sequences)
        self.left = len(sequences)
        self.done = threading.Event()
        self.error: EngineError | None = None

    def put(self, number: int, output: Any) -> None:
        self.outputs[number] = output
        self.left -= 1
        if not self.left:
            self.done.set()


def _reading(options: tuple[int, ...]) -> Any:
    """One token is drawn, and the log-probabilities of the options are read as it is."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        logprob_token_ids=list(options),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _completion(output: Any, ends: frozenset[int]) -> Completion:
    if isinstance(output, Exception):
        return failure(f"vLLM refused a request: {output}")
    (drawn,) = output.outputs
    if drawn.finish_reason not in ("stop", "length"):
        return failure(f"vLLM ended a request for the reason {drawn.finish_reason!r}")
    tokens = tuple(drawn.token_ids)
    ended = drawn.finish_reason == "stop" and tokens[-1] in ends
    return Completion(
        tokens[:-1] if ended else tokens,
        "eos" if ended else drawn.finish_reason,
        tuple(drawn.logprobs.logprobs),
        _computed(output),
    )


def compared(requests: Sequence[ScoreRequest]) -> list[tuple[int, ...]]:
    """The options of each position of all requests."""
    return [request.options for request in requests for _ in request.positions]


def scored(
    requests: Sequence[ScoreRequest], outputs: Sequence[Any], logprobs: Iterable[Tensor]
) -> list[Score]:
    """A score for each request, of an output and log-probabilities [options] for each position."""
    read = zip(outputs, logprobs, strict=True)
    own = [list(itertools.islice(read, len(request.positions))) for request in requests]
    return [
        Score(torch.stack([row for _, row in pairs]), sum(_computed(output) for output, _ in pairs))
        for pairs in own
    ]


def _computed(output: Any) -> int:
    """Prompt tokens that were computed: those not in the cache, none of a refused request."""
    if isinstance(output, Exception):
        return 0
    return len(output.prompt_token_ids) - (output.num_cached_tokens or 0)


def _logprobs(output: Any, options: tuple[int, ...]) -> Tensor:
    """Log-probabilities [options]; NaN where the request was refused."""
    if isinstance(output, Exception) or not output.outputs[0].logprobs:
        return torch.full((len(options),), torch.nan)
    (read,) = output.outputs[0].logprobs
    return torch.tensor([read[option].logprob for option in options]).log_softmax(-1)
