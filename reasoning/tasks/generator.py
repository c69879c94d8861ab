"""Procedural grade-school word problems with known step-by-step solutions.

A story starts from an opener ("Ben has 12 apples."), goes through moves that each change or
compare a quantity ("Anna has twice as many."), and ends in a question. Every move contributes
one or two solution lines in GSM8K's original notation, ``Ben has <<3*4=12>>12 apples.``
(Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems"). Problem ``i`` depends only
on ``(seed, split, i)`` and the range of steps, so any slice can be made again alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import NamedTuple

from reasoning.tasks.templates import (
    COLORS,
    CONTAINERS,
    FRACTIONS,
    NAMES,
    OBJECTS,
    TEMPLATES,
    TIMES,
)
from reasoning.tasks.types import Problem

SPLITS = ("train", "reward", "test")
MAX_STEPS = 10
MAX_VALUE = 199
"""Largest value of any intermediate or final result."""
MAX_AGE = 120
"""Largest age in years."""

_LINE = {
    "have": "{who} has {eq} {thing}.",
    "money": "{who} has {eq} dollars.",
    "cost": "{who} pays {eq} dollars.",
    "dist": "{who} goes {eq} miles.",
    "age": "{who} is {eq} years old.",
}
_KIND_WEIGHTS = {"have": 40, "money": 25, "cost": 13, "dist": 12, "age": 10}
_PREFIX = {"have": "", "money": "m", "dist": "d", "age": "a"}


class Move(NamedTuple):
    """One relation: template ``key``, arithmetic ``op``, its number of solution lines, and what
    it changes: the ``kind`` of quantity afterwards, and whether a new person ``other`` holds it
    ("new": the former holder keeps a known amount; "takes": the former amount is gone)."""

    key: str
    op: str
    steps: int = 1
    kind: str = ""
    other: str = ""


OPENERS: dict[str, tuple[Move, ...]] = {
    "have": (
        Move("have0", "start", 0),
        Move("packs0", "product"),
        Move("rate0", "product"),
        Move("two0", "sum"),
    ),
    "money": (Move("money0", "start", 0), Move("wage0", "product")),
    "cost": (Move("cost0", "product"),),
    "dist": (Move("dist0", "start", 0), Move("speed0", "product")),
    "age": (Move("age0", "start", 0),),
}
MOVES: dict[str, tuple[Move, ...]] = {
    "have": (
        Move("gain", "add"),
        Move("lose", "sub"),
        Move("gainpacks", "addproduct", 2),
        Move("double", "mul"),
        Move("givefrac", "fractionleft", 2),
        Move("percentlose", "percentleft", 2),
        Move("share", "split", other="takes"),
        Move("sell", "price", kind="money"),
        Move("pack", "pack"),
        Move("times", "mul", other="new"),
        Move("more", "add", other="new"),
        Move("fewer", "sub", other="new"),
        Move("frac", "div", other="new"),
    ),
    "money": (
        Move("earn", "add"),
        Move("spend", "sub"),
        Move("buyitems", "subproduct", 2),
        Move("wage", "addproduct", 2),
        Move("mtimes", "mul", other="new"),
        Move("mmore", "add", other="new"),
        Move("mfewer", "sub", other="new"),
        Move("mfrac", "div", other="new"),
        Move("mspendfrac", "fractionleft", 2),
        Move("mpercent", "percentleft", 2),
        Move("msplit", "split", other="takes"),
        Move("mbuyall", "buyall", kind="have"),
    ),
    "cost": (
        Move("costmore", "addproduct", 2),
        Move("fee", "add"),
        Move("coupon", "sub"),
        Move("discount", "percentleft", 2),
        Move("change", "change", kind="money"),
        Move("csplit", "split", other="takes"),
    ),
    "dist": (
        Move("dadd", "add"),
        Move("dspeed", "addproduct", 2),
        Move("dtimes", "mul", other="new"),
        Move("dmore", "add", other="new"),
        Move("dfewer", "sub", other="new"),
        Move("dfrac", "div", other="new"),
    ),
    "age": (
        Move("atimes", "mul", other="new"),
        Move("amore", "add", other="new"),
        Move("afewer", "sub", other="new"),
        Move("afrac", "div", other="new"),
    ),
}


@dataclass
class _Story:
    """State of one story: who holds how much of what, the text and the solution so far."""

    rng: Random
    split: str
    kind: str
    who: str
    thing: str
    value: int = 0
    known: dict[str, int] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def write(self, key: str, **fields: object) -> None:
        """Append a sentence made from a random template of ``key``."""
        self.text.append(_fill(self.rng, _pick(self.rng, key, self.split), fields))

    def step(self, expression: str, result: int, who: str = "", thing: str = "") -> None:
        """Append one solution line for ``expression``."""
        equation = f"<<{expression}={result}>>{result}"
        line = _LINE[self.kind] if who else "That is {eq} {thing}."
        self.lines.append(line.format(who=who, eq=equation, thing=thing or self.thing))

    def unit(self) -> str:
        """Unit of the quantity in the middle of a two-line move."""
        units = {"money": "dollars", "cost": "dollars", "dist": "miles", "age": "years"}
        return units.get(self.kind, self.thing)

    def new_name(self) -> str:
        """A name that the story has not used."""
        return self.rng.choice([n for n in NAMES if n not in self.known and n != self.who])


def wordings(key: str, split: str) -> tuple[str, ...]:
    """The sentence templates of relation ``key`` in ``split``; no two splits share one.

    A language model is nearly always right on the wordings that it was trained on, so its mistakes
    there teach a reward model nothing: the last third of the training wordings is kept from the
    language model and forms the split ``reward``.
    """
    training, test = TEMPLATES[key]
    if split == "test":
        return test
    kept = len(training) - max(1, len(training) // 3)
    return training[:kept] if split == "train" else training[kept:]


def _pick(rng: Random, key: str, split: str) -> str:
    return rng.choice(wordings(key, split))


def _fill(rng: Random, template: str, fields: dict[str, object]) -> str:
    """Choose among ``[x|y]`` alternatives, fill the fields, and capitalise the sentence."""
    chosen = re.sub(r"\[([^]]*)\]", lambda m: rng.choice(m.group(1).split("|")), template)
    sentence = chosen.format(**fields)
    return sentence[0].upper() + sentence[1:]


def _divisors(value: int, low: int, high: int) -> list[int]:
    return [d for d in range(low, min(high, value - 1) + 1) if value % d == 0]


class _Drawn(NamedTuple):
    """Numbers drawn for a move: template fields, then (expression, result) per line."""

    fields: dict[str, object]
    equations: tuple[tuple[str, int], ...]
    thing: str = ""


def _times(rng: Random, value: int) -> _Drawn | None:
    largest = min(9, 120 // max(value, 1))
    if largest < 2:
        return None
    t = rng.randint(2, largest) if rng.random() < 0.6 else rng.randint(2, min(3, largest))
    words = rng.choice(TIMES.get(t, (f"{t} times",)))
    return _Drawn({"T": words}, ((f"{value}*{t}", value * t),))


def _fraction(rng: Random, value: int, left: bool) -> _Drawn | None:
    options = _divisors(value, 2, 5)
    if not options:
        return None
    d = rng.choice(options)
    part = value // d
    steps: tuple[tuple[str, int], ...] = ((f"{value}/{d}", part),)
    if left:
        steps += ((f"{value}-{part}", value - part),)
    return _Drawn({"F": rng.choice(FRACTIONS[d])}, steps)


def _percent(rng: Random, value: int) -> _Drawn | None:
    options = [p for p in (10, 20, 25, 30, 40, 50, 60, 75) if value * p % 100 == 0]
    if not options:
        return None
    p = rng.choice(options)
    part = value * p // 100
    return _Drawn({"p": p}, ((f"{value}*{p}/100", part), (f"{value}-{part}", value - part)))


def _product(rng: Random, value: int, sign: str) -> _Drawn | None:
    k, m = rng.randint(2, 9), rng.randint(2, 9)
    result = value + k * m if sign == "+" else value - k * m
    if not 0 < result <= MAX_VALUE:
        return None
    fields = {"k": k, "m": m, "p": m, "O": rng.choice(OBJECTS)}
    return _Drawn(fields, ((f"{k}*{m}", k * m), (f"{value}{sign}{k * m}", result)))


def _shift(rng: Random, value: int, sign: str) -> _Drawn | None:
    """Add or take a number, half the time a small one."""
    high = min(40, value - 1) if sign == "-" else 40
    if high < 2:
        return None
    k = rng.randint(2, high if rng.random() < 0.5 else min(high, 12))
    result = value + k if sign == "+" else value - k
    return _Drawn({"k": k}, ((f"{value}{sign}{k}", result),)) if result <= MAX_VALUE else None


def _divide(rng: Random, value: int, field_name: str, thing: str = "") -> _Drawn | None:
    options = _divisors(value, 2, 9)
    if not options:
        return None
    d = rng.choice(options)
    return _Drawn({field_name: d}, ((f"{value}/{d}", value // d),), thing)


def _price(rng: Random, value: int) -> _Drawn | None:
    if value > 12:
        return None
    p = rng.randint(2, 9)
    return _Drawn({"p": p}, ((f"{value}*{p}", value * p),))


def _pay(rng: Random, value: int) -> _Drawn | None:
    options = [n for n in (20, 30, 50, 100, 150) if value < n <= value + 100]
    if not options:
        return None
    n = rng.choice(options)
    return _Drawn({"n": n}, ((f"{n}-{value}", n - value),))


_OPS: dict[str, Callable[[Random, int], _Drawn | None]] = {
    "add": lambda rng, v: _shift(rng, v, "+"),
    "sub": lambda rng, v: _shift(rng, v, "-"),
    "mul": _times,
    "div": lambda rng, v: _fraction(rng, v, left=False),
    "fractionleft": lambda rng, v: _fraction(rng, v, left=True),
    "percentleft": _percent,
    "addproduct": lambda rng, v: _product(rng, v, "+"),
    "subproduct": lambda rng, v: _product(rng, v, "-"),
    "split": lambda rng, v: _divide(rng, v, "k"),
    "price": _price,
    "pack": lambda rng, v: _divide(rng, v, "k", rng.choice(CONTAINERS)),
    "buyall": lambda rng, v: _divide(rng, v, "p", rng.choice(OBJECTS)),
    "change": _pay,
}


def _open(story: _Story, move: Move) -> None:
    """Write the opener and set the first value."""
    rng = story.rng
    fields: dict[str, object] = {"A": story.who, "O": story.thing, "C": rng.choice(CONTAINERS)}
    if move.op == "start":
        low, high = (4, 40) if story.kind != "money" else (10, 60)
        story.value = rng.randint(low, high)
        fields["n"] = story.value
    elif move.op == "sum":
        a, b = rng.randint(3, 40), rng.randint(3, 40)
        fields["X"], fields["Y"] = rng.sample(COLORS, 2)
        story.value = a + b
        fields.update(a=a, b=b)
        story.step(f"{a}+{b}", story.value, story.who)
    else:
        k, m = rng.randint(2, 9), rng.randint(2, 10)
        story.value = k * m
        fields.update(k=k, m=m, p=m)
        story.step(f"{k}*{m}", story.value, story.who)
    story.known[story.who] = story.value
    story.write(move.key, **fields)


def _advance(story: _Story, move: Move) -> bool:
    """Apply one move; False, with the story unchanged, when its numbers cannot work out."""
    rng = story.rng
    drawn = _OPS[move.op](rng, story.value)
    if drawn is None:
        return False
    other = story.new_name() if move.other else ""
    fields: dict[str, object] = {"A": story.who, "B": other, "O": story.thing}
    if drawn.thing:
        fields["C" if move.op == "pack" else "O"] = drawn.thing
    if "C" not in fields:
        fields["C"] = rng.choice(CONTAINERS)
    story.write(move.key, **(fields | _keep_thing(move, drawn.fields)))
    middle = drawn.equations[:-1]
    for expression, result in middle:
        story.step(expression, result, thing=story.unit())
    story.kind = move.kind or story.kind
    story.thing = drawn.thing or story.thing
    if move.other == "takes" or move.kind or move.op == "pack":
        story.known.clear()
    story.who = other or story.who
    expression, story.value = drawn.equations[-1]
    story.step(expression, story.value, story.who)
    story.known[story.who] = story.value
    return True


def _keep_thing(move: Move, fields: dict[str, object]) -> dict[str, object]:
    """Packs hold the story's own things; purchases bring other things."""
    return {k: v for k, v in fields.items() if not (k == "O" and move.key == "gainpacks")}


def _ask(story: _Story, extra: bool) -> bool:
    """Write the question; with ``extra`` one that needs one more solution line."""
    if not extra:
        story.write(f"q_{story.kind}", A=story.who, O=story.thing)
        return True
    options = ["total", "diff"] if len(story.known) > 1 else []
    options += {"have": ["need"], "money": ["need"], "age": ["future"]}.get(story.kind, [])
    if not options:
        return False
    choice = story.rng.choice(options)
    if choice in ("need", "future"):
        return _ask_beyond(story, choice)
    return _ask_people(story, choice)


def _ask_beyond(story: _Story, choice: str) -> bool:
    """Questions about a larger number: how many are missing, or an age in the future."""
    gap = story.rng.randint(2, 30)
    target = story.value + gap
    if target > MAX_VALUE:
        return False
    if choice == "future":
        story.write("q_future", A=story.who, k=gap)
        story.step(f"{story.value}+{gap}", target, story.who)
        story.value = target
        return True
    key = "q_need" if story.kind == "have" else "q_mneed"
    story.write(key, A=story.who, O=story.thing, n=target)
    story.kind, story.thing = "have", story.thing if story.kind == "have" else "dollars"
    story.step(f"{target}-{story.value}", gap)
    story.value = gap
    return True


def _ask_people(story: _Story, choice: str) -> bool:
    """Questions about several people: their total, or the difference between two."""
    prefix = _PREFIX[story.kind]
    people = list(story.known)
    if choice == "total":
        people = people[-3:]
        names = ", ".join(people[:-1]) + " and " + people[-1]
        values = [story.known[p] for p in people]
        expression, story.value = "+".join(map(str, values)), sum(values)
        story.write(f"q_{prefix}total", P=names, O=story.thing)
    else:
        low, high = sorted(story.rng.sample(people, 2), key=story.known.__getitem__)
        a, b = story.known[high], story.known[low]
        expression, story.value = f"{a}-{b}", a - b
        story.write(f"q_{prefix}diff", A=high, B=low, O=story.thing)
    story.step(expression, story.value, thing=story.unit())
    return 0 < story.value <= MAX_VALUE


def _attempt(rng: Random, split: str, steps: int) -> _Story | None:
    """One try at a story with exactly ``steps`` solution lines."""
    kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
    story = _Story(rng, split, kind, rng.choice(NAMES), rng.choice(OBJECTS))
    openers = [m for m in OPENERS[kind] if m.steps <= steps]
    if not openers:
        return None
    _open(story, rng.choice(openers))
    extra = rng.random() < 0.4
    while (left := steps - len(story.lines) - extra) > 0:
        moves = [m for m in MOVES[story.kind] if m.steps <= left]
        if not any(_advance(story, rng.choice(moves)) for _ in range(4)):
            return None
        if story.kind == "age" and story.value > MAX_AGE:
            return None
    if left < 0:
        return None
    if rng.random() < 0.12:
        where = rng.randint(1, len(story.text))
        story.write("distract", A=story.who, n=rng.randint(2, 60))
        story.text.insert(where, story.text.pop())
    return story if _ask(story, extra) else None


def generate_problem(
    split: str, index: int, steps: tuple[int, int] = (2, 5), seed: int = 0
) -> Problem:
    """Problem ``index`` of the stream ``(seed, split)``.

    Args:
        split: ``train`` (for language models), ``reward`` (for reward models) or ``test``; their
            sentence templates are disjoint.
        index: position in the stream, from 0.
        steps: smallest and largest number of solution lines (inclusive); the number is drawn
            uniformly between them, and the problem has exactly that many.
        seed: stream of random numbers.

    Raises:
        ValueError: for an unknown split, a negative index, or a range outside 1..10.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    low, high = steps
    if not 1 <= low <= high <= MAX_STEPS:
        raise ValueError(f"steps must satisfy 1 <= low <= high <= {MAX_STEPS}, not {steps}")
    if index < 0:
        raise ValueError(f"index must not be negative, not {index}")
    rng = Random(f"{seed}/{split}/{index}")
    target = rng.randint(low, high)
    for _ in count():
        story = _attempt(rng, split, target)
        if story is not None:
            break
    assert story is not None
    name = f"generated/{split}/{seed}/{index}"
    return Problem(name, " ".join(story.text), str(story.value), tuple(story.lines))


def generate_problems(
    split: str, num: int, steps: tuple[int, int] = (2, 5), seed: int = 0, start: int = 0
) -> list[Problem]:
    """Problems ``start`` to ``start + num - 1`` of the stream ``(seed, split)``.

    See :func:`generate_problem` for the arguments and errors; ``num`` must be at least 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, not {num}")
    return [generate_problem(split, start + i, steps, seed) for i in range(num)]
