"""An exported file, ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from intraq_cli.checkpoint.run_manifest import TeacherOrigin
from intraq_cli.deploy.onnx_file import PRODUCER
from intraq_cli.deploy.session import OnnxNetwork, open_session
from intraq_cli.errors import ExportError, first_line, interruption
from intraq_cli.io.untrusted import first_fault
from intraq_cli.models.config import MAX_CLASSES, PretrainedCfg, spec_of_config
from intraq_cli.models.input_spec import InputSpec


@dataclass(frozen=True)
class Exported:
    """What ``intraq export`` wrote, in onnxruntime."""

    network: OnnxNetwork
    spec: InputSpec
    num_classes: int
    label_names: list[str] | None
    run: dict[str, Any]
    """What its checkpoint's manifest says of the teacher."""


class _Metadata(BaseModel):
    """What a file says of itself, possibly a stranger's; other fields are not read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    pretrained_cfg: PretrainedCfg
    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    label_names: list[str] | None = None
    teacher: TeacherOrigin | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.label_names is not None and len(self.label_names) != self.num_classes:
            raise ValueError(f"{len(self.label_names)} label_names for {self.num_classes} classes")
        return self


def open_exported(path: Path) -> Exported:
    """Open an ONNX file of ours.

    Raises:
        ExportError: no such file, none of ours, one that onnxruntime does not take, or metadata that make no sense.
        ModelError: the input that it speaks of makes no sense.
    """
    if not path.is_file():
        raise ExportError(f"no file {path}", "make one with `intraq export FOLDER`")
    session = open_session(path)
    about = _metadata(session, path)
    spec = spec_of_config(about.pretrained_cfg, f"{path}: pretrained_cfg", ExportError)
    network = OnnxNetwork(session)
    _check_runs(network, spec, about.num_classes, path)
    run = {"teacher": about.teacher.model_dump()} if about.teacher else {}
    return Exported(network, spec, about.num_classes, about.label_names, run)


def _metadata(session: Any, path: Path) -> _Metadata:
    """What a file says of itself.

    Raises:
        ExportError: it was not made by ``intraq export``, or its metadata make no sense.
    """
    said = session.get_modelmeta().custom_metadata_map.get(PRODUCER)
    if said is None:
        raise ExportError(f"{path} was not made by `intraq export`", "its metadata say nothing of images and classes")
    try:
        return _Metadata.model_validate_json(said)
    except ValidationError as error:
        raise ExportError(f"the metadata of {path} are damaged: {first_fault(error)}", "export it again") from error


def _check_runs(network: OnnxNetwork, spec: InputSpec, num_classes: int, path: Path) -> None:
    """Run a file once on the input that it speaks of.

    Raises:
        ExportError: it takes another one, or gives other logits than it says.
    """
    try:
        logits = network(torch.zeros(1, *spec.input_size))
    except Exception as error:  # the runtime's errors have no common class
        if interruption(error):
            raise
        raise ExportError(
            f"{path} does not run on input {spec.size}: {first_line(error)}", "export it again"
        ) from error
    if logits.shape != (1, num_classes):
        raise ExportError(f"{path} does not return {num_classes} logits, as it says", "export it again")
