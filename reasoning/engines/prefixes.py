"""Keys and values of texts that were computed before, for texts that go on from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from torch import Tensor


class Piece:
    """Tokens after those of the pieces above, and their keys and values.

    states: [layers, 2, heads, tokens, size]; None of a root, which has no tokens.
    """

    def __init__(self, tokens: tuple[int, ...], states: Tensor | None, tree: Tree) -> None:
        self.tokens, self.states, self.tree = tokens, states, tree
        self.below: dict[int, list[Piece]] = {}  # by their first token


class Tree:
    """The texts of one key, as pieces below a root."""

    def __init__(self) -> None:
        self.root = Piece((), None, self)
        self.bytes = 0
        self.dropped = False


class Prefixes:
    """A tree of pieces for each key, in a limited room; see Zheng et al. 2024 ("SGLang",
    arXiv:2312.07104, RadixAttention).

    Texts are told apart by a key that the caller gives, and grow by whole pieces: a search asks for
    a step after the very tokens that it was given before, so that pieces need not be cut. What is
    found for one key does not depend on other keys, as long as there is room.

    room: bytes kept; beyond it the keys go that were not asked for the longest.
    """

    def __init__(self, room: int) -> None:
        self.room, self.bytes = room, 0
        self.trees: OrderedDict[Hashable, Tree] = OrderedDict()

    def find(self, key: Hashable, tokens: Sequence[int], most: int) -> list[Piece]:
        """The pieces that `tokens` begin with, at most so many tokens; the root comes first."""
        tree = self.trees.setdefault(key, Tree())
        self.trees.move_to_end(key)
        path, known = [tree.root], 0
        while known < len(tokens):
            fitting = [
                piece
                for piece in path[-1].below.get(tokens[known], ())
                if known + len(piece.tokens) <= most
                and piece.tokens == tuple(tokens[known : known + len(piece.tokens)])
            ]
            if not fitting:
                break
            path.append(max(fitting, key=lambda piece: len(piece.tokens)))
            known += len(path[-1].tokens)
        return path

    def add(self, above: Piece, tokens: tuple[int, ...], states: Tensor) -> Piece:
        """Keep a piece below another; the one that is there already, where there is one."""
        beside = above.below.setdefault(tokens[0], [])
        for piece in beside:
            if piece.tokens == tokens:
                return piece
        tree = above.tree
        piece = Piece(tokens, states, tree)
        if tree.dropped:
            return piece
        beside.append(piece)
        tree.bytes += states.nbytes
        self.bytes += states.nbytes
        while self.bytes > self.room:
            _, oldest = self.trees.popitem(last=False)
            oldest.dropped = True
            self.bytes -= oldest.bytes
        return piece
