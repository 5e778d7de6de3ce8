"""What is published carries names of files and folders, not where they lie on its maker's disk."""

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
"""A whole word that is an absolute path of any system, or leads out of the working folder, perhaps behind
``local-dir:``, ``--out=`` or a recipe's key; no URL."""
QUOTED = re.compile(r"(?P<quote>['\"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)", re.DOTALL)
"""Text between quotation marks of one kind, in Python or TOML."""


def without_paths(value: Any) -> Any:
    """JSON with the names of files and folders in place of absolute paths, in commands too."""
    if isinstance(value, dict):
        return {_in_text(key) if isinstance(key, str) else key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    return _in_text(value) if isinstance(value, str) else value


def local_names(run: dict[str, Any]) -> dict[str, Any]:
    """The manifest without paths; a teacher from a folder stays one, and is not taken for a model of that name."""
    made = without_paths(run)
    teacher = run.get("teacher")
    source = teacher.get("source") if isinstance(teacher, dict) else None
    if isinstance(source, str) and made["teacher"]["source"] != source and ".py:" not in source:
        made["teacher"]["source"] = "local-dir:" + made["teacher"]["source"].removeprefix("local-dir:")
    return made


def card_without_paths(card: str, data: Any) -> str:
    """A card without the absolute paths that are in ``data``, the config or the manifest that it was written from."""
    for text in sorted(_texts(data), key=len, reverse=True):
        name = _in_text(text)
        if name != text:  # not where it is a part of a longer path, or of an address
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
        except ValueError:  # a quotation mark too many
            return " ".join(map(_name, text.split()))
    if re.match(r"\w+\(", text):  # a call in Python
        return _in_quotes(text)
    return _name(text)


def _in_quotes(text: str) -> str:
    return QUOTED.sub(lambda found: f"{found['quote']}{_name(found['text'])}{found['quote']}", text)


def _name(word: str) -> str:
    """The end of an absolute path; every other word as it is."""
    found = ABSOLUTE.fullmatch(word)
    path = PureWindowsPath(found["path"] if found else "")  # which takes both kinds of slashes
    if not found or path.name in ("", ".."):
        return _in_quotes(word)  # a table of a recipe has paths there
    of_user = path.parent.parent.name in ("home", "Users") or path.parent.name in ("~", "root")
    # that of a part of a data set says nothing without the name of the folder it is in
    parent = f"{path.parent.name}/" if path.name in SPLITS and path.parent.name and not of_user else ""
    return f"{found['option']}{parent}{path.name}"
