"""What float teachers said of images, kept between runs: the next checkpoint of a teacher costs half."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from intraq_cli.errors import OutputError
from intraq_cli.evaluation.accuracy import Answer
from intraq_cli.evaluation.labelled_images import Batch
from intraq_cli.io.atomic import atomic_file

UNKNOWN = -1
"""In place of the classes of an image that was not asked about, as it could not be read."""


def answers_folder() -> Path | None:
    """Where answers are kept: ``intraq/answers`` in the user's folder for caches; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intraq" / "answers"
    except RuntimeError:
        return None


class KeptAnswers:
    """First classes by image, of any number of float networks on any number of data sets.

    Args:
        folder: where they are kept for later runs; None: in memory alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, Tensor] = {}

    def recall(self, key: tuple[Any, ...], count: int, width: int) -> Tensor:
        """The classes ``(count, width)`` kept under ``key``, -1 where nothing is known."""
        name = _name(key)
        if name not in self.known and self.folder is not None:
            with suppress(OSError, SafetensorError, KeyError):
                self.known[name] = load_file(self.folder / name)["classes"]
        found = self.known.get(name)
        if found is None or found.shape != (count, width) or found.dtype != torch.int32:
            return torch.full((count, width), UNKNOWN, dtype=torch.int32)
        return found

    def keep(self, key: tuple[Any, ...], classes: Tensor, on_disk: bool) -> None:
        """Keep ``classes`` ``(count, width)`` under ``key``; a cache that cannot be written is left as it is."""
        name = _name(key)
        self.known[name] = classes
        if on_disk and self.folder is not None:
            with suppress(OSError, OutputError):
                self.folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(self.folder / name, force=True) as file:
                    save_file({"classes": classes}, file)


def _name(key: tuple[Any, ...]) -> str:
    return f"{hashlib.sha256(repr(key).encode()).hexdigest()}.safetensors"


class Recalled:
    """An answer that asks the network only about images of which nothing is known, and about the first batch.

    Where the network says something else of the first batch than what is known, it is another one (its code may have
    changed, which no digest of its weights tells), and nothing that is known counts.

    Args:
        answer: asks the network.
        known: classes ``(count, width)`` by position in the data set, -1 where unknown; filled as they become known.
    """

    def __init__(self, answer: Answer, known: Tensor) -> None:
        self.answer, self.known = answer, known
        self.checked = self.changed = False
        """Whether the first batch has been asked about, and whether anything new is known."""
        self.reused = 0
        """Images of which the network was not asked."""

    def __call__(self, batch: Batch) -> Tensor:
        """Classes ``(B, width)`` of a batch."""
        found = self.known[batch.positions]
        if self.checked and not (found == UNKNOWN).any():
            self.reused += len(found)
            return found
        asked = self.answer(batch).cpu().to(self.known.dtype)
        if not asked.equal(found):
            if not self.checked:
                self.known.fill_(UNKNOWN)
            self.known[batch.positions], self.changed = asked, True
        self.checked = True
        return asked
