"""New problems from GSM8K's training split: the same text with other numbers.

A problem's ``<<expression=result>>`` annotations say how its numbers depend on each other. Numbers
of the question are drawn again, every annotation is evaluated anew in order, and the new values
replace the old ones in question and solution. Problems where this cannot be done consistently
are left out.
"""

import re
from fractions import Fraction
from random import Random

from reasoning.arithmetic import ANNOTATION, evaluate
from reasoning.tasks.types import Problem
from reasoning.tasks.words import GSM8K

_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?|(?<=[=>$])\.\d+")


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def _show(value: Fraction) -> str | None:
    """Decimal text of a value with at most two decimals, else None."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.2f}".rstrip("0") if (value * 100).denominator == 1 else None


def redraw(problem: Problem, rng: Random, tries: int = 20) -> Problem | None:
    """The same problem with other numbers, or None when no consistent set is found.

    Args:
        problem: a GSM8K problem with annotated steps.
        rng: source of the new numbers.
        tries: draws before giving up.
    """
    text = GSM8K.write(problem)
    annotations = [(m[1], m[2]) for m in ANNOTATION.finditer(text)]
    try:
        asked = {_number(m[0]) for m in _NUMBER.finditer(problem.question)}
        results = [_number(result) for _, result in annotations]
        answer = _number(problem.answer)
    except ValueError:
        return None
    if not annotations or answer not in results or len(set(results)) < len(results):
        return None
    if any(evaluate(e) != r for (e, _), r in zip(annotations, results, strict=True)):
        return None
    operands = {_number(n) for e, _ in annotations for n in _NUMBER.findall(e)}
    free = sorted(v for v in asked & operands if v.denominator == 1 and v > 2 and v not in results)
    if not free or asked & set(results):
        return None
    fixed = asked - set(free)
    for _ in range(tries):
        values = {v: Fraction(_draw(rng, int(v))) for v in free}
        distinct = len(fixed | set(values.values())) == len(fixed) + len(free)
        if distinct and _propagate(values, annotations, results):
            return _rewrite(problem, values)
    return None


def _draw(rng: Random, value: int) -> int:
    """A number near ``value`` that keeps its roundness."""
    unit = 1
    while value % (unit * 10) == 0 and value > unit * 10:
        unit *= 10
    count = value // unit
    return unit * rng.randint(max(2, count // 2), count + count // 2 + 3)


def _propagate(
    values: dict[Fraction, Fraction], annotations: list[tuple[str, str]], results: list[Fraction]
) -> bool:
    """Evaluate the annotations in order with new numbers, adding old result -> new result.

    False when a new result is not positive, or not as round as the old one.
    """
    for (expression, _), old in zip(annotations, results, strict=True):
        new = evaluate(_substitute(expression, values))
        if new is None or new <= 0 or _show(new) is None:
            return False
        if old.denominator == 1 and new.denominator != 1:
            return False
        values[old] = new
    return True


def _substitute(text: str, values: dict[Fraction, Fraction]) -> str:
    def swap(match: re.Match[str]) -> str:
        new = values.get(_number(match[0]))
        return match[0] if new is None else str(_show(new))

    return _NUMBER.sub(swap, text)


def _rewrite(problem: Problem, values: dict[Fraction, Fraction]) -> Problem:
    return Problem(
        f"{problem.id}/redrawn",
        _substitute(problem.question, values),
        _substitute(problem.answer, values),
        tuple(_substitute(line, values) for line in problem.solution),
    )
