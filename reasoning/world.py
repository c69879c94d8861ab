"""A language model as a world: states are partial solutions, actions are the next steps.

A state keeps token ids and the spans of its steps, exactly as they were generated; text is never
split or tokenised again.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from mbrl_core import Model, Proposal, Rng, Tokens, Transition
from mbrl_core.draws import integers
from reasoning.engines.base import Completion, Engine, Finish, Request, Sampling
from reasoning.prompts import encode_ask
from reasoning.tasks.types import Task
from reasoning.tasks.words import GSM8K

Separator = Literal["newline", "blank_line"]
SEPARATORS: dict[Separator, str] = {"newline": "\n", "blank_line": "\n\n"}
"""What ends a step. Blank lines are never steps of their own: they belong to the step behind."""


class Step(NamedTuple):
    """One line of reasoning, or one paragraph (see `SEPARATORS`)."""

    tokens: tuple[int, ...]
    text: str
    logprob: float = math.nan  # of its tokens, at temperature 1


class Continuation(NamedTuple):
    """An action: one or more further steps."""

    steps: tuple[Step, ...]
    finish: Finish
    logprob: float  # of the steps' tokens, at temperature 1


Ending = Literal["open", "answered", "cut", "failed"]


class Thought(NamedTuple):
    """A state: a question and the solution so far."""

    question: str
    prompt: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    scores: tuple[float, ...] = ()  # of each step, where there is a scorer
    logprob: float = 0.0
    finish: Ending = "open"
    task: Task = GSM8K  # what the question is one of: says where a solution ends, and what it says

    @property
    def text(self) -> str:
        """The solution so far."""
        return "".join(step.text for step in self.steps)

    @property
    def lines(self) -> list[str]:
        """The solution so far line by line, with their newlines."""
        return in_lines(self.text)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and solution as token ids."""
        return self.prompt + tuple(token for step in self.steps for token in step.tokens)

    @property
    def answer(self) -> str | None:
        """What a finished solution says, see `Task.answer`; None for an unfinished one."""
        return self.task.answer(self.text) if self.finish == "answered" else None


def in_lines(text: str) -> list[str]:
    """A text cut behind its newlines."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


Unit = Literal["solution", "step", "list"]
Aggregate = Literal["product", "min", "mean", "last"]
Kind = Literal["step", "potential", "terminal"]
"""What a scorer's numbers are: of each `step`, to be put together by an aggregate; a `potential`,
how good the whole solution so far is, which the next step's replaces; or one number at the end, of
the finished solution (`terminal`)."""


class Scorer(Protocol):
    """Judges steps in the light of the question and the steps before them."""

    @property
    def kind(self) -> Kind:
        """What its numbers are."""
        ...

    @property
    def aggregate(self) -> Aggregate:
        """How they make a solution's score unless one says otherwise."""
        ...

    def score(
        self, thoughts: Sequence[Thought], added: Sequence[int]
    ) -> tuple[list[tuple[float, ...] | None], list[int]]:
        """Scores in [0, 1] of the last `added[i]` steps of each thought (of a terminal scorer: one,
        where it is finished), None where it cannot be read (it is too long, or holds a token that
        the scorer's format keeps for itself), NaN where the scorer failed, and the tokens read for
        it."""
        ...


Failures = dict[tuple[int, ...], str]
"""Prompts of questions for which an engine failed, and the reason of the first failure."""


@dataclass(frozen=True)
class LanguagePolicy:
    """Samples continuations.

    unit: a whole `solution`; one `step` (up to and including the next separator); or a `list`: all
        steps that the model lists when the task asks it for possible ones, one a line, in one
        completion (the proposing prompt of Tree of Thoughts, Yao et al. 2023).
    sampling: how tokens are drawn; a continuation that reaches its limit is cut and never counts as
        an answer. A list is limited as a step is.
    merge: equal candidates become one whose prior is their count (for search; never for voting). In
        a list, blank lines are no candidates then.
    separator: what ends a step.
    failures: where failed requests are noted. What such a request gives is a candidate that fails.
    """

    engine: Engine
    unit: Unit = "step"
    sampling: Sampling = field(default_factory=Sampling)
    merge: bool = False
    separator: Separator = "newline"
    failures: Failures = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be solution, step or list, not {self.unit!r}")
        check_separator(self.separator)

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`. Each sample draws from a seed of its own."""
        if self.unit == "list":
            return self._from_lists(state, num, rng)
        seeds = integers(rng, 2**31 - 1, len(state) * num).tolist()
        stop = (SEPARATORS[self.separator],) if self.unit == "step" else ()
        limit = self.sampling.limit(whole=not stop)
        texts = [thought.tokens for thought in state]
        requests = []
        for i, seed in enumerate(seeds):
            text = texts[i // num]
            room = min(limit, self.engine.context - len(text))
            thought = state[i // num]
            key = thought.prompt if stop or thought.steps else None
            requests.append(self.sampling.request(text, room, seed, stop, key))
        # A solution that has filled the context goes no further; a prompt that long is refused.
        full = [r.max_tokens < 1 and bool(state[i // num].steps) for i, r in enumerate(requests)]
        completions = self._completed(requests, full)
        self._note(state, completions)
        options = [
            self._continuation(completion, state[i // num])
            for i, completion in enumerate(completions)
        ]
        groups = [options[i : i + num] for i in range(0, len(options), num)]
        proposal = _merged(groups) if self.merge else _listed(groups)
        tokens = spent([completions[i : i + num] for i in range(0, len(completions), num)])
        return proposal._replace(tokens=tokens, drawn=torch.full((len(state),), num))

    def _from_lists(self, state: list[Thought], num: int, rng: Rng) -> Proposal:
        """The first `num` lines of a list per state, which are candidates of equal priors."""
        seeds = integers(rng, 2**31 - 1, len(state)).tolist()
        requests = []
        for thought, seed in zip(state, seeds, strict=True):
            asked = thought.task.ask_steps(thought.question, thought.text.strip("\n"))
            prompt = encode_ask(self.engine, asked)
            room = min(self.sampling.limit(whole=False), self.engine.context - len(prompt))
            requests.append(self.sampling.request(prompt, room, seed))
        completions = self._completed(requests, [request.max_tokens < 1 for request in requests])
        self._note(state, completions)
        options = [self._candidates(completion)[:num] for completion in completions]
        width = max(map(len, options))
        log_prior = torch.full((len(state), width), -torch.inf)
        for row, listed in enumerate(options):
            log_prior[row, : len(listed)] = 0.0
        actions = [o for listed in options for o in listed + listed[:1] * (width - len(listed))]
        drawn = torch.tensor(list(map(len, options)))
        return Proposal(actions, log_prior, spent([[made] for made in completions]), drawn)

    def _candidates(self, completion: Completion) -> list[Continuation]:
        """The lines of a list; where there is none, one candidate that is cut, or has failed."""
        steps = lines_of(self.engine, completion)
        if steps and "\n" not in steps[-1].text:
            last = steps.pop()
            if completion.finish != "length":
                steps.append(Step(last.tokens + self.engine.encode("\n"), last.text + "\n"))
        if self.merge:
            first = {step.text: step for step in reversed(steps) if step.text.strip()}
            steps = [step for step in steps if first.get(step.text) is step]
        # What a line's tokens cost in the list is not what they cost in the solution.
        options = [
            Continuation((step._replace(logprob=math.nan),), "stop", math.nan) for step in steps
        ]
        failed: Finish = "failed" if completion.finish == "failed" else "length"
        return options or [Continuation((), failed, math.nan)]

    def _completed(self, requests: list[Request], full: list[bool]) -> list[Completion]:
        """The completions of those requests that are not `full`, which are cut."""
        going = [request for request, stays in zip(requests, full, strict=True) if not stays]
        made = iter(completed(self.engine, going))
        return [Completion((), "length", (), 0) if stays else next(made) for stays in full]

    def _note(self, state: list[Thought], completions: list[Completion]) -> None:
        each = len(completions) // len(state)
        for i, completion in enumerate(completions):
            if completion.finish == "failed":
                self.failures.setdefault(state[i // each].prompt, completion.reason)

    def _continuation(self, completion: Completion, thought: Thought) -> Continuation:
        """Cut into steps; nothing is kept after a closing line, and no blank lines at the end."""
        lines = lines_of(self.engine, completion)
        kept = closed_at(thought, lines)
        steps = joined(lines[:kept], self.separator)
        length = sum(len(step.tokens) for step in steps)
        finish: Finish = "eos" if kept else completion.finish
        if finish == "stop" and not steps:
            finish = "length"  # blank lines have used it up
        return Continuation(tuple(steps), finish, sum(completion.logprobs[:length]))


def check_separator(separator: str) -> None:
    """Raise ValueError on an unknown one."""
    if separator not in SEPARATORS:
        raise ValueError(f"separator must be {' or '.join(SEPARATORS)}, not {separator!r}")


def completed(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """The completions of requests. One that stops at a separator before anything is said goes on
    behind it, drawing from a seed of its own, so that no step is blank."""
    made = engine.generate(requests) if requests else []
    blank = [
        i
        for i, (request, one) in enumerate(zip(requests, made, strict=True))
        if one.finish == "stop"
        and not engine.decode(one.tokens).strip()
        and len(one.tokens) < request.max_tokens
    ]
    further = [
        requests[i]._replace(
            tokens=requests[i].tokens + made[i].tokens,
            max_tokens=requests[i].max_tokens - len(made[i].tokens),
            seed=(requests[i].seed * 48271 + 1) % (2**31 - 1),
        )
        for i in blank
    ]
    for i, rest in zip(blank, completed(engine, further) if further else [], strict=True):
        made[i] = made[i].followed_by(rest)
    return made


def lines_of(engine: Engine, completion: Completion) -> list[Step]:
    """A completion cut behind its newlines."""
    steps: list[Step] = []
    start = 0
    for end, token in enumerate(completion.tokens, 1):
        if "\n" in engine.decode([token]) or end == len(completion.tokens):
            line, logprob = completion.tokens[start:end], sum(completion.logprobs[start:end])
            steps.append(Step(line, engine.decode(line), logprob))
            start = end
    return steps


def joined(lines: Sequence[Step], separator: Separator) -> list[Step]:
    """Lines put together to steps that end in a separator; blank ones belong to the step behind
    them, and at the end to none."""
    steps: list[Step] = []
    begun: list[Step] = []
    for number, line in enumerate(lines, 1):
        begun.append(line)
        text = "".join(part.text for part in begun)
        if not text.strip() or (SEPARATORS[separator] not in text.lstrip() and number < len(lines)):
            continue
        tokens = tuple(token for part in begun for token in part.tokens)
        steps.append(Step(tokens, text, sum(part.logprob for part in begun)))
        begun = []
    return steps


def closed_at(thought: Thought, added: Sequence[Step]) -> int | None:
    """After how many further lines one closes the solution, after which nothing is kept; None where
    none does."""
    lines = thought.lines
    for number, line in enumerate(added, 1):
        lines.append(line.text)
        if "\n" in line.text and thought.task.closed(lines):
            return number
    return None


def spent(made: Sequence[Sequence[Completion]]) -> Tokens:
    """Tokens generated and prefilled for each state [R], by its completions."""
    decoded = [sum(len(c.tokens) + (c.finish == "eos") for c in some) for some in made]
    prefilled = [sum(c.prefilled for c in some) for some in made]
    none = torch.zeros(len(made), dtype=torch.int64)
    return Tokens(torch.tensor(decoded), torch.tensor(prefilled), none)


def _listed(groups: list[list[Continuation]]) -> Proposal:
    return Proposal(
        [o for group in groups for o in group], torch.zeros(len(groups), len(groups[0]))
    )


def _merged(groups: list[list[Continuation]]) -> Proposal:
    """One candidate per distinct text, the most frequent first, with its count as prior.

    A failed one has no text: it is equal to other failed ones only.
    """
    distinct: list[list[tuple[Continuation, int]]] = []
    for group in groups:
        first: dict[tuple[bool, str], Continuation] = {}
        counts: Counter[tuple[bool, str]] = Counter()
        for option in group:
            key = option.finish == "failed", "".join(step.text for step in option.steps)
            first.setdefault(key, option)
            counts[key] += 1
        distinct.append([(first[key], number) for key, number in counts.most_common()])
    width = max(map(len, distinct))
    log_prior = torch.full((len(groups), width), -torch.inf)
    actions = []
    for row, options in enumerate(distinct):
        log_prior[row, : len(options)] = torch.tensor([math.log(n) for _, n in options])
        actions += [option for option, _ in options]
        actions += [options[0][0]] * (width - len(options))  # empty slots, never read
    return Proposal(actions, log_prior)


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "product": math.prod,
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "last": lambda scores: scores[-1],
}


def mean_probability(logprob: float | None, tokens: int) -> float:
    """The geometric mean of the probabilities of a solution's tokens.

    1/2 where the engine tells none (NaN or None), or there are no tokens: all such count alike.
    """
    if logprob is None or math.isnan(logprob) or not tokens:
        return 0.5
    return math.exp(logprob / tokens)


def judged(score: float, logprob: float | None, lm_weight: float) -> float:
    """A scorer's word and the language model's own: score^(1 - w) * P(solution)^w, as in
    self-evaluation guided beam search (Xie et al. 2023, arXiv:2305.00633).

    Where the engine tells no probabilities (NaN or None), the scorer's word decides alone.
    """
    if logprob is None or math.isnan(logprob):
        return score
    return score ** (1 - lm_weight) * math.exp(lm_weight * logprob)


def check_lm_weight(lm_weight: float, *, scorer: bool) -> None:
    """Raise ValueError on a weight outside [0, 1], or where there is nothing to weigh against."""
    if not 0 <= lm_weight <= 1:
        raise ValueError(f"lm_weight must be between 0 and 1, not {lm_weight}")
    if lm_weight and not scorer:
        raise ValueError(
            f"lm_weight={lm_weight} weighs the model's own probability against a scorer's word, "
            "and there is no scorer: without one that probability alone is the score"
        )


@dataclass(frozen=True)
class TextWorld:
    """Dynamics and value of text: append the steps, score the new ones, end at the answer.

    A finished solution earns its score as the reward of its last step, which ends the episode; one
    that is cut, or fails with its engine, earns -inf: it has no score, and is never chosen while
    there is anything else. The value
    of an unfinished one is its score so far, a potential that stands for the score it will end
    with. The score is the `aggregate` of the step scores of `scorer`, by default the scorer's own;
    of an unfinished solution a terminal scorer says nothing, which counts 1/2. Without a scorer it
    is the geometric mean of the probabilities of the solution's tokens. With `lm_weight` the
    probability of the whole solution is weighed against what the scorer says, see `judged`.

    With `calculator` a solution with a step that calculation alone refutes (`Task.refuted`) is
    worth 0. In word problems these are GSM8K's annotations, ``<<3*4=13>>``, which its authors made
    for a calculator (Cobbe et al. 2021): a wrong result is the one mistake that needs no judgement,
    and the one that small judges see least.
    """

    scorer: Scorer | None = None
    aggregate: Aggregate | None = None
    lm_weight: float = 0.0
    calculator: bool = False
    failures: Failures = field(default_factory=dict, repr=False, compare=False)  # of the scorer

    def __post_init__(self) -> None:
        check_lm_weight(self.lm_weight, scorer=self.scorer is not None)
        if self.aggregate is not None and self.aggregate not in AGGREGATES:
            raise ValueError(
                f"aggregate must be one of {', '.join(AGGREGATES)}, not {self.aggregate!r}"
            )

    def step(self, state: list[Thought], action: list[Continuation], *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        thoughts = [self._append(t, a) for t, a in zip(state, action, strict=True)]
        scored = torch.zeros(len(state), dtype=torch.int64)
        if self.scorer is not None:
            added = [
                0 if thought.finish in ("cut", "failed") else len(a.steps)
                for thought, a in zip(thoughts, action, strict=True)
            ]
            scores, read = self.scorer.score(thoughts, added)
            thoughts = [self._scored(t, s) for t, s in zip(thoughts, scores, strict=True)]
            scored = torch.tensor(read)
        reward = [self._reward(thought) for thought in thoughts]
        going = [float(t.finish == "open") for t in thoughts]
        none = torch.zeros_like(scored)
        return Transition(
            thoughts, torch.tensor(reward), torch.tensor(going), Tokens(none, none, scored)
        )

    def value(self, state: list[Thought]) -> Tensor:
        """See `Value`. A question without a step yet is worth 1/2."""
        return torch.tensor([self.score(thought) if thought.steps else 0.5 for thought in state])

    def score(self, thought: Thought) -> float:
        """The score in [0, 1] of the steps so far; 0 where there is none."""
        if not thought.steps:
            return 0.0
        if self.calculator and self._refuted(thought):
            return 0.0
        if self.scorer is None:
            tokens = sum(len(step.tokens) for step in thought.steps)
            return mean_probability(thought.logprob, tokens)
        return judged(self._said(self.scorer, thought), thought.logprob, self.lm_weight)

    def _said(self, scorer: Scorer, thought: Thought) -> float:
        """What the scorer's step scores come to."""
        if not thought.scores:
            return 0.5 if scorer.kind == "terminal" and thought.finish == "open" else 0.0
        return AGGREGATES[self.aggregate or scorer.aggregate](thought.scores)

    def _refuted(self, thought: Thought) -> bool:
        return thought.task.refuted(thought.question, thought.lines)

    def _scored(self, thought: Thought, scores: tuple[float, ...] | None) -> Thought:
        if scores is None:
            return thought._replace(finish="cut")
        if any(map(math.isnan, scores)):
            self.failures.setdefault(thought.prompt, "the scorer failed")
            return thought._replace(finish="failed")
        return thought._replace(scores=thought.scores + scores)

    def _reward(self, thought: Thought) -> float:
        if thought.finish in ("cut", "failed"):
            return -math.inf
        return self.score(thought) if thought.finish == "answered" else 0.0

    def _append(self, thought: Thought, action: Continuation) -> Thought:
        grown = thought._replace(
            steps=thought.steps + action.steps, logprob=thought.logprob + action.logprob
        )
        if action.finish in ("length", "failed"):
            return grown._replace(finish="cut" if action.finish == "length" else "failed")
        closed = bool(action.steps) and thought.task.closed(grown.lines)
        return grown._replace(finish="answered" if action.finish == "eos" or closed else "open")


def text_model(policy: LanguagePolicy, world: TextWorld) -> Model:
    """What planners need of a language model and its world."""
    return Model(dynamics=world, policy=policy, value=world)
