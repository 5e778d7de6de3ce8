"""Labelled images for evaluation: class folders, CIFAR, the bundled digits, and data sets on the Hub."""

import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset, TensorDataset

from intraq_cli.errors import DataError, UsageError, first_line
from intraq_cli.evaluation.class_labels import class_indices
from intraq_cli.evaluation.image_files import ENDINGS, decoding, image_paths, image_reader, is_hidden
from intraq_cli.evaluation.labelled_images import Item, LabelledImages
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.words import counted
from intraq_cli.zoo import model_folder


class _Model(NamedTuple):
    """The properties of a model that data must match."""

    spec: InputSpec
    num_classes: int
    label_names: list[str] | None


def open_data(
    data: str,
    spec: InputSpec,
    num_classes: int,
    label_names: list[str] | None,
    data_dir: str | None = None,
    split: str | None = None,
) -> LabelledImages:
    """Open the data that ``--data`` names, preprocessed according to ``spec``.

    Raises:
        DataError: the data do not exist, cannot be read, or have classes that do not match the model.
        UsageError: ``split`` or ``data_dir`` is given for data that do not use it.
    """
    on_the_hub, cifar = data.startswith("hfds:"), data in ("cifar10", "cifar100")
    if split is not None and not on_the_hub:
        raise UsageError(f"--split {split}: {data} is not a data set on the Hub", "leave it out")
    if data_dir is not None and not cifar:
        raise UsageError(f"--data-dir {data_dir}: {data} is neither cifar10 nor cifar100", "leave it out")
    model = _Model(spec, num_classes, label_names)
    if on_the_hub:
        return _hub_dataset(data.removeprefix("hfds:"), model, split)
    if (data == "digits" or (cifar and data_dir is None)) and os.path.isdir(data):
        note = f"{data} is taken as the folder here, not as the data set of that name"
        found = _class_folders(Path(data), model)
        return replace(found, name=f"./{data}", notes=(note, *found.notes))
    if cifar:
        return _cifar(data, model, data_dir)
    if data == "digits":
        return _digits(model)
    folder = Path(data)
    if not os.path.isdir(folder):
        raise DataError(
            f"there is no data folder {data}",
            "give a folder of class folders, digits, cifar10, cifar100 or hfds:ORG/NAME",
        )
    return _class_folders(folder, model)


def _decoded_bytes(spec: InputSpec) -> int:
    return 4 * math.prod(spec.input_size)


class _Files(Dataset[Item]):
    def __init__(self, root: Path, files: Sequence[tuple[Path, int]], spec: InputSpec) -> None:
        self.root, self.files = root.resolve(), files
        self.images = image_reader(spec)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        path, label = self.files[index]
        return self.images.read(path, self.root), label

    def digest(self) -> str:
        """Digest of names, classes, sizes and modification times; the files are not read."""
        digest = hashlib.sha256(str(self.root).encode(errors="surrogateescape"))
        for path, label in self.files:
            with suppress(OSError):  # deleted meanwhile: reading it will raise the error
                seen = path.stat()
                digest.update(f"{path} {label} {seen.st_size} {seen.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _class_folders(folder: Path, model: _Model) -> LabelledImages:
    classes = _class_names(folder)
    if not classes:
        raise DataError(f"{folder} contains no class folders", "give a folder with one folder of images per class")
    if len(classes) == 1 and len(_class_names(folder / classes[0])) > 1:
        raise DataError(
            f"{folder} contains one folder of folders, not class folders", f"did you mean {folder / classes[0]}?"
        )
    found = {name: image_paths(folder / name) for name in classes}
    files = [path for paths in found.values() for path in paths]
    if not files:
        raise DataError(f"there are no image files in the class folders of {folder}", ENDINGS)
    indices, notes = class_indices(classes, model.num_classes, model.label_names)
    bare = [name for name, paths in found.items() if not paths]
    if bare:
        notes.append(f"no image files in {counted(len(bare), 'class folder')}, e.g. {bare[0]}")
    labelled = [(path, indices[name]) for name, paths in found.items() for path in paths]
    dataset = _Files(folder, labelled, model.spec)
    return LabelledImages(str(folder), dataset, len(labelled), tuple(notes), _decoded_bytes(model.spec), dataset.digest)


def _class_names(folder: Path) -> list[str]:
    """Return the sorted names of the folders in ``folder``, which may itself be a link.

    Raises:
        DataError: ``folder`` cannot be read, or a class folder is a link that leads out of it. Such a folder is not
            skipped, since without it the others might get other class indices.
    """
    try:
        found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error
    home = folder.resolve()
    for name in found:
        if not (folder / name).resolve().is_relative_to(home):
            raise DataError(
                f"the class folder {folder / name} is a link that points outside {folder}", "copy it: cp -rL"
            )
    return found


def _digits(model: _Model) -> LabelledImages:
    from safetensors.torch import load_file

    if model.spec.input_size != (1, 8, 8) or model.num_classes != 10:
        raise DataError(
            "the bundled digits are 1x8x8 images of ten classes, which this model does not take",
            "give images of your own with --data",
        )
    held_out = load_file(model_folder("resnet20_digits") / "held_out.safetensors")
    images = model.spec.from_pixels(held_out["images"].float()[:, None] / 16)
    return LabelledImages("digits", TensorDataset(images, held_out["labels"].long()), len(images))


class _DataSet(Dataset[Item]):
    """A data set with two columns, the image and its label.

    Args:
        items: the items, by index.
        spec: input of the model.
        columns: keys of the image and of the label in an item.
        classes: the model's class for each label.
    """

    def __init__(self, items: Any, spec: InputSpec, columns: tuple[Any, Any], classes: list[int]) -> None:
        self.items, self.columns, self.classes, self.images = items, columns, classes, image_reader(spec)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        with decoding(f"image {index}"):
            item = self.items[index]
        image, label = (item[column] for column in self.columns)
        if label is None or not 0 <= label < len(self.classes):
            raise DataError(f"image {index} has no valid class label: {label}", "choose a --split that has labels")
        return self.images.decode(image, f"image {index}"), self.classes[label]


def _data_set(
    name: str, items: Any, names: list[str], model: _Model, columns: tuple[Any, Any] = (0, 1)
) -> LabelledImages:
    """Wrap a data set; ``names`` are the names of its labels, in their order."""
    if not len(items):
        raise DataError(f"{name} contains no images", "choose another --split")
    indices, notes = class_indices(names, model.num_classes, model.label_names, name)
    dataset = _DataSet(items, model.spec, columns, [indices[label] for label in names])
    return LabelledImages(name, dataset, len(items), tuple(notes), _decoded_bytes(model.spec))


def _cifar(name: str, model: _Model, data_dir: str | None) -> LabelledImages:
    from torchvision import datasets

    if model.num_classes != int(name.removeprefix("cifar")):
        raise DataError(f"{name} does not match a model of {model.num_classes} classes")
    if data_dir is None:
        raise DataError(f"--data {name} needs --data-dir", "give the folder with torchvision's extracted archive")
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        items = kind(data_dir, train=False, download=False)
    except RuntimeError as error:
        raise DataError(f"there is no {name} in {data_dir}", f"put torchvision's {kind.base_folder} there") from error
    return _data_set(name, items, items.classes, model)


def _hub_dataset(name: str, model: _Model, split: str | None) -> LabelledImages:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError("data sets on the Hub need the package datasets", "pip install datasets") from error
    try:
        items = load_dataset(name, split=split or "test")
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load {name}: {first_line(error)}", "check the name, --split and the network"
        ) from error
    image = next((k for k, f in items.features.items() if type(f).__name__ == "Image"), None)
    label = next((k for k, f in items.features.items() if type(f).__name__ == "ClassLabel"), None)
    if image is None or label is None:
        raise DataError(f"{name} has no image column, or none of class labels", "choose a data set with both")
    names = list(items.features[label].names)
    return _data_set(f"hfds:{name}", items, names, model, (image, label))
