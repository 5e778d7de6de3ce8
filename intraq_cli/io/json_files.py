"""JSON as it is written: any value that Python has, in UTF-8, one field a line."""

import json
import math
import re
from pathlib import Path
from typing import Any

NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What Python has in place of bytes that are no UTF-8."""


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write :func:`json_text`."""
    path.write_text(json_text(data), encoding="utf-8")


def json_text(data: dict[str, Any]) -> str:
    """The content of a JSON file for people to read too."""
    return json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """``value`` as JSON in UTF-8 can hold it: what is no finite number becomes null, what is no character another one.

    Names of files may have bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
