"""This process as torchrun's environment variables describe it. Imports nothing heavy: needed at start-up."""

import os
from dataclasses import dataclass

from intraq_cli.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """One process of a job of ``size`` processes, ``local_size`` of them on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None
    """Rank among the processes on this machine; None: the launcher does not set it."""
    local_size: int = 1


def launched() -> Launch:
    """Return this process's place in its job; it is a single process unless ``WORLD_SIZE`` is above 1.

    Raises:
        UsageError: the variables are invalid or contradict each other.
    """
    size = _number("WORLD_SIZE")
    if size in (None, 1):
        return Launch()
    rank, local_rank = _number("RANK"), _number("LOCAL_RANK")
    if rank is None or not rank < size:
        said = "is not set" if rank is None else f"is {rank}"
        raise UsageError(f"WORLD_SIZE is {size} and RANK {said}", "start the job with torchrun, or unset WORLD_SIZE")
    # without LOCAL_WORLD_SIZE, assume that all processes are on this machine
    return Launch(rank, size, local_rank, _number("LOCAL_WORLD_SIZE") or size)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"the environment variable {name}={text!r} is not a whole number",
            "start the job with torchrun, or unset it",
        )
    return int(text) if text else None
