"""Saved states of a long job, kept beside its output until that is complete: the same command resumes from them."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from intraq_cli.errors import CHECK_DISK, OutputError, interruption
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.io.atomic import sync, unfinished_folder

LOCK_ATTEMPTS = 10
LOGS = "*.jsonl"
PACE = 5.0
"""Least seconds between two periodic saves; more if a save takes longer than a twentieth of that."""


def _seconds_noted(folder: Path | None) -> dict[str, float]:
    """Read what earlier runs of a job recorded by :meth:`ResumeStore.note_seconds`; empty if missing or damaged."""
    try:
        noted = json.loads((folder / "seconds.json").read_text(encoding="utf-8")) if folder else {}
        return {str(stage): max(0.0, float(seconds)) for stage, seconds in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class ResumeStore:
    """Named states in a folder, each written atomically; without a folder nothing is saved."""

    def __init__(self, folder: Path | None = None, report: Report = silent) -> None:
        self.folder, self.report = folder, report
        self._next = time.monotonic() + PACE
        noted = _seconds_noted(folder)
        self.before = noted.pop("", 0.0)
        """Seconds that earlier runs of the job took."""
        self._stages, self._running, self._opened = noted, ("", 0.0), time.perf_counter()

    def began(self, stage: str) -> None:
        """Record that a stage begins, or resumes where an earlier run left it."""
        self._running = stage, time.perf_counter() - self._stages.get(stage, 0.0)

    def ended(self, stage: str) -> float:
        """Record that the current stage is over, and return its seconds, including those of earlier runs."""
        seconds = time.perf_counter() - self._running[1]
        self._running = "", 0.0
        if self.folder is not None:
            self._stages[stage] = seconds
        return seconds

    def note_seconds(self) -> None:
        """Save how long the job and its stages have taken so far; for reports only, so errors are ignored."""
        if self.folder is None:
            return
        now, (stage, begun) = time.perf_counter(), self._running
        noted = {**self._stages, "": self.before + now - self._opened, **({stage: now - begun} if stage else {})}
        with suppress(OSError):
            (self.folder / "seconds.new").write_text(json.dumps(noted), encoding="utf-8")
            (self.folder / "seconds.new").replace(self.folder / "seconds.json")

    def load(self, name: str) -> Any:
        """Load the state saved as ``name``, with its tensors on the CPU; return None if there is none.

        Raises:
            OutputError: the state cannot be read.
        """
        if self.folder is None or not (self.folder / f"{name}.pt").exists():
            return None
        try:
            return torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # torch's errors on damaged files have no common class
            if interruption(error):
                raise
            raise OutputError(f"{self.folder}/{name}.pt cannot be read", "use --no-resume to start over") from error

    def save(self, name: str, state: Any) -> None:
        """Save ``state``: tensors, numbers and strings, in lists and dictionaries."""
        if self.folder is None:
            return
        started = time.monotonic()
        scratch = self.folder / f"{name}.new"
        try:
            for log in self.folder.glob(LOGS):  # a state must never be ahead of its logs on the disk
                sync(log)
            torch.save(state, scratch)
            sync(scratch)
            scratch.replace(self.folder / f"{name}.pt")
        except (OSError, RuntimeError) as error:  # torch raises "unexpected pos" on a full disk
            scratch.unlink(missing_ok=True)
            if interruption(error):
                raise
            self._give_up(error)
        self.note_seconds()
        now = time.monotonic()
        self._next = now + max(PACE, 20 * (now - started))

    def save_periodically(self, name: str, state: Callable[[], Any]) -> None:
        """Save what ``state`` returns if the last save is long enough ago."""
        if self.folder is not None and time.monotonic() >= self._next:
            self.save(name, state())

    def append(self, name: str, line: str) -> None:
        """Append a line to the file ``name`` immediately."""
        if self.folder is None:
            return
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._give_up(error)

    def lines(self, name: str) -> list[str]:
        """Read the lines of the file ``name``; an incomplete last line is removed from the file."""
        if self.folder is None or not (self.folder / name).exists():
            return []
        with (self.folder / name).open("rb+") as file:
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            file.truncate(len(whole))
        return whole.decode().splitlines()

    def drop(self, name: str) -> None:
        """Delete the state saved as ``name``."""
        if self.folder is not None:
            (self.folder / f"{name}.pt").unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        self.report(Warned(f"cannot save progress in {self.folder}, so this run cannot be resumed: {error}"))
        self.folder = None


NO_STORE = ResumeStore()


@contextmanager
def resumable(path: Path, job: dict[str, Any], resume: bool, report: Report = silent) -> Iterator[ResumeStore]:
    """Within the block, states are saved in a folder beside ``path``, which is removed at the end of the job.

    After an error or an interruption the folder stays for the next run of the same job.

    Args:
        path: the output.
        job: everything that the result depends on, as values that JSON supports.
        resume: resume from an existing state.
        report: receives notes about what is saved and where.

    Raises:
        OutputError: another process uses the folder, its state is of another job, or it cannot be written.
    """
    folder = unfinished_folder(path)
    job = json.loads(json.dumps(job))
    lock = _locked(folder)
    try:
        _put_back(path, folder)
        try:
            going_on = _prepare(folder, job, resume)
        except OSError as error:
            if not any(folder.glob("*.pt")):
                _remove(folder, lock)
            raise OutputError(f"cannot write {folder}: {error.strerror}", CHECK_DISK) from error
        if going_on:
            report(Noted(f"resuming from {folder}"))
        store = ResumeStore(folder, report)
        try:
            yield store
        except BaseException:
            if any(folder.glob("*.pt")):
                store.note_seconds()
                report(Noted(f"progress is saved in {folder}: run the same command again to resume"))
            else:
                _remove(folder, lock)
            raise
        _remove(folder, lock)
    finally:
        lock.release()


def _put_back(path: Path, folder: Path) -> None:
    """Restore the old output that a run had moved away when it was killed while replacing it.

    Raises:
        OutputError: an old output was restored; the user may want to keep it.
    """
    for old in folder.glob(f".{escape(path.name)}.*/old"):
        if not path.exists():
            old.rename(path)
            raise OutputError(
                f"{path} was restored, as a killed run had not yet replaced it", "run the same command again"
            )


def _prepare(folder: Path, job: dict[str, Any], resume: bool) -> bool:
    """Prepare the folder for this job, and return whether there is a state to resume from."""
    states = list(folder.glob("*.pt"))
    if not resume:
        for state in [*states, folder / "seconds.json"]:
            state.unlink(missing_ok=True)
    elif states:
        try:
            before = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        changed = sorted(key for key in {*before, *job} if before.get(key) != job.get(key))
        if changed:
            raise OutputError(
                f"{folder} is from a run that differs in {', '.join(changed)}",
                "use --no-resume to start over, or give another --out",
            )
        return True
    for log in folder.glob(LOGS):
        log.unlink()
    scratch = folder / "job.new"
    scratch.write_text(json.dumps(job, indent=2), encoding="utf-8")
    scratch.replace(folder / "job.json")
    return False


def _locked(folder: Path) -> FileLock:
    """Create ``folder``, and acquire the lock in it, which the system releases when the process ends.

    Raises:
        OutputError: another process holds the lock, or the folder cannot be created, or holds other things.
    """
    # a job's folder has a lock, job.json, or the scratch folder of an output
    own = any((folder / name).exists() for name in ("lock", "job.json")) or any(folder.glob(".*"))
    if folder.is_dir() and any(folder.iterdir()) and not own:
        raise OutputError(f"{folder} is needed to save progress, but contains other files", "give another --out")
    lock = FileLock(folder / "lock", blocking=False)
    for attempt in range(LOCK_ATTEMPTS):  # the previous holder may be removing the folder
        try:
            folder.mkdir(exist_ok=True)
            lock.acquire()
            return lock
        except Timeout as error:
            if (folder / "lock").exists():
                raise OutputError(
                    f"another process is using {folder}", "wait until it has finished, or give another --out"
                ) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.parent.is_dir() and attempt < LOCK_ATTEMPTS - 1:
                continue
            raise OutputError(f"cannot write {folder}: {error.strerror}", CHECK_DISK) from error
    raise OutputError(f"another process keeps removing {folder}", "give another --out")


def _remove(folder: Path, lock: FileLock) -> None:
    """Remove the folder and the lock in it."""
    shutil.rmtree(folder, ignore_errors=True)  # while it is locked, so that no other process uses it yet
    lock.release()
    if os.name == "nt":  # Windows cannot delete a held lock file; this fails too if another process holds it by now
        with suppress(OSError):
            (folder / "lock").unlink()
            folder.rmdir()
