"""The results that the public functions return and that ``--json`` prints."""

from intraq_cli.results.checkpoints import ExportResult as ExportResult
from intraq_cli.results.checkpoints import Failure as Failure
from intraq_cli.results.checkpoints import FrontierPoint as FrontierPoint
from intraq_cli.results.checkpoints import PushedFile as PushedFile
from intraq_cli.results.checkpoints import PushResult as PushResult
from intraq_cli.results.checkpoints import QuantizationResult as QuantizationResult
from intraq_cli.results.checkpoints import ReportResult as ReportResult
from intraq_cli.results.checkpoints import SeedsResult as SeedsResult
from intraq_cli.results.images import ClassCount as ClassCount
from intraq_cli.results.images import Forecast as Forecast
from intraq_cli.results.images import ImagesResult as ImagesResult
from intraq_cli.results.images import SynthesisResult as SynthesisResult
from intraq_cli.results.measurements import ComparedCheckpoint as ComparedCheckpoint
from intraq_cli.results.measurements import ComparedNoise as ComparedNoise
from intraq_cli.results.measurements import ComparisonResult as ComparisonResult
from intraq_cli.results.measurements import EvaluationResult as EvaluationResult
from intraq_cli.results.measurements import EvaluationsResult as EvaluationsResult
from intraq_cli.results.measurements import PredictionResult as PredictionResult
from intraq_cli.results.networks import InspectedLayer as InspectedLayer
from intraq_cli.results.networks import InspectionResult as InspectionResult
from intraq_cli.results.networks import LayerSensitivity as LayerSensitivity
from intraq_cli.results.networks import SensitivityResult as SensitivityResult
