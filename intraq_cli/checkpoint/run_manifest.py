"""The manifest ``run.json``: how a checkpoint was made, and accuracies measured since."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from intraq_cli.errors import GET_AGAIN, CheckpointError
from intraq_cli.io.untrusted import first_fault, read_json, safe_path

MOST = 2**64
LARGEST, SMALLEST = 1e99, 1e-99
"""Bounds far beyond any measured value, but such that ratios and logarithms still fit into floats."""
Text = Annotated[StrictStr, Field(max_length=1000)]
Whole = Annotated[StrictInt, Field(ge=-MOST, le=MOST)]
Count = Annotated[StrictInt, Field(ge=0, le=MOST)]
Figure = Annotated[
    StrictFloat, Field(ge=-LARGEST, le=LARGEST), AfterValidator(lambda x: x if abs(x) >= SMALLEST else 0.0)
]


class JsonTable(BaseModel):
    """A table of the manifest: declared fields are validated, all others are kept unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True)


class TeacherOrigin(JsonTable):
    """Where the float weights come from."""

    source: Text | None = None
    """MODEL as the user typed it."""
    weights: Text | None = None
    """The file that replaced the source's own weights."""
    revision: Text | None = None
    """Commit of the source on the Hub."""
    sha256: Text | None = None


class Benchmark(JsonTable):
    """A task of a benchmark on the Hub."""

    id: Text
    task_id: Text
    revision: Text


class Evaluation(JsonTable):
    """One measurement, as ``evaluate --save`` records it; accuracies in percent."""

    data: Text
    split: Text | None = None
    limit: Count | None = None
    seed: Whole | None = None
    n: Count
    """Number of images."""
    top1: Figure
    top5: Figure
    float_top1: Figure
    float_top5: Figure
    agreement: Figure
    date: Text
    benchmark: Benchmark | None = None


class Export(JsonTable):
    """Results of the check of ``model.onnx``."""

    opset: Count
    bytes: Count
    sha256: Text
    """Digest of the file."""
    layers_integer: list[Text]
    layers_float: list[dict[str, Text]]
    images: Count
    first_choices_equal: StrictBool
    logits_difference: Figure
    ms_float: Figure
    ms_quantized: Figure
    batch: Count
    threads: Count
    processor: Text


class RunManifest(JsonTable):
    """The fields of ``run.json`` that are read later."""

    teacher: TeacherOrigin = TeacherOrigin()
    evaluations: list[Evaluation] = []
    export: Export | None = None
    cards: list[Text] = []
    """SHA-256 of the model card, and of the one that it replaces."""


def read_run(folder: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint folder, validated by :class:`RunManifest`; empty if there is none.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    if not os.path.lexists(folder / "run.json"):
        return {}
    run = read_json(safe_path(folder, "run.json", CheckpointError), CheckpointError)
    try:
        RunManifest.model_validate(run)
    except ValidationError as error:
        what = f"{folder}/run.json is damaged: {first_fault(error)}"
        raise CheckpointError(what, f"{GET_AGAIN}; load() also works without run.json") from error
    return run
