"""Graders: agreement with the harness's patterns, and the laws of numeric equality."""

import json
import os
import re
from pathlib import Path

import pytest

from reasoning.grading import (
    GRADERS,
    Grade,
    extract_flexible,
    extract_numeric,
    extract_strict,
    one_number,
    shortest,
)

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[3] / "shared" / "golden"))
TEXTS = [
    "She has 2*9=<<2*9=18>>18 eggs.\n#### 18",
    "#### 1,000",
    "#### 1\n#### 2",
    "####18",
    "#### -3",
    "#### $18",
    "18 eggs...",
    "The answer is 18.",
    "costs $1,234.50, so 7",
    "nothing here",
    "",
    "a - b = -5",
    "18.00",
    "x = 3.",
    "#### 12.5.",
]


@pytest.fixture(scope="module")
def golden():
    path = GOLDEN / "gsm8k_extraction_reference.json"
    if not path.is_file():
        pytest.skip(f"no golden file at {path}")
    return json.loads(path.read_text())


@pytest.mark.parametrize("text", TEXTS)
def test_strict_is_the_harness_pattern(golden, text):
    match = re.findall(golden["strict_match"]["gsm8k"], text)
    assert extract_strict(text) == (match[0] if match else None)


@pytest.mark.parametrize("text", TEXTS)
def test_flexible_is_the_harness_pattern(golden, text):
    matches = re.findall(golden["flexible_extract"]["regex"], text)
    expected = next((g for g in matches[-1] if g), None) if matches else None
    assert extract_flexible(text) == (expected.strip() if expected else None)


@pytest.mark.parametrize("name", ["strict", "flexible"])
@pytest.mark.parametrize("text", TEXTS)
def test_equality_is_the_harness_exact_match(golden, name, text):
    rule = golden["exact_match"]

    def clean(string):
        for pattern in rule["regexes_to_ignore"]:
            string = re.sub(pattern, "", string)
        return string.lower()

    for reference in ("18", "1,000", "12.5", "-3"):
        grade = GRADERS[name](text, reference)
        if grade.extracted is None:
            assert grade.correct is None
        else:
            assert grade.correct == (clean(grade.extracted) == clean(reference))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18 eggs...", "18"),
        ("#### 1,000", "1000"),
        ("#### $18.00", "18.00"),
        ("#### -3", "-3"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("so 5-3=2", "2"),
        ("7 and then 10-4", "4"),
        ("It is \\boxed{42}, not 41", "42"),
        ("The answer is 18. I am 99% sure", "18"),
        ("about .5", ".5".replace(".", "0.")),
        ("1,2", "2"),
        ("#### none", None),
        ("no number", None),
        ("", None),
        ("#### 7\n\nQuestion: 8?\n#### 9", "7"),
        ("#### 1/2", "1/2"),
        ("#### 1e3 bytes", "1e3"),
        ("#### 50%", "50%"),
        ("#### 3 or 4", None),
        ("The answer is 12 or 13.", None),
        ("#### 10-12", None),
        ("#### 1,2", None),
        ("#### **18** eggs (a lot)", "18"),
        ("#### 18/day", "18"),
        ("#### \\frac{1}{2}", None),
        ("so it is 1/2", "1/2"),
    ],
)
def test_numeric_extraction(text, answer):
    assert extract_numeric(text) == answer


SAID = [
    r"#### \boxed{18}",
    r"#### $\boxed{18}$",
    r"#### \(18\)",
    r"#### \[ 18 \]",
    "#### $18$",
    "#### 3*6 = 18 eggs",
    "#### (20 - 2) * 1 = $18",
    "#### $20 - $2 = $18",
    r"#### \(3 \times 6 = 18\)",
    "#### **3 × 6 = 18**",
    "#### Total = 36/2 = 18",
    r"#### 3*6 = \boxed{18}",
    "####\n18",
    "####\n\n$$\n18\n$$",
    "#### 18.00",
    "#### 18%",
    "The answer is 20 - 2 = 18.",
    "The answer is:\n18",
    "The answer is\n\n**18**",
    "The answer is **$18**.",
    r"The final answer is $\boxed{18}$.",
    "Answer: 18",
    "**18**",
    r"\boxed{18}",
    r"\boxed{\text{18 eggs}}",
    r"\boxed{18 \text{ eggs}}",
    r"\boxed{\$18}",
    r"3 + 15 = \boxed{18}, and again \boxed{18}",
    "The answer is not 20.\nIt's 18.",
    "The answer isn't 20. It's 18.",
    "The answer is **not** 20 but 18.",
    "The answer is 18. The answer is not 20.",
]
REFUSED = [
    "#### 12 or 18",
    "#### 17, 18",
    "#### 18 = 3 * 6",
    "#### 20 - 2 = 18 or 6",
    "#### 20 - 2 = 18 = 3",
    "#### 20 = 18",
    "#### x = 5 or x = 18",
    "#### 5, 3 * 6 = 18",
    "#### x < 3 * 6 = 18",
    "#### Day 2: 3 * 6 = 18",
    "#### 36 / 2 = 18 remainder 0",
    "#### 2^9 = 18",
    "#### 9 + 9",
    r"#### \sqrt{\boxed{18}}",
    r"#### 2^\boxed{18}",
    r"\boxed{17} or \boxed{18}",
    "The answer is 18, not 20.",
    "The answer is:\n12 or 18",
    "####",
    "####\nI do not know",
    f"#### {'1' * 5000}",
    f"The last is {'1' * 5000}",
]


@pytest.mark.parametrize("text", SAID)
def test_an_answer_is_read_however_it_is_set(text):
    assert GRADERS["numeric"](text, "18").correct is True
    assert GRADERS["numeric"](text, "20").correct is False


@pytest.mark.parametrize("text", REFUSED)
def test_what_does_not_say_one_number_is_no_answer(text):
    assert GRADERS["numeric"](text, "18") == Grade(None, None)


def test_another_number_is_wrong():
    assert GRADERS["numeric"]("#### -18", "18") == Grade("-18", False)
    assert GRADERS["numeric"]("#### $1,080", "18") == Grade("1080", False)
    assert GRADERS["numeric"]("#### 3*6 = 19", "18") == Grade("19", False)


@pytest.mark.parametrize("text", ["18", "18.0", "18.00", "$18", "18 dollars", "#### 18", "018"])
def test_numeric_equality(text):
    assert GRADERS["numeric"](text, "18") == Grade(extract_numeric(text), True)
    assert GRADERS["numeric"](text, "18.0").correct is True
    assert GRADERS["numeric"](text, "19").correct is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("-$1,234.50.", "-1234.50"),
        ("€ 3", "3"),
        ("5 red apples", "5"),
        ("5kg", "5"),
        ("5 m", "5"),
        ("x = 7", "7"),
        ("Total: 7!", "7"),
        ("5\\text{ cm}", "5"),
        ("5^\\circ", "5"),
        ("1.5e-2", "1.5e-2"),
        ("-3/4", "-3/4"),
        (".5", "0.5"),
        ("+5", "5"),
        ("−5", "-5"),
        ("2+5", None),
        ("(5)", "5"),
        ("50\\%", "50%"),
        ("2^10", None),
        ("2**10", None),
        ("x = 5 or x = 7", None),
        ("3 of 7", None),
        ("7x", None),
        ("7 x", None),
        ("x-7", None),
        ("x < 7", None),
        ("7 + x", None),
        ("\\pm 7", None),
        ("5\\pi", None),
        ("1.234.567", None),
        ("3/4/2024", None),
        ("3:30", None),
        ("1/0", None),
        ("1e9999", None),
        ("seven", None),
        ("", None),
    ],
)
def test_what_one_number_is(text, number):
    assert one_number(text) == number


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1/2", "0.5", True),
        ("1e3", "1,000", True),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("50%", "50%", True),
        ("50%", "5000%", False),
        ("2/6", "1/3", True),
        ("4.5/9", "1/2", True),
        ("1e3/4", "250", True),
        ("1/3", "0.333", False),
    ],
)
def test_numbers_are_equal_however_they_are_written(one, other, same):
    assert GRADERS["numeric"](f"#### {one}", other).correct is same
    assert GRADERS["numeric"](f"#### {other}", one).correct is same


def test_thousands():
    assert GRADERS["numeric"]("1,000", "1000").correct
    assert GRADERS["numeric"]("1000", "1,000").correct


@pytest.mark.parametrize(
    ("number", "short"),
    [
        ("18.00", "18"),
        ("100", "100"),
        ("-0.50", "-0.5"),
        ("-0.0", "0"),
        ("007", "7"),
        ("1/2", "0.5"),
        ("-6/4", "-1.5"),
        ("2/6", "1/3"),
        ("0.01/10", "0.001"),
        ("1e3/4", "250"),
        ("1e3", "1000"),
        ("50.0%", "50%"),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012345"),
        ("0.12345678901234567890123456789012345", "0.12345678901234567890123456789012345"),
    ],
)
def test_the_shortest_spelling_is_exact(number, short):
    assert shortest(number) == short


def test_known_disagreement_of_the_graders():
    text = "She sells 18 eggs..."
    assert GRADERS["flexible"](text, "18") == Grade("...", False)
    assert GRADERS["numeric"](text, "18") == Grade("18", True)
    assert GRADERS["strict"](text, "18") == Grade(None, None)


@pytest.mark.parametrize("name", list(GRADERS))
def test_unparsed_is_not_zero(name):
    assert GRADERS[name]("no number", "0") == Grade(None, None)


def test_reference_without_number_is_an_error():
    with pytest.raises(ValueError, match="no number"):
        GRADERS["numeric"]("3", "three")


@pytest.mark.parametrize("name", list(GRADERS))
def test_a_reference_solution_grades_as_correct(name):
    assert GRADERS[name]("She has <<6*7=42>>42 eggs.\n#### 42", "42").correct is True
