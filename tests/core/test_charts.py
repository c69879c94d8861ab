"""Axes, labels and escaping of the hand-made charts."""

import itertools
import math
import xml.etree.ElementTree as xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrl_core.viewer.charts import (
    Baseline,
    Curve,
    LineChart,
    Scale,
    draw,
    legend,
    linear_ticks,
    log_ticks,
    short_number,
    spread,
)


def curve(name: str = "CEM", xs=(10.0, 100.0, 1000.0), mean=(1.0, 2.0, 3.0)) -> Curve:
    return Curve(name, xs, mean, [m - 0.5 for m in mean], [m + 0.5 for m in mean])


def chart(*curves: Curve, **options) -> LineChart:
    return LineChart(curves, "model steps", "return", **options)


@pytest.mark.parametrize("size", [(760, 400), (360, 300)])
def test_a_chart_is_well_formed_and_stays_inside(size):
    made = chart(curve("a < b & c"), curve("MPPI"), baselines=[Baseline("random", 0.2)])
    text = draw(made, *size)
    root = xml.fromstring(text)
    circles = [e for e in root.iter() if e.tag == "circle"]
    assert len(circles) == 6
    for circle in circles:
        assert 0 <= float(circle.get("cx")) <= size[0] and 0 <= float(circle.get("cy")) <= size[1]
    assert "a < b" not in text
    xml.fromstring(legend(made))


def test_wide_charts_name_their_lines_and_narrow_ones_do_not():
    made = chart(curve("CEM"))
    assert ">CEM</text>" in draw(made, 760, 400)
    assert ">CEM</text>" not in draw(made, 360, 300)


def test_points_that_are_not_finite_are_left_out_and_order_does_not_matter():
    broken = Curve("x", [100, 10, 1000], [2, 1, math.nan], [2, 1, 1], [2, 1, 1])
    clean = Curve("x", [10, 100], [1, 2], [1, 2], [1, 2])
    assert draw(chart(broken), 760, 400) == draw(chart(clean), 760, 400)


def test_no_points_one_point_and_equal_values_still_draw():
    for made in (chart(), chart(Curve("x", [], [], [], [])), chart(curve(xs=[5], mean=[1]))):
        xml.fromstring(draw(made, 760, 400))
    flat = Curve("x", [1, 2], [3, 3], [3, 3], [3, 3])
    xml.fromstring(draw(chart(flat, log_x=False), 760, 400))
    xml.fromstring(draw(chart(flat, percent=True), 760, 400))


def test_wrong_curves_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        draw(chart(Curve("x", [1, 2], [1], [1], [1])), 760, 400)
    with pytest.raises(ValueError, match="logarithmic"):
        draw(chart(curve(xs=[0.0, 1, 2])), 760, 400)


def test_values_of_a_log_axis_are_positive_and_its_ticks_powers():
    losses = chart(curve(mean=(0.6, 60, 6000)), log_y=True)
    text = draw(losses, 760, 400)
    assert all(f">{tick}</text>" in text for tick in ("1", "10", "100", "1k"))
    assert "return (log scale)" in text
    with pytest.raises(ValueError, match=r"y = -0\.5 on a logarithmic axis"):
        draw(chart(curve(mean=(0, 1, 2)), log_y=True), 760, 400)


def test_a_line_without_marks_still_tells_its_points():
    text = draw(chart(curve(), marks=False), 760, 400)
    assert text.count("data-tip") == 3
    assert 'class="mark"' not in text and 'class="whisker"' not in text


def test_equal_factors_are_equal_distances_on_a_log_scale():
    scale = Scale(1, 1000, 0, 300, log=True)
    assert [scale(1), scale(10), scale(1000)] == pytest.approx([0, 100, 300])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_enclose_and_are_few(low, width):
    ticks = linear_ticks(low, low + width)
    assert ticks[0] <= low + 1e-6 * width and ticks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(ticks) <= 9


def test_log_ticks():
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(90, 4000) == pytest.approx([100, 200, 500, 1000, 2000])
    assert log_ticks(0.01, 0.06) == pytest.approx([0.01, 0.02, 0.05])


def test_short_numbers():
    shown = [short_number(v) for v in (0, 0.25, 12, 1200, 16384, 2.5e6, -1500)]
    assert shown == ["0", "0.25", "12", "1.2k", "16.4k", "2.5M", "-1.5k"]


@given(st.lists(st.floats(0, 100), max_size=6))
def test_labels_are_spread_in_order(places):
    moved = spread(sorted(places), 10, 0, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(moved))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in moved)
