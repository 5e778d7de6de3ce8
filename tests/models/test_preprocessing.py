"""How an input is to be taken: what the user states replaces only itself, wherever the rest comes from."""

import math

import pytest
import timm
import torch
from torch import nn

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source

STATED = {
    "input_size": (3, 32, 32),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "crop_pct": 0.6,
    "interpolation": "lanczos",
}
OWN = InputSpec((3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 0.95, "squash")


def small(**cfg):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    network.pretrained_cfg = cfg
    return network


@pytest.mark.parametrize("name", STATED)
def test_a_stated_value_replaces_only_itself(name):
    override = InputOverride(**{name: STATED[name]})
    found = vars(Source.parse(small(**vars(OWN)), override).load().spec)
    assert found == {**vars(OWN), name: STATED[name]}


def test_size_mean_and_std_leave_a_modules_own_crop_and_interpolation():
    override = InputOverride((3, 32, 32), STATED["mean"], STATED["std"])
    found = Source.parse(small(**vars(OWN)), override).load().spec
    assert (found.crop_pct, found.interpolation, found.crop_mode) == (0.95, "bilinear", "squash")


def test_a_module_that_says_a_part_takes_the_rest_from_the_user():
    found = Source.parse(small(mean=(0.5,) * 3, std=[0.5] * 3), InputOverride((3, 8, 8))).load().spec
    assert (found.input_size, found.mean, found.std, found.crop_pct) == ((3, 8, 8), (0.5,) * 3, (0.5,) * 3, 1.0)
    with pytest.raises(ModelError, match=r"does not specify its input: std$") as caught:
        Source.parse(small(mean=(0.5,) * 3), InputOverride((3, 8, 8))).load()
    assert caught.value.hint.startswith("add --std S,S,S (for")


def test_what_shows_no_picture_needs_no_mean_and_no_standard_deviation():
    assert Source.parse(small(), InputOverride((1, 8, 8))).on_meta().spec.input_size == (1, 8, 8)
    assert Source.parse(small(mean=(0.5,) * 3), InputOverride((3, 8, 8))).on_meta().spec.mean == (0.5,) * 3
    with pytest.raises(ModelError, match=r"does not specify its input: input_size$") as caught:
        Source.parse(small()).on_meta()
    assert caught.value.hint.startswith("add --input-size C,H,W; in Python,")
    with pytest.raises(ModelError, match="input_size"):
        Source.parse(small(input_size=8)).on_meta()


@pytest.mark.parametrize(("mean", "std"), [(None, (0.5, 0.0, 0.5)), (None, (0.5, -0.5, 0.5)), ((math.nan,) * 3, None)])
def test_means_and_standard_deviations_that_no_network_has_are_wrong_usage(mean, std):
    with pytest.raises(UsageError, match=f"^--{'mean' if mean else 'std'} .*: must be"):
        Source.parse(small(**vars(OWN)), InputOverride(None, mean, std))


@pytest.mark.parametrize("name", ["vit_small_patch16_224.augreg_in21k_ft_in1k", "resnet18.tv_in1k", "resnet18.a1_in1k"])
def test_weights_of_a_file_go_with_the_input_of_the_tag(name, tmp_path):
    """Against what timm itself says of the tag."""
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    teacher = Source.parse(name, weights=tmp_path / "w.pth").load()
    cfg = timm.get_pretrained_cfg(name)
    assert (teacher.spec.mean, teacher.spec.std) == (cfg.mean, cfg.std)
    assert (teacher.spec.crop_pct, teacher.spec.interpolation) == (cfg.crop_pct, cfg.interpolation)
    assert teacher.spec.input_size == cfg.input_size
    assert (teacher.pretrained_cfg["tag"], teacher.revision) == (name.partition(".")[2], None)


def test_an_unknown_tag_beside_weights_is_refused(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="no weights 'a1_in1' for resnet18") as caught:
        Source.parse("resnet18.a1_in1", weights=tmp_path / "w.pth").load()
    assert caught.value.hint.startswith("did you mean a1_in1k")


@pytest.mark.parametrize(
    ("mean", "std", "spelled"),
    [
        ((123.68, 116.78, 103.94), (58.4, 57.12, 57.38), "--mean 0.485,0.458,0.4076 --std 0.229,0.224,0.225"),
        ((123.68, 116.78, 103.94), (1.0,) * 3, "--mean 0.485,0.458,0.4076 --std 0.003922,0.003922,0.003922"),
        ((127.5,) * 3, None, "--mean 0.5,0.5,0.5"),
    ],
)
def test_pixel_scale_is_recognised_and_spelled_right(mean, std, spelled):
    names = "--mean" if std is None else "--mean and --std"
    with pytest.raises(UsageError, match=rf"^{names} must be for pixels in \[0, 1\], not in \[0, 255\]$") as caught:
        Source.parse("resnet18", InputOverride(mean=mean, std=std))
    assert spelled in caught.value.hint


def test_pixel_scale_in_a_modules_own_cfg_is_refused():
    with pytest.raises(
        ModelError, match=r"pretrained_cfg: mean and std must be for pixels in \[0, 1\], not in \[0, 255\]"
    ):
        Source.parse(small(input_size=(3, 8, 8), mean=(123.68,) * 3, std=(58.0,) * 3)).load()


@pytest.mark.parametrize("stated", [{"crop_pct": 0.1}, {"crop_pct": float("nan")}, {"interpolation": "sharpest"}])
def test_what_no_image_can_be_taken_with_is_refused(stated):
    with pytest.raises(UsageError):
        Source.parse("resnet18", InputOverride(**stated))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_size": (1, 8, 0)}, "--input-size 1,8,0: sizes must be at least 1"),
        ({"input_size": (1, -8, 8)}, "sizes must be at least 1"),
        ({"input_size": (1, 100_000, 100_000)}, "too large"),
        ({"std": (1e-40,)}, "--std 1e-40: must be finite numbers of at least 1e-06"),
        ({"std": (math.inf,)}, "--std inf: must be finite"),
        ({"mean": (math.inf,)}, "--mean inf: must be finite"),
        ({"mean": (0.1, 0.2), "input_size": (1, 8, 8)}, "--input-size C,H,W has 1 channel$"),
    ],
)
def test_what_no_network_takes_is_wrong_usage(given, says):
    with pytest.raises(UsageError, match=says):
        Source.parse("resnet20_digits", InputOverride(**given))
