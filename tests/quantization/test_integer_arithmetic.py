"""A loaded network with placement ``integer`` computes the same codes as integer arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.quantization.integer_arithmetic import EXACT, compute_on_integers, sum_of_two
from intraq_cli.quantization.quantizers import ActivationQuantizer, FixedWeight
from tests.conftest import SmallNet, frozen_student, graph_of, student_of, trained

SHAPE = (3, 8, 8)


def on_integers(network, w, a):
    """The network simulated in floats, and computed on integers."""
    simulated, exact = (frozen_student(network, w, a) for _ in range(2))
    compute_on_integers(exact)
    return simulated, exact


@pytest.mark.parametrize(("w", "a"), [(2, 2), (4, 4), (8, 8), (4, 8)])
def test_integer_arithmetic_agrees_with_the_simulation_on_most_images(w, a, random):
    simulated, exact = on_integers(trained(SmallNet(16)), w, a)
    x = torch.randn(64, *SHAPE, generator=random)
    close = (simulated(x) - exact(x)).abs().amax(1) < 1e-4
    assert close.float().mean() > 0.9


class Plain(nn.Module):
    """Two layers, few enough to write their arithmetic out."""

    def __init__(self, width=8):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(F.relu6(self.norm(self.conv(x))).mean((2, 3)))


def float32(x):
    return x.astype(np.float32)


@pytest.mark.parametrize("bits", [3, 8])
def test_logits_equal_those_of_int64_arithmetic(bits, random):
    """The whole network written out in int64, with a float32 multiplication at every change of the grid."""
    simulated, exact = on_integers(trained(Plain()), bits, bits)
    image, hidden, pooled = simulated.activation_quantizers.values()
    biases = simulated.float_tensors

    def codes(layer):
        holder = simulated.weights[layer]
        scale = holder.scale().numpy()
        return (holder().numpy() / scale.reshape(-1, *[1] * (holder().dim() - 1))).round().astype(np.int64), scale

    def grid(site):
        return site.scale().numpy(), int(site.zero_point)

    def leave(sums, factor, site, ends=None):
        _, zero = grid(site)
        low, high = ends or (-zero, site.top - zero)
        return np.clip(np.rint(float32(sums) * factor), low, high).astype(np.int64)

    x = torch.randn(6, *SHAPE, generator=random)
    (s0, _), (s1, z1), (s2, _) = map(grid, (image, hidden, pooled))
    first = leave(x.numpy() / s0, np.float32(1), image)
    (w, sw), (v, sv) = codes("conv"), codes("fc")
    places = np.lib.stride_tricks.sliding_window_view(first, (3, 3), (2, 3))
    sums = np.einsum("bchwij,ocij->bohw", places, w)
    sums += np.rint(biases["conv.bias"].numpy() / (s0 * sw)).astype(np.int64)[:, None, None]
    ends = (hidden.code(0.0) - z1, hidden.code(6.0) - z1)
    second = leave(sums, (s0 * sw / s1)[:, None, None], hidden, ends)
    mean = leave(second.sum((2, 3)), s1 / np.float32(s2 * second.shape[2] * second.shape[3]), pooled)
    logits = mean @ v.T + np.rint(biases["fc.bias"].numpy() / (s2 * sv)).astype(np.int64)
    assert np.array_equal(float32(logits) * (s2 * sv), exact(x).numpy())


def test_sums_too_large_for_float32_are_exact_before_a_single_rounding(random):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4096, 3)

        def forward(self, x):
            return self.fc(x.flatten(1))

    simulated = student_of(graph_of(Wide(), (1, 64, 64)), 8, 8, "integer")
    (name,) = simulated.plan.weights
    codes = torch.randint(-64, 65, (3, 4096), generator=random)
    codes[0] = 64  # 4096 * 64 * 255 is 66 million
    simulated.set_weight(name, FixedWeight(codes.float(), torch.ones(3)))
    (site,) = simulated.activation_quantizers.values()
    site.set_grid(torch.tensor(1.0), torch.tensor(0.0))
    compute_on_integers(simulated.requires_grad_(False))
    x = torch.randint(0, 256, (9, 1, 64, 64), generator=random)
    x[0] = 255
    bias = simulated.float_tensors["fc.bias"].round().long()
    wanted = x.flatten(1) @ codes.T + bias  # in int64
    assert wanted.max() > 3 * EXACT
    assert torch.equal(simulated(x.float()), wanted.float())


def test_sum_of_two_activations_is_rounded_like_fused_multiply_adds(random):
    wide = np.longdouble

    def fused(x, y, c):
        return (np.asarray(x, wide) * wide(y) + np.asarray(c, wide)).astype(np.float32)

    for _ in range(50):
        sa, sb, s = (float32(torch.rand(3, generator=random).numpy() * 0.4 + 0.1)).tolist()
        (za, zb, z), (a, b) = (torch.randint(0, 256, n, generator=random) for n in ((3,), (2, 4096)))
        ra, rb = np.float32(sa) / np.float32(s), np.float32(sb) / np.float32(s)
        fixed = np.float32(int(z)) - fused(int(za), ra, rb * np.float32(int(zb)))
        wanted = np.clip(np.rint(fused(a.numpy(), ra, fused(b.numpy(), rb, fixed))), 0, 255) - int(z)
        scales, zeros = tuple(torch.tensor(value) for value in (sa, sb, s)), (int(za), int(zb), int(z))
        got = sum_of_two((a - za).float(), (b - zb).float(), scales, zeros, -int(z), 255 - int(z))
        assert np.array_equal(got.numpy(), wanted)


def test_either_addend_of_a_sum_can_be_broadcast(random):
    scales, zeros = tuple(torch.tensor([0.3, 0.2, 0.4])), (3, 250, 128)
    small, large = (torch.randint(-3, 5, shape, generator=random).float() for shape in ((2, 4, 1, 1), (2, 4, 5, 6)))
    for a, b in ((small, large), (large, small)):
        got = sum_of_two(a.clone(), b.clone(), scales, zeros, -128, 127)
        each = (x.expand_as(large).clone() for x in (a, b))
        assert torch.equal(got, sum_of_two(*each, scales, zeros, -128, 127))


def test_integer_network_has_gradients_and_keeps_its_quantizers(random):
    simulated, exact = on_integers(trained(SmallNet(16)), 8, 8)
    x = torch.randn(4, *SHAPE, generator=random)
    grads = [
        torch.autograd.grad(net(y := x.clone().requires_grad_()).square().sum(), y)[0] for net in (simulated, exact)
    ]
    assert torch.cosine_similarity(grads[0].flatten(), grads[1].flatten(), 0) > 0.99
    assert exact.weights.keys() == simulated.weights.keys()
    assert all(isinstance(site, ActivationQuantizer) for site in exact.activation_quantizers.values())
    assert exact.state_dict().keys() == simulated.state_dict().keys()


def test_networks_of_other_placements_are_not_converted():
    student = frozen_student(SmallNet().eval(), 4, 4, "inputs")
    before = student.body
    compute_on_integers(student)
    assert student.body is student.graph is before
