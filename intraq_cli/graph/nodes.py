"""Queries on the nodes of a graph, and the basic edits that passes are made of."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Target

NETWORK = "network."
"""Prefix of the targets of the network's own tensors."""


def copy_graph(graph: fx.GraphModule) -> fx.GraphModule:
    """Copy the nodes of a graph, so that they can be changed; the copy shares tensors and modules with ``graph``."""
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {})).meta = dict(graph.graph.output_node().meta)
    return fx.GraphModule(graph, nodes)


def twins(graph: fx.GraphModule, copy: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Map the nodes of ``graph`` to those of its :func:`copy_graph`, which must be unchanged so far."""
    return dict(zip(graph.graph.nodes, copy.graph.nodes, strict=True))


def input_node(graph: fx.GraphModule) -> fx.Node:
    """Return the node of the input images."""
    return graph.graph.find_nodes(op="placeholder")[0]


def calls(graph: fx.GraphModule, *targets: Any) -> list[fx.Node]:
    """Return the nodes that call one of ``targets``, in execution order; without ``targets``, all function calls."""
    made = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [node for node in made if node.target in targets] if targets else made


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a call of an aten operation by name, in the operation's order, with defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in schema}  # None if there is no default
    named |= zip((argument.name for argument in schema), node.args, strict=False)
    return named | dict(node.kwargs)


def argument_node(call: fx.Node, k: int = 0) -> fx.Node:
    """Return the ``k``-th argument of a call, which must be a node."""
    found = call.args[k]
    assert isinstance(found, fx.Node)
    return found


def tensor_of(graph: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the tensor that a ``get_attr`` node reads; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found = operator.attrgetter(str(node.target))(graph)
    return found if isinstance(found, Tensor) else None


def key_of(node: fx.Node) -> str:
    """Return the state-dict key of the network's tensor that a ``get_attr`` node reads."""
    return str(node.target).removeprefix(NETWORK)


def tensors(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Return the network's tensors that the graph reads, by state-dict key."""
    found = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        if str(node.target).startswith(NETWORK):
            tensor = tensor_of(graph, node)
            if tensor is not None:
                found[key_of(node)] = tensor
    return found


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a network by name; a tensor with two names is there twice."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return dict(named)


def replace_tensors(graph: fx.GraphModule, made: Callable[[str, Tensor], Tensor]) -> fx.GraphModule:
    """Copy the graph, with ``made(key, tensor)`` in place of every tensor of the network."""
    graph = copy_graph(graph)
    for key, tensor in tensors(graph).items():
        path, _, name = f"{NETWORK}{key}".rpartition(".")
        new = made(key, tensor)
        if isinstance(tensor, nn.Parameter):
            new = new if isinstance(new, nn.Parameter) else nn.Parameter(new, requires_grad=False)
        setattr(graph.get_submodule(path), name, new)  # the copy has containers of its own
    return graph


def own_tensors(graph: fx.GraphModule) -> fx.GraphModule:
    """Copy the graph and its tensors, so that training the copy leaves the network unchanged."""
    return replace_tensors(graph, lambda key, tensor: tensor.detach().clone())


def constant_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose value does not depend on the images, only on the network's tensors."""
    constant: set[fx.Node] = set()
    for node in graph.graph.nodes:
        fixed = node.op == "get_attr" or (node.op == "call_function" and not is_random(node))
        # getattr reads the images' device, which does not depend on their values
        if fixed and (node.target is getattr or all(source in constant for source in node.all_input_nodes)):
            constant.add(node)
    return constant


def constant_value(graph: fx.GraphModule, node: fx.Node, known: Mapping[fx.Node, Any] | None = None) -> Any:
    """Compute the value of one of :func:`constant_nodes`, or of a node that also depends on ``known`` values."""
    if known is not None and node in known:
        return known[node]
    if node.op == "get_attr":
        return tensor_of(graph, node)
    if node.target is getattr:  # the device of the images, which is the network's
        return next(iter(tensors(graph).values())).device
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: constant_value(graph, source, known))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = arguments(node)
    return bool(given.get("train", given.get("training", True))) and given.get("dropout_p", 1.0) != 0


def draws_numbers(graph: fx.GraphModule) -> bool:
    """Whether any call draws random numbers, so that outputs differ from run to run."""
    return any(map(is_random, calls(graph)))


def needed(node: fx.Node, known: fx.Node | None = None) -> list[fx.Node]:
    """Return ``node`` and the nodes that its value depends on, up to those that only ``known`` depends on."""
    seen: dict[fx.Node, None] = {}
    todo = [node]
    while todo:
        here = todo.pop()
        if here is not known and here not in seen:
            seen[here] = None
            todo += here.all_input_nodes
    return list(seen)


def sources(node: fx.Node) -> list[fx.Node]:
    """Return the ``get_attr`` nodes that a node's value depends on, in the order of the graph."""
    return sorted(here for here in needed(node) if here.op == "get_attr")


def path_of(node: fx.Node) -> str:
    """Return the path of the module whose forward made a call; empty for the network itself."""
    return str(node.meta["path"])


def numbered(name: str, k: int) -> str:
    """Return the name of the k-th repetition of ``name``, counted from 0."""
    return f"{name}#{k}" if k else name


def unnumbered(name: str) -> tuple[str, int]:
    """Split a name into what is before a suffix ``#k``, and k; 0 if there is none. The reverse of :func:`numbered`.

    A module's own name may contain ``#`` too.
    """
    found = re.fullmatch(r"(.+)#([1-9]\d{0,8})", name, re.ASCII | re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)


def names_of_calls(nodes: Iterable[fx.Node], name: Callable[[fx.Node], str] = path_of) -> dict[fx.Node, str]:
    """Name each call, by default after the module that made it; the k-th repetition of a name ends in ``#k``."""
    names: dict[fx.Node, str] = {}
    counts: dict[str, Iterator[int]] = {}
    taken = set[str]()  # a module's own name may end in #k too
    for node in nodes:
        path = name(node)
        repeated = (numbered(path, k) for k in counts.setdefault(path, count()))
        names[node] = next(one for one in repeated if one not in taken)
        taken.add(names[node])
    return names


def insert_call(graph: fx.GraphModule, before: fx.Node, function: Target, *args: Any) -> fx.Node:
    """Insert a node that calls ``function(*args)`` before a node, whose ``meta`` it copies."""
    with graph.graph.inserting_before(before):
        node = graph.graph.create_node("call_function", function, args)
    node.meta = dict(before.meta)
    return node


def insert_items(graph: fx.GraphModule, before: fx.Node, made: fx.Node, n: int) -> list[fx.Node]:
    """Insert nodes for the first ``n`` items of the tuple that ``made`` returns."""
    return [insert_call(graph, before, operator.getitem, made, k) for k in range(n)]


def insert_tensor(graph: fx.GraphModule, before: fx.Node, key: str, tensor: Tensor, prefix: str = NETWORK) -> fx.Node:
    """Insert a node that reads a new tensor, stored under ``key`` in place of any previous tensor of that key."""
    held: nn.Module = graph
    *path, name = f"{prefix}{key}".split(".")
    for part in path:
        if not hasattr(held, part):
            held.add_module(part, nn.Module())
        held = getattr(held, part)
    if hasattr(held, name):
        delattr(held, name)
    if isinstance(tensor, nn.Parameter):
        setattr(held, name, tensor)
    else:
        held.register_buffer(name, tensor)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(f"{prefix}{key}")
    node.meta = {"path": "", "shape": tuple(tensor.shape), "dtype": tensor.dtype}
    return node


def replace_call(graph: fx.GraphModule, node: fx.Node, function: Target, *args: Any) -> fx.Node:
    """Call ``function(*args)`` in place of ``node``."""
    made = insert_call(graph, node, function, *args)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
    return made


def also_return(graph: fx.GraphModule, value: Any) -> None:
    """Make a graph return ``(previous output, value)``; ``value`` is a node, or nodes in lists or tuples."""
    end = graph.graph.output_node()
    end.args = ((end.args[0], value),)


def finish(graph: fx.GraphModule) -> fx.GraphModule:
    """Remove nodes that are not read any more, and recompile the graph."""
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)


def run_each(
    run: fx.Interpreter, nodes: Iterable[fx.Node], images: Tensor, values: dict[fx.Node, Any] | None = None
) -> Iterator[fx.Node]:
    """Run nodes in order, and yield each while ``run.env`` holds its value and those that it has read.

    Afterwards, values that no later node reads are deleted.

    Args:
        run: an interpreter of the graph.
        nodes: in the order of the graph.
        images: ``(B, C, H, W)``, the graph's input.
        values: values of earlier nodes, which become ``run.env``; None: there are none.
    """
    run.env, run.args_iter = {} if values is None else values, iter((images,))
    for node in nodes:
        run.env[node] = run.run_node(node)
        yield node
        for dead in run.user_to_last_uses.get(node, ()):
            del run.env[dead]


def per_dimension(value: list[int], n: int) -> tuple[int, ...]:
    """Expand a convolution's setting to its ``n`` dimensions: torch also accepts one number for all."""
    return tuple(value) * n if len(value) == 1 else tuple(value)


def pair(value: list[int]) -> tuple[int, int]:
    """Expand a setting to two dimensions, see :func:`per_dimension`."""
    down, across = per_dimension(value, 2)
    return down, across


def padding_around(padding: str | list[int], dilation: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return a convolution's padding as numbers: at the start of each dimension, then at the end of each."""
    if isinstance(padding, str):
        both = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        return (*(one // 2 for one in both), *(one - one // 2 for one in both))
    return per_dimension(padding, len(kernel)) * 2


def numel(node: fx.Node) -> int:
    """Return the number of values that a node outputs for one image."""
    shape: tuple[int, ...] = node.meta["shape"]
    return torch.Size(shape).numel()
