"""The network as one captured graph, queries on it and passes over it.

A graph is a :class:`torch.fx.GraphModule` from :func:`intraq_cli.graph.capture.capture`. It has one input, images
``(B, C, H, W)`` with any B, and outputs logits ``(B, K)``. Its operations are out-of-place ``torch.ops.aten``
overloads. A tensor of the network is read by a ``get_attr`` node whose target is ``network.KEY``, where KEY is its key
in the network's state dict.

``node.meta`` holds ``path`` (the module whose forward made the call), ``shape`` (of the output for one image, if it is
a tensor), ``dtype``, ``stack_trace`` if known, and ``weight_shape`` at layers' calls. Passes add
:data:`intraq_cli.graph.batch_norms.FOLDED` and :data:`intraq_cli.quantization.equalization.CAPPED`.

A pass is a function from graph to graph: it returns a new graph, which shares its tensors with the old one.
"""
