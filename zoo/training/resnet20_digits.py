"""Train the bundled model on scikit-learn's handwritten digits, and write it with its held-out images.

    python zoo/training/resnet20_digits.py

needs scikit-learn (the ``train`` extra); takes a few minutes on two cores. The test images play no part in training;
nothing is chosen by them: the last state is kept.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from intraq_cli.models.nets import CifarResNet

FOLDER = Path(__file__).resolve().parents[1] / "models" / "resnet20_digits"
HELD_OUT = 600
EPOCHS = 60
BATCH = 64


def main() -> None:
    """Train, measure, write."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]  # (N, 1, 8, 8) in [0, 1]
    labels = torch.tensor(digits.target)
    train, test = train_test_split(torch.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=labels)
    mean, std = images[train].mean().item(), images[train].std().item()
    normalised = (images - mean) / std

    network = CifarResNet(blocks=3, in_chans=1, num_classes=10)
    sgd = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, steps)
    for epoch in range(EPOCHS):
        network.train()
        for index in train[torch.randperm(len(train))].split(BATCH)[: len(train) // BATCH]:
            x = jitter(normalised[index], low=(0 - mean) / std)
            loss = F.cross_entropy(network(x), labels[index], label_smoothing=0.05)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)

    network.eval()
    with torch.no_grad():
        right = int((network(normalised[test]).argmax(1) == labels[test]).sum())
    print(f"held-out top-1: {right}/{len(test)} = {100 * right / len(test):.2f} %")
    write(network, digits.images[test], labels[test], mean, std)


def jitter(x: Tensor, low: float) -> Tensor:
    """Shift, scale and turn each image a little."""
    n = len(x)
    angle, scale = torch.empty(n).uniform_(-0.2, 0.2), torch.empty(n).uniform_(0.9, 1.1)
    cos, sin, shift = angle.cos() * scale, angle.sin() * scale, torch.empty(n, 2).uniform_(-0.2, 0.2)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x - low, grid, align_corners=False) + low


def write(network: CifarResNet, images: Tensor, labels: Tensor, mean: float, std: float) -> None:
    """The folder that the tool ships: weights, timm-style config, held-out images (0 to 16, as in the data set)."""
    save_file(network.state_dict(), FOLDER / "model.safetensors", metadata={"format": "pt"})
    held_out = {"images": torch.tensor(images, dtype=torch.uint8), "labels": labels.to(torch.uint8)}
    save_file(held_out, FOLDER / "held_out.safetensors", metadata={"scale": "16"})
    config = {
        "architecture": "cifar_resnet",
        "num_classes": 10,
        "model_args": {"blocks": 3, "in_chans": 1},
        "label_names": [str(k) for k in range(10)],
        "pretrained_cfg": {
            "input_size": [1, 8, 8],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": [round(mean, 6)],
            "std": [round(std, 6)],
            "num_classes": 10,
            "license": "cc-by-4.0",
            "origin_url": "https://archive.ics.uci.edu/dataset/80",
        },
    }
    (FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
