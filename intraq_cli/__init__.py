"""Data-free quantization of image classifiers to 2 to 8 bits, after IntraQ (CVPR 2022).

>>> from intraq_cli import quantize, evaluate, load
>>> quantize("resnet18", w=4, a=4, out="resnet18-w4a4")
>>> evaluate("resnet18-w4a4", data="imagenet/val").top1
>>> network = load("resnet18-w4a4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intraq_cli.api.evaluation import evaluate
    from intraq_cli.api.exporting import export
    from intraq_cli.api.images import images
    from intraq_cli.api.inspection import inspect
    from intraq_cli.api.loading import load
    from intraq_cli.api.prediction import predict
    from intraq_cli.api.publishing import push
    from intraq_cli.api.quantization import quantize
    from intraq_cli.api.reporting import compare, report
    from intraq_cli.api.sensitivity import sensitivity
    from intraq_cli.api.several import evaluate_many, quantize_seeds
    from intraq_cli.api.synthesis import synthesize
    from intraq_cli.errors import IntraqError
    from intraq_cli.quantization.rounding import RoundingInput
    from intraq_cli.runtime.extensions import image_loss, weight_rounding
    from intraq_cli.synthesis.losses import LossInput

__version__ = "0.1.0"

_HOMES = {
    "synthesize": "intraq_cli.api.synthesis",
    "quantize": "intraq_cli.api.quantization",
    "evaluate": "intraq_cli.api.evaluation",
    "evaluate_many": "intraq_cli.api.several",
    "quantize_seeds": "intraq_cli.api.several",
    "export": "intraq_cli.api.exporting",
    "predict": "intraq_cli.api.prediction",
    "images": "intraq_cli.api.images",
    "inspect": "intraq_cli.api.inspection",
    "sensitivity": "intraq_cli.api.sensitivity",
    "compare": "intraq_cli.api.reporting",
    "report": "intraq_cli.api.reporting",
    "load": "intraq_cli.api.loading",
    "push": "intraq_cli.api.publishing",
    "IntraqError": "intraq_cli.errors",
    "image_loss": "intraq_cli.runtime.extensions",
    "weight_rounding": "intraq_cli.runtime.extensions",
    "LossInput": "intraq_cli.synthesis.losses",
    "RoundingInput": "intraq_cli.quantization.rounding",
}
__all__ = [
    "IntraqError",
    "LossInput",
    "RoundingInput",
    "__version__",
    "compare",
    "evaluate",
    "evaluate_many",
    "export",
    "image_loss",
    "images",
    "inspect",
    "load",
    "predict",
    "push",
    "quantize",
    "quantize_seeds",
    "report",
    "sensitivity",
    "synthesize",
    "weight_rounding",
]


def __getattr__(name: str) -> Any:
    # lazy: `intraq --help` must not wait for torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
