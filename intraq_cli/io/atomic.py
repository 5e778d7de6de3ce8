"""Files and folders that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from intraq_cli.errors import OutputError

IsOutput = Callable[[Path], bool]
"""Whether a folder that is not empty was made by this tool, as the one that is to take its place."""

UNFINISHED = ".unfinished"
LONGEST_NAME = 255 - len(UNFINISHED)
"""Bytes of an output's name: file systems take 255, and the folder that a long job works in, beside it, has more."""
LONGEST_PATH = 4000


def check_output(path: Path, force: bool, is_output: IsOutput | None = None) -> None:
    """Refuse, before any work, an output that exists or cannot be written.

    Args:
        path: of the output.
        force: replace what is there.
        is_output: which folders may be replaced; None: the output is a file.

    Raises:
        OutputError: ``path`` exists and ``force`` is off, it is a folder where a file is to be, or a file where a
            folder is, or a folder of anything else, or a link; it has no name of its own, or its folder is missing or
            read-only, or a name is not UTF-8, or too long.
    """
    file = is_output is None
    if path.name in ("", ".."):
        raise OutputError(f"{path} is no name for an output", "give --out a new name")
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:  # safetensors opens no such file
        raise OutputError(f"{path}: the name is not UTF-8", "give another --out, in another folder perhaps") from error
    lengths = (len(os.fsencode(path.name)), LONGEST_NAME), (len(os.fsencode(path.absolute())), LONGEST_PATH)
    for length, most in lengths:
        if length > most:
            raise OutputError(f"an output called {path.name} is too long: {length} bytes", f"at most {most}")
    if "\0" in str(path):
        raise OutputError(f"{path}: the name has a null character", "give another --out")
    if path.is_symlink():  # what it leads to would stay as it is, or is not there
        raise OutputError(f"{path} is a link", "give --out the path that it leads to, or another one")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", "give another --out, or --force to replace it")
    if path.exists() and path.is_dir() == file:
        kinds = ("a folder", "a file") if file else ("a file", "a folder")
        raise OutputError(f"{path} is {kinds[0]}, and the output {kinds[1]}", "give another --out")
    if is_output is not None and path.is_dir() and any(path.iterdir()) and not is_output(path):
        raise OutputError(
            f"{path} holds other things than --force replaces, which is what the same command made earlier",
            "give another --out, or remove it",
        )
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"there is no folder {parent}", "make it first, or give another --out")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} is not writable", "give another --out")


def unfinished_folder(path: Path) -> Path:
    """Where a long job keeps what it has done until ``path`` is there."""
    return path.with_name(f"{path.name}{UNFINISHED}")


@contextmanager
def atomic_folder(path: Path, force: bool, is_output: IsOutput) -> Iterator[Path]:
    """Fill a temporary neighbour within the block; it takes ``path``'s place at the end, or disappears on an error.

    All is on the disk before it takes its place, so that a power cut leaves the old folder or the new one: the old one
    under its own name, or, between the two renames, as ``old`` in the temporary neighbour.

    Raises:
        OutputError: it cannot be written.
    """
    with _scratch(path) as scratch:
        made, old = scratch / "new", scratch / "old"
        made.mkdir()
        yield made
        for entry in (*made.rglob("*"), made):
            sync(entry) if entry.is_dir() else _finish(entry)
        check_output(path, force, is_output)  # again: the work may have taken hours
        try:
            if path.exists():
                path.rename(old)
            made.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        sync(path.resolve().parent)


@contextmanager
def atomic_file(path: Path, force: bool) -> Iterator[Path]:
    """The same for one file: write to the path yielded."""
    with _scratch(path) as scratch:
        made = scratch / path.name
        yield made
        _finish(made)
        check_output(path, force)
        made.replace(path)
        sync(path.resolve().parent)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A temporary folder on the same disk: among the job's unfinished things, where it has some, else beside it."""
    unfinished = unfinished_folder(path)
    where = unfinished if unfinished.is_dir() else path.resolve().parent
    hint = "check the folder and the disk"
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=where))
        try:
            yield scratch
        finally:
            if (scratch / "old").exists() and not path.exists():  # it could not be put back
                hint = f"what was there is now {scratch / 'old'}"
            else:
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}", hint) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir():
        with suppress(OSError):  # Windows, and some network file systems, cannot do it for folders
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)  # Windows syncs no file that is open for reading alone


def _fsync(path: Path, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _finish(file: Path) -> None:
    """Write a new file to the disk, with the permissions that the user's files have."""
    sync(file)
    file.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
