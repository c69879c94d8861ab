"""Exact arithmetic, and the equations that GSM8K's notation puts into solutions."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import isfinite

_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
"""An expression and its result, for a calculator (Cobbe et al. 2021)."""
DEEPEST = 200
"""Levels of the deepest expression that is read; no tree is so deep that it cannot be walked."""
_CHARACTERS = re.compile(r"[\d\s.+\-*/()]*", re.ASCII)  # of arithmetic; Python knows more
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", re.ASCII)
_SIGNS = str.maketrans("×·⋅∙∗÷∕−–", "*****//--")
_LATEX = (
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:left|right)(?=[()])|\\[()\[\],;! ]|\\?[$`]"), " "),
)
_RESULT = re.compile(r"[\s$€£*(]*(-?\s*(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?)", re.ASCII)
_ANNOTATED = re.compile(ANNOTATION.pattern + r"(-?[\d.,]*)")


def typed(text: str) -> str:
    r"""A text with its operators as they are typed, ``×`` and ``\times`` as ``*``, and without what
    sets formulas apart: dollars, backticks and ``\(``."""
    text = text.translate(_SIGNS)
    for written, read in _LATEX:
        text = written.sub(read, text)
    return text


def parsed(expression: str) -> ast.expr | None:
    """The tree of an expression of ``+ - * /``, parentheses and decimal numbers.

    Signs are read as `typed` reads them, and thousands may have commas. None for anything else, and
    for what is nested deeper than DEEPEST.
    """
    plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), typed(expression)).strip()
    if not _CHARACTERS.fullmatch(plain):
        return None
    try:
        tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _is_arithmetic(tree, DEEPEST) else None


def _is_arithmetic(node: ast.expr, depth: int) -> bool:
    """Whether a tree of so many levels at most holds nothing but numbers and the four operators."""
    if isinstance(node, ast.Constant):
        number = node.value
        return type(number) is int or (type(number) is float and isfinite(number))
    if isinstance(node, ast.UnaryOp):
        return bool(depth) and type(node.op) is ast.USub and _is_arithmetic(node.operand, depth - 1)
    if not depth or not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        return False
    return _is_arithmetic(node.left, depth - 1) and _is_arithmetic(node.right, depth - 1)


@lru_cache(maxsize=2**16)  # samples of one problem repeat their equations
def evaluate(expression: str) -> Fraction | None:
    """Exact value of an expression, see `parsed`; None where it is none, or divides by zero."""
    tree = parsed(expression)
    try:
        return None if tree is None else _value(tree)
    except ZeroDivisionError:
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    assert isinstance(node, ast.Constant)
    return Fraction(repr(node.value))


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
