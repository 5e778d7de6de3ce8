import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import BatchNormStatistics, LayerStatistics
from intraq_cli.synthesis.bns import paper_bns_loss, scale_free_bns_loss


def plain_statistics(network, x):
    """Inputs of the batch norms, gathered with hooks, and their statistics written out."""
    inputs = []
    handles = [
        m.register_forward_pre_hook(lambda m, a: inputs.append((m, a[0])))
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    out = network(x)
    for handle in handles:
        handle.remove()
    return out, [
        (m, i.mean((0, 2, 3)), ((i - i.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))) for m, i in inputs
    ]


def test_statistics_outputs_and_gradients_equal_the_plain_way(network, random):
    x = torch.randn(8, 3, 8, 8, generator=random, requires_grad=True)
    plain_out, plain = plain_statistics(network, x)
    with BatchNormStatistics() as recorded:
        out = network(x)
    assert torch.allclose(out, plain_out, atol=1e-5)
    assert len(recorded.layers) == len(plain) == 3
    for layer, (module, mean, var) in zip(recorded.layers, plain, strict=True):
        assert torch.allclose(layer.mean, mean, atol=1e-5)
        assert torch.allclose(layer.var, var, rtol=1e-4)
        assert layer.running_var is module.running_var
    plain_loss = sum(
        ((m - module.running_mean) ** 2).mean() + ((v - module.running_var) ** 2).mean() for module, m, v in plain
    ) / len(plain)
    loss = paper_bns_loss(recorded.layers)
    assert torch.allclose(loss, plain_loss, rtol=1e-4)
    (grad,) = torch.autograd.grad(loss + out.sum(), x)
    (plain_grad,) = torch.autograd.grad(plain_loss + plain_out.sum(), x)
    assert torch.allclose(grad, plain_grad, rtol=1e-3, atol=1e-5 * plain_grad.abs().max())


def test_nothing_is_left_behind(network):
    x = torch.randn(2, 3, 8, 8)
    before = network(x)
    with BatchNormStatistics() as recorded:
        network(x)
    assert len(recorded.layers) == 3
    assert torch.equal(network(x), before)
    assert len(recorded.layers) == 3


def test_subclasses_and_keyword_calls_are_seen():
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(4).eval()
    x = torch.randn(2, 4, 3, 3)
    with BatchNormStatistics() as recorded:
        out = norm(x)
        F.batch_norm(input=x, running_mean=norm.running_mean, running_var=norm.running_var)
    assert len(recorded.layers) == 2
    assert torch.allclose(out, norm(x), atol=1e-6)


def layer(mean, var, running_mean, running_var, eps=1e-5):
    return LayerStatistics(
        *(torch.tensor([v], dtype=torch.float64) for v in (mean, var, running_mean, running_var)), eps
    )


def test_known_answers():
    # paper: (3 - 1)^2 + (4 - 9)^2; scale-free: ((3 - 1)^2 + (2 - 3)^2) / 9
    one = layer(3.0, 4.0, 1.0, 9.0, eps=0.0)
    assert paper_bns_loss([one]).item() == pytest.approx(29.0)
    assert scale_free_bns_loss([one]).item() == pytest.approx(5 / 9)
    none = layer(1.0, 9.0, 1.0, 9.0)
    assert scale_free_bns_loss([one, none]).item() == pytest.approx(5 / 18, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_free_loss_does_not_see_units(scale):
    one, scaled = (layer(3.0 * s, 4.0 * s**2, 1.0 * s, 9.0 * s**2, eps=0.0) for s in (1.0, scale))
    assert scale_free_bns_loss([scaled]).item() == pytest.approx(scale_free_bns_loss([one]).item())


def test_a_dead_channel_asks_for_nothing_that_the_network_cannot_see():
    # the layer divides by sqrt(1e-35 + 1e-3); a deviation of 1e-4 is 0.003 of that
    assert scale_free_bns_loss([layer(1e-4, 1e-8, 0.0, 1e-35, eps=1e-3)]).item() < 1e-4
