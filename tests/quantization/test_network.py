import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.errors import ModelError
from intraq_cli.quantization.affine import fake_quantize, grid_of_range
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.ema_ranges import EmaObserver
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.recipe import Quantization
from tests.conftest import graph_of, student_of, trained


def quantized(graph, placement="activations", w=4, a=4, config=None):
    made = student_of(graph, w, a, placement)
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    calibrate(made, graph, images, config or Quantization())
    return made


def norm(made, name, x):
    """Apply a batch norm of a quantized network, whose statistics and bias are corrected."""
    held = made.float_tensors
    parts = (held[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def test_activations_placement_equals_the_network_written_out(network, graph, random):
    made = quantized(graph)
    sites, weights = made.activation_quantizers, {name: quantizer() for name, quantizer in made.latent.items()}
    x = torch.randn(8, 3, 8, 8, generator=random)

    def q(tensor, site):
        grid = sites[site]
        return fake_quantize(tensor, grid.scale(), grid.zero_point, 15)

    held = made.float_tensors
    h = q(F.relu(norm(made, "bn1", F.conv2d(x, weights["conv1"], padding=1))), "")
    h = q(F.relu(norm(made, "bn2", F.conv2d(h, weights["conv2"], held["conv2.bias"], 2, 1))), "act")
    h = q(F.relu(h + norm(made, "bn3", F.conv2d(h, weights["conv3"], None, 1, 1, groups=2))), "act#1")
    expected = F.linear(h.mean((2, 3)), weights["fc"], held["fc.bias"])
    assert torch.allclose(made(x), expected, atol=1e-5)
    assert not torch.allclose(made(x), network(x), atol=1e-2)


def test_inputs_placement_equals_the_network_written_out(network, graph, random):
    made = quantized(graph, "inputs")
    weights = {name: quantizer() for name, quantizer in made.latent.items()}
    x = torch.randn(8, 3, 8, 8, generator=random)

    def q(tensor, site):
        grid = made.activation_quantizers[site]
        return fake_quantize(tensor, grid.scale(), grid.zero_point, grid.top)

    held = made.float_tensors
    h = F.relu(norm(made, "bn1", F.conv2d(q(x, "conv1"), weights["conv1"], padding=1)))
    h = F.relu(norm(made, "bn2", F.conv2d(q(h, "conv2"), weights["conv2"], held["conv2.bias"], 2, 1)))
    h = F.relu(h + norm(made, "bn3", F.conv2d(q(h, "conv3"), weights["conv3"], None, 1, 1, groups=2)))
    expected = F.linear(q(h.mean((2, 3)), "fc"), weights["fc"], held["fc.bias"])
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
    graph = graph_of(trained(TwoStems(doubled)))
    expected = {"wide": 8, "narrow": 3 if doubled else 8, "head": 3}
    assert plan_quantization(graph, 3, 3, "inputs").activations == expected


def test_first_and_last_layer_can_have_other_bits(graph):
    plan = plan_quantization(graph, 3, 3, "inputs", 6)
    assert plan.weights == {"conv1": 6, "conv2": 3, "conv3": 3, "fc": 6}
    assert plan.activations == {"conv1": 8, "conv2": 3, "conv3": 3, "fc": 6}


def test_error_is_tiny_at_eight_bits_and_grows_with_fewer(network, graph, random):
    x = torch.randn(64, 3, 8, 8, generator=random)
    errors = [(quantized(graph, w=b, a=b)(x) - network(x)).square().mean().item() for b in (8, 6, 4, 3, 2)]
    assert errors == sorted(errors)
    assert errors[0] < 1e-3 * network(x).var().item()


@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_freezing_keeps_outputs_bit_for_bit_and_stores_weights_as_codes(graph, placement, random):
    made = quantized(graph, placement, w=3)
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
        assert torch.equal(made.weights[name](), (codes.float() - zero_point.view(per_row)) * scale.view(per_row))


def test_quantization_leaves_the_float_network_unchanged(network, graph):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    quantized(graph, "inputs").freeze()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_gradients_reach_weights_scales_and_batch_norm(graph):
    made = quantized(graph).requires_grad_(True)
    made(torch.randn(8, 3, 8, 8)).square().sum().backward()
    for quantizer in [*made.latent.values(), *made.activation_quantizers.values()]:
        assert quantizer.scale.log_scale.grad.abs().sum() > 0
    assert made.latent["conv1"].latent.grad.abs().sum() > 0
    assert made.float_tensors["bn1.weight"].grad.abs().sum() > 0


def test_network_without_activations_gets_a_hint_to_another_placement():
    graph = graph_of(trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))))
    with pytest.raises(ModelError) as caught:
        plan_quantization(graph, 4, 4, "activations")
    assert "--act-placement inputs" in caught.value.hint


def test_moving_average_of_ranges_has_no_initial_bias(random):
    """Equals the weighted mean written out: weights 0.9^(t - i), normalised."""
    observer = EmaObserver(15, 0.9)
    lows, highs = [], []
    for step in range(1, 20):
        x = torch.randn(50, generator=random) * step
        lows.append(x.min().item())
        highs.append(x.max().item())
        scale, zero_point = observer.observe(x)
        weights = [0.9 ** (step - i) for i in range(1, step + 1)]
        low, high = (sum(w * v for w, v in zip(weights, vs, strict=True)) / sum(weights) for vs in (lows, highs))
        expected = grid_of_range(torch.tensor(low), torch.tensor(high), 15)
        assert torch.allclose(scale, expected[0], rtol=1e-4)
        assert torch.equal(zero_point, expected[1])


def test_layers_too_wide_for_gptq_are_rounded_by_squant(graph, monkeypatch):
    monkeypatch.setattr("intraq_cli.quantization.input_moments.WIDEST", 1)
    wide, balanced = quantized(graph), quantized(graph, config=Quantization(weight_rounding="squant"))
    for name, quantizer in wide.latent.items():
        assert torch.equal(quantizer.latent, balanced.latent[name].latent)


def test_nearest_rounding_keeps_the_latent_weights_and_gptq_rounds_them(network, graph):
    made = quantized(graph, config=Quantization(weight_rounding="nearest"))
    for name, quantizer in made.latent.items():
        assert torch.allclose(quantizer.weight, network.get_submodule(name).weight, atol=1e-6)
    whole = quantized(graph).latent["conv2"].latent
    assert torch.equal(whole, whole.round())


class Ending(nn.Module):
    """Ends in a convolution, an activation and pooling: the activation gives the logits."""

    def __init__(self, last=lambda x: x):
        super().__init__()
        self.conv, self.bn, self.head, self.last = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), last

    def forward(self, x):
        x = F.leaky_relu(self.bn(self.conv(x)), 0.1)
        return self.last(F.leaky_relu(self.head(x), 0.1).mean((2, 3)))


def test_activation_after_the_last_layer_is_not_quantized(random):
    network = trained(Ending())
    graph = graph_of(network)
    assert len(plan_quantization(graph, 4, 4, "activations").activations) == 1
    student = student_of(graph, 8, 8, "activations")
    (quantizer,) = student.activation_quantizers.values()
    quantizer.set_grid(torch.tensor(1.0), torch.tensor(2.0))
    x = torch.randn(2, 3, 8, 8, generator=random)
    rounded = F.leaky_relu(network.bn(network.conv(x)), 0.1).round().clamp(-2, 253)
    expected = F.leaky_relu(network.head(rounded), 0.1).mean((2, 3))
    assert torch.allclose(student(x), expected, atol=1e-5)


def test_activations_that_a_matrix_product_reads_are_quantized():
    between = nn.Linear(4, 4, bias=False)

    def gated(x):  # the product of two activations, each of which is quantized
        return (F.relu(x)[:, :, None] @ F.relu(between(x))[:, None]).sum(1)

    network = Ending(gated)
    network.between = between
    graph = graph_of(trained(network))
    assert len(plan_quantization(graph, 4, 4, "activations").activations) == 4


def test_activations_placement_requires_an_activation_before_a_layer():
    network = trained(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    with pytest.raises(ModelError, match="no ReLU-like activation before a layer"):
        plan_quantization(graph_of(network), 4, 4, "activations")
