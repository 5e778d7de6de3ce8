"""Layers that stay float in an export are reported with a reason."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli import export, quantize
from intraq_cli.deploy.session import integer_layers
from tests.conftest import INPUT, SmallNet, trained
from tests.deploy.onnx_runs import frozen, model_of, run


def test_other_placements_export_float_layers_with_a_reason(random):
    student = frozen(trained(SmallNet(), (3, 8, 8)), 8, 8, "inputs", shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    _integer, left = integer_layers(model)
    assert {layer["name"] for layer in left} >= {"conv1", "conv2", "conv3"}
    assert all("its own zero-point" in layer["reason"] or "not quantized" in layer["reason"] for layer in left)
    x = torch.randn(16, 3, 8, 8, generator=random)
    wanted, got = student(x), run(model, x)
    assert torch.allclose(wanted, got, atol=1e-3 * wanted.std().item())


def test_export_with_a_float_layer_requires_allow_float(tmp_path, factory, intraq, monkeypatch):
    """With a runtime that has no integer kernel for one of the layers."""
    model = f"{factory}:net"
    made = intraq("quantize", model, *INPUT, "--w", 8, "--a", 8, "--recipe", "instant", "--act-placement", "integer",
                  "--out", tmp_path / "out")  # fmt: skip
    assert made.code == 0, made.err
    left = {"name": "conv", "reason": "the runtime has no integer kernel for it"}
    monkeypatch.setattr("intraq_cli.api.export.integer_layers", lambda model: (["fc"], [left]))
    ran = intraq("export", tmp_path / "out", "--model", model)
    assert ran.code == 1
    assert "1 layer stays float: conv" in ran.err
    assert "--allow-float" in ran.err
    assert not (tmp_path / "out" / "model.onnx").exists()
    allowed = intraq("export", tmp_path / "out", "--model", model, "--allow-float", "--json")
    assert json.loads(allowed.out)["layers_float"] == [left]


@pytest.mark.slow
def test_products_of_activations_are_listed_but_do_not_prevent_the_export(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.qkv = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 24)
            self.up, self.fc = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 4)

        def forward(self, x):
            x = self.up(F.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.fc(torch.einsum("bqk,bkd->bd", (q @ k.transpose(1, 2)).softmax(-1), v))

    network = trained(Attention())
    given = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "recipe": "instant"}
    quantize(network, w=8, a=8, out=tmp_path / "out", act_placement="integer", **given)
    result = export(tmp_path / "out", model=network)
    assert set(result.layers_integer) >= {"conv", "qkv"}
    reasons = [layer["reason"] for layer in result.layers_float]
    assert reasons.count("a product of activations") == 2
    assert {"name": "up", "reason": "its weight is not quantized"} in result.layers_float
    assert not {layer["name"] for layer in result.layers_float} & {"conv", "qkv", "fc"}
