"""Questions in, answers out: a language model, a scorer and a strategy put together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mbrl_core import Budget, Listener, Model, Plan, RandomShooting, Rng, generator
from mbrl_core.rows import take
from reasoning.engines.base import Engine
from reasoning.prompts import Prompt
from reasoning.strategies import Strategy, answer_of
from reasoning.world import (
    Aggregate,
    Failures,
    LanguagePolicy,
    Scorer,
    TextWorld,
    Thought,
    text_model,
)


class Answer(NamedTuple):
    """What was found for one question."""

    text: str  # the solution chosen
    answer: str | None  # its final number; None where it has none
    finished: bool  # False: cut by a limit of tokens, steps or budget
    score: float  # the planner's value of its choice
    tokens: int  # decoded
    scored: int  # read by the scorer
    failed: str | None = None  # why an engine failed on the way; what was found may be too little


class Outcome(NamedTuple):
    """A plan, and where an engine failed on the way to it."""

    plan: Plan
    failed: list[str | None]  # per question, the reason; such a plan says nothing of the strategy


@dataclass(frozen=True, kw_only=True)
class Reasoner:
    """Answers questions, all of a call at once.

    aggregate: of step scores; by default the scorer's own.
    calculator: whether a solution with a wrong equation is worth 0 (see `TextWorld`).
    max_tokens: decoded at most per solution, or per step where the strategy goes by steps.
    finish: what a budget or a depth limit left open is completed greedily, at its own cost.
    prompt: how questions are put; by default as the engine's model expects them, without examples.
    """

    engine: Engine
    strategy: Strategy
    scorer: Scorer | None = None
    aggregate: Aggregate | None = None
    calculator: bool = False
    max_tokens: int = 256
    max_steps: int = 24
    finish: bool = True
    prompt: Prompt | None = None

    def __call__(
        self,
        questions: Sequence[str],
        *,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> list[Answer]:
        """Answer each question. See `attempt` for the seeds."""
        plan, failed = self.attempt(questions, seed=seed, ids=ids, budget=budget, listen=listen)
        cost = plan.cost
        return [
            Answer(
                text=thought.text,
                answer=answer_of(thought),
                finished=thought.finish == "answered",
                score=float(plan.value[row]),
                tokens=int(cost.tokens.decoded[row]),
                scored=int(cost.tokens.scored[row]),
                failed=failed[row],
            )
            for row, thought in enumerate(plan.final)
        ]

    def plan(
        self,
        questions: Sequence[str],
        *,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> Plan:
        """The planner's whole result. Row b is question b. See `attempt`."""
        return self.attempt(questions, seed=seed, ids=ids, budget=budget, listen=listen).plan

    def attempt(
        self,
        questions: Sequence[str],
        *,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> Outcome:
        """The planner's whole result, and for which questions an engine failed on the way.

        Every question draws from a generator of its own, seeded by `seed` and its id (by default
        the question itself), so that what else is asked in the same call changes nothing but
        rounding. Raises ValueError on an empty question and EngineError where an engine is gone.
        """
        for row, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {row} is empty")
        names = questions if ids is None else ids
        rng = [generator(_hash(seed, name)) for name in names]
        state = [Thought(question, self.encode(question)) for question in questions]
        failures: Failures = {}
        model = self.model(failures)
        plan, _ = self.strategy.planner(model, state, rng=rng, budget=budget, listen=listen)
        if self.finish:
            plan = self._finish(plan, rng, failures)
        return Outcome(plan, [failures.get(thought.prompt) for thought in state])

    def encode(self, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for a question."""
        if self.prompt is None:
            return self.engine.encode_prompt(question)
        return self.prompt.encode(self.engine, question)

    def model(self, failures: Failures | None = None) -> Model:
        """The language model as the planner sees it; it notes in `failures` what fails."""
        failures = {} if failures is None else failures
        return text_model(
            LanguagePolicy(
                self.engine,
                unit=self.strategy.unit,
                temperature=self.strategy.temperature,
                max_tokens=self.max_tokens,
                merge=self.strategy.merge,
                failures=failures,
            ),
            TextWorld(
                self.scorer, self.aggregate, self.calculator, self.max_steps, failures=failures
            ),
        )

    def _finish(self, plan: Plan, rng: Rng, failures: Failures) -> Plan:
        """Complete the solutions that are still open."""
        index = torch.tensor([i for i, t in enumerate(plan.final) if t.finish == "open"])
        if len(index) == 0:
            return plan
        model = self.model(failures)
        greedy = LanguagePolicy(self.engine, "solution", 0.0, self.max_tokens, failures=failures)
        rest, _ = RandomShooting(samples=1, horizon=1)(
            model._replace(policy=greedy),
            take(plan.final, index),
            rng=[rng[i] for i in index.tolist()],  # type: ignore[index]
        )
        final, cost = list(plan.final), plan.cost
        for i, thought in zip(index.tolist(), rest.final, strict=True):
            final[i] = thought
        return plan._replace(final=final, cost=cost + rest.cost.spread(index, len(final)))


def _hash(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
