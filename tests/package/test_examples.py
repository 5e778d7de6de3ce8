"""The examples in docs/, run as their docstrings say, with few steps."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intraq_cli.io.digests import file_digest
from tests.conftest import TINY, TINY_SET

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def script(monkeypatch, capsys):
    def run(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_total_variation_loss_makes_images_smoother(intraq, small_digits):
    own = f"{EXAMPLES}/total_variation.py:total_variation"
    few = ("--set", "synthesis.num_images=16", "--set", "synthesis.batch_size=16", "--set", "synthesis.steps=15")
    found = {}
    for weight in (0, 20):
        made = intraq("synthesize", small_digits, *few, "--set", f"synthesis.losses.{own}={weight}", "--out",
                      f"{weight}.safetensors", "--json")  # fmt: skip
        assert made.code == 0, made.err
        found[weight] = json.loads(made.out)["losses"]["total_variation"]
    assert found[20] < 0.7 * found[0]
    code = json.loads(intraq("images", "20.safetensors", "--json").out)["code"]
    assert code == [{"name": own, "sha256": file_digest(EXAMPLES / "total_variation.py")}]


def test_stochastic_rounding_is_unbiased(intraq, tmp_path, small_digits):
    own = f"{EXAMPLES}/stochastic_rounding.py:stochastic"
    made = intraq("quantize", small_digits, *TINY, "--set", f"quantization.weight_rounding={own}", "--out", "out")
    assert made.code == 0, made.err
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["recipe"]["quantization"]["weight_rounding"] == own
    assert [one["name"] for one in run["code"]] == [own]
    function = runpy.run_path(str(EXAMPLES / "stochastic_rounding.py"))["stochastic"]
    from intraq_cli import RoundingInput

    weight = torch.full((2, 5000), 0.3)
    rounded = function(RoundingInput(weight, torch.full((2,), -4.0), torch.full((2,), 3.0), None))
    assert set(rounded.unique().tolist()) == {0.0, 1.0}
    assert abs(rounded.mean().item() - 0.3) < 0.02


def test_own_loss_example_runs(script, tmp_path):
    few = [word for text in TINY_SET for word in ("--set", text)]
    assert "low_contrast" in script("own_loss.py", "resnet20_digits", "--out", "i.safetensors", *few)
    assert (tmp_path / "i.safetensors.png").is_file()


def test_own_network_example_runs(script, tmp_path):
    few = [word for text in TINY_SET for word in ("--set", text)]
    assert "of 8 top-1 predictions" in script("own_network.py", "--out", "own", *few)
    assert (tmp_path / "own/model.safetensors").is_file()


@pytest.mark.slow
def test_timm_to_onnx_example_runs(script, tmp_path):
    import timm

    network = timm.create_model("test_resnet", pretrained=False, num_classes=4).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 32))
    folder = tmp_path / "net"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 4}
    config = {"architecture": "test_resnet", "num_classes": 4, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    assert "layers on integers" in script("timm_to_onnx.py", folder, "--out", "a.onnx")
    assert (tmp_path / "a.onnx").is_file()
