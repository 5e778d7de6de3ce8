"""Folders of float models, whose ``config.json`` and weights are not trusted."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from intraq_cli.errors import ModelError
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.teacher import capture_teacher
from tests.models.teachers import load_teacher


@pytest.mark.parametrize("spelling", ["{}", "local-dir:{}"])
def test_timm_folder_loads_with_identical_weights(timm_folder, spelling):
    folder, network = timm_folder
    teacher = load_teacher(spelling.format(folder))
    assert (teacher.architecture, teacher.name) == ("test_resnet", "tiny")
    assert teacher.spec.input_size == (3, 160, 160)
    assert not teacher.network.training
    assert all(torch.equal(v, teacher.network.state_dict()[k]) for k, v in network.state_dict().items())
    captured = capture_teacher(teacher)
    assert captured.num_classes == 7
    rebuilt = build_architecture(teacher.architecture, 7, teacher.model_args)
    rebuilt.load_state_dict(teacher.network.state_dict())


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architecture": "nothing_at_all"}'])
def test_model_folder_with_an_invalid_config_is_rejected(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load_teacher(str(tmp_path))


def test_folder_of_an_intraq_architecture_loads_unless_its_weights_are_damaged(tmp_path):
    network = build_architecture("cifar_resnet", 5, {"blocks": 1})
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "cifar_resnet", "num_classes": 5, "model_args": {"blocks": 1}, "pretrained_cfg": cfg}
        )
    )
    assert capture_teacher(load_teacher(str(tmp_path))).num_classes == 5
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="is not a safetensors file, or is damaged"):
        load_teacher(str(tmp_path))


def test_folder_without_safetensors_is_rejected(timm_folder, tmp_path):
    """timm would unpickle pytorch_model.bin instead."""
    shutil.copytree(timm_folder[0], tmp_path / "copy")
    (tmp_path / "copy/model.safetensors").unlink()
    torch.save(timm_folder[1].state_dict(), tmp_path / "copy/pytorch_model.bin")
    with pytest.raises(ModelError, match=r"there is no file .*model\.safetensors"):
        load_teacher(str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_classes": 900_000, "model_args": {}}, "describes a network of"),
        ({"num_classes": 8, "model_args": {}}, "cannot load"),
        ({"num_classes": 8}, "num_classes is 8, but 7 in model_args"),
        ({"model_args": {"layers": [16384] * 4}}, "more than .* modules and parameters"),
        ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "may not contain 'checkpoint_path'"),
        ({"model_args": {"pretrained": True}}, "may not contain 'pretrained'"),
        ({"model_args": {"block": "BasicBlock"}}, "cannot load"),
        ({"architecture": "hf-hub:timm/resnet18.a1_in1k"}, "cannot load"),
        ({"architecture": "vit_giant_patch14_dinov2"}, "describes a network of|modules and parameters"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "too large|input_size"),
        ({"label_names": ["cat"]}, "1 label_names for 7 classes"),
    ],
)
def test_untrusted_float_config_is_validated(timm_folder, tmp_path, change, says):
    shutil.copytree(timm_folder[0], tmp_path / "copy")
    config = json.loads((tmp_path / "copy/config.json").read_text())
    for key, value in change.items():
        config[key] = config.get(key, {}) | value if key == "pretrained_cfg" else value
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says) as caught:
        load_teacher(str(tmp_path / "copy"))
    assert caught.value.message.isprintable()
