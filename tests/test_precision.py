"""Convolutions in bfloat16."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.precision import Bfloat16Convolutions, convolutions_in, multiplies_bfloat16


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)


def rounded(x):
    return x.bfloat16().float()


def test_operands_are_rounded_and_products_are_summed_in_full(layer):
    x = torch.randn(2, 4, 9, 9)
    with Bfloat16Convolutions():
        ours = layer(x)
    expected = F.conv2d(rounded(x), rounded(layer.weight), None, stride=2, padding=1, groups=2)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, rounded(expected) + layer.bias[:, None, None], rtol=2**-8, atol=1e-6)
    assert (ours - layer(x)).abs().max() > 1e-4  # and that is not what float32 gives


def test_gradients_reach_the_image_and_the_float_weight(layer):
    x = torch.randn(8, 4, 9, 9, requires_grad=True)
    direction = torch.randn(8, 6, 5, 5)
    wanted = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], direction)
    with Bfloat16Convolutions():
        out = layer(x)
    ours = torch.autograd.grad(out, [x, layer.weight, layer.bias], direction)
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()
    torch.testing.assert_close(ours[2], wanted[2])  # the bias never leaves float32


def test_only_convolutions_of_float32_change():
    x = torch.randn(3, 5, dtype=torch.float32)
    linear = nn.Linear(5, 2)
    double = nn.Conv2d(3, 2, 1).double()
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    with Bfloat16Convolutions():
        assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
        inside = double(image)
    assert torch.equal(inside, double(image))


def test_auto_is_bfloat16_only_where_the_cpu_multiplies_it(monkeypatch, layer):
    assert multiplies_bfloat16({"avx512_bf16": True})
    assert multiplies_bfloat16({"amx_bf16": True, "avx512_bf16": False})
    assert not multiplies_bfloat16({"avx2": True, "avx512_bf16": False})
    x = torch.randn(1, 4, 9, 9)
    plain = layer(x)
    for has, same in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        with convolutions_in("auto", "cpu"):
            assert torch.equal(layer(x), plain) == same
        with convolutions_in("auto", "cuda"), convolutions_in("float32", "cpu"):
            assert torch.equal(layer(x), plain)
    with convolutions_in("bfloat16", "cpu"):
        assert not torch.equal(layer(x), plain)
