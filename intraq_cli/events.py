"""What long work reports while it runs. Nothing here knows how it is shown."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageStarted:
    """A stage begins, with its number of steps.

    It is ``pictures``, ``synthesis``, ``calibration``, ``tuning``, ``sensitivity``, ``evaluation``, ``export`` or
    ``upload``.
    """

    stage: str
    steps: int
    detail: str = ""


@dataclass(frozen=True)
class StepDone:
    """So many of the stage's steps are done; ``values`` are the loss terms, where they were fetched."""

    stage: str
    step: int
    images: int
    """Images processed so far in this stage, counted once per step they took part in."""
    detail: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageDone:
    """A stage is over."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Warned:
    """Something the user should know; the work goes on."""

    message: str


@dataclass(frozen=True)
class Noted:
    """Something good to know."""

    message: str


Event = StageStarted | StepDone | StageDone | Warned | Noted
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Report nothing."""
