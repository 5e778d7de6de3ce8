"""Reading untrusted files: size, location and format are checked first."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intraq_cli.errors import GET_AGAIN, IntraqError

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_JSON = 8 * 2**20
"""Most bytes of a JSON file; timm's largest config, with the labels of 21,843 classes, takes a quarter of it."""
MAX_DIGITS = 100
"""Most digits of an integer, so that each can be converted to a float."""
MAX_HEADER = 16 * 2**20
"""Most bytes of a safetensors file's header: about 100,000 tensors."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a safetensors file, as described in the header."""

    dtype: str
    """``F32``, ``I32``, ``U8``, ..."""
    shape: tuple[int, ...]


def safe_path(folder: Path, name: str, kind: type[IntraqError]) -> Path:
    """Return the path of file ``name`` in a model's folder; a link may only lead into the folder or the Hub's cache.

    Raises:
        IntraqError: of ``kind``: the file is a link that leads elsewhere.
    """
    path = folder / name
    if not path.is_symlink():
        return path
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":  # CACHE/models--ORG--NAME/snapshots/COMMIT; repositories may share blobs
        allowed += [home.parents[1] / "blobs", home.parents[2] / "blobs"]
    try:
        target = path.resolve()
    except RuntimeError:  # circular links
        target = Path()
    if not any(target.is_relative_to(place) for place in allowed):
        raise kind(f"{path} is a link that points outside its folder", "put the file itself there")
    return path


def read_text(path: Path, limit: int, kind: type[IntraqError]) -> str:
    """Read the text of a regular file of at most ``limit`` bytes.

    Raises:
        IntraqError: of ``kind``: the file is not a regular file, too large, not UTF-8, or cannot be read.
    """
    try:
        if not path.is_file():  # also refuses a pipe, which would block
            raise kind(f"cannot read {path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise kind(f"{path} is larger than {limit / 2**20:g} MiB", "check that it is the right file")
        return content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise kind(f"{path} is not UTF-8 text: byte {error.start} is invalid", "save it in UTF-8") from error
    except (OSError, ValueError) as error:  # a ValueError: a null byte in the name
        raise kind(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path, kind: type[IntraqError]) -> dict[str, Any]:
    """Read a JSON object without duplicate keys, NaN, deep nesting, or text that cannot be encoded as UTF-8.

    Raises:
        IntraqError: of ``kind``: the file is not such an object.
    """
    text = read_text(path, MAX_JSON, kind)
    try:
        data = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise kind(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise kind(f"{path} is not a JSON object")
    return data


def parse_json(text: str) -> Any:
    """Parse JSON like ``json.loads``, but strictly.

    Raises:
        ValueError: not JSON, a duplicate key, NaN or infinity, a number too large for a float, an unpaired surrogate.
        RecursionError: nested too deeply.
    """
    data = json.loads(
        text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
    )
    json.dumps(data, ensure_ascii=False).encode()  # "\ud800" is valid JSON, but cannot be encoded
    return data


def first_fault(error: "ValidationError") -> str:
    """Describe the first of pydantic's errors and its place: ``evaluations.0.top1: Field required``."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits is too large")
    return int(text)


def tensor_header(path: Path, kind: type[IntraqError]) -> dict[str, TensorInfo]:
    """Return types and shapes of the tensors in a safetensors file, without reading the tensors.

    Raises:
        IntraqError: of ``kind``: the file is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # here, for a quick start

    damaged = f"{path} is not a safetensors file, or is damaged"
    try:
        if not path.is_file():
            raise kind(f"{path} is a folder" if path.is_dir() else f"there is no file {path}", "check the path")
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > MAX_HEADER:
                raise kind(f"{damaged}: its header is too large", GET_AGAIN)
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            return {key: TensorInfo(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise kind(f"{damaged}: {error}", GET_AGAIN) from error
