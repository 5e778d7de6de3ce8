"""A captured graph computes the same as its network, writes to no tensor, and has equal calls once."""

import pytest
import torch
from torch.nn import functional as F

from intraq_cli.graph.nodes import calls, tensors
from tests.conftest import graph_of
from tests.graph.odd_code import with_middle

aten = torch.ops.aten


def written_over(self, x):
    x[:, :2] = 0
    x[:, 2:4].mul_(2)
    flat = x.view(len(x), 6, -1)
    x += 1
    return flat[..., None] + x.flatten(2)[..., None]


def written_behind_a_view_of_a_view(self, x):
    turned = x.flatten(2).transpose(1, 2)
    same = F.dropout(x, 0.5, training=False)
    same.mul_(3)
    return turned.transpose(1, 2)[..., None]


def without_gradient(self, x):
    with torch.no_grad():
        return F.hardtanh_(F.relu_(x).add_(1), 0.5, 3)


def without_autocast(self, x):
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return x.float() * 2 + x.square()


def made_on_the_way(self, x):
    grid = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    return x * grid + torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)


def scaled_by_a_value(self, x):
    return x * x.mean().item()


def complex_filter(self, x):
    return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])


@pytest.mark.parametrize(
    "middle",
    [
        written_over,
        written_behind_a_view_of_a_view,
        without_gradient,
        without_autocast,
        made_on_the_way,
        scaled_by_a_value,
        complex_filter,
        lambda self, x: x,
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_captured_graph_computes_the_same_as_its_network(middle, batch, random):
    network = with_middle(middle)
    x = torch.randn(batch, 3, 8, 8, generator=random)
    given = x.clone()
    graph = graph_of(network)
    assert torch.equal(graph(x), network(x))
    assert torch.equal(x, given)
    assert not any(node.target._schema.is_mutable for node in calls(graph) if hasattr(node.target, "_schema"))


def test_captured_graph_shares_the_tensors_of_its_network(network):
    graph = graph_of(network)
    held = tensors(graph)
    assert held["conv1.weight"] is network.conv1.weight
    assert held["bn1.running_var"] is network.bn1.running_var
    assert not any(key.endswith("num_batches_tracked") for key in held)  # the graph does not read it


def test_common_beginning_of_several_branches_is_computed_once(random):
    def branches(self, x):
        return F.relu(x - 1) + 2 * F.relu(x - 1) + F.leaky_relu(x - 1, 0.1) + F.leaky_relu(x - 1, 0.2)

    network = with_middle(branches)
    graph, x = graph_of(network), torch.randn(3, 3, 8, 8, generator=random)
    found = [call.target for call in calls(graph, aten.sub.Tensor, aten.relu.default, aten.leaky_relu.default)]
    assert found == [aten.relu.default, aten.sub.Tensor, aten.relu.default, *2 * [aten.leaky_relu.default]]
    assert torch.equal(graph(x), network(x))


def test_equal_calls_that_draw_random_numbers_are_not_merged():
    graph = graph_of(with_middle(lambda self, x: x + torch.rand_like(x) + torch.rand_like(x)))
    assert len(calls(graph, aten.rand_like.default)) == 2
