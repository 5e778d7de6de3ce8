import math

import pytest
import torch
from torch import nn

from intraq_cli.evaluation.fidelity import Fidelity, fidelity, is_clearly_worse
from tests.conftest import graph_of


class Noisy(nn.Module):
    """Predicts the class by the first pixel; ``noise`` is added to the batch norm's output."""

    def __init__(self, noise=0.0, shift=0):
        super().__init__()
        self.bn = nn.BatchNorm2d(1, affine=True)
        self.bn.bias.data.fill_(noise)
        self.shift = shift

    def forward(self, x):
        hidden = 0 * self.bn(x).mean((1, 2, 3))[:, None]
        return (((x[:, :1, 0, 0].long() + self.shift) % 8) == torch.arange(8)) + hidden


def noisy(*args, shape=(1, 1, 1)):
    """The network and its graph."""
    network = Noisy(*args).eval().requires_grad_(False)
    return network, graph_of(network, shape)


@pytest.mark.parametrize("size", [8, 3])
def test_agreement_divergence_and_sqnr_equal_those_computed_by_hand(size):
    x = torch.arange(8.0).view(8, 1, 1, 1)
    found = fidelity(noisy(0.1, 1)[1], *noisy(), x.split(size))
    p, q = torch.eye(8)[0].log_softmax(0), torch.eye(8)[1].log_softmax(0)
    assert (found.n, found.agreement) == (8, 0.0)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-5)
    signal = (8**2 - 1) / 12 / (1 + 1e-5)  # the variance of 0 to 7; noise 0.1 everywhere
    assert found.sqnr["bn"] == pytest.approx(10 * math.log10(signal / 0.01), abs=1e-3)


def test_logits_are_compared_with_the_network_and_values_with_the_graph():
    x = torch.arange(8.0).view(8, 1, 1, 1)
    network, (_, equalized) = noisy(0.5, 1)[0], noisy(0.1)
    found = fidelity(noisy(0.1, 1)[1], network, equalized, [x])
    assert (found.agreement, found.kl, found.sqnr["bn"]) == (100.0, 0.0, math.inf)


def test_network_agrees_perfectly_with_itself():
    network, graph = noisy(shape=(1, 2, 2))
    found = fidelity(graph, network, graph, [torch.randn(4, 1, 2, 2)])
    assert (found.agreement, found.kl, found.sqnr["bn"]) == (100.0, 0.0, math.inf)


def test_networks_with_nan_logits_do_not_agree():
    network, graph = noisy()
    network.bn.bias.data.fill_(math.nan)  # the graph shares it
    found = fidelity(graph, network, graph, [torch.arange(8.0).view(8, 1, 1, 1)])
    assert found.agreement == 0.0
    assert math.isnan(found.kl)


def test_agreement_is_nan_without_images():
    network, graph = noisy()
    assert math.isnan(fidelity(graph, network, graph, []).agreement)


@pytest.mark.parametrize(
    ("n", "before", "after", "expected"),
    [
        (32, (78.125, 0.55), (75.0, 0.7), False),  # the difference is one image
        (1000, (78.0, 0.55), (70.0, 0.7), True),
        (1000, (78.0, 0.55), (70.0, 0.5), False),  # closer in divergence
        (128, (100.0, 0.01), (87.5, 0.5), True),
        (128, (100.0, 0.01), (100.0, 0.02), False),
        (128, (90.0, 0.1), (20.0, float("nan")), True),
    ],
)
def test_network_is_clearly_worse_only_if_agreement_fell_beyond_chance(n, before, after, expected):
    assert is_clearly_worse(Fidelity(n, *after), Fidelity(n, *before)) is expected
