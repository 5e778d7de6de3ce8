import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from intraq_cli.graph.batch_norms import (
    add_statistics,
    batch_norms,
    norm_parameters,
    normalize_with_moments,
    normalized_outputs,
    sample_output,
    statistics,
)
from intraq_cli.graph.outputs import add_batch_norm_outputs, compare_batch_norm_outputs
from intraq_cli.synthesis.bns import paper_bns_loss
from tests.conftest import SmallNet, frozen_student, graph_of, trained


def plain_statistics(network, x):
    """The logits, and the batch norms with mean and variance of their inputs, collected with hooks."""
    inputs = []
    handles = [
        m.register_forward_pre_hook(lambda m, a: inputs.append((m, a[0])))
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    out = network(x)
    for handle in handles:
        handle.remove()
    return out, [
        (m, i.mean((0, 2, 3)), ((i - i.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))) for m, i in inputs
    ]


def test_statistics_outputs_and_gradients_equal_those_found_with_hooks(network, graph, random):
    x = torch.randn(8, 3, 8, 8, generator=random, requires_grad=True)
    plain_out, plain = plain_statistics(network, x)
    out, moments = add_statistics(graph)(x)
    recorded = statistics(norm_parameters(graph), moments)
    assert torch.allclose(out, plain_out, atol=1e-5)
    assert len(recorded) == len(plain) == 3
    for layer, (module, mean, var) in zip(recorded, plain, strict=True):
        assert torch.allclose(layer.mean, mean, atol=1e-5)
        assert torch.allclose(layer.var, var, rtol=1e-4)
        assert layer.running_var is module.running_var
    plain_loss = sum(
        ((m - module.running_mean) ** 2).mean() + ((v - module.running_var) ** 2).mean() for module, m, v in plain
    ) / len(plain)
    loss = paper_bns_loss(recorded)
    assert torch.allclose(loss, plain_loss, rtol=1e-4)
    (grad,) = torch.autograd.grad(loss + out.sum(), x)
    (plain_grad,) = torch.autograd.grad(plain_loss + plain_out.sum(), x)
    assert torch.allclose(grad, plain_grad, rtol=1e-3, atol=1e-5 * plain_grad.abs().max())


def test_graph_passes_do_not_change_the_graph_they_are_given(graph, random):
    x = torch.randn(2, 3, 8, 8, generator=random)
    before, nodes = graph(x), len(graph.graph.nodes)
    for change in (add_statistics, add_batch_norm_outputs):
        logits, made = change(graph)(x)
        assert torch.allclose(logits, before, atol=1e-6)
        assert len(made) == 3
    assert torch.equal(graph(x), before)
    assert len(graph.graph.nodes) == nodes


def test_batch_norms_include_subclasses_and_functional_calls_but_not_1d():
    from timm.layers import BatchNormAct2d

    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4)
            self.flat, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.norm(self.conv(x))
            x = F.batch_norm(input=x, running_mean=self.norm.running_mean, running_var=self.norm.running_var)
            x = F.batch_norm(x, None, None, training=True)  # uses the batch's own statistics
            return self.fc(self.flat(x.mean((2, 3))))

    assert [norm.name for norm in batch_norms(graph_of(trained(Norms())))] == ["norm", "norm#1"]


def test_batch_norm_outputs_are_taken_before_in_place_activations(network, graph, random):
    x = torch.randn(4, 3, 8, 8, generator=random)
    _, outputs = add_batch_norm_outputs(graph)(x)
    assert torch.equal(outputs[0], network.bn1(network.conv1(x)))
    h = F.relu(outputs[0])
    assert torch.equal(outputs[1], network.bn2(network.conv2(h)))
    assert outputs[1].min() < 0  # SmallNet's second activation is in place and overwrites it


def test_batch_norm_outputs_of_two_networks_are_compared_pairwise(graph, random):
    other = graph_of(trained(SmallNet(), seed=1))
    x = torch.randn(4, 3, 8, 8, generator=random)
    _, ours = add_batch_norm_outputs(graph)(x)
    logits, theirs = add_batch_norm_outputs(other)(x)
    compared = compare_batch_norm_outputs(other, lambda got, wanted: (got - wanted).abs().max())
    again, distances = compared(x, ours)
    assert torch.equal(again, logits)
    assert distances == [(a - b).abs().max() for a, b in zip(theirs, ours, strict=True)]


def test_expected_variance_is_that_of_outputs_on_the_training_data(random):
    x = torch.randn(64, 5, 9, 9, generator=random) * 3 + 1
    norm = nn.BatchNorm2d(5, momentum=1.0)
    norm.weight.data, norm.bias.data = torch.rand(2, 5, generator=random)
    norm(x)
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(5 * 81, 2)).eval().requires_grad_(False)
    (found,) = normalized_outputs(graph_of(network, (5, 9, 9)))
    assert torch.allclose(found.variance, norm(x).var(correction=0), rtol=1e-3)


def test_sampled_outputs_have_the_moments_of_the_affine_parameters():
    weight, bias = torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 3.0])
    x = torch.zeros(500, 2, 6, 6)
    out = sample_output(x, weight, bias, seed=1)
    assert torch.allclose(out.mean((0, 2, 3)), bias, atol=0.1)
    assert torch.allclose(out.std((0, 2, 3)), weight, rtol=0.1)
    assert torch.equal(sample_output(x + 7, weight, bias, seed=1), out)
    assert not torch.equal(sample_output(x, weight, bias, seed=2), out)
    places = out.flatten(2)
    common = ((places[..., 0] - bias) * (places[..., 1] - bias)).mean(0) / weight.square()
    assert torch.allclose(common, torch.full((2,), 0.5), atol=0.15)


def test_only_the_first_batch_norms_sampled_statistics_depend_on_images(graph, random):
    sampled = add_statistics(graph, sampled=True)
    (_, one), (_, other) = (sampled(torch.randn(16, 3, 8, 8, generator=random)) for _ in range(2))
    assert not torch.equal(one[0][0], other[0][0])
    for k in (1, 2):
        assert torch.equal(one[k][0], other[k][0])
        assert torch.equal(one[k][1], other[k][1])


@pytest.mark.parametrize("affine", [True, False])
def test_normalization_equals_batch_norm_with_or_without_affine_parameters(affine, random):
    norm = nn.BatchNorm2d(3, affine=affine).eval()
    norm.running_mean.normal_(generator=random)
    x = torch.randn(4, 3, 5, 5, generator=random)
    out, _, _ = normalize_with_moments(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    assert torch.allclose(out, norm(x), atol=1e-6)


@pytest.mark.parametrize("sampled", [True, False])
def test_statistics_are_found_for_consecutive_batch_norms(sampled, random):
    network = trained(nn.Sequential(nn.Conv2d(3, 4, 3), *(nn.BatchNorm2d(4) for _ in range(3)), nn.Flatten(),
                                    nn.Linear(144, 2)))  # fmt: skip
    x = torch.randn(5, 3, 8, 8, generator=random)
    out, moments = add_statistics(graph_of(network), sampled)(x)
    assert sampled or torch.allclose(out, network(x), atol=1e-5)
    inputs = [network[:1](x), network[:2](x), network[:3](x)]
    for k, (mean, _) in enumerate(moments[:1] if sampled else moments):
        assert torch.allclose(mean, inputs[k].mean((0, 2, 3)), atol=1e-5)


class Ghost(nn.BatchNorm2d):
    """Holds statistics for each half of a batch, and normalises by the first (ghost batch norm)."""

    def double(self):
        for name in ("running_mean", "running_var"):
            own = getattr(self, name)
            setattr(self, name, torch.cat([own, torch.full_like(own, 7.0)]))

    def forward(self, x):
        c = self.num_features
        return F.batch_norm(
            x, self.running_mean[:c], self.running_var[:c], self.weight, self.bias, False, 0.1, self.eps
        )


class Shaped(nn.BatchNorm2d):
    """Holds statistics in the shape in which they are broadcast against images."""

    def double(self):
        for name in ("running_mean", "running_var"):
            setattr(self, name, getattr(self, name).view(1, -1, 1, 1))

    def forward(self, x):
        mean, var = self.running_mean.view(-1), self.running_var.squeeze((0, 2, 3))
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.1, self.eps)


@pytest.mark.parametrize("kind", [Ghost, Shaped])
def test_batch_norm_statistics_may_be_a_slice_or_view_of_a_buffer(kind, network, random):
    ghost = copy.deepcopy(network)
    for norm in (ghost.bn1, ghost.bn2, ghost.bn3):
        norm.__class__ = kind
        norm.double()
    found, plain = norm_parameters(graph_of(ghost)), norm_parameters(graph_of(network))
    assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(found, plain, strict=True))
    x = torch.randn(8, 3, 8, 8, generator=random)
    for placement in ("inputs", "integer"):
        made, wanted = (frozen_student(one, 4, 4, placement) for one in (ghost, network))
        assert torch.equal(made(x), wanted(x))
    assert kind is Shaped or (ghost.bn1.running_mean[6:] == 7).all()
