"""Progress events of long operations. Nothing here depends on how they are displayed."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageStarted:
    """A stage begins, with its number of steps.

    ``stage`` is ``pictures``, ``synthesis``, ``calibration``, ``tuning``, ``sensitivity``, ``evaluation``, ``export``
    or ``upload``.
    """

    stage: str
    steps: int
    detail: str = ""


@dataclass(frozen=True)
class StepDone:
    """``step`` steps of the stage are done; ``values`` holds the loss terms if they were fetched."""

    stage: str
    step: int
    images: int
    """Images processed so far in this stage; an image counts once for every step that it took part in."""
    detail: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageDone:
    """A stage is over."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Warned:
    """A warning to the user; the work continues."""

    message: str


@dataclass(frozen=True)
class Noted:
    """Information for the user."""

    message: str


Event = StageStarted | StepDone | StageDone | Warned | Noted
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing."""
