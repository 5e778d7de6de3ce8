import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import BatchNormOutputs
from intraq_cli.graph.folding import FoldedBatchNorms, Folds, find_folds
from intraq_cli.recipe import Quantization
from intraq_cli.tuning import tuner
from tests.conftest import trained
from tests.tuning.test_tuner import check_same_step, default_student, images_and_labels, one_step


class Traps(nn.Module):
    """Batch norms after convolutions: some can be folded, some look as if."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.conv = nn.Conv2d(6, 6, 3, 2, padding=1, dilation=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False)
        self.shared = nn.BatchNorm2d(6)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.read_twice, self.rectified, self.made, self.again, self.late = (nn.BatchNorm2d(6) for _ in range(5))
        self.norm = nn.BatchNorm2d(6)
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(5))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))  # 0: of the images
        x = self.shared(self.conv(x))  # 1: folded
        x = self.shared(self.grouped(x).relu())  # 2: not the convolution's own output
        x = self.shared(self.grouped(x))  # 3: folded
        x = self.plain(self.convs[0](x))  # 4: folded
        y = self.convs[1](x)
        x = self.read_twice(y) + y  # 5
        x = self.rectified(F.relu_(self.convs[2](x)))  # 6
        made = self.made
        x = F.batch_norm(self.convs[3](x), made.running_mean, made.running_var, made.weight.exp(), made.bias)  # 7
        x = self.again(self.again(x))  # 8, 9: of no convolution
        last = self.convs[4](x)
        assert last.shape[1] == 6  # reads no values
        return self.fc(self.late(last).mean((2, 3)))  # 10: folded


@pytest.fixture
def traps():
    return trained(Traps())


def test_only_batch_norms_that_alone_read_a_convolution_are_folded(traps, random):
    folds = find_folds(traps, torch.randn(2, 3, 8, 8, generator=random))
    assert folds.done == {1, 3, 4, 10}
    assert {call: norm.running_var for call, norm in folds.norms.items()} == {
        1: "shared.running_var",
        3: "shared.running_var",
        4: "plain.running_var",
        8: "late.running_var",
    }


def gradients(network, x):
    """Of a loss that looks at every batch norm, of all parameters; and what it looks at."""
    with BatchNormOutputs() as kept:
        logits = network(x)
    sum(out.values.square().mean() for out in kept.outputs).add(logits.square().mean()).backward()
    return [out.values for out in kept.outputs], {key: p.grad for key, p in network.named_parameters()}


def test_folded_networks_put_out_and_learn_the_same(traps, random):
    traps = traps.double().requires_grad_(True)
    x = torch.randn(4, 3, 8, 8, generator=random, dtype=torch.float64)
    folds = find_folds(traps, x)
    folded = copy.deepcopy(traps)
    expected, expected_gradients = gradients(traps, x)
    with FoldedBatchNorms(folded, folds):
        outputs, made = gradients(folded, x)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(made, expected_gradients)
    assert made["late.weight"].any()


def test_a_convolution_that_is_read_out_of_sight_stays_as_it_is(random):
    class Secret(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(self.first(x))
            with torch._C.DisableTorchFunction():  # no mode can watch this
                three = 3 * y
            return (self.norm(y) + three).mean((2, 3))

    assert find_folds(trained(Secret()), torch.randn(2, 3, 8, 8, generator=random)) == Folds()


@pytest.mark.parametrize("placement", ["inputs", "activations"])
def test_tuning_takes_the_step_that_it_would_take_unfolded(network, placement, monkeypatch):
    images, labels = images_and_labels(24)
    config = Quantization(weight_rounding="nearest", activation_range="mse")
    student = default_student(network, images, bits=4, config=config, placement=placement)
    assert len(find_folds(network, images[:1]).done) == 2
    folded = one_step(network, copy.deepcopy(student), images, labels)
    monkeypatch.setattr(tuner, "find_folds", lambda network, image: Folds())
    check_same_step(folded, one_step(network, student, images, labels))
