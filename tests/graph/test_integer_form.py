import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import batch_norms, folded_outputs
from intraq_cli.graph.integer_form import integer_form
from intraq_cli.graph.layers import quantizable
from intraq_cli.graph.nodes import calls, tensors
from intraq_cli.graph.outputs import add_batch_norm_outputs
from intraq_cli.graph.values import clamp_bounds
from tests.conftest import graph_of, trained

aten = torch.ops.aten


class Traps(nn.Module):
    """Batch norms that can be folded into a convolution, and some that only look so."""

    def __init__(self):
        super().__init__()
        self.first, self.biased = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, groups=2)
        self.shared, self.other = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1, bias=False)
        self.a, self.b, self.c, self.d, self.read, self.pre = (nn.BatchNorm2d(6) for _ in range(6))
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.silu(self.a(self.first(x)))  # folded
        x = self.plain(self.biased(x))  # folded
        x = self.b(self.shared(x)) + self.c(self.shared(x * 2))  # one convolution, two batch norms
        x = self.d(self.other(x)) + self.d(self.other(F.silu(x)))  # one convolution, the same batch norm: folded
        y = self.first.weight.sum() + self.shared(x)  # a weight with another reader
        y = self.read(y) + y  # not only the convolution's output
        return self.fc(self.pre(F.relu(y)).mean((2, 3)))


@pytest.fixture
def traps():
    return graph_of(trained(Traps()))


def test_integer_form_computes_the_same_and_does_not_change_its_source(traps, random):
    x = torch.randn(5, 3, 8, 8, generator=random)
    before, made = traps(x), integer_form(traps)
    assert torch.allclose(made(x), before, atol=1e-5 * before.abs().max().item())
    assert torch.equal(traps(x), before)
    assert not calls(made, aten.silu.default)


def test_batch_norm_is_folded_if_it_alone_reads_all_calls_of_a_convolution(traps):
    made = integer_form(traps)
    assert [output.name for output in folded_outputs(made)] == ["a", "plain", "d", "d#1"]
    assert [norm.name for norm in batch_norms(made)] == ["b", "c", "read", "pre"]
    assert [layer.name for layer in quantizable(made)][1:] == [layer.name for layer in quantizable(traps)][1:]
    read = tensors(made)
    assert torch.equal(read["first.weight"], tensors(traps)["first.weight"])  # it has another reader
    assert "first.weight_folded" in read
    assert "other.bias" in read
    assert not {"a.running_mean", "d.weight"} & read.keys()


def test_outputs_of_folded_batch_norms_are_still_found(traps, random):
    x = torch.randn(3, 3, 8, 8, generator=random)
    (_, wanted), (_, got) = (add_batch_norm_outputs(graph)(x) for graph in (traps, integer_form(traps)))
    assert len(wanted) == len(got) == 8
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_expected_moments_of_folded_batch_norms_are_their_bias_and_weight(traps):
    made = integer_form(traps)
    for output in folded_outputs(made):
        held = tensors(traps)
        if output.name == "plain":
            assert torch.equal(output.mean, torch.zeros(6))
            assert torch.equal(output.deviation, torch.ones(6))
        else:
            assert torch.equal(output.mean, held[f"{output.name[0]}.bias"])
            assert torch.equal(output.deviation, held[f"{output.name[0]}.weight"])


@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (F.relu, (0, float("inf"))),
        (F.relu6, (0, 6)),
        (lambda x: F.hardtanh(x, -2, 3), (-2, 3)),
        (lambda x: x.clamp(min=-1), (-1, float("inf"))),
        (lambda x: x.clamp(max=0.5), (-float("inf"), 0.5)),
        (lambda x: x.clamp(-1, 2), (-1, 2)),
        (lambda x: x.clamp(min=x.mean()), None),
        (F.gelu, None),
    ],
)
def test_bounds_of_clamping_activations_are_recognized(function, bounds):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(function(self.norm(self.conv(x))).mean((2, 3)))

    graph = graph_of(trained(Net()))
    found = [clamp_bounds(node) for node in graph.graph.nodes]
    assert [one for one in found if one is not None] == ([] if bounds is None else [bounds])
