"""The Game of 24: make 24 of four numbers (the first task of Tree of Thoughts, Yao et al. 2023).

A solution is three operations and the whole expression, a line each:

    4 * 5 = 20 (left: 6 10 20)
    10 - 6 = 4 (left: 4 20)
    4 + 20 = 24 (left: 24)
    Answer: 4 * 5 + (10 - 6) = 24

All arithmetic is exact, in rational numbers.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement, islice
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple

from reasoning.arithmetic import evaluate, parsed, typed
from reasoning.tasks.files import Source, distinct, load_records, name_of, text_of
from reasoning.tasks.types import Problem, Task, check_apart, check_limit

TARGET = Fraction(24)
HIGHEST = 13  # of the numbers of a generated puzzle, as on cards
TESTED = range(901, 1001)
"""Ranks of the published list that the paper tests on."""
SOURCE = Source("Game of 24")

Numbers = tuple[Fraction, ...]
"""Numbers left, rising."""

_NUMBER = r"-?\d+(?:\.\d+)?(?:/\d+)?"
_LINE = re.compile(
    rf"\(?({_NUMBER})\)?\s*([-+*/])\s*\(?({_NUMBER})\)?\s*=\s*\(?({_NUMBER})\)?\s*"
    r"\(left:([^)]*)\)"
)
_ANSWER = re.compile(r"(?i)answer:[\s*_]*(.*)")
_PUZZLE = re.compile(r"\d+(?:\s+\d+){3}")


class Operation(NamedTuple):
    """One move: two of the numbers become one."""

    text: str  # "a op b"
    result: Fraction
    left: Numbers

    @property
    def line(self) -> str:
        """As a step of a solution."""
        left = " ".join(map(str, self.left))
        return f"{self.text} = {self.result} (left: {left})"


def operations(numbers: Numbers) -> list[Operation]:
    """All moves that differ in what is left, in a fixed order.

    A difference is taken from the larger number: whatever positive number can be made at all can be
    made without negative ones.
    """
    found: dict[Numbers, Operation] = {}
    for i, j in combinations(range(len(numbers)), 2):
        small, large = sorted((numbers[i], numbers[j]))
        others = [n for k, n in enumerate(numbers) if k not in (i, j)]
        moves = [(small, "+", large), (large, "-", small), (small, "*", large)]
        moves += [(large, "/", small)] if small else []
        moves += [(small, "/", large)] if large else []
        for a, sign, b in moves:
            result = _apply(a, sign, b)
            left = tuple(sorted([*others, result]))
            found.setdefault(left, Operation(f"{a} {sign} {b}", result, left))
    return list(found.values())


def _apply(a: Fraction, sign: str, b: Fraction) -> Fraction:
    if sign == "/":
        return a / b
    return a + b if sign == "+" else a - b if sign == "-" else a * b


@cache
def solvable(numbers: Numbers, target: Fraction = TARGET) -> bool:
    """Whether the numbers, each used once, can make `target` (not negative)."""
    if len(numbers) == 1:
        return numbers[0] == target
    if len(numbers) == 2:
        small, large = numbers
        made = (small + large, large - small, small * large)
        return target in made or _divides(small, large, target) or _divides(large, small, target)
    return any(solvable(operation.left, target) for operation in operations(numbers))


def _divides(a: Fraction, b: Fraction, result: Fraction) -> bool:
    return a != 0 and result * a == b


def solve(numbers: Numbers) -> list[Operation] | None:
    """The moves of a solution; None where there is none."""
    if len(numbers) == 1:
        return [] if numbers[0] == TARGET else None
    for operation in operations(numbers):
        if solvable(operation.left):
            return [operation, *(solve(operation.left) or [])]
    return None


def expression_of(numbers: Numbers, moves: Sequence[Operation]) -> str:
    """The moves as one expression."""
    made = [(number, str(number)) for number in numbers]
    for move in moves:
        first, sign, second = move.text.split()
        a, b = _taken(made, Fraction(first)), _taken(made, Fraction(second))
        made.append((move.result, f"({a} {sign} {b})"))
    return made[-1][1][1:-1]


def _taken(made: list[tuple[Fraction, str]], number: Fraction) -> str:
    at = next(i for i, (value, _) in enumerate(made) if value == number)
    return made.pop(at)[1]


def numbers_of(text: str) -> Numbers:
    """The four numbers of a puzzle, or of the question that asks for it.

    Raises ValueError where there are no four numbers.
    """
    found = _PUZZLE.search(text)
    if found is None:
        raise ValueError(f"{text!r} holds no four numbers in a row")
    return tuple(sorted(map(Fraction, found[0].split())))


def question_of(numbers: Numbers) -> str:
    """How a puzzle is put."""
    shown = " ".join(map(str, numbers))
    return f"Make 24 of the numbers {shown}, each used once, with + - * / and parentheses."


def solution_of(numbers: Numbers) -> tuple[str, ...]:
    """The lines of a solution without the answer's; none where there is no solution."""
    return tuple(move.line for move in solve(numbers) or [])


class Walk(NamedTuple):
    """What the lines of a solution so far come to."""

    left: Numbers
    legal: bool  # no line that can be read breaks a rule


def walk(question: str, lines: Sequence[str]) -> Walk:
    """Follow the operations of a solution so far, exactly.

    Broken is the rule by an operation on numbers that are not left, with a wrong result, or that
    tells wrongly what is left, and by an answer whose equation does not hold. Rounded results are
    wrong ones. A line that is neither is not judged, nor is an equation that cannot be read.
    """
    left, legal = numbers_of(question), True
    for line in lines:
        if answer := _ANSWER.search(line):
            values = {evaluate(side) for side in _sides(answer[1])} - {None}
            legal = legal and len(values) < 2
        elif move := _LINE.search(typed(line)):
            after = _moved(left, *move.groups())
            left, legal = (left, False) if after is None else (after, legal)
    return Walk(left, legal)


def _sides(answer: str) -> list[str]:
    """What an answer's signs of equality part, without emphasis and final points and commas."""
    return [_plain(side) for side in typed(answer).split("=")]


def _plain(text: str) -> str:
    return text.strip(" *_").rstrip(".,;").strip(" *_")


def _moved(numbers: Numbers, a: str, sign: str, b: str, result: str, left: str) -> Numbers | None:
    """The numbers left after an operation; None where it is not legal."""
    others = list(numbers)
    try:
        first, second, made = Fraction(a), Fraction(b), Fraction(result)
        others.remove(first)
        others.remove(second)
        after = tuple(sorted([*others, made]))
        right = made == _apply(first, sign, second) and _told(left) == after
        return after if right else None
    except (ValueError, ZeroDivisionError):
        return None


def moves_of(lines: Sequence[str]) -> list[Operation]:
    """The operations that lines tell; other lines are left out."""
    moves = []
    for line in lines:
        if found := _LINE.search(typed(line)):
            a, sign, b, result, left = found.groups()
            with suppress(ValueError, ZeroDivisionError):  # what are no numbers
                Fraction(a), Fraction(b)
                moves.append(Operation(f"{a} {sign} {b}", Fraction(result), _told(left)))
    return moves


def _told(left: str) -> Numbers:
    return tuple(sorted(Fraction(n.strip("()")) for n in left.replace(",", " ").split()))


def canonical(expression: str) -> str | None:
    """An expression with sums and products in a fixed order; None where it cannot be read."""
    tree = parsed(expression)
    return None if tree is None or evaluate(expression) is None else _sum_of(tree)


def _sum_of(node: ast.expr) -> str:
    terms = sorted(_terms(node, False))
    text = " ".join(f"{'-' if minus else '+'} {term}" for minus, term in terms)
    return text.removeprefix("+ ")


def _terms(node: ast.expr, minus: bool) -> Iterator[tuple[bool, str]]:
    if isinstance(node, ast.UnaryOp):
        yield from _terms(node.operand, not minus)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from _terms(node.left, minus)
        yield from _terms(node.right, minus != isinstance(node.op, ast.Sub))
    else:
        factors = sorted(_factors(node, False))
        text = " ".join(f"{'/' if under else '*'} {factor}" for under, factor in factors)
        yield minus, text.removeprefix("* ")


def _factors(node: ast.expr, under: bool) -> Iterator[tuple[bool, str]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        yield from _factors(node.left, under)
        yield from _factors(node.right, under != isinstance(node.op, ast.Div))
    elif isinstance(node, ast.Constant):
        yield under, str(node.value)
    else:
        yield under, f"({_sum_of(node)})"


@dataclass(frozen=True)
class Game24(Task):
    """Puzzles of the published list, of a file, or made here.

    Right is an expression that uses the four numbers once each and equals 24 exactly; it is what a
    solution votes for, with sums and products in a fixed order.
    """

    name: ClassVar[str] = "game24"
    closing: ClassVar[str] = "Answer:"
    instruction: ClassVar[str] = (
        "Combine two of the numbers in each step, and write the step and the numbers that are left "
        "as in '4 * 5 = 20 (left: 6 10 20)'. When only 24 is left, end with one line "
        "'Answer: <the whole expression> = 24'."
    )

    def load(
        self,
        *,
        data: str | Path | None = None,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """See `Task`.

        Args:
            data: a CSV file with a column Puzzles; where there is a column Rank, `test` are the
                ranks 901 to 1000, as in the paper, and `train` those before. A JSONL file, or a
                folder of such, with a field puzzle. None: solvable puzzles of numbers from 1 to 13
                in an order drawn by `seed`; a fifth of them are `test`, and 100 are the default.
        """
        if split not in SOURCE.splits:
            raise ValueError(f"split must be one of {', '.join(SOURCE.splits)}, not {split!r}")
        check_limit(limit)
        if data is None:
            puzzles = generated_puzzles(split, 100 if limit is None else limit, seed)
            return [_problem(f"{split}/{_id(numbers)}", numbers) for numbers in puzzles]
        if Path(data).suffix == ".csv":
            return _read_csv(Path(data), split, limit)

        def parse(record: dict[str, Any], where: str, number: int) -> Problem:
            name = name_of(record, "id", split, number)
            return _checked(name, text_of(record, "puzzle", where), where)

        return load_records(SOURCE, data, split, limit, parse)

    def answer(self, text: str) -> str | None:
        """See `Task`: the expression of the last answer line.

        What stands before the sign of equality counts, and as in the paper not what it is said to
        make; of `24 = 4 * 6` it is what stands behind.
        """
        found = _ANSWER.findall(text)
        if not found:
            return None
        sides = _sides(found[-1])
        return canonical(next((side for side in sides if side != "24"), "24"))

    def same(self, answer: str, problem: Problem) -> bool:
        """See `Task`: uses the puzzle's numbers once each and equals 24."""
        used = sorted(map(Fraction, re.findall(r"\d+(?:\.\d+)?", answer)))
        return tuple(used) == numbers_of(problem.question) and evaluate(answer) == TARGET

    def write(self, problem: Problem) -> str:
        """See `Task`. Raises ValueError where 24 cannot be made."""
        numbers = numbers_of(problem.question)
        moves = solve(numbers)
        if moves is None:
            raise ValueError(f"{problem.id} has no solution: 24 cannot be made of {_id(numbers)}")
        expression = expression_of(numbers, moves)
        return "\n".join((*problem.solution, f"{self.closing} {expression} = 24"))

    def examples(
        self, data: str | Path | None = None, shots_data: str | Path | None = None
    ) -> list[Problem]:
        """See `Task`: by default puzzles made here, so that `data` is left alone."""
        check_apart(data, shots_data)
        return self.load(data=shots_data, split="train")

    def refuted(self, question: str, lines: Sequence[str]) -> bool:
        """See `Task`: whether a line is no legal operation on the numbers left, see `walk`."""
        return not walk(question, lines).legal

    def ask_steps(self, question: str, solution: str) -> str:
        """See `Task`: next operations, or the answer's line once 24 alone is left."""
        left = _said_left(question, solution)
        if left == "24":
            return (
                f"{question}\nThese steps do it:\n{solution}\n"
                "Put them together into one expression that uses the numbers of the task, and "
                "write just the line 'Answer: <expression> = 24'.\n"
            )
        return (
            "In a number game one step joins two numbers by + - * or / and puts the result in "
            "their place. For example, from 3 5 9 some of the possible steps are\n"
            "3 + 5 = 8 (left: 8 9)\n9 / 3 = 3 (left: 3 5)\n9 - 5 = 4 (left: 3 4)\n"
            "5 * 9 = 45 (left: 3 45)\n"
            f"The task: {question}\nSteps so far:\n{solution}\n"
            f"Write possible steps from {left}, one per line in this form, and nothing else.\n"
        )

    def ask_value(self, question: str, solution: str) -> str:
        """See `Task`: whether the numbers left can reach 24, or the answer is right."""
        lines = solution.strip().split("\n")
        if self.closing in lines[-1]:
            return (
                f"{question}\nProposed is this:\n{lines[-1]}\n"
                "Does it use each number once, and no other, and does it make 24? Check it, then "
                "write on the last line sure if it is right and impossible if not.\n"
            )
        return (
            "Can these numbers, each used once, make 24 with + - * / and parentheses?\n"
            f"{_said_left(question, solution)}\n"
            "Try some ways. Then write one word on the last line: sure if 24 is reached, likely if "
            "the numbers are of a size that may reach it, impossible if they are too small or too "
            "large.\n"
        )


def _said_left(question: str, solution: str) -> str:
    """The numbers that the last line says are left."""
    found = re.findall(r"\(?left:([^)]*)", solution)
    return found[-1].strip() if found else " ".join(map(str, numbers_of(question)))


def generated_puzzles(split: str, num: int, seed: int = 0) -> list[Numbers]:
    """At most `num` different solvable puzzles of a split in an order drawn by `seed`."""
    cards = map(Fraction, range(1, HIGHEST + 1))
    puzzles = list(combinations_with_replacement(cards, 4))
    Random("split").shuffle(puzzles)
    fifth = len(puzzles) // 5
    mine = puzzles[:fifth] if split == "test" else puzzles[fifth:]
    Random(f"{seed}/{split}").shuffle(mine)
    return list(islice(filter(solvable, mine), num))


def _problem(name: str, numbers: Numbers) -> Problem:
    return Problem(f"game24/{name}", question_of(numbers), "24", solution_of(numbers))


def _id(numbers: Numbers) -> str:
    return "-".join(map(str, numbers))


def _checked(name: str, puzzle: str, where: str) -> Problem:
    if not _PUZZLE.fullmatch(puzzle.strip()):
        raise ValueError(f"{where}: {puzzle!r} is no puzzle of four whole numbers.")
    return _problem(name, numbers_of(puzzle))


def _read_csv(path: Path, split: str, limit: int | None) -> list[Problem]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no Game of 24 file at {path}.")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "Puzzles" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}, line 1: there is no column Puzzles.")
        rows = [(reader.line_num, row) for row in reader]
    if rows and "Rank" in rows[0][1]:
        wanted = TESTED if split == "test" else range(1, TESTED.start)
        rows = [(n, row) for n, row in rows if _rank(row, f"{path}, line {n}") in wanted]
    if not rows:
        raise ValueError(f"{path} holds no {split} puzzles.")
    return distinct(
        (where, _checked(name_of(row, "Rank", split, number), row["Puzzles"] or "", where))
        for number, (n, row) in enumerate(rows[:limit])
        for where in [f"{path}, line {n}"]
    )


def _rank(row: dict[str, str], where: str) -> int:
    if not (row["Rank"] or "").isdigit():
        raise ValueError(f"{where}: the rank {row['Rank']!r} is no whole number.")
    return int(row["Rank"])


GAME24 = Game24()
