"""How a tree search chooses among a node's candidates: UCT, PUCT, Gumbel with sequential halving.

A selection is all that differs between these searches; `MCTS` is one loop. It is a NamedTuple of
settings whose methods look at ONE node and its K candidates, in plain Python over numbers: loops,
`math`, no arrays but those given. `compiled.py` compiles them, together with the walk down the tree
at the end of this file, so a rule is written once, reads like its formula and runs like C. Yours is
compiled too, once per process; it may call `transform` and functions decorated with `numba.njit`.

The candidates are records (see `tree.py`): `visits` of the child (0 where none has been made), `q`
= reward + discount * value of the child, `logit` (log prior up to a constant), `prior` (softmax of
the logits over the node). A candidate whose logit is -inf is an empty slot: whatever score it gets
is ignored, as is that of one not shown yet. Equal scores go to the lower candidate number.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mbrl_core import draws
from mbrl_core.planners.common import check_counts, check_not_negative, check_positive
from mbrl_core.planners.tree import HIDDEN, NONE, OPEN, REQUESTED, UNASKED, UNDER_WAY
from mbrl_core.types import Rng

TINY = float(np.finfo(np.float32).tiny)


class Selection(Protocol):
    """The choices of a tree search: a NamedTuple with these methods.

    Two more are optional. `together(edges, noise, turn, total)`: how many simulations from `turn`
    on will follow different candidates of the root, and which, whatever they find. These are run at
    once, in fewer calls of the model and with the same result as one by one. `check()`: raises
    ValueError where a setting makes no sense.
    """

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """Root noise [B, K], drawn once per search; -inf where there is no candidate."""
        ...

    def score(self, node: Any, edges: Any, noise: Any, turn: int, total: int, out: Any) -> None:
        """Write the candidates' scores to `out` [K], in simulation `turn` of `total`.

        `noise` [K] is that of the root, which is the node of depth 0.
        """
        ...

    def decide(self, node: Any, edges: Any, noise: Any, out: Any) -> None:
        """Write the scores [K] of the root's candidates when the search is over."""
        ...

    def target(self, node: Any, edges: Any, out: Any) -> None:
        """Write the logits [K] of the policy that the search recommends at the root."""
        ...


class QTransform(Protocol):
    """Brings Q to a scale on which it can be compared with a prior or a bonus: a NamedTuple."""

    def fill(self, node: Any, edges: Any, out: Any) -> None:
        """Write transformed Q to `out` [K]; an unvisited candidate has a value too."""
        ...


# Calls to a method by the type of the tuple it belongs to; `compiled.py` resolves them.


def transform(q: Any, node: Any, edges: Any, out: Any) -> None:
    """`q.fill(...)`: for use in the methods of a selection."""
    q.fill(node, edges, out)


def score(rule: Any, node: Any, edges: Any, noise: Any, turn: Any, total: Any, out: Any) -> None:
    """`rule.score(...)`."""
    rule.score(node, edges, noise, turn, total, out)


def together(rule: Any, edges: Any, noise: Any, turn: int, total: int) -> int:
    """`rule.together(...)`."""
    return rule.together(edges, noise, turn, total)


def one_by_one(rule: Any, edges: Any, noise: Any, turn: int, total: int) -> int:
    """`together` for a rule that has none."""
    return 1


def decide(rule: Any, node: Any, edges: Any, noise: Any, out: Any) -> None:
    """`rule.decide(...)`."""
    rule.decide(node, edges, noise, out)


def target(rule: Any, node: Any, edges: Any, out: Any) -> None:
    """`rule.target(...)`."""
    rule.target(node, edges, out)


# Q transforms


class RawQ(NamedTuple):
    """Q as it is; `unvisited` where there is none."""

    unvisited: float = 0.0

    def fill(self, node: Any, edges: Any, out: Any) -> None:
        """See `QTransform`."""
        for k in range(len(edges)):
            out[k] = edges[k].q if edges[k].visits > 0 else self.unvisited


class _Bounds(NamedTuple):
    low: float
    high: float


class MinMaxQ(_Bounds):
    """(Q - low) / (high - low) for known bounds of Q; the unvisited count as `low`."""

    def __new__(cls, low: float, high: float) -> MinMaxQ:
        """Raises ValueError where the bounds are out of order."""
        if not low < high:
            raise ValueError(f"MinMaxQ needs low < high, not {low} and {high}")
        return super().__new__(cls, low, high)

    def fill(self, node: Any, edges: Any, out: Any) -> None:
        """See `QTransform`."""
        for k in range(len(edges)):
            q = edges[k].q if edges[k].visits > 0 else self.low
            out[k] = (q - self.low) / (self.high - self.low)


class SiblingsQ(NamedTuple):
    """Q scaled to [0, 1] by the least and greatest of the node's value and its visited candidates'
    Q.

    The unvisited count as the least. MuZero's normalisation (Schrittwieser et al. 2020, eq. 5)
    taken over one node, as in the mctx library.
    """

    def fill(self, node: Any, edges: Any, out: Any) -> None:
        """See `QTransform`."""
        low = high = float(node.value)
        for k in range(len(edges)):
            if edges[k].visits > 0:
                low, high = min(low, edges[k].q), max(high, edges[k].q)
        for k in range(len(edges)):
            q = edges[k].q if edges[k].visits > 0 else low
            out[k] = (q - low) / max(high - low, 1e-8)


class CompletedQ(NamedTuple):
    """Completed Q, scaled: `value_scale` * (`visit_offset` + max visits) * Q.

    The unvisited are given the mixed value (raw + N * sum_visited p q / sum_visited p) / (N + 1), N
    the sum of the candidates' visits (Danihelka et al. 2022, "Policy improvement by planning with
    Gumbel", eq. 8 and 33). `rescale` first brings the completed Q of the node to [0, 1]; an empty
    slot counts as unvisited there, as in the mctx library.
    """

    value_scale: float = 0.1
    visit_offset: float = 50.0
    rescale: bool = True

    def fill(self, node: Any, edges: Any, out: Any) -> None:
        """See `QTransform`."""
        mixed = mixed_value(node, edges)
        low, high, most = math.inf, -math.inf, 0
        for k in range(len(edges)):
            out[k] = edges[k].q if edges[k].visits > 0 else mixed
            most = max(most, edges[k].visits)
            low, high = min(low, out[k]), max(high, out[k])
        scale, zero = self.value_scale * (self.visit_offset + most), 0.0
        if self.rescale:
            scale, zero = scale / max(high - low, 1e-8), low
        for k in range(len(edges)):
            out[k] = scale * (out[k] - zero)


def mixed_value(node: Any, edges: Any) -> float:
    """What the node's raw value and its candidates' Q say together (see `CompletedQ`)."""
    number, share, weighted = 0, 0.0, 0.0
    for k in range(len(edges)):
        if edges[k].visits > 0:
            prior = max(edges[k].prior, TINY)
            number, share = number + edges[k].visits, share + prior
            weighted += prior * edges[k].q
    raw = float(node.raw_value)
    return raw if number == 0 else (raw + number * weighted / share) / (number + 1)


# Selections


class UCT(NamedTuple):
    """Upper confidence bounds for trees: Q + c sqrt(ln N / n), every candidate tried once first.

    Kocsis and Szepesvari 2006; N is the number of times one of the candidates was chosen, n this
    one's. The final choice is the most visited.
    """

    exploration: float = math.sqrt(2)
    q: QTransform = RawQ()

    def check(self) -> None:
        """See `Selection`."""
        check_not_negative(self, "exploration")

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """See `Selection`."""
        return torch.where(logits > -torch.inf, 0.0, logits)

    def score(self, node: Any, edges: Any, noise: Any, turn: int, total: int, out: Any) -> None:
        """See `Selection`."""
        transform(self.q, node, edges, out)
        number = total_visits(edges)
        for k in range(len(edges)):
            visits = edges[k].visits
            if visits == 0:
                out[k] = math.inf
            else:
                out[k] += self.exploration * math.sqrt(math.log(number) / visits)

    def decide(self, node: Any, edges: Any, noise: Any, out: Any) -> None:
        """See `Selection`."""
        log_visits(edges, out)

    def target(self, node: Any, edges: Any, out: Any) -> None:
        """See `Selection`: in proportion to the visits."""
        log_visits(edges, out)


class PUCT(NamedTuple):
    """Prior-weighted bounds: Q + p sqrt(N) / (1 + n) * (c_init + ln((N + c_base + 1) / c_base)).

    AlphaZero and MuZero (Schrittwieser et al. 2020, eq. 2); N is the node's visits with its own
    evaluation, n the candidate's. The final choice is the most visited. At the root p is mixed with
    `dirichlet_fraction` of a draw from Dir(`dirichlet_alpha`) over the candidates there are.
    """

    c_init: float = 1.25
    c_base: float = 19652.0
    q: QTransform = SiblingsQ()
    dirichlet_fraction: float = 0.0
    dirichlet_alpha: float = 0.3

    def check(self) -> None:
        """See `Selection`."""
        check_not_negative(self, "c_init", "dirichlet_fraction")
        check_positive(self, "c_base", "dirichlet_alpha")
        if self.dirichlet_fraction > 1:
            raise ValueError(
                f"PUCT.dirichlet_fraction must be at most 1, not {self.dirichlet_fraction!r}"
            )

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """See `Selection`."""
        noise = torch.zeros_like(logits)
        if self.dirichlet_fraction > 0:
            drawn = draws.gamma(rng, self.dirichlet_alpha, *logits.shape).to(logits)
            drawn = torch.where(logits > -torch.inf, drawn, 0.0)
            noise = drawn / drawn.sum(1, keepdim=True).clamp(min=TINY)
        return torch.where(logits > -torch.inf, noise, -torch.inf)

    def score(self, node: Any, edges: Any, noise: Any, turn: int, total: int, out: Any) -> None:
        """See `Selection`."""
        transform(self.q, node, edges, out)
        rate = self.c_init + math.log((node.visits + self.c_base + 1) / self.c_base)
        rate *= math.sqrt(node.visits)
        fraction = self.dirichlet_fraction if node.depth == 0 else 0.0
        for k in range(len(edges)):
            prior = edges[k].prior
            if fraction > 0:
                prior += fraction * (noise[k] - prior)
            out[k] += rate * prior / (1 + edges[k].visits)

    def decide(self, node: Any, edges: Any, noise: Any, out: Any) -> None:
        """See `Selection`."""
        log_visits(edges, out)

    def target(self, node: Any, edges: Any, out: Any) -> None:
        """See `Selection`: in proportion to the visits."""
        log_visits(edges, out)


class Gumbel(NamedTuple):
    """Gumbel MuZero: sequential halving at the root, a deterministic rule below it.

    Danihelka et al. 2022: the root draws g ~ `scale` * Gumbel(0) once, considers the `considered`
    candidates of highest g + logit, and halves them by g + logit + q in phases of equal visits
    (algorithm 2). Elsewhere argmax_a pi'(a) - n(a) / (1 + N) with pi' = softmax(logits + q) (eq.
    14). The final choice is the best by g + logit + q of the most visited; the recommended policy
    is pi'. The candidates of one round of a phase are visited side by side.
    """

    considered: int = 16
    scale: float = 1.0
    q: QTransform = CompletedQ()

    def check(self) -> None:
        """See `Selection`."""
        check_counts(self, "considered")
        check_not_negative(self, "scale")

    def noise(self, logits: Tensor, rng: Rng) -> Tensor:
        """See `Selection`."""
        noise = torch.zeros_like(logits)
        if self.scale > 0:
            noise = self.scale * draws.gumbel(rng, *logits.shape).to(logits)
        return torch.where(logits > -torch.inf, noise, -torch.inf)

    def score(self, node: Any, edges: Any, noise: Any, turn: int, total: int, out: Any) -> None:
        """See `Selection`."""
        if node.depth == 0:
            due = due_at_root(edges, noise, turn, total, self.considered)
            gumbel_scores(self.q, node, edges, noise, due, out)
            return
        transform(self.q, node, edges, out)
        for k in range(len(edges)):
            out[k] += edges[k].logit
        to_probabilities(out)
        share = 1 / (1 + total_visits(edges))
        for k in range(len(edges)):
            out[k] -= edges[k].visits * share

    def together(self, edges: Any, noise: Any, turn: int, total: int) -> int:
        """See `Selection`: what is left of a round, where all candidates that are due belong to it.

        In the very first round it may be some of them: no result is there yet to rank them by.
        """
        due, left = halving(at_first(noise, self.considered), turn, total)
        ready = 0
        for k in range(len(edges)):
            ready += edges[k].logit > -math.inf and begun_visits(edges[k]) == due
        whole = ready == left and turn + left <= total
        return left if whole or (due == 0 and ready > left) else 1

    def decide(self, node: Any, edges: Any, noise: Any, out: Any) -> None:
        """See `Selection`."""
        most = 0
        for k in range(len(edges)):
            most = max(most, edges[k].visits)
        gumbel_scores(self.q, node, edges, noise, most, out)

    def target(self, node: Any, edges: Any, out: Any) -> None:
        """See `Selection`: pi'."""
        transform(self.q, node, edges, out)
        for k in range(len(edges)):
            out[k] += edges[k].logit


def due_at_root(edges: Any, noise: Any, turn: int, total: int, considered: int) -> int:
    """How many visits the candidate to be tried now has had.

    One that proved broken has left: where its turn comes, the next ones move up.
    """
    due, late, waiting = due_visits(at_first(noise, considered), turn, total), 0, -1
    for k in range(len(edges)):
        visits = begun_visits(edges[k])
        late = max(late, visits)
        if edges[k].logit > -math.inf and visits >= due and (waiting < 0 or visits < waiting):
            waiting = visits
    return late if waiting < 0 else waiting


def at_first(noise: Any, considered: int) -> int:
    """How many candidates sequential halving begins with: those there were at first, which the
    noise remembers, at most `considered`."""
    number = 0
    for k in range(len(noise)):
        number += noise[k] > -math.inf
    return min(number, considered)


def due_visits(considered: int, turn: int, total: int) -> int:
    """How many visits the candidate tried in simulation `turn` of `total` must have had before."""
    return halving(considered, turn, total)[0]


def halving(considered: int, turn: int, total: int) -> tuple[int, int]:
    """The round that simulation `turn` of `total` belongs to: the visits that its candidates have
    had before, and how many of it are left.

    Sequential halving (Karnin et al. 2013) as used by Danihelka et al. 2022, algorithm 2: the
    phases share the simulations equally, each phase visits its candidates in turn, round by round,
    and halves them, down to 2.
    """
    if considered <= 1:
        return turn, 1
    phases = math.ceil(math.log2(considered))
    size, begun, done = considered, 0, 0  # of this phase; simulations and rounds before it
    while True:
        rounds = max(1, total // (phases * size))
        if turn < begun + rounds * size:
            passed = turn - begun
            return done + passed // size, size - passed % size
        begun += rounds * size
        done += rounds
        size = max(2, size // 2)


def gumbel_scores(q: Any, node: Any, edges: Any, noise: Any, visits: int, out: Any) -> None:
    """g + logit + q of the candidates that have exactly `visits` visits, -inf for the others."""
    transform(q, node, edges, out)
    top = -math.inf
    for k in range(len(edges)):
        top = max(top, edges[k].logit)
    for k in range(len(edges)):
        if begun_visits(edges[k]) == visits:
            out[k] = max(noise[k] + (edges[k].logit - top) + out[k], -1e9)
        else:
            out[k] = -math.inf


def begun_visits(edge: Any) -> int:
    """Visits, with that of a child that is being made."""
    return 1 if edge.child == UNDER_WAY else edge.visits


def total_visits(edges: Any) -> int:
    """Visits of all candidates."""
    number = 0
    for k in range(len(edges)):
        number += edges[k].visits
    return number


def log_visits(edges: Any, out: Any) -> None:
    """ln n, which is -inf where there was none."""
    for k in range(len(edges)):
        out[k] = math.log(edges[k].visits) if edges[k].visits > 0 else -math.inf


def to_probabilities(out: Any) -> None:
    """Softmax in place; zeros where nothing is finite."""
    top = -math.inf
    for k in range(len(out)):
        top = max(top, out[k])
    total = 0.0
    for k in range(len(out)):
        out[k] = math.exp(out[k] - top) if out[k] > -math.inf else 0.0
        total += out[k]
    share = 1 / max(total, TINY)
    for k in range(len(out)):
        out[k] *= share


# The walk down the trees. What it counts on the way (`visits`, `under_way`) holds until the leaf is
# backed up: further walks of the same round see a visit that has begun, but no result (Liu et al.
# 2020, "Watch the Unobserved"), and never take an edge whose child is being made.


class Search(NamedTuple):
    """What a walk has to know, besides the trees."""

    selection: Any
    simulations: int
    leaves: int  # walks per tree at once, where the selection does not ask for more
    deepest: int  # nodes at this depth are not descended
    open_scale: float  # a node with n visits shows its ceil(scale * n**power) likeliest candidates
    open_power: float
    best: bool  # a node is worth the best that was found below it, not the mean


def walk(
    search: Any,
    nodes: Any,
    edges: Any,
    noise: Any,
    begun: Any,
    size: Any,
    most: Any,
    found: int,
    leaf: Any,
    asks: int,
    ask: Any,
    log_prior: Any,
    chance: Any,
    place: Any,
    moves: Any,
) -> tuple[int, int, int]:
    """Walk down the trees as far as the candidates are known.

    A round begins with `found` = 0: as many walks per tree as may go at once, at most `most` [B],
    counted in `begun` [B]. What they reach is written to `leaf` [4, found]: the root, the node, the
    candidate to follow from it and the number of the simulation. A candidate below 0 says why there
    is none: `NONE` (the node cannot be descended), `UNDER_WAY` (all are being made by walks of this
    round) or `UNASKED`. The rows of nodes that need candidates are written to `ask` [asks]. Called
    again with the policy's answer, `log_prior` [asks, <= K] and `chance` ([asks], or empty: none
    is), it goes on from there; `place` is given the rows of the new candidates.

    Once nothing is left to ask, the leaves that lead to a new node are given its number in
    `leaf[3]`, and `moves` [4, made] says for each of these its root and the rows of its state, of
    its action among the candidates and of the new node. Returns found, asks and made.
    """
    answer(search, nodes, edges, asks, ask, log_prior, chance, place)
    if found == 0:
        found = begin(search, edges, noise, begun, most, leaf)
    capacity, asks, scores = nodes.shape[1], 0, np.empty(edges.shape[2])
    for i in range(found):
        if leaf[2, i] != UNASKED:
            continue
        b, node = leaf[0, i], leaf[1, i]
        node, slot = descend(search, nodes[b], edges[b], node, noise[b], leaf[3, i], scores)
        leaf[1, i], leaf[2, i] = node, slot
        if slot == UNDER_WAY:
            begun[b] -= 1
        elif slot == UNASKED and nodes[b, node].asked == UNASKED:
            nodes[b, node].asked = REQUESTED
            ask[asks] = b * capacity + node
            asks += 1
    made = 0 if asks else list_moves(size, found, leaf, capacity, edges.shape[2], moves)
    return found, asks, made


def begin(search: Any, edges: Any, noise: Any, begun: Any, most: Any, leaf: Any) -> int:
    """Set walks out from each root, at most `most` [B]: how many there are."""
    found, total = 0, search.simulations
    for b in range(len(most)):
        number = together(search.selection, edges[b, 0], noise[b], begun[b], total)
        number = min(max(number, search.leaves), most[b], total - begun[b])
        for _ in range(number):
            leaf[0, found], leaf[1, found], leaf[2, found], leaf[3, found] = b, 0, UNASKED, begun[b]
            begun[b] += 1
            found += 1
    return found


def answer(
    search: Any,
    nodes: Any,
    edges: Any,
    asks: int,
    ask: Any,
    log_prior: Any,
    chance: Any,
    place: Any,
) -> None:
    """Give the asked nodes their candidates."""
    capacity, number = edges.shape[1:]
    for i in range(asks):
        b, node = ask[i] // capacity, ask[i] % capacity
        nodes[b, node].chance = len(chance) > 0 and chance[i]
        widens = search.open_scale < math.inf and not nodes[b, node].chance
        open_node(nodes[b, node], edges[b, node], log_prior[i], HIDDEN if widens else NONE)
        for k in range(log_prior.shape[1]):
            place[i * log_prior.shape[1] + k] = ask[i] * number + k


def list_moves(size: Any, found: int, leaf: Any, capacity: int, number: int, moves: Any) -> int:
    """Number the new nodes and write down what the model has to do for them: how many there are."""
    made = 0
    for i in range(found):
        b, slot = leaf[0, i], leaf[2, i]
        if slot >= 0:
            leaf[3, i] = size[b]
            row = b * capacity + leaf[1, i]
            moves[0, made], moves[1, made] = b, row
            moves[2, made], moves[3, made] = row * number + slot, b * capacity + size[b]
            size[b] += 1
            made += 1
    return made


def open_node(node: Any, edges: Any, log_prior: Any, child: int = NONE) -> None:
    """Give a node its candidates, with NONE for a `child`, or all HIDDEN."""
    node.asked, node.shown = OPEN, 0
    for k in range(len(edges)):
        edges[k].child, edges[k].visits, edges[k].q = child, 0, 0.0
        edges[k].logit = log_prior[k] if k < len(log_prior) else -math.inf
    set_priors(edges)


def set_priors(edges: Any) -> None:
    """prior = softmax(logit)."""
    top, total = -math.inf, 0.0
    for k in range(len(edges)):
        top = max(top, edges[k].logit)
    for k in range(len(edges)):
        exists = edges[k].logit > -math.inf
        edges[k].prior = math.exp(edges[k].logit - top) if exists else 0.0
        total += edges[k].prior
    for k in range(len(edges)):
        edges[k].prior /= max(total, TINY)


def descend(
    search: Any, nodes: Any, edges: Any, here: int, noise: Any, turn: int, scores: Any
) -> tuple[int, int]:
    """Follow the selection from node `here` of one tree to an edge without a child."""
    while True:
        node = nodes[here]
        if node.ended or node.depth >= search.deepest:
            slot = NONE
            break
        if node.asked != OPEN:
            return here, UNASKED
        slot = choose(search, node, edges[here], noise, turn, scores)
        if slot < 0:
            break
        node.visits += 1
        node.under_way += 1
        edge = edges[here, slot]
        if edge.child < 0:
            edge.child = UNDER_WAY
            return here, slot
        edge.visits += 1
        here = edge.child
    nodes[here].visits += 1
    nodes[here].under_way += 1
    return here, slot


def choose(search: Any, node: Any, edges: Any, noise: Any, turn: int, scores: Any) -> int:
    """The candidate of highest score; `NONE` or `UNDER_WAY` where there is none to choose.

    At a chance node nature's outcomes take turns: argmax p / (n + 1), which keeps their shares
    close to p (Antonoglou et al. 2022).
    """
    if node.chance:
        for k in range(len(edges)):
            scores[k] = edges[k].prior / (1 + edges[k].visits)
    else:
        if search.open_scale < math.inf:
            show(node, edges, math.ceil(search.open_scale * node.visits**search.open_power))
        score(search.selection, node, edges, noise, turn, search.simulations, scores)
    best, choice = -math.inf, NONE
    for k in range(len(edges)):
        if edges[k].logit > -math.inf and edges[k].child != HIDDEN:
            if edges[k].child == UNDER_WAY:
                choice = UNDER_WAY if choice == NONE else choice
            elif scores[k] > best:
                best, choice = scores[k], k
    return choice


def show(node: Any, edges: Any, wide: int) -> None:
    """Let at least 1 and at most `wide` candidates be seen: those of highest logit, of equal ones
    the lower number first."""
    while node.shown < max(wide, 1):
        best, likeliest = -math.inf, NONE
        for k in range(len(edges)):
            if edges[k].child == HIDDEN and edges[k].logit > best:
                best, likeliest = edges[k].logit, k
        if likeliest == NONE:
            return
        edges[likeliest].child = NONE
        node.shown += 1


def conclude(search: Any, nodes: Any, edges: Any, noise: Any, final: Any, weights: Any) -> None:
    """Write `decide` and the probabilities of `target` of each root to `final`, `weights` [B, K].

    Only candidates that were tried can be decided for: the others score -inf.
    """
    for b in range(len(nodes)):
        if nodes[b, 0].asked != OPEN:
            final[b, :] = -math.inf
            weights[b, :] = 0.0
            continue
        decide(search.selection, nodes[b, 0], edges[b, 0], noise[b], final[b])
        target(search.selection, nodes[b, 0], edges[b, 0], weights[b])
        for k in range(edges.shape[2]):
            if edges[b, 0, k].visits == 0:
                final[b, k] = -math.inf
            if edges[b, 0, k].logit == -math.inf:
                final[b, k] = weights[b, k] = -math.inf
        to_probabilities(weights[b])
