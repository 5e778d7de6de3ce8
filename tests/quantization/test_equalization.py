import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from intraq_cli.graph.nodes import calls, tensors
from intraq_cli.quantization.equalization import DENSE_POWER, DEVIATIONS, LARGEST_FACTOR, equalize, uncapped
from intraq_cli.quantization.quantizers import ActivationQuantizer
from tests.conftest import graph_of, trained

FOUR = dict.fromkeys(("dense", "depthwise", "grouped", "twice", "fc", "conv", "last"), (4, 4))
"""Bits of weights and activations, by layer."""


class Chain(nn.Module):
    """Every kind of path from a batch norm to the next layer."""

    def __init__(self, relu=F.relu):
        super().__init__()
        self.relu = relu
        self.dense, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.depthwise, self.bn2 = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.grouped, self.bn3 = nn.Conv2d(8, 4, 1, groups=2), nn.BatchNorm2d(4)
        self.twice, self.bn4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.dense(x)))
        x = self.relu(self.bn2(self.depthwise(F.pad(x, (1, 1, 1, 1)))))
        x = self.relu(self.bn3(self.grouped(x)))
        x = self.relu(self.bn4(self.twice(x)) + x)  # bn3's output goes two ways, bn4's output into a sum
        return self.fc(x.mean((2, 3)))


@pytest.fixture(params=[F.relu, F.leaky_relu, nn.ReLU(inplace=True)])
def chain(request):
    made = trained(Chain(request.param))
    with torch.no_grad():
        for norm in (made.bn1, made.bn2, made.bn3):
            norm.weight.mul_(torch.logspace(-1.5, -0.3, len(norm.weight)))
            norm.bias.mul_(0.1)
    return made


def moved(before, after):
    own = before.state_dict()
    return {key for key, value in tensors(after).items() if not torch.equal(value, own[key])}


def test_equalized_network_computes_the_same(chain):
    x = torch.randn(16, 3, 8, 8)
    before = copy.deepcopy(chain.state_dict())
    assert torch.allclose(equalize(graph_of(chain), FOUR)(x), chain(x), atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in chain.state_dict().items())


def test_only_channels_read_by_one_layer_through_a_relu_are_equalized(chain):
    made = equalize(graph_of(chain), FOUR)
    norms = {f"bn{k}.{part}" for k in (1, 2) for part in ("weight", "bias")}
    assert moved(chain, made) == norms | {"depthwise.weight", "grouped.weight"}


def test_channels_get_similar_ranges(chain):
    made = equalize(graph_of(chain), FOUR)
    for norm, power in (("bn1", 0.0), ("bn2", 1 - DENSE_POWER)):
        both = [(state[f"{norm}.weight"], state[f"{norm}.bias"]) for state in (chain.state_dict(), tensors(made))]
        tops = [bias + 4 * DEVIATIONS * weight.abs() for weight, bias in both]
        assert both[1][0].abs().min() > both[0][0].abs().min()
        wide, narrow = (top.max() / top.min() for top in tops)
        # ranges become equal before a depthwise convolution, and similar before a dense one, within the largest factor
        assert narrow.item() == pytest.approx(wide.item() ** power, rel=1e-3) or wide > LARGEST_FACTOR


def test_layers_called_several_times_are_not_equalized():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            for _ in range(2):
                x = F.relu(self.bn(self.conv(x)))
            return self.fc(x.mean((2, 3)))

    network = trained(Shared())
    assert not moved(network, equalize(graph_of(network, (3, 4, 4)), FOUR))


def test_channels_written_to_in_place_are_not_equalized():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.last, self.fc = (
                nn.Conv2d(3, 3, 1),
                nn.BatchNorm2d(3),
                nn.Conv2d(3, 3, 1),
                nn.Linear(3, 2),
            )

        def forward(self, x):
            x = F.relu(self.bn(self.conv(x)))
            x[:, 0] = 1.0
            return self.fc(self.last(x).mean((2, 3)))

    network = trained(Written())
    network.bn.weight.mul_(torch.tensor([0.1, 1.0, 0.3]))
    assert not moved(network, equalize(graph_of(network, (3, 4, 4)), FOUR))


@pytest.mark.parametrize("relu", [F.silu, F.hardswish, F.gelu, lambda x: x.clamp(0, 6)])
def test_channels_before_silu_hardswish_gelu_or_clamp_are_not_equalized(relu):
    network = trained(Chain(relu))
    network.bn1.weight.mul_(torch.logspace(-1.5, -0.3, 8))
    assert not moved(network, equalize(graph_of(network), FOUR))


@pytest.fixture(params=[F.relu6, nn.ReLU6(inplace=True), nn.Hardtanh(0.0, 2.0)])
def capped(request):
    made = trained(Chain(request.param))
    with torch.no_grad():
        made.bn1.weight.mul_(torch.logspace(-1.0, 1.0, 8))  # some channels never reach the bound, others often do
    return made


def test_relu6_gets_a_bound_per_channel_and_the_network_computes_the_same(capped):
    x = 2 * torch.randn(16, 3, 8, 8)
    made = equalize(graph_of(capped), FOUR)
    assert "depthwise.weight" in moved(capped, made)
    assert torch.allclose(made(x), capped(x), atol=1e-5)
    assert not torch.allclose(uncapped(made)(x), capped(x), atol=1e-5)


def test_quantized_activation_needs_no_bounds_per_channel(capped):
    """The grid ends below the range of the widest channel, and clips all that the bounds would."""
    before = graph_of(capped)
    graph = equalize(before, FOUR)
    assert [n.target for n in calls(uncapped(graph))] == [n.target for n in calls(before)]
    quantizer = ActivationQuantizer(4)
    quantizer.set_grid(torch.tensor(1.5 / 15), torch.tensor(0.0))
    x = 2 * torch.randn(16, 3, 8, 8)
    assert quantized_first(graph, quantizer, x).equal(quantized_first(uncapped(graph), quantizer, x))


def quantized_first(graph, quantizer, x):
    """The output of the first activation, quantized."""
    clamp = next(n for n in graph.graph.nodes if getattr(n.target, "__name__", "") in CLAMPS)
    values = {}

    class Watch(fx.Interpreter):
        def run_node(self, n):
            values[n] = super().run_node(n)
            return values[n]

    Watch(graph).run(x)
    return quantizer(values[clamp])


CLAMPS = ("clamp_channels", "hardtanh.default", "clamp.default", "relu6.default")


class Pooled(nn.Module):
    """Pooling between every activation and the next layer; the last, linear layer reads all positions or their mean."""

    def __init__(self, relu, last):
        super().__init__()
        self.relu, self.last_pool = relu, last
        self.dense, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.bn2 = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * (4 if last == "places" else 1), 5)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.bn1(self.dense(x))), 2)
        x = F.avg_pool2d(self.relu(self.bn2(self.conv(x))), 2)
        if self.last_pool == "places":
            return self.fc(x.flatten(1))
        x = F.adaptive_avg_pool2d(x, 1).view(x.shape[0], -1) if self.last_pool == "pool" else x.mean((-2, -1))
        return self.fc(x)


@pytest.mark.parametrize("relu", [F.relu, F.leaky_relu, F.relu6], ids=["relu", "leaky", "relu6"])
@pytest.mark.parametrize("last", ["places", "pool", "mean"])
def test_equalization_through_pooling_keeps_what_the_network_computes(relu, last):
    network = trained(Pooled(relu, last))
    with torch.no_grad():
        for norm in (network.bn1, network.bn2):
            norm.weight.mul_(torch.logspace(-1.5, 0, len(norm.weight)))
    made = equalize(graph_of(network), FOUR)
    # not through average pooling after ReLU6: averages of clipped values change if all channels get the same bound
    through = {
        "bn1.weight",
        "bn1.bias",
        "conv.weight",
        *(() if relu is F.relu6 else ("bn2.weight", "bn2.bias", "fc.weight")),
    }
    assert moved(network, made) == through
    x = 2 * torch.randn(16, 3, 8, 8)
    assert torch.allclose(made(x), network(x), atol=1e-5)


@pytest.mark.parametrize(
    "between", [lambda x: F.pad(x, (0, 0, 0, 0, 2, 0)), lambda x: x.flip(1), lambda x: x.mean(1, True).expand_as(x)]
)
def test_channels_that_are_moved_or_mixed_are_not_equalized(between):
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.conv = nn.LazyConv2d(4, 1)

        def forward(self, x):
            return self.conv(between(F.relu(self.bn1(self.dense(x))))).mean((2, 3))

    network = Moved()
    network(torch.randn(2, 3, 8, 8))
    network = trained(network)
    network.bn1.weight.data.mul_(torch.logspace(-1.5, 0, 8))
    assert not moved(network, equalize(graph_of(network), FOUR))


def test_positions_that_a_linear_layer_reads_are_not_taken_for_channels():
    """The linear layer reads the 36 positions of one channel at a time."""

    class TokenMixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.bn1, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(36, 36)

        def forward(self, x):
            x = F.relu(self.bn1(self.dense(x)))
            return self.fc(x.reshape(-1, 36)).reshape(x.shape).mean((2, 3))

    network = trained(TokenMixing())
    network.bn1.weight.data.mul_(torch.logspace(-1.5, 0, 8))
    assert not moved(network, equalize(graph_of(network), FOUR))
