"""Every record that crosses a boundary between a world and a planner.

A world offers three things: what happens next (`Dynamics`), what is worth trying (`Policy`) and how
good a place is (`Value`). A planner takes the three as a `Model` and returns a `Plan`. Read this
file and you know the system.

Letters used for shapes everywhere: B roots planned for at once, N candidates per root, H steps
ahead, A action dimensions, K candidate actions per state, M tree nodes per root, R any number of
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Rows: TypeAlias = Any
"""A batch of states or actions: a tensor [R, ...], a list of R objects (text, say), or a tuple,
NamedTuple or dict of Rows. Planners move rows with the verbs of `rows.py` and never look inside."""

Rng: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""Where random draws come from: one generator for the whole batch, or one per root. With one per
root each root's draws do not depend on which other roots share its batch."""


class Tokens(NamedTuple):
    """Language-model tokens spent on each row; worlds without a language model leave it out."""

    decoded: Tensor  # [R] tokens generated
    prefilled: Tensor  # [R] prompt tokens computed, those read from a KV cache not counted
    scored: Tensor  # [R] tokens read by a scorer


class Transition(NamedTuple):
    """One model step of R rows."""

    state: Rows  # R rows
    reward: Tensor  # [R]
    discount: (
        Tensor  # [R] weight of everything after this step: gamma, or 0 where the episode ended
    )
    tokens: Tokens | None = None


class Proposal(NamedTuple):
    """K candidate actions for each of R states."""

    actions: Rows  # R*K rows; candidate k of state r is row r*K + k
    log_prior: Tensor  # [R, K]; any constant may be added per state; -inf marks an empty slot
    tokens: Tokens | None = None
    drawn: Tensor | None = None  # [R] candidates drawn, where equal ones were merged
    chance: Tensor | None = None  # [R] bool: nature chooses, log_prior are her probabilities


@runtime_checkable
class Dynamics(Protocol):
    """What happens next. A class may set `terminates = False` to promise discount > 0 always, and
    that there is always something to do.

    Two more members are optional. `step_rows(state)`, the model rows [R] that a step of each row
    takes (or one int for all), belongs to wrappers whose step is several steps of another model:
    the ledger and the budget count these. It may not grow along a path.
    `disagreement(state, action)` [R] says how little is known of a step, see `Unsure`.
    """

    def step(self, state: Rows, action: Rows, *, rng: Rng) -> Transition:
        """R states and R actions to R transitions; row r depends on row r alone.

        New rows are returned, in the kind and precision of the old, which are left as they are.
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """What is worth trying.

    `mode(state)` is optional: the likeliest action of each row, or the mean of a continuous
    policy, without a draw; `Reflex(action="mode")` takes it. `draws`, too: how many candidates a
    policy of rollouts draws where one is asked for, of which it gives the best (without it 1).
    """

    def propose(self, state: Rows, num: int, *, rng: Rng) -> Proposal:
        """R states to at most `num` candidates each (K <= num); num=1 is one draw from the
        policy."""
        ...


@runtime_checkable
class Value(Protocol):
    """How good a place is: the expected discounted return from a state that has not ended.

    `value_rows(state)` is optional: what `Dynamics.step_rows` is for steps.
    """

    def value(self, state: Rows) -> Tensor:
        """R states to values [R]."""
        ...


class Box(NamedTuple):
    """Continuous actions between two bounds, which may be infinite."""

    low: Tensor  # [A]
    high: Tensor  # [A]


class Discrete(NamedTuple):
    """Actions 0 .. n-1, as int64 rows [R]."""

    n: int


class Model(NamedTuple):
    """All a planner may know of a world. A planner refuses a model that lacks a part it needs.

    `rollout` is a policy for rollouts alone, which value a state by playing on from it: a faster or
    greedier one than `policy`, or one whose action is all that is left to do (AlphaGo's rollout
    policy, Silver et al. 2016). None: rollouts follow `policy`.
    """

    dynamics: Dynamics
    policy: Policy | None = None
    value: Value | None = None
    action_space: Box | Discrete | None = None
    rollout: Policy | None = None


class Budget(NamedTuple):
    """Where a search must stop, whatever it has reached; `None` is no limit.

    `steps`, `proposals`, `gradients` and `calls` are never exceeded: an iteration that does not fit
    is cut to the candidates that do, or not begun. What a call will take in tokens and seconds is
    known only when it returns, so these two stop a search at the first check at or past the limit.
    Planners over action sequences foresee the time: they begin no iteration but the first that, by
    the longest so far, would end past it.
    """

    steps: int | None = None  # dynamics rows per root
    proposals: int | None = None  # candidates drawn from the policy, per root
    gradients: int | None = None  # dynamics rows differentiated through, per root
    tokens: int | None = None  # decoded tokens per root
    calls: int | None = None  # batched model calls of the whole plan
    seconds: float | None = None  # wall time of the whole plan


class BudgetError(ValueError):
    """A budget does not allow the least that a planner does."""


class Cost(NamedTuple):
    """The ledger of one plan."""

    calls: int  # batched calls of step, propose and value
    steps: Tensor  # [B] dynamics rows
    proposals: Tensor  # [B] candidates drawn from the policy
    values: Tensor  # [B] rows valued
    gradients: Tensor  # [B] dynamics rows differentiated through
    tokens: Tokens  # [B] each
    seconds: float

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        """The ledger of two plans for the same roots, one after the other."""
        return _combine(lambda a, b: a + b, self, other)

    def spread(self, roots: Tensor, total: int) -> Cost:
        """The ledger of `total` roots, of which those at `roots` [B] spent this and the rest
        nothing."""

        def place(amount: Any) -> Any:
            if not isinstance(amount, Tensor):
                return amount
            return amount.new_zeros(total).index_copy(0, roots.to(amount.device), amount)

        return _combine(place, self)


def _combine(join: Callable[..., Any], *costs: Cost) -> Cost:
    """Join ledgers field by field."""
    joined: list[Any] = [
        Tokens(*map(join, *parts)) if isinstance(parts[0], Tokens) else join(*parts)
        for parts in zip(*costs, strict=True)
    ]
    return Cost(*joined)


class Rollout(NamedTuple):
    """N simulated futures of each of B roots, as rows b*N + n."""

    actions: list[Rows]  # H entries of B*N rows; those past the end of an episode were not taken
    rewards: Tensor  # [B, N, H]; 0 past the end
    discounts: Tensor  # [B, N, H]; 0 from the ending step on
    final: Rows  # B*N rows: the last state of each future
    returns: Tensor  # [B, N] discounted return, with the value of the last state where there is one
    ended: Tensor  # [B, N] bool: the future reached the end of its episode


class RootPolicy(NamedTuple):
    """What a tree search found out about the K candidates of its B roots: a policy's target."""

    actions: Rows  # B*K rows
    weights: Tensor  # [B, K] recommended probabilities; zeros where nothing was proposed
    logits: Tensor  # [B, K] of the policy; -inf = empty slot
    visits: Tensor  # [B, K]
    q: Tensor  # [B, K] reward + discount * value; 0 where unvisited


class Played(NamedTuple):
    """The n futures, of all roots, that a search's rollouts played to the end of the episode.

    In the order of the roots, and of each root in the order they were played.
    """

    root: Tensor  # [n]
    node: Tensor  # [n] where the future began
    returns: Tensor  # [n] from the root on; -inf where not finite
    action: Rows  # n rows: what was done at the node
    final: Rows  # n rows: the state that ended the episode


class Tree(NamedTuple):
    """The search trees of B roots. Node 0 is the root; nodes are numbered in the order of
    expansion, so a parent's number is below its children's. Slots past `size` are empty."""

    size: Tensor  # [B] nodes in use
    parent: Tensor  # [B, M] node number; -1 at the root
    slot: Tensor  # [B, M] which of the parent's candidates led here; -1 at the root
    depth: Tensor  # [B, M] steps from the root
    visits: Tensor  # [B, M] simulations through the node, its own evaluation included
    value: Tensor  # [B, M] present estimate of the return from here
    raw_value: Tensor  # [B, M] what the model's value said when the node was made
    prior: Tensor  # [B, M] probability of the edge into the node
    reward: Tensor  # [B, M] of the edge into the node
    discount: Tensor  # [B, M] of the edge into the node; 0 = the episode ended here
    states: Rows  # B*M rows
    actions: Rows  # B*M rows: the action of the edge into the node; meaningless at the root
    root: RootPolicy | None = None  # where the search recommends a policy
    played: Played | None = None  # where the search valued its nodes by rollouts


class Plan(NamedTuple):
    """What a planner found for B roots."""

    action: Rows  # B rows: the action to take now
    value: Tensor  # [B] predicted return of the plan; -inf where a search found none
    final: Rows  # B rows: the state in which the plan is predicted to end
    trace: Rollout | Tree  # everything looked at
    cost: Cost
    valid: (
        Tensor  # [B] bool; False where no candidate had a finite return and a fallback is returned
    )
    then: Sequence[Rows] = ()  # the actions after `action`, B rows each; empty after a tree search
    node: Tensor | None = None  # [B] of a `Tree`, where it lies: the end, or a rollout's start


class Event(NamedTuple):
    """Something that happened during a plan, for plots and viewers."""

    kind: str  # "iteration", "depth" or "simulation"
    number: int  # of the iteration, depth or simulation
    data: dict[str, Any]


Listener: TypeAlias = Callable[[Event], None]
Carry: TypeAlias = Any
"""What a planner hands to its next call (a warm start): an explicit value, `None` for no memory.
`mbrl_core.reset(carry, mask)` forgets the rows where `mask` [B] is true."""


class Planner(Protocol):
    """A frozen dataclass of hyperparameters; all that changes between calls is in the carry."""

    def __call__(
        self,
        model: Model,
        state: Rows,
        carry: Carry = None,
        *,
        rng: Rng,
        budget: Budget | None = None,
        listen: Listener | None = None,
    ) -> tuple[Plan, Carry]:
        """Plan for B root states at once.

        Raises ValueError, in one sentence, where the model lacks what the planner needs or returns
        rows of the wrong shape, and TypeError where an argument is none of these.
        """
        ...
