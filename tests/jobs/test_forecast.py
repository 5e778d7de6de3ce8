"""The time and memory that a dry run predicts."""

import time
from functools import partial

import pytest
import torch

from intraq_cli import quantize, synthesize
from intraq_cli.events import Noted, StageDone, StageStarted, StepDone
from intraq_cli.jobs import forecast
from intraq_cli.jobs.forecast import _line
from intraq_cli.jobs.time_left import reporting_time_left
from intraq_cli.recipe import Recipe
from tests.conftest import SPEC

GIVEN = {**SPEC, "device": "cpu"}
SETTINGS = ["synthesis.num_images=128", "synthesis.batch_size=64", "synthesis.steps=60", "tuning.batch_size=32"]


@pytest.mark.slow
def test_predicted_seconds_are_within_a_factor_of_two(network, tmp_path, monkeypatch, request):
    """Measured in CPU time, which other processes on the machine hardly lengthen if no thread waits for another."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    settings = [*SETTINGS, "tuning.steps=60"]
    quantize(network, out=tmp_path / "warm", recipe="instant", **GIVEN)
    forecast = quantize(network, out=tmp_path / "out", set=settings, dry_run=True, **GIVEN).forecast
    made = quantize(network, out=tmp_path / "out", set=settings, **GIVEN)
    assert set(forecast.stages) == set(made.stages) == {"synthesis", "calibration", "tuning"}
    assert sum(forecast.stages.values()) <= forecast.seconds
    for stage in ("synthesis", "tuning"):
        assert made.stages[stage] / 2 < forecast.stages[stage] < 2 * made.stages[stage]
    assert made.seconds / 2 < forecast.seconds < 2 * made.seconds
    assert forecast.memory_bytes is None or 1e8 < forecast.memory_bytes < 1e10


def test_predicted_time_doubles_with_the_number_of_steps(network, tmp_path, monkeypatch):
    """With a clock that advances by one at every reading, so that all trials take equally long."""
    looks = iter(range(10**9))
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: float(next(looks)))
    told = [
        synthesize(network, out=tmp_path / "i", set=[*SETTINGS, f"synthesis.steps={steps}"], dry_run=True, **GIVEN)
        for steps in (1000, 2000)
    ]
    once, twice = (one.forecast.stages["synthesis"] for one in told)
    assert twice == pytest.approx(2 * once, rel=0.1)
    assert list(told[0].forecast.stages) == ["synthesis"]


def test_dry_run_without_images_predicts_nothing(network, tmp_path):
    assert quantize(network, out=tmp_path / "out", recipe="instant", dry_run=True, **GIVEN).forecast is None
    assert list(tmp_path.iterdir()) == []


def test_fitted_line_neither_falls_nor_begins_below_zero():
    assert _line(100, (10, 3), (20, 5)) == pytest.approx(21)  # 1 + 0.2 x
    assert _line(100, (10, 5), (20, 3)) == 3
    assert _line(100, (10, 1), (20, 4)) == pytest.approx(20)  # in proportion
    assert _line(50, (8, 1), (8, 2)) == 2


@pytest.mark.parametrize(("seconds", "told"), [(1.0, ["about 8 min left in all"]), (0.1, [])])
def test_long_run_announces_once_how_much_time_is_left(monkeypatch, seconds, told):
    """400 steps of 10 images; tuning's 100 steps of 5 images take as long as 80 of them."""
    now, events = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    recipe = Recipe().override(["tuning.steps=100", "tuning.batch_size=5"])
    report = reporting_time_left(events.append, recipe)
    report(StageStarted("synthesis", 400))
    for step in range(1, 401):
        now[0] += seconds
        report(StepDone("synthesis", step, 10 * step))
    report(StageDone("synthesis", now[0]))
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert notes == told
    if told:
        place = next(k for k, event in enumerate(events) if isinstance(event, Noted))
        step = events[place - 1].step
        left = seconds * (400 - step + 1.6 * 100 * 5 / 10)
        assert notes == [f"about {left / 60:.0f} min left in all"]


@pytest.mark.parametrize(
    "settings",
    [["tuning.steps=1"], ["synthesis.steps=1"], ["tuning.steps=0", "quantization.activation_range=ema"]],
)
def test_dry_run_works_for_stages_of_one_step_or_none(small_digits, settings):
    ema = ["quantization.weight_rounding=nearest", "quantization.correction=never"]
    few = ["synthesis.num_images=8", "synthesis.batch_size=8", *ema, *settings]
    told = quantize(small_digits, set=few, device="cpu", dry_run=True).forecast
    assert told.seconds > 0
