"""A network of one's own: an ``nn.Module``, quantized and used again.

python docs/examples/own_network.py --out own-w4a4
"""

import argparse

import torch
from torch import Tensor, nn

from intraq_cli import load, quantize


class Net(nn.Module):
    """Two convolutions and a classifier of four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 4)`` of images ``(B, 3, H, W)``."""
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.classifier(x.mean((2, 3)))


def trained() -> Net:
    """Stands for your training: here only batch norms see data, of noise."""
    torch.manual_seed(0)
    net = Net()
    for _ in range(20):
        net(torch.randn(64, 3, 32, 32))
    return net.eval()


def main() -> None:
    """Quantize the network, load the checkpoint again, and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="own-w4a4")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    net = trained()
    half = (0.5, 0.5, 0.5)
    made = quantize(
        net, w=4, a=4, out=given.out, recipe=given.recipe, set=given.set,
        input_size=(3, 32, 32), mean=half, std=half, force=True,
    )  # fmt: skip
    quantized = load(made.path, model=net)  # the checkpoint holds no code: the architecture is that of ``net``
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        same = (quantized(x).argmax(1) == net(x).argmax(1)).sum().item()
    print(f"{made.path}: {made.bytes_quantized} bytes, {same} of {len(x)} top-1 predictions as in float")


if __name__ == "__main__":
    main()
