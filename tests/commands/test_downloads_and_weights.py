"""Float models that would be downloaded, or take their weights from a file."""

import json
import os

import pytest
import timm

from intraq_cli.models.source import Source
from tests.commands.conftest import warm

pytestmark = pytest.mark.usefixtures("in_a_folder")


@pytest.mark.parametrize("model", ["timm/resnet18.a1_in1k", "resnet18", "hf-hub:timm/resnet18.a1_in1k@main"])
def test_unreachable_hub_is_a_model_error_without_a_traceback(model, tmp_path):
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    made = warm("quantize", model, "--json", **env)
    assert made.returncode == 1
    assert json.loads(made.stdout)["error"]["code"] == "model"
    assert "Traceback" not in made.stderr
    assert not (tmp_path / f"{model}-w4a4").exists()


def test_offline_mode_of_the_hub_prevents_torchvision_downloads_too(tmp_path):
    made = warm("quantize", "torchvision:resnet18", HF_HUB_OFFLINE="1", TORCH_HOME=str(tmp_path))
    assert made.returncode == 1
    assert "HF_HUB_OFFLINE is set" in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["test_vit", "torchvision:convnext_tiny"])
def test_network_without_batch_norm_is_refused_before_any_download(model, tmp_path):
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    made = warm("quantize", model, **env)
    assert made.returncode == 1
    assert "no batch norm" in made.stderr


@pytest.mark.slow
def test_timm_model_can_be_quantized_with_weights_from_a_file(intraq, tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    save_file(network.state_dict(), "w.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, "w.pth")
    given = ("--weights", "w.pth", "--input-size", "3,32,32", "--recipe", "instant", "--out", "made")
    made = intraq("quantize", "test_resnet", *given)
    assert made.code == 0, made.err
    run, config = (json.loads((tmp_path / "made" / name).read_text()) for name in ("run.json", "config.json"))
    assert (run["teacher"]["weights"], config["num_classes"]) == ("w.pth", 7)
    assert run["teacher"]["sha256"] == Source.parse("test_resnet", weights="w.safetensors").load().sha256


def test_malicious_or_unsuitable_weights_files_are_refused(intraq, tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (os.system, ("touch evil",))

    torch.save({"state_dict": Evil()}, "evil.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"a": torch.zeros(2)}, "other.pth")
    for file, reason in (
        ("evil.pth", "cannot read"),
        ("text.pth", "cannot read"),
        ("other.pth", "does not match"),
        ("none.pth", "there is no file none.pth"),
    ):
        made = intraq("quantize", "test_resnet", "--weights", file, "--recipe", "instant")
        assert made.code == 1, made.err
        assert reason in made.err
        assert "Traceback" not in made.err
    assert not (tmp_path / "evil").exists()
