"""``config.json`` in timm's format, perhaps untrusted: every field is validated before anything is built from it."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from intraq_cli.errors import IntraqError, ModelError
from intraq_cli.models.input_options import MAX_CROP_PCT, MIN_CROP_PCT, MIN_STD, Interpolation
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.words import short

DAMAGED = "check the file: it is damaged, or is not a config.json in timm's format"
MAX_CLASSES = 1_000_000
MAX_ARGUMENT = 16384
"""Upper bound of a number in ``model_args``, such as a width or depth."""
MAX_FACTOR = 32
"""Upper bound of multipliers, ratios, rates and windows in ``model_args``, which builders loop over."""
REPOSITORY = r"\w[\w.-]*/\w[\w.-]*(@\S+)?"
"""Pattern of a repository name on the Hub."""
SPEC = {field.name for field in fields(InputSpec)}
"""The fields of ``pretrained_cfg`` that specify a network's input."""

N = TypeVar("N")
M = TypeVar("M", bound=BaseModel)

REFUSED_ARGUMENTS = re.compile(
    # arguments that read files or download, that change device or dtype, or that build no classifier
    r"pretrained.*|weights.*|checkpoint.*|.*(file|path|url|dir)|state_dict|progress|device|dtype|model_name|model_cfg"
    r"|scriptable|exportable|no_jit|pruned|kwargs_filter|features_only|feature_.*|out_indices"
)


def _printable(text: str) -> str:
    if not text.isprintable():  # it is printed in model cards
        raise ValueError("contains unprintable characters")
    return text


def _repository(text: str) -> str:
    # the rules of the Hub's client; a revision becomes part of paths in its cache
    part = r"(\w|\w[\w.-]*\w)"
    spelled = re.fullmatch(f"{part}/{part}(@{part})?", text, re.ASCII) is not None
    if not spelled or len(text) > 96 or re.search(r"\.\.|--|\.git$", text):
        raise ValueError("not a valid repository name")
    return text


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # a config from Python code may have tuples


Text = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
Texts = Text | Annotated[list[Text], Field(max_length=64)]
Classes = Annotated[int, Field(ge=0, le=MAX_CLASSES)]
Crop = Annotated[float, Field(ge=MIN_CROP_PCT, le=MAX_CROP_PCT)]
Side = Annotated[int, Field(ge=1, le=2**16)]
Size = Annotated[list[Side], Field(min_length=3, max_length=3), BeforeValidator(_listed)]
Numbers = Annotated[list[N], Field(min_length=1, max_length=4096), BeforeValidator(_listed)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Std = Annotated[float, Field(ge=MIN_STD, le=1e6)]
Pool = Annotated[float, Field(ge=1, le=2**16)]


class PretrainedCfg(BaseModel):
    """The fields of ``pretrained_cfg`` that are used or passed on. None means absent; other fields are dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    input_size: Size | None = None
    test_input_size: Size | None = None
    min_input_size: Size | None = None
    fixed_input_size: bool | None = None
    interpolation: Interpolation | None = None
    crop_pct: Crop | None = None
    test_crop_pct: Crop | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: Numbers[Mean] | None = None
    std: Numbers[Std] | None = None
    num_classes: Classes | None = None
    label_offset: Classes | None = None
    pool_size: Numbers[Pool] | None = None
    test_pool_size: Numbers[Pool] | None = None
    first_conv: Texts | None = None
    classifier: Texts | None = None
    architecture: Text | None = None
    tag: Text | None = None
    license: Text | None = None
    origin_url: Text | None = None
    paper_name: Text | None = None
    paper_ids: Texts | None = None
    hf_hub_id: Annotated[Text, AfterValidator(_repository)] | None = None


class ModelConfig(BaseModel):
    """The validated description of a network in a ``config.json``."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    architecture: Annotated[str, Field(min_length=1, max_length=1000)]
    num_classes: Classes | None = None
    model_args: Annotated[dict[str, Any], AfterValidator(lambda args: _arguments(args))]
    pretrained_cfg: PretrainedCfg
    label_names: list[str] | None = None
    """A name for every class."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        labels, classes = self.label_names, self.model_args.get("num_classes")
        if None not in (self.num_classes, classes) and classes != self.num_classes:
            raise _stated(f"num_classes is {self.num_classes}, but {classes} in model_args")
        classes = self.num_classes if classes is None else classes
        if None not in (labels, classes) and len(labels or ()) != classes:
            raise _stated(f"{len(labels or ())} label_names for {classes} classes")
        return self


def check_config(config: dict[str, Any], where: str, kind: type[IntraqError] = ModelError) -> ModelConfig:
    """Check the fields of a ``config.json`` that networks are built from.

    Args:
        config: the JSON object; in old files the fields of ``pretrained_cfg`` are next to ``architecture``.
        where: the file, for messages.
        kind: class of the error to raise.

    Raises:
        IntraqError: of ``kind``: a field is missing, of the wrong type, or out of range.
    """
    cfg = config.get("pretrained_cfg", config)
    known = cfg.get("num_classes") if isinstance(cfg, dict) else None
    args = config.get("model_args")
    if isinstance(labels := config.get("label_names"), dict):
        config = {**config, "label_names": _named(labels, config.get("num_classes", known))}
    defaults = {"num_classes": known, "pretrained_cfg": cfg, "architecture": ""}
    return _checked(ModelConfig, {**defaults, **config, "model_args": {} if args is None else args}, where, kind)


def _named(labels: dict[str, Any], classes: Any) -> Any:
    """Return a name for every class from timm's other format, a table of indices to names, which may have gaps."""
    if not is_class_count(classes) or not all(key.isdecimal() and int(key) < classes for key in labels):
        return labels
    return [labels.get(str(k), f"class {k}") for k in range(classes)]


def spec_of_config(
    cfg: PretrainedCfg | Mapping[str, Any], where: str, kind: type[IntraqError] = ModelError
) -> InputSpec:
    """Return the input specification in a ``pretrained_cfg``.

    Args:
        cfg: in timm's format; fields that do not describe the input are ignored.
        where: the file and the table in it, for messages.
        kind: class of the error to raise.

    Raises:
        IntraqError: of ``kind``: a key is missing, of the wrong type, or out of range.
    """
    if not isinstance(cfg, PretrainedCfg):
        known = {key: cfg[key] for key in SPEC if key in cfg}
        cfg = _checked(PretrainedCfg, known, where, kind, "write it in timm's format")
    for key in ("input_size", "mean", "std"):
        if getattr(cfg, key) is None:
            raise kind(f"{where} lacks {key}", "add input_size, mean and std")
    values: dict[str, Any] = cfg.model_dump(include=SPEC, exclude_none=True)
    lists: dict[str, Any] = {key: tuple(values.pop(key)) for key in ("input_size", "mean", "std")}
    return InputSpec(**lists, **values)


def _checked(model: type[M], data: dict[str, Any], where: str, kind: type[IntraqError], hint: str = DAMAGED) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if first["type"] == "stated":
        raise kind(f"{where}: {first['msg']}", hint)
    path = first["loc"][: 2 if first["loc"][0] == "pretrained_cfg" else 1]
    if path == ("architecture",):
        raise kind(f"{where} names no architecture", "give a config.json in timm's format")
    value: Any = data
    for key in path:
        value = value[key]
    field = ".".join(map(str, path))
    raise kind(f"{where}: {field} is {short(value)}, which is not valid", hint)


def _stated(text: str) -> PydanticCustomError:
    """Return an error whose message is reported unchanged."""
    return PydanticCustomError("stated", "{text}", {"text": text})


def _arguments(args: dict[str, Any]) -> dict[str, Any]:
    for name, value in args.items():
        if REFUSED_ARGUMENTS.fullmatch(name) or not re.fullmatch(r"[a-z]\w{0,63}", name, re.ASCII | re.IGNORECASE):
            raise _stated(f"model_args may not contain {name!r}, only what sets the shape of a network")
        if not _is_argument(value, _bound(name)):
            raise _stated(f"model_args.{name} is {short(value)}, which is not allowed")
    return args


def _bound(name: str) -> int:
    if name == "num_classes":
        return MAX_CLASSES
    return MAX_FACTOR if re.search("multiplier|ratio|rate|window", name) else MAX_ARGUMENT


def _is_argument(value: Any, bound: int, depth: int = 2) -> bool:
    if isinstance(value, list):
        return depth > 0 and len(value) <= 64 and all(_is_argument(item, bound, depth - 1) for item in value)
    if isinstance(value, str):
        return re.fullmatch(r"[\w.,+-]{0,64}", value, re.ASCII) is not None
    # this form of comparison rejects NaN too
    return value is None or (isinstance(value, (bool, int, float)) and -bound <= value <= bound)


def is_class_count(value: Any) -> bool:
    """Whether ``value`` can be a number of classes."""
    return type(value) is int and 0 <= value <= MAX_CLASSES
