"""``report`` and ``compare``: the records of checkpoint folders as an HTML page, and as values side by side."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from intraq_cli.api.arguments import verb
from intraq_cli.errors import NO_CHECKPOINT, CheckpointError, UsageError
from intraq_cli.io.atomic import atomic_file, check_output
from intraq_cli.jobs.targets import read_folder
from intraq_cli.reports.comparison import comparison
from intraq_cli.reports.folder import REPORT, Record, read_record
from intraq_cli.reports.page import html_page
from intraq_cli.results import ComparisonResult, ReportResult
from intraq_cli.words import spelled_path

Folders = str | Path | Sequence[str | Path]


@verb
def report(folders: Folders, *, out: str | Path | None = None, force: bool = False) -> ReportResult:
    """Write an HTML report of how one checkpoint was made, or of several side by side.

    Args:
        folders: one or several folders that ``quantize`` wrote; everything in the report is read from them.
        out: the file; default: ``report.html`` in the folder, which is replaced; for several, in the working folder.
        force: replace an existing file.

    Raises:
        IntraqError: a folder is not a checkpoint, or the file cannot be written.
    """
    given = _listed(folders)
    own = len(given) == 1 and out is None
    path = Path(out) if out is not None else Path(given[0], REPORT) if own else Path(REPORT)
    for folder in given:
        if not Path(folder).is_dir():
            raise CheckpointError(f"there is no folder {folder}", NO_CHECKPOINT)
    check_output(path, force or own)
    records = [read_record(Path(folder)) for folder in given]
    content = html_page(*records)
    with atomic_file(path, force or own) as scratch:
        scratch.write_text(content, encoding="utf-8")
    return ReportResult(spelled_path(path), len(content.encode()), given)


@verb
def compare(targets: Folders) -> ComparisonResult:
    """Compare checkpoints: bits, sizes, agreement, divergence, recorded accuracies, and noise at batch norms.

    Args:
        targets: at least two checkpoint folders, or Hub ids of checkpoints.

    Raises:
        IntraqError: one of them is not a checkpoint.
    """
    given = _listed(targets)
    if len(given) < 2:
        raise UsageError("only one checkpoint is given", "give at least two to compare")
    return comparison([_record(target) for target in given], given)


def _listed(given: Folders) -> list[str]:
    names = [str(one) for one in ([given] if isinstance(given, (str, Path)) else given)]
    if not names:
        raise UsageError("no checkpoint is given", "give folders that `intraq quantize` wrote")
    return names


def _record(target: str) -> Record:
    record = read_folder(target, None, read_record)
    if record is None:
        raise CheckpointError(f"{target} is not a checkpoint", NO_CHECKPOINT)
    return record if os.path.isdir(target) else replace(record, name=target)  # else it has the name of a Hub snapshot
