"""Interruptions and signals, also those that a library turns into an error or swallows."""

import json
import signal
import time

import pytest
import torch

from intraq_cli.app import main
from intraq_cli.runtime.resume import ResumeStore
from tests.conftest import INPUT, TINY
from tests.fakes import process

SCRIPT = """
import signal, sys
import intraq_cli.runtime.resume
from intraq_cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
intraq_cli.runtime.resume.PACE = 0.0
raise SystemExit(main(sys.argv[1:]))
"""


def undone_badly(*_, **__):
    """Fail as a library does whose clean-up raises an error after an interruption."""
    try:
        raise KeyboardInterrupt
    finally:
        [].pop()


def test_error_caused_by_an_interruption_is_treated_as_the_interruption(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("intraq_cli.jobs.recipes.load_recipe", undone_badly)
    assert main(["quantize", "resnet20_digits", "--out", str(tmp_path / "o")]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupted_save_is_not_reported_as_a_full_disk(tmp_path, monkeypatch):
    def save(*_):
        try:
            undone_badly()
        except IndexError as error:
            raise RuntimeError("unexpected pos") from error

    told = []
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError):
        ResumeStore(tmp_path, told.append).save("batch-0", {})
    assert not told


@pytest.mark.parametrize("signal_", ["SIGINT", "SIGTERM"])
def test_signals_end_the_command_with_their_exit_code_and_a_message(tmp_path, factory, signal_):
    forever = ("--set", "tuning.steps=1000000", "--set", "tuning.compile=false")
    options = [*INPUT, *TINY, *forever, "--out", str(tmp_path / "o")]
    job = process.Process(["-c", SCRIPT, "quantize", f"{factory}:net", *options])
    state = tmp_path / "o.unfinished" / "tuning.pt"
    for _ in range(600):
        if state.exists():
            break
        time.sleep(0.1)
    job.send_signal(getattr(signal, signal_))
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + getattr(signal, signal_)
    assert "progress is saved in" in err
    assert "Traceback" not in err
    assert json.loads((state.parent / "job.json").read_text())["job"] == "quantize"


SWALLOWED = """
import os, signal, sys, time
from intraq_cli.app import main
from intraq_cli.runtime.resume import ResumeStore
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupted(*arguments):
    try:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(60)
    except BaseException:  # like native code that clears an error of a callback
        pass
ResumeStore.save_periodically = interrupted
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("signal_", ["SIGINT", "SIGTERM"])
def test_a_signal_that_a_library_swallowed_ends_the_command_at_its_next_step(tmp_path, factory, signal_):
    ended = process.run("-c", SWALLOWED, signal_, "quantize", f"{factory}:net", *INPUT, *TINY, "--out", tmp_path / "o")
    assert ended.returncode == 128 + getattr(signal, signal_)
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "o").exists()
