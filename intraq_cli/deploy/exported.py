"""An exported file, ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intraq_cli.deploy.session import OnnxNetwork, metadata, open_session
from intraq_cli.errors import ExportError
from intraq_cli.models.config import is_class_count, spec_of_config
from intraq_cli.models.teacher import InputSpec


@dataclass(frozen=True)
class Exported:
    """What ``intraq export`` wrote, in onnxruntime."""

    network: OnnxNetwork
    spec: InputSpec
    num_classes: int
    label_names: list[str] | None
    run: dict[str, Any]
    """What its checkpoint's manifest says of the teacher."""


def is_onnx(target: str) -> bool:
    """Whether a target is spelled like an exported file."""
    return target.endswith(".onnx")


def open_exported(path: Path) -> Exported:
    """Open an ONNX file of ours.

    Raises:
        ExportError: no such file, none of ours, or one that onnxruntime does not take.
        ModelError: its metadata make no sense.
    """
    if not path.is_file():
        raise ExportError(f"no file {path}", "make one with `intraq export FOLDER`")
    session = open_session(path)
    about = metadata(session, str(path))
    spec = spec_of_config(about.get("pretrained_cfg") or {}, str(path), ExportError)
    classes: Any = about.get("num_classes")
    names = about.get("label_names")
    if not is_class_count(classes) or not (names is None or _are_names(names, classes)):
        raise ExportError(f"{path} does not say its classes", "export it again")
    teacher = about.get("teacher")
    run = {"teacher": teacher} if isinstance(teacher, dict) else {}
    return Exported(OnnxNetwork(session), spec, classes, names, run)


def _are_names(names: Any, count: int) -> bool:
    return isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)
