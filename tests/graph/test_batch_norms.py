import copy

import torch
from torch import nn

from intraq_cli.graph.batch_norms import BatchNormOutputs, BatchNormStatistics, CorrectedStatistics, SampledOutputs


def test_outputs_are_kept_before_an_activation_in_place():
    norm = nn.BatchNorm2d(2).eval()
    x = torch.randn(4, 2, 3, 3)
    with BatchNormOutputs() as kept:
        nn.ReLU(inplace=True)(norm(x))
    assert torch.equal(kept.outputs[0].values, norm(x))


def test_the_promised_variance_is_that_of_outputs_with_the_statistics_it_was_trained_on(random):
    x = torch.randn(64, 5, 9, 9, generator=random) * 3 + 1
    norm = nn.BatchNorm2d(5, momentum=1.0)
    norm.weight.data, norm.bias.data = torch.rand(2, 5, generator=random)
    norm(x)
    with BatchNormOutputs() as kept:
        norm.eval()(x)
    assert torch.allclose(kept.outputs[0].variance, norm(x).var(correction=0), rtol=1e-3)


def test_corrected_statistics_undo_a_shift_and_a_gain_per_channel(network):
    """What is wrong is linear per channel, so that the correction can be exact."""
    x = torch.randn(64, 3, 8, 8)
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.conv1.weight.mul_(torch.linspace(0.6, 1.5, len(broken.conv1.weight)).view(-1, 1, 1, 1))
        broken.conv2.weight.mul_(1.2)
        broken.conv2.bias.add_(0.3)
        broken.conv3.weight.mul_(0.8)
    assert not torch.allclose(broken(x), network(x), atol=1e-2)
    with BatchNormStatistics() as clean:
        network(x)
    with CorrectedStatistics(clean.layers) as corrected:
        broken(x)
    corrected.write()
    unseen = torch.randn(16, 3, 8, 8)
    assert torch.allclose(broken(unseen), network(unseen), atol=1e-3)


def test_a_network_that_is_right_is_left_alone(network):
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(8, 3, 8, 8)
    with BatchNormStatistics() as clean:
        network(x)
    with CorrectedStatistics(clean.layers) as corrected:
        network(x)
    corrected.write()
    for key, value in network.state_dict().items():
        assert torch.allclose(value, before[key], rtol=1e-4, atol=1e-6), key


def test_samples_have_the_moments_that_the_affine_part_promises():
    norm = nn.BatchNorm2d(2).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 0.5]))
        norm.bias.copy_(torch.tensor([-1.0, 3.0]))
    x = torch.zeros(500, 2, 6, 6)
    with SampledOutputs(seed=1):
        out = norm(x)
    assert torch.allclose(out.mean((0, 2, 3)), torch.tensor([-1.0, 3.0]), atol=0.1)
    assert torch.allclose(out.std((0, 2, 3)), torch.tensor([2.0, 0.5]), rtol=0.1)
    with SampledOutputs(seed=1):
        assert torch.equal(norm(x), out)
