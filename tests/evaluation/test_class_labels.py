"""Names of folders and of classes are matched to the classes of a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_cli.errors import DataError
from intraq_cli.evaluation.class_labels import class_indices


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


def test_one_name_out_of_order_among_a_thousand_classes_is_tolerated():
    labels = [f"class {k}" for k in range(500)] + [f"thing {k}" for k in range(500)]
    names = [*labels[:500], *(f"Ding {k}" for k in range(500))]
    names[7] = "thing 9"
    assert class_indices(names, 1000, labels, "hfds:a/b")[0] == {name: k for k, name in enumerate(names)}
    names[8:14] = reversed(names[8:14])
    with pytest.raises(DataError, match=r", but .* in the model"):
        class_indices(names, 1000, labels, "hfds:a/b")
