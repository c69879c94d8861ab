r"""Three graders of final answers, which differ on purpose: report each one by its name.

``strict`` and ``flexible`` are the two filters of the lm-evaluation-harness' ``gsm8k`` task (file
``lm_eval/tasks/gsm8k/gsm8k.yaml``), quirks included: ``flexible`` extracts ``...`` from "18 eggs
..." . ``numeric`` compares numbers: 18 = 18.0 = $18 and 1,000 = 1000.

An answer that cannot be extracted is ``None``; it is never taken for 0, and never for correct.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = tuple(re.compile(p) for p in (r",", r"\$", r"(?s).*#### ", r"\.$"))
_NUMBER = re.compile(
    r"(?<![\w.)])(-\s?)?\$?\s?(-)?(\d{1,3}(?:,\d{3})+(?![\d])|\d+)(\.\d+)?|(?<![\w.)])(-)?\$?(\.\d+)"
)
_LEADS = (
    re.compile(r"####(.*)"),
    re.compile(r"\\boxed\{(.*)\}"),
    re.compile(r"(?i)answer is:?(.*)"),
)


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
    """Final number as plain digits (sign and point kept, commas and ``$`` dropped).

    Read after the first ``####`` of the text if there is one (None when no number follows on that
    line), else in the last ``\\boxed{}`` or after the last "answer is", else the last number.
    """
    for lead in _LEADS:
        found = lead.findall(text)
        if found:
            marked = found[0] if lead is _LEADS[0] else found[-1]
            match = _NUMBER.search(marked)
            return None if match is None else _plain(match)
    numbers = list(_NUMBER.finditer(text))
    return _plain(numbers[-1]) if numbers else None


def _plain(match: re.Match[str]) -> str:
    sign = "-" if match[1] or match[2] or match[5] else ""
    return sign + (match[3] or "0").replace(",", "") + (match[4] or match[6] or "")


def _same_string(extracted: str, reference: str) -> bool:
    """The harness's ``exact_match``: strings after dropping commas, ``$`` and a final point."""
    for pattern in _IGNORED:
        extracted, reference = pattern.sub("", extracted), pattern.sub("", reference)
    return extracted.lower() == reference.lower()


def _same_number(extracted: str, reference: str) -> bool:
    wanted = extract_numeric(reference)
    if wanted is None:
        raise ValueError(f"the reference answer {reference!r} holds no number")
    return Fraction(extracted) == Fraction(wanted)


def shortest(number: str) -> str:
    """One spelling for each number, exactly: ``18.0`` and ``18.00`` become ``18``."""
    text = format(Decimal(number), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


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
