"""Builds networks from untrusted configs: within limits, and without memory until they match their weights file."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from intraq_cli.errors import GET_AGAIN, IntraqError, ModelError
from intraq_cli.io.untrusted import TensorInfo

BUILD_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What a library's model builder may raise on an argument of the right type but with an unsuitable value."""
MAX_PARTS = 50_000
"""Most modules and parameters of a network; timm's largest has about 1,900 parameters."""
MISMATCH = "check that config.json and model.safetensors belong together"


def parts_of(header: Mapping[str, TensorInfo]) -> int:
    """Return how many modules and parameters a network may have if its file has this header."""
    return min(MAX_PARTS, 1000 + 8 * len(header))


@contextmanager
def limited(parts: int, weightless: bool = False) -> Iterator[None]:
    """Within the block, refuse a network as soon as its builder exceeds ``parts`` modules and parameters.

    ``weightless``: move each parameter to the meta device when it is registered.

    Raises:
        ModelError: the network has more parts.
    """
    count = 0

    def counted(owner: nn.Module, name: str, part: Any) -> Any:
        nonlocal count
        count += 1
        if count > parts:
            raise ModelError(f"config.json describes a network of more than {parts} modules and parameters", MISMATCH)
        if weightless and isinstance(part, nn.Parameter):
            return nn.Parameter(torch.empty_like(part, device="meta"), part.requires_grad)
        return None

    hooks = (
        torch_module.register_module_parameter_registration_hook(counted),
        torch_module.register_module_module_registration_hook(counted),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def build_on_meta(
    build: Callable[[], nn.Module], header: Mapping[str, TensorInfo], kind: type[IntraqError]
) -> nn.Module:
    """Call ``build`` to build a network on the meta device, where it takes no memory.

    Raises:
        IntraqError: of ``kind``: the network has far more values than its file, or cannot be built like this.
    """
    try:
        with torch.device("meta"), limited(parts_of(header)):
            network = build()
    except ModelError:  # some builders compute with tensors, which need values (torchvision's RegNet)
        with limited(parts_of(header), weightless=True):
            network = build().to("meta")
    described = sum(tensor.numel() for tensor in [*network.parameters(), *network.buffers()])
    # a word packs at most 16 codes; the margin is for buffers that are computed, not stored in the file
    held = sum(math.prod(info.shape) for info in header.values())
    if described > 16 * held + 2**24:
        what = f"config.json describes a network of {described:,} values, but model.safetensors contains {held:,}"
        raise kind(what, MISMATCH)
    return network


def untrained(build: Callable[[], nn.Module]) -> nn.Module:
    """Call ``build`` to build a network without weights: on the meta device, or on the CPU if that fails.

    Builders that read values (``.item()``, a comparison) fail on the meta device with arbitrary errors.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        return build()


def check_tensors(
    header: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo], where: str, kind: type[IntraqError]
) -> None:
    """Check that a file's header lists exactly the ``expected`` tensors.

    Raises:
        IntraqError: of ``kind``: a tensor is missing, unknown, or has another shape or type.
    """
    for key in sorted(header.keys() ^ expected.keys()):
        state = "unknown" if key in header else "missing"
        raise kind(f"{where}: model.safetensors does not match config.json: {key} is {state}", GET_AGAIN)
    for key, info in expected.items():
        if header[key] != info:
            raise kind(
                f"{where}: model.safetensors does not match config.json: {key} is {_spelled(header[key])}, "
                f"not {_spelled(info)}",
                GET_AGAIN,
            )


def check_floats(network: nn.Module, held: Mapping[str, TensorInfo], where: str) -> None:
    """Check that a file has floats wherever ``network`` has: integer codes would be loaded as if they were weights.

    Raises:
        ModelError: a tensor in the file is of another type.
    """
    for key, tensor in network.state_dict().items():
        floats = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if floats and key in held and held[key].dtype not in FLOATS:
            hint = "give the weights of the float network, not the codes of a quantized one"
            raise ModelError(f"{where}: {key} is {_spelled(held[key])}, but the network needs floats", hint)


def _spelled(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Names of types in safetensors files, in the order of the format's own list."""
FLOATS = ("F16", "BF16", "F32", "F64")


def info_of(tensor: Tensor, held: TensorInfo | None = None) -> TensorInfo:
    """Return the header entry expected for ``tensor``; a float may have any width, so it gets the width in ``held``."""
    any_float = held is not None and held.dtype in FLOATS and tensor.is_floating_point()
    dtype = held.dtype if held is not None and any_float else DTYPES.get(tensor.dtype, str(tensor.dtype))
    return TensorInfo(dtype, tuple(tensor.shape))
