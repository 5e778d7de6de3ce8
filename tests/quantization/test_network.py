import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.errors import ModelError
from intraq_cli.graph.trace import trace_network
from intraq_cli.quantization.affine import fake_quantize, grid_of_range
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.quantization.quantizers import EmaObserver
from intraq_cli.recipe import Quantization


def quantized(network, placement="activations", w=4, a=4, config=None, ends=None):
    config = config or Quantization()
    trace = trace_network(network, torch.randn(2, 3, 8, 8))
    made = QuantizedNetwork(copy.deepcopy(network), plan_quantization(trace, w, a, placement, ends))
    calibrate(made, network, torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5)), config)
    return made


def test_functional_and_repeated_activations_are_found(network):
    trace = trace_network(network, torch.randn(2, 3, 8, 8))
    # one functional call in the network's own forward, a module that is called twice
    assert trace.activations == ["", "act", "act#1"]
    assert trace.layers == ["conv1", "conv2", "conv3", "fc"]
    assert trace.classifier == "fc"
    assert trace.batch_norms == ["bn1", "bn2", "bn3"]


def test_paper_placement_equals_the_network_written_out(network, random):
    made = quantized(network)
    sites, weights = made.sites, {name: quantizer() for name, quantizer in made.latent.items()}
    x = torch.randn(8, 3, 8, 8, generator=random)

    def q(tensor, site):
        grid = sites[site]
        return fake_quantize(tensor, grid.log_scale.exp(), grid.zero_point, 4)

    n = made.network  # its batch norms and its last bias are corrected
    h = q(F.relu(n.bn1(F.conv2d(x, weights["conv1"], padding=1))), "")
    h = q(F.relu(n.bn2(F.conv2d(h, weights["conv2"], n.conv2.bias, 2, 1))), "act")
    h = q(F.relu(h + n.bn3(F.conv2d(h, weights["conv3"], None, 1, 1, groups=2))), "act#1")
    expected = F.linear(h.mean((2, 3)), weights["fc"], n.fc.bias)
    assert torch.allclose(made(x), expected, atol=1e-5)
    assert not torch.allclose(made(x), network(x), atol=1e-2)


def test_input_placement_equals_the_network_written_out(network, random):
    made = quantized(network, "inputs")
    weights = {name: quantizer() for name, quantizer in made.latent.items()}
    x = torch.randn(8, 3, 8, 8, generator=random)

    def q(tensor, site):
        grid = made.sites[site]
        return fake_quantize(tensor, grid.log_scale.exp(), grid.zero_point, grid.bits)

    n = made.network
    h = F.relu(n.bn1(F.conv2d(q(x, "conv1"), weights["conv1"], padding=1)))
    h = F.relu(n.bn2(F.conv2d(q(h, "conv2"), weights["conv2"], n.conv2.bias, 2, 1)))
    h = F.relu(h + n.bn3(F.conv2d(q(h, "conv3"), weights["conv3"], None, 1, 1, groups=2)))
    expected = F.linear(q(h.mean((2, 3)), "fc"), weights["fc"], n.fc.bias)
    assert torch.allclose(made(x), expected, atol=1e-5)
    assert made.plan.activations == {"conv1": 8, "conv2": 4, "conv3": 4, "fc": 4}  # the image itself at 8 bits


class TwoStems(nn.Module):
    """Two layers read the image, as in RepVGG; the network doubles it first if asked to."""

    def __init__(self, doubled):
        super().__init__()
        self.doubled = doubled
        self.wide, self.narrow = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = 2 * x if self.doubled else x
        return self.head(F.relu(self.norm(self.wide(x) + self.narrow(x))).mean((2, 3)))


@pytest.mark.parametrize("doubled", [False, True])
def test_every_layer_that_reads_the_image_gets_it_at_8_bits(doubled):
    trace = trace_network(TwoStems(doubled).eval(), torch.randn(2, 3, 8, 8))
    expected = {"wide": 8, "narrow": 3 if doubled else 8, "head": 3}
    assert plan_quantization(trace, 3, 3, "inputs").activations == expected


def test_first_and_last_layer_can_have_other_bits(network):
    trace = trace_network(network, torch.randn(2, 3, 8, 8))
    plan = plan_quantization(trace, 3, 3, "inputs", 6)
    assert plan.weights == {"conv1": 6, "conv2": 3, "conv3": 3, "fc": 6}
    assert plan.activations == {"conv1": 8, "conv2": 3, "conv3": 3, "fc": 6}


def test_eight_bits_are_close_and_fewer_are_worse(network, random):
    x = torch.randn(64, 3, 8, 8, generator=random)
    errors = [(quantized(network, w=b, a=b)(x) - network(x)).square().mean().item() for b in range(8, 1, -1)]
    assert errors == sorted(errors)
    assert errors[0] < 1e-3 * network(x).var().item()


@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_frozen_is_bit_for_bit_what_was_tuned_and_weights_are_on_their_grids(network, placement, random):
    made = quantized(network, placement, w=3)
    x = torch.randn(8, 3, 8, 8, generator=random)
    before = made(x)
    stored = made.freeze()
    assert torch.equal(made(x), before)
    assert not made.latent
    for name, (codes, scale, zero_point) in stored.items():
        assert int(codes.max()) <= 7
        assert zero_point.min() >= 0
        assert zero_point.max() <= 7
        per_row = (-1,) + (1,) * (codes.dim() - 1)
        assert torch.equal(made.weight_of(name), (codes.float() - zero_point.view(per_row)) * scale.view(per_row))


def test_no_hook_and_no_changed_module_is_left(network):
    made = quantized(network, "inputs")
    made(torch.randn(2, 3, 8, 8))
    for module in made.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(made.network.conv2.weight, network.conv2.weight)


def test_gradients_reach_weights_scales_and_batch_norm(network):
    made = quantized(network).requires_grad_(True)
    made(torch.randn(8, 3, 8, 8)).square().sum().backward()
    for quantizer in [*made.latent.values(), *made.sites.values()]:
        assert quantizer.log_scale.grad.abs().sum() > 0
    assert made.latent["conv1"].latent.grad.abs().sum() > 0
    assert made.network.bn1.weight.grad.abs().sum() > 0


def test_a_path_that_depends_on_the_input_is_noticed(network):
    made = quantized(network)
    del made.activation_quantizers[-1]
    made.plan.activations.popitem()
    with pytest.raises(ModelError, match="called 3 activations"):
        made(torch.randn(2, 3, 8, 8))


def test_a_network_without_activations_says_which_placement_works(network):
    trace = trace_network(network, torch.randn(2, 3, 8, 8))
    trace.activations.clear()
    with pytest.raises(ModelError) as caught:
        plan_quantization(trace, 4, 4, "activations")
    assert "--act-placement inputs" in caught.value.hint


def test_moving_average_is_free_of_its_start(random):
    """Equals the weighted mean written out: weights 0.9^(t - i), normalised."""
    observer = EmaObserver(4, 0.9)
    lows, highs = [], []
    for step in range(1, 20):
        x = torch.randn(50, generator=random) * step
        lows.append(x.min().item())
        highs.append(x.max().item())
        scale, zero_point = observer.observe(x)
        weights = [0.9 ** (step - i) for i in range(1, step + 1)]
        low, high = (sum(w * v for w, v in zip(weights, vs, strict=True)) / sum(weights) for vs in (lows, highs))
        expected = grid_of_range(torch.tensor(low), torch.tensor(high), 4)
        assert torch.allclose(scale, expected[0], rtol=1e-4)
        assert torch.equal(zero_point, expected[1])


def test_layers_too_wide_for_curvature_are_rounded_with_balance(network, monkeypatch):
    monkeypatch.setattr("intraq_cli.quantization.calibration.WIDEST", 1)
    wide, balanced = quantized(network), quantized(network, config=Quantization(weight_rounding="balanced"))
    for name, quantizer in wide.latent.items():
        assert torch.equal(quantizer.latent, balanced.latent[name].latent)


def test_nearest_starts_from_the_weights_as_they_are(network):
    made = quantized(network, config=Quantization(weight_rounding="nearest"))
    for name, quantizer in made.latent.items():
        assert torch.allclose(quantizer.weight, network.get_submodule(name).weight, atol=1e-6)
    whole = quantized(network).latent["conv2"].latent
    assert torch.equal(whole, whole.round())
