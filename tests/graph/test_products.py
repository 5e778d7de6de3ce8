"""Products that are not layers: all are listed, with multiply-adds counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.layers import layers
from intraq_cli.graph.products import products
from intraq_cli.quantization.inspection import inspect_layers, low_bit_share
from intraq_cli.quantization.plan import plan_quantization
from tests.conftest import graph_of, trained


class Products(nn.Module):
    """Products that are not layers, and layers that do not look like one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left = nn.Parameter(torch.randn(5, 64))
        self.right, self.turned = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(12, 16))
        self.table = nn.Parameter(torch.randn(7, 16))
        self.lstm, self.pair = nn.LSTM(16, 6, batch_first=True), nn.Bilinear(6, 6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).flatten(2)  # (B, 8, 64)
        x = (self.left @ x.transpose(1, 2)) @ self.right  # (B, 5, 8), (B, 5, 12): linear layers both
        x = F.linear(x, self.turned.t())  # (B, 5, 16)
        x = x + torch.einsum("bie,bje->bij", x, x) @ self.table[:5]
        x = F.scaled_dot_product_attention(x, x, x)
        x = torch.bmm(torch.bmm(x, x.transpose(1, 2)), x)
        x, _ = self.lstm(x)
        return self.pair(x[:, 0], x[:, 1])


def test_all_layers_and_products_are_listed_with_their_multiply_adds():
    graph = graph_of(trained(Products()))
    assert [(layer.name, layer.shape) for layer in layers(graph)] == [
        ("conv", (8, 3, 3, 3)),
        ("left", (5, 64)),
        ("right", (12, 8)),
        ("turned", (16, 12)),
        ("table", (16, 5)),
    ]
    found = [(product.kind, product.multiply_adds) for product in products(graph)]
    assert found == [
        ("einsum", 5 * 5 * 16),
        ("attention", 5 * 5 * (16 + 16)),
        ("matmul", 5 * 5 * 16),
        ("matmul", 5 * 5 * 16),
        ("recurrent", 5 * (4 * 6 * 16 + 4 * 6 * 6)),
        ("bilinear", 4 * 6 * 6),
    ]
    rows = inspect_layers(graph, plan_quantization(graph, 4, 4, "inputs"))
    low = 64 * 8 * 27 + 5 * 8 * 64 + 5 * 12 * 8 + 5 * 16 * 12 + 5 * 16 * 5
    assert low_bit_share(rows) == pytest.approx(100 * low / (low + sum(count for _, count in found)))
    assert [row.kind for row in rows][:3] == ["conv2d", "linear", "linear"]


class Rarer(nn.Module):
    """Products written in other ways than ``@``, on features ``(B, 6)``; multiply-adds counted by hand."""

    COUNTS = (
        ("tensordot", 64 * 64 * 6),
        ("matmul", 8 * 8 * 8),
        ("distance", 9 * 6),
        ("distance", 6),
        ("distance", 6),
        ("distance", 9 * 6),
        ("distance", 9 * 6),
        ("product and sum", 9 * 6),
        ("outer", 4),
        ("outer", 4 * 5),
        ("recurrent", 12 * 6 + 12 * 3),
        ("recurrent", 9 * 6 + 9 * 3),
    )

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.prototypes, self.one = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(6))
        self.lstm, self.gru = nn.LSTMCell(6, 3), nn.GRUCell(6, 3)
        self.left, self.right = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        rows = x.mean(0)  # (6, 8, 8): averaged over images, as the products below take no batches
        parts = [torch.tensordot(rows, rows, ([0], [0])).flatten()[:2].expand(len(x), 2)]
        parts += [torch.inner(rows[0], rows[0]).flatten()[:3].expand(len(x), 3)]
        x = x.mean((2, 3))
        parts += [torch.cdist(x, self.prototypes)]
        parts += [torch.linalg.vecdot(x, self.one)[:, None], F.cosine_similarity(x, self.one[None])[:, None]]
        parts += [(self.prototypes - x[:, None]).abs().sum(-1), torch.norm(x[:, None] - self.prototypes, dim=2)]
        parts += [((x - self.one.mean()) ** 2).sum(1, True), (x - self.one).mean(1, True)]  # not distances from weights
        parts += [(x[:, None] * self.prototypes).sum(-1), (x * x.sigmoid()).mean(1, True)]  # a gate is not a product
        parts += [torch.outer(self.left * x.mean(), self.right).sum().expand(len(x), 1)]
        return torch.cat([*parts, self.lstm(x)[0], self.gru(x)], 1)


def test_products_in_rarer_forms_are_listed_with_their_multiply_adds():
    found = products(graph_of(trained(Rarer())))
    assert [(one.kind, one.multiply_adds) for one in found] == list(Rarer.COUNTS)


class Written(nn.Module):
    """Weights in products that are written out in elementwise operations, or that another library computes."""

    COUNTS = (
        *[("product and sum", 6 * 9, 6 * 64)] * 9,
        ("outer", 5 * 6, 5 * 6),
        ("solve", 6 * 6, 6 * 6),
        ("matmul", 6, 6),
        ("matmul", 6, 6),
        ("written.rows.default", 5 * 6, 5 * 6),
    )

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.taps, self.scales = nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(3, 6, 1, 1))
        self.spread, self.solved = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.eye(6))
        self.vector, self.turned = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        for scale in self.scales:
            x = x + scale * x.tanh()  # scales of residual branches are no filter
        x = self.scales[0] * x.exp() + self.scales[1] * x.cos()  # nor are those of two branches
        padded = F.pad(x, (1, 1, 1, 1))
        parts = [padded[:, :, k // 3 : k // 3 + 8, k % 3 : k % 3 + 8] * self.taps[:, k, None, None] for k in range(9)]
        x = sum(parts).mean((2, 3))
        logits = [(x[:, None] * self.spread).flatten(1).unflatten(1, (5, 6)).sum(2)]
        logits += [
            torch.linalg.solve(self.solved, x.T).T,
            (x @ self.vector)[:, None],
            torch.mv(x, self.vector)[:, None],
        ]
        return torch.cat([*logits, torch.ops.written.rows(x, self.turned.t())], 1)


def test_products_written_out_in_elementwise_operations_are_listed_and_counted():
    with torch.library._scoped_library("written", "FRAGMENT") as library:
        library.define("rows(Tensor x, Tensor weight) -> Tensor")
        library.impl("rows", lambda x, weight: x @ weight.t(), "CompositeExplicitAutograd")
        torch.library.register_fake(
            "written::rows", lambda x, weight: x.new_empty(x.shape[0], len(weight)), lib=library
        )
        found = products(graph_of(trained(Written())))
    assert [(one.kind, one.parameters, one.multiply_adds) for one in found] == list(Written.COUNTS)
    assert {one.reason for one in found[:-1]} == {"a product with weights that is not a convolution or linear layer"}
