import copy

import pytest
import torch
from intraq_cli.graph.trace import FeatureTap, LayerCall, trace_network
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from intraq_cli.checkpoint.write import checkpoint_tensors
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.inspection import expected_bytes, inspect_layers
from intraq_cli.quantization.network import QuantizedNetwork, plan_quantization
from intraq_cli.recipe import Quantization
from tests.conftest import trained


class Standardised(nn.Conv2d):
    """A weight computed from parameters alone."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, 1, 1)


class Mixed(nn.Module):
    """A weight computed from the input."""

    def __init__(self, channels):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, channels * channels))

    def forward(self, x):
        b, c, h, w = x.shape
        weight = (x.mean((1, 2, 3))[:, None].sigmoid() * self.experts[0] + self.experts[1]).view(b * c, c, 1, 1)
        return F.conv2d(x.reshape(1, b * c, h, w), weight, groups=b).view(b, c, h, w)


class Everything(nn.Module):
    """Layers in every form: computed weights, bare parameters, fixed filters, shared modules, transposed, one-d."""

    def __init__(self):
        super().__init__()
        c = 6
        self.stem = Standardised(3, c, 3)
        self.norm = nn.BatchNorm2d(c)
        self.mixed = Mixed(c)
        self.kernel = nn.Parameter(torch.randn(c, 1, 3, 3))
        self.register_buffer("blur", torch.full((c, 1, 2, 2), 0.25))
        self.shared = nn.Conv2d(c, c, 1)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.attention = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(c, c, 2, 2)
        self.head = nn.Linear(c, 5)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = self.mixed(x)
        x = F.conv2d(x, weight=self.kernel, padding=1, groups=6)
        x = F.conv2d(x, self.blur, stride=2, groups=6)
        x = self.shared(self.act(self.shared(x)))
        x = x * self.attention(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]
        return self.head(self.up(x).mean((2, 3)))


@pytest.fixture
def everything():
    return trained(Everything())


def test_layers_are_found_by_what_is_called(everything):
    trace = trace_network(everything, torch.randn(2, 3, 8, 8))
    assert trace.layers == ["stem", "kernel", "shared", "attention", "head"]
    kept = {layer.name: layer.float_reason for layer in trace.calls if layer.float_reason}
    assert kept == {
        "mixed": "its weight is computed from the input",
        "": "a fixed filter, not learned",
        "up": "a transposed convolution",
    }
    assert list(trace.computed) == ["stem", "mixed"]
    assert trace.classifier == "head"
    by_name = {layer.name: layer for layer in trace.calls}
    assert by_name["shared"].calls == 2
    # multiply-adds by hand: 8x8 places up to the blur, which leaves 4x4
    assert by_name["stem"].multiply_adds == 64 * 6 * 27
    assert by_name["kernel"].multiply_adds == 64 * 6 * 9
    assert by_name["shared"].multiply_adds == 2 * 16 * 36
    assert by_name["head"].multiply_adds == 30


@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_every_form_is_quantized_where_it_is_called(everything, placement, random):
    trace = trace_network(everything, torch.randn(2, 3, 8, 8))
    plan = plan_quantization(trace, 3, 4, placement)
    made = QuantizedNetwork(copy.deepcopy(everything), plan, trace.computed)
    calibrate(made, everything, torch.randn(32, 3, 8, 8, generator=random), Quantization())
    stored = made.freeze()
    levels = []

    class Count(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.conv1d, F.conv2d, F.linear):
                weight = args[1] if len(args) > 1 else kwargs["weight"]
                levels.append(max(len(row.unique()) for row in weight.flatten(1)))
            return func(*args, **(kwargs or {}))

    with Count():
        made(torch.randn(1, 3, 8, 8, generator=random))
    # stem, mixed (float), kernel, blur (fixed), shared twice, attention, head
    assert len(levels) == 8
    assert all(levels[k] <= 8 for k in (0, 2, 4, 5, 6, 7))
    tensors = checkpoint_tensors(made, stored)
    assert {"stem.weight", "kernel"}.isdisjoint(tensors)
    assert {"stem.weight_packed", "kernel_packed", "mixed.experts"} <= tensors.keys()
    if placement == "inputs":
        assert made.sites.keys() == plan.weights.keys()
        assert made.sites["shared"].zero_point > 0  # its input goes negative


def test_shared_weights_are_stored_once(random):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.two(F.relu(self.norm(self.one(x)))).mean((2, 3)))

    network = trained(Tied())
    network.two.weight = network.one.weight
    trace = trace_network(network, torch.randn(2, 3, 4, 4))
    assert trace.layers == ["one", "head"]
    made = QuantizedNetwork(copy.deepcopy(network), plan_quantization(trace, 4, 4, "inputs"))
    calibrate(made, network, torch.randn(16, 3, 4, 4, generator=random), Quantization())
    keys = checkpoint_tensors(made, made.freeze()).keys()
    assert {"one.weight", "two.weight"}.isdisjoint(keys)
    assert "one.weight_packed" in keys


def test_features_are_averaged_over_places():
    x = torch.randn(2, 4, 5, 6)
    for layer, given, expected in (
        (nn.Conv2d(4, 3, 1), x, x.mean((2, 3))),
        (nn.Linear(6, 3), x, x.mean((1, 2))),
        (nn.Linear(4, 3), x[:, :, 0, 0], x[:, :, 0, 0]),
    ):
        with FeatureTap(layer, "") as tap:
            layer(given)
        assert torch.allclose(tap.features, expected, atol=1e-6)


def test_inspection_on_the_meta_device_needs_no_weights(everything):
    with torch.device("meta"):
        sketch = Everything().eval()
    trace = trace_network(sketch, torch.empty(2, 3, 8, 8, device="meta"))
    real = trace_network(everything, torch.randn(2, 3, 8, 8))
    assert [(c.name, c.multiply_adds, c.float_reason) for c in trace.calls] == [
        (c.name, c.multiply_adds, c.float_reason) for c in real.calls
    ]
    plan = plan_quantization(trace, 4, 4, "activations")
    bits = {layer.name: (layer.w_bits, layer.a_bits) for layer in inspect_layers(trace, plan)}
    assert bits["mixed"] == (None, None)
    assert bits["stem"] == (4, None)  # the image is not quantized in the paper's placement
    assert bits["shared"][0] == 4
    assert expected_bytes(sketch, trace, plan) == expected_bytes(everything, real, plan)


def test_a_strided_convolution_of_the_image_survives_its_weight_gradient():
    """RepVGG's and MobileOne's first branch; in channels-last memory torch 2.15 dies of it."""
    x = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    weight = torch.randn(48, 3, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    call = LayerCall(F.conv2d, (None, 2), {})
    for _ in range(30):
        call(x, weight).square().sum().backward()
    assert torch.allclose(call(x, weight), F.conv2d(x[..., ::2, ::2], weight), atol=1e-5)
