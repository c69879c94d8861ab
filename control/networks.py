"""Layers that latent world models are made of: normalised layers, two-hot numbers, many heads.

TD-MPC2 (Hansen et al. 2024, arXiv:2310.16828, appendix A) builds all its networks of linear layers
followed by LayerNorm and Mish, keeps its latent states on simplices (SimNorm), and predicts rewards
and values as distributions over bins (two-hot).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STD = 0.02  # of weights; twice this bounds nothing: they are cut at +-2, as published


# ------------------------------------------------------------------------------------ functions


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|): linear near 0, logarithmic far away."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`: sign(x) (exp|x| - 1)."""
    return x.sign() * x.abs().expm1()


def simnorm(x: Tensor, group: int) -> Tensor:
    """[..., L] to L / `group` points on simplices: a softmax over each `group` entries.

    Lavoie et al. 2022, "Simplicial embeddings in self-supervised learning", arXiv:2204.00616. On a
    CPU torch's softmax takes three matrix products' time over so short an axis, so there it is
    written out.
    """
    x = x.unflatten(-1, (-1, group))
    if x.is_cuda:
        return x.softmax(-1).flatten(-2)
    power = (x - x.detach().amax(-1, keepdim=True)).exp()
    return (power / power.sum(-1, keepdim=True)).flatten(-2)


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).

    On a CPU torch's own takes as long as the matrix product before it, so there it is written as
    x n / (n + 2) with n = e^x (e^x + 2), which takes one exponential.
    """
    if x.is_cuda:
        return F.mish(x)
    if torch.compiler.is_compiling():
        power = x.clamp(max=20.7).exp()  # clamped after it, the slope would be 0 times infinity
        above = (power + 2) * power
        return x * (above / (above + 2))
    return _Mish.apply(x) if torch.is_grad_enabled() else _mish_parts(x)[0].mul_(x)


def _mish_parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh(softplus(x)), and the e^x and n + 2 that it is made of. Past 1e9 e^x is as good as
    infinite, and its square is not."""
    power = x.exp().clamp_(max=1e9)
    above = power.add(2).mul_(power)
    below = above.add(2)
    return above.div_(below), power, below


class _Mish(torch.autograd.Function):
    """`mish`, whose slope is computed with it: t + 4 x e^x (e^x + 1) / (n + 2)^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, power, below = _mish_parts(x)
        slope = power.add(1).mul_(power).div_(below).div_(below)
        slope = torch.addcmul(gate, x, slope, value=4, out=slope)
        ctx.save_for_backward(x, slope)
        return gate.mul_(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grad[0] * slope
        (curved,) = torch.autograd.grad(F.mish(x), x, grad[0], create_graph=True)
        return curved


# -------------------------------------------------------------------------------------- two-hot


class TwoHot(nn.Module):
    """Numbers as distributions over bins, evenly spaced in symlog space.

    A number between two bins is the two's mixture; a distribution stands for symexp of its mean.
    (DreamerV3 takes the mean after symexp: another code.)
    """

    centres: Tensor

    def __init__(self, bins: int = 101, low: float = -10.0, high: float = 10.0) -> None:
        """Raises ValueError where there are fewer than two bins or they span nothing."""
        super().__init__()
        if bins < 2 or not low < high:
            raise ValueError(f"two-hot needs 2 bins or more and low < high: {bins}, {low}, {high}")
        self.low, self.high = low, high
        self.register_buffer("centres", torch.linspace(low, high, bins), persistent=False)

    def decode(self, logits: Tensor) -> Tensor:
        """Logits [..., bins] to numbers [...], in the precision of the bins: a matrix product would
        be of half of it under autocast."""
        return symexp((logits.to(self.centres).softmax(-1) * self.centres).sum(-1))

    def encode(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers [...] to the lower of their two bins, int64, and the weight of the upper, which
        is NaN where the number is."""
        last = len(self.centres) - 1
        place = (symlog(number).clamp(self.low, self.high) - self.low) / (self.high - self.low)
        place = place * last
        lower = place.floor().clamp(max=last - 1)
        return lower.nan_to_num(0).long(), place - lower

    def loss(self, logits: Tensor, number: Tensor) -> Tensor:
        """The cross-entropy [...] of logits [..., bins] from the two-hot code of numbers [...]."""
        lower, weight = self.encode(number)
        lower = lower.expand(logits.shape[:-1]).unsqueeze(-1)
        pair = logits.gather(-1, torch.cat([lower, lower + 1], -1))
        return logits.logsumexp(-1) - torch.lerp(pair[..., 0], pair[..., 1], weight)


# --------------------------------------------------------------------------------------- layers


class NormedLinear(nn.Linear):
    """A linear layer, LayerNorm, then Mish, or SimNorm over groups of `simnorm`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        simnorm: int | None = None,
        rng: torch.Generator | None = None,
    ) -> None:
        """Weights are drawn from N(0, 0.02^2), biases are 0."""
        super().__init__(inputs, outputs)
        initialize(self, rng)
        self.norm = nn.LayerNorm(outputs)
        self.simnorm = simnorm

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        x = self.norm(super().forward(x))
        return mish(x) if self.simnorm is None else simnorm(x, self.simnorm)


class MLP(nn.Sequential):
    """Normalised hidden layers and a last one that is linear, or normalised on simplices."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        simnorm: int | None = None,
        zero: bool = False,
        rng: torch.Generator | None = None,
    ) -> None:
        """`zero` begins with a linear last layer of zeros: a uniform distribution."""
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = [
            NormedLinear(fan_in, fan_out, rng=rng) for fan_in, fan_out in itertools.pairwise(sizes)
        ]
        if simnorm is None:
            last = nn.Linear(sizes[-1], outputs)
            initialize(last, rng, zero=zero)
            layers.append(last)
        else:
            layers.append(NormedLinear(sizes[-1], outputs, simnorm=simnorm, rng=rng))
        super().__init__(*layers)


def initialize(layer: nn.Linear, rng: torch.Generator | None, *, zero: bool = False) -> None:
    """Draw a layer's weights from N(0, 0.02^2), or make them 0; its bias is 0."""
    with torch.no_grad():
        layer.weight.zero_() if zero else _draw(layer.weight, rng)
        layer.bias.zero_()


def _draw(weight: Tensor, rng: torch.Generator | None) -> Tensor:
    return nn.init.trunc_normal_(weight, std=INITIAL_STD, generator=rng)


class HeadLayer(NamedTuple):
    """One layer of E heads; the last has no norm."""

    weight: Tensor  # [E, out, in]
    bias: Tensor  # [E, 1, out]
    scale: Tensor | None  # [E, 1, out]
    shift: Tensor | None  # [E, 1, out]

    def map(self, function: Callable[[Tensor], Tensor]) -> HeadLayer:
        """The layer with `function` of each of its tensors."""
        weight, bias, *norm = (x if x is None else function(x) for x in self)
        assert weight is not None and bias is not None
        return HeadLayer(weight, bias, *norm)


class Heads(nn.Module):
    """E networks of one shape that read the same input, as batched matrix products.

    Each is an `MLP` with a linear last layer that begins at zero.
    """

    def __init__(
        self,
        number: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        rng: torch.Generator | None = None,
    ) -> None:
        """Make `number` networks, each with weights of its own."""
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise([inputs, *hidden]):
            weight = _draw(torch.empty(number, fan_out, fan_in), rng)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(number, 1, fan_out)))
            self.scales.append(nn.Parameter(torch.ones(number, 1, fan_out)))
            self.shifts.append(nn.Parameter(torch.zeros(number, 1, fan_out)))
        self.weights.append(nn.Parameter(torch.zeros(number, outputs, [inputs, *hidden][-1])))
        self.biases.append(nn.Parameter(torch.zeros(number, 1, outputs)))

    def __len__(self) -> int:
        return len(self.weights[0])

    def layers(self, chosen: Tensor | Sequence[int] | None = None) -> list[HeadLayer]:
        """The layers of all heads, or of those `chosen`."""
        parts = itertools.zip_longest(self.weights, self.biases, self.scales, self.shifts)
        if chosen is None:
            return [HeadLayer(*part) for part in parts]
        index = torch.as_tensor(chosen, device=self.weights[0].device)
        return [HeadLayer(*part).map(lambda x: x.index_select(0, index)) for part in parts]

    def forward(self, x: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Rows [R, inputs] to what every head says of them, [E, R, outputs]; see `apply_heads`."""
        return apply_heads(self.layers(), x, dropped)


def apply_heads(layers: Sequence[HeadLayer], x: Tensor, dropped: Tensor | None = None) -> Tensor:
    """Rows [R, inputs] to the outputs [E, R, outputs] of E heads.

    `dropped` [E, R, hidden] bool are units of the first layer to leave out. What is left is not
    scaled up, as dropout otherwise is: the LayerNorm that follows undoes any scale.
    """
    x = x.expand(len(layers[0].weight), *x.shape)
    for layer in layers:
        x = torch.baddbmm(layer.bias, x, layer.weight.mT)
        if dropped is not None:
            x, dropped = x.masked_fill(dropped, 0.0), None
        if layer.scale is not None and layer.shift is not None:
            x = F.layer_norm(x, x.shape[-1:])
            x = mish(torch.addcmul(layer.shift, x, layer.scale))
    return x


def dropout(share: float, *shape: int, rng: torch.Generator) -> Tensor:
    """Which units to leave out: bool [*shape], each with probability `share` (to 1/65536).

    Four numbers are cut out of each random one: drawing them singly takes as long as a layer.
    """
    size = torch.Size(shape).numel()
    drawn = torch.empty(-(-size // 4), dtype=torch.int64, device=rng.device)
    drawn.random_(-(2**63), None, generator=rng)
    threshold = round(share * 2**16) - 2**15
    return (drawn.view(torch.int16)[:size] < threshold).view(shape)
