"""One layer alone at few bits."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from intraq_cli import sensitivity
from intraq_cli.app import main
from intraq_cli.errors import UsageError
from intraq_cli.quantization.affine import fake_quantize, mse_grid
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.quantization.sensitivity import CALIBRATION, layer_sensitivities
from tests.conftest import graph_of

GIVEN = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}
QUICK = ("synthesis.steps=2", "synthesis.batch_size=8")


@pytest.fixture
def images():
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def divergence(network, changed, images):
    with torch.no_grad():
        p, q = network(images).log_softmax(1), changed(images).log_softmax(1)
    return float((p.exp() * (p - q)).sum() / len(images))


def test_a_weights_divergence_is_that_of_the_network_with_this_weight_alone_quantized(network, images):
    found = {layer.name: layer for layer in layer_sensitivities(graph_of(network), "inputs", images, (2, 4))}
    assert list(found) == ["conv1", "conv2", "conv3", "fc"]
    for name, layer in found.items():
        for bits in (2, 4):
            changed = copy.deepcopy(network)
            held = changed.get_submodule(name)
            held.weight.data = WeightQuantizer(held.weight, bits, CALIBRATION)().detach()
            assert layer.weights[bits] == pytest.approx(divergence(network, changed, images), abs=1e-5)


def test_an_inputs_divergence_is_that_of_the_network_with_this_input_alone_quantized(network, images):
    found = {layer.name: layer for layer in layer_sensitivities(graph_of(network), "inputs", images, (3,))}
    changed = copy.deepcopy(network)
    with torch.no_grad():
        x = F.relu(changed.bn1(changed.conv1(images)))
        scale, zero = (one[0] for one in mse_grid(x.reshape(1, -1), 7))
    own = changed.conv2.forward
    changed.conv2.forward = lambda x: own(fake_quantize(x, scale, zero, 7))
    assert found["conv2"].inputs[3] == pytest.approx(divergence(network, changed, images), abs=1e-4)


def test_where_the_placement_leaves_the_image_float_its_layer_has_no_figure(network, images):
    found = layer_sensitivities(graph_of(network), "activations", images, (2, 8))
    assert found[0].inputs == {}
    assert all(layer.weights[8] <= layer.weights[2] for layer in found)
    assert found[1].inputs[8] <= found[1].inputs[2]


def test_every_step_is_told(network, images):
    told = []
    layer_sensitivities(graph_of(network), "integer", images, (4,), told.append)
    assert told == list(range(1, 9))


def test_the_function_makes_its_images_and_leaves_the_network_alone(network):
    before = copy.deepcopy(network.state_dict())
    found = sensitivity(network, widths=[8, 2, 8], n=8, set=QUICK, device="cpu", **GIVEN)
    assert (found.widths, found.n, len(found.layers)) == ([2, 8], 8, 4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("given", "says"), [({"widths": [9]}, "2 to 8"), ({"widths": []}, "2 to 8"), ({"n": 1}, "two")]
)
def test_what_makes_no_sense_is_refused(network, given, says):
    with pytest.raises(UsageError, match=says):
        sensitivity(network, **given, **GIVEN)


def test_the_command_prints_a_table_and_json(capsys):
    args = ["sensitivity", "resnet20_digits", "--widths", "4", "-n", "8", "--set", QUICK[0], "--set", QUICK[1], "-q"]
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == 20
    assert set(found["layers"][0]["weights"]) == {"4"}
    assert main(args) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split() == ["layer", "W4", "A4"]
    assert len(second.split()) == 3
