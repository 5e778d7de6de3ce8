"""Data-free quantization of image classifiers to 2 to 8 bits, after IntraQ (CVPR 2022).

>>> from intraq_cli import quantize, evaluate, load
>>> quantize("resnet18", w=4, a=4, out="resnet18-w4a4")
>>> evaluate("resnet18-w4a4", data="imagenet/val").top1
>>> network = load("resnet18-w4a4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intraq_cli.api.evaluate import evaluate as evaluate
    from intraq_cli.api.export import export as export
    from intraq_cli.api.images import images as images
    from intraq_cli.api.inspect import inspect as inspect
    from intraq_cli.api.load import load as load
    from intraq_cli.api.predict import predict as predict
    from intraq_cli.api.push import push as push
    from intraq_cli.api.quantize import quantize as quantize
    from intraq_cli.api.report import compare as compare
    from intraq_cli.api.report import report as report
    from intraq_cli.api.sensitivity import sensitivity as sensitivity
    from intraq_cli.api.several import evaluate_many as evaluate_many
    from intraq_cli.api.several import quantize_seeds as quantize_seeds
    from intraq_cli.api.synthesize import synthesize as synthesize
    from intraq_cli.errors import IntraqError as IntraqError
    from intraq_cli.quantization.rounding import RoundingInput as RoundingInput
    from intraq_cli.runtime.extensions import image_loss as image_loss
    from intraq_cli.runtime.extensions import weight_rounding as weight_rounding
    from intraq_cli.synthesis.losses import LossInput as LossInput

__version__ = "0.1.0"

_HOMES = {
    "synthesize": "intraq_cli.api.synthesize",
    "quantize": "intraq_cli.api.quantize",
    "evaluate": "intraq_cli.api.evaluate",
    "evaluate_many": "intraq_cli.api.several",
    "quantize_seeds": "intraq_cli.api.several",
    "export": "intraq_cli.api.export",
    "predict": "intraq_cli.api.predict",
    "images": "intraq_cli.api.images",
    "inspect": "intraq_cli.api.inspect",
    "sensitivity": "intraq_cli.api.sensitivity",
    "compare": "intraq_cli.api.report",
    "report": "intraq_cli.api.report",
    "load": "intraq_cli.api.load",
    "push": "intraq_cli.api.push",
    "IntraqError": "intraq_cli.errors",
    "image_loss": "intraq_cli.runtime.extensions",
    "weight_rounding": "intraq_cli.runtime.extensions",
    "LossInput": "intraq_cli.synthesis.losses",
    "RoundingInput": "intraq_cli.quantization.rounding",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    # lazy, so that `intraq --help` does not import torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
