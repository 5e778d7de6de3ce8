"""Images with their classes, decoded by worker processes while the network runs, in the order of the data set."""

import hashlib
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from intraq_cli.errors import DataError
from intraq_cli.evaluation.image_files import UnreadableImageError
from intraq_cli.events import Report, Warned, silent

FEW = 10
"""Up to this many unreadable images are always skipped, or one in a hundred if that is more."""
WORTH_WORKERS = 256
"""Fewest images for which worker processes pay off: starting them takes as long as decoding a few dozen images."""
AHEAD = 2
"""Batches that each worker prefetches."""

Item = tuple[Tensor, int]
"""An image ``(C, H, W)``, normalised, and its class."""


class Batch(NamedTuple):
    """A batch of the images that could be read."""

    images: Tensor
    """``(B, C, H, W)``."""
    labels: Tensor
    """``(B,)``."""
    positions: Tensor
    """Index of each image in the data set, ``(B,)``."""


@dataclass(frozen=True)
class LabelledImages:
    """Normalised images and their classes."""

    name: str
    dataset: Dataset[Any]
    """Data set of :data:`Item`; reading an item may raise ``UnreadableImageError``."""
    count: int
    notes: tuple[str, ...] = ()
    """Notes for the user about how the data were interpreted."""
    decoded_bytes: int = 0
    """Bytes of one decoded image; 0 if the images are in memory already."""
    digest: Callable[[], str] | None = None
    """Computes a digest of the images, classes and their order; None if there is no way to compute one."""

    def batches(self, batch_size: int, report: Report = silent, pinned: bool = False) -> Iterator[Batch]:
        """Yield batches in order; unreadable images are skipped, and reported at the end.

        Args:
            batch_size: images per batch.
            report: receives a warning about skipped images.
            pinned: use pinned memory, from which a GPU copies asynchronously.

        Raises:
            DataError: more than a few images cannot be read, or none can, or one has no label.
        """
        refused: list[UnreadableImageError] = []
        for batch, errors in self._loaded(batch_size, pinned):
            for error in errors:
                if not isinstance(error, UnreadableImageError):
                    raise error
                refused.append(error)
            if len(refused) > max(FEW, self.count // 100) or len(refused) == self.count:
                hint = "remove or repair them; replace links that point outside the folder by copies (cp -rL)"
                raise DataError(f"{len(refused)} of {self.count} images cannot be used, e.g. {refused[0]}", hint)
            if batch is not None:
                yield batch
        if refused:
            report(Warned(f"{len(refused)} of {self.count} images were left out, e.g. {refused[0]}"))

    def _loaded(self, batch_size: int, pinned: bool) -> Iterator[tuple[Batch | None, list[Exception]]]:
        workers = self._workers(batch_size)
        loader = DataLoader(
            _Carried(self.dataset),
            batch_size,
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=pinned and torch.accelerator.is_available(),
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
        batches = iter(loader)
        try:
            yield from batches
        except Exception as error:
            if workers:  # its message has the worker's traceback; its own would keep the workers alive
                error.with_traceback(None)
            if (
                not isinstance(error, RuntimeError)
                or "DataLoader worker" not in str(error)
                or "Traceback" in str(error)
            ):
                raise
        else:
            return
        finally:
            del batches  # ends the workers; as garbage, they would take five seconds each
        raise DataError(
            "a process that decodes images was killed", "memory may have run out: try a smaller --batch-size"
        )

    def _workers(self, batch_size: int) -> int:
        """Return the number of worker processes; 0 for few images, or if forking is not safe."""
        if self.count < WORTH_WORKERS or self.decoded_bytes == 0 or sys.platform != "linux":
            return 0
        if multiprocessing.current_process().daemon:  # daemonic processes may not have children
            return 0
        wanted = min(len(os.sched_getaffinity(0)), math.ceil(self.count / batch_size))
        # batches are passed in shared memory, of which a container may have little
        return min(wanted, _shared_memory() // ((AHEAD + 1) * batch_size * self.decoded_bytes))

    def sample(self, limit: int | None, seed: int) -> "LabelledImages":
        """Return a seeded random sample of at most ``limit`` images."""
        if limit is None or limit >= self.count:
            return self
        chosen = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
        whole = self.digest
        digest = None if whole is None else lambda: hashlib.sha256(f"{whole()} {chosen.tolist()}".encode()).hexdigest()
        return replace(self, dataset=Subset(self.dataset, chosen.tolist()), count=limit, digest=digest)


class _Carried(Dataset[tuple[int, Item | Exception]]):
    """Items of another data set with their positions; user errors are returned as items, to pass them from workers."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch's class declares no __len__

    def __getitem__(self, index: int) -> tuple[int, Item | Exception]:
        try:
            return index, self.dataset[index]
        except (UnreadableImageError, DataError) as error:
            return index, error


def _collate(items: list[tuple[int, Item | Exception]]) -> tuple[Batch | None, list[Exception]]:
    """Collate the readable items into one batch, since each tensor sent costs a file handle, and return the errors."""
    readable = [(*item, position) for position, item in items if not isinstance(item, Exception)]
    errors = [item for _, item in items if isinstance(item, Exception)]
    return (Batch(*default_collate(readable)) if readable else None), errors


def _shared_memory() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0
