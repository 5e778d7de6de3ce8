"""The parameters that stage 2 tunes, with their optimizer and learning rates."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from intraq_cli.graph.layers import LAYERS
from intraq_cli.graph.nodes import arguments, calls, tensor_of
from intraq_cli.quantization.network import QuantizedNetwork, bias_of
from intraq_cli.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from intraq_cli.recipe import Tuning

aten = torch.ops.aten

AFFINE = 8.0
"""Learning rate of biases and batch norms relative to weights, in quantization steps: they are few, and have to
compensate for the effect of many weights on a channel's mean and gain."""

NORMS = (aten.batch_norm.default, aten.group_norm.default, aten.layer_norm.default, aten.instance_norm.default)


def biases_and_norms(graph: fx.GraphModule) -> list[Tensor]:
    """Return the unquantized parameters that are tuned: biases of layers, and scales and shifts of normalisations.

    Others are left out: the network may compute its weights or its features from them.
    """
    found: dict[int, Tensor] = {}
    for node in calls(graph, *LAYERS, *NORMS):
        given = arguments(node)
        read = [bias_of(node)] if node.target in LAYERS else [given["weight"], given["bias"]]
        for tensor in (tensor_of(graph, one) for one in read):
            if isinstance(tensor, nn.Parameter):
                found[id(tensor)] = tensor
    return list(found.values())


def make_optimizer(student: QuantizedNetwork, config: Tuning) -> torch.optim.Optimizer:
    """Make the optimizer: SGD as published, or Adam with steps in quantization steps, see :class:`WeightQuantizer`.

    The learning rate of a scale's logarithm is ``lr`` over its largest code, which moves the ends of its grid by ``lr``
    steps. That of biases, batch norms and gains is ``AFFINE * lr`` over the largest code of the coarsest weights.
    """
    others = biases_and_norms(student.graph)
    others += [q.scale.log_gain for q in student.latent.values() if q.scale.log_gain is not None]
    weights, activations = [quantizer.latent for quantizer in student.latent.values()], student.activation_quantizers
    quantizers: list[WeightQuantizer | ActivationQuantizer] = [*student.latent.values(), *activations.values()]
    scales = [(q.scale.log_scale, q.top) for q in quantizers if q.scale.log_scale is not None]
    if config.optimizer == "sgd":
        parameters = [*others, *weights, *(scale for scale, _ in scales)]
        return torch.optim.SGD(
            parameters,
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
            fused=True,
        )
    coarsest = min(student.plan.weights.values())
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "lr": AFFINE * config.lr / (2**coarsest - 1)},
    ]
    for top in sorted({top for _, top in scales}):
        same = [scale for scale, own in scales if own == top]
        groups.append({"params": same, "lr": config.lr / top})
    return torch.optim.AdamW(groups, config.lr, weight_decay=0.0, fused=True)


def make_scheduler(optimizer: torch.optim.Optimizer, config: Tuning) -> LRScheduler:
    """Make the learning rate schedule: steps as published, or a cosine down to zero over all steps."""
    if config.schedule == "step":
        return MultiStepLR(optimizer, list(config.lr_steps), gamma=0.1)
    return CosineAnnealingLR(optimizer, config.steps)
