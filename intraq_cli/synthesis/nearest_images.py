"""The images nearest to the training data, out of the user's pictures or of random images.

Batch norms store mean and variance of the training data. An image whose own moments are close to them resembles the
training data to the network. No labels are needed: in tuning, the float network's output is the target.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from intraq_cli.graph.batch_norms import LayerStatistics, Parameters, batch_norms, norm_parameters, statistics
from intraq_cli.graph.nodes import copy_graph, insert_call
from intraq_cli.graph.outputs import add_outputs
from intraq_cli.synthesis.bns import channel_distances, scale_free_bns_loss
from intraq_cli.synthesis.tuning_images import TuningImages

BATCH = 16
"""Number of images per batch."""

Moments = list[tuple[Tensor, Tensor]]
"""Mean and biased variance over height and width of every batch norm's input: ``(B, C)`` each."""


def moments_of_each(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance of each channel of each image of ``x (B, C, H, W)``."""
    return x.mean((2, 3)), x.var((2, 3), correction=0)


def add_moments_of_each(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: return ``(previous output, moments)``: also :data:`Moments` in the order of the batch norms."""
    made = copy_graph(graph)
    return add_outputs(made, [insert_call(made, norm.x.next, moments_of_each, norm.x) for norm in batch_norms(made)])


@torch.no_grad()
def nearest_images(
    graph: fx.GraphModule, batches: Iterable[Tensor], count: int, seed: int
) -> tuple[TuningImages, list[LayerStatistics]]:
    """Select the ``count`` images whose batch norm statistics are nearest to the stored ones, in random order.

    Keeps all if there are fewer, and marks them as given. Also returns the joint statistics of all kept images.

    Args:
        graph: graph of the float network.
        batches: batches of images ``(B, C, H, W)``, normalised, on the graph's device; at least one.
        count: number of images to keep.
        seed: random seed of the order.
    """
    observed, norms = _Observed(graph), norm_parameters(graph)
    kept: list[Tensor] = []
    for images in batches:
        logits, moments = observed(images)
        confidence, first = logits.float().softmax(1).max(1)
        found = (distances(norms, moments), images.to(torch.float16), first, confidence)
        here = [part.cpu() for part in found]
        kept = [torch.cat(pair) for pair in zip(kept, here, strict=True)] if kept else here
        if len(kept[0]) > count:
            nearest = kept[0].topk(count, largest=False).indices.sort().values
            kept = [part[nearest] for part in kept]
    order = torch.randperm(len(kept[0]), generator=torch.Generator().manual_seed(seed))
    _, images, labels, confidences = (part[order] for part in kept)
    device = norms[0].running_mean.device
    again = (observed(part.to(device, torch.float32))[1] for part in images.split(BATCH))
    layers = statistics(norms, moments_of_all(again))
    bns = float(scale_free_bns_loss(layers))
    given = torch.ones(len(images), dtype=torch.bool)
    return TuningImages(images, labels, {"bns": bns}, float("nan"), float("nan"), confidences, given), layers


class _Observed:
    """Computes a network's logits of images ``(B, C, H, W)``, and the :data:`Moments` of each image.

    In a network that folds flips, windows or patches into the batch, batch norms see several rows per image, in an
    unknown order. Such a network gets one image at a time.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = add_moments_of_each(graph)

    def __call__(self, images: Tensor) -> tuple[Tensor, Moments]:
        logits, moments = self.graph(images)
        if all(len(mean) == len(images) for mean, _ in moments):
            return logits, moments
        singly = [self.graph(image[None]) for image in images]
        together = [moments_of_all([found]) for _, found in singly]
        each = [
            (torch.stack([m for m, _ in one]), torch.stack([v for _, v in one])) for one in zip(*together, strict=True)
        ]
        return torch.cat([out for out, _ in singly]), each


def distances(norms: list[Parameters], moments: Moments) -> Tensor:
    """Compute the distance of each image's statistics from the stored ones: its own BNS loss, ``(B,)``."""
    return scale_free_bns_loss(statistics(norms, moments))


def least_distance(layers: list[LayerStatistics]) -> float:
    """Compute the distance of images, taken together, from the training data, in the batch norm where it is least.

    It is the median over that layer's channels, in squared standard deviations. One layer or some channels may be far
    off because a stored statistic is wrong or almost zero; if all are, the images differ from the training data.
    """
    return min(float(channel_distances(layer).median()) for layer in layers)


def moments_of_all(batches: Iterable[Moments]) -> Moments:
    """Combine the moments of each image into mean and biased variance over all images and positions, ``(C,)`` each."""
    sums: list[tuple[Tensor, Tensor]] = []
    count = 0
    for moments in batches:
        # means of squares can be summed, variances cannot; in double precision, as their difference may be tiny
        parts = [(mean.double().sum(0), (var + mean.double().square()).sum(0)) for mean, var in moments]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, parts, strict=True)] if sums else parts
        count += len(moments[0][0])
    whole = [(mean / count, (square / count - (mean / count).square()).clamp(min=0)) for mean, square in sums]
    return [(mean.float(), var.float()) for mean, var in whole]
