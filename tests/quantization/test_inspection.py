"""Bits and operations of layers that are called several times."""

import pytest
import torch
from torch import Tensor, nn

from intraq_cli.quantization.budget import candidates
from intraq_cli.quantization.inspection import bit_operations, inspect_layers, low_bit_share
from intraq_cli.quantization.plan import form_of, plan_quantization
from tests.conftest import graph_of, trained


class Shared(nn.Module):
    """A convolution that is called three times, of which only the first call reads the output of a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.shared = nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.shared(self.shared(self.shared(x)))
        return self.head(torch.relu(x).mean((2, 3)))


STEM, SHARED, HEAD = 8 * 8 * 6 * 3 * 9, 8 * 8 * 6 * 6 * 9, 6 * 4
"""Multiply-adds of a call."""
FLOAT = 32


@pytest.fixture
def rows():
    def made(w, a, placement):
        graph = form_of(graph_of(trained(Shared())), placement)
        return inspect_layers(graph, plan_quantization(graph, w, a, placement))

    return made


def test_calls_with_float_inputs_do_not_count_as_low_bit(rows):
    found = rows(4, 4, "activations")
    assert [row.call_bits for row in found] == [[None], [4, None, None], [None]]
    assert [row.a_bits for row in found] == [None, None, None]
    assert low_bit_share(found) == pytest.approx(100 * SHARED / (STEM + 3 * SHARED + HEAD))
    assert bit_operations(found) == 4 * FLOAT * (STEM + HEAD) + 4 * (4 + 2 * FLOAT) * SHARED


def test_only_the_first_call_of_the_first_layer_gets_the_image_bits(rows):
    class Twice(Shared):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.stem(torch.relu(self.norm(self.stem(x)))[:, :3])))
            return self.head(x.mean((2, 3)))

    graph = graph_of(trained(Twice()))
    found = inspect_layers(graph, plan_quantization(graph, 4, 4, "inputs"))
    assert found[0].call_bits == [8, 4]
    assert found[0].a_bits == 8
    assert bit_operations(found) == 4 * (8 + 4) * STEM + 4 * 4 * HEAD


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
def test_estimated_bit_operations_equal_those_of_the_planned_network(placement):
    graph = form_of(graph_of(trained(Shared())), placement)
    plans = [plan_quantization(graph, bits, bits, placement) for bits in (2, 8)]
    of_layers = candidates(graph, *plans, w=tuple(range(2, 9)), a=tuple(range(2, 9)))
    for plan, bits in zip(plans, (2, 8), strict=True):
        cost = sum(one.size("bit operations", (bits, bits)) for one in of_layers)
        assert cost == bit_operations(inspect_layers(graph, plan))
