"""Log of all reported steps of a job: the losses of both stages, preserved across interruptions."""

import json
import time
from pathlib import Path
from typing import Any

from intraq_cli.errors import OutputError, UsageError
from intraq_cli.events import Event, Report, StageDone, StageStarted, StepDone
from intraq_cli.io.json_files import jsonable
from intraq_cli.runtime.resume import ResumeStore

METRICS = "metrics.jsonl"
STAGES = ("synthesis", "tuning")
"""Stages with losses, in the order in which they run; calibration and evaluation have none."""
MOST = 20_000
"""Approximate limit of steps in a file, which is later read as a whole: of 200,000 steps, every tenth is written."""


class Metrics:
    """Records the steps that are reported to it, and forwards all events.

    A step that is repeated (after an interruption, or because its losses were not finite) replaces the earlier record.

    Args:
        report: receives every event as well.
        store: resume store of the job; the steps that an interrupted run recorded there are kept.

    Raises:
        OutputError: the recorded steps are damaged.
    """

    def __init__(self, report: Report, store: ResumeStore) -> None:
        self._report, self.store = report, store
        self.steps: dict[tuple[str, int], dict[str, Any]] = {}
        try:
            for line in store.lines(METRICS):
                self._note(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{store.folder}/{METRICS} is damaged", "use --no-resume to start over") from error
        self._began: dict[str, float] = {}

    def report(self, event: Event) -> None:
        """Record ``event`` if it is a step of one of :data:`STAGES`, and forward it."""
        if isinstance(event, StageStarted):
            before = max((step["seconds"] for step in self.steps.values() if step["stage"] == event.stage), default=0.0)
            self._began[event.stage] = time.perf_counter() - before
        elif isinstance(event, StepDone) and event.stage in STAGES:
            now = time.perf_counter()
            seconds = round(now - self._began.get(event.stage, now), 3)
            row = {"stage": event.stage, "step": event.step, "images": event.images, "seconds": seconds}
            self._note(row | event.values)
            self.store.append(METRICS, _line(row | event.values))
        self._report(event)

    def write(self, path: Path) -> None:
        """Write one JSON object per step and line, in order; of very many steps, only every k-th and the last."""
        steps = sorted(self.steps.values(), key=lambda step: (STAGES.index(step["stage"]), step["step"]))
        apart = -(-len(steps) // MOST)
        kept = [step for k, step in enumerate(steps, 1) if k % apart == 0 or k == len(steps)]
        path.write_text("".join(map(_line, kept)), encoding="utf-8")

    def _note(self, step: dict[str, Any]) -> None:
        self.steps[step["stage"], step["step"]] = step


def _line(step: dict[str, Any]) -> str:
    return json.dumps(jsonable(step)) + "\n"


def to_tensorboard(report: Report, folder: str | Path | None) -> Report:
    """Return a report that also writes losses for TensorBoard, each stage as a separate run in ``folder``.

    Steps that an earlier, interrupted run wrote there and that are repeated are purged.

    Args:
        report: receives every event.
        folder: None: nothing is written.

    Raises:
        UsageError: TensorBoard is not installed.
        OutputError: the folder cannot be created.
    """
    if folder is None:
        return report
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard: TensorBoard is not installed", "pip install tensorboard") from error
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {folder}: {error.strerror}", "give --tensorboard another folder") from error
    writers: dict[str, Any] = {}

    def watched(event: Event) -> None:
        if isinstance(event, StepDone) and event.values:
            if event.stage not in writers:
                writers[event.stage] = SummaryWriter(str(Path(folder, event.stage)), purge_step=event.step)
            for name, value in event.values.items():
                writers[event.stage].add_scalar(f"loss/{name}", value, event.step)
            writers[event.stage].flush()
        elif isinstance(event, StageDone) and event.stage in writers:
            writers.pop(event.stage).close()
        report(event)

    return watched
