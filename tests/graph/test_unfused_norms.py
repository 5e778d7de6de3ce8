import pytest
import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from intraq_cli import load, quantize
from intraq_cli.graph.batch_norms import batch_norms, norm_parameters
from tests.conftest import SPEC, SmallNet, graph_of, trained

EPS = 0.01
SHAPE = (1, -1, 1, 1)


def reshaped_last(x, weight, bias, mean, var):
    scale = weight * (var + EPS).rsqrt()
    return x * scale.reshape(SHAPE) + (bias - mean * scale).reshape(SHAPE)


def centred_first(x, weight, bias, mean, var):
    normal = (x - mean.view(SHAPE)) / torch.sqrt(var.view(SHAPE) + EPS)
    return weight.view(SHAPE) * normal + bias.view(SHAPE)


def by_power(x, weight, bias, mean, var):
    return bias[None, :, None, None] + (x - mean[:, None, None]) * (EPS + var[:, None, None]) ** -0.5 * weight.view(
        SHAPE
    )


def of_a_sum(x, weight, bias, mean, var):
    return reshaped_last(x + F.relu(x), weight, bias, mean, var)


def residual(x, weight, bias, mean, var):
    return x + reshaped_last(x, weight, bias, mean, var)


class Norm(nn.Module):
    """A batch norm as arithmetic, with tensors of some shape."""

    def __init__(self, formula, shape=(6,)):
        super().__init__()
        self.formula = formula
        self.weight, self.bias = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))
        self.register_buffer("running_mean", torch.randn(shape))
        self.register_buffer("running_var", torch.rand(shape) + 0.5)

    def forward(self, x):
        return self.formula(x, self.weight, self.bias, self.running_mean, self.running_var)


def with_norm(norm):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("formula", "shape"),
    [
        (reshaped_last, (6,)),
        (reshaped_last, (1, 6, 1, 1)),
        (centred_first, (6,)),
        (centred_first, (1, 6, 1, 1)),
        (by_power, (6,)),
        (residual, (6,)),
        (of_a_sum, (6,)),
    ],
)
def test_arithmetic_that_equals_a_batch_norm_is_one(formula, shape, random):
    norm = Norm(formula, shape)
    network = with_norm(norm)
    graph = graph_of(network)
    (found,) = batch_norms(graph)
    (held,) = norm_parameters(graph)
    assert found.name == "1"
    assert held.eps == pytest.approx(EPS)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(held, name), getattr(norm, name).flatten())
    x = torch.randn(4, 3, 8, 8, generator=random)
    assert torch.allclose(graph(x), network(x), atol=1e-5)


def test_batch_norm_without_weight_and_bias_is_recognised():
    network = with_norm(Norm(lambda x, w, b, mean, var: (x - mean.view(SHAPE)) / (var + EPS).sqrt().view(SHAPE)))
    (held,) = norm_parameters(graph_of(network))
    assert (held.weight, held.bias) == (None, None)
    assert held.running_mean is network[1].running_mean
    assert held.running_var is network[1].running_var


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, w, b, mean, var: x * (w * (var + EPS).rsqrt()).view(SHAPE),  # no mean
        lambda x, w, b, mean, var: x * (var + EPS).rsqrt().view(SHAPE) - mean.view(SHAPE),  # subtracted too late
        lambda x, w, b, mean, var: (x - mean.view(SHAPE)) * (var + EPS).sqrt().view(SHAPE),  # multiplied by deviation
        lambda x, w, b, mean, var: F.relu(x) / (1 + (var + EPS).sqrt().view(SHAPE)),
    ],
)
def test_other_arithmetic_with_a_root_is_left_alone(formula):
    assert batch_norms(graph_of(with_norm(Norm(formula)))) == []


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_network_with_frozen_batch_norms_is_quantized_like_the_network_before_it_was_frozen(library, tmp_path, random):
    network = trained(SmallNet())
    spec = {**SPEC, "recipe": "instant", "device": "cpu"}
    quantize(network, out=tmp_path / "plain", **spec)
    plain = load(tmp_path / "plain", model=network, device="cpu")
    if library == "timm":
        frozen = freeze_batch_norm_2d(trained(SmallNet()))
    else:
        frozen = trained(SmallNet())
        for name in ("bn1", "bn2", "bn3"):
            norm = FrozenBatchNorm2d(6)
            norm.load_state_dict(getattr(frozen, name).state_dict())
            setattr(frozen, name, norm)
    quantize(frozen, out=tmp_path / "frozen", **spec)
    x = torch.randn(8, 3, 8, 8, generator=random)
    assert torch.equal(load(tmp_path / "frozen", model=frozen, device="cpu")(x), plain(x))
