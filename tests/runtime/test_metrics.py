import json
import sys
import types

import pytest

from intraq_cli import quantize, synthesize
from intraq_cli.errors import OutputError, UsageError
from intraq_cli.events import Noted, StageDone, StageStarted, StepDone, Warned, silent
from intraq_cli.runtime.metrics import METRICS, Metrics, to_tensorboard
from intraq_cli.runtime.resume import NO_STORE, ResumeStore
from tests.conftest import FACTORY, SPEC, TINY_SET, Stop, stopping

SET = [*TINY_SET, "synthesis.steps=25", "tuning.steps=25"]
STEPS = [("synthesis", k) for k in (1, 11, 21, 25, 26, 36, 46, 50)] + [("tuning", k) for k in (1, 11, 21, 25)]
"""Two batches of images, and tuning: every tenth step, and the last."""


def run(factory, out, report=silent, **options):
    return quantize(f"{factory}:net", out=out, set=SET, device="cpu", report=report, **SPEC, **options)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(path)]


def step(k, stage="tuning", **values):
    return StepDone(stage, k, 8 * k, values=values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The metrics of a run that was not stopped, and what it reported."""
    folder, told = tmp_path_factory.mktemp("whole"), []
    (folder / "nets.py").write_text(FACTORY)
    run(folder / "nets.py", folder / "out", report=told.append)
    return folder / "out" / METRICS, told


def test_metrics_hold_every_reported_step_of_both_stages_with_its_losses(whole):
    path, told = whole
    made = rows(path)
    assert [(row["stage"], row["step"]) for row in made] == STEPS
    events = {(event.stage, event.step): event for event in told if isinstance(event, StepDone)}
    for row in made:
        event = events[row["stage"], row["step"]]
        assert row["images"] == event.images
        assert {key: row[key] for key in event.values} == event.values
    assert set(made[0]) == {"stage", "step", "images", "seconds", "bns", "sil", "mdc", "total"}
    assert set(made[-1]) == {"stage", "step", "images", "seconds", "kl", "ce", "features", "total"}
    seconds = [row["seconds"] for row in made if row["stage"] == "synthesis"]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("stop", [("synthesis", 46), ("tuning", 21)])
def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_run(
    whole, factory, tmp_path, saved_at_every_step, stop
):
    with pytest.raises(Stop):
        run(factory, tmp_path / "out", report=stopping(*stop))
    kept = tmp_path / "out.unfinished" / METRICS
    assert [(row["stage"], row["step"]) for row in rows(kept)] == STEPS[: STEPS.index(stop) + 1]
    with kept.open("a") as file:  # a line that a kill has cut short
        file.write('{"stage": "tun')
    run(factory, tmp_path / "out")
    assert timeless(tmp_path / "out" / METRICS) == timeless(whole[0])
    assert [(row["stage"], row["step"]) for row in rows(tmp_path / "out" / METRICS)] == STEPS


def test_run_that_does_not_resume_discards_earlier_metrics(factory, tmp_path, saved_at_every_step):
    with pytest.raises(Stop):
        run(factory, tmp_path / "out", report=stopping("tuning", 11))
    with pytest.raises(Stop):
        run(factory, tmp_path / "out", report=stopping("synthesis", 1), resume=False)
    kept = rows(tmp_path / "out.unfinished" / METRICS) if (tmp_path / "out.unfinished").exists() else []
    assert [row["step"] for row in kept] in ([], [1])


def test_repeated_steps_replace_earlier_ones_and_seconds_add_up(tmp_path, monkeypatch):
    stores = ResumeStore(tmp_path), ResumeStore(tmp_path)
    clock = iter([100.0, 107.0, 200.0, 202.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    first = Metrics(silent, stores[0])
    first.report(StageStarted("tuning", 20))
    first.report(step(11, kl=1.0))
    again = Metrics(silent, stores[1])
    again.report(StageStarted("tuning", 20))
    again.report(step(11, kl=2.0))
    again.write(tmp_path / "all")
    assert rows(tmp_path / "all") == [{"stage": "tuning", "step": 11, "images": 88, "seconds": 9.0, "kl": 2.0}]


def test_all_events_are_passed_on_but_only_steps_of_both_stages_kept(tmp_path):
    told = []
    metrics = Metrics(told.append, NO_STORE)
    events = [StageStarted("evaluation", 2), step(1, "evaluation"), step(1), Noted("n"), Warned("w"), StageDone("x", 1)]
    for event in events:
        metrics.report(event)
    assert told == events
    assert list(metrics.steps) == [("tuning", 1)]


def test_failing_writes_give_one_warning_and_the_final_file_is_complete(tmp_path):
    told = []
    store = ResumeStore(tmp_path / "gone", told.append)
    metrics = Metrics(silent, store)
    for k in (1, 11):
        metrics.report(step(k, kl=0.1))
    assert [type(event) for event in told] == [Warned]
    metrics.write(tmp_path / "all")
    assert [row["step"] for row in rows(tmp_path / "all")] == [1, 11]


class Writer:
    """A fake of TensorBoard's SummaryWriter."""

    made: list["Writer"] = []  # noqa: RUF012

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step = folder, purge_step
        self.scalars, self.closed = [], False
        Writer.made.append(self)

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def test_losses_are_written_to_a_tensorboard_run_for_each_stage(tensorboard, tmp_path):
    told = []
    report = to_tensorboard(told.append, tmp_path)
    for event in (step(11, kl=0.5, total=1.0), step(21, kl=0.4, total=0.9), step(12), StageDone("tuning", 1.0)):
        report(event)  # step 12 has no losses and is not written
    (writer,) = tensorboard
    assert (writer.folder, writer.purge_step, writer.closed) == (str(tmp_path / "tuning"), 11, True)
    assert writer.scalars == [
        *(("loss/kl", 0.5, 11), ("loss/total", 1.0, 11)),
        *(("loss/kl", 0.4, 21), ("loss/total", 0.9, 21)),
    ]
    assert len(told) == 4


def test_quantize_and_synthesize_write_to_tensorboard(tensorboard, factory, tmp_path):
    run(factory, tmp_path / "out", tensorboard=tmp_path / "board")
    assert [writer.folder for writer in tensorboard] == [str(tmp_path / "board" / s) for s in ("synthesis", "tuning")]
    synthesize(
        f"{factory}:net", out=tmp_path / "i.safetensors", set=SET, device="cpu", tensorboard=tmp_path / "b", **SPEC
    )
    assert [writer.folder for writer in tensorboard[2:]] == [str(tmp_path / "b" / "synthesis")]
    assert all(writer.closed for writer in tensorboard)


def test_missing_tensorboard_is_an_error_with_an_install_hint(monkeypatch, factory, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="TensorBoard is not installed") as caught:
        run(factory, tmp_path / "out", tensorboard=tmp_path / "board")
    assert caught.value.hint == "pip install tensorboard"
    assert to_tensorboard(silent, None) is silent


@pytest.mark.parametrize("damaged", ["{", "[]", '{"stage": "tuning"}'])
def test_damaged_metrics_of_an_interrupted_run_are_rejected(tmp_path, damaged):
    (tmp_path / METRICS).write_text('{"stage": "tuning", "step": 1}\n' + damaged + "\n")
    with pytest.raises(OutputError, match=r"metrics\.jsonl is damaged"):
        Metrics(silent, ResumeStore(tmp_path))


def test_only_some_of_very_many_steps_are_written_with_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr("intraq_cli.runtime.metrics.MOST", 4)
    metrics = Metrics(silent, NO_STORE)
    for k in range(10):
        metrics.report(step(k, kl=1.0))
    metrics.write(tmp_path / METRICS)
    assert [row["step"] for row in rows(tmp_path / METRICS)] == [2, 5, 8, 9]
