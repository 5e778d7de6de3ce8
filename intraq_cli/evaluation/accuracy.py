"""Top-1 and top-5 accuracy of a network and its float teacher on the same images, and their agreement."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intraq_cli.evaluation.labelled_images import Batch
from intraq_cli.events import Report, StepDone, Warned, silent
from intraq_cli.models.teacher import logits_of

TOP = 5
NAN_LOGITS = -2
"""Stands for the classes of an image whose logits are NaN; -1 marks images that were not predicted yet."""
Predictor = Callable[[Batch], Tensor]
"""Returns the top classes of each image of a batch, most likely first, ``(B, min(5, K))``; -2 if logits are NaN."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies and agreement in percent."""

    n: int
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    agreement: float
    """Share of images on which both networks predict the same top-1 class."""


def likeliest(logits: Tensor) -> Tensor:
    """Return the classes of the largest logits ``(B, K)``, ``(B, min(5, K))``; on equal ones, the lower index first."""
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]  # topk breaks ties arbitrarily


def predictor_of(network: nn.Module, device: torch.device | str = "cpu") -> Predictor:
    """Return a function that predicts the classes of a batch ``(B, C, H, W)`` with ``network`` on ``device``."""

    def predict(batch: Batch) -> Tensor:
        logits = logits_of(network, batch.images.to(device, non_blocking=True))
        classes = likeliest(logits)
        return classes.masked_fill(logits.isnan().any(1, keepdim=True), NAN_LOGITS)

    return predict


@torch.no_grad()
def compare(ours: Predictor, theirs: Predictor, batches: Iterable[Batch], report: Report = silent) -> Accuracy:
    """Compare the predictions of two networks, or of one given twice; an image whose logits are NaN counts as wrong."""
    n, counts = 0, torch.zeros(7, dtype=torch.long)
    for step, batch in enumerate(batches):
        taught = theirs(batch)
        found = taught if ours is theirs else ours(batch)
        labels = batch.labels.to(found.device)[:, None]
        taught = taught.to(found.device)
        hits = [(classes[:, :k] == labels).any(1).sum() for classes in (found, taught) for k in (1, TOP)]
        silences = [classes[:, 0] == NAN_LOGITS for classes in (found, taught)]
        same = (found[:, 0] == taught[:, 0]) & ~silences[0]
        counts += torch.stack([*hits, same.sum(), *(silence.sum() for silence in silences)]).cpu()
        n += len(labels)
        report(StepDone("evaluation", step + 1, n))
    of_ours, of_theirs = counts[5:].tolist()
    for name, count in (("quantized", 0 if ours is theirs else of_ours), ("float", of_theirs)):
        if count:
            report(Warned(f"the {name} network has NaN logits on {count} of {n} images: they count as wrong"))
    return Accuracy(n, *(100 * counts[:5].double() / n).tolist())
