import math

import pytest
import torch

from intraq_cli.synthesis.mdc import ClassCentres, heterogeneity, marginal_distance_loss


def test_class_centres_are_means_over_all_finished_batches(random):
    centres = ClassCentres(4)
    assert centres(torch.tensor([0])) is None
    features = torch.randn(10, 5, generator=random)
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 1, 2, 0, 0])
    centres.update(features[:6], labels[:6])
    centres.update(features[6:], labels[6:])
    found, known = centres(torch.tensor([0, 1, 2, 3]))
    assert known.tolist() == [True, True, True, False]
    for k in range(3):
        assert torch.allclose(found[k], features[labels == k].mean(0), atol=1e-6)


def test_mdc_loss_equals_hand_computed_values_at_known_distances():
    angles = [0.0, math.acos(0.5), math.pi / 2, math.pi]  # distances 0, 0.5, 1, 2
    features = torch.tensor([[math.cos(t), math.sin(t)] for t in angles])
    centres = torch.tensor([[2.0, 0.0]] * 4)  # the length does not matter
    every = torch.ones(4, dtype=torch.bool)
    # lambda_l 0.05, lambda_u 0.8: 0.05 + 0 + 0.2 + 1.2
    assert marginal_distance_loss(features, centres, every, 0.05, 0.8).item() == pytest.approx(1.45 / 4, abs=1e-6)
    some = torch.tensor([True, False, True, False])
    assert marginal_distance_loss(features, centres, some, 0.05, 0.8).item() == pytest.approx(0.25 / 2, abs=1e-6)
    none = torch.zeros(4, dtype=torch.bool)
    assert marginal_distance_loss(features, centres, none, 0.05, 0.8).item() == 0


def test_mdc_loss_is_zero_with_the_published_imagenet_margins(random):
    features, centres = torch.randn(2, 50, 8, generator=random)
    assert marginal_distance_loss(features, centres, torch.ones(50, dtype=torch.bool), 0.0, 2.0).item() == 0


def test_heterogeneity_equals_a_loop_over_pairs(random):
    features, labels = torch.randn(20, 6, generator=random), torch.randint(3, (20,), generator=random)
    distances = [
        1 - torch.cosine_similarity(features[i], features[j], dim=0).item()
        for i in range(20)
        for j in range(20)
        if i != j and labels[i] == labels[j]
    ]
    assert heterogeneity(features, labels) == pytest.approx(sum(distances) / len(distances), abs=1e-5)


def test_heterogeneity_is_nan_without_two_images_of_a_class(random):
    assert math.isnan(heterogeneity(torch.randn(3, 5, generator=random), torch.tensor([2, 0, 7])))
