"""The parts of the distillation loss, compared with their definitions."""

import math

import pytest
import torch
from torch.nn import functional as F

from intraq_cli.quantization.divergence import kl_at_temperature
from intraq_cli.tuning.distillation import Output, feature_distance, ignorance, squared_error
from tests.tuning.runs import images_and_labels


def test_kl_at_temperature_equals_its_definition(random):
    q, p = torch.randn(2, 7, 5, generator=random)
    a, b = (p / 4).softmax(1), (q / 4).softmax(1)
    expected = 16 * (a * (a / b).log()).sum(1).mean()
    assert torch.allclose(kl_at_temperature(q, p, 4.0), expected, rtol=1e-4)
    assert kl_at_temperature(p, p, 4.0).abs() < 1e-5


def test_feature_distance_does_not_depend_on_scale(random):
    a, b = torch.randn(2, 8, 3, 4, 4, generator=random)
    one = feature_distance(a, Output(b, b.var(correction=0)))
    assert torch.allclose(one, (a - b).square().mean() / b.var(correction=0))
    assert torch.allclose(feature_distance(1000 * a, Output(1000 * b, (1000 * b).var(correction=0))), one, rtol=1e-4)


def test_squared_error_equals_mse_with_a_gradient_in_the_same_layout(random):
    a, b = torch.randn(2, 8, 3, 4, 4, generator=random)
    a, b = (x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in (a, b))
    ours, theirs = squared_error(a, b.detach()), F.mse_loss(a, b.detach())
    assert torch.allclose(ours, theirs)
    (gradient,), (expected,) = torch.autograd.grad(3 * ours, [a]), torch.autograd.grad(3 * theirs, [a])
    assert torch.allclose(gradient, expected)
    assert gradient.stride() == a.stride()
    assert squared_error(a.bfloat16(), b.bfloat16()).item() == pytest.approx(theirs.item(), rel=0.01)


def test_ignorance_is_the_divergence_of_equal_logits(network):
    wanted = network(images_and_labels(8)[0]).double()
    p = (wanted / 3).softmax(1)
    by_hand = 9 * (p * (p.log() - math.log(1 / 4))).sum() / 8
    assert torch.allclose(ignorance(wanted, 3.0), by_hand)
