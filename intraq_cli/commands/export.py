"""``intraq export``."""

from pathlib import Path
from typing import TYPE_CHECKING

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import print_hint, print_json, print_table
from intraq_cli.commands.progress import progress
from intraq_cli.words import counted, duration, file_size, logits_differ

if TYPE_CHECKING:
    from intraq_cli.results import ExportResult

SHOWN = 5
"""Maximum number of float layers to list."""


def export(
    folder: options.Folder,
    to: options.Format = "onnx",
    out: options.OnnxFile = None,
    storage: options.StorageOption = "int8",
    images: options.Pictures = None,
    model: options.FloatModel = None,
    batch: options.Batch = 1,
    allow_float: options.AllowFloat = False,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint as an ONNX file, and compare the file with load().

    Convolutions and linear layers run on integers if the checkpoint was made with --act-placement integer.

    intraq export resnet18-w8a8
    """
    given = calls.passed_on(locals())
    from intraq_cli.api import export as api

    with progress(quiet) as report:
        result = api.export(**given, report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    else:
        size = f"{file_size(result.bytes)}, opset {result.opset}, in {duration(result.seconds)}"
        print_table(result.path, [*export_rows(result), ("size", size)])
        target = calls.typed(("", result.path), *_float_model(folder, model))
        print_hint(f"next: intraq evaluate {target} --data FOLDER")


def _float_model(folder: Path, model: str | None) -> list[tuple[str, str | None]]:
    """Return the options that name the float model; paths in the file's metadata are not followed."""
    from intraq_cli.checkpoint.run_manifest import read_run

    teacher = read_run(folder).get("teacher") or {}
    in_folder = str(teacher.get("source")).startswith("local-dir:")
    return [("--model", model or (teacher["source"] if in_folder else None)), ("--weights", teacher.get("weights"))]


def export_rows(result: "ExportResult") -> list[tuple[str, str]]:
    """Return what the check of the file found, as rows of text."""
    integer, left = result.layers_integer, result.layers_float
    same = "equal" if result.first_choices_equal else "NOT all equal"
    ratio = result.ms_float / result.ms_quantized
    times = f"{result.ms_quantized:.2f} ms per batch of {result.batch}, float32 {result.ms_float:.2f} ms"
    more = [(".", f"and {len(left) - SHOWN} more; --json lists them all")] if len(left) > SHOWN else []
    return [
        ("integer", f"{len(integer)} of {len(integer) + len(left)} layers in onnxruntime"),
        *(("float", f"{layer['name']}: {layer['reason']}") for layer in left[:SHOWN]),
        *more,
        ("predictions", f"top-1 {same} to those of load() on {result.images} images"),
        ("logits", logits_differ(result.logits_difference)),
        ("speed", f"{times}: {ratio:.2f} times as fast, on {counted(result.threads, 'thread')}"),
    ]
