"""Pictures given by the user: how they are chosen, and what is stored about them."""

import pytest
import torch
from torch import nn

from intraq_cli.graph.batch_norms import add_statistics, norm_parameters, statistics
from intraq_cli.synthesis.bns import scale_free_bns_loss
from intraq_cli.synthesis.nearest_images import (
    add_moments_of_each,
    distances,
    least_distance,
    moments_of_all,
    nearest_images,
)
from intraq_cli.synthesis.tuning_images import TuningImages, shuffled_together
from tests.conftest import graph_of


def bns_of(graph, images):
    """The BNS loss of all images together, from the graph that stage 1 uses."""
    _, moments = add_statistics(graph)(images)
    return scale_free_bns_loss(statistics(norm_parameters(graph), moments))


def test_distance_of_a_picture_is_its_own_bns_loss(graph, random):
    images = torch.randn(5, 3, 8, 8, generator=random)
    logits, moments = add_moments_of_each(graph)(images)
    assert torch.equal(logits, graph(images))
    alone = torch.stack([bns_of(graph, image[None]) for image in images])
    assert torch.allclose(distances(norm_parameters(graph), moments), alone, rtol=1e-4)


def test_moments_of_batches_combine_to_those_of_all_images(random):
    images = 3 + torch.randn(7, 4, 5, 6, generator=random) * torch.arange(1, 8).view(7, 1, 1, 1)
    each = images.mean((2, 3)), images.var((2, 3), correction=0)
    ((mean, var),) = moments_of_all([[(each[0][:3], each[1][:3])], [(each[0][3:], each[1][3:])]])
    assert torch.allclose(mean, images.mean((0, 2, 3)))
    assert torch.allclose(var, images.var((0, 2, 3), correction=0), rtol=1e-4)


def test_nearest_pictures_are_kept_with_their_predicted_classes(graph, random):
    """The network was trained on noise of standard deviation 1: the louder a picture, the larger its distance."""
    loudness = torch.tensor([1.0, 4.0, 1.1, 6.0, 0.9, 8.0, 1.2, 5.0])
    images = (torch.randn(8, 3, 8, 8, generator=random) * loudness.view(8, 1, 1, 1)).half().float()
    made = nearest_images(graph, images.split(3), 4, seed=5)[0]
    kept = [next(k for k in range(8) if torch.equal(image.float(), images[k])) for image in made.images]
    assert sorted(kept) == [0, 2, 4, 6]
    firsts = [nearest_images(graph, images.split(3), 4, seed)[0].images[0] for seed in range(5)]
    assert not all(torch.equal(first, firsts[0]) for first in firsts)  # shuffled
    shares = graph(images[kept]).softmax(1)
    assert torch.equal(made.labels, shares.argmax(1))
    assert torch.allclose(made.confidences, shares.amax(1))
    assert made.given.all()
    assert made.losses["bns"] == pytest.approx(bns_of(graph, images[kept]).item(), rel=1e-3)
    # the batch size makes no difference
    assert torch.equal(nearest_images(graph, images.split(1), 4, seed=5)[0].images, made.images)


def test_least_distance_is_that_in_the_nearest_batch_norm(network, graph, random):
    """By the median over channels, so that neither a layer nor a channel with wrong statistics counts."""
    images = 3 * torch.randn(6, 3, 8, 8, generator=random)
    seen = {}
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    network(images)
    medians = []
    for name, norm in norms.items():
        terms = []
        for c in range(norm.num_features):
            x, mean, deviation = seen[name][:, c], norm.running_mean[c], (norm.running_var[c] + norm.eps).sqrt()
            terms.append(((x.mean() - mean) ** 2 + (x.std(correction=0) - deviation) ** 2) / deviation**2)
        medians.append(torch.stack(terms).median().item())
    _, layers = nearest_images(graph, images.half().float().split(4), len(images), seed=0)
    assert least_distance(layers) == pytest.approx(min(medians), rel=1e-2)
    assert min(medians) < 0.9 * max(medians)


def some(count, given=None, value=0.0):
    images = torch.full((count, 1, 2, 2), value).half()
    return TuningImages(images, torch.arange(count), {"bns": value}, 0.5, 0.25, torch.rand(count), given)


class Flipped(nn.Module):
    """Passes every image and its mirror image through the network in one batch."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)


def test_views_of_a_picture_in_one_batch_count_as_one_picture(network, random):
    loudness = torch.tensor([1.0, 4.0, 1.1, 6.0, 0.9, 8.0, 1.2, 5.0])
    images = (torch.randn(8, 3, 8, 8, generator=random) * loudness.view(8, 1, 1, 1)).half().float()
    graph = graph_of(Flipped(network))
    made = nearest_images(graph, images.split(3), 4, seed=5)[0]
    kept = [next(k for k in range(8) if torch.equal(image.float(), images[k])) for image in made.images]
    alone = torch.stack([bns_of(graph, image[None]) for image in images])
    assert sorted(kept) == sorted(alone.topk(4, largest=False).indices.tolist())
    assert made.losses["bns"] == pytest.approx(bns_of(graph, images[kept]).item(), rel=1e-3)
    assert torch.allclose(made.confidences, graph(images[kept]).softmax(1).amax(1))


def test_pictures_and_images_are_shuffled_and_only_images_shown():
    made = shuffled_together(some(6), some(3, torch.ones(3, dtype=torch.bool), 1.0), seed=0)
    assert (len(made.images), made.pictures, made.kind) == (9, 3, "synthesis")
    assert torch.equal(made.given, made.images[:, 0, 0, 0] == 1)
    assert not torch.equal(made.given, made.given.sort().values)
    shown = made.shown()
    assert shown.images.sum() == 0
    assert sorted(shown.labels.tolist()) == list(range(6))
    assert made.losses == {"bns": 0.0}


def test_pictures_alone_are_not_shown():
    pictures = some(3, torch.ones(3, dtype=torch.bool))
    assert pictures.shown() is None
    assert pictures.kind == "pictures"
    assert some(3).shown() is not None


def test_combined_variance_is_accurate_if_tiny_relative_to_the_mean(random):
    values = 60 + 1e-3 * torch.randn(32, 2, 5, 5, generator=random, dtype=torch.float64)
    each = [(x.mean((2, 3)).float(), x.var((2, 3), correction=0).float()) for x in values.split(8)]
    # the means are in float32; most of the variance is within the images
    ((mean, var),) = moments_of_all([[one] for one in each])
    assert torch.allclose(mean, values.mean((0, 2, 3)).float())
    assert (var >= 0).all()
    assert torch.allclose(var, values.var((0, 2, 3), correction=0).float(), rtol=0.2)
