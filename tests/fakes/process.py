"""Python processes that start fast: forks of one that has already imported torch, which takes seconds.

They run what ``python -m MODULE ...`` or ``python -c CODE ...`` would run, with their own environment, standard input
and outputs; only torch and torchvision are imported already. To test what Python itself does at startup, such as
``PYTHONWARNINGS``, or that a module is not imported, start a real process.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

PRELOADED = ["torch", "torchvision.models.feature_extraction"]
"""Everything that timm and ``torch.export`` import from torch; none of it reads anything that a test sets."""
warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload(PRELOADED)


def renew_thread_pool() -> None:
    """Make torch replace its thread pool, which no fork inherits, before two threads try it at once.

    Where two threads (autograd starts one) are the first to ask for the pool after a fork, one of them may find none,
    and the process ends with "Invalid thread pool!".
    """
    torch.set_num_threads(torch.get_num_threads())


def _become(command: list[str], env: dict[str, str], folder: str, files: Path) -> None:
    """Run a command in a fork, as in a process that has just been started."""
    for number, name in enumerate(("in", "out", "err")):
        opened = os.open(files / name, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    renew_thread_pool()
    kind, what, *arguments = command
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [stream.flush() for stream in (sys.stdout, sys.stderr)])
        if kind == "-m":
            sys.argv = [what, *arguments]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c", command
            sys.argv = ["-c", *arguments]
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


class Process:
    """Like ``subprocess.Popen([sys.executable, *command], text=True)`` with its output piped."""

    def __init__(self, command: list[str], env: Mapping[str, str] | None = None, input: str = "") -> None:  # noqa: A002
        self.args = command
        self.returncode: int | None = None
        self._kept = tempfile.TemporaryDirectory()
        self._files = Path(self._kept.name)
        (self._files / "in").write_text(input, encoding="utf-8")
        for name in ("out", "err"):
            (self._files / name).touch()
        given = dict(os.environ if env is None else env)
        self._process = warm.Process(target=_become, args=(list(map(str, command)), given, os.getcwd(), self._files))
        self._process.start()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        late = self._process.exitcode is None
        if late:
            self._process.kill()
            self._process.join()
        self.returncode = self._process.exitcode
        out, err = ((self._files / name).read_text(encoding="utf-8") for name in ("out", "err"))
        self._kept.cleanup()
        if late:
            raise subprocess.TimeoutExpired(f"{self.args}, which printed {err!r},", timeout or 0)
        return out, err


def run(
    *command: object,
    env: Mapping[str, str] | None = None,
    input: str = "",  # noqa: A002
    timeout: float = 300,
) -> "subprocess.CompletedProcess[str]":
    """Like ``subprocess.run`` of Python with captured text; ``env`` is the whole environment."""
    process = Process(list(map(str, command)), env, input)
    out, err = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)
