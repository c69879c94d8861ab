"""Depth-first search replays the published Tree-of-Thoughts run on mini crosswords, state by state.

A puzzle has ten clues, h1 to h5 across and v1 to v5 down a board of 5 x 5 letters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import DepthFirstSearch, Event, Model, Plan, Proposal, Rng, Transition, generator
from tests.golden import golden_files

FILES = golden_files("tot_crosswords_infoss_dfs_prune.json")
NAMES = [f"{way}{number}" for way in "hv" for number in range(1, 6)]
PLACES = [slice(5 * i, 5 * i + 5) for i in range(5)] + [slice(i, 25, 5) for i in range(5)]
# Published limits: three words tried in each state, 100 states in all, none after ten words.
SEARCH = DepthFirstSearch(expand=3, depth=9, max_nodes=100, prune_below=0.0)


class Board(NamedTuple):
    """A state: the words written into one puzzle, in order."""

    puzzle: int
    written: tuple[str, ...] = ()
    letters: str = "_" * 25
    status: tuple[int, ...] = (0,) * 10  # of each clue: 0 open, 1 written, 2 overwritten since

    def write(self, word: str) -> Board:
        """The board after a word such as "h2. motor"."""
        name, new = word.split(". ")
        clue, letters = NAMES.index(name), list(self.letters)
        letters[PLACES[clue]] = new.upper()
        status = list(self.status)
        for i, place in enumerate(PLACES):
            pairs = zip(self.letters[place], letters[place], strict=True)
            if any(old not in ("_", letter) for old, letter in pairs):
                status[i] = 2
        status[clue] = 1
        return self._replace(
            written=(*self.written, word), letters="".join(letters), status=tuple(status)
        )

    def text(self, clues: list[str]) -> str:
        """The board as the language model was shown it."""
        parts = ["Current Board:\n" + "".join(f"{self.letters[p]}\n" for p in PLACES[:5])]
        for status, title in enumerate(("Unfilled", "Filled", "Changed")):
            lines = [
                f"{NAMES[i]}. {clues[i]}: {self.letters[PLACES[i]]}\n"
                for i in range(10)
                if self.status[i] == status
            ]
            parts.append(f"{title}:\n" + "".join(lines))
        return "\n".join(parts)

    def correct(self, solution: str) -> tuple[float, float]:
        """The shares of letters and of words that are right."""
        letters = sum(a == b for a, b in zip(self.letters, solution, strict=True))
        return letters / 25, sum(self.letters[p] == solution[p] for p in PLACES) / 10


class Played:
    """The record as a world: the words proposed for a board, and how a board was judged."""

    def __init__(self, folder: Path) -> None:
        def read(name: str) -> Any:
            return json.loads((folder / f"tot_crosswords_{name}.json").read_text())

        self.puzzles = [(clues, "".join(letters)) for clues, letters in read("mini0505")]
        self.proposed: dict[str, dict[str, float]] = read("env_cache")
        self.games: list[list[dict[str, Any]]] = read("infoss_dfs_prune")
        asked = [
            p for p, (clues, _) in enumerate(self.puzzles) if Board(p).text(clues) in self.proposed
        ]
        self.played = asked[: len(self.games)]
        self.impossible = {
            (puzzle, tuple(state["actions"])): state["count"]["impossible"]
            for puzzle, game in zip(self.played, self.games, strict=True)
            for state in game
        }

    def propose(self, state: list[Board], num: int, *, rng: Rng) -> Proposal:
        """The `num` words of highest score that overwrite no other word."""
        words: list[str] = []
        prior = torch.full((len(state), num), -torch.inf)
        for row, board in enumerate(state):
            scores = self.proposed[board.text(self.puzzles[board.puzzle][0])]
            ranked = sorted(scores, key=lambda word: scores[word], reverse=True)
            fitting = [word for word in ranked if 2 not in board.write(word).status][:num]
            prior[row, : len(fitting)] = 0
            words += fitting + [""] * (num - len(fitting))
        return Proposal(words, prior)

    def step(self, state: list[Board], action: list[str], *, rng: Rng) -> Transition:
        made = [board.write(word) for board, word in zip(state, action, strict=True)]
        return Transition(made, torch.zeros(len(made)), torch.ones(len(made)))

    def value(self, state: list[Board]) -> Tensor:
        """Below 0 where the record says that some clue had become impossible."""
        return torch.tensor([-float(self.impossible.get(b[:2], 0)) for b in state])

    def search(self, puzzles: list[int]) -> tuple[Plan, list[list[Board]]]:
        """The plan, and the states that each puzzle's search visits, in order."""
        heard: list[Event] = []
        plan, _ = SEARCH(
            Model(self, self, self),
            [Board(puzzle) for puzzle in puzzles],
            rng=generator(0),
            listen=heard.append,
        )
        room = plan.trace.parent.shape[1]  # type: ignore[union-attr]
        visited: list[list[Board]] = [[] for _ in puzzles]
        for event in heard:
            nodes = zip(event.data["roots"].tolist(), event.data["leaf"].tolist(), strict=True)
            for root, node in nodes:
                visited[root].append(plan.trace.states[root * room + node])
        return plan, visited


@pytest.mark.parametrize("file", FILES)
def test_every_state_visited_is_that_published(file: Path) -> None:
    played = Played(file.parent)
    _, visited = played.search(played.played)
    for puzzle, mine, game in zip(played.played, visited, played.games, strict=True):
        assert [list(board.written) for board in mine] == [state["actions"] for state in game]
        for board, state in zip(mine, game, strict=True):
            assert len(board.written) == state["env_step"]
            letters, words = board.correct(played.puzzles[puzzle][1])
            info = state["info"]
            assert (letters, words) == pytest.approx((info["r_letter"], info["r_word"]))


@pytest.mark.parametrize("file", FILES)
def test_the_published_run_prunes_and_goes_its_full_length(file: Path) -> None:
    played = Played(file.parent)
    plan, visited = played.search(played.played)
    pruned = [state["count"]["impossible"] > 0 for game in played.games for state in game]
    kept = plan.trace.visits > 0  # type: ignore[union-attr]
    mine = [bool(kept[b, 1 + i]) for b, boards in enumerate(visited) for i in range(len(boards))]
    assert [len(boards) for boards in visited] == [100] * 10
    assert mine == [not gone for gone in pruned] and 0 < sum(pruned) < len(pruned)


@pytest.mark.parametrize("file", FILES)
def test_a_puzzle_is_searched_alone_as_among_others(file: Path) -> None:
    played = Played(file.parent)
    _, together = played.search(played.played)
    for row in (0, 7):
        _, alone = played.search([played.played[row]])
        assert alone == [together[row]]
