"""The Game of 24: exact rules, perfect play without a model, and the published run again."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrl_core import MCTS, PUCT, BeamSearch, DepthFirstSearch, Event, Model, RawQ, Tree, generator
from reasoning.arithmetic import DEEPEST, evaluate
from reasoning.engines import Completion, ScriptedEngine, failure
from reasoning.reasoner import Reasoner
from reasoning.scorers.judges import Verdicts
from reasoning.strategies import best_of_n, tree_of_thoughts
from reasoning.tasks import GAME24, Problem
from reasoning.tasks.game24 import (
    canonical,
    generated_puzzles,
    moves_of,
    numbers_of,
    operations,
    question_of,
    solution_of,
    solvable,
    walk,
)
from reasoning.tasks.game24_play import LegalMoves, Reachable, start
from reasoning.world import Continuation, Failures, LanguagePolicy, TextWorld, Thought
from tests.golden import golden_files

SOLVED = """4 * 5 = 20 (left: 6 10 20)
10 - 6 = 4 (left: 4 20)
4 + 20 = 24 (left: 24)
Answer: (4 * 5) + (10 - 6) = 24
"""


def problem(*numbers: int) -> Problem:
    fractions = tuple(map(Fraction, numbers))
    return Problem("p", question_of(fractions), "24", solution_of(fractions))


# -------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (SOLVED, True),
        ("Answer: 4*5+10-6", True),
        ("answer: 4 × 5 + 10 − 6 = 24", True),
        ("Answer: 5 * (10 - 4) - 6 = 24", True),
        ("Answer: 4 + 5 + 6 + 10 = 24", False),  # 25
        ("Answer: (10 - 6) * 6 = 24", False),  # other numbers
        ("Answer: 4 * 6 = 24", False),
        ("Answer: 4 * 5 + 10 - 6 + 5 - 5 = 24", False),
        ("Answer: 24", False),
        ("Answer: (4 * 5) + (10 - 6).", True),
        ("**Answer:** 4 * 5 + (10 - 6) = **24**.", True),
        ("Answer: 4 * 5 + (10 - 6), = 24", True),
        ("Answer: 4 * 5 + (10 - 6),", True),
        ("Answer:\n4 * 5 + (10 - 6) = 24", True),
        ("Answer: `4 * 5 + (10 - 6)`", True),
        ("Answer: $4 \\times 5 + (10 - 6) = 24$", True),
        (r"Answer: \( 4 \cdot 5 + \left(10 - 6\right) = 24 \).", True),
        ("Answer: 24 = 4 * 5 + (10 - 6)", True),
        ("Answer: 4 * 5 + (10 - 6) = 25", True),  # as in the paper
        ("Answer: 4 + 5 + 6 + 10 = 24 = 4 * 5 + (10 - 6)", False),
        ("Answer: 1,000 / 4 = 250", False),
    ],
)
def test_right_is_what_uses_the_four_numbers_once_and_makes_24(said, right):
    assert GAME24.grade(said, problem(4, 5, 6, 10)).correct is right


def test_arithmetic_is_exact():
    assert GAME24.grade("Answer: 8 / (3 - 8 / 3) = 24", problem(3, 3, 8, 8)).correct
    assert not GAME24.grade("Answer: 8 / (3 - 2.6666666) = 24", problem(3, 3, 8, 8)).correct
    assert GAME24.grade("Answer: 3 / (8 - 8) * 3", problem(3, 3, 8, 8)) == (None, None, "")
    assert GAME24.grade("4 * 5 = 20 (left: 6 10 20)", problem(4, 5, 6, 10)).correct is None


def test_equal_ways_to_write_an_expression_vote_together():
    spellings = ["(4*5)+(10-6)", "10 - 6 + 5*4", "5 * 4 - (6 - 10)", "-6 + (10 + 4 * 5)"]
    assert len({canonical(text) for text in spellings}) == 1
    assert len({canonical(text) for text in ["6/3", "3/6", "6*3", "6-3", "3-6", "1/(6*3)"]}) == 6
    assert canonical("4 ** 5") is None and canonical("four") is None


NONE = [
    "4, 5",
    "9**9**9",
    "4 // 5",
    "4 5",
    "4(5)",
    "+4",
    "",
    "4 / 0",
    "1_0",
    "four",
    "4 × x",
    "4 +",
    "(4",
    "4)",
]
ENDLESS = {
    "digits": "4" * 5000,
    "infinite": "9" * 400 + ".0",
    "parentheses": "(" * 500 + "4" + ")" * 500,
    "signs": "-" * 5000 + "4",
    "sum": "+".join("4" * 5000),
    "nested": "(1+2*" * 150 + "4" + ")" * 150,
}


@pytest.mark.parametrize("text", [*NONE, *(pytest.param(t, id=n) for n, t in ENDLESS.items())])
def test_what_is_no_expression_is_no_answer(text):
    assert canonical(text) is None
    assert GAME24.answer(f"Answer: {text} = 24") is None


def test_the_deepest_expression_can_be_written_again():
    depth = DEEPEST // 2 - 1
    text = canonical("(1+2*" * depth + "4" + ")" * depth)
    assert text is not None and text.count("(") == depth - 1


@given(st.text("4 05+-*/().,$`×", max_size=30))
def test_whatever_is_said_is_read_once(text):
    """The canonical form is an expression where the text is one, of the same value."""
    again = canonical(text)
    assert (again is None) == (evaluate(text) is None)
    assert again is None or (evaluate(again), canonical(again)) == (evaluate(text), again)


def test_what_is_canonical_keeps_its_value_and_its_numbers():
    problems = GAME24.load(limit=60)
    for one in problems:
        text = GAME24.write(one)
        again = GAME24.answer(text)
        assert GAME24.grade(text, one).correct
        assert GAME24.grade(f"Answer: {again}", one) == (again, True, "")


@pytest.mark.parametrize(
    ("lines", "legal"),
    [
        (SOLVED.splitlines(), True),
        (["Let me see.", "4 * 5 = 20 (left: 6 10 20)"], True),  # not judged
        (["4 * 5 = 20 (left: 20, 6, 10)"], True),
        (["4 - 6 = -2 (left: -2 5 10)", "5 - (-2) = 7 (left: 7 10)"], True),
        (["6 / 4 = 1.5 (left: 1.5 5 10)"], True),
        (["6 / 4 = 3/2 (left: 3/2 5 10)"], True),
        (["10 / 6 = 1.67 (left: 1.67 4 5)"], False),  # rounded
        (["4 * 5 = 21 (left: 6 10 21)"], False),
        (["4 * 5 = 20 (left: 10 20)"], False),
        (["4 * 4 = 16 (left: 5 6 10)"], False),  # only one 4
        (["4 * 5 = 20 (left: 6 10 20)", "5 + 6 = 11 (left: 10 11 20)"], False),  # 5 is used
        ([*SOLVED.splitlines()[:3], "Answer: 4 * 5 + 10 - 6 = 25"], False),
        (["4 / 0 = 0 (left: 0 5 6 10)"], False),
        (["Answer: 4 * 5 + (10 - 6) = **24**"], True),
        (["Answer: 4 * 5 + (10 - 6) = **25**"], False),
        (["Answer: 4 * 5 + (10 - 6) = 24, as wished"], True),  # cannot be read
        (["Answer: 24 = 4 * 5 + (10 - 6) = 25"], False),
        ([r"\(4 \times 5 = 20\) (left: 6 10 20)"], True),
        (["$4 × 5 = 21$ (left: 6 10 21)"], False),
    ],
)
def test_an_operation_is_legal_on_the_numbers_left(lines, legal):
    question = problem(4, 5, 6, 10).question
    assert GAME24.refuted(question, lines) is not legal


def test_what_is_no_number_is_no_move():
    unread = ["4 / 0 = 1/0 (left: 1 2)", "4 - 2 = 2 (left: x)", "1/0 + 2 = 3 (left: 3)"]
    moves = moves_of([*unread, "1 + 2 = 3 (left: 3 4)"])
    assert [move.line for move in moves] == ["1 + 2 = 3 (left: 3 4)"]


def test_a_puzzle_without_a_solution_is_not_written():
    with pytest.raises(ValueError, match="p has no solution: 24 cannot be made of 1-1-1-1"):
        GAME24.write(problem(1, 1, 1, 1))


def test_the_calculator_looks_at_the_rules_of_the_task():
    thought = start(problem(4, 5, 6, 10).question)
    world = TextWorld(Reachable(), calculator=True)
    move = LegalMoves().propose([thought], 36, rng=generator(0)).actions[0]
    wrong = replace_text(move, "4 * 5 = 21 (left: 6 10 21)\n")
    moved = world.step([thought, thought], [move, wrong], rng=generator(0))
    assert moved.state[1].text.startswith("4 * 5 = 21")
    assert TextWorld(None, calculator=True).value(moved.state).tolist() == [0.5, 0.0]


def replace_text(move: Continuation, text: str) -> Continuation:
    return move._replace(steps=(move.steps[0]._replace(text=text),))


def by_hand(numbers: Sequence[Fraction]) -> bool:
    """Whether 24 can be made, by trying everything, negative numbers included."""
    if len(numbers) == 1:
        return numbers[0] == 24
    for a, b in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (a, b)]
        x, y = numbers[a], numbers[b]
        made = [x + y, x - y, x * y, *([x / y] if y else [])]
        if any(by_hand([*rest, result]) for result in made):
            return True
    return False


@pytest.mark.parametrize(
    "numbers", [(1, 1, 1, 1), (3, 3, 8, 8), (1, 5, 5, 5), (1, 1, 4, 6), (13, 13, 13, 13), (2, 3, 4)]
)
def test_solvable_is_what_trying_everything_finds(numbers):
    fractions = tuple(map(Fraction, numbers))
    assert solvable(fractions) is by_hand(fractions)


def test_generated_puzzles_differ_are_solvable_and_keep_the_splits_apart():
    train, test = (generated_puzzles(split, 2000) for split in ("train", "test"))
    assert len(train) + len(test) == len({*train, *test}) == 1362  # as many as the published list
    assert all(map(solvable, test))
    assert generated_puzzles("test", 5) == test[:5] != generated_puzzles("test", 5, seed=1)
    first = GAME24.load(limit=1)[0]
    assert numbers_of(first.question) == test[0]
    assert walk(first.question, first.solution) == ((Fraction(24),), True)


# ------------------------------------------------------------------------------------ perfect play


PLAYERS = {
    "beam": BeamSearch(width=60, expand=36, depth=4),
    "depth first": DepthFirstSearch(expand=36, depth=4, max_nodes=400, prune_below=0.5, enough=0.9),
    "mcts": MCTS(simulations=80, candidates=36, selection=PUCT(q=RawQ())),
}


@pytest.mark.parametrize("name", PLAYERS)
def test_every_search_solves_what_can_be_solved_with_a_perfect_judge(name):
    puzzles = [problem(*n) for n in [(4, 5, 6, 10), (3, 3, 8, 8), (1, 5, 5, 5), (1, 2, 3, 4)]]
    model = Model(TextWorld(Reachable(), calculator=True), LegalMoves(), TextWorld(Reachable()))
    plan, _ = PLAYERS[name](model, [start(p.question) for p in puzzles], rng=generator(0))
    for thought, puzzle in zip(plan.final, puzzles, strict=True):
        assert thought.finish == "answered"
        assert thought.task.grade(thought.text, puzzle).correct
        assert len(thought.steps) == 4
    assert plan.valid is not None and plan.valid.all()


def test_all_moves_are_proposed_and_as_many_as_asked_for():
    thought = start(problem(2, 3, 5, 12).question)
    proposal = LegalMoves().propose([thought], 36, rng=generator(0))
    lines = [action.steps[0].text for action in proposal.actions]
    assert lines == [f"{move.line}\n" for move in operations(numbers_of(thought.question))]
    assert len(lines) == len(set(lines)) == 30
    same = LegalMoves().propose([start(problem(2, 2, 2, 2).question)], 36, rng=generator(0))
    assert [a.steps[0].text for a in same.actions] == [
        "2 + 2 = 4 (left: 2 2 4)\n", "2 - 2 = 0 (left: 0 2 2)\n", "2 / 2 = 1 (left: 1 2 2)\n"
    ]  # fmt: skip
    some = [LegalMoves().propose([thought], 4, rng=generator(seed)) for seed in range(9)]
    drawn = {action.steps[0].text for proposal in some for action in proposal.actions}
    assert len(drawn) > 4 and drawn <= set(lines)


# ------------------------------------------------------------------------- a run on record, played


class Told(ScriptedEngine):
    """Says what is on record, in order, to each prompt."""

    def __init__(self) -> None:
        super().__init__(lambda text: [])
        self.said: dict[str, deque[str]] = defaultdict(deque)

    def generate(self, requests):
        texts = [self.said[self.decode(request.tokens)].popleft() for request in requests]
        tokens = map(self.encode, texts)
        return [Completion(t, "eos", (0.0,) * (len(t) + 1), 0) for t in tokens]


class Once(NamedTuple):
    """A judge to whom the published code shows a candidate once: repeated ones are worth 0."""

    judge: Verdicts
    kind = "potential"
    aggregate = "last"

    def score(self, thoughts: Sequence[Thought], added: Sequence[int]):
        keys = [(thought.question, thought.text) for thought in thoughts]
        place = {key: row for row, key in reversed([*enumerate(keys)])}
        first = [place[key] == row for row, key in enumerate(keys)]
        new = [n * f for n, f in zip(added, first, strict=True)]
        scores, read = self.judge.score(thoughts, new)
        return [score or (0.0,) * n for score, n in zip(scores, added, strict=True)], read


def verdicts(value: float) -> list[str]:
    """The three verdicts whose weights make a value on record."""
    sure, rest = divmod(round(value * 1000), 20_000)
    likely, impossible = divmod(rest, 1000)
    said = ["sure"] * sure + ["likely"] * likely + ["impossible"] * impossible
    return said + ["I do not know"] * (3 - len(said))


class Played(NamedTuple):
    """What the strategy did."""

    selected: list[list[list[str]]]  # per puzzle and step, the texts kept, best first
    chosen: list[str]  # per puzzle


def replay(records: list[dict[str, Any]]) -> Played:
    """Tree of Thoughts on a run on record: our strategy, world, policy and judge; only what the
    language model says is played back."""
    engine, wide = Told(), 1
    questions = [question_of(numbers_of(record["x"])) for record in records]
    for step in range(4):
        for question, record in zip(questions, records, strict=True):
            played, texts = record["steps"][step], []
            for entry in played["expand"]:
                asked = GAME24.ask_steps(question, entry["parent"].strip("\n"))
                engine.said[asked].append("".join(entry["proposals"]))
                texts += [entry["parent"] + line for line in entry["proposals"]]
                wide = max(wide, len(entry["proposals"]))
            seen = set()
            for text, value in zip(texts, played["values"], strict=True):
                if text not in seen:
                    asked = GAME24.ask_value(question, text.strip("\n"))
                    engine.said[asked] += verdicts(value)
                seen.add(text)
    reasoner = Reasoner(
        engine=engine,
        strategy=replace(tree_of_thoughts(width=5, expand=wide, depth=4, unit="list"), merge=False),
        scorer=Once(Verdicts(engine)),
        calculator=False,
        max_tokens=10_000,
        task=GAME24,
        finish=False,
    )
    heard: list[Event] = []
    plan = reasoner.plan(questions, ids=[record["x"] for record in records], listen=heard.append)
    assert not any(engine.said.values()), "all that is on record was asked for"
    tree = plan.trace
    assert isinstance(tree, Tree)
    room = tree.parent.shape[1]
    selected = [
        [
            [tree.states[row * room + node].text for node in event.data["beam"][row].tolist()]
            for event in heard
        ]
        for row in range(len(records))
    ]
    return Played(selected, [thought.text for thought in plan.final])


def flags(record: dict[str, Any], texts: Sequence[str]) -> list[int]:
    puzzle = Problem("p", question_of(numbers_of(record["x"])), "24")
    return [int(bool(GAME24.grade(text, puzzle).correct)) for text in texts]


@pytest.mark.parametrize("file", golden_files("tot_game24_bfs_replay.jsonl"))
def test_the_published_run_replays_through_our_strategy(file: Path) -> None:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    played = replay(records)
    for record, selected in zip(records, played.selected, strict=True):
        assert selected == [step["selected"] for step in record["steps"]], record["idx"]
        assert flags(record, selected[-1]) == record["r"], record["idx"]
    found = [flags(record, kept[-1]) for record, kept in zip(records, played.selected, strict=True)]
    top = sum(flags(r, [text])[0] for r, text in zip(records, played.chosen, strict=True))
    solved, mean = sum(map(any, found)), sum(sum(f) / len(f) for f in found)
    print(f"top-1 {top / 50:.1%}, any of 5 {solved / 50:.1%}, mean of 5 {mean / 50:.1%}")
    assert (top, solved, mean) == (32, 35, pytest.approx(13.6))


@pytest.mark.parametrize("file", golden_files("tot_24.csv"))
def test_the_published_puzzles_are_those_that_can_be_solved(file: Path) -> None:
    test = GAME24.load(data=file)
    assert len(test) == 100 and test[0].id == "game24/901"
    assert numbers_of(test[0].question) == tuple(map(Fraction, (4, 5, 6, 10)))
    train = GAME24.load(data=file, split="train")
    assert len(train) == 900
    assert all(problem.solution for problem in [*test, *train[:200]])


def on_record(x: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"x": x, "steps": list(steps)}


def test_a_small_run_of_our_own_replays() -> None:
    """By hand: ties keep their order, a repeated line is worth nothing, a blank one is a candidate,
    the answer's line comes after 24 alone is left, and of two answers the surer is chosen."""
    a, b = "4 + 8 = 12 (left: 1 2 12)\n", "2 * 4 = 8 (left: 1 8 8)\n"
    c = "8 - 2 = 6 (left: 1 4 6)\n"
    aa, ab = "2 * 12 = 24 (left: 1 24)\n", "2 - 1 = 1 (left: 1 12)\n"
    ca = "4 * 6 = 24 (left: 1 24)\n"
    last = "1 * 24 = 24 (left: 24)\n"
    right, wrong = "Answer: 1 * (4 * (8 - 2)) = 24\n", "Answer: 2 * (4 + 8) = 24\n"
    record = on_record(
        "1 2 4 8",
        {
            "expand": [{"parent": "", "proposals": [b, a, c, "\n", c]}],
            "values": [0.003, 2.001, 2.001, 0.0, 0.0],
        },
        {
            "expand": [
                {"parent": a, "proposals": [ab, aa]},
                {"parent": c, "proposals": [ca]},
                {"parent": b, "proposals": []},
                {"parent": "\n", "proposals": ["nothing\n"]},
                {"parent": c, "proposals": [ca]},
            ],
            "values": [0.002, 40.001, 60.0, 0.0, 0.0],
        },
        {
            "expand": [
                {"parent": c + ca, "proposals": [last]},
                {"parent": a + aa, "proposals": [last]},
                {"parent": a + ab, "proposals": []},
                {"parent": "\nnothing\n", "proposals": []},
                {"parent": c + ca, "proposals": []},
            ],
            "values": [60.0, 60.0],
        },
        {
            "expand": [
                {"parent": c + ca + last, "proposals": [right]},
                {"parent": a + aa + last, "proposals": [wrong]},
            ],
            "values": [60.0, 20.002],
        },
    )
    played = replay([record])
    assert played.selected[0][0] == [a, c, b, "\n", c]
    assert played.selected[0][1][:3] == [c + ca, a + aa, a + ab]
    assert played.selected[0][2][:2] == [c + ca + last, a + aa + last]
    assert played.chosen == [c + ca + last + right]
    assert flags(record, [c + ca + last + right, a + aa + last + wrong]) == [1, 0]


def test_a_list_gives_each_line_once_without_blank_ones() -> None:
    engine = Told()
    puzzle = problem(4, 5, 6, 10)
    asked = GAME24.ask_steps(puzzle.question, "")
    engine.said[asked].append("4 + 5 = 9 (left: 6 9 10)\n\n5 + 6 = 11 (left: 4 10 11)\n"
                              "4 + 5 = 9 (left: 6 9 10)\n5 * 6 = 30 (left: 4 10 30)")  # fmt: skip
    strategy = tree_of_thoughts(width=5, expand=9, depth=1, unit="list")
    reasoner = Reasoner(engine=engine, strategy=strategy, task=GAME24, finish=False)
    tree = reasoner.plan([puzzle.question]).trace
    assert isinstance(tree, Tree)
    texts = [thought.text for thought in tree.states[1 : int(tree.size[0])]]
    assert texts == [
        "4 + 5 = 9 (left: 6 9 10)\n",
        "5 + 6 = 11 (left: 4 10 11)\n",
        "5 * 6 = 30 (left: 4 10 30)\n",
    ]


@pytest.mark.parametrize(
    ("made", "candidates", "finish"),
    [
        (Completion(tuple(map(ord, "a\nb")), "length", (0.0,) * 3, 0), ["a\n"], "open"),
        (Completion(tuple(map(ord, "a\nb")), "eos", (0.0,) * 4, 0), ["a\n", "b\n"], "open"),
        (Completion((), "eos", (0.0,), 0), [""], "cut"),
        (Completion(tuple(map(ord, "a")), "length", (0.0,), 0), [""], "cut"),
        (failure("it broke"), [""], "failed"),
    ],
)
def test_what_is_not_listed_is_no_candidate(made, candidates, finish) -> None:
    class Saying(ScriptedEngine):
        def generate(self, requests):
            return [made] * len(requests)

    failures: Failures = {}
    policy = LanguagePolicy(Saying(lambda text: []), "list", failures=failures)
    state = [Thought(problem(4, 5, 6, 10).question, (1,), task=GAME24)]
    proposal = policy.propose(state, 9, rng=generator(0))
    assert ["".join(s.text for s in action.steps) for action in proposal.actions] == candidates
    moved = TextWorld().step(state, proposal.actions[:1], rng=generator(0))
    assert moved.state[0].finish == finish
    assert failures == ({(1,): "it broke"} if finish == "failed" else {})


def test_a_model_that_writes_solutions_is_asked_for_them_and_graded() -> None:
    engine = ScriptedEngine(lambda text: [(SOLVED + "\0", 1.0), ("Answer: 4 + 5 = 24\n\0", 1.0)])
    puzzle = problem(4, 5, 6, 10)
    reasoner = Reasoner(engine=engine, strategy=best_of_n(n=9), calculator=True, task=GAME24)
    (answer,) = reasoner([puzzle.question])
    assert answer.text == SOLVED and answer.answer == "10 + 4 * 5 - 6"
    prompt = engine.decode(reasoner.encode(puzzle.question))
    assert GAME24.instruction in prompt and puzzle.question in prompt
