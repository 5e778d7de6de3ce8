"""Pictures that somebody gave, in place of or beside synthetic images: those nearest to what the network has seen.

Batch norms carry mean and variance of the training data; a picture whose own moments are near to them looks to the
network like something from there. No label is needed: tuning asks the float network what it makes of each.
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
"""Pictures at once."""

Moments = list[tuple[Tensor, Tensor]]
"""Of every batch norm's input, mean and biased variance over height and width: ``(B, C)`` each."""


def moments_of_each(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of each image of ``x (B, C, H, W)``."""
    return x.mean((2, 3)), x.var((2, 3), correction=0)


def add_moments_of_each(graph: fx.GraphModule) -> fx.GraphModule:
    """Pass: the graph returns ``(what it returned, moments)``, :data:`Moments` in the order of its batch norms."""
    made = copy_graph(graph)
    return add_outputs(made, [insert_call(made, norm.x.next, moments_of_each, norm.x) for norm in batch_norms(made)])


@torch.no_grad()
def nearest_pictures(
    graph: fx.GraphModule, batches: Iterable[Tensor], count: int, seed: int
) -> tuple[TuningImages, list[LayerStatistics]]:
    """The ``count`` pictures whose batch-norm statistics are the nearest, in a random order; all where they are fewer.

    With them the statistics of all that are kept together.

    Args:
        graph: of the float network.
        batches: of pictures ``(B, C, H, W)``, normalised, on the graph's device; at least one.
        count: of pictures to keep.
        seed: of the order.
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
    """A network's logits of images ``(B, C, H, W)``, and the :data:`Moments` of each, whatever it does to the batch.

    One that folds flips, windows or patches into the batch shows batch norms several rows for an image, in an order of
    its own: it gets one image at a time.
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
    """How far each picture's own statistics are from the stored ones: the BNS loss of each alone, ``(B,)``."""
    return scale_free_bns_loss(statistics(norms, moments))


def least_distance(layers: list[LayerStatistics]) -> float:
    """How far images are, all together, from what batch norms saw in training: in the one that is the nearest to it.

    The median over its channels, in squared deviations. One layer, or some channels, may be off by a statistic that is
    wrong or next to none; where all are, the images are other ones.
    """
    return min(float(channel_distances(layer).median()) for layer in layers)


def moments_of_all(batches: Iterable[Moments]) -> Moments:
    """Mean and biased variance over all images and positions, ``(C,)`` each, from those of each image."""
    sums: list[tuple[Tensor, Tensor]] = []
    count = 0
    for moments in batches:
        # the mean of squares adds up where variances do not; in double precision, as its difference may be tiny
        parts = [(mean.double().sum(0), (var + mean.double().square()).sum(0)) for mean, var in moments]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, parts, strict=True)] if sums else parts
        count += len(moments[0][0])
    whole = [(mean / count, (square / count - (mean / count).square()).clamp(min=0)) for mean, square in sums]
    return [(mean.float(), var.float()) for mean, var in whole]
