"""What the functions of this package return, and ``--json`` prints."""

from intraq_cli.results.checkpoints import (
    ExportResult,
    Failure,
    FrontierPoint,
    PushedFile,
    PushResult,
    QuantizationResult,
    ReportResult,
    SeedsResult,
)
from intraq_cli.results.images import ClassCount, Foretold, ImagesResult, SynthesisResult
from intraq_cli.results.measurements import (
    ComparedCheckpoint,
    ComparedNoise,
    ComparisonResult,
    EvaluationResult,
    EvaluationsResult,
    PredictionResult,
)
from intraq_cli.results.networks import InspectedLayer, InspectionResult, LayerSensitivity, SensitivityResult

__all__ = [
    "ClassCount",
    "ComparedCheckpoint",
    "ComparedNoise",
    "ComparisonResult",
    "EvaluationResult",
    "EvaluationsResult",
    "ExportResult",
    "Failure",
    "Foretold",
    "FrontierPoint",
    "ImagesResult",
    "InspectedLayer",
    "InspectionResult",
    "LayerSensitivity",
    "PredictionResult",
    "PushResult",
    "PushedFile",
    "QuantizationResult",
    "ReportResult",
    "SeedsResult",
    "SensitivityResult",
    "SynthesisResult",
]
