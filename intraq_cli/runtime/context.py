"""What both stages are given, whatever they make."""

from dataclasses import dataclass

import torch

from intraq_cli.events import Report, silent
from intraq_cli.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from intraq_cli.runtime.resume import NO_STORE, ResumeStore

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunContext:
    """Under which a stage works."""

    seed: int = 0
    """Of every random draw."""
    device: torch.device = CPU
    report: Report = silent
    """Told of the steps."""
    micro_batch_size: int | None = None
    """Images that go through the networks at once; None: as many as fit."""
    store: ResumeStore = NO_STORE
    """Where states are kept, to go on from."""
    deterministic: bool = False
    """On a GPU: only what gives the same bits at every run."""
    ranks: ProcessGroup = SINGLE_PROCESS
    """The processes that share the work."""


DEFAULT_CONTEXT = RunContext()
