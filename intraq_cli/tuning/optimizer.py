"""What stage 2 tunes, and by which steps."""

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
"""By how many quantization steps biases and batch norms move while a weight moves by one: they are few, and what many
weights do to a channel's mean and gain is theirs to make up for."""

NORMS = (aten.batch_norm.default, aten.group_norm.default, aten.layer_norm.default, aten.instance_norm.default)


def biases_and_norms(graph: fx.GraphModule) -> list[Tensor]:
    """What is tuned beside the quantized weights: biases of layers, and what normalisations scale and shift by.

    No more: other parameters may be what the network computes its weights or its features from.
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
    """SGD as published, or Adam with steps in units of the quantization: see :class:`WeightQuantizer`.

    A scale's logarithm moves by ``lr`` through the largest code, which shifts the ends of its grid by ``lr`` steps;
    what is not quantized (biases, batch norm's affine part, gains) moves by ``AFFINE`` times as much relative to 1.
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
    """Steps as published, or a cosine down to zero over all steps."""
    if config.schedule == "step":
        return MultiStepLR(optimizer, list(config.lr_steps), gamma=0.1)
    return CosineAnnealingLR(optimizer, max(1, config.steps))
