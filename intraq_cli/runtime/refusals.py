"""What torch raises where a user can do something about it, told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from intraq_cli.errors import DeviceError
from intraq_cli.runtime.micro_batches import is_out_of_memory


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Within the block, running out of memory is an error with a hint.

    Raises:
        DeviceError: in place of what torch raises.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "use smaller batches: --set synthesis.batch_size=64 --set tuning.batch_size=32"
        raise DeviceError("out of memory", hint) from error


@contextmanager
def deterministic_or_refused() -> Iterator[None]:
    """Within the block, what torch cannot do deterministically is an error with a hint.

    Raises:
        DeviceError: in place of what torch raises.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).split(" does not have")[0]
        raise DeviceError(
            f"{operation} sums in any order on a GPU", "leave out --deterministic, or use --device cpu"
        ) from error
