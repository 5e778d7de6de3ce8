"""Stage 1: batches of images, each optimised from noise, with class centres carried from batch to batch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from intraq_cli.events import Report, StageDone, StageStarted, StepDone, Warned, silent
from intraq_cli.recipe import Synthesis
from intraq_cli.synthesis.mdc import ClassCentres, heterogeneity
from intraq_cli.synthesis.objective import Losses, objective
from intraq_cli.synthesis.sil import draw_targets
from intraq_cli.trace import FeatureTap

REPORT_EVERY = 10
"""Steps between two looks at the losses: each look waits for the device."""


@dataclass(frozen=True)
class Synthetic:
    """What stage 1 made, on the CPU."""

    images: Tensor
    """``(N, C, H, W)``, float16, normalised as the network receives them: what is tuned on is what a file holds."""
    labels: Tensor
    """``(N,)``, the class each image was made for."""
    losses: dict[str, float]
    """Parts of the loss of the finished images (no crops), averaged over the batches."""
    teacher_accuracy: float
    """Share of images that the teacher puts into their class."""
    heterogeneity: float


@torch.enable_grad()
def synthesize_images(
    network: nn.Module,
    classifier: str | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    bounds: tuple[Tensor, Tensor],
    config: Synthesis,
    seed: int = 0,
    device: torch.device | str = "cpu",
    report: Report = silent,
) -> Synthetic:
    """Learn ``config.num_images`` images from the network itself.

    Args:
        network: the teacher, in evaluation mode, frozen, on ``device``.
        classifier: name of the module whose input is the pooled features; None switches MDC off.
        image_shape: ``(C, H, W)``.
        num_classes: K.
        bounds: smallest and largest value of a real pixel after normalisation, ``(C,)`` each.
        config: the recipe's synthesis section.
        seed: of every random draw.
        device: where to work.
        report: told of every step.
    """
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    centres = ClassCentres(num_classes, device)
    tap = FeatureTap(network, classifier)
    if classifier is None:
        if config.mdc_weight:
            report(Warned("the features that enter the classifier were not found: MDC is off"))
        config = replace(config, mdc_weight=0.0)
    sizes = batch_sizes(config.num_images, config.batch_size)
    labels = draw_labels(config, num_classes, generator)
    report(StageStarted("synthesis", len(sizes) * config.steps, f"{config.num_images} images"))
    images, features, predicted, finals = [], [], [], []
    done = 0
    for k, own_labels in enumerate(labels.split(sizes)):
        own_labels = own_labels.to(device)
        progress = _Progress(report, k, len(sizes), config, done)
        batch, targets = _optimise_batch(
            network, tap, image_shape, own_labels, centres, bounds, config, generator, device, progress
        )
        done += len(batch) * config.steps
        with torch.no_grad():
            final = objective(network, tap, batch, own_labels, targets, centres, _without_crops(config), generator)
            logits = network(batch)
        progress.warn_of_idle_parts()
        if classifier is not None:
            centres.update(tap.features, own_labels)
            features.append(tap.features.cpu())
        finals.append(torch.stack(final).cpu() * len(batch))
        images.append(batch.to("cpu", torch.float16).contiguous())
        predicted.append(logits.argmax(1).cpu())
    mean = torch.stack(finals).sum(0) / len(labels)
    report(StageDone("synthesis", time.perf_counter() - started))
    return Synthetic(
        torch.cat(images),
        labels,
        dict(zip(Losses._fields, mean.tolist(), strict=True)),
        (torch.cat(predicted) == labels).float().mean().item(),
        heterogeneity(torch.cat(features), labels) if features else float("nan"),
    )


def batch_sizes(total: int, batch_size: int) -> list[int]:
    """Sizes of the batches: as few as ``batch_size`` allows, and as even as they can be.

    Batch-norm statistics of a small rest batch would be poor; so 1000 images in batches of 256 are four of 250.
    """
    count = -(-total // batch_size)
    return [total // count + (k < total % count) for k in range(count)]


def draw_labels(config: Synthesis, num_classes: int, generator: torch.Generator) -> Tensor:
    """Classes of all images ``(N,)``."""
    n = config.num_images
    if config.labels == "uniform":
        return torch.randint(num_classes, (n,), generator=generator)
    rounds = [torch.randperm(num_classes, generator=generator) for _ in range(-(-n // num_classes))]
    return torch.cat(rounds)[:n]


def white_noise(n: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """``N(0, I)``, ``(n, C, H, W)``."""
    return torch.randn(n, *shape, generator=generator)


def smooth_noise(n: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Noise with the same power in every octave but the finest, ``(n, C, H, W)``, of mean 0 and variance 1.

    The power of real images falls about so with frequency. The statistics that BNS aligns hold for a batch as a whole,
    and leave in the single image much of the white noise that it began with.
    """
    channels, height, width = shape
    total = torch.zeros(n, *shape)
    for halvings in range(1, max(2, min(height, width).bit_length() - 1)):
        size = (max(1, height >> halvings), max(1, width >> halvings))
        octave = torch.randn(n, channels, *size, generator=generator)
        total += F.interpolate(octave, size=(height, width), mode="bilinear")
    return (total - total.mean()) / total.std()


def _optimise_batch(
    network: nn.Module,
    tap: FeatureTap,
    shape: tuple[int, int, int],
    labels: Tensor,
    centres: ClassCentres,
    bounds: tuple[Tensor, Tensor],
    config: Synthesis,
    generator: torch.Generator,
    device: torch.device | str,
    progress: "_Progress",
) -> tuple[Tensor, Tensor]:
    """One batch from noise to the end of its schedule: images ``(B, C, H, W)`` and SIL's targets ``(B,)``."""
    draw = white_noise if config.start == "white" else smooth_noise
    x = draw(len(labels), shape, generator).to(device, memory_format=torch.channels_last).requires_grad_()
    targets = draw_targets(len(labels), config.epsilon, generator).to(device)
    low, high = (edge.to(device)[:, None, None] for edge in bounds)
    adam = torch.optim.Adam([x], lr=config.lr)
    for step, scheduler in _schedule(adam, config):
        losses = objective(network, tap, x, labels, targets, centres, config, generator)
        (x.grad,) = torch.autograd.grad(losses.total, [x])
        adam.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(losses.total.item())
        else:
            scheduler.step()
        if config.clip:
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, low), high))
        progress.step(step, losses, len(labels))
    return x.detach(), targets


def _schedule(adam: torch.optim.Optimizer, config: Synthesis) -> Iterator[tuple[int, LRScheduler]]:
    scheduler: LRScheduler
    if config.schedule == "plateau":
        scheduler = ReduceLROnPlateau(adam, factor=0.1, patience=50, min_lr=1e-4)
    else:
        scheduler = CosineAnnealingLR(adam, config.steps)
    for step in range(config.steps):
        yield step, scheduler


def _without_crops(config: Synthesis) -> Synthesis:
    return replace(config, lor_probability=0.0)


class _Progress:
    """Reports one batch's steps, and notices a part of the loss that never did anything."""

    def __init__(self, report: Report, batch: int, batches: int, config: Synthesis, images_before: int) -> None:
        self.report, self.batch, self.batches, self.config = report, batch, batches, config
        self.images_before = images_before
        self.seen = {"bns": 0.0, "sil": 0.0, "mdc": 0.0}

    def step(self, step: int, losses: Losses, images: int) -> None:
        if step % REPORT_EVERY and step != self.config.steps - 1:
            return
        values = dict(zip(Losses._fields, torch.stack(losses).detach().tolist(), strict=True))
        for part in self.seen:
            self.seen[part] = max(self.seen[part], values[part])
        self.report(
            StepDone(
                "synthesis",
                self.batch * self.config.steps + step + 1,
                self.images_before + (step + 1) * images,
                f"batch {self.batch + 1}/{self.batches}",
                values,
            )
        )

    def warn_of_idle_parts(self) -> None:
        """A part at zero through a whole batch pulls at nothing; the first batch has no class centres for MDC."""
        weights = {"bns": self.config.bns_weight, "sil": self.config.sil_weight, "mdc": self.config.mdc_weight}
        for part, largest in self.seen.items():
            if weights[part] > 0 and largest == 0 and not (part == "mdc" and self.batch == 0):
                self.report(Warned(f"{part.upper()} stayed at zero for the whole of batch {self.batch + 1}"))
