"""The status line of a running stage, at every width."""

import itertools

import pytest
from rich.cells import cell_len

from intraq_cli.commands import live
from intraq_cli.commands.live import ASCII_BLOCKS, Pace, Stage, sparkline
from intraq_cli.events import StageStarted, StepDone


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    return now


def test_sparkline_spans_from_the_smallest_to_the_largest_value():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 3.5, 0], ASCII_BLOCKS) == "#=_"
    assert sparkline([]) == ""
    assert sparkline([2.5, 2.5]) == "▁▁"
    assert sparkline([1, float("nan"), 2, float("inf")]) == "▁?█?"


@pytest.fixture
def stage(clock):
    """100 steps of 8 images, 40 of them done, two seconds each."""
    started = StageStarted("synthesis", 100, "800 images")
    made = Stage(started, Pace(100))
    for step in range(1, 41):
        clock[0] += 2
        event = StepDone("synthesis", step, 8 * step, "batch 2/4", {"bns": 0.5, "total": 100.0 / step})
        made.pace.note(event)
        made.note(event)
    return made


def test_wide_status_line_shows_everything(stage):
    line = stage.line(160)
    for text in ("synthesis", "40/100", "120 s left", "loss 2.5", "batch 2/4", "4 img/s", "█", "━"):
        assert text.replace("120 s", "2 min") in line
    assert "▁" in line
    (curve,) = [part for part in line.split("  ") if set(part) <= set(live.BLOCKS)]
    assert len(curve) == live.CURVE


@pytest.mark.parametrize("unicode", [True, False])
def test_narrow_status_line_fits_and_shows_what_matters_most(stage, unicode):
    for width in range(1, 161):
        line = stage.line(width, unicode)
        assert cell_len(line) <= width
        assert unicode or line.isascii()
    assert "2 min left" in stage.line(40, unicode)
    assert "40/100" in stage.line(40, unicode)
    assert stage.line(60, unicode).count("loss") == 1
    assert stage.line(9) == "synthesis"
    seen = [
        {text for text in ("img/s", "batch", "loss", "left", "40/100") if text in stage.line(w)} for w in range(161)
    ]
    texts = [text for less, more in itertools.pairwise(seen) for text in more - less]
    assert list(dict.fromkeys(texts)) == ["40/100", "left", "loss", "batch", "img/s"]


def test_time_left_follows_recent_steps_and_keeps_counting_down(stage, clock):
    for step in range(41, 61):  # now five times as fast
        clock[0] += 0.4
        stage.pace.note(StepDone("synthesis", step, 8 * step))
    assert stage.pace.left == pytest.approx(40 * 0.4)
    clock[0] += 6
    assert stage.pace.left_now() == pytest.approx(10)
    clock[0] += 60
    assert stage.pace.left_now() == 0


def test_finished_stage_is_summarized_in_one_line(stage):
    assert stage.end(9.24, 80).startswith("synthesis: done in 9.2 s  loss 2.5  ")
    assert len(stage.end(9.24, 30)) == 30
