"""Maps names of folders or labels to a model's classes: by its own labels, WordNet ids, or class indices."""

import re
import unicodedata

from intraq_cli.errors import DataError
from intraq_cli.models.class_names import imagenet_names
from intraq_cli.words import counted

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev"}
"""Names of splits of a data set."""
PARTS = SPLITS | {"images", "labels", "annotations", "masks"}
"""Words in the folder names of such splits and of other parts of a data set."""
NUMBERED = re.compile(r"(\d+)[ ._-]+(.+)", re.ASCII)
"""A name that begins with a class index, such as ``07_dog``."""
NEGATIVE = re.compile(r"[-\N{MINUS SIGN}]\d+")
"""A negative number."""
FOLDERS = "save it as class folders named by class index"
"""Hint if a data set's own classes do not match the model."""
FEW = 100
"""One in this many of a data set's names may belong to another class of the model: ImageNet has two classes "crane"."""


def class_indices(
    names: list[str], num_classes: int, label_names: list[str] | None, data_set: str | None = None
) -> tuple[dict[str, int], list[str]]:
    """Return the class index of each name, and notes for the user about how it was found.

    Tried in this order: the model's own labels, ignoring case, plural, hyphens, underscores and a leading number (for
    1,000 classes also ImageNet's WordNet ids and English names); class indices, either leading numbers, if every class
    has one, or the whole names; else the order of the names, sorted for folders and a data set's own otherwise. The
    order is only used if there are as many names as classes and nothing contradicts it.

    Args:
        names: names of class folders, or of a data set's classes in their order.
        num_classes: number of classes of the model.
        label_names: labels of the model, if known.
        data_set: name of the data set; None for class folders.

    Raises:
        DataError: none of these applies.
    """
    notes: list[str] = []
    found = _known_labels(names, num_classes, label_names, data_set, notes)
    if found is None and data_set is None and (found := _numbers_in_front(names, num_classes, label_names)):
        notes.append(f"the numbers at the start of folder names are taken as class indices, e.g. in {names[0]}")
    if found is None and all(name.isdecimal() for name in names):
        found = _numbers(names, num_classes, data_set)
    if found is None and data_set is not None:
        found = _own_order(names, num_classes, label_names, data_set)
        order = f"in the order of {data_set} ({names[0]} is class 0)"
        notes.append(f"classes are taken {order}: not all names are labels of the model")
    elif found is None:
        found = _sorted(names, num_classes, label_names)
        notes.append(
            f"class folders are taken in sorted order ({names[0]} is class 0): their names are not labels of the model"
        )
    absent = num_classes - len(found)
    if absent:
        lacking = "there are no folders for" if data_set is None else f"{data_set} lacks"
        notes.append(f"{lacking} {absent} of the model's {num_classes} classes")
    return found, notes


def _numbers(names: list[str], num_classes: int, data_set: str | None) -> dict[str, int] | None:
    wrong = [name for name in names if int(name) >= num_classes]
    if wrong and data_set is not None:
        return None  # the data set's own numbers, not class indices
    if wrong:
        raise DataError(
            f"class folder {wrong[0]} does not match a model of {num_classes} classes",
            f"folder names that are numbers are class indices: use 0 to {num_classes - 1}",
        )
    if len({int(name) for name in names}) < len(names):
        raise DataError(f"two {_called(data_set)} have the same class index", "rename one, e.g. of 1 and 01")
    return {name: int(name) for name in names}


def _numbers_in_front(names: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int] | None:
    """Return the leading class index of each name; None unless these are all classes, or if a name is a model label."""
    labels, parts = _plain_labels(num_classes, label_names), {name: _numbered(name) for name in names}
    found = {name: index for name, (index, rest) in parts.items() if index is not None and _plain(rest) not in labels}
    return found if len(found) == len(names) and {*found.values()} == {*range(num_classes)} else None


def _numbered(name: str) -> tuple[int | None, str]:
    """Split a name into its leading class index, or None, and the rest."""
    found = NUMBERED.fullmatch(name)
    return (int(found[1]), found[2]) if found else (None, name)


def _own_order(names: list[str], num_classes: int, label_names: list[str] | None, data_set: str) -> dict[str, int]:
    if len(names) != num_classes:
        raise DataError(
            f"{data_set} has {len(names)} classes, but the model has {num_classes}, and not all names match",
            "choose a data set with the model's classes",
        )
    labels = _plain_labels(num_classes, label_names)
    known = [index for index, name in enumerate(names) if _plain(name) in labels]
    moved = [index for index in known if _plain(names[index]) != labels[index]]
    if len(moved) > len(known) // FEW:
        theirs, ours = names[moved[0]], (label_names or [])[moved[0]]
        raise DataError(f"class {moved[0]} is {theirs} in {data_set}, but {ours} in the model", FOLDERS)
    return {name: index for index, name in enumerate(names)}


def _sorted(folders: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int]:
    splits = [name for name in folders if name.casefold() in SPLITS]
    if not splits and all(PARTS & {*_plain_words(name)} for name in folders):
        splits = folders
    if splits:
        raise DataError(f"folder {splits[0]} is a part of a data set, not a class", f"give --data .../{splits[0]}")
    labels = _plain_labels(num_classes, label_names)
    if any(_plain(name) in labels for name in folders):
        odd = next(name for name in folders if _plain(name) not in labels)
        raise DataError(f"class folder {odd} is not one of the model's labels, but others are", "rename or remove it")
    if len(folders) != num_classes:
        raise DataError(
            f"{counted(len(folders), 'class folder')} cannot be matched to a model of {num_classes} classes",
            "name them by class index, WordNet id or the model's labels, or give one folder for every class",
        )
    by_letters, by_numbers = sorted(folders), sorted(folders, key=_by_numbers)
    for index, (name, other) in enumerate(zip(by_letters, by_numbers, strict=True)):
        if name != other:
            what = f"class {index} is {name} in alphabetical order, but {other} in numerical order"
            raise DataError(what, f"name the folders by class index, 0 to {num_classes - 1}")
    return {name: index for index, name in enumerate(by_letters)}


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts by the numbers in a name, ``class_2`` before ``class_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _called(data_set: str | None) -> str:
    return "class folders" if data_set is None else f"classes of {data_set}"


def _plain_labels(num_classes: int, label_names: list[str] | None) -> list[str]:
    """Return the model's labels normalised by :func:`_plain`; empty unless there is one for every class."""
    return [_plain(label) for label in label_names or ()] if len(label_names or ()) == num_classes else []


def _plain_words(name: str) -> list[str]:
    if NEGATIVE.fullmatch(name):  # its hyphen is a sign: -1 often stands for images without a class
        return [name]
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split()


def _plain(name: str) -> str:
    """Normalise a label: without case, plural, hyphens and underscores."""
    return " ".join(word.removesuffix("s") for word in _plain_words(name))


def _plain_behind_number(name: str) -> str:
    return _plain(_numbered(name)[1])


def _known_labels(
    names: list[str], num_classes: int, label_names: list[str] | None, data_set: str | None, notes: list[str]
) -> dict[str, int] | None:
    """Return the class of each name by the model's labels or ImageNet's; None if a name is not among them.

    Notes for the user are added to ``notes``.

    Raises:
        DataError: a name matches two classes, or two names the same class.
    """
    for labels in (label_names, *_imagenet(num_classes)):
        if not labels or len(labels) != num_classes:
            continue
        for of_label, of_name in ((str, str), (_plain, _plain), (_plain, _plain_behind_number)):
            known: dict[str, list[int]] = {}
            for index, label in enumerate(labels):
                known.setdefault(of_label(label), []).append(index)
            if not all(of_name(name) in known for name in names):
                continue
            found = {name: known[of_name(name)] for name in names}
            twice = [name for name, indices in found.items() if len(indices) > 1]
            if twice:
                hint = "name folders by class index" if data_set is None else FOLDERS
                raise DataError(f"two classes of the model are called {twice[0]}", hint)
            if len({indices[0] for indices in found.values()}) < len(names):
                hint = "merge them, e.g. dog and dogs"
                raise DataError(f"two {_called(data_set)} mean the same class", hint)
            moved = [name for name, (index,) in found.items() if _numbered(name)[0] not in (None, index)]
            if of_name is _plain_behind_number and moved:
                index = found[moved[0]][0]
                what = "the numbers at the start of names are not the model's class indices"
                notes.append(f"{what}: {moved[0]} is class {index}")
            return {name: indices[0] for name, indices in found.items()}
    return None


def _imagenet(num_classes: int) -> list[list[str]]:
    """Return three lists of names of ImageNet's classes: WordNet ids, all synonyms, and the first synonym."""
    if num_classes != 1000:
        return []
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    return [list(known.label_names()), list(known.label_descriptions()), imagenet_names()]
