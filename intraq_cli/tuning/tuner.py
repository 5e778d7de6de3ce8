"""Stage 2: tune the quantized network on synthetic images until it answers like its teacher."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from intraq_cli.errors import DivergedError, NotFiniteError, check_finite
from intraq_cli.events import StageDone, StageStarted, StepDone, Warned
from intraq_cli.graph.batch_norms import BatchNormOutputs, ComparedOutputs
from intraq_cli.graph.folding import Folds, find_folds, folded
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from intraq_cli.recipe import Tuning
from intraq_cli.runtime.autocast import autocast
from intraq_cli.runtime.compilation import Compiled, is_wanted
from intraq_cli.runtime.context import DEFAULT_CONTEXT, RunContext
from intraq_cli.runtime.device import sent
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.synthesis.lor import crop_resize_flip, draw_crops
from intraq_cli.tuning.distillation import TuningLosses, distillation_loss, feature_distance

REPORT_EVERY = 10
ATTEMPTS = 3
"""At tuning, if its losses are not finite; each four times gentler."""
AFFINE = 8.0
"""By how many quantization steps biases and batch norms move while a weight moves by one: they are few, and what many
weights do to a channel's mean and gain is theirs to make up for."""


@torch.enable_grad()
def tune(
    student: QuantizedNetwork,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: Tuning,
    context: RunContext = DEFAULT_CONTEXT,
) -> dict[str, float]:
    """Tune ``student`` in place; returns the losses averaged over the last tenth of the steps.

    Args:
        student: calibrated, with weight quantizers, on the device of ``conditions``.
        teacher: the float network, in evaluation mode, frozen, on the same device.
        images: ``(N, C, H, W)``, normalised.
        labels: ``(N,)``.
        config: the recipe's tuning section.
        context: its processes share every batch.

    Raises:
        DivergedError: the losses are not finite, however gently it is tuned.
    """
    started, report = time.perf_counter(), context.report
    report(StageStarted("tuning", config.steps, f"{len(images)} images"))
    context.ranks.broadcast(list(student.state_dict().values()))
    start = {key: value.clone() for key, value in student.state_dict().items()}
    left = context.ranks.broadcast_object(context.kept.load("tuning"))
    for attempt in range(left["attempt"] if left else 0, ATTEMPTS):
        gentler = replace(config, lr=config.lr / 4**attempt)
        run = _Run(student, teacher, images, labels, gentler, context)
        try:
            losses = run.through(attempt, left)
        except NotFiniteError:
            left = None
            student.load_state_dict(start)
            report(Warned(f"the losses of tuning are not finite at a learning rate of {gentler.lr:g}: tuned anew"))
            continue
        report(StageDone("tuning", time.perf_counter() - started))
        return losses
    raise DivergedError(
        f"the losses of tuning are not finite, even at a learning rate of {gentler.lr:g}",
        "tune with a smaller one (--set tuning.lr=0.0001), or not at all (--set tuning.steps=0)",
    )


class _Run:
    """One way through all steps."""

    def __init__(
        self,
        student: QuantizedNetwork,
        teacher: nn.Module,
        images: Tensor,
        labels: Tensor,
        config: Tuning,
        context: RunContext,
    ) -> None:
        seed, device, report = context.seed, context.device, context.report
        self.student, self.config, self.context = student, config, context
        self.micro_batches = MicroBatches(context.micro_batch_size, report)
        image = images[:1].to(device, torch.float32)
        answers = partial(_answers, student, teacher, find_folds(teacher, image), config)
        seen = config.steps * config.batch_size // context.ranks.size
        self.answers = Compiled(answers, is_wanted(config.compile, teacher, image, seen), device, report)
        self.batches = AugmentedBatches(images, labels, config.batch_size, config.crop_eta, seed, device)
        self.mixing = torch.Generator().manual_seed(seed + 1)
        low, high = _extremes(images)
        self.bounds = low.to(device), high.to(device)
        self.optimizer = _optimizer(student, config)
        self.scheduler = _scheduler(self.optimizer, config)
        self.tuned: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.tail: list[Tensor] = []

    def through(self, attempt: int, left: dict[str, Any] | None) -> dict[str, float]:
        """All steps, from the first or from where it was ``left``."""
        steps, kept = self.config.steps, self.context.kept
        first = self._go_on(left) if left else 0
        for parameter in self.tuned:
            parameter.requires_grad_(True)
        for step in range(first, steps):
            losses = self._step()
            if step >= min(0.9 * steps, steps - 1):
                self.tail.append(losses)
            if step % REPORT_EVERY == 0 or step == steps - 1:
                values = dict(zip(TuningLosses._fields, losses.tolist(), strict=True))
                check_finite(values.values())
                self.context.report(StepDone("tuning", step + 1, (step + 1) * self.config.batch_size, values=values))
            kept.save_periodically("tuning", lambda step=step: {"attempt": attempt, **self._state(step + 1)})  # type: ignore[misc]
        for parameter in self.tuned:
            parameter.requires_grad_(False)
        means = torch.stack(self.tail).mean(0).tolist() if self.tail else [float("nan")] * len(TuningLosses._fields)
        return dict(zip(TuningLosses._fields, means, strict=True))

    def _step(self) -> Tensor:
        """One step; returns the losses, as :class:`TuningLosses`, detached."""
        x, y = next(self.batches)
        x = jitter(mix(x, self.config, self.mixing), self.config.jitter, self.bounds, self.mixing)
        ranks = self.context.ranks
        own = slice(ranks.rank, None, ranks.size)
        share = len(y[own]) / len(y)
        x, y = x[own].contiguous(memory_format=torch.channels_last), y[own]
        losses = share * self.micro_batches.run(lambda size: self._at_once(x, y, size, share), len(x))
        ranks.all_reduce([losses, *(p.grad for p in self.tuned if p.grad is not None)])
        self.optimizer.step()
        self.scheduler.step()
        return losses

    def _at_once(self, x: Tensor, y: Tensor, size: int, share: float) -> Tensor:
        if size < len(x) and x.is_cuda:  # a CUDA graph's second run would write over the gradients of the first
            return self._accumulate(self.answers.function, x, y, size, share)
        return self.answers.run(lambda answers: self._accumulate(answers, x, y, size, share))

    def _accumulate(
        self, answers: Callable[[Tensor], "_Answers"], x: Tensor, y: Tensor, size: int, share: float
    ) -> Tensor:
        """Gradients of this process's share of a batch, ``size`` images at a time; returns its losses."""
        self.optimizer.zero_grad()
        total = torch.zeros(len(TuningLosses._fields), device=x.device)
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            logits, wanted, distances = answers(images)
            losses = distillation_loss(logits, wanted, labels, distances, self.config)
            weight = len(images) / len(x)
            (share * weight * losses.total).backward()
            total += weight * torch.stack(losses).detach()
        return total

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state(),
            "mixing": self.mixing.get_state(),
            "tail": self.tail,
        }

    def _go_on(self, left: dict[str, Any]) -> int:
        """Take up a state; returns the first step to do."""
        self.student.load_state_dict(left["student"])
        self.optimizer.load_state_dict(left["optimizer"])
        self.scheduler.load_state_dict(left["scheduler"])
        self.batches.go_on(left["batches"])
        self.mixing.set_state(left["mixing"])
        self.tail = [losses.to(self.context.device) for losses in left["tail"]]
        return int(left["step"])


class _Answers(NamedTuple):
    """What the two networks make of images."""

    student: Tensor
    """Logits ``(B, K)``."""
    teacher: Tensor
    distances: list[Tensor]
    """How far apart the outputs of each batch norm are, if the loss asks for that."""


def _answers(student: QuantizedNetwork, teacher: nn.Module, folds: Folds, config: Tuning, images: Tensor) -> _Answers:
    folded_teacher, folded_student = folded(teacher, folds), folded(student.network, folds)
    with autocast(config.precision, images.device):
        if not config.feature_weight:
            with torch.no_grad(), folded_teacher:
                wanted = teacher(images)
            with folded_student:
                return _Answers(student(images), wanted, [])
        with torch.no_grad(), folded_teacher, BatchNormOutputs() as features:
            wanted = teacher(images)
        with folded_student, ComparedOutputs(features.outputs, feature_distance) as compared:
            return _Answers(student(images), wanted, compared.results)


class AugmentedBatches(Iterator[tuple[Tensor, Tensor]]):
    """Endless batches, epoch by epoch in new order; images cropped (area at least ``eta``), half of them flipped.

    The images stay where they are; a batch is on ``device``, and the same on all.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        eta: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.labels, self.batch_size, self.eta = images, labels, batch_size, eta
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)

    def __next__(self) -> tuple[Tensor, Tensor]:
        while len(self.order) < self.batch_size:
            self.order = torch.cat([self.order, torch.randperm(len(self.images), generator=self.generator)])
        index, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        height, width = self.images.shape[-2:]
        crops = draw_crops(len(index), height, width, self.eta, self.generator)
        flips = torch.rand(len(index), generator=self.generator) < 0.5
        images, labels = sent(self.images[index], self.device), sent(self.labels[index], self.device)
        return crop_resize_flip(images.float(), crops, flips), labels

    def state(self) -> dict[str, Tensor]:
        """Where it stands."""
        return {"order": self.order.clone(), "generator": self.generator.get_state()}

    def go_on(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""
        self.order = state["order"]
        self.generator.set_state(state["generator"])


def mix(images: Tensor, config: Tuning, generator: torch.Generator) -> Tensor:
    """Put part of another image into each image of a batch ``(B, C, H, W)``, at most half of it.

    ``mixup`` adds the two (Zhang et al. 2018), ``cutmix`` pastes a rectangle (Yun et al. 2019). The teacher answers for
    what it is shown, so this asks about more of the input space than the images alone do.
    """
    if config.mix == "none":
        return images
    n, _, height, width = images.shape
    other = images[sent(torch.randperm(n, generator=generator), images.device)]
    share = torch.rand(n, generator=generator) / 2  # of the other image
    if config.mix == "mixup":
        return images.lerp(other, sent(share[:, None, None, None], images.device))
    side = share.sqrt()
    top, left = torch.rand(2, n, generator=generator) * (1 - side)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(sent(inside, images.device), other, images)


def jitter(images: Tensor, amount: float, bounds: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Change contrast, by a factor whose logarithm has a standard deviation of ``amount``, and brightness per channel.

    ``images (B, C, H, W)``; what synthetic images have too little of, as all of a batch share its statistics. No pixel
    leaves ``bounds``, ``(C, 1, 1)`` each, on the same device: where the image itself is quantized, what lies outside
    would be cut off, and the network learn to make up for that.
    """
    if not amount:
        return images
    n, channels = images.shape[:2]
    gain = (amount * torch.randn(n, 1, 1, 1, generator=generator)).exp()
    shift = 2 / 3 * amount * torch.randn(n, channels, 1, 1, generator=generator)
    mean, device = images.mean((2, 3), keepdim=True), images.device
    return ((images - mean) * sent(gain, device) + mean + sent(shift, device)).clamp(*bounds)


def _extremes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each channel of ``(N, C, H, W)``, ``(C, 1, 1)`` each."""
    low, high = (extreme((0, 2, 3)).float()[:, None, None] for extreme in (images.amin, images.amax))
    return low, high


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
    quantized (biases, batch norm's affine part) moves by ``AFFINE`` times as much relative to 1.
    """
    others = _biases_and_norms(student.network)
    weights = [quantizer.latent for quantizer in student.latent.values()]
    quantizers: list[WeightQuantizer | ActivationQuantizer] = [*student.latent.values(), *student.sites.values()]
    scales = [(q.log_scale, q.bits) for q in quantizers if q.log_scale is not None]
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
    for bits in sorted({bits for _, bits in scales}):
        same = [scale for scale, own in scales if own == bits]
        groups.append({"params": same, "lr": config.lr / (2**bits - 1)})
    return torch.optim.AdamW(groups, config.lr, weight_decay=0.0, fused=True)


def _scheduler(optimizer: torch.optim.Optimizer, config: Tuning) -> LRScheduler:
    if config.schedule == "step":
        return MultiStepLR(optimizer, list(config.lr_steps), gamma=0.1)
    return CosineAnnealingLR(optimizer, max(1, config.steps))
