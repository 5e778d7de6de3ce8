"""State dicts in files written by training scripts: read without running code, and extracted from wrappers."""

import os
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from intraq_cli.errors import ModelError, first_line
from intraq_cli.models.meta_build import BUILD_ERRORS

PREFERRED = (r"(\w+_)?ema(_\w+)?\.", r"((model_)?state_dict|(model|net)(_state)?|network|params|weights|module)\.", "")
"""Name prefixes of the state dicts that training scripts save, the best first: a script that keeps a moving average of
the weights reports the accuracy of that average."""
COMPILED = "_orig_mod."
"""Prefix that ``torch.compile`` adds to the keys of a compiled module."""
HINT = "save network.state_dict() instead: only tensors are read, and no code is run"


class _Unread:
    """Placeholder for an object whose class is not imported, e.g. a script's ``argparse.Namespace``."""

    def __new__(cls, *args: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_state_dict(path: Path, known: Collection[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or ``.pth`` file, by name.

    Args:
        path: the file.
        known: keys of the network that it is for. If the file has them with a prefix, the prefix is removed, and keys
            with another prefix (of a loss module, say) are dropped.

    Raises:
        ModelError: no such file, no state dict in it, or those of several networks; the message says what was found.
    """
    found = _read(path)
    # a moving average may be present without a whole network, or with its parameters only
    needed = {key for key in known if not key.endswith("num_batches_tracked")}
    states = dict(_state_dicts(found))
    if not states:
        raise ModelError(f"{path} contains no state dict, only {_described(found)}", HINT)
    whole = {name + prefix: part for name, state in states.items() for prefix, part in _parts(state, needed)}
    named = ({name: whole[name] for name in whole if re.match(beginning, name)} for beginning in PREFERRED)
    chosen = next(filter(None, named), None) or {"": _nearest(states.values(), needed)}
    for part in chosen.values():
        _check_tensors(path, part)
    first, *more = chosen.values()
    if not all(_same(part[key], first[key]) for part in more for key in needed):
        names = ", ".join(name.rstrip(".") for name in chosen)
        raise ModelError(f"{path} contains the weights of several networks: {names}", "save the state_dict() of one")
    return first


def _check_tensors(path: Path, state: dict[str, Tensor]) -> None:
    for key, tensor in state.items():
        if tensor.layout is not torch.strided:
            raise ModelError(f"{path}: {key} is a sparse tensor", "save dense tensors: tensor.to_dense()")
        # an expanded view can have any size on a storage of one value
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ModelError(
                f"{path}: {key} has fewer values than its shape says", "save a full copy: tensor.contiguous()"
            )


def _state_dicts(found: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield all state dicts nested in ``found``, with their names."""
    if not isinstance(found, dict):
        return
    if found and all(isinstance(value, Tensor) for value in found.values()):
        keys = {str(key).replace(COMPILED, ""): tensor for key, tensor in found.items()}
        yield name, {key: tensor for key, tensor in keys.items() if key != "n_averaged"}
    elif depth:
        for key, value in found.items():
            yield from _state_dicts(value, f"{name}{key}.", depth - 1)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _parts(state: dict[str, Tensor], needed: set[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the parts of a state dict that hold all ``needed`` keys, each with the prefix that was removed."""
    if state.keys() >= needed:
        yield "", state
        return
    longest = max(needed, key=len)
    for prefix in [key.removesuffix(longest) for key in state if key.endswith(f".{longest}")]:
        if all(prefix + key in state for key in needed):
            yield prefix, {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def _nearest(states: Collection[dict[str, Tensor]], needed: set[str]) -> dict[str, Tensor]:
    """Return the state dict with most of the ``needed`` keys if none has all; torch then reports what is missing."""
    found = list(states)
    for state in states:
        shared = os.path.commonprefix([*state])  # noqa: RUF071 - character by character, then up to the last dot
        prefix = shared[: shared.rfind(".") + 1]
        found.append({key.removeprefix(prefix): tensor for key, tensor in state.items()})
    return max(found, key=lambda state: len(state.keys() & needed))


def _read(path: Path) -> Any:
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isfile(path):  # Path.is_dir and is_file would raise for a name that is too long
        raise ModelError(f"there is no file {path}", "give --weights a safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        unread: list[Any] = [(type(name, (_Unread,), {}), name) for name in _foreign(path)]
        with torch.serialization.safe_globals(unread), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which are refused later
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*BUILD_ERRORS, SafetensorError, UnpicklingError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}", HINT) from error


def _foreign(path: Path) -> list[str]:
    """Return the names of classes in a pickle for which ``weights_only`` would refuse the whole file."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*BUILD_ERRORS, EOFError):  # not written by torch.save, or by an old version
        return []


def _described(found: Any) -> str:
    """Describe the content of a file in one line."""
    if not isinstance(found, dict):
        return f"an object of type {type(found).__name__}"
    kinds = [f"{key} ({type(value).__name__})" for key, value in found.items()] or ["an empty dict"]
    return ", ".join(kinds[:8]) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "")
