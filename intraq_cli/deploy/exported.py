"""Open an exported ONNX file, ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from intraq_cli.checkpoint.run_manifest import TeacherOrigin
from intraq_cli.deploy.onnx_file import PRODUCER
from intraq_cli.deploy.session import OnnxNetwork, open_session
from intraq_cli.errors import ExportError, first_line
from intraq_cli.io.untrusted import first_fault
from intraq_cli.models.config import MAX_CLASSES, PretrainedCfg, spec_of_config
from intraq_cli.models.input_spec import InputSpec

MAKE_ONE = "make one with `intraq export FOLDER`"


@dataclass(frozen=True)
class Exported:
    """A file that ``intraq export`` wrote, loaded in onnxruntime."""

    network: OnnxNetwork
    spec: InputSpec
    num_classes: int
    label_names: list[str] | None
    run: dict[str, Any]
    """The part of its checkpoint's manifest about the teacher."""


class _Metadata(BaseModel):
    """Metadata of a file that may come from a stranger; other fields are ignored."""

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
    """Open an ONNX file that ``intraq export`` wrote.

    Raises:
        ExportError: the file is missing, was not written by ``intraq export``, is rejected by onnxruntime, or has
            invalid metadata.
        ModelError: its metadata specify an invalid input.
    """
    if not path.is_file():
        raise ExportError(f"there is no file {path}", MAKE_ONE)
    session = open_session(path)
    about = _metadata(session, path)
    spec = spec_of_config(about.pretrained_cfg, f"{path}: pretrained_cfg", ExportError)
    network = OnnxNetwork(session)
    _check_runs(network, spec, about.num_classes, path)
    run = {"teacher": about.teacher.model_dump()} if about.teacher else {}
    return Exported(network, spec, about.num_classes, about.label_names, run)


def _metadata(session: Any, path: Path) -> _Metadata:
    """Return the metadata of a file.

    Raises:
        ExportError: the file was not made by ``intraq export``, or its metadata are invalid.
    """
    said = session.get_modelmeta().custom_metadata_map.get(PRODUCER)
    if said is None:
        raise ExportError(f"{path} was not made by `intraq export`: it has no metadata on images and classes", MAKE_ONE)
    try:
        return _Metadata.model_validate_json(said)
    except ValidationError as error:
        raise ExportError(f"the metadata of {path} are damaged: {first_fault(error)}", "export it again") from error


def _check_runs(network: OnnxNetwork, spec: InputSpec, num_classes: int, path: Path) -> None:
    """Run a file once on an input of the size in its metadata.

    Raises:
        ExportError: the file does not accept this input, or returns another number of logits than its metadata state.
    """
    try:
        logits = network(torch.zeros(1, *spec.input_size))
    except ExportError as error:
        reason = first_line(error.__cause__ or error)
        raise ExportError(f"{path} fails on an input of {spec.size}: {reason}", "export it again") from error
    if logits.shape != (1, num_classes):
        raise ExportError(f"{path} does not return the {num_classes} logits that its metadata state", "export it again")
