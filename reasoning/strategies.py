"""Reasoning strategies: each a planner of the core and the grain at which it samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from mbrl_core import (
    MCTS,
    PUCT,
    UCT,
    Argmax,
    BeamSearch,
    DepthFirstSearch,
    Gumbel,
    Model,
    ParticleFilter,
    Planner,
    RandomShooting,
    RawQ,
    RecedingHorizon,
    Reducer,
    Rows,
    Selection,
    Vote,
    WeightedVote,
)
from reasoning.engines.base import Engine, Sampling
from reasoning.rap_forms import Dialogue, Form, Operations, Putting, Questions
from reasoning.subquestions import Rap
from reasoning.world import Failures, Unit


class Playing(NamedTuple):
    """How the rollouts of a search are drawn: see `Strategy`."""

    unit: Unit
    temperature: float


class World(Protocol):
    """Another way than steps of a solution to make a world of a language model."""

    @property
    def deepest(self) -> int:
        """Actions at most on the way to the end."""
        ...

    @property
    def prompt(self) -> Putting | None:
        """How questions are put; None: as by other strategies, for states are solutions as theirs:
        examples are whole solutions, and what is open is completed as there."""
        ...

    def model(
        self,
        engine: Engine,
        sampling: Sampling,
        failures: Failures,
        *,
        calculator: bool,
    ) -> Model:
        """What planners need, states being `Thought`s; `calculator` as of `Reasoner`. With a prompt
        of its own `Model.rollout` completes what is open."""
        ...


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How to search for a solution.

    planner: any planner of the core that works on text.
    unit: what one action is, a whole `solution`, a `step`, or a step of a `list`, see
        `LanguagePolicy`.
    temperature: of sampling; 0 is greedy. How else tokens are drawn is the `Reasoner`'s to say.
    merge: equal candidates of a node become one, their count its prior.
    rollout: how the rollouts of a planner that makes them are drawn; None: as its actions.
    world: what states and actions are; None: solutions and their steps.
    """

    planner: Planner
    unit: Unit
    temperature: float = 1.0
    merge: bool = False
    rollout: Playing | None = None
    world: World | None = None


@dataclass(frozen=True)
class FinalAnswer:
    """What each solution of a question votes for: its answer as its task has it (`Task.votes`), or
    None where it is unfinished or says nothing.

    One number is one candidate, however it is written: 18, 18.0 and $18.
    """

    def __call__(self, thoughts: Rows) -> list[str | None]:
        """See `mbrl_core.reducers.Key`."""
        ballots: list[str | None] = [None] * len(thoughts)
        asked: dict[str, list[int]] = {}
        for row, thought in enumerate(thoughts):
            if thought.finish == "answered":
                asked.setdefault(thought.question, []).append(row)
        for rows in asked.values():
            votes = thoughts[rows[0]].task.votes([thoughts[row].text for row in rows])
            for row, vote in zip(rows, votes, strict=True):
                ballots[row] = vote
        return ballots


def greedy() -> Strategy:
    """Chain of thought at temperature 0 (Wei et al. 2022)."""
    return Strategy(planner=RandomShooting(samples=1, horizon=1), unit="solution", temperature=0.0)


def self_consistency(n: int = 16, temperature: float = 1.0) -> Strategy:
    """The majority answer of n samples (Wang et al. 2022)."""
    return _sampled(n, temperature, Vote(FinalAnswer()))


def best_of_n(n: int = 16, temperature: float = 1.0) -> Strategy:
    """The sample of highest score (Cobbe et al. 2021)."""
    return _sampled(n, temperature, Argmax())


def weighted_vote(n: int = 16, temperature: float = 1.0) -> Strategy:
    """The answer whose samples have the highest sum of scores (Li et al. 2023)."""
    return _sampled(n, temperature, WeightedVote(FinalAnswer()))


def soft_best_of_n(
    n: int = 16, score_temperature: float = 0.1, temperature: float = 1.0
) -> Strategy:
    """The answer of highest sum of exp(score / score_temperature).

    Between the majority (infinitely hot) and the sample of highest score (cold).
    """
    return _sampled(n, temperature, WeightedVote(FinalAnswer(), score_temperature))


def tree_of_thoughts(
    width: int = 4,
    expand: int = 4,
    depth: int = 12,
    temperature: float = 1.0,
    unit: Unit = "step",
    root_expand: int | None = None,
) -> Strategy:
    """Beam search over steps by score (Yao et al. 2023, breadth first): of `expand` sampled steps,
    or, where `unit` is `list`, of the first `expand` that the model lists when it is asked to. Of
    first steps there are `root_expand`, see `BeamSearch`."""
    planner = BeamSearch(width=width, expand=expand, depth=depth, root_expand=root_expand)
    return Strategy(planner=planner, unit=unit, temperature=temperature, merge=True)


def dvts(width: int = 4, expand: int = 4, depth: int = 12, temperature: float = 1.0) -> Strategy:
    """Diverse verifier tree search (Beeching et al. 2024): `width` subtrees, each followed along
    its best step. Equal steps are not merged: each subtree has draws of its own."""
    planner = BeamSearch(width=width, expand=expand, depth=depth, groups=width)
    return Strategy(planner=planner, unit="step", temperature=temperature)


def lookahead(
    width: int = 4,
    expand: int = 4,
    ahead: int = 2,
    depth: int = 12,
    temperature: float = 1.0,
    root_expand: int | None = None,
) -> Strategy:
    """Lookahead search (Snell et al. 2024, section 5.2): a beam in which a step is judged by the
    score that it leads to, `ahead` greedy steps later; 0 of them is `tree_of_thoughts`."""
    planner = BeamSearch(
        width=width,
        expand=expand,
        depth=depth,
        root_expand=root_expand,
        rollouts=min(ahead, 1),
        rollout_depth=max(ahead, 1),
    )
    return Strategy(
        planner=planner,
        unit="step",
        temperature=temperature,
        merge=True,
        rollout=Playing("step", 0.0),
    )


def receding(strategy: Strategy, steps: int = 24, execute: int = 1) -> Strategy:
    """Step-level receding horizon: search, commit `execute` steps, search again, `steps` in all.

    `strategy` says how to search. Each search gets an equal part of a budget.
    """
    if not isinstance(strategy, Strategy):
        raise ValueError(
            "receding commits one step at a time, and compute_optimal chooses for whole solutions: "
            "give receding a search over steps"
        )
    if strategy.unit == "solution":
        raise ValueError(
            "receding commits one step at a time, and this strategy samples whole solutions"
        )
    planner = RecedingHorizon(planner=strategy.planner, steps=steps, execute=execute)
    return replace(strategy, planner=planner)


def tree_of_thoughts_dfs(
    expand: int = 3,
    depth: int = 12,
    max_nodes: int = 64,
    prune_below: float | None = 0.3,
    enough: float | None = None,
    temperature: float = 1.0,
) -> Strategy:
    """Depth-first search over steps (Yao et al. 2023): a solution whose score falls below
    `prune_below` is given up, one that scores `enough` ends the search."""
    planner = DepthFirstSearch(
        expand=expand, depth=depth, max_nodes=max_nodes, prune_below=prune_below, enough=enough
    )
    return Strategy(planner=planner, unit="step", temperature=temperature, merge=True)


def particle_filter(
    particles: int = 16,
    depth: int = 24,
    score_temperature: float = 0.1,
    weigh: Literal["gain", "score", "logit"] = "gain",
    resample_at: float = 1.0,
    temperature: float = 1.0,
    choose: Literal["best", "vote"] = "vote",
) -> Strategy:
    """Sequential Monte Carlo over steps (Puri et al. 2025): solutions multiply and die by score.

    As published, solutions are weighed by "logit", with a `score_temperature` of 1. `choose` takes
    the particle of `best` score or the answer of the highest sum of weights.
    """
    planner = ParticleFilter(
        particles=particles,
        depth=depth,
        temperature=score_temperature,
        weigh=weigh,
        resample_at=resample_at,
        judge="return" if choose == "best" else "weight",
        reduce=_chosen_by(choose),
    )
    return Strategy(planner=planner, unit="step", temperature=temperature)


def mcts(
    simulations: int = 32,
    candidates: int = 4,
    selection: Literal["puct", "uct", "gumbel"] = "puct",
    exploration: float = 1.0,
    temperature: float = 1.0,
    choose: Literal["best", "vote"] = "best",
    leaves: int = 1,
    rollouts: int = 0,
    reuse: bool = False,
) -> Strategy:
    """Monte Carlo tree search over steps; counts of equal steps are priors, scores are values.

    `exploration` is the weight of what was seldom tried, for `puct` and `uct`. `choose` takes, of
    the complete solutions that were met, the `best` by score or the answer of the highest sum of
    scores. `leaves` steps are taken in each tree at once. With `rollouts` a new step is worth the
    mean score of so many solutions that are sampled from there, and these are met, too. `reuse`
    goes on in the tree below a step that was committed, where the strategy is `receding`.
    """
    selections: dict[str, Selection] = {
        "puct": PUCT(c_init=exploration, q=RawQ()),
        "uct": UCT(exploration=exploration),
        "gumbel": Gumbel(),
    }
    if selection not in selections:
        raise ValueError(f"selection must be one of {', '.join(selections)}, not {selection!r}")
    planner = MCTS(
        simulations=simulations,
        candidates=candidates,
        selection=selections[selection],
        reduce=_chosen_by(choose),
        leaves=leaves,
        rollouts=rollouts,
        rollout_depth=1,
        reuse=reuse,
    )
    return Strategy(
        planner=planner,
        unit="step",
        temperature=temperature,
        merge=True,
        rollout=Playing("solution", temperature),
    )


def rap(
    simulations: int = 10,
    candidates: int = 4,
    form: Literal["questions", "operations"] = "questions",
    depth: int | None = None,
    answers: int = 8,
    weight: float = 0.5,
    exploration: float = 1.0,
    temperature: float = 1.0,
    choose: Literal["best", "vote"] = "vote",
    shots: Sequence[Mapping[str, Any]] = (),
) -> Strategy:
    """Reasoning via planning (Hao et al. 2023): UCT over sub-questions and their answers.

    A sub-question is a line of a dialogue (`questions`) or of a solution up to its first `=`
    (`operations`), see `reasoning.rap_forms`. `candidates` of them are proposed at each node,
    `depth` make a solution at most, by default what the form needs; `answers` and `weight` make the
    reward, see `reasoning.subquestions.Rap`. Every new node is played to the end by the most useful
    sub-questions, and a node is worth the best of what was found below it. `choose` takes, of the
    solutions met, the `best` by mean reward of its steps or the answer with the highest sum of
    these. `shots` are worked examples of a dialogue: a `question` and its
    `exchanges`, pairs of a sub-question and an answer. A scorer is not asked.
    """
    world = Rap(
        form=_form(form, shots), depth=depth, answers=answers, weight=weight, choices=candidates
    )
    planner = MCTS(
        simulations=simulations,
        candidates=candidates,
        selection=UCT(exploration=exploration),
        reduce=_chosen_by(choose),
        rollouts=1,
        rollout_depth=world.deepest,
        backup="max",
    )
    return Strategy(planner=planner, unit="step", temperature=temperature, world=world)


def _form(name: str, shots: Sequence[Mapping[str, Any]]) -> Form:
    """What sub-questions are. Raises ValueError on an unknown one or examples that do not fit."""
    if name == "questions":
        return Questions(tuple(_dialogue(number, shot) for number, shot in enumerate(shots)))
    if name != "operations":
        raise ValueError(f"form must be questions or operations, not {name!r}")
    if shots:
        raise ValueError(
            "strategy.shots are dialogues, which form=operations does not write: give whole "
            "solutions, as shots=N"
        )
    return Operations()


def _dialogue(number: int, shot: Mapping[str, Any]) -> Dialogue:
    """The worked example that an entry of `shots` is."""
    match shot:
        case {"question": str(question), "exchanges": [*exchanges]} if len(shot) == 2 and exchanges:
            pairs = [tuple(pair) for pair in exchanges if _is_pair(pair)]
            if len(pairs) == len(exchanges):
                return Dialogue(question, tuple(pairs))
    raise ValueError(
        f"entry {number} of shots must be {{question: text, exchanges: [[sub-question, answer], "
        f"..]}}, not {shot!r}"
    )


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(text, str) for text in pair)
        and not isinstance(pair, str)
    )


def _chosen_by(choose: Literal["best", "vote"]) -> Reducer:
    if choose not in ("best", "vote"):
        raise ValueError(f"choose must be best or vote, not {choose!r}")
    return Argmax() if choose == "best" else WeightedVote(FinalAnswer())


def _sampled(n: int, temperature: float, reduce: Reducer) -> Strategy:
    planner = RandomShooting(samples=n, horizon=1, reduce=reduce)
    return Strategy(planner=planner, unit="solution", temperature=temperature)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "greedy": greedy,
    "self_consistency": self_consistency,
    "best_of_n": best_of_n,
    "weighted_vote": weighted_vote,
    "soft_best_of_n": soft_best_of_n,
    "tree_of_thoughts": tree_of_thoughts,
    "dvts": dvts,
    "lookahead": lookahead,
    "tree_of_thoughts_dfs": tree_of_thoughts_dfs,
    "particle_filter": particle_filter,
    "mcts": mcts,
    "rap": rap,
}


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """A strategy by name. Raises ValueError on an unknown one or an option that it has not."""
    if name not in STRATEGIES:
        raise ValueError(f"there is no strategy {name!r}: choose among {', '.join(STRATEGIES)}")
    try:
        return STRATEGIES[name](**options)
    except TypeError as error:
        raise ValueError(f"the strategy {name!r} has no such option: {error}") from error
