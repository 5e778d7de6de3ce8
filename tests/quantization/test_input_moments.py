"""Second moments of the inputs of layers."""

import pytest
import torch
from torch import nn

from intraq_cli.graph.layers import quantizable
from intraq_cli.quantization.input_moments import COMPENSATION, DAMPING, compensated, damped, rows_read, second_moments
from tests.conftest import graph_of


@pytest.mark.parametrize(("count", "damping"), [(5, 1.0), (16, 0.5), (4000, DAMPING)])
def test_moments_of_few_rows_are_damped_more(count, damping):
    head = nn.Linear(8, 3)
    (layer,) = quantizable(graph_of(nn.Sequential(nn.Flatten(), head).eval(), (2, 2, 2)))
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    rows = rows_read(layer.calls[0], x, head.weight, normalized=False)
    found = damped(second_moments(rows), count)
    plain = (x.T @ x / count)[None]
    expected = plain + damping * plain.diagonal(dim1=1, dim2=2).mean() * torch.eye(8)
    assert torch.allclose(found, expected, atol=1e-5)


def test_compensated_weight_is_the_damped_least_squares_solution():
    random = torch.Generator().manual_seed(0)
    float_rows = torch.randn(2, 500, 4, generator=random)
    rows = 1.2 * float_rows + 0.1 * torch.randn(2, 500, 4, generator=random)  # errors of earlier layers
    weight = torch.randn(6, 4, generator=random)
    found = compensated(weight, second_moments(rows), rows, float_rows).view(2, 3, 4)
    for group in range(2):
        own = weight.view(2, 3, 4)[group]
        damping = COMPENSATION * (rows[group].square().mean(0)).mean()
        # as rows of a plain least-squares problem: the damping pulls towards the original weight
        many = torch.cat([rows[group] / 500**0.5, damping.sqrt() * torch.eye(4)])
        wanted = torch.cat([float_rows[group] @ own.T / 500**0.5, damping.sqrt() * own.T])
        assert torch.allclose(found[group], torch.linalg.lstsq(many, wanted).solution.T, atol=1e-4)
    before = (rows @ weight.view(2, 3, 4).mT - float_rows @ weight.view(2, 3, 4).mT).square().mean()
    after = (rows @ found.mT - float_rows @ weight.view(2, 3, 4).mT).square().mean()
    assert after < 0.5 * before


def test_weight_is_unchanged_without_errors_or_without_usable_inputs():
    random = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(1, 50, 4, generator=random), torch.randn(3, 4, generator=random)
    assert torch.equal(compensated(weight, second_moments(rows), rows, rows), weight)
    for nothing in (torch.full_like(rows, float("nan")), torch.zeros_like(rows)):
        assert torch.equal(compensated(weight, second_moments(nothing), nothing, rows), weight)
