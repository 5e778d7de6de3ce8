"""Progress as it is shown during a run."""

import io
import re

import pytest
from rich.console import Console

from intraq_cli.commands import progress as shown
from intraq_cli.events import StageDone, StageStarted, StepDone, Warned
from intraq_cli.words import duration, held_out_images


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A fake clock: a list whose only element is the time."""
    now = [1000.0]
    monkeypatch.setattr(shown.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("first", [1, 71], ids=["from the start", "going on from step 70"])
def test_pace_counts_only_steps_of_this_run(clock: list[float], capsys: pytest.CaptureFixture[str], first: int) -> None:
    """100 steps of 8 images, two seconds each after a first one of a minute."""
    with shown.progress(quiet=False) as report:
        report(StageStarted("synthesis", 100, "800 images"))
        clock[0] += 60
        report(StepDone("synthesis", first, 8 * first, values={"bns": 0.5}))
        clock[0] += 20
        report(StepDone("synthesis", first + 10, 8 * (first + 10), values={"bns": 0.25}))
    _, early, later = capsys.readouterr().err.splitlines()
    assert early == f"synthesis: {first}/100  bns 0.5"
    left, rate = re.search(r"(\d+ \w+) left  (\d+) img/s  bns 0.25", later).groups()
    assert left == duration(2 * (100 - first - 10))
    assert int(rate) == 4


def test_plain_progress_prints_few_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with shown.progress(quiet=False) as report:
        report(StageStarted("tuning", 60, "8 images"))
        for step in range(1, 61):
            clock[0] += 1
            report(StepDone("tuning", step, 8 * step))
    assert len(capsys.readouterr().err.splitlines()) == 1 + 60 / shown.PLAIN_EVERY


def slow_synthesis(clock: list[float], recipe: str, seconds: float) -> None:
    with shown.progress(quiet=False, recipe=recipe) as report:
        report(StageStarted("synthesis", 400, "1024 images"))
        for step in range(1, 5):
            clock[0] += seconds
            report(StepDone("synthesis", step, 256 * step))


def test_stage_of_hours_suggests_the_fast_recipe_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    slow_synthesis(clock, "default", 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "--recipe fast" in line] == [
        "hint: this stage takes another 2.2 h; --recipe fast takes about an eighth of the time"
    ]
    assert "2.2 h left" in lines[-1]


@pytest.mark.parametrize(("recipe", "seconds"), [("default", 8), ("fast", 20), ("mine.toml", 20)])
def test_no_recipe_is_suggested_for_quick_stages_or_other_recipes(
    clock: list[float], capsys: pytest.CaptureFixture[str], recipe: str, seconds: float
) -> None:
    slow_synthesis(clock, recipe, seconds)
    assert "--recipe" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.44, "0.4 s"), (27.2, "27 s"), (119, "119 s"), (1200, "20 min"), (7100, "118 min"), (9000, "2.5 h")],
)
def test_durations_are_rounded_for_people(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(("term", "moves"), [("xterm", True), ("dumb", False)])
def test_terminal_shows_one_updated_line_per_stage_unless_it_is_dumb(
    monkeypatch: pytest.MonkeyPatch, term: str, moves: bool
) -> None:
    """It includes the curve of the loss; lines of finished stages stay above it."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False, _environ={"TERM": term})
    monkeypatch.setattr(shown, "stderr", screen)
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True)
    with shown.progress(quiet=False) as report:
        for stage in ("synthesis", "tuning"):
            report(StageStarted(stage, 3, "8 images"))
            for step in range(1, 4):
                report(StepDone(stage, step, 8 * step, values={"total": 4.0 - step}))
            report(StageDone(stage, 2.0))
    written = screen.file.getvalue()
    assert ("\x1b[2K" in written) == moves
    assert ("synthesis: done in 2.0 s  loss 1  █▅▁" in written) == moves
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).split("\n") if line.strip()]
    ends = [k for k, line in enumerate(lines) if "done in" in line]
    assert len(ends) == 2
    assert not any("/3" in line for line in lines[ends[-1] + 1 :])


def test_number_of_held_out_images_is_in_singular_or_plural():
    told = [held_out_images(*given) for given in ((1, 0), (2, 0), (1, 3))]
    assert told == ["1 held-out synthetic image", "2 held-out synthetic images", "1 held-out image"]


def test_names_are_printed_without_interpreting_markup_or_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    """In names of folders and losses, brackets are not markup and words between colons are not emoji."""
    with shown.progress(quiet=False) as report:
        report(StageStarted("pictures", 1, "16 in p[/x] [raw]"))
        report(StepDone("pictures", 1, 16, values={"[b]own": 0.5}))
        report(StageDone("pictures", 1.0))
        report(Warned("nets.py:factory: holds NaN [1]"))
    printed = capsys.readouterr().err
    assert "1 step, 16 in p[/x] [raw]" in printed
    assert "warning: nets.py:factory: holds NaN [1]" in printed
