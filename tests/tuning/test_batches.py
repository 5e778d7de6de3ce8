"""Batches of images: each image once per epoch; what cropping, mixing and jitter change."""

from itertools import islice

import pytest
import torch

from intraq_cli.recipe import Tuning
from intraq_cli.tuning.batches import AugmentedBatches, jitter, mix
from intraq_cli.tuning.tuner import tune
from tests.conftest import watch_input
from tests.tuning.runs import default_student, images_and_labels


def test_batches_show_every_image_once_per_epoch():
    images = torch.arange(10.0)[:, None, None, None].expand(10, 1, 4, 4).contiguous()
    labels = torch.arange(10)
    seen = [y for _, y in islice(AugmentedBatches(images, labels, 4, 1.0, 0), 5)]
    flat = torch.cat(seen).tolist()
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    for x, y in islice(AugmentedBatches(images, labels, 4, 0.5, 0), 3):
        assert torch.allclose(x[:, 0, 0, 0], y.float(), atol=1e-4)  # crops of constant images keep value and label


def test_mixing_keeps_about_half_of_an_image_or_more(random):
    images = torch.arange(64.0)[:, None, None, None].expand(64, 1, 16, 16).contiguous()
    cut = mix(images, Tuning(mix="cutmix"), random)
    own = (cut == images).flatten(1).float().mean(1)
    assert own.min() >= 0.4  # a rectangle's edges fall between pixels
    assert 0.6 < own.mean() < 0.9
    mixed = mix(images, Tuning(mix="mixup"), random)
    assert ((mixed - images).abs() <= 31.6 + 1e-3).all()
    assert (mixed != images).flatten(1).any(1).sum() > 50
    assert mix(images, Tuning(mix="none"), random) is images


def test_jitter_changes_contrast_and_brightness_by_the_given_amount(random):
    images = torch.randn(4000, 3, 4, 4, generator=random)
    anywhere = torch.full((3, 1, 1), -torch.inf), torch.full((3, 1, 1), torch.inf)
    changed = jitter(images, 0.3, anywhere, random)
    centred = images - images.mean((2, 3), keepdim=True)
    after = changed.mean((2, 3), keepdim=True)
    gain = (changed - after).flatten(1).norm(dim=1) / centred.flatten(1).norm(dim=1)
    assert gain.log().std() == pytest.approx(0.3, rel=0.1)
    assert torch.allclose(changed - after, centred * gain.view(-1, 1, 1, 1), atol=1e-5)  # nothing else
    assert (after - images.mean((2, 3), keepdim=True)).std() == pytest.approx(0.2, rel=0.1)
    assert jitter(images, 0.0, anywhere, random) is images


def test_augmented_pixels_stay_within_the_range_of_their_channel(graph):
    images, labels = images_and_labels()
    images = images * torch.tensor([0.5, 1.0, 2.0])[: images.shape[1], None, None]
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    shown = []

    def note(x):
        shown.append(x.clone())
        return x

    tuning = Tuning(steps=4, batch_size=48, jitter=1.0)
    tune(default_student(graph, images), watch_input(graph, note), images, labels, tuning)
    assert len(shown) == 4
    seen = torch.cat(shown)
    assert torch.equal(seen.amin((0, 2, 3)), low)
    assert torch.equal(seen.amax((0, 2, 3)), high)
