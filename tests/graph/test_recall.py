"""A network that equals one captured before is not captured again, and any difference is noticed."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph import recall
from intraq_cli.graph.nodes import tensors
from tests.conftest import SmallNet, graph_of, trained

FACTOR = 2.0


class Attributes(nn.Module):
    """Reads what is given to it by keyword, and a global of this module."""

    def __init__(self, **attributes):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.factor, self.shift, self.function = 1.0, torch.zeros(1), F.relu
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return FACTOR * self.fc(self.factor * self.function(self.norm(self.conv(x)) + self.shift).mean((2, 3)))


def without_activation(self, x):
    return self.fc(self.norm(self.conv(x)).mean((2, 3)))


@pytest.fixture
def exported(monkeypatch):
    """The networks that were exported in this test."""
    networks, export = [], torch.export.export
    monkeypatch.setattr(recall, "_graphs", {})
    monkeypatch.setattr(
        torch.export, "export", lambda net, *rest, **named: [networks.append(net), export(net, *rest, **named)][1]
    )
    return networks


def answers_as(graph, network, shape=(3, 8, 8)):
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(3))
    return torch.allclose(graph(x), network(x), atol=1e-5)


def test_equal_network_with_other_values_is_not_captured_again(exported):
    first, second = trained(SmallNet()), trained(SmallNet(), seed=1)
    graph_of(first)
    graph = graph_of(second)
    assert exported == [first]
    assert answers_as(graph, second)
    assert not answers_as(graph, first)
    own = dict(second.named_parameters()) | dict(second.named_buffers())
    assert all(tensor is own[key] for key, tensor in tensors(graph).items())
    assert [node.meta["path"] for node in graph.graph.nodes] == [
        node.meta["path"] for node in graph_of(first).graph.nodes
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Attributes, lambda: Attributes(factor=3.0)),
        (lambda: Attributes(shift=torch.ones(1)), lambda: Attributes(shift=torch.full((1,), 0.5))),
        (Attributes, lambda: Attributes(function=F.relu6)),
        (Attributes, lambda: Attributes(function=lambda x: x.clamp(max=0.5))),
        (Attributes, lambda: Attributes(norm=nn.BatchNorm2d(6, eps=0.5))),
        (Attributes, lambda: Attributes(conv=nn.Conv2d(3, 6, 3, stride=2))),
        (Attributes, lambda: type("Attributes", (Attributes,), {"forward": without_activation})()),
    ],
    ids=["number", "tensor", "function", "lambda", "setting", "stride", "class of the same name"],
)
def test_any_difference_is_captured(exported, one, other):
    networks = [trained(one()), trained(other())]
    graphs = [graph_of(network) for network in networks]
    assert exported == networks
    assert all(answers_as(graph, network) for graph, network in zip(graphs, networks, strict=True))


def test_tied_weights_are_a_difference(exported):
    apart, tied = trained(SmallNet()), trained(SmallNet())
    tied.bn2.weight = tied.bn1.weight
    assert len(tensors(graph_of(apart))) == len(tensors(graph_of(tied))) + 1
    assert exported == [apart, tied]


def test_size_of_the_input_is_a_difference(exported, network):
    graph_of(network)
    graph_of(network, (3, 12, 12))
    assert exported == [network, network]


def test_network_that_reads_a_changed_global_is_captured_again(exported, monkeypatch):
    network = trained(Attributes())
    graph_of(network)
    monkeypatch.setattr("tests.graph.test_recall.FACTOR", 5.0)
    assert answers_as(graph_of(network), network)
    assert exported == [network, network]


def test_network_with_an_object_that_cannot_be_pickled_is_captured_every_time(exported):
    network = trained(Attributes(lock=threading.Lock()))
    assert all(answers_as(graph_of(network), network) for _ in range(2))
    assert exported == [network, network]


def test_kept_graphs_are_few_and_hold_no_values_of_the_network(exported, network):
    for size in range(8, 8 + recall.MOST + 2):
        graph_of(network, (3, size, size))
    kept = recall._graphs.values()
    assert len(kept) == recall.MOST
    assert all(tensor.is_meta for graph in kept for tensor in tensors(graph).values())
