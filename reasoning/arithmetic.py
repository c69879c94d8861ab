"""Exact arithmetic, and the equations that GSM8K's notation puts into solutions."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
"""An expression and its result, for a calculator (Cobbe et al. 2021)."""
_CHARACTERS = re.compile(r"[\d\s.+\-*/()]*", re.ASCII)  # of arithmetic; Python knows more
_RESULT = re.compile(r"[\s$€£*(]*(-?\s*(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?)", re.ASCII)
_ANNOTATED = re.compile(ANNOTATION.pattern + r"(-?[\d.,]*)")


@lru_cache(maxsize=2**16)  # samples of one problem repeat their equations
def evaluate(expression: str) -> Fraction | None:
    """Exact value of an expression of ``+ - * /``, parentheses and decimal numbers.

    None for anything else, including division by zero.
    """
    plain = expression.replace(",", "").strip()
    if not _CHARACTERS.fullmatch(plain):
        return None
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(repr(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("not arithmetic")


def miscalculated(text: str) -> bool:
    """Whether an annotation ``<<expression=result>>number`` of the text does not hold.

    Wrong are a result that is not the expression's value and a number that is not the result. What
    cannot be read as arithmetic is not judged, and neither is text without annotations.
    """
    for expression, result, number in _ANNOTATED.findall(text):
        value, said = evaluate(expression), evaluate(result)
        if value is not None and said is not None and value != said:
            return True
        repeated = evaluate(number.rstrip(".,")) if number.strip(".,-") else None
        if said is not None and repeated is not None and repeated != said:
            return True
    return False


def result_of(line: str) -> Fraction | None:
    """The number behind the last ``=`` of a line, exactly: 12 of ``Ben has <<3*4=12>>12 apples``.

    None where none stands there.
    """
    _, equals, said = line.rpartition("=")
    found = _RESULT.match(said) if equals else None
    return evaluate(found[1].replace(" ", "")) if found else None
