"""The network as one captured graph, and what is asked of it.

A graph is a :class:`torch.fx.GraphModule` from :func:`intraq_cli.graph.capture.capture`. It has one input, images
``(B, C, H, W)`` with any B, and puts out logits ``(B, K)``. Its operations are ``torch.ops.aten`` overloads that write
over nothing. A tensor of the network is read by a ``get_attr`` node whose target is ``network.KEY``, KEY being its key
in the network's state dict.

``node.meta`` holds ``path`` (the module whose forward made the call), ``shape`` (of the output for one image, where
that is a tensor), ``dtype`` and, where it is known, ``stack_trace``; at calls of layers ``weight_shape``. Passes add
:data:`intraq_cli.graph.batch_norms.FOLDED` and :data:`intraq_cli.quantization.equalization.CAPPED`.

A pass is a function from graph to graph: it returns a new one, which shares its tensors with the old one.
"""
