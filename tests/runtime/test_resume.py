import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from intraq_cli import IntraqError, quantize, synthesize
from intraq_cli.app import main
from intraq_cli.errors import OutputError, UsageError
from intraq_cli.events import Noted, StepDone, Warned
from intraq_cli.runtime import resume
from intraq_cli.runtime.resume import ResumeStore
from tests.conftest import INPUT, SPEC, TINY, TINY_SET, Stop, stopping
from tests.fakes import process

SCRIPT = """
import signal, sys
import intraq_cli.runtime.resume
from intraq_cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
intraq_cli.runtime.resume.PACE = 0.0
raise SystemExit(main(sys.argv[1:]))
"""


pytestmark = pytest.mark.usefixtures("saved_at_every_step")


def run(factory, out, *assignments, report=lambda event: None, **options):
    return quantize(
        f"{factory}:net",
        out=out,
        set=[*TINY_SET, "synthesis.steps=12", "tuning.steps=12", *assignments],
        device="cpu",
        **SPEC,
        report=report,
        **options,
    )


@pytest.fixture
def stopped(factory, tmp_path):
    """The output path of a job that was stopped during tuning."""
    with pytest.raises(Stop):
        run(factory, tmp_path / "out", report=stopping("tuning", 11))
    return tmp_path / "out"


def test_stopped_job_resumes_to_an_identical_checkpoint(factory, tmp_path):
    told = []

    def report(event):
        told.append(event)
        stopping("synthesis", 23)(event)

    with pytest.raises(Stop):
        run(factory, tmp_path / "out", report=report)
    (last,) = [event.message for event in told if isinstance(event, Noted)]
    assert "out.unfinished: run the same command again to resume" in last
    again = []
    run(factory, tmp_path / "out", report=again.append)
    assert [e.message for e in again if isinstance(e, Noted)] == [f"resuming from {tmp_path}/out.unfinished"]
    # the first batch was finished
    assert min(e.step for e in again if isinstance(e, StepDone) and e.stage == "synthesis") > 12
    run(factory, tmp_path / "whole")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert files[0] == files[1]
    assert not (tmp_path / "out.unfinished").exists()


def test_resuming_with_other_settings_is_an_error_that_names_them(factory, stopped):
    with pytest.raises(IntraqError, match="is from a run that differs in bits, recipe") as refused:
        run(factory, stopped, "tuning.lr=0.5", w=3)
    assert "--no-resume" in refused.value.hint
    made = run(factory, stopped, "tuning.lr=0.5", w=3, resume=False)
    assert made.w_bits == 3
    assert not stopped.with_name("out.unfinished").exists()


def test_damaged_state_is_rejected(factory, stopped):
    state = stopped.with_name("out.unfinished") / "tuning.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(IntraqError, match=r"tuning\.pt cannot be read"):
        run(factory, stopped)


def test_state_is_never_unpickled(factory, stopped):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (stopped.with_name("evil"),))

    torch.save(Evil(), stopped.with_name("out.unfinished") / "tuning.pt")
    with pytest.raises(IntraqError, match="cannot be read"):
        run(factory, stopped)
    assert not stopped.with_name("evil").exists()


def test_error_before_any_work_is_done_leaves_no_files(factory, tmp_path):
    with pytest.raises(IntraqError):
        run(factory, tmp_path / "out", "synthesis.lr=1e30", "synthesis.clip=false")
    assert [path.name for path in tmp_path.iterdir()] == ["nets.py"]


def held(folder, ready, done):
    with resume.resumable(folder, {}, resume=True):
        ready.set()
        done.wait(60)


def test_second_process_on_the_same_output_is_rejected(factory, tmp_path):
    processes = process.warm  # starting one takes seconds
    ready, done = processes.Event(), processes.Event()
    other = processes.Process(target=held, args=(tmp_path / "out", ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(IntraqError, match="another process is using"):
            run(factory, tmp_path / "out")
    finally:
        done.set()
        other.join()
    run(factory, tmp_path / "out")


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


def test_resuming_synthesis_with_another_input_is_an_error(factory, tmp_path):
    def make(std, report=lambda event: None):
        options = {"set": TINY_SET, "device": "cpu", **SPEC, "std": std}
        return synthesize(f"{factory}:net", out=tmp_path / "images.safetensors", report=report, **options)

    with pytest.raises(Stop):
        make((0.25,) * 3, stopping("synthesis", 4))
    with pytest.raises(IntraqError, match="is from a run that differs in input"):
        make((0.5,) * 3)


def test_more_processes_than_images_in_a_batch_are_a_usage_error(factory, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="3 processes cannot share a tuning batch of 2 images"):
        run(factory, tmp_path / "out", "tuning.batch_size=2")


def test_seconds_of_a_resumed_run_include_those_before_it_stopped(factory, tmp_path, monkeypatch):
    """With a clock that advances by a second at every reading."""
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(looks)))
    out = tmp_path / "out"
    with pytest.raises(Stop):
        run(factory, out, report=stopping("tuning", 11))
    noted = json.loads((tmp_path / "out.unfinished/seconds.json").read_text())
    assert noted["synthesis"] > 0
    assert noted[""] > noted["synthesis"] + noted["calibration"]
    made = run(factory, out)
    assert made.stages["synthesis"] > noted["synthesis"]
    assert made.stages["tuning"] > noted["tuning"]
    assert made.seconds > noted[""] + made.stages["tuning"] - noted["tuning"]
    written = json.loads((out / "run.json").read_text())
    assert written["stages"] == made.stages
    assert noted[""] < written["seconds"] <= made.seconds


@pytest.mark.parametrize("noted", ["", "[]", '{"tuning": "long"}', '{"tuning": null}'])
def test_invalid_stored_seconds_are_ignored(tmp_path, noted):
    (tmp_path / "seconds.json").write_text(noted)
    store = ResumeStore(tmp_path)
    store.began("tuning")
    assert store.before == 0
    assert 0 <= store.ended("tuning") < 60


def test_run_that_does_not_resume_discards_stored_seconds(factory, stopped):
    file = stopped.with_name("out.unfinished") / "seconds.json"
    file.write_text('{"": 5000, "synthesis": 4000}')
    made = run(factory, stopped, resume=False)
    assert made.seconds < 4000
    assert made.stages["synthesis"] < 4000


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
