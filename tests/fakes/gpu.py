"""A fake GPU in CPU memory: operations that mix tensors of two devices fail, as on a real one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}
"""Operations whose indices may be on the CPU."""


@contextmanager
def pretended_gpu() -> Iterator["PretendedGpu"]:
    """Within the block, ``cuda`` works, and its tensors are distinguished from the CPU's.

    Raises:
        RuntimeError: an operation in the block mixes tensors of both.
    """
    gpu = PretendedGpu()
    with _Operations(gpu), gpu:
        yield gpu


class PretendedGpu(TorchFunctionMode):
    """Intercepts calls that concern devices, and tracks the storages that are on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[int, StorageWeakRef] = {}
        """Storages on the device; the weak references keep their addresses from being used again."""
        self.default = False
        """Whether tensors created from scratch are on the device: in functions that are given one of its tensors."""
        self.operations = 0

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.there

    def move(self, tree: Any, there: bool) -> None:
        """Record whether the tensors of ``tree`` are on the device."""
        for tensor in _tensors(tree):
            storage = tensor.untyped_storage()
            if there:
                self.there[storage._cdata] = StorageWeakRef(storage)
            else:
                self.there.pop(storage._cdata, None)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__ and args[0] in self:  # type: ignore[attr-defined]
            return GPU
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return args[0] in self
        if func in (Tensor.cpu, Tensor.cuda):
            func, args = Tensor.to, (args[0], "cpu" if func is Tensor.cpu else GPU)
        if func is Tensor.pin_memory:
            return args[0].clone()
        if func in (Tensor.numpy, Tensor.__array__) and args[0] in self:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        wanted = next((_device(value) for value in (*args[1:], kwargs.get("device")) if _device(value)), None)
        if func is Tensor.to and wanted is not None:
            kwargs |= {"device": "cpu"} if "device" in kwargs else {}
            out = _Moved.apply(args[0], self, wanted.type == "cuda") if self._elsewhere(args[0], wanted) else args[0]
            return out.to(*("cpu" if _device(value) else value for value in args[1:]), **kwargs)
        if func is Tensor.backward:
            with self:  # a mode is suspended in its own handler: re-entered to watch Python code of backward passes
                return torch.autograd.backward(args[0])
        if "device" in kwargs and wanted is not None and wanted.type != "meta":
            out = func(*args, **{**kwargs, "device": "cpu"})
            self.move(out, wanted.type == "cuda")
            return out
        before, self.default = self.default, any(tensor in self for tensor in _tensors((args, kwargs)))
        try:
            return func(*args, **kwargs)
        finally:
            self.default = before

    def _elsewhere(self, tensor: Tensor, wanted: torch.device) -> bool:
        return (tensor in self) != (wanted.type == "cuda")


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gpu: PretendedGpu, there: bool) -> Tensor:
        ctx.gpu, ctx.there = gpu, there
        out = x.clone()
        gpu.move(out, there)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        back = grad.clone()
        ctx.gpu.move(back, not ctx.there)
        return back, None, None


class _Operations(TorchDispatchMode):
    """Intercepts every operation, including those of backward passes."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args[:1] if func in INDEXING else args, kwargs))
        there = [tensor for tensor in given if tensor in self.gpu]
        here = [tensor for tensor in given if tensor not in self.gpu and tensor.dim() and tensor.numel()]
        if there and here and func is not aten.copy_.default:
            shapes = [tuple(tensor.shape) for tensor in here]
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but {shapes} are on the CPU")
        out = func(*args, **kwargs)
        self.gpu.operations += bool(there)
        if (there and func is not aten.copy_.default) or (not given and self.gpu.default):
            self.gpu.move(out, there=True)
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_meta]


def _device(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) and value in ("cpu", "cuda", "meta") else None
