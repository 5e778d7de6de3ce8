"""Statistics and activations of the float network on the calibration images."""

from torch import Tensor, fx

from intraq_cli.graph.batch_norms import add_statistics, batch_norms, sample_folded
from intraq_cli.graph.layers import is_linear, quantizable
from intraq_cli.graph.nodes import argument_node, arguments, copy_graph, insert_call, run_each
from intraq_cli.graph.outputs import add_outputs

Moments = tuple[Tensor, Tensor]
"""Mean and biased variance of each channel, ``(C,)`` each."""


def float_statistics(
    teacher: fx.GraphModule, images: Tensor, sampled: bool
) -> tuple[list[Moments], dict[str, Moments]]:
    """Run the float network once on ``images`` ``(B, C, H, W)``; ``sampled`` as in calibration.

    Returns:
        The moments of each batch norm's input, and those of the outputs of layers with a bias, by the name of the node
        of the layer's first call.
    """
    graph = sample_folded(teacher) if sampled else copy_graph(teacher)
    normalized = {norm.x for norm in batch_norms(graph)}  # a batch norm's own correction removes a shift of its input
    biased = [layer.calls[0] for layer in quantizable(graph) if arguments(layer.calls[0])["bias"] is not None]
    biased = [call for call in biased if call not in normalized]
    found = [insert_call(graph, call.next, channel_moments, call, is_linear(call)) for call in biased]
    (_, outputs), moments = add_statistics(add_outputs(graph, found), sampled)(images)
    return moments, dict(zip((call.name for call in biased), outputs, strict=True))


def channel_moments(out: Tensor, linear: bool) -> Moments:
    """Compute mean and biased variance of each channel of a layer's output, ``(out,)`` each."""
    rows = out.flatten(0, -2).T if linear else out.transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


class FloatRun(fx.Interpreter):
    """Runs the float network on some images, node by node, only as far as needed.

    Args:
        graph: graph of the float network.
        images: ``(B, C, H, W)``.
    """

    def __init__(self, graph: fx.GraphModule, images: Tensor) -> None:
        super().__init__(graph)
        self.steps = run_each(self, graph.graph.nodes, images)

    def read_by(self, name: str) -> Tensor:
        """Return the input of the layer's call with this name; names must be given in the order of calls."""
        call = next(node for node in self.steps if node.name == name)
        return self.env[argument_node(call)]
