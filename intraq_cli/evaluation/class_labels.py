"""Which class of a model a name means: its own labels, WordNet ids, or class indices."""

from intraq_cli.errors import DataError

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev"}
"""Names of parts of a data set."""


def class_indices(
    folders: list[str], num_classes: int, label_names: list[str] | None
) -> tuple[dict[str, int], list[str]]:
    """Which class each folder name means, and what the user should know about that.

    Tried in this order: the model's own labels, without regard to case, plural, hyphens and underscores (for 1,000
    ImageNet classes their WordNet ids as well); whole numbers, which are class indices; else the sorted order, but only
    if there are as many folders as classes and nothing speaks against it.

    Raises:
        DataError: none of these fits.
    """
    found = known_labels(folders, num_classes, label_names)
    notes = []
    if found is None and all(name.isdecimal() for name in folders):
        found = _numbers(folders, num_classes)
    if found is None:
        found = _sorted(folders, num_classes, label_names)
        notes.append(f"class folders are taken in sorted order, {folders[0]} for class 0: their names say nothing else")
    absent = num_classes - len(found)
    if absent:
        notes.append(f"{absent} of the model's {num_classes} classes have no folder")
    return found, notes


def _numbers(folders: list[str], num_classes: int) -> dict[str, int]:
    wrong = [name for name in folders if int(name) >= num_classes]
    if wrong:
        raise DataError(
            f"class folder {wrong[0]} does not fit a model of {num_classes} classes",
            f"folder names that are numbers are class indices, 0 to {num_classes - 1}",
        )
    if len({int(name) for name in folders}) < len(folders):
        raise DataError("two class folders mean the same class index", "e.g. 1 and 01; rename one")
    return {name: int(name) for name in folders}


def _sorted(folders: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int]:
    splits = [name for name in folders if name.casefold() in SPLITS]
    if splits:
        raise DataError(f"folder {splits[0]} is a part of a data set, not a class", f"give --data .../{splits[0]}")
    labels = {_plain(label) for label in label_names or ()} if len(label_names or ()) == num_classes else set()
    if any(_plain(name) in labels for name in folders):
        odd = next(name for name in folders if _plain(name) not in labels)
        raise DataError(f"class folder {odd} is none of the model's labels, others are", "rename it, or take it away")
    if len(folders) != num_classes:
        raise DataError(
            f"{len(folders)} class folders do not fit a model of {num_classes} classes",
            "name them by class index, WordNet id or the model's labels, or give one folder for every class",
        )
    return {name: index for index, name in enumerate(sorted(folders))}


def _plain(name: str) -> str:
    """A label without case, plural, hyphens and underscores."""
    words = name.casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(word.removesuffix("s") for word in words)


def known_labels(names: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int] | None:
    """Which class each name means by the model's own labels, or by WordNet ids; None if not all are among them.

    Raises:
        DataError: a name means two classes, or two names the same one.
    """
    for labels in (label_names, _wordnet_ids(num_classes)):
        if not labels or len(labels) != num_classes:
            continue
        for spelled in (str, _plain):
            known: dict[str, list[int]] = {}
            for index, label in enumerate(labels):
                known.setdefault(spelled(label), []).append(index)
            if not all(spelled(name) in known for name in names):
                continue
            found = {name: known[spelled(name)] for name in names}
            twice = [name for name, indices in found.items() if len(indices) > 1]
            if twice:
                raise DataError(f"two classes of the model are called {twice[0]}", "name folders by class index")
            if len({indices[0] for indices in found.values()}) < len(names):
                raise DataError("two class folders mean the same class", "e.g. dog and dogs; put them together")
            return {name: indices[0] for name, indices in found.items()}
    return None


def _wordnet_ids(num_classes: int) -> list[str] | None:
    if num_classes != 1000:
        return None
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())
