import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from intraq_cli.errors import DataError
from intraq_cli.evaluation.class_labels import class_indices
from intraq_cli.evaluation.data import open_data
from intraq_cli.evaluation.image_files import image_reader, picture_transform
from intraq_cli.models.input_options import Interpolation
from intraq_cli.models.input_spec import InputSpec

SPEC = InputSpec((3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def test_folders_named_by_labels_get_their_class_and_missing_ones_are_noted():
    assert class_indices(["dog", "cat"], 3, ["cat", "dog", "eel"]) == (
        {"dog": 1, "cat": 0},
        ["there are no folders for 1 of the model's 3 classes"],
    )


def test_labels_match_regardless_of_case_separators_and_plural():
    labels = ["dog", "Sea_Eel", "dog house"]
    for folders in (["Dogs", "sea-eels", "DOG HOUSES"], ["dogs", "sea eel", "Dog-House"]):
        assert class_indices(folders, 3, labels) == ({name: k for k, name in enumerate(folders)}, [])
    assert class_indices(["dog", "dogs"], 2, ["dogs", "dog"])[0] == {
        "dogs": 0,
        "dog": 1,
    }  # an exact match takes precedence
    with pytest.raises(DataError, match="the same class"):
        class_indices(["Dog", "dogs"], 3, labels)


def test_split_folders_are_not_taken_for_classes():
    for folders, classes in ((["train", "val"], 2), (["Test", "Train", "Validation"], 3)):
        with pytest.raises(DataError, match="is a part of a data set"):
            class_indices(folders, classes, None)
    assert class_indices(["test", "train"], 2, ["train", "test"])[0] == {"train": 0, "test": 1}


def test_one_unknown_label_is_an_error_instead_of_guessing_all_classes():
    with pytest.raises(DataError, match="hund is not one of the model's labels"):
        class_indices(["cat", "hund"], 2, ["cat", "dog"])


def test_numeric_folder_names_are_class_indices_not_positions():
    assert class_indices(["0003", "0990", "1"], 1000, None)[0] == {"0003": 3, "0990": 990, "1": 1}


def test_negative_number_is_not_the_class_without_its_sign():
    digits = [*map(str, range(10))]
    with pytest.raises(DataError, match="class folder -1 is not one of the model's labels"):
        class_indices(["-1", "0"], 10, digits)
    with pytest.raises(DataError, match="cannot be matched to a model of 10 classes"):
        class_indices(["-1", "0"], 10, None)


def test_wordnet_ids_are_recognized_for_imagenet():
    assert class_indices(["n01440764", "n15075141"], 1000, None)[0] == {"n01440764": 0, "n15075141": 999}


def test_english_class_names_are_recognized_for_imagenet():
    assert class_indices(["toilet tissue", "goldfish"], 1000, None)[0] == {"toilet tissue": 999, "goldfish": 1}
    assert class_indices(["tench, Tinca tinca"], 1000, None)[0] == {"tench, Tinca tinca": 0}
    with pytest.raises(DataError, match="two classes of the model are called crane"):
        class_indices(["crane"], 1000, None)


def test_label_after_a_number_takes_precedence_over_the_number():
    assert class_indices(["0_cat", "1_dog"], 2, ["cat", "dog"]) == ({"0_cat": 0, "1_dog": 1}, [])
    found, (note,) = class_indices(["0_dog", "1_cat"], 2, ["cat", "dog"])
    assert found == {"0_dog": 1, "1_cat": 0}
    assert "0_dog is class 1" in note
    with pytest.raises(DataError, match="2_cat is not one of"):  # here the number is part of the label
        class_indices(["2_cat", "3_dog"], 3, ["1 cat", "3 dog", "eel"])
    # as `intraq images --png` names the folders of some of the classes
    assert class_indices(["07_x7", "11_x11"], 12, [f"x{k}" for k in range(12)])[0] == {"07_x7": 7, "11_x11": 11}


def test_number_prefixes_are_class_indices_if_every_class_has_one():
    names = [f"{k}_{'lkjihgfedcba'[k]}" for k in range(12)]
    found, (note,) = class_indices(names, 12, None)
    assert found == {name: k for k, name in enumerate(names)}
    assert "taken as class indices" in note
    with pytest.raises(DataError, match="cannot be matched"):
        class_indices(names[:5], 12, None)


def test_contradicting_alphabetical_and_numeric_orders_are_refused():
    with pytest.raises(DataError, match="class 2 is class_10 in alphabetical order, but class_2 in numerical order"):
        class_indices([f"class_{k}" for k in range(12)], 12, None)


@pytest.mark.parametrize("folders", [["train_images", "val_images"], ["images", "labels"]])
def test_split_folders_with_longer_names_are_not_taken_for_classes(folders):
    with pytest.raises(DataError, match=f"{folders[0]} is a part of a data set"):
        class_indices(folders, 2, None)


def test_accented_letters_match_in_any_unicode_normalization():
    assert class_indices(["cafe\u0301", "tea"], 2, ["tea", "caf\xe9"])[0] == {"cafe\u0301": 1, "tea": 0}


def test_sorted_order_is_used_only_if_every_class_has_a_folder():
    found, (note,) = class_indices(["b", "a", "c"], 3, None)
    assert found == {"a": 0, "b": 1, "c": 2}
    assert "sorted order" in note
    for folders in (["a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(DataError, match="cannot be matched to a model of 3 classes"):
            class_indices(folders, 3, None)


@pytest.mark.parametrize("folders", [["3"], ["0", "1", "2", "10"]])
def test_class_index_out_of_range_is_refused(folders):
    with pytest.raises(DataError, match="does not match a model of 3 classes"):
        class_indices(folders, 3, None)


def test_two_folders_with_the_same_class_index_are_refused():
    with pytest.raises(DataError, match="same class index"):
        class_indices(["1", "01"], 3, None)


NAMES = st.lists(st.text("abc01é", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)


@given(NAMES, st.data())
@settings(deadline=None)
def test_folders_named_exactly_like_labels_get_their_classes(labels, data):
    folders = data.draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))
    found, _ = class_indices(sorted(folders), len(labels), labels)
    assert {name: labels[index] for name, index in found.items()} == {name: name for name in folders}


@given(NAMES, st.integers(1, 12), NAMES | st.none())
@settings(deadline=None, max_examples=300)
def test_any_folder_names_get_distinct_valid_classes_or_are_refused(folders, num_classes, labels):
    try:
        found, _ = class_indices(sorted(folders), num_classes, labels)
    except DataError:
        return
    assert set(found) == set(folders)
    assert len(set(found.values())) == len(folders)
    assert all(0 <= index < num_classes for index in found.values())


def test_folder_whose_label_names_two_classes_is_refused():
    labels = ["crane", "dog", "crane"]
    with pytest.raises(DataError, match="two classes of the model are called crane") as caught:
        class_indices(["crane", "dog"], 3, labels)
    assert "class index" in caught.value.hint
    assert class_indices(["dog"], 3, labels)[0] == {"dog": 1}


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


def test_one_name_out_of_order_among_a_thousand_classes_is_tolerated():
    labels = [f"class {k}" for k in range(500)] + [f"thing {k}" for k in range(500)]
    names = [*labels[:500], *(f"Ding {k}" for k in range(500))]
    names[7] = "thing 9"
    assert class_indices(names, 1000, labels, "hfds:a/b")[0] == {name: k for k, name in enumerate(names)}
    names[8:14] = reversed(names[8:14])
    with pytest.raises(DataError, match=r", but .* in the model"):
        class_indices(names, 1000, labels, "hfds:a/b")


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
