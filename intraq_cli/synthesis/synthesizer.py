"""Stage 1: batches of images, each optimised from noise; class centres accumulate from batch to batch."""

import hashlib
import statistics
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, fx

from intraq_cli.errors import DivergedError, ModelError, NotFiniteError, check_finite, first_line
from intraq_cli.events import Report, StageDone, StageStarted, Warned
from intraq_cli.recipe import Synthesis
from intraq_cli.runtime.compilation import Accelerated, mode_of
from intraq_cli.runtime.context import DEFAULT_CONTEXT, RunContext
from intraq_cli.runtime.micro_batches import MicroBatches
from intraq_cli.synthesis.image_batch import ImageBatch
from intraq_cli.synthesis.mdc import ClassCentres, heterogeneity
from intraq_cli.synthesis.objective import ForwardWithStatistics, Objective, as_numbers
from intraq_cli.synthesis.progress import Progress
from intraq_cli.synthesis.tuning_images import TuningImages

ATTEMPTS = 3
"""Number of attempts at a batch whose losses are not finite; each has a quarter of the learning rate, and new noise."""
UNCONVERGED = 3.0
"""A batch is made again if its BNS loss exceeds this many times the median of all batches."""


class _Finished(TypedDict):
    """One batch, on the CPU."""

    images: Tensor
    """(B, C, H, W), float16."""
    features: Tensor | None
    predicted: Tensor
    """(B,), the classes that the teacher predicts."""
    confidences: Tensor
    """(B,), the teacher's probability of each image's class."""
    losses: dict[str, float]
    """Losses of whole images, without crops."""


def synthesize_images(
    graph: fx.GraphModule,
    image_shape: tuple[int, int, int],
    num_classes: int,
    bounds: tuple[Tensor, Tensor],
    config: Synthesis,
    context: RunContext = DEFAULT_CONTEXT,
) -> TuningImages:
    """Learn ``config.num_images`` images from the network itself.

    With several processes, each makes one batch per round; class centres are those of all batches of earlier rounds.

    Args:
        graph: graph of the teacher, on the device of ``context``.
        image_shape: ``(C, H, W)``.
        num_classes: K.
        bounds: smallest and largest value of a real pixel after normalisation, ``(C,)`` each.
        config: the recipe's synthesis section.
        context: device, seed, processes and the like.

    Raises:
        ModelError: no gradient reaches the images.
        DivergedError: a batch's losses are not finite, even at the lowest learning rate tried.
    """
    context.store.began("synthesis")
    device, report, store, ranks = context.device, context.report, context.store, context.ranks
    labels = draw_labels(config, num_classes, torch.Generator().manual_seed(context.seed))
    batches = labels.split(batch_sizes(config.num_images, config.batch_size))
    centres = ClassCentres(num_classes, device)
    network = ForwardWithStatistics(graph, config.precision, device)
    image_steps = config.num_images * config.steps // ranks.size
    forward = Accelerated(network, mode_of(config.compile, graph, device, image_steps), device, report)
    _check_gradient(network, image_shape, device)
    low, high = bounds
    bounds = low.to(device), high.to(device)  # once, so that no step waits for a copy
    objective = Objective(forward, centres, config, bounds, MicroBatches(context.micro_batch_size, report))
    maker = _Maker(objective, image_shape, context, [*map(len, batches)])
    report(StageStarted("synthesis", len(batches) * config.steps, f"{config.num_images} images"))
    finished: list[_Finished] = []
    while len(finished) < len(batches):
        round_ = range(len(finished), min(len(finished) + ranks.size, len(batches)))
        known: list[_Finished | None] = ranks.broadcast_object([store.load(f"batch-{k}") for k in round_])
        own = len(finished) + ranks.rank
        mine = maker.make(own, batches[own]) if own in round_ and known[ranks.rank] is None else None
        for k, before, new in zip(round_, known, ranks.gather(mine), strict=False):
            if before is None:
                store.save(f"batch-{k}", new)
                store.drop("batch")
            finished.append(before or new)
            if finished[-1]["features"] is not None:
                centres.update(finished[-1]["features"].to(device), batches[k].to(device))
    _redo_unconverged(finished, batches, maker)
    made, predicted = _collect(finished, labels, batches)
    _warn_of_unreached(predicted, labels, num_classes, report)
    report(StageDone("synthesis", store.ended("synthesis")))
    return made


@torch.enable_grad()
def _check_gradient(network: ForwardWithStatistics, image_shape: tuple[int, int, int], device: torch.device) -> None:
    """Refuse a network that rounds, thresholds or detaches its images before its first batch norm."""
    x = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    try:
        seen = network.first(x)
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        reason = "images cannot be learned from this network: torch has no derivative of one of its operations"
        raise ModelError(f"{reason} ({first_line(error)})", "use --recipe instant, which needs no images") from error
    values = [*(part for layer in seen.layers for part in (layer.mean, layer.var)), seen.logits]
    whole = sum((value.float().square().sum() for value in values), torch.zeros((), device=device))
    reached = whole.requires_grad and (made := torch.autograd.grad(whole, x, allow_unused=True)[0]) is not None
    if not reached or not made.any():
        raise ModelError(
            "no gradient reaches the images: the network rounds, thresholds or detaches its input",
            "use --recipe instant, which needs no images, or your own pictures with --images FOLDER",
        )


def _redo_unconverged(finished: list[_Finished], batches: tuple[Tensor, ...], maker: "_Maker") -> None:
    """Repeat batches whose BNS loss is far above the others'; keep the better of the two results."""
    report, store, ranks = maker.context.report, maker.context.store, maker.context.ranks
    bns = [batch["losses"]["bns"] for batch in finished]
    middle = statistics.median(bns)
    for k, loss in enumerate(bns):
        if len(bns) < 3 or loss <= UNCONVERGED * middle:
            continue
        again = ranks.broadcast_object(store.load(f"again-{k}"))
        if again is None:
            report(Warned(f"batch {k + 1} did not converge (BNS {loss:.3g}, others {middle:.3g}): making it again"))
            again = ranks.broadcast_object(maker.make(k, batches[k], again=True) if ranks.rank == 0 else None)
            store.save(f"again-{k}", again)
            store.drop("batch")
        if again["losses"]["bns"] < loss:
            finished[k] = again


def _collect(finished: list[_Finished], labels: Tensor, batches: tuple[Tensor, ...]) -> tuple[TuningImages, Tensor]:
    weights = torch.tensor([len(batch) for batch in batches]) / len(labels)
    each = torch.tensor([[*batch["losses"].values()] for batch in finished])
    mean = (each * weights[:, None]).sum(0)
    predicted = torch.cat([batch["predicted"] for batch in finished])
    features = [batch["features"] for batch in finished if batch["features"] is not None]
    made = TuningImages(
        torch.cat([batch["images"] for batch in finished]),
        labels,
        dict(zip(finished[0]["losses"], mean.tolist(), strict=True)),
        (predicted == labels).float().mean().item(),
        heterogeneity(torch.cat(features), labels) if features else float("nan"),
        torch.cat([batch["confidences"] for batch in finished]),
    )
    return made, predicted


def _warn_of_unreached(predicted: Tensor, labels: Tensor, num_classes: int, report: Report) -> None:
    asked = torch.bincount(labels, minlength=num_classes) > 0
    reached = torch.bincount(labels[predicted == labels], minlength=num_classes) > 0
    missed = (asked & ~reached).nonzero()[:, 0].tolist()
    if missed:
        some = ", ".join(map(str, missed[:5])) + (", ..." if len(missed) > 5 else "")
        of = f"{len(missed)} of {int(asked.sum())} classes"
        report(Warned(f"for {of}, the network assigns no image to the class it was made for: {some}"))


def batch_sizes(total: int, batch_size: int) -> list[int]:
    """Return the sizes of the batches: as few batches as ``batch_size`` allows, of sizes as equal as possible.

    The batch norm statistics of a small last batch would be poor; so 1000 images at ``batch_size`` 256 are four of 250.
    """
    count = -(-total // batch_size)
    return [total // count + (k < total % count) for k in range(count)]


def draw_labels(config: Synthesis, num_classes: int, generator: torch.Generator) -> Tensor:
    """Draw the classes of all images ``(N,)``."""
    n = config.num_images
    if config.labels == "uniform":
        return torch.randint(num_classes, (n,), generator=generator)
    rounds = [torch.randperm(num_classes, generator=generator) for _ in range(-(-n // num_classes))]
    return torch.cat(rounds)[:n]


@dataclass(frozen=True)
class _Maker:
    """Makes batches."""

    objective: Objective
    shape: tuple[int, int, int]
    context: RunContext
    sizes: list[int]
    """Number of images in each batch."""

    def make(self, k: int, labels: Tensor, again: bool = False) -> _Finished:
        """Make batch ``k`` for classes ``labels (B,)``, from other noise if ``again`` is set."""
        device, report = self.context.device, self.context.report
        state = self.context.store.load("batch")
        if state and (state["batch"], state["again"]) != (k, again):
            state = None
        which = ""
        for attempt in range(state["attempt"] if state else 0, ATTEMPTS):
            try:
                return self._attempt(k, labels.to(device), attempt, again, state)
            except NotFiniteError as error:
                state, which = None, str(error)
                if attempt < ATTEMPTS - 1:
                    what = f"the losses of batch {k + 1} are not finite"
                    report(Warned(f"{what}: retrying at a quarter of the learning rate"))
        gentlest = f"even at a learning rate of {self._lr(ATTEMPTS - 1):g}"
        raise DivergedError(
            f"the losses of batch {k + 1} are not finite, {gentlest}: {which}",
            f"lower it (--set synthesis.lr={self._lr(ATTEMPTS):.1g}) or use another --seed; the network may be damaged",
        )

    def _lr(self, attempt: int) -> float:
        return self.objective.config.lr / 4**attempt

    def _attempt(self, k: int, labels: Tensor, attempt: int, again: bool, state: dict[str, Any] | None) -> _Finished:
        """Optimise a batch from noise, or from the ``state`` of an interrupted run, to the end of the schedule."""
        config, context = self.objective.config, self.context
        generator = torch.Generator().manual_seed(_seed_of(context.seed, k, attempt, again))
        batch = ImageBatch(self.objective, self.shape, labels, generator, self._lr(attempt))
        progress = Progress(context.report, k, len(self.sizes), self.objective, sum(self.sizes[:k]))
        first = 0
        if state:
            first, progress.seen = state["step"], state["seen"]
            batch.load_state(state["images"])
        for step in range(first, config.steps):
            progress.step(step, batch.step(), len(labels))
            context.store.save_periodically(
                "batch",
                lambda step=step: {  # type: ignore[misc]
                    "batch": k,
                    "attempt": attempt,
                    "again": again,
                    "step": step + 1,
                    "seen": progress.seen,
                    "images": batch.state(),
                },
            )
        progress.warn_of_idle_parts()
        return self._finished(batch.images(), labels, batch.targets)

    def _finished(self, images: Tensor, labels: Tensor, targets: Tensor) -> _Finished:
        losses, logits, features = self.objective.of_finished(images, labels, targets)
        values = as_numbers(losses)
        check_finite(values)
        return {
            "images": images.to("cpu", torch.float16).contiguous(),
            "features": None if features is None else features.cpu(),
            "predicted": logits.argmax(1).cpu(),
            "confidences": logits.float().softmax(1).gather(1, labels[:, None])[:, 0].cpu(),
            "losses": values,
        }


def _seed_of(seed: int, k: int, attempt: int, again: bool) -> int:
    """Return the random seed of batch ``k``, independent of the process and of the batches made before."""
    digest = hashlib.sha256(f"{seed} {k} {attempt} {again}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
