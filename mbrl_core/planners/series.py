"""Linear maps along the time axis of action sequences: coloured noise, splines, smoothing.

Each is a matrix that multiplies sequences [..., T, A] from the left. They are made once per
process for each setting, precision and device; treat them as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["zero", "linear", "cubic", "rbf"]
Matrix = Callable[..., Tensor]
INTERPOLATIONS = ("zero", "linear", "cubic", "rbf")


def colour(beta: float, length: int) -> Tensor:
    """The matrix [T, T] that makes white noise coloured, float64.

    The result is a stationary Gaussian series of unit variance whose power falls with frequency as
    f^-beta, below the lowest frequency 1/T no further (Timmer and Koenig 1995; for planning Pinneri
    et al. 2020). beta 0 is white, 1 pink, 2 red. The matrix is the symmetric square root of the
    circulant covariance with that spectrum.
    """
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64)
    frequency[0] = 1 / length
    impulse = torch.fft.irfft(frequency ** (-beta / 2), n=length)
    lag = torch.arange(length).unsqueeze(1) - torch.arange(length)
    return impulse[lag % length] / impulse.norm()


def interpolation(kind: Interpolation, at: Tensor, knots: Tensor) -> Tensor:
    """The matrix [Q, K] from values at times `knots` [K], ascending, to values at times `at` [Q].

    zero: the value of the last knot not after the time. linear: between the two neighbours. cubic:
    Hermite polynomials whose slopes are finite differences. rbf: the interpolant of least norm
    under a Gaussian kernel as wide as the mean distance of the knots.
    """
    if len(knots) == 1:
        return torch.ones(len(at), 1, dtype=torch.float64)
    at, knots = at.double(), knots.double()
    if kind == "rbf":
        width = (knots[-1] - knots[0]) / (len(knots) - 1)
        return torch.linalg.solve(
            _gaussian_kernel(knots, knots, width), _gaussian_kernel(knots, at, width)
        ).T
    value = torch.eye(len(knots), dtype=torch.float64)
    rounding = 1e-9 * (knots[-1] - knots[0])
    left = torch.searchsorted(knots, at + rounding, right=True) - 1
    if kind == "zero":
        return value[left.clamp(min=0)]
    left = left.clamp(0, len(knots) - 2)
    width = (knots[left + 1] - knots[left]).unsqueeze(1)
    s = (at - knots[left]).unsqueeze(1) / width
    start, end = value[left], value[left + 1]
    if kind == "linear":
        return torch.lerp(start, end, s)
    slope = _slopes(value, knots)
    return (
        (2 * s**3 - 3 * s**2 + 1) * start
        + (s**3 - 2 * s**2 + s) * width * slope[left]
        + (3 * s**2 - 2 * s**3) * end
        + (s**3 - s**2) * width * slope[left + 1]
    )


def spline(kind: Interpolation, knots: int, length: int) -> Tensor:
    """The matrix [T, K] from knots at equal distances, the first and the last step included, to
    every step, float64."""
    steps = torch.arange(length, dtype=torch.float64)
    return interpolation(kind, steps, torch.linspace(0, length - 1, knots, dtype=torch.float64))


def nearest_knots(kind: Interpolation, knots: int, length: int) -> Tensor:
    """The matrix [K, T] from a sequence to the knots whose spline is nearest to it in least
    squares, float64."""
    return torch.linalg.pinv(spline(kind, knots, length))


def savitzky_golay(window: int, length: int) -> Tensor:
    """The matrix [T, T] that replaces each value by that of a parabola fitted to the `window`
    (odd) values around it, float64.

    Near the ends the parabola is that of the first or last whole window (Savitzky and Golay 1964).
    """
    rows = torch.zeros(length, length, dtype=torch.float64)
    for t in range(length):
        first = min(max(t - window // 2, 0), length - window)
        distance = torch.arange(first, first + window, dtype=torch.float64) - t
        powers = distance.unsqueeze(1) ** torch.arange(min(3, window))
        rows[t, first : first + window] = torch.linalg.pinv(powers)[0]
    return rows


def along_time(sequences: Tensor, make: Matrix, *settings: object) -> Tensor:
    """The sequences [..., T, A] multiplied by the matrix [Q, T] of `make(*settings)`: [..., Q,
    A]."""
    matrix = _CONSTANT[make](*settings, dtype=sequences.dtype, device=sequences.device)
    return torch.einsum("qt,...ta->...qa", matrix, sequences)


def _constant(make: Matrix) -> Matrix:
    """`make(*settings)` in a precision and on a device, computed once."""

    @lru_cache(maxsize=128)
    def once(*settings: object, dtype: torch.dtype, device: torch.device) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # it may take part in a gradient later
            return make(*settings).to(dtype=dtype, device=device)

    def constant(*settings: object, dtype: torch.dtype, device: torch.device) -> Tensor:
        return once(*settings, dtype=dtype, device=device)

    constant.__name__ = make.__name__  # torch.compile tells constants apart by it
    return constant


_CONSTANT = {make: _constant(make) for make in (colour, spline, nearest_knots, savitzky_golay)}


def hold_constants() -> None:
    """Let code that is compiled hold the matrices. Loads the compiler, which takes seconds."""
    for constant in _CONSTANT.values():
        torch.compiler.assume_constant_result(constant)  # marks it, in place


def _gaussian_kernel(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-(((a.unsqueeze(1) - b) / width) ** 2) / 2)


def _slopes(value: Tensor, knots: Tensor) -> Tensor:
    """Slopes at the knots: of the parabola through each three, of the chord at both ends."""
    width = knots.diff().unsqueeze(1)
    chord = value.diff(dim=0) / width
    inner = (chord[:-1] * width[1:] + chord[1:] * width[:-1]) / (width[1:] + width[:-1])
    return torch.cat([chord[:1], inner, chord[-1:]])
