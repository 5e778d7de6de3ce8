import pytest
import torch

from intraq_cli.synthesis.sil import draw_targets, soft_inception_loss


def test_sil_depends_only_on_the_probability_of_the_label():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    loss = soft_inception_loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.6]))
    assert loss.item() == pytest.approx((0.3**2 + 0.5**2) / 2, abs=1e-6)


def test_half_of_the_targets_are_soft(random):
    targets = draw_targets(20_000, 0.9, random)
    soft = targets < 1
    assert 0.48 < soft.float().mean() < 0.52
    assert targets.min() >= 0.9
    assert targets[soft].mean().item() == pytest.approx(0.95, abs=0.003)
