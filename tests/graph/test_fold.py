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
        x = self.norm(self.first(x))  # of the images
        x = self.shared(self.conv(x))  # folded
        x = self.shared(self.grouped(x).relu())  # not the convolution's own output
        x = self.shared(self.grouped(x))  # folded
        x = self.plain(self.convs[0](x))  # folded
        y = self.convs[1](x)
        x = self.read_twice(y) + y
        x = self.rectified(F.relu_(self.convs[2](x)))
        made = self.made
        x = self.convs[3](x)  # folded, by a weight that is computed
        x = F.batch_norm(x, made.running_mean, made.running_var, made.weight.exp(), made.bias)
        x = self.again(self.again(x))  # of no convolution
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
    """Of a loss that looks at every batch norm, of all parameters; and what it looks at."""
    logits, outputs = graph(x)
    sum(out.square().mean() for out in outputs).add(logits.square().mean()).backward()
    return outputs, {key: p.grad for key, p in tensors(graph).items() if p.requires_grad}


def test_folded_graphs_put_out_and_learn_the_same(traps, random):
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
