"""Uncommon but valid networks: each is quantized on synthetic images, tuned, saved and loaded."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli import inspect, load, quantize
from intraq_cli.errors import ModelError
from intraq_cli.graph.proof import relative_error
from tests.conftest import SPEC, trained

GIVEN = {**SPEC, "device": "cpu"}
FEW = {
    "synthesis.num_images": 16, "synthesis.batch_size": 16, "synthesis.steps": 2,
    "tuning.steps": 1, "tuning.batch_size": 8,
}  # fmt: skip


class Around(nn.Module):
    """A stem, the middle under test, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.linear = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return self.head(self.norm(self.middle(self.stem(x))).relu().mean((2, 3)))

    def middle(self, x):
        return self.conv(x)

    def head(self, x):
        return self.fc(x)


class PartialConvolution(Around):
    """Overwrites some of the channels (FasterNet)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)

    def middle(self, x):
        y = x.clone()
        y[:, :2] = self.conv(x[:, :2])
        return y


class Shift(Around):
    """Shifts half of the channels by one position (temporal shift)."""

    def middle(self, x):
        y = torch.zeros_like(x)
        y[:, :4, :, :-1] = x[:, :4, :, 1:]
        y[:, 4:] = x[:, 4:]
        return self.conv(y)


class Volumes(Around):
    """A strided and grouped 3-D convolution, with channels as depth."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (3, 3, 1), (2, 1, 1), (1, 1, 0), groups=2, bias=False)

    def middle(self, x):
        return self.conv(x.unflatten(1, (2, 4))).flatten(1, 2)


class FlippedFirst(Around):
    """Uses a weight first flipped, then unchanged."""

    def middle(self, x):
        return F.conv2d(x, self.conv.weight.flip(-1), None, 1, 1) + self.conv(x)


class FlippedBetween(Around):
    """Uses a weight unchanged, flipped, and unchanged once more."""

    def middle(self, x):
        return self.conv(F.relu(self.conv(x) + F.conv2d(3 * x - 1, self.conv.weight.flip(-1), None, 1, 1)))


class FixedAndLearned(Around):
    """Two products in one forward of a module: the first with a fixed tensor, the second with a parameter."""

    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("fixed", torch.randn(8, 8))
            self.learned = nn.Parameter(torch.randn(8, 4))
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            return self.fc(x @ self.fixed) + x @ self.learned

    def __init__(self):
        super().__init__()
        self.fc = self.Products()


class Notes(Around):
    """Modules whose own names look like those of further calls."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(8, 8, 1, 1)), nn.Parameter(torch.randn(8, 8, 1, 1))

        def forward(self, x):
            return F.conv2d(F.conv2d(x, self.a + self.b).relu(), self.a - self.b)

    def __init__(self):
        super().__init__()
        notes = {"C": nn.Conv2d(8, 8, 1), "C#": self.Twice(), "C#1": nn.Sequential(self.Twice())}
        self.notes = nn.ModuleDict(notes)

    def middle(self, x):
        return torch.stack([note(x) for note in self.notes.values()]).sum(0)


class TransposedFirst(Around):
    """An encoder whose weight is the decoder's, transposed."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 8, bias=False)

    def head(self, x):
        return self.fc(F.linear(F.linear(x, self.linear.weight.t()).relu(), self.linear.weight))


class LinearAlgebra(Around):
    """A classifier computed with ``torch.linalg``."""

    def head(self, x):
        return torch.linalg.matmul(x, self.fc.weight.T)


class PoolIndices(Around):
    """Uses the positions of the maxima, too."""

    def middle(self, x):
        values, places = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return values + 0.01 * places.to(values.dtype)


class MaskOfInfinity(Around):
    """Attention with a mask of minus infinity as a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((64, 64), float("-inf")).triu(1))

    def middle(self, x):
        tokens = x.flatten(2).mT
        seen = (tokens @ tokens.mT / 8 + self.mask).softmax(-1) @ self.linear(tokens)
        return self.conv(seen.mT.reshape(x.shape))


class ComputedNorm(nn.BatchNorm2d):
    """Weight and bias of a batch norm computed from its parameters (in-place activated batch norm)."""

    def forward(self, x):
        weight, bias = self.weight.abs() + self.eps, 2 * self.bias
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, self.training, 0.1, self.eps)


class ComputedNorms(Around):
    def __init__(self):
        super().__init__()
        self.norm = ComputedNorm(8)
        self.stem[1] = ComputedNorm(8)


class SmallerAddendFirst(Around):
    """A sum of two activations, the first of which is broadcast (global context)."""

    def middle(self, x):
        return self.conv(x.mean((2, 3), keepdim=True)) + x


KINDS = [
    ComputedNorms, SmallerAddendFirst,
    PartialConvolution, Shift, Volumes, FlippedFirst, FlippedBetween, FixedAndLearned, Notes, TransposedFirst,
    LinearAlgebra, PoolIndices, MaskOfInfinity,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_uncommon_networks_are_quantized_tuned_and_loaded(kind, tmp_path):
    torch.manual_seed(0)
    network = trained(kind())
    made = quantize(network, w=8, a=8, out=tmp_path / "out", set=FEW, **GIVEN)
    assert 0 <= made.kl < 1
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    quick = quantize(network, w=8, a=8, out=tmp_path / "instant", recipe="instant", act_placement="integer", **GIVEN)
    error = relative_error(network(x), load(quick.path, model=network, device="cpu")(x))
    assert error < 0.3  # a wrong weight or a missing layer would give more than 1


def test_layers_that_share_a_parameter_have_distinct_names():
    found = inspect(trained(FlippedFirst()), **SPEC)
    assert [layer.name for layer in found.layers if layer.kind == "conv2d"] == ["stem.0", "conv#1", "conv"]
    assert len({layer.name for layer in found.layers}) == len(found.layers)


def test_further_call_of_a_layer_and_a_layer_with_the_same_weight_both_read_quantized_values():
    found = {layer.name: layer for layer in inspect(trained(FlippedBetween()), w=4, a=4, **SPEC).layers}
    assert [found[name].call_bits for name in ("stem.0", "conv", "conv#2", "fc")] == [[8], [4, 4], [4], [4]]


def test_float_layer_does_not_hide_the_next_layer_of_the_same_forward(tmp_path):
    network = trained(FixedAndLearned())
    found = {layer.name: layer for layer in inspect(network, **SPEC).layers}
    assert found["fc"].float_reason == "a fixed filter, not learned"
    made = quantize(network, w=8, a=8, out=tmp_path / "out", recipe="instant", **GIVEN)
    quantized = load(made.path, model=network, device="cpu").plan.activations
    assert list(quantized) == ["stem.0", "conv", "fc.fc", "fc#1"]


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_transposed_weights_give_the_checkpoint_of_contiguous_ones(rounding, tmp_path):
    """Weights may be transposed views, as converters from other frameworks leave them."""
    plain = trained(Around())
    views = copy.deepcopy(plain)
    for layer in (views.conv, views.fc):
        layer.weight.data = layer.weight.data.mT.contiguous().mT
    files = []
    for network in (plain, views):
        out, options = tmp_path / f"{len(files)}", {"quantization.weight_rounding": rounding}
        quantize(network, w=8, a=8, out=out, recipe="instant", set=options, **GIVEN)
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_linalg_matmul_with_a_weight_is_a_linear_layer():
    (last,) = (layer for layer in inspect(trained(LinearAlgebra()), **SPEC).layers if layer.kind == "linear")
    assert (last.weight_shape, last.multiply_adds, last.w_bits) == ((4, 8), 32, 4)


def test_multiplication_and_mean_are_listed_as_one_product_and_sum():
    class Meant(Around):
        def head(self, x):
            return (x[:, None] * self.fc.weight).mean(-1)

    (found,) = (layer for layer in inspect(trained(Meant()), **SPEC).layers if layer.kind == "product and sum")
    assert found.multiply_adds == 32


@pytest.mark.parametrize(("tensor", "value"), [("mask", "nan"), ("conv.weight", "inf"), ("norm.running_var", "inf")])
def test_nan_in_masks_and_infinity_elsewhere_are_refused(tensor, value):
    network = trained(MaskOfInfinity())
    network.state_dict()[tensor].view(-1)[0] = float(value)
    with pytest.raises(ModelError, match=f"{tensor} contains NaN or infinite values"):
        quantize(network, recipe="instant", **GIVEN)


def test_layer_after_max_pooling_reads_the_quantized_activation():
    """In placement ``activations``: pooling, padding and views keep values on the grid."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.ZeroPad2d(1)]
    layers += [nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)]
    found = inspect(trained(nn.Sequential(*layers)), w=4, a=4, act_placement="activations", **SPEC)
    assert [layer.a_bits for layer in found.layers] == [None, 4, 4]
    low = sum(layer.multiply_adds for layer in found.layers[1:])
    assert found.low_bit_share == pytest.approx(100 * low / found.multiply_adds)
