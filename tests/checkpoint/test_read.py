"""Damaged and untrusted checkpoints: refused in one line, before a network is allocated or captured."""

import json
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from intraq_cli import load
from intraq_cli.errors import CheckpointError, IntraqError, ModelError
from intraq_cli.models.architectures import build_architecture


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
    "version as a number with a point": lambda f: change_config(
        f, lambda c: c["quantization_config"].update(format_version=2.0)
    ),
    "bits": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc=9)),
    "bits as text": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc="4")),
    "other bits": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update(fc=5)),
    "bits of all": lambda f: change_config(f, lambda c: c["quantization_config"]["weights"].update(bits=99)),
    "no bits of all": lambda f: change_config(f, lambda c: c["quantization_config"].pop("weights")),
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
    "nan scale": lambda f: change_tensors(f, lambda t: t["fc.weight_scale"].fill_(float("nan"))),
    "infinite scale": lambda f: change_tensors(f, lambda t: t.update({"fc.input_scale": torch.tensor(float("inf"))})),
    "weights beyond float32": lambda f: change_tensors(f, lambda t: t["fc.weight_scale"].fill_(3e38)),
    "zero-point off the grid": lambda f: change_tensors(f, lambda t: t["fc.input_zero_point"].fill_(16)),
    "nan bias": lambda f: change_tensors(f, lambda t: t["fc.bias"].fill_(float("nan"))),
    "other shape stated": lambda f: change_tensors(f, lambda t: t["fc.weight_shape"].fill_(10**9)),
    "other type": lambda f: change_tensors(
        f, lambda t: t.update({"fc.weight_packed": t["fc.weight_packed"].view(torch.float32)})
    ),
    "layer twice": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update({"fc.weight": 3})),
    "no layer": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update({"bn1": 3})),
    "dunder": lambda f: change_config(f, lambda c: c["quantization_config"]["modules"].update({"fc.__class__": 3})),
    "lost activation": lambda f: change_config(f, lambda c: c["quantization_config"]["sites"].update({"conv9": 3})),
    "other input": lambda f: change_config(f, lambda c: c["pretrained_cfg"].update(input_size=[3, 8, 8])),
    "labels": lambda f: change_config(f, lambda c: c.update(label_names=["0", "1"])),
    "no label": lambda f: change_config(f, lambda c: c.update(label_names=[None] * 10)),
    "run is a list": lambda f: (f / "run.json").write_text("[]"),
    "teacher is a number": lambda f: (f / "run.json").write_text('{"teacher": {"source": 3}}'),
    "links out": lambda f: (
        (f / "model.safetensors").rename(f.parent / "moved"),
        (f / "model.safetensors").symlink_to("../moved"),
    ),
    "extra tensor": lambda f: change_tensors(f, lambda t: t.update({"extra": torch.zeros(1)})),
}


@pytest.mark.parametrize("damage", BREAK)
def test_damaged_checkpoint_is_a_one_line_error(digits, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(digits, folder)
    BREAK[damage](folder)
    with pytest.raises((CheckpointError, ModelError)) as caught:
        load(folder, device="cpu")
    assert isinstance(caught.value, IntraqError)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("version", "hint"), [(1, "create it again with `intraq quantize`"), (3, "update intraq")])
def test_checkpoint_of_another_format_version_is_refused_with_a_hint(digits, tmp_path, version, hint):
    shutil.copytree(digits, tmp_path / "copy")
    assert json.loads((digits / "config.json").read_text())["quantization_config"]["format_version"] == 2
    change_config(tmp_path / "copy", lambda c: c["quantization_config"].update(format_version=version))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "copy", device="cpu")
    assert (
        caught.value.message == f"{tmp_path / 'copy'} has format version {version}, but this version of intraq reads 2"
    )
    assert caught.value.hint == hint


def allocated():
    """Peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 900_000},
        {"architecture": "torchvision:regnet_y_128gf", "model_args": {}},
        {"model_args": {"blocks": 16384, "in_chans": 1}},
        {"model_args": {"blocks": 3, "in_chans": 16384}},
        {"architecture": "torchvision:vgg16", "model_args": {}},
        {"architecture": "vit_giant_patch14_dinov2", "model_args": {}},
        {"architecture": "test_resnet", "model_args": {"layers": [16384] * 4}},
        {"architecture": "wide_resnet101_2", "model_args": {"base_width": 16384}},
        {"architecture": "efficientnet_b0", "model_args": {"channel_multiplier": 32.0}},
    ],
)
def test_config_naming_a_huge_network_is_refused_without_allocating_it(digits, tmp_path, monkeypatch, change):
    folder = tmp_path / "copy"
    shutil.copytree(digits, folder)
    change_config(folder, lambda c: (c.update(change), c.pop("label_names")))
    built = []
    monkeypatch.setattr(
        "intraq_cli.checkpoint.read.build_architecture",
        lambda *args: built.append(torch.get_default_device().type) or build_architecture(*args),
    )
    before = allocated()
    with pytest.raises((CheckpointError, ModelError)):
        load(folder, device="cpu")
    assert built[0] == "meta"
    assert allocated() - before < 300 * 2**20  # the network was never allocated


def test_mismatched_architecture_is_refused_before_it_is_captured(digits, tmp_path, monkeypatch):
    """Capturing takes seconds to minutes, and the config is not trusted."""
    shutil.copytree(digits, tmp_path / "copy")
    change_config(
        tmp_path / "copy", lambda c: c.update(architecture="densenet121", model_args={"in_chans": 1, "growth_rate": 8})
    )
    monkeypatch.setattr("intraq_cli.checkpoint.read.capture", lambda *args: pytest.fail("captured"))
    with pytest.raises(CheckpointError, match="the network has no layer"):
        load(tmp_path / "copy", device="cpu")
