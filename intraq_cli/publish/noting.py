"""What is noted in a checkpoint folder after it was made: accuracies and exports, in its manifest, card and report."""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from intraq_cli import __version__
from intraq_cli.checkpoint.read import Checkpoint
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import ModelError, OutputError
from intraq_cli.events import Report, Warned
from intraq_cli.io.atomic import atomic_file
from intraq_cli.io.digests import file_digest
from intraq_cli.io.json_files import plain, write_json
from intraq_cli.models.hub import downloading, hub_file
from intraq_cli.publish.card import card_digest, folder_card, is_own_card
from intraq_cli.reports.folder import REPORT, read_record, record_of
from intraq_cli.reports.page import page_of_one

LOCK_SECONDS = 60.0
"""To wait for another process that notes something, which takes it less than a second."""
MAKING = ("seed", "seconds", "measured")
"""What tells a run from any other of the same network."""


def check_record(folder: Path) -> None:
    """Refuse, before any work, a folder in which :func:`record` could not write.

    Raises:
        OutputError: there is no manifest, or no right to replace it.
        CheckpointError: what the folder says cannot be told in its report.
    """
    if not (folder / "run.json").is_file() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot record in {folder}/run.json", "--save needs a checkpoint folder of your own")
    read_record(folder)


def record(folder: Path, checkpoint: Checkpoint, measured: dict[str, Any], report: Report) -> None:
    """Note a measurement in ``run.json``, in place of an earlier one on the same data; render card and report anew.

    Args:
        folder: of the checkpoint.
        checkpoint: as it was read from there.
        measured: ``data``, ``split``, ``limit``, ``seed``, and the figures.
        report: told if the card was edited by hand, which leaves it as it is.

    Raises:
        OutputError: a file cannot be written, or another checkpoint has taken the folder's place.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry = {**plain(measured), "benchmark": _benchmark(measured), "date": date, "intraq": __version__}

    def noted(run: dict[str, Any]) -> dict[str, Any]:
        others = [one for one in run.get("evaluations", []) if _measured_on(one) != _measured_on(entry)]
        return {**run, "evaluations": [*others, entry]}

    _note(folder, checkpoint, noted, report)


def _measured_on(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a measurement from those on other data; a folder is the same however it is spelled."""
    data = str(entry["data"])
    where = os.path.realpath(data) if os.path.isdir(data) else data
    return where, entry.get("split"), entry.get("limit"), entry.get("seed")


def record_export(folder: Path, checkpoint: Checkpoint, proof: dict[str, Any], report: Report) -> None:
    """Note in ``run.json`` what the proof of the folder's ``model.onnx`` found; render card and report anew.

    Args:
        folder: of the checkpoint.
        checkpoint: as it was read from there.
        proof: the fields of :class:`intraq_cli.results.ExportResult`, but for the path.
        report: told if the card was edited by hand, which leaves it as it is.

    Raises:
        OutputError: a file cannot be written, or another checkpoint has taken the folder's place.
    """
    entry = {**proof, "sha256": file_digest(folder / "model.onnx"), "intraq": __version__}
    _note(folder, checkpoint, lambda run: {**run, "export": entry}, report)


def _note(
    folder: Path, checkpoint: Checkpoint, change: Callable[[dict[str, Any]], dict[str, Any]], report: Report
) -> None:
    """Write another ``run.json`` and its report, and its card where that is ours."""
    path, config = folder / "README.md", checkpoint.config
    with _locked(folder):
        run = read_run(folder)  # again: others may have noted something meanwhile
        if any(run.get(key) != checkpoint.run.get(key) for key in MAKING):
            raise OutputError(f"{folder} holds another checkpoint than before", "do the same with this one")
        card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        ours = card is None or is_own_card(card, run)
        noted = plain(change(run))
        made = folder_card(folder, config, noted) if ours else None
        if made is not None:  # one of both lies there, wherever this is broken off
            noted["cards"] = [card_digest(one) for one in (card, made) if one is not None]
        page = page_of_one(record_of(folder, config, noted))
        with atomic_file(folder / "run.json", force=True) as scratch:
            write_json(scratch, noted)
        with atomic_file(folder / REPORT, force=True) as scratch:
            scratch.write_text(page, encoding="utf-8")
        if made is not None:
            with atomic_file(path, force=True) as scratch:
                scratch.write_text(made, encoding="utf-8")
    if not ours:
        report(Warned(f"{path} is not as intraq wrote it and was left alone; remove it to have it made"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within the block no other process notes anything in ``folder``.

    Raises:
        OutputError: another one does for a minute, or nothing can be written there.
    """
    file = folder / "run.json.lock"
    try:
        with FileLock(file, timeout=LOCK_SECONDS):
            try:
                yield
            finally:
                if os.name != "nt":  # which does not remove a lock that is held, and has it removed by its release
                    file.unlink(missing_ok=True)
    except Timeout as error:
        raise OutputError(f"another process is at work on {folder}/run.json", "try again when it is done") from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}", "check the folder and the disk") from error


def _benchmark(measured: dict[str, Any]) -> dict[str, str] | None:
    on_hub = measured["data"].startswith("hfds:") and measured["limit"] is None
    return benchmark(measured["data"].removeprefix("hfds:"), measured["split"]) if on_hub else None


def benchmark(data_set: str, split: str) -> dict[str, str] | None:
    """The one task of a benchmark on the Hub that is measured on ``split``; None if the data set is no such benchmark.

    Benchmarks say so in an ``eval.yaml``; only of these does the Hub take results in ``.eval_results``.
    """
    import yaml

    try:
        with downloading(data_set):
            path = Path(hub_file(data_set, "eval.yaml", "dataset"))
        tasks = yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]
        fitting = [task["id"] for task in tasks if task.get("split") == split]
    except (ModelError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"id": data_set, "task_id": fitting[0], "revision": path.parent.name} if len(fitting) == 1 else None
