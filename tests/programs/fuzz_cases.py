"""The fuzzer's cases: a mutated copy of a seed, and what uses it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from intraq_cli import evaluate, inspect, load
from intraq_cli.evaluation.data import open_data
from intraq_cli.events import Event
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import capture_teacher
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.recipe import Recipe
from intraq_cli.synthesis.image_set import load_images
from intraq_cli.zoo import load_recipe
from tests.programs.fuzz_mutations import change_json, change_safetensors, change_toml, flip_bytes
from tests.programs.fuzz_seeds import RGB, SPEC
from tests.programs.fuzz_watch import time_limit

CAPTURE_LIMIT = 30
"""The limit of a case that inspects: a config may name any architecture, and capturing takes some 10 ms a node."""


def _use_checkpoint(folder: Path) -> None:
    network = load(folder, device="cpu")
    assert isinstance(network, QuantizedNetwork)


def _use_evaluate(folder: Path) -> None:
    evaluate(str(folder), data="digits", limit=4, device="cpu")


def _use_float(folder: Path) -> None:
    capture_teacher(Source.parse(str(folder)).load())


def _use_inspect(folder: Path) -> None:
    with time_limit(CAPTURE_LIMIT):
        inspect(str(folder))


def _use_set(folder: Path) -> None:
    load_images(folder / "images.safetensors", SPEC, 10)


def _use_recipe(folder: Path) -> None:
    assert isinstance(load_recipe(str(folder / "recipe.toml")), Recipe)


def _use_weights(folder: Path) -> None:
    Source.parse("test_resnet", weights=folder / "weights.pth").load()


def use_seeds(seeds: Path) -> None:
    """Use the seeds unmutated: they must be valid, and modules that are imported on first use are imported now."""
    for name, use, _ in KINDS:
        use(seeds / name)


CHANGES_OF: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": change_json,
    ".safetensors": change_safetensors,
    ".toml": change_toml,
    ".pth": flip_bytes,
}
KINDS: list[tuple[str, Callable[[Path], None], int]] = [
    ("own", _use_checkpoint, 20),
    ("own", _use_evaluate, 12),
    ("own-activations", _use_checkpoint, 12),
    ("timm", _use_checkpoint, 14),
    ("computed", _use_checkpoint, 8),
    ("float-own", _use_float, 8),
    ("float-timm", _use_inspect, 4),
    ("float-timm", _use_float, 10),
    ("set", _use_set, 9),
    ("recipe", _use_recipe, 12),
    ("weights", _use_weights, 3),
]


def run_checkpoint_case(seeds: Path, case: Path, rng: random.Random) -> Callable[[], str]:
    """Make a mutated copy of one of the seeds; returns a function that uses it."""
    name, use, _ = rng.choices(KINDS, [weight for *_, weight in KINDS])[0]
    shutil.copytree(seeds / name, case)
    files = sorted(case.iterdir())
    weights = [4 if file.name == "config.json" else 1 if file.name == "run.json" else 3 for file in files]
    for file in dict.fromkeys(rng.choices(files, weights, k=rng.choice([1, 1, 1, 2]))):
        if rng.random() < 0.02:
            _misplace(file, rng)
        else:
            file.write_bytes(CHANGES_OF[file.suffix](file.read_bytes(), rng))

    def accepted() -> str:
        use(case)
        return "accepted"

    return accepted


def _misplace(file: Path, rng: random.Random) -> None:
    """Replace the file by a folder, a FIFO or a symbolic link."""
    content = file.read_bytes()
    file.unlink()
    match rng.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to("/etc/passwd")
        case 3:
            file.symlink_to(file.name)
        case 4:
            (file.parent / "moved").write_bytes(content)
            file.symlink_to("moved")


def run_image_case(seeds: Path, case: Path, rng: random.Random) -> Callable[[], str]:
    """Make class folders with one mutated and one valid image; returns a function that reads them."""
    (case / "0").mkdir(parents=True)
    (case / "1").mkdir()
    files = sorted((seeds / "images").iterdir())
    file = rng.choice(files)
    shutil.copy(seeds / "images" / "rgb.png", case / "1" / "sound.png")
    target = case / "0" / file.name
    shutil.copy(file, target)
    if rng.random() < 0.02:
        _misplace(target, rng)
    else:
        target.write_bytes(flip_bytes(target.read_bytes(), rng))
    spec = rng.choice([SPEC, RGB])

    def use() -> str:
        images = open_data(str(case), spec, 2, None)
        warned: list[Event] = []
        measured = sum(len(y) for _, y, _ in images.batches(4, warned.append))
        assert measured + len(warned) == 2
        return "left out" if warned else "accepted"

    return use
