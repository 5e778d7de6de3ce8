"""Operations that depend on the batch size or on the memory layout are captured in a form that does not."""

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import graph_of
from tests.graph.odd_code import with_middle


def test_squeeze_keeps_the_batch_dimension_of_a_single_image(random):
    network = with_middle(lambda self, x: F.adaptive_avg_pool2d(x, 1).squeeze()[..., None, None])
    graph, x = graph_of(network), torch.randn(3, 3, 8, 8, generator=random)
    assert torch.equal(graph(x), network(x))
    assert graph(x[:1]).shape == (1, 4)
    assert torch.allclose(graph(x[:1]), graph(x)[:1], atol=1e-6)


@pytest.mark.parametrize(
    "middle",
    [
        lambda self, x: x.as_strided((len(x), 6, 3), (6 * 36, 36, 1))[..., None],
        lambda self, x: torch.view_as_complex(x.unflatten(3, (3, 2))).abs(),
        lambda self, x: x.view(torch.int32).bitwise_and(-2).view(torch.float32),
    ],
)
def test_operations_that_depend_on_memory_layout_see_the_captured_layout(middle, random):
    network = with_middle(middle)
    graph, x = graph_of(network), torch.randn(2, 3, 8, 8, generator=random)
    wanted = network(x)
    for tensor in network.parameters():
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(graph(x.contiguous(memory_format=torch.channels_last)), wanted, atol=1e-5)
