"""Laws of the layers that latent world models are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from control.networks import (
    MLP,
    HeadLayer,
    Heads,
    TwoHot,
    apply_heads,
    dropout,
    mish,
    simnorm,
    symexp,
    symlog,
)
from mbrl_core import generator

SPREAD = torch.linspace(-30, 30, 241, dtype=torch.float64)


def test_symexp_undoes_symlog():
    numbers = torch.cat([SPREAD, 1e4 * SPREAD, 1e-6 * SPREAD])
    torch.testing.assert_close(symexp(symlog(numbers)), numbers, rtol=1e-12, atol=0)
    assert symlog(torch.tensor(0.0)) == 0


# Two-hot


def two_hot(code: TwoHot, number: Tensor) -> Tensor:
    """The distribution [n, bins] that stands for `number` [n]."""
    lower, weight = code.encode(number)
    p = torch.zeros(len(number), len(code.centres), dtype=number.dtype)
    p.scatter_(1, lower.unsqueeze(1), 1 - weight.unsqueeze(1))
    return p.scatter_add_(1, lower.unsqueeze(1) + 1, weight.unsqueeze(1))


def test_a_number_survives_its_two_hot_code():
    code = TwoHot(101, -10, 10)
    code.centres = torch.linspace(-10, 10, 101, dtype=torch.float64)
    numbers = torch.cat([symexp(torch.linspace(-10, 10, 777)).double(), torch.tensor([0.0, 1.0])])
    p = two_hot(code, numbers)
    assert ((p > 0).sum(1) <= 2).all() and torch.allclose(p.sum(1), torch.ones(779).double())
    decoded = symexp(p @ code.centres)
    torch.testing.assert_close(decoded, numbers, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(code.decode(p.log()), numbers, rtol=1e-9, atol=1e-9)


def test_numbers_past_the_bins_are_those_of_the_outermost():
    code = TwoHot(11, -2, 2)
    p = two_hot(code, torch.tensor([1e9, -1e9]))
    assert p[0, -1] == 1 and p[1, 0] == 1


def test_the_loss_is_the_cross_entropy_with_the_code():
    code, logits = TwoHot(21, -3, 3), torch.randn(6, 7, 21, generator=generator(0))
    numbers = 4 * torch.randn(7, generator=generator(1))
    expected = -(two_hot(code, numbers) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(code.loss(logits, numbers), expected)


def test_the_loss_is_least_at_the_code_itself():
    code, numbers = TwoHot(21, -3, 3), torch.tensor([0.3, -2.0])
    logits = two_hot(code, numbers).log().clamp(min=-30).requires_grad_()
    (slope,) = torch.autograd.grad(code.loss(logits, numbers).sum(), logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)


def test_two_hot_needs_an_interval():
    with pytest.raises(ValueError, match="2 bins or more"):
        TwoHot(1)


# Activations


def test_simnorm_makes_points_on_simplices():
    x = (10 * torch.randn(5, 24, generator=generator(0))).requires_grad_()
    y = simnorm(x, 8)
    assert (y >= 0).all()
    torch.testing.assert_close(y.unflatten(1, (3, 8)).sum(-1), torch.ones(5, 3))
    expected = x.unflatten(1, (3, 8)).softmax(-1).flatten(1)
    torch.testing.assert_close(y, expected)
    weight = torch.randn(5, 24, generator=generator(1))
    slopes = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*slopes)


def test_simnorm_of_far_apart_numbers_is_finite():
    y = simnorm(torch.tensor([[1e4, -1e4, 0.0, 1e4]]), 4)
    torch.testing.assert_close(y, torch.tensor([[0.5, 0.0, 0.0, 0.5]]))


def test_mish_is_torchs_with_both_its_derivatives():
    x = torch.cat([SPREAD, torch.tensor([200.0, -200.0]).double()]).requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(mish(x), F.mish(x))
    torch.testing.assert_close(mish(x), F.mish(x))
    first = [torch.autograd.grad(f(x).sum(), x, create_graph=True)[0] for f in (mish, F.mish)]
    torch.testing.assert_close(*first)
    second = [torch.autograd.grad(slope.sum(), x)[0] for slope in first]
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_code_has_the_same_mish(dtype):
    x = torch.cat([SPREAD, torch.tensor([200.0, -200.0]).double()]).to(dtype).requires_grad_()
    compiled = torch.compile(lambda x: mish(x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), F.mish(x))
    slopes = [torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, F.mish)]
    torch.testing.assert_close(*slopes)


# Networks


def single(heads: Heads, number: int) -> nn.Sequential:
    """One of the heads as an MLP of its own."""
    mlp = MLP(3, [8, 8], 4)
    own = [tensor for name, tensor in mlp.named_parameters()]
    theirs = []
    for weight, bias, scale, shift in heads.layers():
        theirs += [weight[number], bias[number, 0]]
        if scale is not None and shift is not None:
            theirs += [scale[number, 0], shift[number, 0]]
    with torch.no_grad():
        for mine, other in zip(own, theirs, strict=True):
            mine.copy_(other)
    return mlp


def scrambled(heads: Heads) -> Heads:
    with torch.no_grad():
        for number, parameter in enumerate(heads.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(number))
    return heads


def test_heads_are_networks_side_by_side():
    heads = scrambled(Heads(5, 3, [8, 8], 4, rng=generator(0)))
    x = torch.randn(6, 3, generator=generator(1))
    together = heads(x)
    for number in range(5):
        torch.testing.assert_close(together[number], single(heads, number)(x))
    torch.testing.assert_close(apply_heads(heads.layers((3, 1)), x), together[[3, 1]])


def test_networks_begin_where_they_were_published_to():
    mlp, heads = MLP(64, [256], 3, zero=True, rng=generator(0)), Heads(2, 64, [256], 3)
    weight = mlp[0].weight
    assert abs(weight.std() - 0.02) < 1e-3 and mlp[0].bias.eq(0).all()
    assert mlp[-1].weight.eq(0).all()
    assert heads(torch.randn(4, 64)).eq(0).all()
    again = MLP(64, [256], 3, rng=generator(0))
    assert torch.equal(weight, again[0].weight)


def test_dropout_leaves_out_its_share_and_needs_no_scale():
    dropped = dropout(0.3, 2, 500, 64, rng=generator(0))
    assert abs(dropped.float().mean() - 0.3) < 0.01
    assert torch.equal(dropped, dropout(0.3, 2, 500, 64, rng=generator(0)))
    assert not dropout(0.0, 99, rng=generator(0)).any()
    # Scaling what is left by 1 / (1 - p) changes nothing that the LayerNorm lets through.
    layer, *rest = scrambled(Heads(2, 3, [64], 4, rng=generator(1))).layers()
    x = torch.randn(500, 3, generator=generator(2))
    hidden = (x @ layer.weight.mT + layer.bias) * ~dropped / 0.7
    normed = F.layer_norm(hidden, (64,)) * layer.scale + layer.shift
    expected = apply_heads(rest, mish(normed)[0])
    got = apply_heads([layer, *rest], x, dropped)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=1e-3)
    assert isinstance(layer, HeadLayer)
