"""What both stages are given, whatever they make."""

from dataclasses import dataclass

import torch

from intraq_cli.events import Report, silent
from intraq_cli.runtime.distributed import ALONE, Ranks
from intraq_cli.runtime.resume import NOTHING_KEPT, Kept

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Conditions:
    """Under which a stage works."""

    seed: int = 0
    """Of every random draw."""
    device: torch.device = CPU
    report: Report = silent
    """Told of the steps."""
    at_a_time: int | None = None
    """Images that go through the networks at once, to the same end; None: as many as fit."""
    kept: Kept = NOTHING_KEPT
    """Where states are kept, to go on from."""
    ranks: Ranks = ALONE
    """The processes that share the work."""


USUAL = Conditions()
