"""A stopped job resumes where it stopped, and refuses other settings and a second process."""

import json
import time
from pathlib import Path

import pytest
import torch

from intraq_cli import IntraqError, quantize, synthesize
from intraq_cli.errors import UsageError
from intraq_cli.events import Noted, StepDone
from intraq_cli.runtime import resume
from intraq_cli.runtime.resume import ResumeStore
from tests.conftest import SPEC, TINY_SET, Stop, stopping
from tests.fakes import process

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
