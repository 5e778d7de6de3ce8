"""Cache of float teachers' predictions: evaluating another checkpoint of the same teacher takes half the time."""

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
from intraq_cli.evaluation.accuracy import Predictor
from intraq_cli.evaluation.labelled_images import Batch
from intraq_cli.io.atomic import atomic_file

UNKNOWN = -1
"""Stands for the classes of an image without a known prediction, such as one that could not be read."""


def cache_folder() -> Path | None:
    """Return the cache folder: ``intraq/answers`` in the user's cache folder; None for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intraq" / "answers"
    except RuntimeError:
        return None


class PredictionCache:
    """Cached top classes per image, for any number of float networks and data sets.

    Args:
        folder: where they are saved for later runs; None: in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, Tensor] = {}

    def load(self, key: tuple[Any, ...], count: int, width: int) -> Tensor:
        """Return the classes ``(count, width)`` cached under ``key``, -1 where unknown."""
        name = _name(key)
        if name not in self.known and self.folder is not None:
            with suppress(OSError, SafetensorError, KeyError):
                self.known[name] = load_file(self.folder / name)["classes"]
        found = self.known.get(name)
        if found is None or found.shape != (count, width) or found.dtype != torch.int32:
            return torch.full((count, width), UNKNOWN, dtype=torch.int32)
        return found

    def save(self, key: tuple[Any, ...], classes: Tensor, on_disk: bool) -> None:
        """Cache ``classes`` ``(count, width)`` under ``key``; errors on writing to disk are ignored."""
        name = _name(key)
        self.known[name] = classes
        if on_disk and self.folder is not None:
            with suppress(OSError, OutputError):
                self.folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(self.folder / name, force=True) as file:
                    save_file({"classes": classes}, file)


def _name(key: tuple[Any, ...]) -> str:
    return f"{hashlib.sha256(repr(key).encode()).hexdigest()}.safetensors"


class CachedPredictor:
    """Predictions from the cache; the network only runs on the first batch, and on batches with unknown images.

    If the network's predictions on the first batch differ from the cache, it is another network (its code may have
    changed, which a digest of its weights does not detect). The whole cache is then discarded.

    Args:
        predict: runs the network.
        known: classes ``(count, width)`` by position in the data set, -1 where unknown; updated with new predictions.
    """

    def __init__(self, predict: Predictor, known: Tensor) -> None:
        self.predict, self.known = predict, known
        self.checked = self.changed = False
        """Whether the first batch has been verified, and whether there are new predictions."""
        self.reused = 0
        """Number of images whose predictions came from the cache."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the classes ``(B, width)`` of a batch."""
        found = self.known[batch.positions]
        if self.checked and not (found == UNKNOWN).any():
            self.reused += len(found)
            return found
        asked = self.predict(batch).cpu().to(self.known.dtype)
        if not asked.equal(found):
            if not self.checked:
                self.known.fill_(UNKNOWN)
            self.known[batch.positions], self.changed = asked, True
        self.checked = True
        return asked
