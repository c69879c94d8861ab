"""`python -m evals.compare` on runs whose difference is known."""

from __future__ import annotations

import pytest

from configs import cli
from evals.compare import compare
from evals.records import RecordStore


def written(folder, name, values, **arguments):
    with RecordStore(folder, {"name": folder.name, **arguments}) as store:
        for id, value in values.items():
            store.append(id, {name: value})
    return folder


def test_only_what_both_have_is_compared(tmp_path):
    one = written(tmp_path / "one", "correct", {"a": True, "b": True, "c": False, "x": False})
    other = written(tmp_path / "other", "correct", {"c": False, "b": False, "a": True, "y": True})
    told = []
    gain = compare(one=one, other=other, say=told.append)
    assert gain.mean == pytest.approx(1 / 3) and gain.low <= gain.mean <= gain.high
    assert "66.7 against 33.3 on 3 in common, difference 33.3" in told[0]
    assert compare(one=other, other=one).mean == pytest.approx(-gain.mean)


def test_a_constant_difference_has_no_width(tmp_path):
    one = written(tmp_path / "one", "return", {i: 10.0 * i + 2.5 for i in range(5)})
    other = written(tmp_path / "other", "return", {i: 10.0 * i for i in range(5)})
    assert tuple(compare(one=one, other=other)) == pytest.approx((2.5, 2.5, 2.5))


def test_few_returns_have_the_interval_of_students_t(tmp_path):
    """A bootstrap of four covers 80%."""
    one = written(tmp_path / "one", "return", {0: 3.0, 1: 5.0, 2: 4.0, 3: 8.0})
    other = written(tmp_path / "other", "return", dict.fromkeys(range(4), 0.0))
    mean, low, high = compare(one=one, other=other)
    half = 3.182 * 4.6667**0.5 / 2
    assert (mean, low, high) == pytest.approx((5.0, 5.0 - half, 5.0 + half), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "values"), [("env", ("a", "b")), ("seed", (0, 1)), ("max_frames", (None, 400))]
)
def test_episodes_that_begin_elsewhere_are_not_paired(tmp_path, name, values):
    one, other = (
        written(tmp_path / str(value), "return", {0: 1.0, 1: 2.0}, **{name: value})
        for value in values
    )
    with pytest.raises(ValueError, match=f"play other episodes: {name} is {values[0]} in one"):
        compare(one=one, other=other)


def test_what_cannot_be_compared_is_refused_in_one_sentence(tmp_path, capsys):
    problems = written(tmp_path / "problems", "correct", {1: True})
    episodes = written(tmp_path / "episodes", "return", {1: 3.0})
    others = written(tmp_path / "others", "correct", {2: True})
    for other, sentence in [(episodes, "plays episodes"), (others, "in common")]:
        with pytest.raises(ValueError, match=sentence):
            compare(one=problems, other=other)
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        compare(one=problems, other=problems, seed=-1)
    earlier = written(tmp_path / "earlier", "flexible", {1: True})
    for one, other in ((problems, earlier), (earlier, problems)):
        with pytest.raises(ValueError, match="earlier is a run of an earlier format: run it again"):
            compare(one=one, other=other)
    assert cli.run("compare", compare, "", argv=[f"one={problems}"]) == 2
    assert "option 'other' must be given" in capsys.readouterr().err
