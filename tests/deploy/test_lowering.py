"""How operations are lowered to ONNX: clamps, tiny constants, float twins, and what ONNX lacks."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.deploy.lower import float_twin, lower
from intraq_cli.deploy.onnx_file import onnx_model
from intraq_cli.deploy.session import integer_layers
from intraq_cli.errors import ExportError
from tests.conftest import SmallNet, trained
from tests.deploy.onnx_runs import SHAPE, frozen, frozen_everything, model_of, run


def test_error_names_the_operation_that_onnx_lacks(random):
    class Odd(SmallNet):
        def forward(self, x):
            return super().forward(torch.special.i0(x))

    with pytest.raises(ExportError, match=r"^ONNX has no operator for prims\.bessel_i0, which this network calls$"):
        model_of(frozen(trained(Odd(), (3, 8, 8)), 8, 8, shape=(3, 8, 8)), shape=(3, 8, 8))


def test_operation_that_only_fails_as_it_runs_is_refused_in_one_line(random, capfd):
    class Smaller(nn.Module):
        def forward(self, x):
            return F.interpolate(x, size=7, mode="bicubic")  # onnxruntime has it for channels first only

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Smaller(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(200, 5),
    )  # fmt: skip
    model = model_of(frozen(trained(network, SHAPE), 8, 8))
    with pytest.raises(ExportError, match=r"^onnxruntime cannot run the network: .*Resize.*"):
        run(model, torch.randn(2, *SHAPE, generator=random))
    assert capfd.readouterr() == ("", "")


def test_float_twin_is_exported_without_quantizers(random):
    student = frozen_everything()
    x = torch.randn(8, *SHAPE, generator=random)
    twin = onnx_model(float_twin(student), SHAPE, "int8", {})
    assert "QuantizeLinear" not in {node.op_type for node in twin.graph.node}
    assert torch.allclose(run(twin, x), float_twin(student)(x), atol=1e-4)


def test_clamping_activations_are_lowered_to_clipping_of_codes():
    """Even if a hardtanh's bounds are not on the grid: rounding keeps the order, so clipping may come after it."""
    graph = lower(frozen_everything())
    targets = {str(node.target) for node in graph.graph.nodes}
    assert not any(name in target for target in targets for name in ("relu6", "hardtanh", "aten.relu."))


@pytest.mark.parametrize("clamps", [((0.3, 2), (-1, 1.2)), ((-1, 0.25), (0.5, 3)), ((0, math.inf), (-math.inf, 0.7))])
def test_consecutive_clamps_are_exported_in_the_right_order(clamps, random):
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x):
            x = self.norm(self.conv(x))
            for low, high in clamps:
                x = x.clamp(low if math.isfinite(low) else None, high if math.isfinite(high) else None)
            return self.fc(x.mean((2, 3)))

    student = frozen(trained(Clamped(), (3, 8, 8)), 8, 8, shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    assert integer_layers(model)[1] == []
    x = torch.randn(16, 3, 8, 8, generator=random)
    wanted, got = student(x), run(model, x)
    assert ((wanted - got).abs().max(1).values <= 1e-3 * wanted.abs().max()).float().mean() >= 0.9


class NearZero(nn.Module):
    """Tiny constants that prevent a division of zero by zero, and a factor that is nearly one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)) - 900)  # all zeros
        x = x / ((x * x).sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        x = x / (x.abs().sum((1, 2, 3), keepdim=True) - -1e-8)
        x = x.mean((2, 3)) * 1.000005
        return self.fc(x) + x


def test_tiny_constants_against_division_by_zero_survive_the_export():
    network = trained(NearZero(), (3, 8, 8))
    got = run(model_of(frozen(network, 8, 8, "inputs", shape=(3, 8, 8)), shape=(3, 8, 8)), torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(got, network.fc.bias.expand(4, 4), rtol=1e-3, atol=1e-3)
