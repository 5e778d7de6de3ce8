"""Bits of single layers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from intraq_cli import inspect, load, quantize
from intraq_cli.api.inspect import bits_template
from intraq_cli.errors import ModelError, RecipeError
from intraq_cli.quantization.bit_rules import BitRules, read_bit_rules, template
from intraq_cli.quantization.plan import form_of, plan_quantization
from tests.conftest import SPEC, graph_of


def rules_of(tmp_path, text):
    path = tmp_path / "bits.toml"
    path.write_text(text)
    return read_bit_rules(path)


def test_last_matching_pattern_wins(tmp_path):
    rules = rules_of(tmp_path, '[weights]\n"*" = 4\n"blocks.0.*" = 8\n"blocks.0.conv2" = 3\n[activations]\nfc = 6\n')
    assert [rules.weight_bits(name, 5) for name in ("fc", "blocks.0.conv1", "blocks.0.conv2")] == [4, 8, 3]
    assert [rules.input_bits(name, 5) for name in ("fc", "blocks.0.conv1")] == [6, 5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[weights\n", "bits.toml"),
        ('[weights]\n"*" = 9\n', "[weights] gives '*' 9 bits"),
        ('[weights]\n"*" = true\n', "[weights] gives '*' True bits"),
        ('[weights]\n"*" = "4"\n', "[weights] gives '*' '4' bits"),
        ("[biases]\n", "biases is not a table"),
        ("weights = 4\n", "weights is not a table"),
    ],
)
def test_invalid_bits_files_are_rejected(tmp_path, text, says):
    with pytest.raises(RecipeError, match="--bits") as caught:
        rules_of(tmp_path, text)
    assert says in caught.value.message


def test_missing_bits_file_and_folder_are_rejected(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.toml"):
        read_bit_rules(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match=r"cannot read .*: not a regular file"):
        read_bit_rules(tmp_path)


def test_bad_bits_file_gives_the_exit_code_of_a_bad_recipe(intraq, tmp_path):
    (tmp_path / "bad.toml").write_text("[weights\n")
    for file in (tmp_path / "none.toml", tmp_path, tmp_path / "bad.toml"):
        codes = [intraq("inspect", "resnet20_digits", "--bits", file).code]
        codes += [intraq("quantize", "resnet20_digits", option, file).code for option in ("--bits", "--recipe")]
        assert codes == [1, 1, 1]


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
def test_plan_follows_the_bit_rules(network, placement):
    rules = BitRules({"conv2": 8, "fc": 2}, {"conv3": 6, "conv2": 3})
    graph = form_of(graph_of(network), placement)
    plan = plan_quantization(graph, 4, 5, placement, None, rules)
    assert plan.weights == {"conv1": 4, "conv2": 8, "conv3": 4, "fc": 2}
    sites = {
        "inputs": {"conv1": 8, "conv2": 3, "conv3": 6, "fc": 5},
        "activations": {"": 3, "act": 6, "act#1": 5},
        # conv2's output also enters a sum, and is rounded once more for conv3; sums and their terms have 8 bits
        "integer": {"image.output": 8, "conv1.output": 3, "conv2.output": 8, "conv3.output": 8, "output": 8}
        | {"#1.output": 5, "conv3.input": 6},
    }
    assert plan.activations == sites[placement]
    assert plan.limits == ({"conv2": 127} if placement == "integer" else {})


def test_pattern_that_matches_no_layer_is_rejected(network):
    with pytest.raises(ModelError, match="'conv9'"):
        plan_quantization(graph_of(network), 4, 4, "inputs", None, BitRules({"conv9": 8}))


@pytest.mark.parametrize("placement", ["inputs", "integer"])
def test_checkpoint_of_mixed_bits_reports_its_bits_and_loads(network, tmp_path, placement):
    bits = tmp_path / "bits.toml"
    bits.write_text("[weights]\nconv2 = 8\nconv3 = 3\n[activations]\nconv3 = 6\n")
    out = tmp_path / "out"
    quantize(network, w=4, a=4, recipe="instant", bits=bits, act_placement=placement, out=out, device="cpu", **SPEC)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["modules"] == {"conv1": 4, "conv2": 8, "conv3": 3, "fc": 4}
    assert "in 4 layers, of which 1 at 3, 1 at 8" in (out / "README.md").read_text()
    stored, loaded = load_file(out / "model.safetensors"), load(out, model=network)
    for name, width in config["modules"].items():
        weight = loaded.weights[name]().flatten(1)
        scale = stored[f"{name}.weight_scale"]
        codes = (weight / scale).round()
        assert ((codes.amax(1) - codes.amin(1)) <= 2**width - 1).all()
        assert torch.allclose(codes * scale, weight, atol=1e-6)
    assert [(row.w_bits, row.a_bits) for row in inspect(str(out)).layers] == [(4, 8), (8, 4), (3, 6), (4, 4)]


def test_bits_template_reproduces_the_bits_of_every_layer(network, tmp_path):
    found = inspect(network, w=3, a=5, **SPEC)
    path = tmp_path / "bits.toml"
    path.write_text(bits_template(found))
    again = inspect(network, w=8, a=8, bits=path, **SPEC)
    assert [(row.w_bits, row.a_bits) for row in again.layers] == [(row.w_bits, row.a_bits) for row in found.layers]


def test_template_escapes_layer_names_that_look_like_patterns(tmp_path):
    assert rules_of(tmp_path, template({'a[0]*"\\': 3}, {})).weight_bits('a[0]*"\\', 8) == 3


def test_activation_rule_for_a_layer_with_float_input_is_rejected(network):
    rules = BitRules({}, {"conv1": 4})
    with pytest.raises(ModelError, match="no layer that reads quantized values matches 'conv1'"):
        plan_quantization(graph_of(network), 4, 4, "activations", None, rules)
    assert plan_quantization(graph_of(network), 4, 4, "inputs", None, rules).activations["conv1"] == 4
