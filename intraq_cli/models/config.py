"""``config.json`` as timm writes it, possibly a stranger's: every field is checked before anything is built from it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from intraq_cli.errors import IntraqError, ModelError
from intraq_cli.models.teacher import InputSpec

MAX_CLASSES = 1_000_000
MAX_ARGUMENT = 16384
"""Of a number in ``model_args``: widths and depths."""
MAX_FACTOR = 32
"""The same of multipliers, ratios and windows, which builders loop over."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")
CROP_MODES = ("center", "squash", "border")
REPOSITORY = r"\w[\w.-]*/\w[\w.-]*(@\S+)?"
"""How a repository on the Hub is spelled."""

REFUSED_ARGUMENTS = re.compile(
    # what reads files or the network, what puts the network elsewhere, what makes it another thing than a classifier
    r"pretrained.*|weights.*|checkpoint.*|.*(file|path|url|dir)|state_dict|progress|device|dtype|model_name|model_cfg"
    r"|scriptable|exportable|no_jit|pruned|kwargs_filter|features_only|feature_.*|out_indices"
)


@dataclass(frozen=True)
class ModelConfig:
    """What a ``config.json`` says of a network, checked."""

    architecture: str
    num_classes: int | None
    model_args: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    """The fields of it that are known here; the rest is left out."""
    label_names: list[str] | None


def check_config(config: dict[str, Any], where: str, kind: type[IntraqError] = ModelError) -> ModelConfig:
    """Check the fields of a ``config.json`` that networks are built from.

    Args:
        config: the JSON object; ``pretrained_cfg``'s fields may lie beside ``architecture``, as old files have them.
        where: the file or repository, for messages.
        kind: of the error.

    Raises:
        IntraqError: of ``kind``: a field is missing, of the wrong type, or out of range.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not 0 < len(architecture) <= 1000:
        raise kind(f"{where}: config.json names no architecture", "it needs timm's config.json")
    args = config.get("model_args")
    args = {} if args is None else args
    _require(isinstance(args, dict), "model_args", args, where, kind)
    for name, value in args.items():
        if REFUSED_ARGUMENTS.fullmatch(name) or not re.fullmatch(r"[a-z]\w{0,63}", name, re.ASCII | re.IGNORECASE):
            raise kind(f"{where}: config.json: model_args may not hold {name!r}", "it says more than a network's shape")
        _require(_is_argument(value, _bound(name)), f"model_args.{name}", value, where, kind)
    cfg = config.get("pretrained_cfg", config)
    _require(isinstance(cfg, dict), "pretrained_cfg", cfg, where, kind)
    cfg = {key: cfg[key] for key in FIELDS if cfg.get(key) is not None}
    for key, value in cfg.items():
        _require(FIELDS[key](value), f"pretrained_cfg.{key}", value, where, kind)
    num_classes = config.get("num_classes", cfg.get("num_classes"))
    _require(num_classes is None or is_class_count(num_classes), "num_classes", num_classes, where, kind)
    if None not in (num_classes, args.get("num_classes")) and args["num_classes"] != num_classes:
        raise kind(f"{where}: config.json: num_classes is {num_classes} and {args['num_classes']}")
    labels = check_labels(config.get("label_names"), num_classes, where, kind)
    return ModelConfig(architecture, num_classes, args, cfg, labels)


def check_labels(labels: Any, num_classes: int | None, where: str, kind: type[IntraqError]) -> list[str] | None:
    """``label_names``, if they are a name for every class; None if there are none.

    Raises:
        IntraqError: of ``kind``: they are something else.
    """
    if labels is None:
        return None
    _require(isinstance(labels, list) and all(type(n) is str for n in labels), "label_names", labels, where, kind)
    if num_classes is not None and len(labels) != num_classes:
        raise kind(f"{where}: config.json has {len(labels)} label_names for {num_classes} classes")
    return labels


def spec_of_config(cfg: dict[str, Any], source: str, kind: type[IntraqError] = ModelError) -> InputSpec:
    """The input specification in a config's ``pretrained_cfg``.

    Raises:
        IntraqError: of ``kind``: a key is missing, of the wrong type, or out of range.
    """
    for key in ("input_size", "mean", "std"):
        if cfg.get(key) is None:
            raise kind(f"{source}: pretrained_cfg lacks {key}", "it needs input_size, mean, std")
    known = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    values = {key: cfg[key] for key in known if cfg.get(key) is not None}
    for key, value in values.items():
        _require(FIELDS[key](value), f"pretrained_cfg.{key}", value, source, kind)
    values |= {key: tuple(values[key]) for key in ("input_size", "mean", "std")}
    return InputSpec(**values)


def _require(fits: bool, field: str, value: Any, where: str, kind: type[IntraqError]) -> None:
    if not fits:
        raise kind(f"{where}: config.json: {field} is {_short(value)}", "the file is damaged, or no timm config.json")


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    # a whole number of thousands of digits cannot even be written
    text = f"a number of {value.bit_length()} bits" if type(value) is int and abs(value) > 2**63 else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def is_class_count(value: Any) -> bool:
    """Whether ``value`` may be a number of classes."""
    return type(value) is int and 0 <= value <= MAX_CLASSES


def _bound(name: str) -> int:
    if name == "num_classes":
        return MAX_CLASSES
    return MAX_FACTOR if re.search("multiplier|ratio|rate|window", name) else MAX_ARGUMENT


def _is_argument(value: Any, bound: int, depth: int = 2) -> bool:
    if isinstance(value, list):
        return depth > 0 and len(value) <= 64 and all(_is_argument(item, bound, depth - 1) for item in value)
    if isinstance(value, str):
        return re.fullmatch(r"[\w.,+-]{0,64}", value, re.ASCII) is not None
    return value is None or isinstance(value, bool) or _is_number(value, -bound, bound)


def _is_number(value: Any, low: float, high: float) -> bool:
    # written so that NaN fails too; a whole number may be too large for a float
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()  # it goes into model cards


def _is_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and len(value) <= 64 and all(_is_text(item) for item in value))


def _are_numbers(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) <= 4096 and all(_is_number(v, low, high) for v in value)


def _is_size(value: Any) -> bool:
    return _are_numbers(value, 1, 2**16) and len(value) == 3 and all(type(v) is int for v in value)


def _is_repository(value: Any) -> bool:
    # as the Hub's client has it; a revision is a part of paths in its cache
    part = r"(\w|\w[\w.-]*\w)"
    spelled = _is_text(value) and re.fullmatch(f"{part}/{part}(@{part})?", value, re.ASCII) is not None
    return spelled and len(value) <= 96 and not re.search(r"\.\.|--|\.git$", value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


FIELDS: dict[str, Callable[[Any], bool]] = {
    "input_size": _is_size,
    "test_input_size": _is_size,
    "min_input_size": _is_size,
    "fixed_input_size": _is_flag,
    "interpolation": INTERPOLATIONS.__contains__,
    "crop_pct": lambda value: _is_number(value, 0.5, 2),
    "test_crop_pct": lambda value: _is_number(value, 0.5, 2),
    "crop_mode": CROP_MODES.__contains__,
    "mean": lambda value: _are_numbers(value, -1e6, 1e6),
    "std": lambda value: _are_numbers(value, math.ulp(1.0), 1e6),
    "num_classes": is_class_count,
    "label_offset": is_class_count,
    "pool_size": lambda value: _are_numbers(value, 1, 2**16),
    "test_pool_size": lambda value: _are_numbers(value, 1, 2**16),
    "first_conv": _is_texts,
    "classifier": _is_texts,
    "architecture": _is_text,
    "tag": _is_text,
    "license": _is_text,
    "origin_url": _is_text,
    "paper_name": _is_text,
    "paper_ids": _is_texts,
    "hf_hub_id": _is_repository,
}
"""The fields of ``pretrained_cfg`` that are used or passed on, and what they must be; None counts as absent."""
