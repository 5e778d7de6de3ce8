"""Turns torch errors that a user can act on into one-line messages with hints."""

from collections.abc import Iterator
from contextlib import contextmanager

from intraq_cli.errors import DeviceError
from intraq_cli.runtime.micro_batches import is_out_of_memory

SMALLER = "use smaller batches: --set synthesis.batch_size=64 --set tuning.batch_size=32"


@contextmanager
def out_of_memory(hint: str = SMALLER) -> Iterator[None]:
    """Within the block, turn out-of-memory errors into an error with a hint.

    Args:
        hint: what to do; by default, for a job that learns images or tunes.

    Raises:
        DeviceError: in place of torch's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError("out of memory", hint) from error


@contextmanager
def deterministic_or_refused() -> Iterator[None]:
    """Within the block, an operation without a deterministic implementation is an error with a hint.

    Raises:
        DeviceError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).split(" does not have")[0]
        raise DeviceError(
            f"{operation} is not deterministic on a GPU", "leave out --deterministic, or use --device cpu"
        ) from error
