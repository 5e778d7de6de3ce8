import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.errors import ModelError
from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import replace_tensors, tensors
from intraq_cli.quantization import calibration
from intraq_cli.quantization.calibration import calibrate
from intraq_cli.quantization.float_statistics import FloatRun
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.recipe import Quantization
from tests.conftest import graph_of, student_of, trained

FINE = Quantization(correction="always", weight_rounding="nearest", activation_range="mse", weight_range="minmax")


def test_batch_norm_statistics_are_corrected_unless_correction_is_never(graph, random):
    images = torch.randn(32, 3, 8, 8, generator=random)
    moved = {}
    for correction in ("never", "always"):
        student = student_of(graph, 3, 3)
        calibrate(student, graph, images, Quantization(correction=correction))
        found = {key: value for key, value in student.float_tensors.items() if "running" in key}
        moved[correction] = [key for key, value in found.items() if not torch.equal(value, tensors(graph)[key])]
    assert not moved["never"]
    assert moved["always"] == list(found)
    assert Quantization().correction == "always"


def test_correction_undoes_a_shift_and_a_gain_per_channel(graph, random):
    """The errors are linear per channel, so that the correction can be exact; 8 bits add almost none."""
    factors = {"conv1.weight": torch.linspace(0.6, 1.5, 6).view(-1, 1, 1, 1), "conv2.weight": 1.2, "conv3.weight": 0.8}

    def wrong(key, tensor):
        return tensor + 0.3 if key == "conv2.bias" else tensor * factors.get(key, 1.0)

    broken = replace_tensors(graph, wrong)
    unseen = torch.randn(16, 3, 8, 8, generator=random)
    assert not torch.allclose(broken(unseen), graph(unseen), atol=0.3)
    student = QuantizedNetwork(broken, plan_quantization(graph, 8, 8, "activations"))
    calibrate(student, graph, torch.randn(256, 3, 8, 8, generator=random), FINE)
    assert (student(unseen) - graph(unseen)).square().mean() < 1e-3 * graph(unseen).var()


def test_correction_hardly_changes_correct_statistics(graph, random):
    student = student_of(graph, 8, 8, "activations")
    calibrate(student, graph, torch.randn(64, 3, 8, 8, generator=random), FINE)
    for key, value in tensors(graph).items():
        if key in student.float_tensors:
            torch.testing.assert_close(student.float_tensors[key], value, rtol=0.03, atol=0.03)


class Twice(nn.Module):
    """One convolution is called twice, its second input four times as large."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.norm1, self.norm2 = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm1(self.conv(x)))
        return self.fc(F.relu(self.norm2(self.conv(4 * x))).mean((2, 3)))


def test_each_call_of_a_layer_has_its_own_activation_range(random):
    graph = graph_of(trained(Twice()))
    student = student_of(graph, 8, 8)
    calibrate(student, graph, torch.randn(64, 3, 8, 8, generator=random), Quantization(activation_range="mse"))
    assert list(student.activation_quantizers) == ["stem", "conv", "conv#1", "fc"]
    assert len(student.latent) == 3
    first, second = (student.activation_quantizers[site].scale() for site in ("conv", "conv#1"))
    assert second > 2 * first
    x = torch.randn(16, 3, 8, 8, generator=random)
    assert (student(x) - graph(x)).square().mean() < 1e-3 * graph(x).var()


def test_weights_compensate_for_errors_of_earlier_layers(graph, random, monkeypatch):
    """At three bits, the outputs on unseen images are closer to the float ones than without compensation."""
    images, unseen = torch.randn(128, 3, 8, 8, generator=random), torch.randn(128, 3, 8, 8, generator=random)

    def error(bits=8):
        student = student_of(graph, 3, bits)
        calibrate(student, graph, images, Quantization(correction="always"))
        return (student(unseen) - graph(unseen)).square().mean()

    with torch.no_grad():
        ours = error()
        coarse = error(bits=4)
        monkeypatch.setattr(calibration, "compensated", lambda weight, moments, rows, float_rows: weight)
        assert ours < error()
        assert coarse == error(bits=4)  # no compensation with coarse activations


def test_float_run_gives_layers_the_inputs_of_a_plain_run(graph, random):
    images, seen = torch.randn(4, 3, 8, 8, generator=random), {}

    class Watched(torch.fx.Interpreter):
        def run_node(self, n):
            if n.target in LAYERS:
                seen[n.name] = self.env[n.args[0]]
            return super().run_node(n)

    Watched(graph).run(images)
    run = FloatRun(graph, images)
    for name in [*seen][::2]:  # layers can be skipped
        assert torch.equal(run.read_by(name), seen[name])


def test_nan_activation_is_rejected_with_the_name_of_its_layer(graph):
    images = torch.full((4, 3, 8, 8), torch.nan)
    with pytest.raises(ModelError, match="has NaN or infinite values at conv1"):
        calibrate(student_of(graph), graph, images, Quantization(correction="never"))
