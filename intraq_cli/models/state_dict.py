"""State dicts in the files that training scripts write: read without running code, taken out of their wrappers."""

import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from intraq_cli.errors import ModelError, first_line
from intraq_cli.models.meta_build import BUILD_ERRORS

WRAPPERS = (
    # the moving average first: it is what a training script with one reports its accuracy of
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "module",
)
"""Keys under which training scripts keep a state dict."""
PREFIXES = ("module.", "model.", "net.", "network.")
"""Of ``DataParallel``, ``AveragedModel``, Lightning and their like, in front of every key."""
COMPILED = "_orig_mod."
"""Of ``torch.compile``, in front of the keys of whatever module was compiled."""
HINT = "only tensors are read, and no code is run: save network.state_dict()"


class _Unread:
    """Stands for an object whose class is not looked up, e.g. a script's ``argparse.Namespace``."""

    def __new__(cls, *args: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_state_dict(path: Path, known: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors or ``.pth`` file, by name.

    Args:
        path: the file.
        known: keys of the network that it is for: where all of a file's keys have a prefix that none of these has,
            they lose it.

    Raises:
        ModelError: no such file, or no state dict in it; the message says what is.
    """
    found = _read(path)
    states = [_without_prefixes(state, known) for state in _state_dicts(found)]
    if not states:
        raise ModelError(f"cannot read {path}: it holds {_described(found)}, and no state dict", HINT)
    # a moving average may be there and hold no network, or its parameters alone
    needed = {key for key in known if not key.endswith("num_batches_tracked")}
    whole = (state for state in states if state.keys() >= needed)
    chosen = next(whole, next((state for state in states if state.keys() & needed), states[0]))
    for key, tensor in chosen.items():
        if tensor.layout is not torch.strided:
            raise ModelError(f"{path}: {key} is a sparse tensor", "save dense ones: tensor.to_dense()")
        # a view may be of any size on a storage of one value
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ModelError(f"{path}: {key} claims more values than the file holds", "save network.state_dict()")
    return chosen


def _state_dicts(found: Any, depth: int = 3) -> Iterator[dict[str, Tensor]]:
    """Those in ``found`` and its wrappers, of which one may be in another, the best first."""
    if not isinstance(found, dict):
        return
    if found and all(isinstance(value, Tensor) for value in found.values()):
        yield {str(key): tensor for key, tensor in found.items()}
    elif depth:
        for key in WRAPPERS:
            yield from _state_dicts(found.get(key), depth - 1)


def _without_prefixes(state: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    state = {key.replace(COMPILED, ""): tensor for key, tensor in state.items() if key != "n_averaged"}
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in known):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _read(path: Path) -> Any:
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isfile(path):  # where a Path's own would raise for a name too long
        raise ModelError(f"no file {path}", "--weights is a safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        unread: list[Any] = [(type(name, (_Unread,), {}), name) for name in _foreign(path)]
        with torch.serialization.safe_globals(unread), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*BUILD_ERRORS, SafetensorError, UnpicklingError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}", HINT) from error


def _foreign(path: Path) -> list[str]:
    """Names of the classes in a pickle that ``weights_only`` would refuse the whole file for."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*BUILD_ERRORS, EOFError):  # no file of torch.save, or of an old one's
        return []


def _described(found: Any) -> str:
    """What is in a file, for one line."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    kinds = [f"{key} ({type(value).__name__})" for key, value in found.items()]
    return ", ".join(kinds[:8]) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "") if kinds else "nothing"
