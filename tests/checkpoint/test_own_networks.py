"""Checkpoints of networks that compute their weights, hold unusual tensors, or call a layer twice."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from intraq_cli import load, quantize
from intraq_cli.checkpoint.write import checkpoint_tensors
from intraq_cli.errors import CheckpointError, ModelError
from intraq_cli.events import Noted
from tests.checkpoint.own_networks import NETS
from tests.conftest import SPEC


def of_weight(layer):
    return {f"{layer}.weight_{part}" for part in ("packed", "scale", "zero_point", "shape")}


def of_input(site):
    return {f"{site}.input_scale", f"{site}.input_zero_point"}


PLAIN = {
    *(key for layer in ("conv", "fc") for key in (*of_weight(layer), *of_input(layer))),
    *("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "fc.bias"),
}
"""Names of all tensors in a checkpoint of ``net``."""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Quantizes a network of ``NETS``, loads it again, and returns the file's tensors and the config.

    The loaded network must give the logits at the end of ``quantize``, bit for bit.
    """

    def run(name, recipe="instant", **options):
        (tmp_path / "nets.py").write_text(NETS)
        model, seen = f"{tmp_path}/nets.py:{name}", []
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))

        def spy(student, stored):
            seen.append(student(x))
            return checkpoint_tensors(student, stored)

        monkeypatch.setattr("intraq_cli.jobs.checkpoint_folder.checkpoint_tensors", spy)
        quantize(model, w=3, a=4, recipe=recipe, out=tmp_path / "out", device="cpu", **SPEC, **options)
        loaded = load(tmp_path / "out", model=model, device="cpu")
        (logits,) = seen
        assert logits.std() > 0
        assert torch.equal(loaded(x), logits)
        return load_file(tmp_path / "out/model.safetensors"), json.loads((tmp_path / "out/config.json").read_text())

    return run


@pytest.mark.parametrize(
    "name",
    ["net", "pruned", "weight_normed", "spectral_normed", "spectral_normed_by_hooks", "extra", "unused", "layouts"],
)
def test_computed_weights_are_stored_as_codes_only(written, name):
    """Neither float weights nor what they are computed from: the tensors are those of the plain network."""
    tensors, config = written(name)
    assert tensors.keys() == PLAIN
    assert config["quantization_config"]["modules"] == {"conv": 3, "fc": 3}
    assert tensors["conv.weight_shape"].tolist() == [8, 3, 3, 3]


def test_pruned_network_is_stored_as_codes_only_after_tuning(written):
    settings = ["synthesis.num_images=16", "synthesis.batch_size=8", "synthesis.steps=2"]
    tensors, _ = written("pruned", "default", set=[*settings, "tuning.steps=3", "tuning.batch_size=8"])
    assert tensors.keys() == PLAIN


def test_complex_parameter_is_stored_unquantized_and_checked_for_nan(written, tmp_path):
    tensors, _ = written("filtered")
    assert tensors.keys() == PLAIN | {"filter"}
    assert (tensors["filter"].dtype, tuple(tensors["filter"].shape)) == (torch.complex64, (8, 8, 5))
    tensors["filter"][0, 0, 0] = complex(0, float("nan"))
    save_file(tensors, tmp_path / "out/model.safetensors")
    with pytest.raises(CheckpointError, match="filter contains NaN or infinite values"):
        load(tmp_path / "out", model=f"{tmp_path}/nets.py:filtered", device="cpu")


def test_layer_called_twice_has_one_weight_but_a_grid_for_each_input(written):
    tensors, config = written("twice")
    assert tensors.keys() == PLAIN | of_weight("mid") | {"mid.bias"} | of_input("mid") | of_input("mid#1")
    assert tensors["mid.input_scale"] != tensors["mid#1.input_scale"]
    assert config["quantization_config"]["modules"] == {"conv": 3, "mid": 3, "fc": 3}
    assert list(config["quantization_config"]["sites"]) == ["conv", "mid", "mid#1", "fc"]


def test_weight_with_another_reader_is_stored_both_folded_and_in_float(written):
    tensors, config = written("tied", act_placement="integer")
    assert config["quantization_config"]["modules"] == {"conv.weight_folded": 3, "fc": 3}
    assert "conv.weight" in tensors  # the rest of the network reads it in float


def test_logits_do_not_depend_on_where_a_tensor_lies_in_the_file(written, tmp_path):
    """Sums of a matrix product depend on the alignment of its operands in memory."""
    tensors, _ = written("scored")
    x, logits = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for before in range(8):
        save_file(tensors, tmp_path / "out/model.safetensors", {"format": "pt", "shifted": "x" * 8 * before})
        logits.append(load(tmp_path / "out", model=f"{tmp_path}/nets.py:scored", device="cpu")(x))
    assert all(torch.equal(one, logits[0]) for one in logits)


def test_parameters_named_like_quantizer_tensors_do_not_clash_with_them(written):
    tensors, _ = written("scaled")
    own = {"weight_scale_float", "weight_scale_float_float", "weight_shape_float", "input_scale_float"}
    assert tensors.keys() == PLAIN | {f"conv.{name}" for name in own}
    assert torch.equal(tensors["conv.weight_scale_float_float"], torch.linspace(0.5, 2, 8).view(8, 1))
    assert tensors["conv.weight_scale_float"] == 1.5


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return str(tmp_path / "nets.py")


def test_quantize_reports_the_share_of_multiply_adds_that_stay_float(nets, tmp_path):
    told = []
    quantize(f"{nets}:recurrent", recipe="instant", out=tmp_path / "out", dry_run=True, report=told.append, **SPEC)
    (said,) = [event.message for event in told if isinstance(event, Noted)]
    macs = 64 * (4 * 8 * 8 + 4 * 8 * 8)
    share = 100 * macs / (macs + 64 * 8 * 27 + 24)
    assert said == f"{share:.1f} % of the multiply-adds stay float, see `intraq inspect`: lstm (a recurrent layer)"


def test_tensor_type_that_no_checkpoint_can_hold_is_refused_up_front(nets, tmp_path):
    with pytest.raises(ModelError, match=r"filter is a tensor that no checkpoint can store \(complex128"):
        quantize(f"{nets}:complex128", recipe="instant", out=tmp_path / "out", **SPEC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("torch.relu(self.bn", "torch.tanh(self.bn"),
        (".mean((2, 3))", ".amax((2, 3))"),
        ("return self.fc(", "return 1.5 * self.fc("),
        ("nn.BatchNorm2d(8)", "nn.BatchNorm2d(8, eps=0.1)"),
        ("nn.Conv2d(3, 8, 3, 1, 1, bias=False)", "nn.Conv2d(3, 8, 3, 1, 1, bias=False, padding_mode='reflect')"),
    ],
)
def test_load_refuses_code_that_computes_something_else(written, tmp_path, was, now):
    written("net")
    (tmp_path / "nets.py").write_text(NETS.replace(was, now))
    with pytest.raises(CheckpointError, match="differs, in its operations or in numbers in its code"):
        load(tmp_path / "out", model=f"{tmp_path}/nets.py:net", device="cpu")


def test_load_accepts_equivalent_code_and_skips_the_check_for_other_torch(written, tmp_path):
    _, config = written("net")
    x = torch.randn(4, 3, 8, 8)
    logits = load(tmp_path / "out", model=f"{tmp_path}/nets.py:net", device="cpu")(x)
    (tmp_path / "nets.py").write_text(NETS.replace("return self.fc(torch.relu(", "y = (\n  torch.relu)(").replace(
        ").mean((2, 3)))", ")\n        return self.fc(y.mean(dim=(2, 3)))"
    ))  # fmt: skip
    assert torch.equal(load(tmp_path / "out", model=f"{tmp_path}/nets.py:net", device="cpu")(x), logits)
    (tmp_path / "nets.py").write_text(NETS.replace("torch.relu(self.bn", "torch.tanh(self.bn"))
    config["quantization_config"]["code"]["torch"] = "1.0"
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    assert not torch.equal(load(tmp_path / "out", model=f"{tmp_path}/nets.py:net", device="cpu")(x), logits)
