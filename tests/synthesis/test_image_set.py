import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from intraq_cli.errors import DataError
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.synthesis.image_set import ImageSet, load_images, read_images, save_images
from intraq_cli.synthesis.tuning_images import TuningImages

SPEC = InputSpec((3, 4, 4), (0.5,) * 3, (0.25,) * 3)
ORIGIN = {"model": "x", "sha256": "0", "seed": 3}


@pytest.fixture
def images(random):
    confidences = torch.rand(5, generator=random)
    pixels = torch.rand(5, 3, 4, 4, generator=random)
    made = TuningImages(SPEC.from_pixels(pixels).half(), torch.arange(5), {"bns": 0.5}, 0.8, 0.3, confidences)
    return ImageSet(made, ORIGIN, SPEC, list("abcde"))


def changed(path, **about):
    """Rewrite the file with changed metadata."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["intraq"])
    save_file(load_file(path), path, {"intraq": json.dumps({**said, **about})})


def test_saved_images_are_read_back_unchanged(tmp_path, images):
    path = tmp_path / "i.safetensors"
    save_images(path, images)
    found = read_images(path)
    assert (found.origin, found.spec, found.label_names) == (ORIGIN, SPEC, list("abcde"))
    assert torch.equal(found.made.images, images.made.images)
    assert torch.equal(found.made.confidences, images.made.confidences)
    made, origin = load_images(path, SPEC, 5)
    assert torch.equal(made.images, images.made.images)
    assert origin == ORIGIN


def test_loaded_images_are_normalised_for_the_model(tmp_path, images):
    path = tmp_path / "i.safetensors"
    save_images(path, images)
    other = InputSpec((3, 4, 4), (0.1, 0.2, 0.3), (1.0, 0.5, 0.2))
    made, _ = load_images(path, other, 5)
    assert made.images.dtype == torch.float16
    pixels = SPEC.to_pixels(images.made.images.float())
    assert torch.allclose(other.to_pixels(made.images.float()), pixels, atol=1e-3)


def test_label_names_and_confidences_are_optional(tmp_path, images):
    path = tmp_path / "i.safetensors"
    save_images(path, ImageSet(replace(images.made, confidences=None), ORIGIN, SPEC))
    found = read_images(path)
    assert (found.label_names, found.made.confidences) == (None, None)


@pytest.mark.parametrize(
    "about",
    [
        {"input": 3},
        {"input": None},
        {"input": {"input_size": [3, 5, 4], "mean": [0.5] * 3, "std": [0.25] * 3}},
        {"input": {"input_size": [3, 4, 4], "mean": ["a"] * 3, "std": [0.25] * 3}},
        {"input": {"input_size": [3, 4, 4], "mean": [0.5] * 3, "std": [0.0] * 3}},
        {"label_names": []},
        {"label_names": ["a", "b", 3]},
        {"label_names": ["a", "b"]},
        {"label_names": "abcde"},
    ],
)
def test_invalid_metadata_is_a_data_error(tmp_path, images, about):
    path = tmp_path / "i.safetensors"
    save_images(path, images)
    changed(path, **about)
    with pytest.raises(DataError):
        read_images(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"confidences": torch.zeros(4)},
        {"confidences": torch.full((5,), torch.nan)},
        {"other": torch.zeros(5)},
        {"labels": torch.full((5,), -1)},
        {"images": torch.zeros(5, 3, 4)},
        {"images": torch.zeros(5, 3, 0, 4)},
    ],
)
def test_inconsistent_tensors_are_a_data_error(tmp_path, images, tensors):
    path = tmp_path / "i.safetensors"
    save_images(path, images)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({**load_file(path), **tensors}, path, about)
    with pytest.raises(DataError):
        read_images(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("recipe", 5), ("recipe", ["a"]), ("code", 3), ("code", [5]), ("model", 7), ("sha256", []), ("seed", "x")],
)
def test_origin_with_wrong_types_is_a_one_line_data_error(tmp_path, images, key, value):
    path = tmp_path / "i.safetensors"
    save_images(path, images)
    changed(path, origin={**ORIGIN, key: value})
    with pytest.raises(DataError, match=rf"is damaged: origin\.{key}") as caught:
        read_images(path)
    assert "\n" not in caught.value.message
