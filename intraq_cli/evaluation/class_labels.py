"""Which class of a model a name means: its own labels, WordNet ids, or class indices."""

from intraq_cli.errors import DataError


def class_indices(folders: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int]:
    """Which class each folder name means.

    Tried in this order: the model's own labels (for 1,000 ImageNet classes their WordNet ids as well); whole numbers,
    which are class indices; else the sorted order, but only if there are as many folders as classes.

    Raises:
        DataError: none of these fits.
    """
    known = known_labels(folders, num_classes, label_names)
    if known:
        return known
    if all(name.isdecimal() for name in folders):
        wrong = [name for name in folders if int(name) >= num_classes]
        if wrong:
            raise DataError(
                f"class folder {wrong[0]} does not fit a model of {num_classes} classes",
                f"folder names that are numbers are class indices, 0 to {num_classes - 1}",
            )
        if len({int(name) for name in folders}) < len(folders):
            raise DataError("two class folders mean the same class index", "e.g. 1 and 01; rename one")
        return {name: int(name) for name in folders}
    if len(folders) == num_classes:
        return {name: index for index, name in enumerate(sorted(folders))}
    raise DataError(
        f"{len(folders)} class folders do not fit a model of {num_classes} classes",
        "name them by class index, WordNet id or the model's labels, or give one folder for every class",
    )


def known_labels(names: list[str], num_classes: int, label_names: list[str] | None) -> dict[str, int] | None:
    """Which class each name means by the model's own labels, or by WordNet ids; None if not all are among them."""
    for labels in (label_names, _wordnet_ids(num_classes)):
        if labels and len(labels) == num_classes:
            known = {label: index for index, label in enumerate(labels)}
            if all(name in known for name in names):
                twice = [name for name in names if labels[known[name]] in labels[: known[name]]]
                if twice:
                    raise DataError(f"two classes of the model are called {twice[0]}", "name folders by class index")
                return {name: known[name] for name in names}
    return None


def _wordnet_ids(num_classes: int) -> list[str] | None:
    if num_classes != 1000:
        return None
    from timm.data import ImageNetInfo

    return list(ImageNetInfo().label_names())
