"""Reasoning via planning: a world whose actions are sub-questions (Hao et al. 2023,
arXiv:2305.14992).

A state is the question and the sub-questions answered so far; an action is the next sub-question,
which the language model proposes; the dynamics are the model's answer to it. It is another world
than that of `reasoning.world` and the same search.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_core import Model, Proposal, Rng, Tokens, Transition
from mbrl_core.draws import integers
from reasoning.engines.base import Completion, Engine, Finish, Request, Turn
from reasoning.scorers.judges import SelfCritique
from reasoning.world import Failures, Scorer, Step, Thought

ASK, ANSWER = "Sub-question:", "Answer:"
CLOSING = "That is enough to answer the problem:"
INSTRUCTION = (
    f"Take the problem apart into simpler ones. Write '{ASK}' and one question on a line, then "
    f"'{ANSWER}' and on one line what follows for it, which ends with 'The answer is <answer>.' Go "
    f"on so until enough is known. The last sub-question begins with '{CLOSING}'"
)
LEAST = 1e-6  # probability of a sub-question that is useless beyond doubt, as a prior


class Dialogue(NamedTuple):
    """A worked example: a problem, and its sub-questions with their answers."""

    question: str
    exchanges: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The exchanges as they are to be written."""
        return "".join(f"{ASK} {asked}\n{ANSWER} {answer}\n" for asked, answer in self.exchanges)


class SubQuestion(NamedTuple):
    """An action: a sub-question without its answer."""

    steps: tuple[Step, ...]  # one, or none where nothing was asked
    finish: Finish  # eos: it is the last; stop: it is not; or why there is none
    logprob: float
    useful: float  # P(yes) of whether it helps


@dataclass(frozen=True, kw_only=True)
class Rap:
    """How a language model is made a world of sub-questions.

    A step earns useful^weight * confidence^(1 - weight): how likely the model thinks it that the
    sub-question helps, and the share of the most frequent among `answers` sampled answers to it.
    Rewards are summed, as in the published code; a value of unfinished states there is not, so a
    search needs rollouts. In these the most useful of `choices` sub-questions is taken.

    depth: sub-questions at most; the last one of them is the problem itself.
    answers: sampled for each sub-question. weight: of usefulness, see above.
    shots: worked examples.

    Answers vote by what they say (`Task.answer`), and by their words where they say nothing; an
    answer to the problem itself that says nothing ends in no solution.
    """

    depth: int = 5
    answers: int = 8
    weight: float = 0.5
    choices: int = 4
    shots: tuple[Dialogue, ...] = ()

    def __post_init__(self) -> None:
        for name in ("depth", "answers", "choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, not {self.weight}")

    def encode(self, engine: Engine, question: str) -> tuple[int, ...]:
        """Token ids of the prompt for a question, up to where the first sub-question begins."""
        if engine.chat:
            turns = []
            for shot in self.shots:
                turns += [Turn("user", _ask(shot.question)), Turn("assistant", shot.text)]
            return engine.encode_chat([*turns, Turn("user", _ask(question))])
        shown = [f"Problem: {shot.question}\n{shot.text}" for shot in self.shots]
        text = "\n".join([f"{INSTRUCTION}\n", *shown, f"Problem: {question}\n"])
        return engine.encode(text, start=True)

    def model(
        self, engine: Engine, temperature: float, max_tokens: int, failures: Failures
    ) -> Model:
        """What planners need of a language model that takes problems apart."""
        policy = RapPolicy(engine, self, temperature, max_tokens, failures)
        world = RapWorld(engine, self, temperature, max_tokens, failures)
        return Model(dynamics=world, policy=policy, rollout=MostUseful(policy))


def _ask(question: str) -> str:
    return f"{INSTRUCTION}\n\nProblem: {question}"


def ask_useful(question: str, solution: str) -> str:
    """Whether the last sub-question of a partial solution helps, to be answered by one word."""
    return (
        f"Problem: {question}\n{solution}\n"
        "Does answering this last sub-question help to solve the problem? Answer Yes or No.\n"
        "Answer:"
    )


@dataclass(frozen=True)
class RapPolicy:
    """Proposes sub-questions: equal ones merged, the most useful first, P(useful) their prior.

    The last that `Rap.depth` allows is not sampled: it is the problem itself.
    """

    engine: Engine
    rap: Rap
    temperature: float = 0.8
    max_tokens: int = 256
    failures: Failures = field(default_factory=dict, repr=False, compare=False)
    judge: Scorer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_tokens)
        object.__setattr__(self, "judge", SelfCritique(self.engine, ask=ask_useful))

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`."""
        seeds = integers(rng, 2**31 - 1, len(state) * num).view(-1, num).tolist()
        last = [len(thought.steps) + 1 >= self.rap.depth for thought in state]
        rows = [row for row, ends in enumerate(last) if not ends]
        label = self.engine.encode(ASK)
        done = _sampled(
            self.engine,
            [state[row].tokens + label for row in rows],
            [seeds[row] for row in rows],
            self.temperature,
            self.max_tokens,
        )
        drawn = dict(zip(rows, done, strict=True))
        for row, made in drawn.items():
            _note(self.failures, state[row], made)
        options = [
            _distinct(self._read(completion) for completion in drawn[row])
            if row in drawn
            else [self._whole(thought.question)]
            for row, thought in enumerate(state)
        ]
        options, scored = self._judged(state, options)
        decoded, prefilled = _spent([drawn.get(row, []) for row in range(len(state))])
        number = torch.tensor([num if row in drawn else 1 for row in range(len(state))])
        proposal = _padded(options)
        return proposal._replace(tokens=Tokens(decoded, prefilled, scored), drawn=number)

    def _read(self, completion: Completion) -> SubQuestion:
        """The sub-question of a completion; one that was cut is none."""
        text = self.engine.decode(completion.tokens)
        if completion.finish in ("length", "failed") or not text.strip():
            finish: Finish = "failed" if completion.finish == "failed" else "length"
            return SubQuestion((), finish, 0.0, 0.0)
        tokens, text = _line(self.engine, completion.tokens, text)
        finish = "eos" if CLOSING in text else "stop"
        logprob = sum(completion.logprobs[: len(completion.tokens)])
        return SubQuestion((Step(tokens, text, logprob),), finish, logprob, 0.0)

    def _whole(self, question: str) -> SubQuestion:
        """The problem as the last sub-question."""
        text = f" {CLOSING} {question}\n"
        return SubQuestion((Step(self.engine.encode(text), text, 0.0),), "eos", 0.0, 0.0)

    def _judged(
        self, state: list[Thought], options: list[list[SubQuestion]]
    ) -> tuple[list[list[SubQuestion]], Tensor]:
        """The options of each state by falling usefulness, and the tokens read to judge them."""
        asked = [
            (row, option) for row, some in enumerate(options) for option in some if option.steps
        ]
        thoughts = [
            state[row]._replace(steps=(*state[row].steps, _labelled(option)))
            for row, option in asked
        ]
        scores, read = self.judge.score(thoughts, [1] * len(asked)) if asked else ([], [])
        scored = torch.zeros(len(state), dtype=torch.int64)
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
        return [sorted(some, key=lambda option: -option.useful) for some in judged], scored


class MostUseful(NamedTuple):
    """The rollout policy: of `Rap.choices` sub-questions the most useful."""

    policy: RapPolicy

    def propose(self, state: list[Thought], num: int, *, rng: Rng) -> Proposal:
        """See `Policy`. There is one candidate, whatever `num` is."""
        proposal = self.policy.propose(state, self.policy.rap.choices, rng=rng)
        first = proposal.actions[:: proposal.log_prior.shape[1]]
        drawn = torch.ones(len(state), dtype=torch.int64)
        return proposal._replace(actions=first, log_prior=torch.zeros(len(state), 1), drawn=drawn)


@dataclass(frozen=True)
class RapWorld:
    """Dynamics: the model answers the sub-question several times, and the majority is believed."""

    engine: Engine
    rap: Rap
    temperature: float = 0.8
    max_tokens: int = 256
    failures: Failures = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_tokens)

    def step(self, state: list[Thought], action: list[SubQuestion], *, rng: Rng) -> Transition:
        """See `Dynamics`."""
        number = self.rap.answers
        seeds = integers(rng, 2**31 - 1, len(state) * number).view(-1, number).tolist()
        ask, answer = self.engine.encode(ASK), self.engine.encode(ANSWER)
        rows = [row for row, asked in enumerate(action) if asked.steps]
        asked = {row: ask + action[row].steps[0].tokens + answer for row in rows}
        done = _sampled(
            self.engine,
            [state[row].tokens + asked[row] for row in rows],
            [seeds[row] for row in rows],
            self.temperature,
            self.max_tokens,
        )
        made = dict(zip(rows, done, strict=True))
        thoughts = []
        for row, (thought, option) in enumerate(zip(state, action, strict=True)):
            if row in made:
                _note(self.failures, thought, made[row])
                thoughts.append(self._answered(thought, option, asked[row], made[row]))
            else:
                failed = option.finish == "failed"
                thoughts.append(thought._replace(finish="failed" if failed else "cut"))
        reward = [_reward(thought) for thought in thoughts]
        going = [float(thought.finish == "open") for thought in thoughts]
        decoded, prefilled = _spent([made.get(row, []) for row in range(len(state))])
        tokens = Tokens(decoded, prefilled, torch.zeros_like(decoded))
        return Transition(thoughts, torch.tensor(reward), torch.tensor(going), tokens)

    def _answered(
        self,
        thought: Thought,
        option: SubQuestion,
        asked: tuple[int, ...],
        made: Sequence[Completion],
    ) -> Thought:
        """The state with the answer of most completions; of equally frequent ones the first."""
        usable = [c for c in made if c.finish not in ("length", "failed")]
        if not usable:
            failed = any(completion.finish == "failed" for completion in made)
            return thought._replace(finish="failed" if failed else "cut")
        texts = [self.engine.decode(completion.tokens) for completion in usable]
        said = [thought.task.answer(text) or text.strip() for text in texts]
        (key, votes), *_ = Counter(said).most_common(1)
        place = said.index(key)
        tokens, text = _line(self.engine, usable[place].tokens, texts[place])
        logprob = option.logprob + sum(usable[place].logprobs[: len(usable[place].tokens)])
        step = Step(asked + tokens, f"{ASK}{option.steps[0].text}{ANSWER}{text}", logprob)
        confidence = votes / sum(completion.finish != "failed" for completion in made)
        reward = option.useful**self.rap.weight * confidence ** (1 - self.rap.weight)
        ends = option.finish == "eos"
        empty = ends and thought.task.answer(text) is None
        return thought._replace(
            steps=(*thought.steps, step),
            scores=(*thought.scores, reward),
            logprob=thought.logprob + logprob,
            finish="cut" if empty else "answered" if ends else "open",
        )


def _reward(thought: Thought) -> float:
    return -math.inf if thought.finish in ("cut", "failed") else thought.scores[-1]


def _check_sampling(temperature: float, max_tokens: int) -> None:
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more, not {temperature}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")


def _sampled(
    engine: Engine,
    texts: list[tuple[int, ...]],
    seeds: list[list[int]],
    temperature: float,
    max_tokens: int,
) -> list[list[Completion]]:
    """A line after each text for each of its seeds; nothing where the context is full."""
    groups, requests = [], []
    for text, row in zip(texts, seeds, strict=True):
        room = min(max_tokens, engine.context - len(text))
        groups.append(len(row) if room > 0 else 0)
        if room > 0:
            requests += [Request(text, room, temperature, seed, ("\n",)) for seed in row]
    done: Iterator[Completion] = iter(engine.generate(requests) if requests else [])
    full = Completion((), "length", (), 0)
    return [
        [next(done) for _ in range(number)] or [full] * len(row)
        for number, row in zip(groups, seeds, strict=True)
    ]


def _line(engine: Engine, tokens: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
    """A line with its newline, which a text that ended the sequence lacks."""
    if text.endswith("\n"):
        return tokens, text
    return tokens + engine.encode("\n"), text + "\n"


def _labelled(option: SubQuestion) -> Step:
    return option.steps[0]._replace(text=ASK + option.steps[0].text)


def _note(failures: Failures, thought: Thought, made: Sequence[Completion]) -> None:
    for completion in made:
        if completion.finish == "failed":
            failures.setdefault(thought.prompt, completion.reason)


def _distinct(options: Iterator[SubQuestion]) -> list[SubQuestion]:
    """Each sub-question once; those that are none are equal if they failed alike."""
    first: dict[tuple[Finish, str], SubQuestion] = {}
    for option in options:
        text = option.steps[0].text.strip() if option.steps else ""
        first.setdefault((option.finish, text), option)
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


def _spent(made: list[Sequence[Completion]] | list[list[Completion]]) -> tuple[Tensor, Tensor]:
    """Tokens generated and prefilled for each state."""
    decoded = [sum(len(c.tokens) + (c.finish == "eos") for c in some) for some in made]
    prefilled = [sum(c.prefilled for c in some) for some in made]
    return torch.tensor(decoded), torch.tensor(prefilled)
