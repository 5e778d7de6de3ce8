"""Networks in bfloat16."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import add_statistics
from intraq_cli.quantization.affine import fake_quantize
from intraq_cli.runtime.autocast import Bfloat16, in_precision, multiplies_bfloat16
from tests.conftest import graph_of


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)


def rounded(x):
    return x.bfloat16().float()


def in_bfloat16(layer, x):
    """The output of a layer in bfloat16."""
    return Bfloat16(graph_of(layer, tuple(x.shape[1:])), "cpu")(x)


def test_bfloat16_convolution_rounds_operands_and_sums_in_full_precision(layer):
    x = torch.randn(2, 4, 9, 9)
    ours = in_bfloat16(layer, x)
    expected = F.conv2d(rounded(x), rounded(layer.weight), rounded(layer.bias), stride=2, padding=1, groups=2)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, rtol=2**-8, atol=1e-6)


def test_bfloat16_convolution_gives_accurate_float32_gradients(layer):
    x = torch.randn(8, 4, 9, 9, requires_grad=True)
    direction = torch.randn(8, 6, 5, 5)
    wanted = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], direction)
    out = in_bfloat16(layer, x)
    ours = torch.autograd.grad(out, [x, layer.weight, layer.bias], direction.bfloat16())
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 2, 1, (8, 9)), (3, 2, 0, (9, 8)), (5, 2, 2, (11, 8)), (3, 3, 2, (7, 11)), ((3, 5), (1, 2), (2, 1), (6, 9))],
)
def test_strided_depthwise_convolutions_give_accurate_outputs_and_gradients(kernel, stride, padding, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, stride, padding, groups=6)
    x = torch.randn(4, 6, *size, requires_grad=True)
    wanted = layer(x)
    direction = torch.randn_like(wanted)
    inputs = [x, layer.weight, layer.bias]
    out = in_bfloat16(layer, x)
    assert "StridedDepthwise" in out.grad_fn.name()
    torch.testing.assert_close(out.float(), wanted, rtol=0.02, atol=0.02)
    gradients = torch.autograd.grad(out, inputs, direction.bfloat16())
    for ours, theirs in zip(gradients, torch.autograd.grad(wanted, inputs, direction), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_strided_depthwise_convolution_accepts_a_single_stride_and_no_bias():
    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 1, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.weight, stride=(2,), padding=(1,), groups=3)

    x, layer = torch.randn(2, 3, 9, 8, requires_grad=True), Depthwise()
    out = in_bfloat16(layer, x)
    assert "StridedDepthwise" in out.grad_fn.name()
    (ours,) = torch.autograd.grad(out.sum(), x)
    (wanted,) = torch.autograd.grad(F.conv2d(x, layer.weight, None, 2, 1, groups=3).sum(), x)
    assert (ours - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("options", [{}, {"stride": 2, "dilation": 2}, {"stride": 2, "padding": 3}])
def test_other_depthwise_convolutions_are_left_to_torch(options):
    layer = nn.Conv2d(4, 4, 3, groups=4, **options)
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    assert "StridedDepthwise" not in in_bfloat16(layer, x).grad_fn.name()


WRONG_IN_BFLOAT16 = {
    "volumes": (nn.Conv3d(2, 16, 5, padding=2), (2, 4, 4, 4)),
    "volumes of the same size": (nn.Conv3d(2, 16, 5, padding="same"), (2, 4, 4, 4)),
    "a stride beyond the map": (nn.Conv2d(16, 4, 3, stride=2, padding=1), (16, 1, 1)),
    "transposed": (nn.ConvTranspose2d(2, 16, 5, padding=2), (2, 2, 2)),
    "transposed lines": (nn.ConvTranspose1d(2, 16, 5, padding=2), (2, 2)),
}


@pytest.mark.parametrize("kind", WRONG_IN_BFLOAT16)
def test_convolutions_with_faulty_bfloat16_kernels_run_in_float32(kind):
    """In bfloat16 their gradients are infinite, or read from other memory."""
    (layer, shape), generator = WRONG_IN_BFLOAT16[kind], torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, generator=generator, requires_grad=True)
    ours, wanted = in_bfloat16(layer, x), layer(x)
    found, expected = (torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]) for out in (ours, wanted))
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(found, expected)


def test_linear_layers_run_in_float32_for_any_input_type():
    x = torch.randn(3, 1, 2, 5)
    linear = nn.Linear(5, 2)
    inside = Bfloat16(graph_of(linear, (1, 2, 5)), "cpu")
    assert torch.equal(inside(x), F.linear(x, linear.weight, linear.bias))
    assert torch.equal(inside(x.bfloat16()), linear(rounded(x)))
    assert inside(x).dtype == inside(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("groups", [2, 4])
def test_float64_networks_are_not_cast(groups):
    """Also with strided depthwise convolutions."""
    image = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=groups).double()
    inside = in_bfloat16(layer, image)
    assert torch.equal(inside, layer(image))


def test_statistics_of_bfloat16_values_are_computed_in_full_precision(random):
    """Also far from zero, where bfloat16 has no digit left for the deviation."""
    norm = nn.BatchNorm2d(3).eval()
    graph = add_statistics(graph_of(norm))
    norm.running_mean[:], norm.running_var[:] = torch.tensor([99.0, 0, 0]), torch.tensor([2.0, 1, 1])
    x = (torch.randn(64, 3, 8, 8, generator=random) + torch.tensor([100.0, 0.1, -0.1])[:, None, None]).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    made = []
    for values in (x, x.float()):
        values = values.requires_grad_()
        out, ((mean, var),) = graph(values)
        loss = (mean - 1).square().sum() + (var - 2).square().sum() + out.float().square().mean()
        made.append((out, mean, var, *torch.autograd.grad(loss, values)))
    assert [a.dtype for a in made[0]] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    for a, b, rtol in zip(*made, (2**-8, 1e-5, 1e-5, 2**-6), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=rtol, atol=rtol * b.abs().max().item())


@pytest.mark.parametrize("bits", [3, 8])
def test_fake_quantize_of_bfloat16_agrees_with_that_of_float32(random, bits):
    x = torch.randn(8, 6, 16, 16, generator=random).bfloat16().contiguous(memory_format=torch.channels_last)
    direction = torch.randn(8, 6, 16, 16, generator=random).bfloat16()
    made = []
    for values in (x, x.float()):
        values = values.requires_grad_()
        scale = torch.tensor(4.0 / 2**bits).requires_grad_()  # some are clipped
        out = fake_quantize(values, scale, torch.tensor(2.0 ** (bits - 1)), 2**bits - 1)
        made.append((out, *torch.autograd.grad(out, [values, scale], direction.to(out.dtype))))
    (out, grad, on_scale), (wanted, wanted_grad, wanted_on_scale) = made
    assert (out != wanted).float().mean() < 0.01  # a value between two grid points may go either way
    assert (out - wanted).abs().max() <= 4.0 / 2**bits
    assert (grad != wanted_grad).float().mean() < 0.01
    assert on_scale.item() == pytest.approx(wanted_on_scale.item(), rel=0.02)


def test_auto_precision_is_bfloat16_only_on_cpus_where_it_is_fast(monkeypatch, layer):
    assert multiplies_bfloat16({"avx512_bf16": True})
    assert multiplies_bfloat16({"amx_bf16": True, "avx512_bf16": False})
    assert multiplies_bfloat16({"avx512_bf16": True, "cpu_name": "AMD EPYC"})
    assert multiplies_bfloat16({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"})
    assert not multiplies_bfloat16({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"})
    assert not multiplies_bfloat16({"avx2": True, "avx512_bf16": False})
    x, graph = torch.randn(1, 4, 9, 9), graph_of(layer, (4, 9, 9))
    plain = layer(x)
    for has, same in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert torch.equal(in_precision(graph, "auto", "cpu")(x), plain) == same
        for choice in (("auto", "cuda"), ("float32", "cpu")):
            assert torch.equal(in_precision(graph, *choice)(x), plain)
    assert not torch.equal(in_precision(graph, "bfloat16", "cpu")(x), plain)
