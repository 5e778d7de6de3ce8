"""Capture of a network as a graph with ``torch.export``, checked against the network's own logits."""

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import signature
from itertools import takewhile
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.backends import mha

from intraq_cli.errors import ModelError, first_line, interruption
from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import arguments, calls, draws_numbers
from intraq_cli.graph.normalize import normalize
from intraq_cli.graph.proof import same_logits
from intraq_cli.graph.recall import Description, describe, recall, remember

MOST_READS = 64
"""Largest number of values that a network may read from its tensors into Python in one run; each adds a node to its
graph, which takes a tenth of a second."""
ONE_SIZE = "the network accepts batches of one size only"
FIXED = "give a network that runs the same operations on all images"
OWN_NUMBERS = "branch on Python numbers instead of its own tensors (int(...) once, when it is built)"


@torch.no_grad()
def capture(network: nn.Module, example: Tensor) -> fx.GraphModule:
    """Capture ``network`` as a graph that computes the same for batches of any size.

    Args:
        network: in evaluation mode, frozen; may be on the meta device, where its output cannot be checked.
        example: ``(2, C, H, W)``, on the same device.

    Raises:
        ModelError: its control flow depends on its input, it takes batches of one size only, it changes its own
            tensors, or its graph does not compute the same. The message names the line of its code if known.
    """
    description = describe(network, example)
    graph = _recalled(description, network, example) if description else None
    if graph is None:
        graph = _captured(network, example)
        if description:
            remember(description, graph, network)
    return graph


def _recalled(description: Description, network: nn.Module, example: Tensor) -> fx.GraphModule | None:
    graph = recall(description, network)
    try:
        return graph if graph is not None and _proven(network, graph, example) else None
    except Exception as error:  # networks raise anything; the capture will report it
        if interruption(error):
            raise
        return None


def _captured(network: nn.Module, example: Tensor) -> fx.GraphModule:
    _check_names(network)
    _check_reads(network, example)
    exported = _exported(network, example)
    try:
        graph = normalize(exported, network)
    except RuntimeError as error:
        if "is mutated in the forward" not in str(error):
            raise
        way_out = "put layers that are in a plain list, which eval() does not reach, into an nn.ModuleList"
        raise ModelError("the network changes its own tensors as it runs", way_out) from error
    try:
        _record_shapes(graph, example)
        proven = _proven(network, graph, example)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the network's captured graph does not run: {first_line(error)}", FIXED) from error
    if not proven:
        raise ModelError(
            "the network and its captured graph compute different results",
            "make each result depend on its image alone, not on a counter or the rest of the batch",
        )
    return graph


def _proven(network: nn.Module, graph: fx.GraphModule, example: Tensor) -> bool:
    """Whether both compute the same for one, two and three images; True if these have no values, or are random."""
    if example.is_meta or draws_numbers(graph):
        return True
    try:
        one = network(example[:1].clone())
    except (RuntimeError, TypeError, ValueError, IndexError):  # e.g. squeeze() removes the batch dimension of one image
        one = network(example.clone())[:1]
    three = torch.cat([example, example.flip(-1)])[:3]
    return same_logits(lambda _: one, graph, example[:1]) and same_logits(network, graph, three)


def _exported(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch: Any = {0: torch.export.Dim.DYNAMIC}
    first = next(iter(signature(network.forward).parameters.values()), None)
    shapes = ((batch,),) if first is not None and first.kind is first.VAR_POSITIONAL else (batch,)

    def export(strict: bool = False) -> torch.export.ExportedProgram:
        try:
            with quiet("torch"):
                return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # torch.export's errors have no common class, and a network raises its own
            if interruption(error):
                raise
            raise (_frozen_code(network) or _refusal(error)) from error

    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)  # the fast path is a single operation, which hides its linear layers
    try:
        try:
            return export()
        except ModelError as refused:
            if refused.message != ONE_SIZE:
                raise
            try:
                # len(x) turns the batch size into a constant; strict mode, which traces Python's bytecode, is slower
                # but keeps it dynamic
                return export(strict=True)
            except ModelError:
                way_out = "make its forward accept batches of any size"
                raise ModelError(f"{ONE_SIZE}{_where_the_size_is_fixed(export)}", way_out) from refused
    finally:
        mha.set_fastpath_enabled(fast)


def _where_the_size_is_fixed(export: Callable[[], Any]) -> str:
    """Return the network's line, in brackets, at which torch.export makes the batch size a constant; "" if unknown."""
    lines: list[str] = []
    torchs = str(Path(torch.__file__).parent)

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("set_replacement"):  # a symbol, here the batch size, becomes a number
                inner = takewhile(lambda frame: frame.filename != __file__, traceback.extract_stack()[-2::-1])
                lines.extend(
                    f" ({frame.filename}, line {frame.lineno}: {frame.line})"
                    for frame in inner
                    if not frame.filename.startswith((torchs, logging.__file__))
                )

    shapes = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, propagates, listener = shapes.level, shapes.propagate, Listener()
    shapes.setLevel(logging.INFO)
    shapes.propagate = False
    shapes.addHandler(listener)
    try:
        export()
    except ModelError:
        pass
    finally:
        shapes.removeHandler(listener)
        shapes.setLevel(level)
        shapes.propagate = propagates
    return lines[0] if lines else ""


def _frozen_code(network: nn.Module) -> ModelError | None:
    """Return the error for a network with traced or scripted modules, which are no longer Python code; else None."""
    names = [name or "it" for name, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if not names:
        return None
    return ModelError(
        f"the network cannot be captured as a graph: {names[0]} was traced or scripted (torch.jit)",
        "set PYTORCH_JIT=0 in the environment, or build the network with the module that it was made from",
    )


def _refusal(error: Exception) -> ModelError:
    """Translate an error of ``torch.export`` for the author of the network."""
    text = str(error)
    where = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', text)
    here = "{}, line {}: {}".format(*where[-1]) if where else ""
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        # without counted reads, any values that it read into Python were computed from its own tensors only
        what, way_out = ("its input", FIXED) if _Counted.reads else ("its input or its own tensors", OWN_NUMBERS)
        return ModelError(
            f"the network's control flow depends on values of {what} ({here or first_line(error)})", way_out
        )
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return ModelError(ONE_SIZE, "make its forward accept batches of any size")
    if "fake tensor in the exported program" in text:
        what = "the network replaces its own tensors as it runs (such as weight.data = ...)"
        return ModelError(what, "replace them beforehand, so that its forward only reads them")
    return ModelError(f"the network cannot be captured as a graph: {here or first_line(error)}", FIXED)


class _TooManyReadsError(Exception):
    """Raised if a network reads its activations value by value."""


def _counting(name: str) -> Callable[..., Any]:
    plain = getattr(Tensor, name)

    def read(tensor: "_Counted", *args: Any) -> Any:
        _Counted.reads += tensor.numel()
        if _Counted.reads > MOST_READS:
            raise _TooManyReadsError
        return plain(tensor, *args)

    return read


class _Counted(Tensor):
    """A tensor that counts the values read into Python from it, and from anything computed from it."""

    reads = 0
    tolist, item = _counting("tolist"), _counting("item")
    __bool__, __float__, __int__ = _counting("__bool__"), _counting("__float__"), _counting("__int__")


def _check_names(network: nn.Module) -> None:
    """Refuse names that a graph's code cannot spell (Python's keywords) or that a graph itself has (``code``)."""
    of_graphs = set(dir(fx.GraphModule(nn.Module(), fx.Graph()))) - set(dir(nn.Module()))
    for name, _ in [*network.named_parameters(), *network.named_buffers()]:
        path = name.split(".")
        if path[0] in of_graphs or any(map(iskeyword, path)):
            what = f"the network cannot be captured as a graph: Python or torch.fx reserves the name {name!r}"
            raise ModelError(what, "rename that tensor, or a module in its path, in the network's code")


def _check_reads(network: nn.Module, example: Tensor) -> None:
    """Refuse a network that reads its activations value by value: its graph would have a node for each value."""
    _Counted.reads = 0
    try:
        network(example.clone().as_subclass(_Counted))
    except _TooManyReadsError as error:
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        torchs = str(Path(torch.__file__).parent)
        file, line = next(at for at in reversed(frames) if not at[0].startswith(torchs))
        raise ModelError(f"the network reads its activations value by value ({file}, line {line})", FIXED) from error
    except Exception as error:  # the capture itself will report it
        if interruption(error):
            raise


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence torch within the block, e.g. its dumps of incomplete graphs; ``name`` is the name of its logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Shapes(fx.Interpreter):
    """Runs a graph node by node and records shapes and types."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as the interpreter does, and store a tensor's ``meta["shape"]`` and ``meta["dtype"]``."""
        made = super().run_node(n)
        if isinstance(made, Tensor):
            n.meta["shape"], n.meta["dtype"] = tuple(made.shape), made.dtype
        return made


def _record_shapes(graph: fx.GraphModule, example: Tensor) -> None:
    _Shapes(graph).run(example[:1].clone())
    for call in calls(graph, *LAYERS):
        call.meta["weight_shape"] = arguments(call)["weight"].meta["shape"]
