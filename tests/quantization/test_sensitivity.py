"""Sensitivity: the divergence when one layer alone is quantized."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli import sensitivity
from intraq_cli.app import main
from intraq_cli.errors import UsageError
from intraq_cli.graph.layers import quantizable
from intraq_cli.graph.nodes import own_tensors
from intraq_cli.quantization.affine import fake_quantize, grid_of_values
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.input_moments import damped, rows_read, second_moments
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.quantization.quantizers import FixedWeight, WeightQuantizer
from intraq_cli.quantization.sensitivity import BROKEN, CALIBRATION, Widths, layer_sensitivities
from intraq_cli.quantization.sensitivity import divergence as measure
from intraq_cli.quantization.sites import activation_sites
from tests.conftest import SPEC, graph_of

QUICK = ("synthesis.steps=2", "synthesis.batch_size=8")


@pytest.fixture
def images():
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def divergence(network, changed, images):
    with torch.no_grad():
        p, q = ((logits[12:] / 4).log_softmax(1) for logits in (network(images), changed(images)))
    return 16 * float((p.exp() * (p - q)).sum() / 12)


def sensitivities(network, images, widths):
    """The sensitivities of layers, by name."""
    return {layer.name: layer for layer in layer_sensitivities(graph_of(network), "inputs", images, widths).layers}


def matched(network, name, images, changed_call):
    """The network with one layer's function replaced, and its outputs restored to their former mean and variance.

    For the classifier, which no batch norm follows, only the mean is restored.
    """
    changed = copy.deepcopy(network)
    held = changed.get_submodule(name)
    own = held.forward

    def forward(x):
        wanted, got = own(x), changed_call(held, x)
        dims = [0, 2, 3] if got.dim() == 4 else [0]
        out = got - got.mean(dims, keepdim=True)
        if got.dim() == 4:
            out = out * (wanted.var(dims, keepdim=True) / got.var(dims, keepdim=True)).sqrt()
        return out + wanted.mean(dims, keepdim=True)

    held.forward = forward
    return changed


def called(held, x, weight):
    if isinstance(held, nn.Linear):
        return F.linear(x, weight, held.bias)
    return F.conv2d(x, weight, held.bias, held.stride, held.padding, held.dilation, held.groups)


def test_weight_sensitivity_is_the_divergence_with_only_that_weight_quantized(network, images):
    found = sensitivities(network, images, Widths((2, 4), ()))
    assert list(found) == ["conv1", "conv2", "conv3", "fc"]
    calls = {layer.name: layer.calls[0] for layer in quantizable(graph_of(network))}
    for name, layer in found.items():
        for bits in (2, 4):

            def rounded(held, x, name=name, bits=bits):
                rows = rows_read(calls[name], x[:12], held.weight, normalized=name != "fc")
                moments = damped(second_moments(rows), rows.shape[1])
                return called(held, x, WeightQuantizer(held.weight, bits, CALIBRATION, moments)())

            changed = matched(network, name, images, rounded)
            assert layer.weights[bits] == pytest.approx(divergence(network, changed, images), rel=1e-3, abs=1e-5)


def test_input_sensitivity_is_the_divergence_with_only_that_input_quantized(network, images):
    found = sensitivities(network, images, Widths((), (3,)))

    def coarse(held, x):
        return called(held, fake_quantize(x, *grid_of_values(x, 7), 7), held.weight)

    for name in found:
        changed = matched(network, name, images, coarse)
        assert found[name].inputs[3] == pytest.approx(divergence(network, changed, images), rel=1e-3, abs=1e-5)


def test_first_layer_has_no_input_sensitivity_if_the_image_stays_float(network, images):
    found = layer_sensitivities(graph_of(network), "activations", images, Widths((2, 8), (2, 8))).layers
    assert found[0].inputs == {}
    assert all(layer.weights[8] <= layer.weights[2] for layer in found)
    assert found[1].inputs[8] <= found[1].inputs[2]


def test_nan_logits_have_the_largest_divergence():
    logits = torch.randn(8, 5)
    assert measure(logits * float("nan"), logits) == BROKEN > measure(-1000 * logits, logits)


def test_progress_is_reported_at_every_step(network, images):
    told = []
    layer_sensitivities(graph_of(network), "integer", images, Widths((4,), (4,), (4,)), lambda *a: told.append(a))
    assert told == [(done, 12) for done in range(13)]


@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_spared_sensitivity_is_the_divergence_with_all_other_layers_quantized(network, images, placement):
    graph = graph_of(network)
    found = layer_sensitivities(graph, placement, images, Widths((), (), (3,)))
    student = QuantizedNetwork(own_tensors(graph), plan_quantization(graph, 3, 3, placement))
    calibrate(student, graph, images, CALIBRATION)
    assert found.everything[3] == pytest.approx(divergence(network, student, images), abs=1e-5)
    student.set_weight("conv2", FixedWeight(network.conv2.weight))
    (call,) = next(layer for layer in quantizable(graph) if layer.name == "conv2").calls
    (site,) = (name for name, site in activation_sites(graph, placement).items() if call in site.layer_calls)
    student.activation_quantizers[site].forward = lambda x: x
    spared = {layer.name: layer.spared[3] for layer in found.layers}
    assert spared["conv2"] == pytest.approx(divergence(network, student, images), abs=1e-5)


def test_sensitivity_makes_its_own_images_and_leaves_the_network_unchanged(network):
    before = copy.deepcopy(network.state_dict())
    found = sensitivity(network, widths=[8, 2, 8], n=8, set=QUICK, device="cpu", **SPEC)
    assert (found.widths, found.n, len(found.layers)) == ([2, 8], 8, 4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("given", "says"), [({"widths": [9]}, "2 to 8"), ({"widths": []}, "no bits"), ({"n": 1}, "at least 2")]
)
def test_invalid_sensitivity_arguments_are_usage_errors(network, given, says):
    with pytest.raises(UsageError, match=says):
        sensitivity(network, **given, **SPEC)


def test_sensitivity_command_prints_tables_and_json(capsys, small_digits):
    args = ["sensitivity", small_digits, "--widths", "4", "-n", "8", "--set", QUICK[0], "--set", QUICK[1], "-q"]
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == 8
    assert set(found["layers"][0]["weights"]) == {"4"}
    assert main(args) == 0
    _, *tables = capsys.readouterr().out.split("\n\n")
    assert [table.splitlines()[1].split() for table in tables] == [["layer", "4", "bits"]] * 3
    assert [len(table.splitlines()) for table in tables] == [10, 10, 11]
