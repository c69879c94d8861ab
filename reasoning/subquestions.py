"""Reasoning via planning: a world whose actions are sub-questions (Hao et al. 2023,
arXiv:2305.14992).

A state is the question and the sub-questions answered so far; an action is the next sub-question,
which the language model proposes; the dynamics are the model's answer to it. It is another world
than that of `reasoning.world` and the same search. What a sub-question is in a text, words or an
open operation, is its form: `reasoning.rap_forms`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_core import Model, Proposal, Rng, Transition
from mbrl_core.draws import integers
from reasoning.engines.base import Completion, Engine, Sampling
from reasoning.rap_forms import Form, Grown, Putting, Questions, SubQuestion
from reasoning.world import Failures, Scorer, Step, Thought, completed, spent

LEAST = 1e-6  # probability of a sub-question that is useless beyond doubt, as a prior


@dataclass(frozen=True, kw_only=True)
class Rap:
    """How a language model is made a world of sub-questions.

    A step earns useful^weight * confidence^(1 - weight): how much the sub-question helps (as its
    form has it), and the share of the most frequent among `answers` sampled answers to it, 1 where
    it needs none. A whole solution is worth the mean over its steps, as in the published code for
    such problems, and is paid at its end; a value of unfinished states there is not, so a search
    needs rollouts. In these the most useful of `choices` is taken.

    form: what sub-questions are, and how their answers vote.
    depth: sub-questions at most; the last one of them is the problem itself. None: the form's own.
    answers: sampled for each sub-question. weight: of usefulness, see above.
    """

    form: Form = field(default_factory=Questions)
    depth: int | None = None
    answers: int = 8
    weight: float = 0.5
    choices: int = 4

    def __post_init__(self) -> None:
        counts = {"depth": self.deepest, "answers": self.answers, "choices": self.choices}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {self.weight}")

    @property
    def deepest(self) -> int:
        """Sub-questions at most."""
        return self.form.depth if self.depth is None else self.depth

    @property
    def prompt(self) -> Putting | None:
        """How questions are put; None: as by other strategies, whose states are solutions, too."""
        return self.form.prompt

    def model(
        self,
        engine: Engine,
        sampling: Sampling,
        failures: Failures,
        *,
        calculator: bool = False,
    ) -> Model:
        """What planners need of a language model that takes problems apart."""
        policy = RapPolicy(engine, self, sampling, failures)
        world = RapWorld(engine, self, sampling, calculator, failures)
        return Model(dynamics=world, policy=policy, rollout=MostUseful(policy))


@dataclass(frozen=True)
class RapPolicy:
    """Proposes sub-questions: equal ones merged, the most useful first, usefulness their prior.

    The last that `Rap.depth` allows is not sampled: it is the problem itself.
    """

    engine: Engine
    rap: Rap
    sampling: Sampling = field(default_factory=Sampling)
    failures: Failures = field(default_factory=dict, repr=False, compare=False)
    judge: Scorer | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", self.rap.form.judge(self.engine))

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        form = self.rap.form
        seeds = integers(rng, 2**31 - 1, len(state) * num).view(-1, num).tolist()
        label = self.engine.encode(form.labels[0])
        texts = {
            row: _Text(thought, label, form.stop, seeds[row])
            for row, thought in enumerate(state)
            if len(thought.steps) + 1 < self.rap.deepest
        }
        drawn = _sampled(self.engine, texts, self.sampling, self.failures)
        options = [
            _distinct(form.read(self.engine, completion) for completion in drawn[row])
            if row in drawn
            else [form.whole(self.engine, thought.question)]
            for row, thought in enumerate(state)
        ]
        options, scored = self._judged(state, options)
        tokens = spent([drawn.get(row, []) for row in range(len(state))])
        number = torch.tensor([num if row in drawn else 1 for row in range(len(state))])
        proposal = _padded(options)
        return proposal._replace(tokens=tokens._replace(scored=scored), drawn=number)

    def _judged(
        self, state: list[Thought], options: list[list[SubQuestion]]
    ) -> tuple[list[list[SubQuestion]], Tensor]:
        """The options of each state by falling usefulness, and the tokens read to judge them."""
        scored = torch.zeros(len(state), dtype=torch.int64)
        if self.judge is None:
            return list(map(_by_use, options)), scored
        asked = [
            (row, option) for row, some in enumerate(options) for option in some if option.steps
        ]
        thoughts = [
            state[row]._replace(steps=(*state[row].steps, self._labelled(option)))
            for row, option in asked
        ]
        scores, read = self.judge.score(thoughts, [1] * len(asked)) if asked else ([], [])
        judged: list[list[SubQuestion]] = [
            [option for option in some if not option.steps] for some in options
        ]
        for (row, option), score, tokens in zip(asked, scores, read, strict=True):
            scored[row] += tokens
            if score is None:
                option = option._replace(steps=(), finish="length")
            elif math.isnan(score[0]):
                self.failures.setdefault(state[row].prompt, "the scorer failed")
                option = option._replace(steps=(), finish="failed")
            else:
                option = option._replace(useful=score[0])
            judged[row].append(option)
        return list(map(_by_use, judged)), scored

    def _labelled(self, option: SubQuestion) -> Step:
        (step,) = option.steps
        return step._replace(text=self.rap.form.labels[0] + step.text)


class MostUseful(NamedTuple):
    """The rollout policy: of `Rap.choices` sub-questions the most useful."""

    policy: RapPolicy

    @property
    def draws(self) -> int:
        """See `Policy`."""
        return self.policy.rap.choices

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`. There is one candidate, whatever `num` is."""
        proposal = self.policy.propose(state, self.draws, rng=rng)
        first = proposal.actions[:: proposal.log_prior.shape[1]]
        return proposal._replace(actions=first, log_prior=torch.zeros(len(state), 1))


@dataclass(frozen=True)
class RapWorld:
    """Dynamics: the model answers the sub-question several times, and the majority is believed.

    With `calculator` an answer that calculation alone refutes (`Task.refuted`) has no vote, and a
    sub-question of which every answer is refuted ends in no solution.
    """

    engine: Engine
    rap: Rap
    sampling: Sampling = field(default_factory=Sampling)
    calculator: bool = False
    failures: Failures = field(default_factory=dict, repr=False, compare=False)

    def step(self, state: list[Thought], action: list[SubQuestion], *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        number = self.rap.answers
        seeds = integers(rng, 2**31 - 1, len(state) * number).view(-1, number).tolist()
        ask, answer = map(self.engine.encode, self.rap.form.labels)
        texts = {
            row: _Text(thought, ask + option.steps[0].tokens + answer, option.until, seeds[row])
            for row, (thought, option) in enumerate(zip(state, action, strict=True))
            if option.steps and option.until is not None
        }
        made = _sampled(self.engine, texts, self.sampling, self.failures)
        thoughts = [
            self._moved(thought, option, made.get(row, []))
            for row, (thought, option) in enumerate(zip(state, action, strict=True))
        ]
        reward = [_reward(thought) for thought in thoughts]
        going = [float(thought.finish == "open") for thought in thoughts]
        tokens = spent([made.get(row, []) for row in range(len(state))])
        return Transition(thoughts, torch.tensor(reward), torch.tensor(going), tokens)

    def _moved(self, thought: Thought, option: SubQuestion, made: Sequence[Completion]) -> Thought:
        """The state with the answer of most completions; of equally frequent ones the first."""
        if not option.steps:
            return thought._replace(finish="failed" if option.finish == "failed" else "cut")
        told = [c for c in made if c.finish != "failed"] if option.until is not None else [None]
        form = self.rap.form
        grown = [form.grown(self.engine, thought, option, answer) for answer in told]
        usable = [one for one in grown if one is not None and self._stands(thought, one)]
        if not usable:
            return thought._replace(finish="failed" if len(told) < len(made) else "cut")
        votes = form.votes(thought, usable)
        (most, number), *_ = Counter(votes).most_common(1)
        steps, finish, _ = usable[votes.index(most)]
        confidence = number / len(told)
        reward = option.useful**self.rap.weight * confidence ** (1 - self.rap.weight)
        return thought._replace(
            steps=thought.steps + steps,
            scores=(*thought.scores, reward),
            logprob=thought.logprob + sum(step.logprob for step in steps),
            finish=finish,
        )

    def _stands(self, thought: Thought, answer: Grown) -> bool:
        """Whether the calculator, where it looks, lets an answer stand."""
        if not self.calculator:
            return True
        lines = [step.text for step in (*thought.steps, *answer.steps)]
        return not thought.task.refuted(thought.question, lines)


def _reward(thought: Thought) -> float:
    """Of the step that led here."""
    if thought.finish in ("cut", "failed"):
        return -math.inf
    return 0.0 if thought.finish == "open" else sum(thought.scores) / len(thought.scores)


class _Text(NamedTuple):
    """What something is to be written after: a state, and what comes behind it."""

    thought: Thought
    more: tuple[int, ...]
    stop: tuple[str, ...]  # what ends that which is written; (): a whole solution does
    seeds: Sequence[int]  # of each time that it is


def _sampled(
    engine: Engine,
    texts: Mapping[int, _Text],
    sampling: Sampling,
    failures: Failures,
) -> dict[int, list[Completion]]:
    """A completion of each row's text for each of its seeds; nothing where the context is full."""
    full = Completion((), "length", (), 0)
    made: dict[int, list[Completion]] = {}
    requests, rows = [], []
    for row, (thought, more, stop, seeds) in texts.items():
        tokens = thought.tokens + more
        room = min(sampling.limit(whole=not stop), engine.context - len(tokens))
        made[row] = [] if room > 0 else [full] * len(seeds)
        if room > 0:
            key = thought.prompt
            requests += [sampling.request(tokens, room, seed, stop, key) for seed in seeds]
            rows += [row] * len(seeds)
    for row, completion in zip(rows, completed(engine, requests), strict=True):
        made[row].append(completion)
        if completion.finish == "failed":
            failures.setdefault(texts[row].thought.prompt, completion.reason)
    return made


def _by_use(options: Sequence[SubQuestion]) -> list[SubQuestion]:
    return sorted(options, key=lambda option: -option.useful)


def _distinct(options: Iterator[SubQuestion]) -> list[SubQuestion]:
    """Each sub-question once; those that are none are equal if they failed alike."""
    first: dict[tuple[Any, ...], SubQuestion] = {}
    for option in options:
        text = option.steps[0].text.strip() if option.steps else None
        first.setdefault((option.finish, option.until, text), option)
    return list(first.values())


def _padded(options: list[list[SubQuestion]]) -> Proposal:
    width = max(map(len, options))
    log_prior = torch.full((len(options), width), -torch.inf)
    actions = []
    for row, some in enumerate(options):
        chances = [math.log(max(option.useful, LEAST)) for option in some]
        log_prior[row, : len(some)] = torch.tensor(chances)
        actions += some + [some[0]] * (width - len(some))  # empty slots, never read
    return Proposal(actions, log_prior)
