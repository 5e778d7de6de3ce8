"""Ctrl-C and SIGTERM end a command where they arrive, or at its next step if a library swallowed the exception."""

import signal
from types import FrameType

from intraq_cli.events import Event, Report, StepDone


class Terminated(BaseException):
    """SIGTERM arrived."""


_arrived: list[type[BaseException]] = []


def raise_on_signals() -> None:
    """From now on SIGTERM raises :class:`Terminated`, and SIGINT, unless it is ignored, ``KeyboardInterrupt``."""
    _arrived.clear()
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    _arrived.append(KeyboardInterrupt if number == signal.SIGINT else Terminated)
    raise _arrived[-1]


def ending_if_interrupted(report: Report) -> Report:
    """Return ``report``, but with steps that come after an interruption raising that once more.

    Python raises an interruption in whatever runs at the time. If that is a callback of native code, such as a check
    of ``torch.compile``, the exception may be lost, about one in two hundred times during tuning.
    """

    def reported(event: Event) -> None:
        if _arrived and isinstance(event, StepDone):
            raise _arrived[-1]
        report(event)

    return reported
