"""Images of folders, of data sets on the Hub and of CIFAR, with their class labels."""

import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from intraq_cli.errors import DataError
from intraq_cli.evaluation.data import open_data
from intraq_cli.evaluation.image_files import image_reader, picture_transform
from intraq_cli.models.input_options import Interpolation
from intraq_cli.models.input_spec import InputSpec

SPEC = InputSpec((3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def write(folder, name, colour, mode="RGB"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), colour).save(folder / name)


def test_images_are_loaded_normalized_with_their_class_labels(tmp_path):
    write(tmp_path, "2/white.png", (255, 255, 255))
    write(tmp_path, "0/black.png", (0, 0, 0))
    write(tmp_path, "0/deep/grey.png", 128, "L")
    (tmp_path / "0/notes.txt").write_text("no image")
    data = open_data(str(tmp_path), SPEC, 3, None)
    ((x, y, _),) = list(data.batches(8))
    assert y.tolist() == [0, 0, 2]
    assert [round(v, 2) for v in x.mean((1, 2, 3)).tolist()] == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no class folders"),
        (lambda p: (p / "0").mkdir(), "no image files"),
        (lambda p: write(p, "7/a.png", (0, 0, 0)), "does not match a model of 3 classes"),
        (lambda p: [(p / "0").mkdir(), (p / "0/a.png").write_bytes(b"not an image")], "1 of 1 images cannot be used"),
    ],
)
def test_error_for_an_unsuitable_data_folder_says_why(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(DataError, match=says):
        list(open_data(str(tmp_path), SPEC, 3, None).batches(4))


def test_error_for_a_folder_one_level_too_high_points_to_the_right_one(tmp_path):
    write(tmp_path, "test/cat/a.png", (0, 0, 0))
    write(tmp_path, "test/dog/a.png", (0, 0, 0))
    with pytest.raises(DataError, match="one folder of folders") as caught:
        open_data(str(tmp_path), SPEC, 2, None)
    assert str(tmp_path / "test") in caught.value.hint


def test_sample_is_determined_by_its_seed(tmp_path):
    for k in range(20):
        write(tmp_path, f"{k % 2}/{k:02}.png", (k, k, k))
    data = open_data(str(tmp_path), SPEC, 2, None)
    (first,), (again,), (other,) = (list(data.sample(5, seed).batches(9)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert data.sample(100, 0).count == 20


def test_missing_or_unsuitable_data_sets_are_refused():
    with pytest.raises(DataError, match="there is no data folder"):
        open_data("nowhere", SPEC, 3, None)
    with pytest.raises(DataError, match="1x8x8"):
        open_data("digits", SPEC, 10, None)
    with pytest.raises(DataError, match="--data-dir"):
        open_data("cifar10", SPEC, 10, None)


class Items(list):
    """Stands in for a data set on the Hub, whose columns are recognized by the names of their types."""

    def __init__(self, names, rows=None):
        white = Image.new("RGB", (8, 8), "white")
        super().__init__([{"picture": white, "kind": k} for k in range(len(names))] if rows is None else rows)
        self.features = {"picture": type("Image", (), {})(), "kind": type("ClassLabel", (), {"names": names})()}


@pytest.fixture
def on_the_hub(monkeypatch):
    """Replaces the items of every data set on the Hub."""

    def put(items):
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name, split: items))

    return put


def labels_of(images):
    return [int(label) for _, batch, _ in images.batches(2) for label in batch]


IN_ORDER = "classes are taken in the order of hfds:org/zoo ({} is class 0): not all names are labels of the model"


@pytest.mark.parametrize(
    ("names", "expected", "notes"),
    [
        (["dog", "cat"], [2, 0], ["hfds:org/zoo lacks 1 of the model's 3 classes"]),  # by name
        (["cat", "dog", "eel"], [0, 2, 1], []),
        (["Katze", "Aal", "Hund"], [0, 1, 2], [IN_ORDER.format("Katze")]),
        (["cat", "Aal", "dog"], [0, 1, 2], [IN_ORDER.format("cat")]),  # the known name is where it is in the model
        (["2", "0", "1"], [2, 0, 1], []),
        (["1", "2", "3"], [0, 1, 2], [IN_ORDER.format("1")]),
    ],
)
def test_classes_of_a_hub_data_set_are_mapped_to_the_models(on_the_hub, names, expected, notes):
    on_the_hub(Items(names))
    images = open_data("hfds:org/zoo", SPEC, 3, ["cat", "eel", "dog"])
    assert labels_of(images) == expected
    assert list(images.notes) == notes


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["Hund", "Katze"], "2 classes, but the model has 3"),
        (["cat", "Hund"], "2 classes, but the model has 3"),
        (["a", "b", "c", "d"], "4 classes, but the model has 3"),
        (["cat", "dog", "Aal"], "class 1 is dog in hfds:org/zoo, but eel in the model"),
        (["cat", "dog", "dogs"], "two classes of hfds:org/zoo mean the same class"),
    ],
)
def test_hub_data_set_whose_classes_contradict_the_models_is_refused(on_the_hub, names, says):
    on_the_hub(Items(names))
    with pytest.raises(DataError, match=says):
        open_data("hfds:org/zoo", SPEC, 3, ["cat", "eel", "dog"])


def test_cifar_classes_are_matched_by_name(tmp_path, monkeypatch):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.zeros((10, 3 * 32 * 32), np.uint8)
    (folder / "test").write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [("test", None)])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    images = open_data("cifar10", SPEC, 10, names[::-1], str(tmp_path))
    assert (labels_of(images), images.notes) == (list(range(9, -1, -1)), ())
    images = open_data("cifar10", SPEC, 10, None, str(tmp_path))
    assert labels_of(images) == list(range(10))
    assert "(airplane is class 0)" in images.notes[0]
    with pytest.raises(DataError, match="class 1 is automobile in cifar10, but ship in the model"):
        open_data("cifar10", SPEC, 10, ["plane", *names[-2:0:-1], "lorry"], str(tmp_path))


def test_missing_image_is_skipped_but_a_missing_label_is_an_error(on_the_hub):
    white = Image.new("RGB", (8, 8), "white")
    on_the_hub(Items(["a", "b"], [{"picture": white, "kind": 0}, {"picture": None, "kind": 1}]))
    events = []
    ((_, y, _),) = open_data("hfds:org/zoo", SPEC, 2, None).batches(2, events.append)
    assert y.tolist() == [0]
    assert "1 of 2 images were left out, e.g. image 1 is missing" in events[0].message
    for label in (None, -1, 2):
        on_the_hub(Items(["a", "b"], [{"picture": white, "kind": label}]))
        with pytest.raises(DataError, match=f"image 0 has no valid class label: {label}"):
            labels_of(open_data("hfds:org/zoo", SPEC, 2, None))


def test_split_without_images_is_refused(on_the_hub):
    on_the_hub(Items(["a", "b"], []))
    with pytest.raises(DataError, match="hfds:org/zoo contains no images"):
        open_data("hfds:org/zoo", SPEC, 2, None)


def test_hidden_and_system_files_are_not_taken_for_images(tmp_path):
    for name in ("0/a.png", "1/b.png"):
        write(tmp_path, name, 0)
        for beside in (f"{name[0]}/._a.png", f"{name[0]}/.ipynb_checkpoints/a.png", f"{name[0]}/@eaDir/a.png"):
            write(tmp_path, beside, 0)
    write(tmp_path, "__MACOSX/0/a.png", 0)
    ((_, y, _),) = open_data(str(tmp_path), SPEC, 2, None).batches(9)
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_transform_equals_the_image_reader_for_all_kinds_of_images(tmp_path, channels, random):
    """Palettes, 16 bits, transparency, CMYK, and a rotation in the EXIF data."""
    pixels = torch.randint(0, 256, (9, 12, 3), generator=random, dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "palette.png": picture.quantize(7), "grey.png": picture.convert("L"), "print.jpg": picture.convert("CMYK"),
        "clear.png": picture.convert("RGBA"), "black.png": picture.convert("1"),
        "deep.png": Image.fromarray((pixels[..., 0].to(torch.int32) << 8).numpy().astype("uint16")),
    }  # fmt: skip
    for name, kind in kinds.items():
        kind.save(tmp_path / name)
    picture.save(tmp_path / "turned.png", exif=exif)
    spec = InputSpec((channels, 8, 8), (0.5,) * channels, (0.25,) * channels)
    for name in [*kinds, "turned.png"]:
        with Image.open(tmp_path / name) as opened:
            found = picture_transform(spec)(opened)
        assert torch.equal(found, image_reader(spec).read(tmp_path / name, None))
        assert found.shape == (channels, 8, 8)


def test_picture_that_would_be_resized_to_nothing_is_skipped(tmp_path):
    write(tmp_path, "0/a.png", 0)
    write(tmp_path, "1/a.png", 0)
    Image.new("RGB", (3, 400)).save(tmp_path / "1/narrow.png")
    events = []
    images = open_data(str(tmp_path), replace(SPEC, crop_mode="border"), 2, None)
    ((_, y, _),) = images.batches(4, events.append)
    assert y.tolist() == [0, 1]
    assert "narrow.png: height and width must be > 0" in events[0].message


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_every_interpolation_and_crop_mode_gives_the_models_input_size(interpolation, crop_mode):
    spec = InputSpec((3, 8, 12), (0.5,) * 3, (0.5,) * 3, interpolation, 0.9, crop_mode)
    image = image_reader(spec).decode(Image.new("RGB", (20, 30), "white"), "white")
    assert image.shape == (3, 8, 12)
    assert image.max() == pytest.approx(1.0)


def test_class_folders_that_are_empty_or_missing_are_noted(tmp_path):
    for name in ("dog", "cat", "empty"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "dog/a.jfif", "JPEG")
    Image.new("RGB", (8, 8)).save(tmp_path / "cat/b.png")
    data = open_data(str(tmp_path), SPEC, 4, ["cat", "dog", "eel", "empty"])
    assert data.count == 2
    assert data.notes == (
        "there are no folders for 1 of the model's 4 classes",
        "no image files in 1 class folder, e.g. empty",
    )
    assert data.sample(1, 0).notes == data.notes
