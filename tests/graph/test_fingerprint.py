"""The digest of a graph depends on what is computed, not on the values or layout of tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.capture import capture
from intraq_cli.graph.fingerprint import TORCH, fingerprint, is_other_code


class Net(nn.Module):
    def __init__(self, way=lambda x: F.leaky_relu(x, 0.1)):
        super().__init__()
        self.conv, self.fc, self.way = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), way

    def forward(self, x):
        return self.fc(self.way(self.conv(x)).mean((2, 3)))


def digest(network, size=8):
    return fingerprint(capture(network.eval().requires_grad_(False), torch.zeros(2, 3, size, size)))


def test_digest_does_not_depend_on_values_or_layout_of_tensors():
    assert digest(Net()) == digest(Net())
    assert digest(Net())["torch"] == TORCH
    laid_out = Net()
    laid_out.conv.weight.data = laid_out.conv.weight.data.to(memory_format=torch.channels_last)
    assert digest(laid_out) == digest(Net())


@pytest.mark.parametrize(
    "way",
    [
        lambda x: F.leaky_relu(x, 0.2),
        F.relu,
        lambda x: F.leaky_relu(x, 0.1) * 2,
        lambda x: F.leaky_relu(-x, 0.1),
        lambda x: F.leaky_relu(x.flip(1), 0.1),
    ],
)
def test_digest_depends_on_operations_their_order_and_constants(way):
    assert digest(Net(way)) != digest(Net())


def test_digests_are_compared_only_for_the_same_torch_version():
    graph = capture(Net().eval().requires_grad_(False), torch.zeros(2, 3, 8, 8))
    own = fingerprint(graph)
    assert not is_other_code(own, graph)
    assert is_other_code({**own, "sha256": "0" * 64}, graph)
    assert is_other_code({"torch": TORCH}, graph)
    for stated in (None, "text", {}, {"torch": "1.0", "sha256": "0" * 64}):
        assert not is_other_code(stated, graph)
