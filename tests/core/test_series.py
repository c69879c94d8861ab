"""Linear maps along time: coloured noise, splines, smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from mbrl_core import generator
from mbrl_core.planners.series import (
    INTERPOLATIONS,
    Interpolation,
    along_time,
    colour,
    interpolation,
    nearest_knots,
    savitzky_golay,
    spline,
)

lengths = st.integers(1, 40)
kinds = pytest.mark.parametrize("kind", INTERPOLATIONS)


@given(lengths)
def test_noise_of_colour_zero_is_white(length: int) -> None:
    torch.testing.assert_close(colour(0.0, length), torch.eye(length).double())


@given(st.floats(0.1, 4.0), lengths)
@settings(max_examples=30)
def test_coloured_noise_has_unit_variance_at_every_step(beta: float, length: int) -> None:
    covariance = colour(beta, length) @ colour(beta, length).T
    torch.testing.assert_close(covariance.diagonal(), torch.ones(length).double())


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 3.5])
def test_the_power_of_coloured_noise_falls_with_the_right_slope(beta: float) -> None:
    length = 64
    white = torch.randn(4000, length, 1, generator=generator(0)).double()
    power = torch.fft.rfft(along_time(white, colour, beta, length)[..., 0]).abs().square().mean(0)
    frequency = torch.fft.rfftfreq(length)[1:-1]
    slope, _ = np.polyfit(frequency.log(), power[1:-1].log(), 1)
    assert slope == pytest.approx(-beta, abs=0.05)
    assert power[0].item() == pytest.approx(power[1].item(), rel=0.1)  # it falls from 1/T on only


@kinds
@given(knots=st.integers(1, 8), more=st.integers(0, 20))
@settings(max_examples=20)
def test_a_constant_stays_constant_and_knots_are_met(
    kind: Interpolation, knots: int, more: int
) -> None:
    times = torch.linspace(0, 1, knots)
    at_knots = interpolation(kind, times, times)
    torch.testing.assert_close(at_knots, torch.eye(knots).double(), atol=1e-8, rtol=0)
    if kind != "rbf":
        rows = spline(kind, knots, knots + more).sum(1)
        torch.testing.assert_close(rows, torch.ones(knots + more).double())


@kinds
@given(knots=st.integers(1, 6), more=st.integers(0, 12))
@settings(max_examples=20)
def test_the_knots_nearest_to_a_spline_are_its_own(
    kind: Interpolation, knots: int, more: int
) -> None:
    if kind == "zero" and more < knots:
        return  # some knots may fall between two steps and have none
    there = spline(kind, knots, knots + more)
    back = nearest_knots(kind, knots, knots + more) @ there
    torch.testing.assert_close(back, torch.eye(knots).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "degree"), [("zero", 0), ("linear", 1), ("cubic", 1)])
def test_a_spline_reproduces_polynomials(kind: Interpolation, degree: int) -> None:
    knots, at = torch.linspace(0, 1, 5).double(), torch.linspace(0, 1, 33).double()
    values = (1 + 2 * knots) ** degree
    expected = (1 + 2 * at) ** degree
    torch.testing.assert_close(interpolation(kind, at, knots) @ values, expected)


@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_smoothing_is_scipys(window: int) -> None:
    series = torch.randn(9, 2, generator=generator(0)).double()
    expected = savgol_filter(series.numpy(), window, min(2, window - 1), axis=0, mode="interp")
    ours = along_time(series, savitzky_golay, window, 9)
    torch.testing.assert_close(ours, torch.from_numpy(expected))


def test_smoothing_leaves_a_parabola_alone() -> None:
    parabola = torch.arange(12).double().square().unsqueeze(1)
    torch.testing.assert_close(along_time(parabola, savitzky_golay, 5, 12), parabola)


def test_a_matrix_made_in_inference_mode_may_take_part_in_a_gradient() -> None:
    sequences = torch.ones(1, 7, 1)
    with torch.inference_mode():
        along_time(sequences, spline, "cubic", 7, 23)
    actions = along_time(sequences.requires_grad_(), spline, "cubic", 7, 23)
    actions.square().sum().backward()
    assert bool(torch.isfinite(sequences.grad).all())
