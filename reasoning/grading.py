r"""Three graders of final answers, which differ on purpose: report each one by its name.

``strict`` and ``flexible`` are the two filters of the lm-evaluation-harness' ``gsm8k`` task (file
``lm_eval/tasks/gsm8k/gsm8k.yaml``), quirks included: ``flexible`` extracts ``...`` from "18 eggs
..." . ``numeric`` compares numbers: 18 = 18.0 = $18, 1,000 = 1e3 and 1/2 = 0.5 = 50%.

An answer that cannot be extracted is ``None``; it is never taken for 0, and never for correct.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from reasoning.arithmetic import evaluate

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = tuple(re.compile(p) for p in (r",", r"\$", r"(?s).*#### ", r"\.$"))
_NUMBER = re.compile(
    r"(?<![\w.)])(?P<sign>[-+−]\s?)?(?P<currency>[$€£₹]\s?)?(?P<inner>[-−])?"
    r"(?:(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<part>\.\d+)?|(?P<bare>\.\d+))"
    r"(?P<power>[eE][-+]?\d{1,3}(?!\w))?(?P<under>\s?/\s?\d+(?![\w.]))?(?P<percent>\s?%)?"
)
_WRITTEN = (  # and how it is read, since it says nothing of a number's size
    (re.compile(r"(?<!\w)(?:\*\*|__)|(?:\*\*|__)(?!\w)|\^\{?\\circ\}?"), ""),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|textbf|mbox)\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\\boxed\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,;! ()\[\]]"), " "),
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
# What makes a number part of something larger: an operator, a bracket or a variable. A letter that
# is a unit ("5 m"), and an article ("5 a day"), are none.
_VARIABLE = r"(?![mghslLAVWJNKCF](?!\w)|[aA]\s)[^\W\d_](?!\w)"
_BEFORE = re.compile(r"(?:[-−+*/^<>\\({\[±×÷√]|(?<!\w)[^\W\d_])\s*$|\\[a-zA-Z]+\s*$")
_AFTER = re.compile(
    rf"\.\d|[_{{\[]|\s*[+*^=<>\\±×÷]|\s*\((?!\s*[^\W\d_]{{2}})|\s*(?:[-/]\s*)?{_VARIABLE}"
)
_BELOW = r"(?:[^\w\n]*\n)*(.*)"  # the rest of the line, or the first line below that says something
_HASHES = re.compile(f"####{_BELOW}")
_ANSWER_IS = re.compile(rf"(?i)answer is\b(?![\s*_]+not\b):?{_BELOW}")
_NAME = re.compile(r"[^\d+*/^<>≤≥≠!\\-]*")
_DIGITS = 1000  # of the longest number that is read
BOX = r"\boxed{"


class Grade(NamedTuple):
    """Outcome of grading one text.

    Fields:
        extracted: the answer as found in the text; None when there is none.
        correct: whether it equals the reference; None when nothing was extracted, or when that was
            not found out.
        reason: why it was not found out.
    """

    extracted: str | None
    correct: bool | None
    reason: str = ""


def extract_strict(text: str) -> str | None:
    """Number after the first ``####``, as written; None without one."""
    match = _STRICT.search(text)
    return None if match is None else match[1]


def extract_flexible(text: str) -> str | None:
    """Last thing that looks like a number to the harness's pattern; None without one."""
    groups = [first or second for first, second in _FLEXIBLE.findall(text)]
    return groups[-1].strip() if groups else None


def extract_numeric(text: str) -> str | None:
    """Final number, its sign, point, power of ten, denominator and ``%`` kept, commas and currency
    dropped.

    Read after the first ``####`` of the text if there is one, else in the last ``\\boxed{}`` or
    after the last "answer is" that no "not" follows, on that line, or below where nothing is said
    there, in the first sentence with a digit, which must hold `one_number`; without any of these it
    is the last number of the text.
    """
    said = _marked(text)
    if said is not None:
        return one_number(next(filter(re.compile(r"\d").search, _SENTENCE.split(said)), ""))
    numbers = list(_NUMBER.finditer(text))
    return _plain(numbers[-1]) if numbers else None


def _marked(text: str) -> str | None:
    """What a text marks as its answer; None where nothing is marked."""
    if found := _HASHES.search(text):
        return found[1]
    last = boxed(text)
    if last is None:
        return next(iter(_ANSWER_IS.findall(text)[-1:]), None)
    before = boxed(text[: text.rfind(BOX)].rpartition("\n")[2])  # in the same line
    return last if before in (None, last) else f"{before} or {last}"


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{}`` whose braces close; None without one."""
    start = text.rfind(BOX)
    while start >= 0:
        depth, escaped = 0, False
        for at in range(start + len(BOX) - 1, len(text)):
            sign = text[at]
            if not escaped and sign in "{}":
                depth += 1 if sign == "{" else -1
            if depth == 0:
                return text[start + len(BOX) : at].strip() or None
            escaped = sign == "\\" and not escaped
        start = text.rfind(BOX, 0, start)
    return None


def one_number(text: str) -> str | None:
    """The one number that a text says, as `extract_numeric` gives it; None where it says none,
    several ("3 or 4"), or something that a number is part of ("2^10", "7x").

    Words and units may stand around it: "5 red apples", "x = 5", "$5 a day", and a calculation
    before it: "20 - 2 = 18 eggs".
    """
    for written, read in _WRITTEN:
        text = written.sub(read, text)
    text = _behind_calculations(text).lstrip(" \t\n*_`\"'(").rstrip(" \t\n*_`\"'.!?,;:)")
    numbers = list(_NUMBER.finditer(text))
    digits = sum(len(re.findall(r"\d", number[0])) for number in numbers)
    if len(numbers) != 1 or digits < len(re.findall(r"\d", text)):
        return None
    (number,) = numbers
    if _BEFORE.search(text[: number.start()]) or _AFTER.match(text[number.end() :]):
        return None
    return _plain(number)


def _behind_calculations(text: str) -> str:
    """What "18 eggs" is in "x = 3 * 6 = 18 eggs"; the whole text where it is no such equation."""
    *sides, said = text.split("=")
    if sides and _NAME.fullmatch(sides[0]):
        del sides[0]
    return said if sides and all(map(_is_calculation, sides)) else text


def _is_calculation(text: str) -> bool:
    """Whether it is arithmetic with two numbers or more."""
    return len(re.findall(r"[\d.,]+", text)) > 1 and evaluate(text) is not None


def _plain(match: re.Match[str]) -> str | None:
    """A number in plain digits; None for a division by zero, and for one of too many digits."""
    part = {name: found or "" for name, found in match.groupdict().items()}
    under = part["under"].replace(" ", "")
    if len(match[0]) > _DIGITS or (under and not under.strip("/0")):
        return None
    sign = "" if part["sign"].strip() in ("", "+") and not part["inner"] else "-"
    whole = (part["whole"] or "0").replace(",", "") + (part["part"] or part["bare"])
    return sign + whole + part["power"] + under + part["percent"].strip()


def _same_string(extracted: str, reference: str) -> bool:
    """The harness's ``exact_match``: strings after dropping commas, ``$`` and a final point."""
    for pattern in _IGNORED:
        extracted, reference = pattern.sub("", extracted), pattern.sub("", reference)
    return extracted.lower() == reference.lower()


def _same_number(extracted: str, reference: str) -> bool:
    wanted = extract_numeric(reference)
    if wanted is None:
        raise ValueError(f"the reference answer {reference!r} holds no number")
    return same_number(extracted, wanted)


def same_number(one: str, other: str) -> bool:
    """Whether two numbers, as `extract_numeric` gives them, are equal; 50% is both 50 and 0.5."""
    a, b = (_value(number.removesuffix("%")) for number in (one, other))
    shares = one.endswith("%"), other.endswith("%")
    if shares[0] == shares[1]:
        return a == b
    share, number = (a, b) if shares[0] else (b, a)
    return number in (share, share / 100)


def _value(number: str) -> Fraction:
    """Exact value of a number that is no percentage; above its denominator there may be a point."""
    over, _, under = number.partition("/")
    return Fraction(over) / int(under or 1)


def shortest(number: str) -> str:
    """One spelling for each number, exactly: ``18.0`` becomes ``18``, ``1/2`` ``0.5``, ``1e3``
    ``1000``; ``2/6``, which has no last decimal, ``1/3``. A percentage keeps its sign."""
    plain = number.removesuffix("%")
    value, percent = _value(plain), number[len(plain) :]
    under = value.denominator
    places = next((n for n in range(under.bit_length() + 1) if 10**n % under == 0), None)
    if places is None:
        return f"{value}{percent}"
    digits = str(abs(value.numerator) * 10**places // under).rjust(places + 1, "0")
    cut = len(digits) - places
    point = f".{digits[cut:]}" if places else ""
    return f"{'-' if value < 0 else ''}{digits[:cut]}{point}{percent}"


def unshared(answers: Sequence[str | None]) -> list[str | None]:
    """Answers with each percentage as the number that it stands for where another answer says that:
    50% as 50, or as 0.5."""
    known = set(answers)
    spelt: list[str | None] = []
    for answer in answers:
        said = None if answer is None or not re.fullmatch(r"-?[\d.]+%", answer) else answer[:-1]
        others = [] if said is None else [said, shortest(f"{said}e-2")]
        spelt.append(next((other for other in others if other in known), answer))
    return spelt


class Grader(NamedTuple):
    """A way to extract an answer and a way to compare it."""

    name: str
    extract: Callable[[str], str | None]
    same: Callable[[str, str], bool]

    def __call__(self, text: str, reference: str) -> Grade:
        """Grade ``text`` against the final answer ``reference``."""
        extracted = self.extract(text)
        return Grade(extracted, None if extracted is None else self.same(extracted, reference))


GRADERS = {
    grader.name: grader
    for grader in (
        Grader("strict", extract_strict, _same_string),
        Grader("flexible", extract_flexible, _same_string),
        Grader("numeric", extract_numeric, _same_number),
    )
}
