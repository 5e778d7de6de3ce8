import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from intraq_cli import load, quantize
from intraq_cli.errors import CheckpointError, IntraqError, ModelError
from tests.conftest import TINY

SET = list(TINY[1::2])
SPEC = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "digits"
    quantize("resnet20_digits", w=3, a=4, out=folder, set=SET, device="cpu")
    return folder


@pytest.mark.parametrize("placement", ["inputs", "activations"])
@pytest.mark.parametrize("w", [2, 5, 8])
def test_loaded_logits_are_bit_for_bit_those_at_the_end_of_quantize(factory, tmp_path, placement, w, monkeypatch):
    seen = {}
    from intraq_cli import api

    fidelity = api.fidelity

    def spy(student, *args):
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        seen["x"], seen["logits"] = x, student(x)
        return fidelity(student, *args)

    monkeypatch.setattr(api, "fidelity", spy)
    model = f"{factory}:net"
    quantize(model, w=w, a=4, out=tmp_path / "out", set=SET, act_placement=placement, device="cpu", **SPEC)
    loaded = load(tmp_path / "out", model=model, device="cpu")
    assert torch.equal(loaded(seen["x"]), seen["logits"])


def test_weights_are_packed_and_no_float_copy_is_kept(digits):
    tensors = load_file(digits / "model.safetensors")
    assert not [k for k in tensors if k.endswith(("conv1.weight", "conv2.weight", "fc.weight"))]
    words = tensors["stages.2.0.conv2.weight_packed"]
    assert (words.dtype, tuple(words.shape)) == (torch.int32, (64, 64 * 9 * 3 // 32))
    assert tensors["stages.2.0.conv2.weight_shape"].tolist() == [64, 64, 3, 3]
    assert tensors["stages.2.0.conv2.weight_scale"].shape == (64, 1)
    assert tensors["stages.2.0.conv2.weight_zero_point"].shape == (64 * 3 // 32, 1)
    assert tensors["stages.2.0.conv2.input_scale"].shape == ()
    with safe_open(digits / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert (digits / "model.safetensors").stat().st_size * 6.5 < 1_083_392


def test_the_folder_holds_what_was_promised(digits):
    assert {p.name for p in digits.iterdir()} == {
        "model.safetensors",
        "config.json",
        "run.json",
        "README.md",
        "samples.png",
    }
    config, run = (json.loads((digits / name).read_text()) for name in ("config.json", "run.json"))
    assert config["architecture"] == "cifar_resnet"
    assert config["quantization_config"]["quant_method"] == "intraq"
    assert config["quantization_config"]["modules"]["fc"] == 3
    assert run["recipe"]["tuning"]["steps"] == 3
    assert len(run["teacher"]["sha256"]) == 64
    assert run["measured"]["bytes_quantized"] == (digits / "model.safetensors").stat().st_size
    card = (digits / "README.md").read_text()
    assert "library_name: intraq" in card
    assert "license: cc-by-4.0" in card


def test_one_seed_gives_identical_checkpoints(tmp_path, digits):
    quantize("resnet20_digits", w=3, a=4, out=tmp_path / "again", set=SET, device="cpu")
    for name in ("model.safetensors", "config.json", "samples.png"):
        assert (tmp_path / "again" / name).read_bytes() == (digits / name).read_bytes()
    quantize("resnet20_digits", w=3, a=4, out=tmp_path / "other", set=SET, device="cpu", seed=1)
    assert (tmp_path / "other/model.safetensors").read_bytes() != (digits / "model.safetensors").read_bytes()


def test_no_code_runs_that_the_user_did_not_type(factory, tmp_path):
    quantize(f"{factory}:net", out=tmp_path / "out", set=SET, device="cpu", **SPEC)
    with pytest.raises(ModelError, match="holds no code") as caught:
        load(tmp_path / "out")
    assert "--model file.py:factory" in caught.value.hint


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


BREAK = {
    "no config": lambda f: (f / "config.json").unlink(),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "config is a list": lambda f: (f / "config.json").write_text("[]"),
    "float model": lambda f: change_config(f, lambda c: c.pop("quantization_config")),
    "foreign": lambda f: change_config(f, lambda c: c["quantization_config"].update(quant_method="gptq")),
    "from the future": lambda f: change_config(f, lambda c: c["quantization_config"].update(format_version=99)),
    "bits": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc=9)),
    "bits as text": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc="4")),
    "other bits": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc=5)),
    "unknown layer": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(nowhere=3)),
    "unknown architecture": lambda f: change_config(f, lambda c: c.update(architecture="os.system")),
    "wrong arguments": lambda f: change_config(f, lambda c: c.update(model_args={"evil": 1})),
    "no input size": lambda f: change_config(f, lambda c: c["pretrained_cfg"].pop("input_size")),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "truncated": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
    "missing tensor": lambda f: change_tensors(f, lambda t: t.pop("fc.weight_packed")),
    "missing bias": lambda f: change_tensors(f, lambda t: t.pop("fc.bias")),
    "other shape": lambda f: change_tensors(
        f, lambda t: t.update({"fc.weight_packed": t["fc.weight_packed"][:5].clone()})
    ),
    "negative scale": lambda f: change_tensors(f, lambda t: t.update({"fc.input_scale": torch.tensor(-1.0)})),
    "extra tensor": lambda f: change_tensors(f, lambda t: t.update({"extra": torch.zeros(1)})),
}


@pytest.mark.parametrize("damage", BREAK)
def test_a_damaged_checkpoint_is_one_line(digits, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(digits, folder)
    BREAK[damage](folder)
    with pytest.raises((CheckpointError, ModelError)) as caught:
        load(folder, device="cpu")
    assert isinstance(caught.value, IntraqError)
    assert "\n" not in caught.value.message
