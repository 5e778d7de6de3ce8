import math

import pytest
import torch
from torch import nn

from intraq_cli.evaluation.fidelity import fidelity


class Noisy(nn.Module):
    """Classes by the image's first pixel; ``noise`` is added behind the batch norm."""

    def __init__(self, noise=0.0, shift=0):
        super().__init__()
        self.bn = nn.BatchNorm2d(1, affine=True)
        self.bn.bias.data.fill_(noise)
        self.shift = shift

    def forward(self, x):
        self.bn(x)
        return nn.functional.one_hot((x[:, 0, 0, 0].long() + self.shift) % 8, 8).float()


@pytest.mark.parametrize("size", [8, 3])
def test_agreement_divergence_and_signal_to_noise_by_hand(size):
    x = torch.arange(8.0).view(8, 1, 1, 1)
    found = fidelity(Noisy(0.1, 1).eval(), Noisy().eval(), x.split(size), ["bn"])
    p, q = torch.eye(8)[0].log_softmax(0), torch.eye(8)[1].log_softmax(0)
    assert (found.n, found.agreement) == (8, 0.0)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-5)
    signal = (8**2 - 1) / 12 / (1 + 1e-5)  # the variance of 0 to 7; noise 0.1 everywhere
    assert found.sqnr["bn"] == pytest.approx(10 * math.log10(signal / 0.01), abs=1e-3)


def test_a_network_follows_itself():
    found = fidelity(Noisy().eval(), Noisy().eval(), [torch.randn(4, 1, 2, 2)], ["bn"])
    assert (found.agreement, found.kl, found.sqnr["bn"]) == (100.0, 0.0, math.inf)


def test_no_images_no_figures():
    assert math.isnan(fidelity(Noisy(), Noisy(), []).agreement)
