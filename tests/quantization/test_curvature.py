"""Second moments of what a layer reads."""

import pytest
import torch
from torch import nn

from intraq_cli.graph.layers import quantizable
from intraq_cli.quantization.curvature import DAMPING, moments_read
from tests.conftest import graph_of


@pytest.mark.parametrize(("rows", "damping"), [(5, 1.0), (16, 0.5), (4000, DAMPING)])
def test_moments_of_few_rows_are_damped_more(rows, damping):
    head = nn.Linear(8, 3)
    (layer,) = quantizable(graph_of(nn.Sequential(nn.Flatten(), head).eval(), (2, 2, 2)))
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0))
    found = moments_read(layer.calls[0], x, head.weight, normalized=False)
    plain = (x.T @ x / rows)[None]
    expected = plain + damping * plain.diagonal(dim1=1, dim2=2).mean() * torch.eye(8)
    assert torch.allclose(found, expected, atol=1e-5)
