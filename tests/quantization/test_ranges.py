import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.layers import layers
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.float_statistics import FloatRun
from intraq_cli.quantization.ranges import BINS, clipped_pooled_values, worst_ranges
from intraq_cli.recipe import Quantization
from tests.conftest import SmallNet, graph_of, student_of, trained


@pytest.fixture
def student(network):
    graph = graph_of(network)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    made = student_of(graph, a=3)
    calibrate(made, graph, images, Quantization(), False)
    made.freeze()
    return made, images


def test_range_statistics_equal_those_of_a_loop_over_all_values(student):
    network, images = student
    seen = {}
    hooks = [
        quantizer.register_forward_pre_hook(lambda module, args, site=site: seen.__setitem__(site, args[0].flatten()))
        for site, quantizer in network.activation_quantizers.items()
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    found = worst_ranges(network, images, 99)
    assert {one.site for one in found} == set(seen)
    assert [one.sqnr for one in found] == sorted(one.sqnr for one in found)
    for one in found:
        quantizer, values = network.activation_quantizers[one.site], seen[one.site].tolist()
        scale, zero = float(quantizer.scale()), float(quantizer.zero_point)
        grid = [(code - zero) * scale for code in range(2**one.bits)]
        assert (one.grid_low, one.grid_high) == pytest.approx((grid[0], grid[-1]), rel=1e-5)
        assert (one.low, one.high) == (min(values), max(values))
        beyond = [x for x in values if x < grid[0] - scale / 2 or x > grid[-1] + scale / 2]
        assert one.clipped == pytest.approx(100 * len(beyond) / len(values), abs=0.02)
        mean = sum(values) / len(values)
        signal = sum((x - mean) ** 2 for x in values)
        noise = sum(min((x - g) ** 2 for g in grid) for x in values)
        assert 10 ** (one.sqnr / 10) == pytest.approx(signal / noise, rel=1e-3)
        expected = [0] * BINS
        for x in values:
            expected[min(BINS - 1, int((x - one.low) / (one.high - one.low) * BINS))] += 1
        assert sum(one.counts) == len(values)
        assert sum(abs(a - b) for a, b in zip(one.counts, expected, strict=True)) <= 4  # rounding at the edges


def test_only_the_worst_ranges_are_returned_and_hooks_are_removed(student):
    network, images = student
    every = worst_ranges(network, images, 99)
    assert worst_ranges(network, images, 2) == every[:2]
    assert not any(quantizer._forward_hooks for quantizer in network.activation_quantizers.values())
    (one,) = worst_ranges(network, torch.zeros(2, 3, 8, 8), 1)
    assert sum(one.counts) > 0


class PooledToFour(SmallNet):
    """Averages the quarters of an image: four positions each if it has 8x8 pixels, 16 if it has 16x16."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2).clamp(max=50)).mean((2, 3))


@pytest.mark.parametrize(("network", "size"), [(SmallNet, 8), (PooledToFour, 16)])
def test_pooled_values_that_random_images_push_beyond_a_grid_are_covered_by_the_next_one(random, network, size):
    """Means of independent samples hardly vary: their range alone clips what bright and dark images pool."""
    graph = graph_of(trained(network()), (3, size, size))
    images = torch.randn(64, 3, size, size, generator=random) + 4 * torch.randn(64, 3, 1, 1, generator=random)
    first, second = student_of(graph, 8, 8, "inputs"), student_of(graph, 8, 8, "inputs")
    calibrate(first, graph, images, Quantization(), sampled=True)
    found = clipped_pooled_values(first, graph, images.split(24))
    classifier = layers(graph)[-1].calls[0]
    torch.testing.assert_close(found, {"fc": FloatRun(graph, images).read_by(classifier.name)})
    calibrate(second, graph, images, Quantization(), sampled=True, pooled=found)
    before, after = (
        float((one.activation_quantizers["fc"](found["fc"]).detach() - found["fc"]).square().mean() / found["fc"].var())
        for one in (first, second)
    )
    assert before > 0.05
    assert after < 1e-3


def test_mean_of_few_positions_is_left_to_the_statistics(random):
    """Neighbours are alike, but not that much: the mean of four samples is nearly as wide as that of an image."""
    graph = graph_of(trained(PooledToFour()), (3, 8, 8))
    images = torch.randn(64, 3, 8, 8, generator=random) + 4 * torch.randn(64, 3, 1, 1, generator=random)
    student = student_of(graph, 8, 8, "inputs")
    calibrate(student, graph, images, Quantization(), sampled=True)
    assert clipped_pooled_values(student, graph, [images]) == {}
