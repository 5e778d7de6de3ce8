"""Atomic writes: files and folders that exist completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from safetensors import SafetensorError

from intraq_cli.errors import CHECK_DISK, OutputError

IsOutput = Callable[[Path], bool]
"""Whether a folder with content was made by the same command, and so may be replaced."""

UNFINISHED = ".unfinished"
LONGEST_NAME = 255 - len(UNFINISHED)
"""Most bytes in an output's name: file systems allow 255, of which a long job's unfinished folder uses the rest."""
LONGEST_PATH = 4000


def check_output(path: Path, force: bool, is_output: IsOutput | None = None) -> None:
    """Refuse, before any work, an output that exists or cannot be written.

    Args:
        path: path of the output.
        force: replace an existing output.
        is_output: whether a folder may be replaced; None: the output is a file.

    Raises:
        OutputError: ``path`` exists and ``force`` is off; it is a folder and the output a file, or the reverse; it is a
            folder with other content, or a link; it has no file name, its parent folder is missing or read-only, or a
            name is not UTF-8 or too long.
    """
    file = is_output is None
    if path.name in ("", ".."):
        raise OutputError(f"{path} is not a name for an output", "give --out a new name")
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:  # safetensors cannot open such a file
        raise OutputError(f"{path}: the name is not UTF-8", "give another --out, perhaps in another folder") from error
    for what, text, most in (("name", path.name, LONGEST_NAME), ("path", path.absolute(), LONGEST_PATH)):
        length = len(os.fsencode(text))
        if length > most:
            raise OutputError(f"the {what} of output {path.name} is too long: {length} bytes", f"use at most {most}")
    if "\0" in str(path):
        raise OutputError(f"{path}: the name has a null character", "give another --out")
    if path.is_symlink():  # replacing it would not change its target, which may not even exist
        raise OutputError(f"{path} is a link", "give --out the path that it points to, or another one")
    if path.exists() and not force:
        raise OutputError(f"{path} already exists", "give another --out, or --force to replace it")
    if path.exists() and path.is_dir() == file:
        kinds = ("a folder", "a file") if file else ("a file", "a folder")
        raise OutputError(f"{path} is {kinds[0]}, but the output is {kinds[1]}", "give another --out")
    if is_output is not None and path.is_dir() and any(path.iterdir()) and not is_output(path):
        raise OutputError(
            f"{path} contains files that this command did not make, so --force does not replace it",
            "give another --out, or remove it",
        )
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"there is no folder {parent}", "create it first, or give another --out")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} is not writable", "give another --out")


def check_apart(file: Path, folder: Path) -> None:
    """Refuse, before any work, to write ``file`` into a ``folder`` that another output replaces as a whole.

    Raises:
        OutputError: ``file`` is the folder itself, or in it.
    """
    if file.resolve().is_relative_to(folder.resolve()):
        what = "both a file and a folder" if file.resolve() == folder.resolve() else f"in {folder}, which is replaced"
        raise OutputError(f"the output {file} would be {what}", "give the outputs different paths")


def unfinished_folder(path: Path) -> Path:
    """Return the folder where a long job saves its states until ``path`` is complete."""
    return path.with_name(f"{path.name}{UNFINISHED}")


@contextmanager
def atomic_folder(path: Path, force: bool, is_output: IsOutput) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; at the end it replaces ``path``, and on an error it is removed.

    All data is synced to disk before the replacement, so that a power cut leaves the old folder or the new one: the old
    one under its own name or, between the two renames, as ``old`` in the temporary folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    with _scratch(path) as scratch:
        made, old = scratch / "new", scratch / "old"
        made.mkdir()
        yield made
        for entry in (*made.rglob("*"), made):
            sync(entry) if entry.is_dir() else _finish(entry)
        check_output(path, force, is_output)  # again: the work may have taken hours since the first check
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
    """Do the same for a single file: write to the yielded path."""
    with _scratch(path) as scratch:
        made = scratch / path.name
        yield made
        _finish(made)
        check_output(path, force)
        made.replace(path)
        sync(path.resolve().parent)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same disk: in the unfinished folder if that exists, else beside ``path``."""
    unfinished = unfinished_folder(path)
    where = unfinished if unfinished.is_dir() else path.resolve().parent
    hint = CHECK_DISK
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=where))
        try:
            yield scratch
        finally:
            if (scratch / "old").exists() and not path.exists():  # it could not be put back
                hint = f"the previous content is now in {scratch / 'old'}"
            else:
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}", hint) from error


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    folder = path.is_dir()
    with suppress(OSError) if folder else nullcontext():  # Windows and some network file systems cannot sync folders
        opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows cannot sync a file opened read-only
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _finish(file: Path) -> None:
    """Sync a new file to the disk, and give it the user's default permissions."""
    sync(file)
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
