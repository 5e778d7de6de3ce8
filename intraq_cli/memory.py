"""How many images go through a network at once: as many as asked for, and fewer where memory runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch

from intraq_cli.events import Report, Warned, silent

Result = TypeVar("Result")


class Portions:
    """Runs work in portions, and halves them where they do not fit.

    Args:
        size: images at once to begin with; None: all.
        report: told when portions get smaller.
    """

    def __init__(self, size: int | None = None, report: Report = silent) -> None:
        self.size, self.report = size, report

    def run(self, work: Callable[[int], Result], images: int) -> Result:
        """``work(size)``, again with half the size where it runs out of memory; it must start over each time.

        Raises:
            torch.OutOfMemoryError: a single image is too much.
        """
        while True:
            size = min(self.size or images, images)
            try:
                return work(size)
            except (torch.OutOfMemoryError, MemoryError):
                if size == 1:
                    raise
                self.size = -(-size // 2)
            torch.cuda.empty_cache()
            self.report(Warned(f"out of memory with {size} images at once: going on with {self.size}, to the same end"))
