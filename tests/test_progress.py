"""What is shown while it works."""

import re

import pytest

from intraq_cli.commands import progress as shown
from intraq_cli.events import StageStarted, StepDone


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only element."""
    now = [1000.0]
    monkeypatch.setattr(shown.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("first", [1, 71], ids=["from the start", "going on from step 70"])
def test_pace_counts_what_this_run_has_done(clock: list[float], capsys: pytest.CaptureFixture[str], first: int) -> None:
    """100 steps of 8 images, two seconds each after a first one of a minute."""
    with shown.progress(quiet=False) as report:
        report(StageStarted("synthesis", 100, "800 images"))
        clock[0] += 60
        report(StepDone("synthesis", first, 8 * first, values={"bns": 0.5}))
        clock[0] += 20
        report(StepDone("synthesis", first + 10, 8 * (first + 10), values={"bns": 0.25}))
    _, early, later = capsys.readouterr().err.splitlines()
    assert early == f"synthesis: {first}/100  bns 0.5"
    seconds, rate = re.search(r"(\d+) s left  (\d+) img/s  bns 0.25", later).groups()
    assert int(seconds) == 2 * (100 - first - 10)
    assert int(rate) == 4


def test_lines_are_few(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with shown.progress(quiet=False) as report:
        report(StageStarted("tuning", 60, "8 images"))
        for step in range(1, 61):
            clock[0] += 1
            report(StepDone("tuning", step, 8 * step))
    assert len(capsys.readouterr().err.splitlines()) == 1 + 60 / shown.PLAIN_EVERY
