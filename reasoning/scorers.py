"""Judges of reasoning steps."""

from __future__ import annotations

from collections.abc import Sequence

from reasoning.engines.base import Engine, ScoreRequest
from reasoning.world import Thought


class StepScorer:
    """A process reward model in the `+`/`-` causal format.

    Each step's line ends in a tag; there the model's next-token probabilities of `good` and `bad`,
    made to sum to one, say how likely the solution is still right (Math-Shepherd, Wang et al.
    2024). A causal model's scores of earlier steps never change, so only new steps are read out.

    Raises ValueError where the tag or a label is not exactly one token of the scorer's tokenizer.
    """

    def __init__(
        self, engine: Engine, *, tag: str = "<step>", good: str = "+", bad: str = "-"
    ) -> None:
        self.engine = engine
        self.tag, self.good, self.bad = (self._one(text) for text in (tag, good, bad))
        self.newline = engine.encode("\n")

    def _one(self, text: str) -> int:
        tokens = self.engine.encode(text)
        if len(tokens) != 1:
            raise ValueError(
                f"the scorer's tokenizer must have {text!r} as one token, and it makes "
                f"{len(tokens)}: this model is no step scorer of that format"
            )
        return tokens[0]

    def score(
        self, thoughts: Sequence[Thought], added: Sequence[int]
    ) -> tuple[list[tuple[float, ...] | None], list[int]]:
        """See `Scorer`."""
        scores: list[tuple[float, ...] | None] = [()] * len(thoughts)
        read = [0] * len(thoughts)
        requests, rows = [], []
        for row, (thought, new) in enumerate(zip(thoughts, added, strict=True)):
            if not new:
                continue
            request = self._request(thought, new)
            if len(request.tokens) > self.engine.context:
                scores[row] = None
            else:
                rows.append(row)
                requests.append(request)
        results = self.engine.score(requests) if requests else []
        for row, request, logprobs in zip(rows, requests, results, strict=True):
            scores[row] = tuple(logprobs[:, 0].exp().tolist())
            read[row] = len(request.tokens)
        return scores, read

    def _request(self, thought: Thought, new: int) -> ScoreRequest:
        tokens = list(self.engine.encode_prompt(thought.question))
        tags, shared = [], len(tokens)
        for number, step in enumerate(thought.steps):
            if number == len(thought.steps) - new:
                shared = len(tokens)
            # The scorer may have another tokenizer than the writer, but steps stay whole in both.
            tokens += self.newline if number else ()
            tokens += self.engine.encode(step.text.strip("\n"))
            tags.append(len(tokens))
            tokens.append(self.tag)
        return ScoreRequest(tuple(tokens), tuple(tags[-new:]), (self.good, self.bad), shared)
