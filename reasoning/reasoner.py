"""Questions in, answers out: a language model, a scorer and a strategy put together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from mbrl_core import Budget, Listener, Model, Plan, RandomShooting, Rng, draws, generator
from mbrl_core.rows import take
from reasoning.difficulty import ComputeOptimal
from reasoning.engines.base import Engine, Sampling
from reasoning.prompts import Prompt
from reasoning.strategies import Strategy
from reasoning.tasks.types import Task
from reasoning.tasks.words import GSM8K
from reasoning.world import (
    Aggregate,
    Failures,
    LanguagePolicy,
    Scorer,
    Separator,
    TextWorld,
    Thought,
    Unit,
    check_lm_weight,
    check_separator,
    text_model,
)


class Answer(NamedTuple):
    """What was found for one question."""

    text: str  # the solution chosen
    answer: str | None  # what it answers, a number say; None where it answers nothing
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
    lm_weight: of the language model's own probability beside the scorer's word (see `TextWorld`).
    calculator: whether a solution with a wrong equation is worth 0 (see `TextWorld`).
    max_tokens: decoded at most for a whole solution, be it sampled, a rollout or what completes
        one; step_tokens: for a step (or a list of steps), None being as many.
    top_p, top_k, min_p: from which tokens a strategy draws (see `Sampling`); its temperature is its
        own.
    separator: what ends a step, a `newline` or a `blank_line`.
    finish: what a budget or a depth limit left open is completed greedily, at its own cost.
    task: what the questions are: where a solution ends, what it answers, and how it is asked for.
    prompt: how questions are put; by default as the task has it, without examples.
    """

    engine: Engine
    strategy: Strategy | ComputeOptimal
    scorer: Scorer | None = None
    aggregate: Aggregate | None = None
    lm_weight: float = 0.0
    calculator: bool = True
    max_tokens: int = 256
    step_tokens: int | None = None
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    separator: Separator = "newline"
    finish: bool = True
    task: Task = GSM8K
    prompt: Prompt | None = None

    def __post_init__(self) -> None:
        check_lm_weight(self.lm_weight, scorer=self.scorer is not None)
        check_separator(self.separator)
        self._sampling(0.0)

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
                answer=thought.answer,
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
        rounding. Raises ValueError on an empty question, on a text in place of several, and
        EngineError where an engine is gone.
        """
        if isinstance(questions, str):
            raise ValueError(f"questions must be a list: ask [{questions!r}]")
        for row, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {row} is empty")
        names = questions if ids is None else ids
        rng = [generator(_hash(seed, name)) for name in names]
        state = [Thought(q, self.encode(q), task=self.task) for q in questions]
        failures: Failures = {}
        plan = self.search(self.strategy, state, failures, rng=rng, budget=budget, listen=listen)
        return Outcome(plan, [failures.get(thought.prompt) for thought in state])

    def search(
        self,
        strategy: Strategy | ComputeOptimal,
        state: list[Thought],
        failures: Failures,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> Plan:
        """What a strategy finds for questions; what fails is noted in `failures`."""
        if isinstance(strategy, ComputeOptimal):
            return strategy.search(self, state, failures, rng=rng, budget=budget, listen=listen)
        model = self.model(failures, strategy)
        plan, _ = strategy.planner(model, state, rng=rng, budget=budget, listen=listen)
        return self._finish(plan, model, strategy, rng, failures) if self.finish else plan

    def encode(self, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for a question."""
        world = self.strategy.world if isinstance(self.strategy, Strategy) else None
        own = None if world is None else world.prompt
        prompt = own or self.prompt or self.task.prompt()
        if prompt is None:
            return self.engine.encode_prompt(question)
        return prompt.encode(self.engine, question)

    def model(self, failures: Failures | None = None, strategy: Strategy | None = None) -> Model:
        """The language model as the planner sees it; it notes in `failures` what fails."""
        failures = {} if failures is None else failures
        chosen = strategy or self.strategy
        strategy = chosen.probing if isinstance(chosen, ComputeOptimal) else chosen
        if strategy.world is not None:
            return strategy.world.model(
                self.engine,
                self._sampling(strategy.temperature),
                failures,
                calculator=self.calculator,
            )
        policy = self._policy(strategy.unit, strategy.temperature, failures)
        model = text_model(
            replace(policy, merge=strategy.merge),
            TextWorld(
                self.scorer,
                self.aggregate,
                self.lm_weight,
                self.calculator,
                failures=failures,
            ),
        )
        if strategy.rollout is None:
            return model
        return model._replace(rollout=self._policy(*strategy.rollout, failures))

    def _policy(self, unit: Unit, temperature: float, failures: Failures) -> LanguagePolicy:
        sampling = self._sampling(temperature)
        return LanguagePolicy(
            self.engine, unit, sampling, separator=self.separator, failures=failures
        )

    def _sampling(self, temperature: float) -> Sampling:
        drawn = self.top_p, self.top_k, self.min_p
        return Sampling(temperature, *drawn, self.max_tokens, self.step_tokens)

    def _finish(
        self, plan: Plan, model: Model, strategy: Strategy, rng: Rng, failures: Failures
    ) -> Plan:
        """Complete the solutions that are still open."""
        index = torch.tensor([i for i, t in enumerate(plan.final) if t.finish == "open"])
        if len(index) == 0:
            return plan
        model, steps = self._completing(model, strategy, failures)
        rest, _ = RandomShooting(samples=1, horizon=steps)(
            model,
            take(plan.final, index),
            rng=draws.take(rng, index),
        )
        final, cost = list(plan.final), plan.cost
        for i, thought in zip(index.tolist(), rest.final, strict=True):
            final[i] = thought
        return plan._replace(final=final, cost=cost + rest.cost.spread(index, len(final)))

    def _completing(
        self, model: Model, strategy: Strategy, failures: Failures
    ) -> tuple[Model, int]:
        """What completes what is open, and in how many steps at most: greedily in one, unless
        states are no solutions."""
        if strategy.world is not None and strategy.world.prompt is not None:
            return model._replace(policy=model.rollout), strategy.world.deepest
        if strategy.world is not None:  # it asks no scorer, and neither does this
            model = model._replace(dynamics=TextWorld())
        return model._replace(policy=self._policy("solution", 0.0, failures)), 1


def _hash(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
