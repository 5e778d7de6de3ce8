import pytest
import torch
from torch import Tensor, nn

from intraq_cli.graph.capture import capture
from intraq_cli.graph.layers import quantizable

IMAGES = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


class Product(nn.Module):
    """A product with a parameter in one spelling, flattened to logits."""

    def __init__(self, shape: tuple[int, ...], spelling: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        self.bias = nn.Parameter(torch.randn(7, generator=torch.Generator().manual_seed(2)))
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        names = {"x": x, "flat": x.flatten(2), "pooled": x.mean((2, 3)), "W": self.weight, "b": self.bias}
        made: Tensor = eval(self.spelling, {"torch": torch}, names)
        return made.flatten(1)


def captured(shape: tuple[int, ...], spelling: str) -> tuple[list[str], float]:
    """Kinds of the layers found, and the largest difference between the graph's and network's outputs."""
    network = Product(shape, spelling).eval()
    graph = capture(network, IMAGES[:2])
    with torch.no_grad():
        return [layer.kind for layer in quantizable(graph)], float((graph(IMAGES) - network(IMAGES)).abs().max())


@pytest.mark.parametrize(
    ("shape", "spelling"),
    [
        ((4, 7), "pooled @ W"),
        ((4, 7), "torch.addmm(b, pooled, W)"),
        ((7, 4), "W @ flat"),
        ((7, 4), "W @ x.mean(3)"),
        ((7, 4), "torch.einsum('bchw,oc->bohw', x, W)"),
        ((7, 4), "torch.einsum('oc,bchw->bohw', W, x)"),
        ((7, 4), "torch.einsum('oc,bc...->bo...', W, x)"),
        ((4, 7), "torch.einsum('bc,ca', pooled, W)"),
        ((4, 7), "torch.einsum('...c,co->...o', x.permute(0, 2, 3, 1), W)"),
        ((4, 5, 6, 7), "torch.einsum('bchw,chwo->bo', x, W)"),
        ((4, 5, 2, 3), "torch.einsum('bchw,chde->bdew', x, W)"),
        ((7, 4), "torch.inner(pooled, W)"),
        ((7, 6), "torch.inner(W, x)"),
        ((5, 7, 4), "torch.tensordot(x, W, ([1, 2], [2, 0]))"),
        ((7, 4), "torch.tensordot(W, x, ([-1], [1])).movedim(1, 0)"),
        ((6, 7), "torch.einsum('b c h w, w o -> b o c h', x, W)"),
        ((7, 4), "torch.bmm(W.expand(x.shape[0], 7, 4), flat)"),
        ((1, 7, 4), "W.repeat(x.shape[0], 1, 1) @ flat"),
        ((1, 4, 7), "torch.einsum('bij,bik->bkj', W.expand(x.shape[0], -1, -1), flat)"),
    ],
)
def test_products_with_a_parameter_become_linear_layers(shape: tuple[int, ...], spelling: str) -> None:
    kinds, difference = captured(shape, spelling)
    assert kinds == ["linear"]
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("shape", "spelling"),
    [
        ((4, 7), "torch.addmm(b, pooled, W, alpha=2.0)"),
        ((4,), "(pooled @ W)[:, None]"),  # a vector adds no dimension
        ((4, 7), "torch.einsum('bc,co->bco', pooled, W)"),  # nothing is summed over
        ((4, 5, 7), "torch.einsum('bchw,cho->bco', x, W)"),  # a separate matrix for each channel
        ((4, 7), "torch.einsum('bchw,co->bo', x, W)"),  # sums over dimensions that the parameter lacks
        ((1, 7), "torch.einsum('bc,co->bo', pooled, W)"),  # the only row is broadcast
    ],
)
def test_products_that_no_linear_layer_computes_are_left_unchanged(shape: tuple[int, ...], spelling: str) -> None:
    kinds, difference = captured(shape, spelling)
    assert kinds == []
    assert difference < 1e-5
