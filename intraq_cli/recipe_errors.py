"""Error messages about a recipe, in terms of its TOML file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from intraq_cli.words import did_you_mean, short

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list of whole numbers",
    "dataclass_type": "a table",
    "dict_type": "a table",
}
"""TOML terms for pydantic's type errors."""


def explain(error: Any, sections: Mapping[str, type]) -> tuple[str, str]:
    """Return the message and the hint for one of pydantic's errors about a recipe.

    Args:
        error: as ``ValidationError.errors()`` lists it.
        sections: a dataclass for each table of a recipe.
    """
    *tables, key = (str(part) for part in error["loc"] if part != "[key]")
    name = ".".join([*tables, key])
    if error["type"] == "unexpected_keyword_argument":
        if not tables:
            return f"unknown recipe table [{key}]", _near(key, [*sections])
        known = [f"{tables[0]}.{field.name}" for field in dataclasses.fields(sections[tables[0]])]
        return f"unknown recipe key {name}", _near(name, known)
    if error["type"] == "literal_error":
        choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        hint = "one of " + choices.replace("True", "true").replace("False", "false")
    else:
        hint = KINDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return f"{name} is {short(error['input'])}, which is not valid", f"it must be {hint}"


def _near(word: str, known: list[str]) -> str:
    return did_you_mean(word, known) or "known: " + ", ".join(sorted(known))
