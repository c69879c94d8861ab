"""Small networks as plain numbers, so that the rules of a `Game` can be learned ones.

A search that calls a network of a few thousand weights through PyTorch, some rows at a time, waits
for the calls. `run_mlp` is the same network in code that numba compiles into the search.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

LINEAR, NORM, RELU, SILU, TANH, SIGMOID, ELU, MISH = range(8)
_ACTIVATIONS: dict[type[nn.Module], int] = {
    nn.ReLU: RELU,
    nn.SiLU: SILU,
    nn.Tanh: TANH,
    nn.Sigmoid: SIGMOID,
    nn.ELU: ELU,
    nn.Mish: MISH,
}
_IDLE = (nn.Identity, nn.Dropout)
_REAL = np.float32
_FARTHEST = _REAL(40)  # e**40 squared is a number yet, and 1 + e**-40 is 1

# e**x = 2**k e**r with |r| <= ln(2) / 2; ln 2 in two parts, of which the first times k is exact.
# The polynomial is that of the Cephes library (Moshier 1992), within 2e-7 of e**r.
_LOG2_E, _LN2_HIGH, _LN2_LOW = _REAL(1.44269504), _REAL(0.693359375), _REAL(-2.12194440e-4)
_C0, _C1, _C2 = _REAL(1.9875691500e-4), _REAL(1.3981999507e-3), _REAL(8.3334519073e-3)
_C3, _C4, _C5 = _REAL(4.1665795894e-2), _REAL(1.6666665459e-1), _REAL(5.0000001201e-1)
_ONE, _TWO, _HALF = _REAL(1), _REAL(2), _REAL(0.5)
_EXPONENT, _BIAS = np.int32(23), np.int32(127)  # where a float32 keeps its power of two


class CompiledMLP(NamedTuple):
    """A network as a field of `Rules`. All networks are of one type: none is compiled twice."""

    numbers: np.ndarray  # float32 [P, widest]: rows of weights and biases, their ends filled with 0
    layers: np.ndarray  # int64 [L, 3]: kind, width before, width after


def compiled_mlp(module: nn.Module) -> CompiledMLP:
    """The numbers of a network, as they are now, for `run_mlp`.

    Takes nn.Linear, nn.LayerNorm over the last axis, nn.ReLU, SiLU, Tanh, Sigmoid, ELU, Mish, and
    nn.Sequential of these; nn.Dropout is left out, as in evaluation. Raises ValueError for anything
    else, for a network without a Linear layer and for one that is not in float32.
    """
    numbers: list[torch.Tensor] = []
    layers: list[tuple[int, int, int]] = []
    for part in _parts(module):
        if isinstance(part, nn.Linear):
            bias = torch.zeros(part.out_features) if part.bias is None else part.bias
            numbers += [*part.weight.T, bias]
            layers.append((LINEAR, part.in_features, part.out_features))
        elif isinstance(part, nn.LayerNorm):
            (width,) = part.normalized_shape
            weight = torch.ones(width) if part.weight is None else part.weight
            bias = torch.zeros(width) if part.bias is None else part.bias
            numbers += [torch.full_like(weight, part.eps), weight, bias]
            layers.append((NORM, width, width))
        else:
            layers.append((_ACTIVATIONS[type(part)], 0, 0))
    widths = _widths(layers)
    table = np.zeros((len(numbers), in_sixteens(widths[:, 1:].max())), _REAL)
    for row, line in zip(table, numbers, strict=True):
        if line.dtype != torch.float32:
            raise ValueError(f"compiled_mlp needs a network in float32, not in {line.dtype}")
        row[: len(line)] = line.detach().cpu()
    return CompiledMLP(table, widths)


def _parts(module: nn.Module) -> list[nn.Module]:
    """The layers in turn."""
    if type(module) is nn.Sequential:
        return [part for inner in module for part in _parts(inner)]
    if isinstance(module, _IDLE):
        return []
    known = type(module) in (nn.Linear, nn.LayerNorm, *_ACTIVATIONS)
    if isinstance(module, nn.ELU):
        known &= module.alpha == 1
    if isinstance(module, nn.LayerNorm):
        known &= len(module.normalized_shape) == 1
    if not known:
        raise ValueError(
            "compiled_mlp takes Linear, LayerNorm over one axis, ReLU, SiLU, Tanh, Sigmoid, ELU "
            f"with alpha 1, Mish and Sequential, not {module}"
        )
    return [module]


def _widths(layers: list[tuple[int, int, int]]) -> np.ndarray:
    """The layers with the widths of the activations filled in."""
    width = next((before for kind, before, _ in layers if kind in (LINEAR, NORM)), 0)
    if not any(kind == LINEAR for kind, _, _ in layers):
        raise ValueError("compiled_mlp needs a network with a Linear layer")
    table = np.array(layers, np.int64)
    for row in table:
        if row[0] not in (LINEAR, NORM):
            row[1:] = width
        elif row[1] != width:
            raise ValueError(f"compiled_mlp: a layer of {row[1]} inputs follows one of {width}")
        width = row[2]
    return table


# What numba compiles: plain Python over numbers


def run_mlp(net: Any, x: Any, out: Any) -> None:
    """Write the network's output for the input `x` [in] to `out` [out]: for the methods of `Rules`.

    Equal to the module in PyTorch up to the rounding of float32; what is no number stays none.
    """
    work = np.empty((4, net.numbers.shape[1]), np.float32)
    here, there, begin = work[0], work[1], 0
    for j in range(net.layers[0, 1]):
        here[j] = x[j]
    for i in range(len(net.layers)):
        kind, before, after = net.layers[i, 0], net.layers[i, 1], net.layers[i, 2]
        if kind == LINEAR:
            end = begin + before
            multiply(net.numbers[begin:end], net.numbers[end], here, there[: in_sixteens(after)])
            here, there, begin = there, here, end + 1
        elif kind == NORM:
            normalise(net.numbers[begin : begin + 3], here[:before])
            begin += 3
        else:
            activate(kind, here[:after], work[2, :after], work[3, :after])
    for j in range(len(out)):
        out[j] = here[j]


def in_sixteens(width: int) -> int:
    """The next multiple of 16: a row is taken in whole registers."""
    return (width + 15) // 16 * 16


def multiply(weight: Any, bias: Any, x: Any, y: Any) -> None:
    """y = x W + b for `weight` [in, >= out], four rows of it at a time: y is read and written less
    often."""
    for j in range(len(y)):
        y[j] = bias[j]
    whole = len(weight) - len(weight) % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
        for j in range(len(y)):
            y[j] += x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
    for i in range(whole, len(weight)):
        xi, row = x[i], weight[i]
        for j in range(len(y)):
            y[j] += xi * row[j]


def normalise(numbers: Any, x: Any) -> None:
    """x <- (x - mean) / sqrt(var + eps) * weight + bias; `numbers` [3, n] are eps, weight, bias."""
    mean = total = 0.0
    for j in range(len(x)):
        mean += x[j] / len(x)
    for j in range(len(x)):
        total += (x[j] - mean) ** 2
    scale = 1 / math.sqrt(total / len(x) + numbers[0, 0])
    for j in range(len(x)):
        x[j] = (x[j] - mean) * scale * numbers[1, j] + numbers[2, j]


def activate(kind: int, x: Any, powers: Any, room: Any) -> None:
    """x <- f(x); `powers` and `room` are as wide."""
    if kind == RELU:
        for j in range(len(x)):
            x[j] = x[j] if not x[j] < 0 else 0  # NaN stays
        return
    rate = -_TWO if kind == TANH else -_ONE if kind in (SILU, SIGMOID) else _ONE
    exponentials(rate, x, powers, room)
    if kind == SILU:
        for j in range(len(x)):
            x[j] = x[j] / (_ONE + powers[j])
    elif kind == SIGMOID:
        for j in range(len(x)):
            x[j] = _ONE / (_ONE + powers[j])
    elif kind == TANH:
        for j in range(len(x)):
            x[j] = _TWO / (_ONE + powers[j]) - _ONE
    elif kind == ELU:
        for j in range(len(x)):
            x[j] = powers[j] - _ONE if x[j] < 0 else x[j]
    else:  # Mish: x tanh(ln(1 + e**x))
        for j in range(len(x)):
            square = powers[j] * (powers[j] + _TWO)
            x[j] = x[j] * (square / (square + _TWO))


def exponentials(rate: Any, x: Any, out: Any, room: Any) -> None:
    """Write e**(rate x) to `out`, |rate x| cut at 40: without branches or calls, so that numbers
    are taken many at a time. `room` is as wide and in float32."""
    powers_of_two = room.view(np.int32)
    for j in range(len(x)):
        number = rate * x[j]
        number = _FARTHEST if number > _FARTHEST else number
        number = -_FARTHEST if number < -_FARTHEST else number
        k = np.floor(number * _LOG2_E + _HALF)
        r = number - k * _LN2_HIGH - k * _LN2_LOW
        powers_of_two[j] = (np.int32(k) + _BIAS) << _EXPONENT
        high = ((_C0 * r + _C1) * r + _C2) * r + _C3
        out[j] = ((high * r + _C4) * r + _C5) * r * r + r + _ONE
    for j in range(len(x)):
        out[j] *= room[j]  # the same bits, read as 2**k
