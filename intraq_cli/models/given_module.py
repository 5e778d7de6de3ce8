"""A network given as a module: checking it, removing wrappers, and copying it."""

import copy
from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from intraq_cli.errors import ModelError, first_line
from intraq_cli.graph.nodes import named_tensors
from intraq_cli.models.meta_build import BUILD_ERRORS

QUANTIZED = (
    "torch.ao.nn.quantized.modules.", "torch.ao.nn.quantized.dynamic.", "torch.ao.nn.intrinsic.quantized.",
    "torch.ao.quantization.fake_quantize", "torch.ao.quantization.observer",
)  # fmt: skip
"""Where torch's own quantized layers, fake quantizers and observers are defined; prefixes of module names."""
STAND_INS = "torch.ao.nn.quantized.modules.functional_modules"
"""Its operations that are the float ones before quantization (``FloatFunctional``)."""


def copied(network: nn.Module, source: str) -> nn.Module:
    """Return a deep copy of the network; ``source`` is its name in messages.

    Raises:
        ModelError: the network cannot be copied.
    """
    try:
        return copy.deepcopy(network, {id(tensor): _kept(tensor) for tensor in _kept_tensors(network)})
    except (*BUILD_ERRORS, NotImplementedError) as error:
        hint = "give path/to/file.py:factory, a function that builds it"
        raise ModelError(f"{source} cannot be copied: {first_line(error)}", hint) from error


def _kept_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Yield tensors that a forward pass or a hook stored in an earlier run, and that torch may be unable to copy."""
    held = [vars(module).items() for module in network.modules()]
    todo = [value for items in held for name, value in items if name not in ("_parameters", "_modules")]
    seen: set[int] = set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.grad_fn is not None or type(value) not in (Tensor, nn.Parameter):
                yield value
        elif isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, (list, tuple, set, deque)):
            todo += value


def _kept(tensor: Tensor) -> Tensor:
    """Return the tensor's replacement in the copy: its detached value; a traced tensor has none, and stays."""
    return tensor.detach().clone() if type(tensor) is Tensor else tensor


def check_built(network: nn.Module, source: str) -> None:
    """Refuse a module that is not ordinary PyTorch code with float weights.

    Raises:
        ModelError: it has layers that are not initialised yet, is scripted, is quantized already, or has no parameters.
    """
    unbuilt = next((name for name, tensor in named_tensors(network).items() if is_lazy(tensor)), None)
    if unbuilt is not None:
        raise ModelError(f"{source} has lazy layers without a shape: {unbuilt}", "run it on a batch of images first")
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(f"{source} was traced or scripted (torch.jit)", "give the module that it was made from")
    for name, module in network.named_modules():
        made_in = [kind.__module__ for kind in type(module).__mro__]
        if made_in[0] != STAND_INS and any(place.startswith(QUANTIZED) for place in made_in):
            what = f"{name or 'it'} is a {type(module).__name__} of torch.ao"
            raise ModelError(f"{source} is already quantized, or prepared for it: {what}", "give the float network")
    if next(network.parameters(), None) is None:
        raise ModelError(f"{source} has no parameters", "make its weights nn.Parameter, not buffers")


def check_values(network: nn.Module, source: str) -> None:
    """Refuse a module whose tensors have shapes but no values.

    Raises:
        ModelError: a parameter or buffer is on the meta device.
    """
    for name, tensor in named_tensors(network).items():
        if tensor.is_meta:
            raise ModelError(f"{source} has no weights yet: {name} is on the meta device", "load its weights first")


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module
