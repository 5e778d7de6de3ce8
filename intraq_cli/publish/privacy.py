"""Replace absolute paths by names of files and folders in everything that is published."""

import re
import shlex
from pathlib import PureWindowsPath
from typing import Any

from intraq_cli.evaluation.class_labels import SPLITS

ABSOLUTE = re.compile(
    r"(?P<option>(?:[\w.-]{2,}[:=])*(?:synthesis\.losses\.)?)"
    r"(?P<path>(?:(?:(?<=file:)//)?/(?!/)|~[\w.-]*/|(?:[^\\/:=]+[\\/])*?\.\.[\\/]|[A-Za-z]:[\\/]|\\\\).*)",
    re.DOTALL,
)
"""Matches a whole word that is an absolute path on any system, or a path out of the working folder, possibly after
``local-dir:``, ``--out=`` or a recipe's key; does not match a URL."""
QUOTED = re.compile(r"(?P<quote>['\"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)", re.DOTALL)
"""Matches a quoted string, in Python or TOML."""


def without_paths(value: Any) -> Any:
    """Return JSON with absolute paths replaced by names of files and folders, also inside commands."""
    if isinstance(value, dict):
        return {_in_text(key) if isinstance(key, str) else key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return _in_text(value) if isinstance(value, str) else value


def local_names(run: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest without paths; ``local-dir:`` marks a teacher from a folder, which is no model name."""
    made = without_paths(run)
    teacher = run.get("teacher")
    source = teacher.get("source") if isinstance(teacher, dict) else None
    if isinstance(source, str) and made["teacher"]["source"] != source and ".py:" not in source:
        made["teacher"]["source"] = "local-dir:" + made["teacher"]["source"].removeprefix("local-dir:")
    return made


def card_without_paths(card: str, data: Any) -> str:
    """Remove from a card the absolute paths that occur in ``data``, the config and manifest that it was made from."""
    for text in sorted(_texts(data), key=len, reverse=True):
        name = _in_text(text)
        if name != text:  # not inside a longer path or a URL
            card = re.sub(rf"(?<![\w/:.~-]){re.escape(text)}(?![\w/-])", name.replace("\\", r"\\"), card)
    return card


def _texts(data: Any) -> list[str]:
    if isinstance(data, (dict, list)):
        return [text for item in (data.values() if isinstance(data, dict) else data) for text in _texts(item)]
    return [data] if isinstance(data, str) else []


def _in_text(text: str) -> str:
    if text.startswith("intraq "):
        try:
            return shlex.join(map(_name, shlex.split(text)))
        except ValueError:  # unbalanced quotation marks
            return " ".join(map(_name, text.split()))
    if re.match(r"\w+\(", text):  # a call in Python
        return _in_quotes(text)
    return _name(text)


def _in_quotes(text: str) -> str:
    return QUOTED.sub(lambda found: f"{found['quote']}{_name(found['text'])}{found['quote']}", text)


def _name(word: str) -> str:
    """Return the last part of an absolute path, and every other word unchanged."""
    found = ABSOLUTE.fullmatch(word)
    path = PureWindowsPath(found["path"] if found else "")  # it accepts both kinds of slashes
    if not found or path.name in ("", ".."):
        return _in_quotes(word)  # tables of a recipe have paths in quotes
    of_user = path.parent.parent.name in ("home", "Users") or path.parent.name in ("~", "root")
    # the name of a split means nothing without the name of its parent folder
    parent = f"{path.parent.name}/" if path.name in SPLITS and path.parent.name and not of_user else ""
    return f"{found['option']}{parent}{path.name}"
