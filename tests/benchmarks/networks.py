"""Real networks to measure on; they are not part of the project and may be missing."""

import sys
from pathlib import Path

from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.models.teacher import Teacher

FILE = Path(__file__).resolve().parents[3] / "shared" / "real_models.py"
INPUTS = {
    "resnet20_cifar10": InputOverride((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mobilenetv1_075": InputOverride((3, 224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def real_network(name: str) -> Teacher:
    """One of :data:`INPUTS`, or any MODEL that states its own preprocessing."""
    if name not in INPUTS:
        return Source.parse(name).load()
    if not FILE.is_file():
        sys.exit(f"{FILE} is not on this machine: name another model, e.g. resnet20_digits")
    return Source.parse(f"{FILE}:{name}", INPUTS[name]).load()
