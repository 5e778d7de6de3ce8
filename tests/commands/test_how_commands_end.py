"""How commands end: a closed pipe, a full disk, interruptions and unexpected exceptions."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("in_a_folder")


@pytest.mark.parametrize("command", ["zoo list", "zoo show results", "zoo show results --csv", "zoo list --json"])
def test_closed_pipe_ends_the_command_quietly_with_exit_code_141(command):
    read, write = os.pipe()
    os.close(read)
    made = subprocess.run(
        [sys.executable, "-m", "intraq_cli", *command.split()], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (made.returncode, made.stderr) == (141, b"")


FULL = [("zoo", "list"), ("zoo", "show", "results"), ("--help",), ("zoo", "list", "--json")]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", FULL, ids=" ".join)
def test_full_disk_behind_stdout_is_a_one_line_error(args, unbuffered):
    with open("/dev/full", "w") as full:
        made = subprocess.run(
            [sys.executable, "-m", "intraq_cli", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert made.returncode == 1
    assert made.stderr == "error: cannot write to standard output: No space left on device\n"


def test_interruption_keeps_the_unfinished_run_and_exits_with_130(intraq, monkeypatch, tmp_path, net):

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("intraq_cli.jobs.pipeline.tune", interrupt)
    made = intraq("quantize", *net, *TINY)
    assert made.code == 130
    assert made.err.endswith("run the same command again to resume\ninterrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-w4a4.unfinished", "nets.py"]
    made = intraq("quantize", *net, *TINY, "--json")
    assert (made.code, json.loads(made.out)["error"]["code"]) == (130, "interrupted")


@pytest.mark.parametrize("module", ["typer", "intraq_cli.commands.images"])
def test_ctrl_c_during_imports_ends_the_command_without_a_traceback(module):
    """A module finder plays the user, who presses Ctrl-C while ``module`` is being imported."""
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
class Impatient:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from intraq_cli.__main__ import main
main()
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_typer_builds_the_commands_exits_with_130(intraq, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    made = intraq("zoo", "list")
    assert (made.code, made.out, made.err.strip()) == (130, "", "interrupted")


def test_unexpected_exception_is_not_caught_and_keeps_the_unfinished_run(intraq, monkeypatch, tmp_path, net):

    def bug(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("intraq_cli.jobs.pipeline.tune", bug)
    with pytest.raises(ZeroDivisionError):
        intraq("quantize", *net, *TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-w4a4.unfinished", "nets.py"]
