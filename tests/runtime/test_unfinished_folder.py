"""The folder of unfinished work: its lock, and disks and folders that cannot be written."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intraq_cli import quantize
from intraq_cli.errors import OutputError
from intraq_cli.events import Warned
from intraq_cli.runtime import resume
from intraq_cli.runtime.resume import ResumeStore
from tests.fakes import process


@pytest.mark.parametrize("parent", ["/proc", "/proc/self", "nowhere"])
def test_folder_that_cannot_be_created_is_an_error_with_a_hint(tmp_path, parent):
    with (
        pytest.raises(OutputError, match="cannot write") as refused,
        resume.resumable(tmp_path / parent / "out", {}, resume=True),
    ):
        pass
    assert refused.value.hint


def test_folder_that_keeps_vanishing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(OutputError, match="cannot write"), resume.resumable(tmp_path / "out", {}, resume=True):
        pass


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None  # as on Windows
from pathlib import Path
from intraq_cli.errors import IntraqError
from intraq_cli.runtime.resume import resumable
out = Path(sys.argv[1])
with resumable(out, {}, resume=True) as kept:
    kept.save("batch-0", {"x": 1})
    try:
        with resumable(out, {}, resume=True):
            pass
    except IntraqError as error:
        print(error.message)
print([path.name for path in out.parent.iterdir()])
"""


def test_locking_works_without_fcntl(tmp_path):
    made = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == [f"another process is using {tmp_path / 'out.unfinished'}", "[]"]


def test_killed_process_leaves_no_lock(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from intraq_cli.runtime.resume import resumable\n"
        "with resumable(Path(sys.argv[1]), {}, resume=True) as kept: kept.save('x', 1); os.kill(os.getpid(), 9)"
    )
    made = process.run("-c", script, str(tmp_path / "out"))
    assert made.returncode == -9
    with resume.resumable(tmp_path / "out", {}, resume=True) as kept:
        assert kept.load("x") == 1


def test_full_disk_gives_one_warning_and_the_work_continues(tmp_path):
    told = []
    (tmp_path / "batch-0.new").symlink_to("/dev/full")
    kept = ResumeStore(tmp_path, told.append)
    kept.save("batch-0", {"images": torch.zeros(3)})
    assert [type(event) for event in told] == [Warned]
    kept.save("batch-1", {})
    assert len(told) == 1
    assert kept.load("batch-0") is None


def test_checkpoint_that_a_killed_run_was_replacing_is_restored(tmp_path):
    """Killed between the two renames, when the old checkpoint exists only in the folder of unfinished work."""
    out, old = tmp_path / "out", tmp_path / "out.unfinished/.out.k1ll/old"
    old.mkdir(parents=True)
    (old / "config.json").write_text("the old one")
    says = "out was restored, as a killed run had not yet replaced it"
    with pytest.raises(OutputError, match=says), resume.resumable(out, {}, resume=False):
        raise AssertionError
    assert (out / "config.json").read_text() == "the old one"
    with resume.resumable(out, {}, resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unrelated_folder_is_not_taken_for_unfinished_work(small_digits, tmp_path):
    theirs = tmp_path / "out.unfinished"
    theirs.mkdir()
    (theirs / "data.jsonl").write_text("mine")
    with pytest.raises(OutputError, match="is needed to save progress, but contains other files"):
        quantize(small_digits, out=tmp_path / "out", recipe="instant", device="cpu")
    assert (theirs / "data.jsonl").read_text() == "mine"
