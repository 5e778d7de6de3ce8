import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from intraq_cli.synthesis import lor
from intraq_cli.synthesis.lor import crop_resize_flip, draw_crops, local_object_reinforcement


def slow_loop(images, crops, flips):
    out = []
    for image, (top, left, h, w), flip in zip(images, crops.tolist(), flips, strict=True):
        shown = TF.resized_crop(image, top, left, h, w, list(images.shape[-2:]))
        out.append(TF.hflip(shown) if flip else shown)
    return torch.stack(out)


@pytest.mark.parametrize("way", ["_by_sampling", "_by_products"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (7, 8)])
def test_crop_resize_flip_equals_torchvision_and_its_gradient(size, way, random, monkeypatch):
    monkeypatch.setattr(lor, "_by_sampling", getattr(lor, way))  # also the method for GPUs
    images = torch.randn(16, 3, *size, generator=random, dtype=torch.float64, requires_grad=True)
    crops = draw_crops(16, *size, 0.5, random)
    flips = torch.rand(16, generator=random) < 0.5
    assert flips.any()
    assert not flips.all()
    weight = torch.randn(16, 3, *size, generator=random, dtype=torch.float64)
    fast, slow = crop_resize_flip(images, crops, flips), slow_loop(images, crops, flips)
    assert torch.allclose(fast, slow, atol=1e-9, rtol=0)
    (fast_grad,) = torch.autograd.grad((fast * weight).sum(), images)
    (slow_grad,) = torch.autograd.grad((slow * weight).sum(), images)
    assert torch.allclose(fast_grad, slow_grad, atol=1e-9, rtol=0)


def test_crops_are_distributed_like_those_of_torchvision(random):
    ours = draw_crops(4000, 32, 32, 0.5, random).float()
    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    assert torch.allclose(ours.mean(0), theirs.float().mean(0), atol=0.2)
    assert torch.allclose(ours.std(0), theirs.float().std(0), atol=0.2)


@pytest.mark.parametrize("size", [(32, 32), (10, 100), (100, 10), (1, 1)])
def test_crops_lie_inside_the_image(size, random):
    top, left, h, w = draw_crops(500, *size, 0.5, random).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= size[0]).all()
    assert (left + w <= size[1]).all()


@pytest.mark.parametrize("size", [(32, 128), (128, 32), (24, 24)])
def test_crops_have_limited_area_and_aspect_ratio_at_any_position(size, random):
    top, left, h, w = (x.float() for x in draw_crops(2000, *size, 0.5, random).unbind(1))
    shape = (w / size[1]) / (h / size[0])
    assert ((shape > 0.7) & (shape < 1.43)).all()  # 3/4 to 4/3, up to whole pixels
    assert 0.47 < (h * w / (size[0] * size[1])).min() < 0.55
    assert top.unique().numel() > 5
    assert left.unique().numel() > 5
    whole = draw_crops(100, *size, 1.0, random)
    assert (whole == torch.tensor([0, 0, *size])).all()


def test_gpu_crops_keep_the_memory_layout_of_the_images(random):
    """A recorded step takes tensors of one layout; another layout would be recorded again."""
    images = torch.randn(4, 3, 8, 8, generator=random).contiguous(memory_format=torch.channels_last)
    at = torch.arange(8.0).expand(4, 8)
    assert lor._by_products(images, at, at).stride() == images.stride()


def test_cropping_is_decided_per_batch_or_per_image(random):
    images = torch.randn(64, 1, 8, 8, generator=random)
    shares = {"batch": set(), "image": []}
    for _ in range(40):
        for coin in shares:
            shown = local_object_reinforcement(images, 0.5, 0.5, coin, random)
            share = (shown - images).abs().amax((1, 2, 3)).gt(1e-4).float().mean().item()
            shares["batch"].add(share > 0.5) if coin == "batch" else shares["image"].append(share)
    assert shares["batch"] == {True, False}
    assert 0.3 < sum(shares["image"]) / 40 < 0.6
    assert max(shares["image"]) < 0.9


def test_crop_probability_of_zero_returns_the_images_unchanged(random):
    images = torch.randn(4, 3, 8, 8)
    assert local_object_reinforcement(images, 0.5, 0.0, "image", random) is images
