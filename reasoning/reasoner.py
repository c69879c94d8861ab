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
from reasoning.strategies import Strategy, answer_of
from reasoning.world import Aggregate, LanguagePolicy, Scorer, TextWorld, Thought, text_model


class Answer(NamedTuple):
    """What was found for one question."""

    text: str  # the solution chosen
    answer: str | None  # its final number; None where it has none
    finished: bool  # False: cut by a limit of tokens, steps or budget
    score: float  # the planner's value of its choice
    tokens: int  # decoded
    scored: int  # read by the scorer


@dataclass(frozen=True, kw_only=True)
class Reasoner:
    """Answers questions, all of a call at once.

    calculator: whether a solution with a wrong equation is worth 0 (see `TextWorld`).
    max_tokens: decoded at most per solution, or per step where the strategy goes by steps.
    finish: what a budget or a depth limit left open is completed greedily, at its own cost.
    """

    engine: Engine
    strategy: Strategy
    scorer: Scorer | None = None
    aggregate: Aggregate = "product"
    calculator: bool = False
    max_tokens: int = 256
    max_steps: int = 24
    finish: bool = True

    def __call__(
        self,
        questions: Sequence[str],
        *,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> list[Answer]:
        """Answer each question. See `plan` for the seeds."""
        plan = self.plan(questions, seed=seed, ids=ids, budget=budget, listen=listen)
        cost = plan.cost
        return [
            Answer(
                text=thought.text,
                answer=answer_of(thought),
                finished=thought.finish == "answered",
                score=float(plan.value[row]),
                tokens=int(cost.tokens.decoded[row]),
                scored=int(cost.tokens.scored[row]),
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
        """The planner's whole result. Row b is question b.

        Every question draws from a generator of its own, seeded by `seed` and its id (by default
        the question itself), so that what else is asked in the same call changes nothing but
        rounding. Raises ValueError on an empty question.
        """
        for row, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {row} is empty")
        names = questions if ids is None else ids
        rng = [generator(_hash(seed, name)) for name in names]
        state = [Thought(question, self.engine.encode_prompt(question)) for question in questions]
        plan, _ = self.strategy.planner(self.model(), state, rng=rng, budget=budget, listen=listen)
        return self._finish(plan, rng) if self.finish else plan

    def model(self) -> Model:
        """The language model as the planner sees it."""
        return text_model(
            LanguagePolicy(
                self.engine,
                unit=self.strategy.unit,
                temperature=self.strategy.temperature,
                max_tokens=self.max_tokens,
                merge=self.strategy.merge,
            ),
            TextWorld(self.scorer, self.aggregate, self.calculator, self.max_steps),
        )

    def _finish(self, plan: Plan, rng: Rng) -> Plan:
        """Complete the solutions that are still open."""
        index = torch.tensor([i for i, t in enumerate(plan.final) if t.finish == "open"])
        if len(index) == 0:
            return plan
        model = self.model()
        assert isinstance(model.policy, LanguagePolicy)
        greedy = LanguagePolicy(self.engine, "solution", 0.0, self.max_tokens)
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
