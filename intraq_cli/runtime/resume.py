"""What a long job has done so far, kept beside its output until that is there: the same command goes on from it."""

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

from intraq_cli.errors import OutputError, interruption
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.io.atomic import sync, unfinished_folder

LOCK_ATTEMPTS = 10
LOGS = "*.jsonl"
PACE = 5.0
"""Least seconds between two states of the same stage, unless keeping one takes longer than a twentieth of that."""


def _seconds_noted(folder: Path | None) -> dict[str, float]:
    """What earlier runs of a job have noted by :meth:`ResumeStore.note_seconds`; nothing where that makes no sense."""
    try:
        noted = json.loads((folder / "seconds.json").read_text(encoding="utf-8")) if folder else {}
        return {str(stage): max(0.0, float(seconds)) for stage, seconds in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class ResumeStore:
    """Named states in a folder, each there whole or not at all; without a folder nothing is kept."""

    def __init__(self, folder: Path | None = None, report: Report = silent) -> None:
        self.folder, self.report = folder, report
        self._next = time.monotonic() + PACE
        noted = _seconds_noted(folder)
        self.before = noted.pop("", 0.0)
        """Seconds that earlier runs of the job have taken."""
        self._stages, self._running, self._opened = noted, ("", 0.0), time.perf_counter()

    def began(self, stage: str) -> None:
        """Note that a stage begins, or goes on from where an earlier run left it."""
        self._running = stage, time.perf_counter() - self._stages.get(stage, 0.0)

    def ended(self, stage: str) -> float:
        """Note that the stage that began last is over; returns its seconds, those of earlier runs among them."""
        seconds = time.perf_counter() - self._running[1]
        self._running = "", 0.0
        if self.folder is not None:
            self._stages[stage] = seconds
        return seconds

    def note_seconds(self) -> None:
        """Keep how long the job and its stages have taken so far; it is of no use to the job itself."""
        if self.folder is None:
            return
        now, (stage, begun) = time.perf_counter(), self._running
        noted = {**self._stages, "": self.before + now - self._opened, **({stage: now - begun} if stage else {})}
        with suppress(OSError):
            (self.folder / "seconds.new").write_text(json.dumps(noted), encoding="utf-8")
            (self.folder / "seconds.new").replace(self.folder / "seconds.json")

    def load(self, name: str) -> Any:
        """What was kept under ``name``, its tensors on the CPU; None where nothing was.

        Raises:
            OutputError: it cannot be read.
        """
        if self.folder is None or not (self.folder / f"{name}.pt").exists():
            return None
        try:
            return torch.load(self.folder / f"{name}.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file makes torch raise has no common class
            if interruption(error):
                raise
            raise OutputError(f"{self.folder}/{name}.pt cannot be read", "--no-resume starts anew") from error

    def save(self, name: str, state: Any) -> None:
        """Keep ``state``: tensors, numbers and texts, in lists and dictionaries."""
        if self.folder is None:
            return
        started = time.monotonic()
        scratch = self.folder / f"{name}.new"
        try:
            for log in self.folder.glob(LOGS):  # a state is never ahead of what was told on the way to it
                sync(log)
            torch.save(state, scratch)
            sync(scratch)
            scratch.replace(self.folder / f"{name}.pt")
        except (OSError, RuntimeError) as error:  # torch says "unexpected pos" of a full disk
            scratch.unlink(missing_ok=True)
            if interruption(error):
                raise
            self._give_up(error)
        self.note_seconds()
        now = time.monotonic()
        self._next = now + max(PACE, 20 * (now - started))

    def save_periodically(self, name: str, state: Callable[[], Any]) -> None:
        """Keep what ``state`` returns, if it is time."""
        if self.folder is not None and time.monotonic() >= self._next:
            self.save(name, state())

    def append(self, name: str, line: str) -> None:
        """Write a line to the end of the file ``name``, at once."""
        if self.folder is None:
            return
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._give_up(error)

    def lines(self, name: str) -> list[str]:
        """The lines of the file ``name``; one that was broken off is taken away."""
        if self.folder is None or not (self.folder / name).exists():
            return []
        with (self.folder / name).open("rb+") as file:
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            file.truncate(len(whole))
        return whole.decode().splitlines()

    def drop(self, name: str) -> None:
        """Forget what was kept under ``name``."""
        if self.folder is not None:
            (self.folder / f"{name}.pt").unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        self.report(Warned(f"cannot keep what is done so far in {self.folder}: {error}"))
        self.folder = None


NO_STORE = ResumeStore()


@contextmanager
def resumable(path: Path, job: dict[str, Any], resume: bool, report: Report = silent) -> Iterator[ResumeStore]:
    """Within the block, states are kept in a neighbour of ``path``, which disappears at the end of the job.

    An error or an interruption leaves it for the next run of the same job.

    Args:
        path: the output.
        job: all that the result depends on, as JSON can hold it.
        resume: go on from a state that is there.
        report: told of what is kept and where.

    Raises:
        OutputError: another process is at it, the state is of another job, or the folder cannot be written.
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
            raise OutputError(f"cannot write {folder}: {error.strerror}", "check the folder and the disk") from error
        if going_on:
            report(Noted(f"going on from {folder}"))
        store = ResumeStore(folder, report)
        try:
            yield store
        except BaseException:
            if any(folder.glob("*.pt")):
                store.note_seconds()
                report(Noted(f"what is done is kept in {folder}: the same command goes on from there"))
            else:
                _remove(folder, lock)
            raise
        _remove(folder, lock)
    finally:
        lock.release()


def _put_back(path: Path, folder: Path) -> None:
    """Give back what a run, killed as it put its own output in that place, had taken away.

    Raises:
        OutputError: something was put back, and may be wanted.
    """
    for old in folder.glob(f".{escape(path.name)}.*/old"):
        if not path.exists():
            old.rename(path)
            raise OutputError(f"{path} is back, which a killed run was about to replace", "run the same command again")


def _prepare(folder: Path, job: dict[str, Any], resume: bool) -> bool:
    """Make the folder that of this job; returns whether there is something to go on from."""
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
                f"{folder} is of a run with another {', '.join(changed)}", "--no-resume starts anew; or another --out"
            )
        return True
    for log in folder.glob(LOGS):
        log.unlink()
    scratch = folder / "job.new"
    scratch.write_text(json.dumps(job, indent=2), encoding="utf-8")
    scratch.replace(folder / "job.json")
    return False


def _is_own(folder: Path) -> bool:
    """Whether a job has made a folder: its lock is there, its note, or the scratch folder of its output."""
    return any((folder / name).exists() for name in ("lock", "job.json")) or any(folder.glob(".*"))


def _locked(folder: Path) -> FileLock:
    """Make ``folder``, and hold the lock in it, which dies with its process.

    Raises:
        OutputError: another process holds it, or the folder cannot be made, or is somebody else's.
    """
    if folder.is_dir() and any(folder.iterdir()) and not _is_own(folder):
        raise OutputError(
            f"{folder} holds other things than an unfinished run, which would be kept there", "give another --out"
        )
    lock = FileLock(folder / "lock", blocking=False)
    for attempt in range(LOCK_ATTEMPTS):  # the last holder may remove the folder meanwhile
        try:
            folder.mkdir(exist_ok=True)
            lock.acquire()
            return lock
        except Timeout as error:
            if (folder / "lock").exists():
                raise OutputError(
                    f"another process is at work on {folder}", "wait for it, or give another --out"
                ) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.parent.is_dir() and attempt < LOCK_ATTEMPTS - 1:
                continue
            raise OutputError(f"cannot write {folder}: {error.strerror}", "check the folder and the disk") from error
    raise OutputError(f"{folder} is removed again and again", "give another --out")


def _remove(folder: Path, lock: FileLock) -> None:
    """Remove the folder and the lock in it."""
    shutil.rmtree(folder, ignore_errors=True)  # while it is locked, so that nobody has begun to use it
    lock.release()
    if os.name == "nt":  # which does not remove a lock that is held; nor does it now if another process holds it
        with suppress(OSError):
            (folder / "lock").unlink()
            folder.rmdir()
