"""The run settings that both stages share."""

from dataclasses import dataclass

import torch

from intraq_cli.events import Report, silent
from intraq_cli.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from intraq_cli.runtime.resume import NO_STORE, ResumeStore

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunContext:
    """How the steps of a stage run."""

    seed: int = 0
    """Seed of every random draw."""
    device: torch.device = CPU
    report: Report = silent
    """Receives progress events."""
    micro_batch_size: int | None = None
    """Images that go through the networks at once; None: as many as fit."""
    store: ResumeStore = NO_STORE
    """Where states are saved for resuming."""
    deterministic: bool = False
    """On a GPU: use only operations that give bit-identical results in every run."""
    ranks: ProcessGroup = SINGLE_PROCESS
    """The processes that share the work."""


DEFAULT_CONTEXT = RunContext()
