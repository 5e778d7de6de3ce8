"""Writing JSON: in UTF-8, one field per line, with values that JSON does not support replaced."""

import json
import math
import re
from pathlib import Path
from typing import Any

NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""Surrogates, which Python uses for bytes that are not UTF-8."""


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write the :func:`json_text` of ``data``."""
    path.write_text(json_text(data), encoding="utf-8")


def json_text(data: dict[str, Any]) -> str:
    """Format a JSON file so that people can read it too."""
    return json.dumps(jsonable(data), indent=2, ensure_ascii=False) + "\n"


def jsonable(value: Any) -> Any:
    """Convert ``value`` to what JSON in UTF-8 supports: NaN and infinities to null, surrogates to U+FFFD, keys to text.

    Surrogates occur in file names with bytes that are not UTF-8.
    """
    if isinstance(value, str):
        return NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {jsonable(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
