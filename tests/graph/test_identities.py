"""Calls that return their input unchanged are removed: the graph is that of the network without them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.nodes import calls
from intraq_cli.quantization.inspection import inspect_layers
from intraq_cli.quantization.plan import plan_quantization
from tests.conftest import graph_of, trained

aten = torch.ops.aten


class With(nn.Module):
    """Two layers, and something between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 8)
        self.between = between

    def forward(self, x):
        x = F.relu(self.between(self.norm(self.between(self.first(x)))))
        return self.second(self.between(x)).flatten(1)


NOTHING = {
    "sum of a list": lambda x: sum([x]),
    "in place": lambda x: x.clone().add_(0),
    "minus nothing": lambda x: x - 0.0,
    "times one": lambda x: 1.0 * x,
    "by one": lambda x: x / 1,
    "power of one": lambda x: x**1,
    "float": lambda x: x.float(),
    "the type that it has": lambda x: x.to(x.dtype),
    "the device that it is on": lambda x: x.to(x.device),
    "as itself": lambda x: x.type_as(x).view_as(x),
    "detached": lambda x: x.detach(),
    "concatenated alone": lambda x: torch.cat([x], 1),
    "pooled by one": lambda x: F.avg_pool2d(x, 1, 1),
    "pooled to its size": lambda x: F.adaptive_avg_pool2d(x, x.shape[2:]),
    "scaled to its size": lambda x: F.interpolate(x, size=(8, 8), mode="bilinear"),
}


@pytest.mark.parametrize("between", NOTHING.values(), ids=NOTHING)
def test_calls_that_return_their_input_unchanged_are_removed(between):
    network = trained(With(between))
    graph, plain = graph_of(network), graph_of(With(lambda x: x).eval().requires_grad_(False))
    own = [call.target for call in calls(graph) if call.target not in (aten.clone.default, getattr)]
    assert own == [call.target for call in calls(plain)]
    image = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(graph(image), network(image))


SOMETHING = {
    "plus half": lambda x: x + 0.5,
    "doubled": lambda x: 2 * x,
    "squared": lambda x: x**2,
    "rounded to halves": lambda x: x.half().float(),
    "pooled": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "scaled within": lambda x: F.interpolate(F.interpolate(x, scale_factor=0.5), size=(8, 8), mode="bilinear"),
    "a tensor that is one": lambda x: x * torch.ones(1),
}


@pytest.mark.parametrize("between", SOMETHING.values(), ids=SOMETHING)
def test_calls_that_change_their_input_are_kept(between):
    graph, plain = graph_of(trained(With(between))), graph_of(With(lambda x: x).eval().requires_grad_(False))
    assert len(calls(graph)) > len(calls(plain))


def test_layer_after_a_removed_conversion_reads_the_quantized_activation():
    graph = graph_of(trained(With(lambda x: x.float())))
    plan = plan_quantization(graph, 4, 4, "activations")
    assert [layer.a_bits for layer in inspect_layers(graph, plan)] == [None, 4]
