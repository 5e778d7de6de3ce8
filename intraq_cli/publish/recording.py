"""Record accuracies and exports in the manifest, card and report of an existing checkpoint folder."""

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
from intraq_cli.errors import CHECK_DISK, ModelError, OutputError
from intraq_cli.events import Report, Warned
from intraq_cli.io.atomic import atomic_file
from intraq_cli.io.digests import file_digest
from intraq_cli.io.json_files import json_text, jsonable
from intraq_cli.models.hub import downloading, hub_file
from intraq_cli.publish.card import card_digest, folder_card, is_own_card
from intraq_cli.reports.folder import REPORT, read_record, record_of
from intraq_cli.reports.page import html_page

LOCK_SECONDS = 60.0
"""Time to wait for another process that records something, which takes less than a second."""
MAKING = ("seed", "seconds", "measured")
"""Fields of the manifest that distinguish runs of the same network."""


def check_record(folder: Path) -> None:
    """Check, before any work, that :func:`record` can write in a folder.

    Raises:
        OutputError: there is no manifest, or no permission to replace it.
        CheckpointError: no report can be made of the folder's contents.
    """
    if not (folder / "run.json").is_file() or not os.access(folder, os.W_OK):
        raise OutputError(
            f"cannot save results in {folder}/run.json", "--save needs a checkpoint folder that you can write to"
        )
    read_record(folder)


def record(folder: Path, checkpoint: Checkpoint, measured: dict[str, Any], report: Report) -> None:
    """Record a measurement in ``run.json``, replacing an earlier one on the same data, and update card and report.

    Args:
        folder: folder of the checkpoint.
        checkpoint: the checkpoint that was read from it.
        measured: ``data``, ``split``, ``limit``, ``seed``, and the results.
        report: function that receives a warning if the card was edited by hand and is therefore not updated.

    Raises:
        OutputError: a file cannot be written, or the folder now contains another checkpoint.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry = {**jsonable(measured), "benchmark": _benchmark(measured), "date": date, "intraq": __version__}

    def noted(run: dict[str, Any]) -> dict[str, Any]:
        others = [one for one in run.get("evaluations", []) if _measured_on(one) != _measured_on(entry)]
        return {**run, "evaluations": [*others, entry]}

    _note(folder, checkpoint, noted, report)


def _measured_on(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a measurement's data; different spellings of a folder give the same key."""
    data = str(entry["data"])
    where = os.path.realpath(data) if os.path.isdir(data) else data
    return where, entry.get("split"), entry.get("limit"), entry.get("seed")


def record_export(folder: Path, checkpoint: Checkpoint, proof: dict[str, Any], report: Report) -> None:
    """Record the check of the folder's ``model.onnx`` in ``run.json``, and update card and report.

    Args:
        folder: folder of the checkpoint.
        checkpoint: the checkpoint that was read from it.
        proof: the fields of :class:`intraq_cli.results.ExportResult` except the path.
        report: function that receives a warning if the card was edited by hand and is therefore not updated.

    Raises:
        OutputError: a file cannot be written, or the folder now contains another checkpoint.
    """
    entry = {**proof, "sha256": file_digest(folder / "model.onnx"), "intraq": __version__}
    _note(folder, checkpoint, lambda run: {**run, "export": entry}, report)


def _note(
    folder: Path, checkpoint: Checkpoint, change: Callable[[dict[str, Any]], dict[str, Any]], report: Report
) -> None:
    """Rewrite ``run.json`` and the report, and the card unless it was edited by hand."""
    path, config = folder / "README.md", checkpoint.config
    with _locked(folder):
        run = read_run(folder)  # read again: other processes may have changed it
        if any(run.get(key) != checkpoint.run.get(key) for key in MAKING):
            raise OutputError(
                f"{folder} was replaced by another checkpoint during the run", "run the same command again"
            )
        card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        ours = card is None or is_own_card(card, run)
        noted = jsonable(change(run))
        new_card = {path.name: folder_card(folder, config, noted)} if ours else {}
        if ours:  # even after an interruption, the folder has one of the two cards
            noted["cards"] = [card_digest(one) for one in (card, *new_card.values()) if one is not None]
        texts = {"run.json": json_text(noted), REPORT: html_page(record_of(folder, config, noted)), **new_card}
        for name, text in texts.items():
            with atomic_file(folder / name, force=True) as scratch:
                scratch.write_text(text, encoding="utf-8")
    if not ours:
        report(Warned(f"{path} was edited by hand and is not updated; delete it to have it written again"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock ``folder``: inside the block, no other process records anything in it.

    Raises:
        OutputError: another process holds the lock for a minute, or the folder is not writable.
    """
    file = folder / "run.json.lock"
    try:
        with FileLock(file, timeout=LOCK_SECONDS):
            try:
                yield
            finally:
                if os.name != "nt":  # Windows cannot remove a held lock; its release removes it
                    file.unlink(missing_ok=True)
    except Timeout as error:
        raise OutputError(f"another process is writing {folder}/run.json", "try again when it has finished") from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}", CHECK_DISK) from error


def _benchmark(measured: dict[str, Any]) -> dict[str, str] | None:
    on_hub = measured["data"].startswith("hfds:") and measured["limit"] is None
    return benchmark(measured["data"].removeprefix("hfds:"), measured["split"]) if on_hub else None


def benchmark(data_set: str, split: str) -> dict[str, str] | None:
    """Return the only task of a Hub benchmark that uses ``split``; None if the data set is not such a benchmark.

    A benchmark has an ``eval.yaml``; only for these does the Hub accept results in ``.eval_results``.
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
