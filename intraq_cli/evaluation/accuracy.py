"""Top-1 and top-5 of a network and of its float teacher on the same images, and how often the two agree."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intraq_cli.events import Report, StepDone, silent


@dataclass(frozen=True)
class Accuracy:
    """Shares in percent."""

    n: int
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    agreement: float
    """Share of images that both put into the same class first."""


class RecalledTeacher(nn.Module):
    """A float network that answers each batch of one data set once: later runs over it are told what it said.

    Args:
        network: the float network.
        answers: of earlier runs over the same batches, in their order; new ones are added.
    """

    def __init__(self, network: nn.Module, answers: list[Tensor]) -> None:
        super().__init__()
        self.network, self.answers, self.step = network, answers, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the next batch ``x``."""
        if self.step == len(self.answers):
            self.answers.append(self.network(x).cpu())
        self.step += 1
        return self.answers[self.step - 1].to(x.device)


@torch.no_grad()
def compare(
    network: nn.Module,
    teacher: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    report: Report = silent,
) -> Accuracy:
    """Run both over ``batches`` of images ``(B, C, H, W)`` and labels ``(B,)``; they may be the same network."""
    n = 0
    counts = torch.zeros(5, dtype=torch.long)
    for step, (x, y) in enumerate(batches):
        x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
        theirs = teacher(x)
        ours = theirs if network is teacher else network(x)
        agree = (ours.argmax(1) == theirs.argmax(1)).sum()
        hits = [_hits(ours, y, 1), _hits(ours, y, 5), _hits(theirs, y, 1), _hits(theirs, y, 5), agree]
        counts += torch.stack(hits).cpu()
        n += len(y)
        report(StepDone("evaluation", step + 1, n))
    return Accuracy(n, *(100 * counts.double() / n).tolist())


def _hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    return (logits.topk(min(k, logits.shape[1])).indices == labels[:, None]).any(1).sum()
