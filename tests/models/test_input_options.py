"""Preprocessing: an option that the user gives replaces only its own value, wherever the others come from."""

import math

import pytest
import timm
import torch
from torch import nn

from intraq_cli.errors import ModelError, UsageError
from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.input_spec import InputSpec
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
def test_an_option_overrides_only_its_own_value(name):
    override = InputOverride(**{name: STATED[name]})
    found = vars(Source.parse(small(**vars(OWN)), override).load().spec)
    assert found == {**vars(OWN), name: STATED[name]}


def test_overriding_size_mean_and_std_keeps_crop_and_interpolation():
    override = InputOverride((3, 32, 32), STATED["mean"], STATED["std"])
    found = Source.parse(small(**vars(OWN)), override).load().spec
    assert (found.crop_pct, found.interpolation, found.crop_mode) == (0.95, "bilinear", "squash")


def test_options_complete_a_partial_pretrained_cfg():
    found = Source.parse(small(mean=(0.5,) * 3, std=[0.5] * 3), InputOverride((3, 8, 8))).load().spec
    assert (found.input_size, found.mean, found.std, found.crop_pct) == ((3, 8, 8), (0.5,) * 3, (0.5,) * 3, 1.0)
    with pytest.raises(ModelError, match=r"does not specify its input: std$") as caught:
        Source.parse(small(mean=(0.5,) * 3), InputOverride((3, 8, 8))).load()
    assert caught.value.hint.startswith("add --std S,S,S (for")


def test_loading_on_the_meta_device_needs_only_the_input_size():
    assert Source.parse(small(), InputOverride((1, 8, 8))).on_meta().spec.input_size == (1, 8, 8)
    assert Source.parse(small(mean=(0.5,) * 3), InputOverride((3, 8, 8))).on_meta().spec.mean == (0.5,) * 3
    with pytest.raises(ModelError, match=r"does not specify its input: input_size$") as caught:
        Source.parse(small()).on_meta()
    assert caught.value.hint.startswith("add --input-size C,H,W; in Python,")
    with pytest.raises(ModelError, match="input_size"):
        Source.parse(small(input_size=8)).on_meta()


@pytest.mark.parametrize(("mean", "std"), [(None, (0.5, 0.0, 0.5)), (None, (0.5, -0.5, 0.5)), ((math.nan,) * 3, None)])
def test_impossible_mean_or_std_option_is_a_usage_error(mean, std):
    with pytest.raises(UsageError, match=f"^--{'mean' if mean else 'std'} .*: must be"):
        Source.parse(small(**vars(OWN)), InputOverride(None, mean, std))


@pytest.mark.parametrize("name", ["vit_small_patch16_224.augreg_in21k_ft_in1k", "resnet18.tv_in1k", "resnet18.a1_in1k"])
def test_weights_file_uses_the_preprocessing_of_the_timm_tag(name, tmp_path):
    """Compared with timm's own settings of the tag."""
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    teacher = Source.parse(name, weights=tmp_path / "w.pth").load()
    cfg = timm.get_pretrained_cfg(name)
    assert (teacher.spec.mean, teacher.spec.std) == (cfg.mean, cfg.std)
    assert (teacher.spec.crop_pct, teacher.spec.interpolation) == (cfg.crop_pct, cfg.interpolation)
    assert teacher.spec.input_size == cfg.input_size
    assert (teacher.pretrained_cfg["tag"], teacher.revision) == (name.partition(".")[2], None)


def test_unknown_timm_tag_with_a_weights_file_is_rejected(tmp_path):
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
def test_mean_and_std_for_0_to_255_pixels_get_a_hint_with_rescaled_values(mean, std, spelled):
    names = "--mean" if std is None else "--mean and --std"
    with pytest.raises(UsageError, match=rf"^{names} must be for pixels in \[0, 1\], not in \[0, 255\]$") as caught:
        Source.parse("resnet18", InputOverride(mean=mean, std=std))
    assert spelled in caught.value.hint


def test_pretrained_cfg_for_0_to_255_pixels_is_rejected():
    with pytest.raises(
        ModelError, match=r"pretrained_cfg: mean and std must be for pixels in \[0, 1\], not in \[0, 255\]"
    ):
        Source.parse(small(input_size=(3, 8, 8), mean=(123.68,) * 3, std=(58.0,) * 3)).load()


@pytest.mark.parametrize("stated", [{"crop_pct": 0.1}, {"crop_pct": float("nan")}, {"interpolation": "sharpest"}])
def test_invalid_crop_or_interpolation_is_a_usage_error(stated):
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
def test_invalid_input_size_mean_or_std_is_a_usage_error(given, says):
    with pytest.raises(UsageError, match=says):
        Source.parse("resnet20_digits", InputOverride(**given))
