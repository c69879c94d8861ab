"""Beam search replays the published Tree-of-Thoughts run on the Game of 24, line by line."""

from __future__ import annotations

import ast
import json
import operator
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mbrl_core import BeamSearch, Event, Model, Proposal, Rng, Transition, Tree, generator
from tests.golden import golden_files

FILES = golden_files("tot_game24_bfs_replay.jsonl")
STEPS, KEPT = 4, 5


class Lines(NamedTuple):
    """A state: the lines written so far for one puzzle.

    Two candidates of a step may read alike; `copy` counts those before this one.
    """

    puzzle: int
    step: int = 0
    text: str = ""
    copy: int = 0


class Played:
    """The record as a world: what was proposed and how it was judged, by puzzle and step."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.proposed: dict[Lines, list[str]] = {}
        self.judged: dict[tuple[Any, ...], float] = {}
        for puzzle, record in enumerate(records):
            for step, played in enumerate(record["steps"]):
                parents: list[str] = []
                for entry in played["expand"]:
                    state = Lines(puzzle, step, entry["parent"], parents.count(entry["parent"]))
                    parents.append(entry["parent"])
                    self.proposed[state] = entry["proposals"]
                texts = [e["parent"] + line for e in played["expand"] for line in e["proposals"]]
                for text, value in zip(texts, played["values"], strict=True):
                    self.judged.setdefault((puzzle, step + 1, text), value)

    def propose(self, state: list[Lines], num: int, *, rng: Rng) -> Proposal:
        lines = [self.proposed[lines] for lines in state]
        prior = torch.full((len(state), num), -torch.inf)
        for row, proposed in enumerate(lines):
            prior[row, : len(proposed)] = 0
        padded = [line for own in lines for line in own + [""] * (num - len(own))]
        return Proposal(padded, prior)

    def step(self, state: list[Lines], action: list[str], *, rng: Rng) -> Transition:
        made: list[Lines] = []
        seen: dict[Lines, int] = {}
        for lines, line in zip(state, action, strict=True):
            new = Lines(lines.puzzle, lines.step + 1, lines.text + line)
            made.append(new._replace(copy=seen.get(new, 0)))
            seen[new] = seen.get(new, 0) + 1
        return Transition(made, torch.zeros(len(made)), torch.ones(len(made)))

    def value(self, state: list[Lines]) -> Tensor:
        """What the record says of a candidate; a repeated one is worth nothing."""
        return torch.tensor([0.0 if x.copy else self.judged.get(x[:3], 0.0) for x in state])


def solves(puzzle: str, text: str) -> bool:
    """Whether the last line is an answer that makes 24 of exactly the puzzle's numbers."""
    formula = text.strip().split("\n")[-1].lower().replace("answer: ", "").split("=")[0]
    if sorted(re.findall(r"\d+", formula)) != sorted(re.findall(r"\d+", puzzle)):
        return False
    try:
        return worth(ast.parse(formula.strip(), mode="eval").body) == 24
    except (SyntaxError, ZeroDivisionError):
        return False


def worth(node: ast.expr) -> Fraction:
    """The exact value of a formula of whole numbers."""
    signs = {ast.Add: operator.add, ast.Sub: operator.sub}
    signs |= {ast.Mult: operator.mul, ast.Div: operator.truediv}
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp):
        return -worth(node.operand)
    assert isinstance(node, ast.BinOp)
    return signs[type(node.op)](worth(node.left), worth(node.right))


def replay(records: list[dict[str, Any]]) -> list[list[list[str]]]:
    """What beam search selects in each step of each puzzle, all puzzles at once."""
    played = Played(records)
    most = max(len(lines) for lines in played.proposed.values())
    heard: list[Event] = []
    plan, _ = BeamSearch(width=KEPT, expand=most, depth=STEPS)(
        Model(played, played, played),
        [Lines(puzzle) for puzzle in range(len(records))],
        rng=generator(0),
        listen=heard.append,
    )
    tree = plan.trace
    assert isinstance(tree, Tree)
    room = tree.parent.shape[1]
    return [
        [
            [tree.states[puzzle * room + node].text for node in event.data["beam"][puzzle].tolist()]
            for event in heard
        ]
        for puzzle in range(len(records))
    ]


@pytest.mark.parametrize("file", FILES)
def test_every_selection_and_every_flag_is_that_published(file: Path) -> None:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    selected = replay(records)
    for record, mine in zip(records, selected, strict=True):
        assert mine == [step["selected"] for step in record["steps"]], record["idx"]
        assert mine[-1] == record["final"]
        flags = [int(solves(record["x"], text)) for text in mine[-1]]
        assert flags == record["r"], record["idx"]


@pytest.mark.parametrize("file", FILES)
def test_what_makes_the_published_run_hard_to_replay_is_in_it(file: Path) -> None:
    """The replay would prove less if the record had no ties, repeats or empty lines."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    empty, repeated, tied = 0, 0, 0
    for record in records:
        for step in record["steps"]:
            texts = [e["parent"] + line for e in step["expand"] for line in e["proposals"]]
            empty += sum(line == "\n" for entry in step["expand"] for line in entry["proposals"])
            repeated += len(texts) - len(set(texts))
            ranked = sorted(step["values"], reverse=True)
            tied += len(ranked) > KEPT and ranked[KEPT - 1] == ranked[KEPT]
    assert len(records) == 50 and empty > 0 and repeated > 0 and tied > 100
    assert sum(record["r"][0] for record in records) == 32, "solved by the first of the five kept"
    assert sum(any(record["r"]) for record in records) == 35, "solved by any of them"


@pytest.mark.parametrize("file", FILES)
def test_a_puzzle_is_searched_alone_as_among_others(file: Path) -> None:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    together = replay(records)
    for row in (2, 6, 37):
        assert replay([records[row]]) == [together[row]]
