import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from intraq_cli.models.class_names import name_of
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.synthesis import rendering
from intraq_cli.synthesis.rendering import (
    CAPTION,
    GAP,
    class_folder,
    images_of_sheet,
    spread_over_classes,
    write_class_folders,
    write_sheet,
)
from intraq_cli.synthesis.tuning_images import TuningImages


def made_of(shape, labels, random, confidences=None):
    images = 4 * torch.rand(len(labels), *shape, generator=random) - 2
    return TuningImages(images, torch.tensor(labels), {}, 1.0, 0.5, confidences)


def spec_of(shape):
    return InputSpec(shape, tuple(0.4 + 0.05 * c for c in range(shape[0])), (0.25,) * shape[0])


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 8, 8), (5, 4, 4)])
def test_class_folders_hold_every_image_with_its_pixels_unchanged(tmp_path, shape, random):
    labels = [7, 11, 7, 0]
    made, spec = made_of(shape, labels, random, torch.tensor([0.5, 0.98765, 1.0, 0.0])), spec_of(shape)
    names = ["a/b: c?", *"xxxxxx", "great white shark, man-eater", *"xxx", "鮫 "]
    write_class_folders(tmp_path, made, spec, names)
    expected = ["00_a_b_c/00003_0.000.png", "07_great_white_shark_man-eater/00000_0.500.png",
                "07_great_white_shark_man-eater/00002_1.000.png", "11_鮫/00001_0.988.png"]  # fmt: skip
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == expected
    for path in tmp_path.rglob("*.png"):
        image = made.images[int(path.name[:5])]
        pixels = [(image[c] * spec.std[c] + spec.mean[c]).clamp(0, 1) for c in range(shape[0])]
        wanted = torch.stack(pixels, 2) if shape[0] == 3 else torch.stack(pixels).mean(0)
        found = np.asarray(Image.open(path)).astype(np.float32)
        assert np.abs(found - 255 * wanted.numpy()).max() <= 0.51


def test_folder_names_are_safe_and_sort_by_class(tmp_path, random):
    assert class_folder(3, None, 3) == "003"
    assert class_folder(3, list("01234"), 1) == "3"  # not 3_3
    assert class_folder(0, ["../../etc"], 1) == "0_etc"
    assert class_folder(0, ["\x1b[31m\n" + "long " * 100], 1).isprintable()
    assert len(class_folder(0, ["ü" * 500], 1).encode()) < 255
    write_class_folders(tmp_path, made_of((1, 4, 4), [2, 10, 2], random), spec_of((1, 4, 4)), None)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["02", "10"]
    assert [path.name for path in sorted((tmp_path / "02").iterdir())] == ["00000.png", "00002.png"]


def test_images_on_a_sheet_are_spread_over_the_classes(random):
    labels = torch.randint(7, (500,), generator=random)
    chosen = spread_over_classes(labels, 28)
    assert labels[chosen].tolist() == list(range(7)) * 4
    assert chosen[7:14] == [(labels == c).nonzero()[1].item() for c in range(7)]  # the second of each class
    many = spread_over_classes(torch.randperm(1000, generator=random), 32)
    shown = Counter(torch.tensor(many).tolist())
    assert max(shown.values()) == 1
    assert spread_over_classes(torch.tensor([5, 5, 2]), 40) == [2, 0, 1]
    assert torch.arange(1000)[spread_over_classes(torch.arange(1000), 4)].tolist() == [0, 250, 500, 750]


@pytest.mark.parametrize("shape", [(3, 120, 120), (1, 8, 8), (3, 32, 48)])
@pytest.mark.parametrize("count", [1, 9, 11, 70])
def test_images_are_recovered_from_a_sheet(tmp_path, shape, count, random):
    spec, made = spec_of(shape), made_of(shape, [k % 23 for k in range(count)], random)
    write_sheet(tmp_path / "samples.png", made, spec, None)
    found = images_of_sheet(tmp_path / "samples.png", spec)
    most = 32 if shape[2] >= 96 else 40
    chosen = spread_over_classes(made.labels, most if count > 10 else count)
    assert len(found) == len(chosen) == min(count, most)
    if shape[2] < 96 or count < 11:  # otherwise reduced, to keep the file small
        assert (found - spec.from_pixels(spec.to_pixels(made.images[chosen]))).abs().max() <= 0.51 / 255 / 0.25
    assert images_of_sheet(tmp_path / "none.png", spec) is None
    assert images_of_sheet(tmp_path / "samples.png", spec_of((3, 200, 200))) is None


def test_sheet_of_large_images_is_at_most_one_megabyte(tmp_path, random):
    made = made_of((3, 224, 224), list(range(40)), random)
    write_sheet(tmp_path / "samples.png", made, spec_of((3, 224, 224)), ["a name that is too long for an image"] * 40)
    assert 600_000 < (tmp_path / "samples.png").stat().st_size <= 1_000_000
    assert images_of_sheet(tmp_path / "samples.png", spec_of((3, 224, 224))).shape == (32, 3, 224, 224)
    write_sheet(tmp_path / "samples.jpg", made, spec_of((3, 224, 224)), None)
    with Image.open(tmp_path / "samples.jpg") as sheet:
        assert sheet.format == "JPEG"


def test_class_names_are_drawn_below_the_images(tmp_path, random):
    spec, labels = spec_of((1, 8, 8)), list(range(6))
    made = made_of((1, 8, 8), labels, random)
    names = ["cat", "cat", "", "a very long name of a class, and longer", "\x1b[31m", "dog"]
    sheets = []
    for given in (names, None):
        write_sheet(tmp_path / "sheet.png", made, spec, given)
        sheets.append(np.asarray(Image.open(tmp_path / "sheet.png")))
    below = slice(GAP + 96, GAP + 96 + CAPTION)
    captions = [sheets[0][below, GAP + k * (96 + GAP) : GAP + k * (96 + GAP) + 96] for k in range(6)]
    assert (captions[0] == captions[1]).all()
    assert (captions[0] != captions[5]).any()
    assert (captions[2] == 255).all()
    assert (captions[0] < 128).any()
    assert (sheets[0][below, 96 + GAP :: 96 + GAP] == 255).all()  # no name extends below the next image
    assert (sheets[1][below] != sheets[0][below]).any()
    assert name_of(17, None) == "class 17"


def test_sheet_metadata_holds_only_the_layout(tmp_path, random):
    write_sheet(tmp_path / "sheet.png", made_of((1, 8, 8), [0, 1], random), spec_of((1, 8, 8)), None)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert set(sheet.info) == {rendering.LAYOUT}
        about = json.loads(sheet.info[rendering.LAYOUT])
    assert about == {"images": 2, "columns": 2, "height": 96, "width": 96, "input_size": [1, 8, 8]}


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "null",
        "{}",
        '{"images": 1e9}',
        '{"images": 4096, "columns": 4096, "height": 4096, "width": 4096}',
        "[" * 9999,
    ],
)
def test_sheet_with_an_invalid_layout_gives_no_images(tmp_path, text, random):
    spec = spec_of((1, 8, 8))
    write_sheet(tmp_path / "sheet.png", made_of((1, 8, 8), [0, 1], random), spec, None)
    info = PngImagePlugin.PngInfo()
    if text.startswith('{"images": 4'):
        text = json.dumps({**json.loads(text), "input_size": [1, 8, 8]})
    info.add_text(rendering.LAYOUT, text)
    Image.open(tmp_path / "sheet.png").save(tmp_path / "other.png", pnginfo=info)
    assert images_of_sheet(tmp_path / "other.png", spec) is None
    Image.new("L", (8, 8)).save(tmp_path / "plain.png")
    assert images_of_sheet(tmp_path / "plain.png", spec) is None
