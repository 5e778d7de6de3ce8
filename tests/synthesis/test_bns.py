import pytest
import torch

from intraq_cli.graph.batch_norms import LayerStatistics
from intraq_cli.synthesis.bns import paper_bns_loss, scale_free_bns_loss


def layer(mean, var, running_mean, running_var, eps=1e-5):
    return LayerStatistics(
        *(torch.tensor([v], dtype=torch.float64) for v in (mean, var, running_mean, running_var)), eps
    )


def test_bns_losses_equal_values_computed_by_hand():
    # paper: (3 - 1)^2 + (4 - 9)^2; scale-free: ((3 - 1)^2 + (2 - 3)^2) / 9
    one = layer(3.0, 4.0, 1.0, 9.0, eps=0.0)
    assert paper_bns_loss([one]).item() == pytest.approx(29.0)
    assert scale_free_bns_loss([one]).item() == pytest.approx(5 / 9)
    none = layer(1.0, 9.0, 1.0, 9.0)
    assert scale_free_bns_loss([one, none]).item() == pytest.approx(5 / 18, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_free_bns_loss_does_not_depend_on_units(scale):
    one, scaled = (layer(3.0 * s, 4.0 * s**2, 1.0 * s, 9.0 * s**2, eps=0.0) for s in (1.0, scale))
    assert scale_free_bns_loss([scaled]).item() == pytest.approx(scale_free_bns_loss([one]).item())


def test_scale_free_bns_loss_of_a_dead_channel_is_negligible():
    # the layer divides by sqrt(1e-35 + 1e-3); a deviation of 1e-4 is 0.003 of that
    assert scale_free_bns_loss([layer(1e-4, 1e-8, 0.0, 1e-35, eps=1e-3)]).item() < 1e-4
