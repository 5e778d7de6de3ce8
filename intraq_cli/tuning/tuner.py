"""Stage 2: tune the quantized network on synthetic images until it answers like its teacher."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from intraq_cli.batch_norms import BatchNormOutputs
from intraq_cli.events import Report, StageDone, StageStarted, StepDone, silent
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from intraq_cli.recipe import Tuning
from intraq_cli.synthesis.lor import crop_resize_flip, draw_crops
from intraq_cli.tuning.distillation import TuningLosses, distillation_loss

REPORT_EVERY = 10


@torch.enable_grad()
def tune(
    student: QuantizedNetwork,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: Tuning,
    seed: int = 0,
    device: torch.device | str = "cpu",
    report: Report = silent,
) -> dict[str, float]:
    """Tune ``student`` in place; returns the losses averaged over the last tenth of the steps.

    Args:
        student: calibrated, with weight quantizers, on ``device``.
        teacher: the float network, in evaluation mode, frozen, on ``device``.
        images: ``(N, C, H, W)``, normalised.
        labels: ``(N,)``.
        config: the recipe's tuning section.
        seed: of the order of the images and their crops.
        device: where to work.
        report: told of every few steps.
    """
    started = time.perf_counter()
    report(StageStarted("tuning", config.steps, f"{len(images)} images"))
    optimizer = _optimizer(student, config)
    tuned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in tuned:
        parameter.requires_grad_(True)
    scheduler = _scheduler(optimizer, config)
    batches = augmented_batches(images, labels, config.batch_size, config.crop_eta, seed)
    mixing = torch.Generator().manual_seed(seed + 1)
    tail: list[Tensor] = []
    for step, (x, y) in zip(range(config.steps), batches, strict=False):
        x = jitter(mix(x, config, mixing), config.jitter, mixing)
        x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
        with torch.no_grad():
            target, wanted = _answer(teacher, x, config)
        logits, features = _answer(student, x, config)
        losses = distillation_loss(logits, target, y, features, wanted, config)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        scheduler.step()
        if step >= config.steps * 0.9:
            tail.append(torch.stack(losses).detach())
        if step % REPORT_EVERY == 0 or step == config.steps - 1:
            values = dict(zip(TuningLosses._fields, torch.stack(losses).tolist(), strict=True))
            report(StepDone("tuning", step + 1, (step + 1) * config.batch_size, values=values))
    for parameter in tuned:
        parameter.requires_grad_(False)
    report(StageDone("tuning", time.perf_counter() - started))
    means = torch.stack(tail).mean(0).tolist() if tail else [float("nan")] * len(TuningLosses._fields)
    return dict(zip(TuningLosses._fields, means, strict=True))


def _answer(network: nn.Module, images: Tensor, config: Tuning) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what every batch norm puts out if the loss asks for it."""
    if not config.feature_weight:
        return network(images), []
    with BatchNormOutputs() as kept:
        return network(images), kept.outputs


def augmented_batches(
    images: Tensor, labels: Tensor, batch_size: int, eta: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches, epoch by epoch in new order; images cropped (area at least ``eta``), half of them flipped."""
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[-2:]
    order = torch.empty(0, dtype=torch.long)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        index, order = order[:batch_size], order[batch_size:]
        crops = draw_crops(len(index), height, width, eta, generator)
        flips = torch.rand(len(index), generator=generator) < 0.5
        yield crop_resize_flip(images[index].float(), crops, flips), labels[index]


def mix(images: Tensor, config: Tuning, generator: torch.Generator) -> Tensor:
    """Put part of another image into each image of a batch ``(B, C, H, W)``, at most half of it.

    ``mixup`` adds the two (Zhang et al. 2018), ``cutmix`` pastes a rectangle (Yun et al. 2019). The teacher answers for
    what it is shown, so this asks about more of the input space than the images alone do.
    """
    if config.mix == "none":
        return images
    n, _, height, width = images.shape
    other = images[torch.randperm(n, generator=generator)]
    share = torch.rand(n, generator=generator) / 2  # of the other image
    if config.mix == "mixup":
        return images.lerp(other, share[:, None, None, None])
    side = share.sqrt()
    top, left = torch.rand(2, n, generator=generator) * (1 - side)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, other, images)


def jitter(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Change contrast, by a factor whose logarithm has a standard deviation of ``amount``, and brightness per channel.

    ``images (B, C, H, W)``; what synthetic images have too little of, as all of a batch share its statistics.
    """
    if not amount:
        return images
    n, channels = images.shape[:2]
    gain = (amount * torch.randn(n, 1, 1, 1, generator=generator)).exp()
    shift = 2 / 3 * amount * torch.randn(n, channels, 1, 1, generator=generator)
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * gain + mean + shift


def _biases_and_norms(network: nn.Module) -> list[Tensor]:
    """What is tuned beside the quantized weights; no more, as networks keep what they compute from other parameters."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    found: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, norms):
            found += module.parameters(recurse=False)
        elif isinstance(module, layers) and module.bias is not None:
            found.append(module.bias)
    return list(dict.fromkeys(found))  # modules may share them


def _optimizer(student: QuantizedNetwork, config: Tuning) -> torch.optim.Optimizer:
    """SGD as published, or Adam with steps in units of the quantization: see :class:`WeightQuantizer`.

    A scale's logarithm moves by ``lr / (2^b - 1)``, which shifts the ends of its grid by ``lr`` steps; what is not
    quantized (biases, batch norm's affine part) moves by as much relative to 1.
    """
    others = _biases_and_norms(student.network)
    weights = [quantizer.latent for quantizer in student.latent.values()]
    quantizers: list[WeightQuantizer | ActivationQuantizer] = [*student.latent.values(), *student.sites.values()]
    scales = [(q.log_scale, q.bits) for q in quantizers if q.log_scale is not None]
    if config.optimizer == "sgd":
        parameters = [*others, *weights, *(scale for scale, _ in scales)]
        nesterov = config.momentum > 0
        decay = config.weight_decay
        return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=decay, nesterov=nesterov)
    coarsest = min(student.plan.weights.values())
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "lr": config.lr / (2**coarsest - 1)},
    ]
    for bits in sorted({bits for _, bits in scales}):
        same = [scale for scale, own in scales if own == bits]
        groups.append({"params": same, "lr": config.lr / (2**bits - 1)})
    return torch.optim.AdamW(groups, config.lr, weight_decay=0.0)


def _scheduler(optimizer: torch.optim.Optimizer, config: Tuning) -> LRScheduler:
    if config.schedule == "step":
        return MultiStepLR(optimizer, list(config.lr_steps), gamma=0.1)
    return CosineAnnealingLR(optimizer, max(1, config.steps))
