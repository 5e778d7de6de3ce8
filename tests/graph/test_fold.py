import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import batch_norms
from intraq_cli.graph.fold import fold_batch_norms
from intraq_cli.graph.nodes import replace_tensors, tensors
from intraq_cli.graph.outputs import add_batch_norm_outputs
from tests.conftest import graph_of, trained


class Traps(nn.Module):
    """Batch norms after convolutions: some can be folded, and some only look so."""

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
        x = self.norm(self.first(x))  # its convolution reads the images
        x = self.shared(self.conv(x))  # folded
        x = self.shared(self.grouped(x).relu())  # not directly the convolution's output
        x = self.shared(self.grouped(x))  # folded
        x = self.plain(self.convs[0](x))  # folded
        y = self.convs[1](x)
        x = self.read_twice(y) + y
        x = self.rectified(F.relu_(self.convs[2](x)))
        made = self.made
        x = self.convs[3](x)  # folded, although the norm's weight is computed
        x = F.batch_norm(x, made.running_mean, made.running_var, made.weight.exp(), made.bias)
        x = self.again(self.again(x))  # not after a convolution
        last = self.convs[4](x)
        assert last.shape[1] == 6
        return self.fc(self.late(last).mean((2, 3)))  # folded


@pytest.fixture
def traps():
    return graph_of(trained(Traps()))


def test_only_batch_norms_that_alone_read_a_convolution_are_folded(traps):
    assert [norm.name for norm in batch_norms(traps)] == [
        *("norm", "shared", "shared#1", "shared#2", "plain", "read_twice", "rectified", "made"),
        *("again", "again#1", "late"),
    ]
    left = [norm.node.name for norm in batch_norms(fold_batch_norms(traps))]
    folded = [norm.name for norm in batch_norms(traps) if norm.node.name not in left]
    assert folded == ["shared", "shared#2", "plain", "made", "late"]


def gradients(graph, x):
    """Outputs of all batch norms, and gradients of a loss on these and the logits for all parameters."""
    logits, outputs = graph(x)
    sum(out.square().mean() for out in outputs).add(logits.square().mean()).backward()
    return outputs, {key: p.grad for key, p in tensors(graph).items() if p.requires_grad}


def test_folding_keeps_batch_norm_outputs_and_gradients(traps, random):
    made = []
    x = torch.randn(4, 3, 8, 8, generator=random, dtype=torch.float64)
    for fold in (False, True):
        own = replace_tensors(traps, lambda key, t: t.detach().double() if t.is_floating_point() else t)
        for tensor in tensors(own).values():
            tensor.requires_grad_(isinstance(tensor, nn.Parameter))
        seen = add_batch_norm_outputs(own)
        made.append(gradients(fold_batch_norms(seen) if fold else seen, x))
    torch.testing.assert_close(made[1], made[0])
    assert made[1][1]["late.weight"].any()
