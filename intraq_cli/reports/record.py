"""The schema of what a report reads from a checkpoint folder's ``run.json`` and ``metrics.jsonl``."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr, ValidationError

from intraq_cli.checkpoint.run_manifest import Count, Figure, JsonTable, RunManifest, Text, Whole
from intraq_cli.errors import MAKE_AGAIN, CheckpointError
from intraq_cli.io.untrusted import first_fault

Number = Figure | None
"""A number; None: it was not finite."""


class Measured(JsonTable):
    """Measurements of the whole network; shares in percent."""

    bytes_float: Count
    bytes_quantized: Count
    agreement: Number = None
    kl: Number = None
    held_out: Count | None = None
    images: Count | None = None
    pictures: Count = 0
    """Number of images that were the user's own pictures."""
    heterogeneity: Number = None
    logits_error: Number = None
    random_images: bool = False
    """Without images: whether ranges were set on random images."""
    tuning_undone: bool = False
    """Whether the checkpoint is the calibrated network instead of the tuned one."""
    teacher_accuracy_synthetic: Number = None
    sqnr: dict[Text, Number] = Field(default_factory=dict)


class LayerRow(JsonTable):
    """An operation with multiply-adds."""

    name: Text
    kind: Text
    weight_shape: list[Count] = Field(default_factory=list)
    parameters: Count
    multiply_adds: Count
    w_bits: Count | None = None
    a_bits: Count | None = None
    call_bits: Annotated[list[Count | None], Field(max_length=10_000)] = Field(default_factory=list)
    bytes: Count
    float_reason: Text | None = None


class Inspection(JsonTable):
    """What in the network is quantized."""

    w_bits: Count
    a_bits: Count
    act_placement: Text
    low_bit_share: Figure
    layers: list[LayerRow]


class RangeRow(JsonTable):
    """The values at an activation quantizer, see :class:`intraq_cli.quantization.ranges.SiteRange`."""

    site: Text
    bits: Count
    low: Figure
    high: Figure
    grid_low: Figure
    grid_high: Figure
    clipped: Figure
    sqnr: Number
    counts: Annotated[list[Count], Field(min_length=1, max_length=256)]


class Sample(JsonTable):
    """A synthetic image: its class, the float network's confidence in it, and the float network's top-1 class."""

    label: Whole
    confidence: Figure
    first: Whole


class FrontierPoint(JsonTable):
    """A choice of bits that was considered."""

    bytes: Figure
    divergence: Figure
    chosen: bool = False


class LayerMoves(JsonTable):
    """Sensitivity of a layer: divergence, by bits, when only its weight or only its input is quantized."""

    name: Text
    weights: dict[Text, Number] = Field(default_factory=dict)
    inputs: dict[Text, Number] = Field(default_factory=dict)


class TuningSteps(JsonTable):
    """How long the run tuned."""

    steps: Count


class UsedRecipe(JsonTable):
    """The recipe of the run."""

    name: Text
    tuning: TuningSteps


class Run(RunManifest):
    """``run.json``, with all fields that a report or a model card shows."""

    name: Text
    command: StrictStr
    seed: Whole
    recipe: UsedRecipe
    images: list[Text] = Field(default_factory=list)
    """Values of ``--images``."""
    images_from: Text | None = None
    """The float network that synthetic images were learned from, if its weights differ from the teacher's."""
    needs_factory: StrictBool = False
    """Whether the user's own code builds the network."""
    device: Text = ""
    seconds: Number = None
    stages: dict[Text, Number] = Field(default_factory=dict)
    versions: dict[Text, Text]
    commit: Text | None = None
    measured: Measured
    inspection: Inspection | None = None
    losses: dict[Text, dict[Text, Number]] = Field(default_factory=dict)
    ranges: list[RangeRow] = Field(default_factory=list)
    samples: list[Sample] = Field(default_factory=list)
    frontier: list[FrontierPoint] = Field(default_factory=list)
    sensitivity: list[LayerMoves] = Field(default_factory=list)


class Step(JsonTable):
    """A line of ``metrics.jsonl``; its other fields are loss terms."""

    __pydantic_extra__: dict[str, Figure] = Field(init=False)

    stage: Literal["synthesis", "tuning"]
    step: Count
    images: Count
    seconds: Figure

    @property
    def losses(self) -> dict[str, float]:
        """Return the losses by term."""
        return dict(self.__pydantic_extra__ or {})


def checked_run(run: dict[str, Any], where: str) -> Run:
    """Validate the manifest for a report.

    Raises:
        CheckpointError: a field is missing or has a wrong type.
    """
    try:
        return Run.model_validate(run)
    except ValidationError as error:
        what = f"{where}/run.json lacks what the report needs: {first_fault(error)}"
        raise CheckpointError(what, MAKE_AGAIN) from error
