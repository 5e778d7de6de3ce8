"""Layers: how they are found and named, with multiply-adds counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.layers import activation_calls, features, layers, quantizable, reads_image
from intraq_cli.graph.nodes import unnumbered
from intraq_cli.graph.products import products
from intraq_cli.quantization.inspection import inspect_layers
from intraq_cli.quantization.plan import plan_quantization
from tests.conftest import graph_of, student_of, trained


class Standardised(nn.Conv2d):
    """A weight computed from parameters alone."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, 1, 1)


class Sloped(nn.Conv2d):
    """A weight computed from parameters and a tensor that is created on the images' device."""

    def forward(self, x):
        slope = torch.linspace(0.5, 1.5, self.weight.shape[-1], device=x.device)
        return F.conv2d(x, self.weight * slope, self.bias, padding=1)


def test_weight_that_only_uses_the_inputs_device_does_not_depend_on_the_input(random):
    network = trained(nn.Sequential(Sloped(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)))
    graph = graph_of(network)
    assert [(layer.name, layer.float_reason) for layer in layers(graph)] == [("0", None), ("4", None)]
    student = student_of(graph, 8, 8)
    x = torch.randn(2, 3, 8, 8, generator=random)
    assert torch.equal(student.weights["0"](), network[0].weight * torch.linspace(0.5, 1.5, 3))
    assert torch.allclose(graph(x), network(x))


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
    """Layers in every form: computed weights, bare parameters, fixed filters, shared, transposed and 1-D modules."""

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


def test_layers_are_found_by_the_operations_that_are_called(everything):
    graph = graph_of(everything)
    found = {layer.name: layer for layer in layers(graph)}
    assert list(found) == ["stem", "mixed", "kernel", "blur", "shared", "attention", "head"]
    assert {name: layer.float_reason for name, layer in found.items() if layer.float_reason} == {
        "mixed": "its weight is computed from the input",
        "blur": "a fixed filter, not learned",
    }
    assert [layer.name for layer in quantizable(graph)] == ["stem", "kernel", "shared", "attention", "head"]
    assert found["stem"].computed
    assert not found["kernel"].computed
    assert [found[name].key for name in ("stem", "kernel", "head")] == ["stem.weight", "kernel", "head.weight"]
    assert list(found["shared"].input_names.values()) == ["shared", "shared#1"]
    # multiply-adds by hand: 8x8 positions up to the blur, 4x4 after it
    assert found["stem"].multiply_adds == 64 * 6 * 27
    assert found["kernel"].multiply_adds == 64 * 6 * 9
    assert found["shared"].multiply_adds == 2 * 16 * 36
    assert found["head"].multiply_adds == 30
    mixing, up = products(graph)
    assert (mixing.name, mixing.kind, mixing.multiply_adds) == ("mixed", "outer", 36)
    assert (up.name, up.reason, up.parameters) == ("up", "a transposed convolution", 6 * 6 * 4)
    assert up.multiply_adds == 16 * 6 * 6 * 4


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("conv", ("conv", 0)), ("conv#1", ("conv", 1)), ("conv#1#12", ("conv#1", 12)), ("C#", ("C#", 0)),
        ("C##1", ("C#", 1)), ("C#1.0", ("C#1.0", 0)), ("#1", ("#1", 0)), ("c#01", ("c#01", 0)),
        ("c#" + "9" * 5000, ("c#" + "9" * 5000, 0)),
    ],
)  # fmt: skip
def test_number_behind_a_name_is_split_off(name, split):
    assert unnumbered(name) == split


def test_activations_are_named_after_the_module_that_calls_them(graph):
    # one functional call in the network's own forward, a module that is called twice
    assert list(activation_calls(graph).values()) == ["", "act", "act#1"]


def test_activation_module_named_like_a_further_call_has_a_name_of_its_own():
    class Twice(nn.Sequential):
        def forward(self, x):
            return self.fc(self.get_submodule("act#1")(self.act(self.act(self.norm(self.conv(x))))).flatten(1))

    network = Twice()
    for name, module in {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(144, 2)}.items():
        network.add_module(name, module)
    network.add_module("act", nn.ReLU())
    network.add_module("act#1", nn.LeakyReLU())
    assert list(activation_calls(graph_of(trained(network))).values()) == ["act", "act#1", "act#1#1"]


def test_modules_that_share_a_weight_are_one_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.two(F.relu(self.norm(self.one(x)))).mean((2, 3)))

    network = trained(Tied())
    network.two.weight = network.one.weight
    found = layers(graph_of(network))
    assert [(layer.name, len(layer.calls)) for layer in found] == [("one", 2), ("head", 1)]


@pytest.mark.parametrize("padded", [False, True])
def test_layer_is_known_to_read_the_image_through_padding(padded):
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            x = F.pad(x, (1, 1, 1, 1)) if padded else x
            return self.fc(self.conv(x).mean((2, 3)))

    graph = graph_of(trained(Stem()))
    assert [reads_image(graph, layer) for layer in layers(graph)] == [True, False]


def test_features_are_the_last_layers_input_averaged_over_positions(random):
    x = torch.randn(2, 4, 5, 6, generator=random)

    class Head(nn.Module):
        def __init__(self, layer, form):
            super().__init__()
            self.stem, self.layer, self.form = nn.Conv2d(3, 4, 1), layer, form

        def forward(self, image):
            out = self.layer(self.form(self.stem(image)))
            return out.flatten(2).mean(2) if out.dim() == 4 and isinstance(self.layer, nn.Conv2d) else out.flatten(1)

    for layer, form, given, expected in (
        (nn.Conv2d(4, 3, 1), lambda y: y, x, x.mean((2, 3))),
        (nn.Linear(8, 3), lambda y: y, x, x.mean((1, 2))),
        (nn.Linear(4, 3), lambda y: y[:, :, 0, 0], x[:, :, 0, 0], x[:, :, 0, 0]),
    ):
        found = features(graph_of(trained(Head(layer, form))))
        assert len(found.node.meta["shape"]) == given.dim()
        assert torch.allclose(found.of(given), expected, atol=1e-6)


def test_inspection_on_the_meta_device_gives_the_same_result(everything):
    with torch.device("meta"):
        sketch = graph_of(Everything().eval().requires_grad_(False))
    real = graph_of(everything)
    plan = plan_quantization(sketch, 4, 4, "activations")
    assert inspect_layers(sketch, plan) == inspect_layers(real, plan)
    bits = {row.name: (row.w_bits, row.a_bits) for row in inspect_layers(sketch, plan)}
    assert bits["mixed"] == (None, None)
    assert bits["stem"] == (4, None)  # the image is not quantized in the paper's placement
    assert bits["shared"][0] == 4


class Hyper(nn.Module):
    """Linear layers that read no image compute the weights of a convolution and of a classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.seed, self.kernel = nn.Parameter(torch.randn(8, 4)), nn.Linear(4, 6 * 9)
        self.names, self.project = nn.Parameter(torch.randn(5, 7)), nn.Linear(7, 8)
        self.flat = nn.Parameter(torch.randn(40))

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = F.conv2d(x, self.kernel(self.seed).view(8, 6, 3, 3)).relu().mean((2, 3))
        return x @ self.project(self.names).t() + x @ self.flat.view(8, 5)


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
def test_layers_that_read_no_image_are_part_of_the_weights_they_compute(placement, random):
    network = trained(Hyper())
    graph = graph_of(network)
    assert [(layer.shape, layer.computed, layer.float_reason) for layer in layers(graph)] == [
        ((6, 3, 3, 3), False, None),
        ((8, 6, 3, 3), True, None),
        ((5, 8), True, None),
        ((5, 8), True, None),
    ]
    assert products(graph) == []
    student, x = student_of(graph, 8, 8, placement), torch.randn(2, 3, 8, 8, generator=random)
    assert len(student.weights) == 4
    assert torch.allclose(graph(x), network(x), atol=1e-4)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.mixing = nn.Conv2d(6, 6, 1, bias=False, dtype=torch.cfloat)
        self.pairs = nn.Parameter(torch.randn(6, 6, 2))

    def forward(self, x):
        x = self.mixing(F.relu(self.norm(self.conv(x))).to(torch.cfloat))
        return self.fc(torch.einsum("bchw,oc->bohw", x, torch.view_as_complex(self.pairs)).abs().mean((2, 3)))


def test_layer_with_complex_weights_stays_float_and_says_why():
    found = {layer.name: layer.float_reason for layer in layers(graph_of(Complex().eval()))}
    assert found == {
        "conv": None,
        "mixing": "its weight is complex",
        "pairs": "its weight is complex",
        "fc": None,
    }


def test_randomized_relu_acts_as_a_leaky_relu_in_eval_mode(random):
    class Randomized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 6, 3), nn.RReLU(0.1, 0.3), nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(self.act(self.conv(x)).mean((2, 3)))

    network, x = trained(Randomized()), torch.randn(2, 3, 8, 8, generator=random)
    graph = graph_of(network)
    assert list(activation_calls(graph).values()) == ["act"]
    assert torch.allclose(graph(x), network(x), atol=1e-6)
