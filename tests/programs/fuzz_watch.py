"""What is forbidden while a case of the fuzzer runs: changes outside its folder, other programs, too much time."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 6
"""The limit of elapsed time, as a multiple of that of CPU time: a case that waits uses no CPU time."""


class HangError(BaseException):
    """The case took longer than the limit."""


@dataclass
class Watch:
    """What the audit hook has seen a case do that it must not."""

    folder: str | None = None
    """The case's own folder; None: nothing is watched."""
    seen: list[str] = field(default_factory=list)


WATCH = Watch()
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "shutil.rmtree", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"}  # fmt: skip
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pickle.find_class",
             "socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen"}  # fmt: skip


def _audit(event: str, args: tuple) -> None:
    if WATCH.folder is None:
        return
    if event == "ctypes.dlopen" and args == (None,):
        return  # this process itself, to set the C library's allocator
    if event in FORBIDDEN:
        WATCH.seen.append(f"{event} {args!r:.200}")
    elif event == "open" or event in CHANGES:
        writes = event != "open" or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        path = args[0] if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if writes and path and not os.path.abspath(os.fsdecode(path)).startswith((WATCH.folder, os.devnull)):
            WATCH.seen.append(f"{event} {os.fsdecode(path)}")


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Within the block, record changes outside ``folder``, started programs and network access."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    WATCH.folder, WATCH.seen = str(folder), []
    try:
        yield WATCH.seen
    finally:
        WATCH.folder = None


_hooked: list[bool] = []


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Within the block, raise ``HangError`` after ``seconds`` of CPU time; a nested block has its own limit."""

    def stop(number: int, frame: Any) -> None:
        raise HangError

    timers = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
    before = {number: signal.signal(number, stop) for number in timers.values()}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
    try:
        yield
    finally:
        for timer, number in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
