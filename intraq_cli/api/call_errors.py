"""Errors about a call from Python; the command line prints their ``message`` and ``hint`` unchanged."""

import re
import types
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.words import counted, did_you_mean

OPTIONS = {"num_images": "n"}
"""Options that have another name in Python."""
FLAGS = ("force", "allow-float", "deterministic", "dry-run", "save", "timm", "private", "create-pr")
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    Path: "a path",
    Callable: "a function",
}
SEVERAL = {int: "whole numbers", float: "numbers", str: "strings"}
LISTS = (list, tuple, Sequence)


def reworded(error: IntraqError) -> IntraqError:
    """Return the same error; its text names arguments instead of options, and tracebacks show its hint."""
    error.args = (_arguments(error.message),)
    if error.hint and not hasattr(error, "__notes__"):
        error.add_note(f"hint: {_arguments(error.hint)}")
    return error


def _arguments(text: str) -> str:
    """Write ``--w 33`` as ``w=33``, except in commands in backticks."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(part if k % 2 else _spelled(part) for k, part in enumerate(parts))


def _spelled(text: str) -> str:
    text = re.sub(
        r"--set (\w+\.[\w.:]+)=([\w.-]*\w)", lambda found: f'set={{"{found[1]}": {_setting(found[2])}}}', text
    )
    text = re.sub(r"(?<![\w-])(-n|--num-images)(?![\w-])", "--n", text)
    text = re.sub(r"--no-(cache|resume)\b", r"\1=False", text)
    text = re.sub(rf"--({'|'.join(FLAGS)})\b", lambda found: f"{_name(found[1])}=True", text)
    text = re.sub(r"--(device|recipe|act-placement) ([a-z]\w*)", lambda found: f"{_name(found[1])}={found[2]!r}", text)
    # a value: numbers, words in capitals, or text followed by a colon
    value = r"--([a-z]+(?:-[a-z]+)*) ([\dA-Z][\d.,A-Z]*(?![\w.,])|\w+\.py:\w+|\S+(?=:(?: |$)))"
    text = re.sub(value, lambda found: f"{_name(found[1])}={_value(found[2])}", text)
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)(:?)", lambda found: _name(found[1]) + (found[2] or "="), text)


def _name(option: str) -> str:
    return option.replace("-", "_")


def _setting(text: str) -> str:
    return text if text[0].isdigit() or text.isupper() else f'"{text}"'


def _value(text: str) -> str:
    return f"({text.replace(',', ', ')})" if re.fullmatch(r"[\dA-Z.]+(,[\dA-Z.]+)+", text) else text


def wrong_call(
    function: Callable[..., Any], first: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> UsageError:
    """Return the error that says what is wrong with a call.

    Args:
        function: the function that was called.
        first: the first of pydantic's errors.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    name, kind, where = function.__name__, first["type"], first["loc"][0]
    parameters = signature(function).parameters
    if kind == "unexpected_positional_argument":
        return _too_many(name, parameters, args)
    if kind == "unexpected_keyword_argument":
        return UsageError(f"{name}() got an unexpected keyword argument {where!r}", _instead(name, where, parameters))
    if kind == "multiple_argument_values":
        return UsageError(f"{name}() got multiple values for argument {where!r}")
    if kind.startswith("missing_"):
        return UsageError(
            f"{name}() is missing the argument {where!r}", f"`help(intraq_cli.{name})` lists all arguments"
        )
    if isinstance(where, int):  # passed by position
        where = list(parameters)[where]
    given = kwargs[where] if where in kwargs else args[list(parameters).index(where)]
    expected = _expected(get_type_hints(function, include_extras=True)[where])
    return UsageError(f"{name}(): {where} is {given!r:.80}, but must be {expected}")


def _too_many(name: str, parameters: Mapping[str, Parameter], args: tuple[Any, ...]) -> UsageError:
    named = [one.name for one in parameters.values() if one.kind is Parameter.KEYWORD_ONLY]
    taken = [one for one in parameters.values() if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    message = f"{name}() takes {counted(len(taken), 'positional argument')} but {len(args)} were given"
    if any(get_origin(kind) in LISTS for kind in (taken[-1].annotation, *get_args(taken[-1].annotation))):
        listed = [*args[: len(taken) - 1], [*args[len(taken) - 1 :]]]
        return UsageError(message, f"give several in a list: {name}({', '.join(map(repr, listed))})")
    return UsageError(message, f"give all others by name: {', '.join(f'{one}=...' for one in named[:3])}, ...")


def _instead(name: str, unknown: str, parameters: Mapping[str, Parameter]) -> str:
    """Return a hint that suggests the intended argument."""
    if (name, unknown) == ("quantize", "seeds"):
        return "use quantize_seeds() for several seeds"
    if OPTIONS.get(unknown) in parameters:
        return f"did you mean {OPTIONS[unknown]}?"
    return did_you_mean(unknown, [*parameters]) or f"`help(intraq_cli.{name})` lists all arguments"


def _expected(annotation: Any) -> str:
    """Return how error messages name values of a type."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        said = [one for one in annotation.__metadata__ if isinstance(one, str)]
        return said[0] if said else _expected(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_expected(part) for part in parts if part is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin in LISTS:
        return f"a list of {SEVERAL.get(parts[0], 'those')}"
    return KINDS.get(origin or annotation) or annotation.__name__


def readable_signature(function: Callable[..., Any]) -> Signature:
    """Return a function's signature without the annotations that only pydantic reads."""
    hints, own = get_type_hints(function), signature(function)
    parameters = [one.replace(annotation=hints[one.name]) for one in own.parameters.values()]
    return own.replace(parameters=parameters, return_annotation=hints["return"])
