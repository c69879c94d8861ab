"""The trees of one search together with the model's rows at their nodes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl_core import rows
from mbrl_core.planners.compiled import loops_for
from mbrl_core.planners.game import Game
from mbrl_core.planners.memory import Memory, Subtree, branch, go_on, searchable
from mbrl_core.planners.playout import Ends, Rollouts
from mbrl_core.planners.selection import Search
from mbrl_core.planners.tree import NONE, OPEN, edge_type, node_type
from mbrl_core.types import Played, Rng, RootPolicy, Rows, Transition, Tree
from mbrl_core.world import World


class Complete(NamedTuple):
    """The C futures of each root that a plan may be chosen from: the paths to all M nodes, and what
    rollouts played to the end."""

    score: Tensor  # [B, C] returns; -inf where a node has not ended, and for the broken
    states: Rows  # B*C rows: their last states


class Ending(NamedTuple):
    """The plans of B roots."""

    action: Rows  # B rows: the first step
    state: Rows  # B rows: the last state
    child: np.ndarray  # [B] the root's child on the way; 0 where a rollout of the root leaves it
    node: Tensor  # [B] the last node on the way


class Grove:
    """B trees. Their tables lie in host memory, the rows of states and actions where the model has
    them: a round of simulations exchanges its indices for priors, rewards, discounts and values
    once."""

    def __init__(
        self,
        world: World,
        state: Rows,
        search: Search,
        *,
        candidates: int,
        rollouts: Rollouts | None = None,
        keep: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.world, self.search, self.rollouts = world, search, rollouts
        self.keep = keep  # the futures that rollouts play to the end
        self._ends: list[tuple[Tensor, Tensor, Ends]] = []  # with their roots and nodes
        self.candidates = candidates
        # Walks that go together take different candidates of the root.
        alone = not hasattr(search.selection, "together")
        self.at_once = max(search.leaves, 1 if alone else candidates)
        self.loops = loops_for(search.selection)
        self.dtype = torch.float64 if world.dtype == torch.float64 else torch.float32
        self.real: Any = np.float64 if world.dtype == torch.float64 else np.float32
        known = self._recall(memory, state)
        room = max((len(tree.nodes) for tree in known if tree is not None), default=1)
        self.capacity = room + search.simulations
        shape = (world.roots, self.capacity)
        self.nodes = np.zeros(shape, node_type(self.real))
        self.edges = np.zeros((*shape, candidates), edge_type(self.real))
        self.nodes["parent"] = self.nodes["slot"] = NONE
        self.nodes["discount"] = 1
        self.size = np.ones(world.roots, np.int64)
        self.begun = np.zeros(world.roots, np.int64)
        self.noise = np.zeros((world.roots, candidates), self.real)
        self.options: Rows = None  # B*M*K rows: the candidates of every node
        everyone = torch.arange(world.roots) * self.capacity
        self.states = rows.put(None, everyone, state, size=world.roots * self.capacity)
        self._buffers(world.roots * self.at_once)
        self._plant(known, state)

    def _buffers(self, most: int) -> None:
        """What the loops write in a round of at most `most` leaves, and views of it as tensors."""
        self._leaf, moves = np.zeros((4, most), np.int64), np.zeros((4, most), np.int64)
        ask, place = np.zeros(most, np.int64), np.zeros(most * self.candidates, np.int64)
        self._ask, self._place, self._moves, order = ask, place, moves, np.arange(self.world.roots)
        self._asked_rows = lru_cache(lambda number: torch.from_numpy(ask[:number]))
        self._places = lru_cache(lambda number: torch.from_numpy(place[:number]))
        self._made_rows = lru_cache(lambda number: torch.from_numpy(moves[:, :number]).unbind())
        self._in_order = lru_cache(lambda share: torch.from_numpy(order.repeat(share)))
        self._nothing, self._certain = np.zeros((0, 1), self.real), np.zeros(0, np.bool_)
        self._found = 0

    # Roots

    def _plant(self, known: list[Subtree | None], state: Rows) -> None:
        """Make the roots: new ones, and those of the trees that go on."""
        value = np.zeros(self.world.roots, self.real)
        fresh = torch.tensor([b for b, tree in enumerate(known) if tree is None])
        if len(fresh) and (self.rollouts is None or self._rollouts_fit()):
            found = self._evaluate(rows.take(state, fresh), fresh, fresh * self.capacity)
            value[fresh.numpy()] = self._host(found)
        self.loops.start(self.nodes, value)
        for b, tree in enumerate(known):
            if tree is not None:
                self._replant(b, tree)

    def _replant(self, b: int, tree: Subtree) -> None:
        number = len(tree.nodes)
        self.nodes[b, :number] = tree.nodes.numpy().view(self.nodes.dtype)[:, 0]
        self.edges[b, :number] = tree.edges.numpy().view(self.edges.dtype)
        self.size[b] = number
        row = b * self.capacity + torch.arange(number)
        place = (row.unsqueeze(1) * self.candidates + torch.arange(self.candidates)).flatten()
        total = self.nodes.size
        self.states = rows.put(self.states, row, tree.states, size=total)
        self.options = rows.put(self.options, place, tree.options, size=total * self.candidates)

    def ask_roots(self, some: np.ndarray) -> None:
        """Get the candidates of `some` [B] bool of the roots, where they are not known from an
        earlier search."""
        unknown = (some & (self.nodes["asked"][:, 0] != OPEN)).nonzero()[0]
        self._ask[: len(unknown)] = unknown * self.capacity
        if len(unknown):
            self._answer(np.zeros_like(self.begun), 0, len(unknown))

    def draw_noise(self, rng: Rng) -> None:
        """Draw the noise of this search at the roots."""
        asked = self.nodes["asked"][:, :1] == OPEN
        logits = np.where(asked, self.edges["logit"][:, 0], self.real(-np.inf))
        noise = self.search.selection.noise(torch.from_numpy(logits), rng)
        self.noise = np.ascontiguousarray(self._host(noise))

    def waiting(self) -> np.ndarray:
        """Which roots [B] have candidates and no other node."""
        return (self.nodes["asked"][:, 0] == OPEN) & (self.size == 1)

    def may_begin(self) -> bool:
        """Whether a root has a candidate to try, or may have."""
        unknown = self.nodes["asked"][:, 0] != OPEN
        return bool(unknown.any() or (self.edges["logit"][:, 0] > -np.inf).any())

    # A round of simulations: select, expand, back up

    def simulate(self, most: np.ndarray) -> bool:
        """Run further simulations in each tree, at most `most` [B]; whether any was due."""
        found, asks, made = self._walk(most, 0, 0, self._nothing, self._certain)
        if asks:
            found, asks, made = self._answer(most, found, asks)
        moved = self._expand(made) if made else [self._nothing[:, 0]] * 3
        self.loops.grow(self.search.best, self.nodes, self.edges, self._leaf, found, *moved)
        self._found = found
        return bool(found)

    def _walk(
        self, most: np.ndarray, found: int, asks: int, log_prior: np.ndarray, chance: np.ndarray
    ) -> tuple[int, int, int]:
        return self.loops.walk(
            *(self.search, self.nodes, self.edges, self.noise, self.begun, self.size, most, found),
            *(self._leaf, asks, self._ask, log_prior, chance, self._place, self._moves),
        )

    def _answer(self, most: np.ndarray, found: int, asks: int) -> tuple[int, int, int]:
        """Ask the policy for the candidates of `asks` nodes and walk on."""
        row = self._asked_rows(asks)
        state = rows.take(self.states, row)
        proposal = self.world.propose(state, self.candidates, self._owners(row))
        log_prior, chance = self._host(proposal.log_prior), self._certain
        if proposal.chance is not None:
            chance = proposal.chance.to("cpu", torch.bool).contiguous().numpy()
            if chance.shape != (asks,):
                raise ValueError(
                    f"Policy.propose must return chance [{asks}], not {list(chance.shape)}"
                )
        walked = self._walk(most, found, asks, log_prior, chance)
        place = self._places(log_prior.size)
        self.options = rows.put(self.options, place, proposal.actions, size=self.edges.size)
        return walked

    def _owners(self, row: Tensor) -> Tensor | None:
        """The roots that the rows [n] of a round belong to, as the world takes them: None where
        each root has equally many, in order."""
        share, rest = divmod(row.numel(), self.world.roots)
        if share == self.at_once or self.world.roots == 1:
            return None
        roots = row // self.capacity
        return None if rest == 0 and roots.equal(self._in_order(share)) else roots

    def play(self, game: Game, most: np.ndarray) -> None:
        """As `simulate` until nothing is due, on a model that is a compiled game."""
        if self.options is None:
            self.options = torch.zeros(self.edges.size, dtype=torch.int64)
        spent = np.zeros((3, self.world.roots), np.int64)
        calls = game.loops.search_game(
            *(game.rules, game.actions, self.search, self.nodes, self.edges, self.noise),
            *(self.begun, self.size, most, self._leaf, self._ask, self._place, self._moves),
            *(self.states.numpy(), self.options.numpy(), spent),
        )
        steps, proposals, values = torch.from_numpy(spent)
        self.world.spend(calls, steps=steps, proposals=proposals, values=values)

    def reached(self) -> dict[str, Tensor]:
        """The roots [n] and leaves [n] of the last round; leaf -1 where the new node proved
        broken."""
        roots, _, _, leaf = torch.tensor(self._leaf[:, : self._found])
        return {"roots": roots, "leaf": leaf}

    def _expand(self, made: int) -> list[np.ndarray]:
        """Step the model along the chosen edges: rewards, discounts and values [made]."""
        roots, row, option, new = self._made_rows(made)
        owners = self._owners(row)
        action = rows.take(self.options, option)
        moved = self.world.step_some(rows.take(self.states, row), action, owners)
        self.states = rows.put(self.states, new, moved.state, size=self.nodes.size)
        reward, discount = self._host(moved.reward), self._host(moved.discount)
        return [reward, discount, self._values(moved, discount, roots, owners, new)]

    def _values(
        self,
        moved: Transition,
        discount: np.ndarray,
        roots: Tensor,
        owners: Tensor | None,
        new: Tensor,
    ) -> np.ndarray:
        """Values of the nodes in rows `new`; 0 where the episode ended."""
        if self.rollouts is not None:
            owners = roots
        if np.count_nonzero(discount) == discount.size:
            return self._host(self._evaluate(moved.state, owners, new))
        value = np.zeros_like(discount)
        going = discount.nonzero()[0]
        if len(going):
            index = torch.from_numpy(going)
            found = self._evaluate(rows.take(moved.state, index), roots[index], new[index])
            value[going] = self._host(found)
        return value

    def _evaluate(self, state: Rows, roots: Tensor | None, new: Tensor) -> Tensor:
        """Values of the nodes in rows `new`, which belong to `roots`."""
        if self.rollouts is None:
            return self.world.value(state, roots)
        assert roots is not None
        value, ends = self.rollouts.play(self.world, state, roots, keep=self.keep)
        if ends is not None:
            row = ends.row.cpu()
            root = roots[row]
            self._ends.append((root, new[row] - root * self.capacity, ends))
        return value

    def _rollouts_fit(self) -> bool:
        """Whether the budget allows to evaluate the roots by rollouts and a simulation after that;
        never where tokens are limited, since nobody knows how many a rollout takes."""
        assert self.rollouts is not None
        world, steps = self.world, self.rollouts.steps
        if world.budget.tokens is not None:
            return False
        drawn = self.rollouts.proposals(world)
        both = {"steps": 2 * steps + 1, "proposals": 2 * drawn + self.candidates}
        fits = bool(world.within_budget(**both).all())
        return fits and world.calls_left(2 * self.rollouts.calls + 4)

    def _host(self, x: Tensor) -> np.ndarray:
        """Numbers as the loops take them."""
        if x.dtype != self.dtype or not x.is_cpu or x.requires_grad:
            x = x.detach().to("cpu", self.dtype)
        return x.contiguous().numpy()

    # What was found

    def conclude(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the roots' candidates for the final choice, -inf where untried, and the
        weights that the search recommends; [B, K] each."""
        final = np.zeros((self.world.roots, self.candidates))
        weights = np.zeros_like(final)
        self.loops.conclude(self.search, self.nodes, self.edges, self.noise, final, weights)
        return final, weights

    def principal(self, slot: np.ndarray) -> np.ndarray:
        """The last nodes [B] of the principal variations that begin with candidate `slot` [B]."""
        last = np.zeros(self.world.roots, np.int64)
        self.loops.principal(self.nodes, self.edges, slot, last)
        return last

    def first_steps(self, node: np.ndarray) -> np.ndarray:
        """The roots' children [B] on the way to `node` [B]."""
        first = np.zeros(self.world.roots, np.int64)
        self.loops.first_steps(self.nodes, node, first)
        return first

    def first_actions(self, node: np.ndarray) -> Rows:
        """The actions [B] that lead from the roots to their children `node` [B]."""
        slot = self.nodes["slot"][np.arange(len(node)), node]
        return self._actions(np.zeros((len(node), 1), np.int64), slot[:, None])

    def _actions(self, parent: np.ndarray, slot: np.ndarray) -> Rows:
        """Candidates `slot` [B, n] of the nodes `parent` [B, n], the first where there is none."""
        start = np.arange(self.world.roots)[:, None] * self.capacity
        option = (start + np.maximum(parent, 0)) * self.candidates + np.maximum(slot, 0)
        return rows.take(self.options, torch.from_numpy(option.ravel()))

    def flat(self, node: np.ndarray) -> Tensor:
        """The rows [B] of one node of each tree."""
        return torch.from_numpy(np.arange(len(node)) * self.capacity + node)

    def finished(self) -> Tensor:
        """[B, M] returns of the paths to ended nodes; -inf for all other nodes and for the
        broken."""
        score = self.nodes["earned"] + self.nodes["weight"] * self.nodes["raw_value"]
        made = np.arange(self.capacity) < self.size[:, None]
        usable = made & self.nodes["ended"] & np.isfinite(score)
        return torch.from_numpy(np.where(usable, score, self.real(-np.inf)))

    def played(self) -> Played | None:
        """The futures that rollouts played to the end, where they were kept and there are any."""
        if not self._ends:
            return None
        device = self.world.device
        root, order = torch.cat([roots for roots, *_ in self._ends]).sort(stable=True)
        node = torch.cat([nodes for _, nodes, _ in self._ends])[order]
        returns = torch.cat([ends.returns for *_, ends in self._ends])[order.to(device)]
        at = (root.numpy(), node.numpy())
        earned, weight = (
            torch.from_numpy(self.nodes[name][at]).to(returns) for name in ("earned", "weight")
        )
        return Played(
            root=root,
            node=node,
            returns=earned + weight * returns,
            action=rows.take(rows.concat([ends.action for *_, ends in self._ends]), order),
            final=rows.take(rows.concat([ends.final for *_, ends in self._ends]), order),
        )

    def complete(self, played: Played | None) -> Complete:
        """What a plan may be chosen from: node m of a root is its future m, and what was played
        comes after all nodes."""
        score = self.finished()
        if played is None:
            return Complete(score, self.states)
        root, place = played.root, places_of(played.root)
        row = torch.arange(self.nodes.size).view(score.shape)
        more = torch.zeros((len(score), int(place.max()) + 1), dtype=torch.int64)
        ended = torch.full(more.shape, -torch.inf, dtype=score.dtype)
        more[root, place] = self.nodes.size + torch.arange(len(root))
        ended[root, place] = played.returns.to(ended)
        states = rows.concat([self.states, played.final])
        row = torch.cat([row, more], 1).flatten()
        return Complete(torch.cat([score, ended], 1), rows.take(states, row))

    def ending(self, future: Tensor, played: Played | None) -> Ending:
        """Where the futures [B] of `complete` begin and end."""
        beyond = future >= self.capacity
        if played is None or not bool(beyond.any()):
            child = self.first_steps(future.numpy())
            final = rows.take(self.states, self.flat(future.numpy()))
            return Ending(self.first_actions(child), final, child, future)
        number = torch.bincount(played.root, minlength=len(future))
        row = (number.cumsum(0) - number + future - self.capacity).where(beyond, torch.tensor(0))
        node = torch.where(beyond, played.node[row], future)
        at_root = beyond & (node == 0)
        child = self.first_steps(node.numpy())
        final = rows.take(self.states, self.flat(node.numpy()))
        return Ending(
            rows.where(at_root, rows.take(played.action, row), self.first_actions(child)),
            rows.where(beyond, rows.take(played.final, row), final),
            np.where(at_root.numpy(), 0, child),
            node,
        )

    def tree(self, weights: np.ndarray, played: Played | None = None) -> Tree:
        """The trees as a record; `weights` [B, K] are the recommended policy."""
        used = int(self.size.max())
        states, kept = self.states, self.nodes[:, :used]

        def table(name: str) -> Tensor:
            column = kept[name]
            kind = np.int64 if column.dtype == np.int32 else self.real
            return torch.from_numpy(column.astype(kind))

        if used < self.capacity:
            row = np.arange(self.world.roots)[:, None] * self.capacity + np.arange(used)
            states = rows.take(states, torch.from_numpy(row.ravel()))
        return Tree(
            size=torch.from_numpy(self.size),
            states=states,
            actions=self._actions(kept["parent"], kept["slot"]),
            root=self._root_policy(weights),
            played=played,
            **{name: table(name) for name in _TABLES},
        )

    def _root_policy(self, weights: np.ndarray) -> RootPolicy:
        number = torch.arange(self.candidates)
        start = torch.arange(self.world.roots).unsqueeze(1) * self.capacity * self.candidates
        root = self.edges[:, 0]
        return RootPolicy(
            actions=rows.take(self.options, (start + number).flatten()),
            weights=torch.from_numpy(weights.astype(self.real)),
            logits=torch.from_numpy(root["logit"].copy()),
            visits=torch.from_numpy(root["visits"].astype(np.int64)),
            q=torch.from_numpy(root["q"].copy()),
        )

    # Going on in the same tree

    def remember(self, child: np.ndarray) -> Memory:
        """What lies below the nodes `child` [B], for the searches of the next moves."""
        kept: list[Subtree | None] = []
        for b, top in enumerate(child.tolist()):
            nodes = self.nodes[b, : self.size[b]]
            usable = 0 < top < len(nodes) and searchable(nodes[top])
            rest = (self.edges[b], self.states, self.options, b * self.capacity)
            kept.append(branch(self.loops.cut, top, nodes, *rest) if usable else None)
        return Memory(kept)

    def _recall(self, memory: Memory | None, state: Rows) -> list[Subtree | None]:
        """The remembered trees, from the states that were reached."""
        roots = self.world.roots
        if memory is None:
            return [None] * roots
        if not isinstance(memory, Memory):
            raise TypeError(
                f"MCTS goes on in a Memory of its own, not in a {type(memory).__name__}: pass None "
                "to begin anew"
            )
        if len(memory.trees) != roots:
            raise ValueError(
                f"MCTS was given a carry of {len(memory.trees)} roots for {roots} root states"
            )
        kinds = (self.loops.cut, node_type(self.real), edge_type(self.real), self.candidates)
        reached = (rows.take(state, torch.tensor([b])) for b in range(roots))
        return [
            None if tree is None else go_on(tree, now, *kinds)
            for tree, now in zip(memory.trees, reached, strict=True)
        ]


_TABLES = set(Tree._fields) - {"size", "states", "actions", "root", "played"}


def places_of(root: Tensor) -> Tensor:
    """For roots [n] in ascending order, how many of the same root came before: [n]."""
    number = torch.bincount(root)
    return torch.arange(len(root)) - (number.cumsum(0) - number)[root]
