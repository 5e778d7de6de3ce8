"""The exported file computes in onnxruntime, in integers, what the checkpoint computes in torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.deploy.session import integer_layers
from intraq_cli.quantization.integer_arithmetic import compute_on_integers
from tests.conftest import SmallNet, trained
from tests.deploy.onnx_runs import KERNELS_OF_X86, SHAPE, frozen, frozen_everything, model_of, run, share_of_equal


@pytest.mark.parametrize(("w", "a"), [(2, 2), (4, 4), (8, 8), (7, 3)])
def test_exported_logits_equal_the_checkpoints_for_any_batch_size(w, a, random):
    student = frozen(trained(SmallNet(), (3, 8, 8)), w, a, shape=(3, 8, 8))
    model = model_of(student, shape=(3, 8, 8))
    assert integer_layers(model) == (["conv1", "conv2", "conv3", "fc"], [])
    compute_on_integers(student)
    same = total = 0
    for batch in (1, 5, 64):
        x = torch.randn(batch, 3, 8, 8, generator=random)
        wanted, got = student(x), run(model, x)
        close = (wanted - got).abs().max(1).values <= (0 if KERNELS_OF_X86 else 1e-4) * wanted.abs().max()
        same, total = same + int(close.sum()), total + batch
    assert same >= (1 if KERNELS_OF_X86 else 0.95) * total


# 8 bits add little: the codes are those of SmallNet above, and the operations those at 4 bits
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_all_layers_run_in_integers_among_common_operations(bits, random):
    student = frozen_everything(bits)
    model = model_of(student)
    integer, left = integer_layers(model)
    assert not left
    assert set(integer) == set(student.plan.weights)
    x = torch.randn(64, *SHAPE, generator=random)
    wanted, got = student.graph(x), run(model, x)  # simulated in floats
    spread = wanted.std()
    assert ((wanted - got).abs().max(1).values < 0.02 * spread).float().mean() > 0.7
    assert (wanted - got).abs().mean() < 0.02 * spread
    compute_on_integers(student)
    assert share_of_equal(student(x), got) >= (1 if KERNELS_OF_X86 else 0.7)


class Dense(nn.Module):
    """Batch norms that cannot be folded, in front of convolutions, and averages of every kind."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.more = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.last, self.flat, self.fc = nn.BatchNorm2d(16), nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2) + F.adaptive_max_pool2d(x[:, :1], 8)
        x = F.avg_pool2d(torch.cat([x, self.more(F.relu(self.norm(x)))], 1), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(x, 2, divisor_override=3)
        return self.fc(self.flat(F.relu(self.last(x)).mean((2, 3))))


def test_unfolded_batch_norms_and_average_pooling_export_exactly(random):
    student = frozen(trained(Dense(), SHAPE), 8, 8)
    compute_on_integers(student)
    x = torch.randn(64, *SHAPE, generator=random)
    assert share_of_equal(student(x), run(model_of(student), x)) >= (1 if KERNELS_OF_X86 else 0.7)


class PooledFirst(nn.Module):
    """Activation functions after pooling and other operations, so that values move from one grid to another."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.stem(x), 3, 1, 1))
        x = F.relu6(self.blocks[0](x).flip(1))
        x = F.relu(F.max_pool2d(self.blocks[1](x), 2))
        x = x + self.blocks[2](F.relu(x))
        return self.fc(F.relu(x).mean((2, 3)))


def test_values_requantized_to_another_grid_export_exactly(random):
    student = frozen(trained(PooledFirst(), SHAPE), 8, 8)
    model = model_of(student)
    assert integer_layers(model) == (["stem", "blocks.0", "blocks.1", "blocks.2", "fc"], [])
    compute_on_integers(student)
    x = torch.randn(64, *SHAPE, generator=random)
    assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


class TokensFirst(nn.Module):
    """Linear layers that read (tokens, images, channels), and a buffer with the name of an operation's output."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.mix, self.fc = (
            nn.Conv2d(3, 8, 4, 4),
            nn.BatchNorm2d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 5),
        )
        self.register_buffer("mean", torch.tensor(0.1))

    def forward(self, x):
        tokens = F.relu(self.norm(self.conv(x - self.mean))).flatten(2).permute(2, 0, 1)
        return self.fc(F.relu(self.mix(tokens)).mean(0))


def test_images_are_not_mixed_if_tokens_are_the_first_dimension(random):
    student = frozen(trained(TokensFirst(), SHAPE), 8, 8)
    model = model_of(student)
    assert integer_layers(model) == (["conv", "mix", "fc"], [])
    compute_on_integers(student)
    for batch in (1, 5, 64):
        x = torch.randn(batch, *SHAPE, generator=random)
        assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


class Centred(nn.Linear):
    """Its bias is computed from a parameter."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias - self.bias.mean())


class Scaled(nn.Linear):
    """Its output goes through a scale, and before it perhaps through a ReLU."""

    def __init__(self, inputs, outputs, rectified):
        super().__init__(inputs, outputs)
        self.rectified = rectified

    def forward(self, x):
        x = super().forward(x)
        return (x.relu() if self.rectified else x) * 3


HEADS = {
    "pooled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()),
    "all places": lambda: nn.Sequential(nn.Conv2d(8, 5, 4), nn.Flatten()),
    "centred": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Centred(8, 5)),
    "scaled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(8, 5, False)),
    "rectified": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Scaled(8, 5, True)),
}


@pytest.mark.parametrize("head", HEADS)
def test_other_forms_of_classifiers_run_in_integers(head, random):
    body = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    student = frozen(trained(nn.Sequential(body, HEADS[head]()), SHAPE), 8, 8)
    model = model_of(student)
    integer, left = integer_layers(model)
    assert (len(integer), left) == (2, [])
    compute_on_integers(student)
    for batch in (1, 5, 64):
        x = torch.randn(batch, *SHAPE, generator=random)
        assert share_of_equal(student(x), run(model, x)) >= (1 if KERNELS_OF_X86 else 0.7)


def test_int4_storage_halves_the_weights_without_changing_logits(random):
    student = frozen(trained(SmallNet(64), (3, 8, 8)), 4, 4, shape=(3, 8, 8))
    wide, narrow = (model_of(student, storage, (3, 8, 8)) for storage in ("int8", "int4"))
    x = torch.randn(16, 3, 8, 8, generator=random)
    assert torch.equal(run(wide, x), run(narrow, x))
    assert integer_layers(narrow) == integer_layers(wide)
    weights = sum(tensor.numel() for tensor in (w() for w in student.weights.values()))
    saved = len(wide.SerializeToString()) - len(narrow.SerializeToString())
    assert 0.45 * weights - 2500 < saved < 0.5 * weights
