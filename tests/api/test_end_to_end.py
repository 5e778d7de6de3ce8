"""The main workflow as a user runs it, on real networks."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from intraq_cli import load, quantize, synthesize
from intraq_cli.events import Warned
from tests.fakes import process

SHARED = Path(__file__).resolve().parents[3] / "shared"
RESNET = SHARED / "real_models.py"
CIFAR_INPUT = ("--input-size", "3,32,32", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


def run(*args):
    made = subprocess.run(
        [sys.executable, "-m", "intraq_cli", *map(str, args), "--json"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def test_bundled_model_loses_at_most_one_point_at_w4a4(tmp_path):
    less = ("--recipe", "fast", "--set", "synthesis.num_images=128", "--set", "tuning.steps=60")
    made = run("quantize", "resnet20_digits", "--w", 4, "--a", 4, *less, "--out", tmp_path / "out")
    assert made["bytes_float"] > 5 * made["bytes_quantized"]
    measured = process.run("-m", "intraq_cli", "evaluate", tmp_path / "out", "--data", "digits", "--json")
    assert measured.returncode == 0, measured.stderr
    found = json.loads(measured.stdout)
    assert found["n"] == 600
    assert found["float_top1"] >= 98
    assert found["float_top1"] - found["top1"] <= 1.0


@pytest.mark.slow
def test_tuning_that_ruins_the_network_is_undone(tmp_path):
    settings = ["synthesis.num_images=64", "synthesis.batch_size=32", "synthesis.steps=20", "tuning.batch_size=16"]
    made, told = {}, []
    images = tmp_path / "images.safetensors"
    synthesize("resnet20_digits", out=images, set=settings, device="cpu")
    for change in ("tuning.steps=0", "tuning.lr=10"):
        changed = [*settings, "quantization.correction=never", "tuning.steps=20", change]
        out = tmp_path / change
        made[change] = quantize(
            "resnet20_digits", w=4, a=4, images=images, out=out, set=changed, device="cpu", report=told.append
        )
    untuned, ruined = ((tmp_path / change / "model.safetensors").read_bytes() for change in made)
    assert untuned == ruined
    assert made["tuning.lr=10"].agreement == made["tuning.steps=0"].agreement > 50
    warned = [event.message for event in told if isinstance(event, Warned)]
    # on some CPUs, the losses of such steps are not finite either
    undone = "tuning was discarded: it lowered agreement on held-out images from "
    assert len([message for message in warned if message.startswith(undone)]) == 1
    assert [made[change].tuning_undone for change in made] == [False, True]
    assert "was calibrated on them" in (tmp_path / "tuning.lr=10/README.md").read_text()
    page = (tmp_path / "tuning.lr=10/report.html").read_text()
    assert "was discarded: it is only calibrated" in page
    assert "Tuning was discarded, so its losses are not those of this checkpoint" in page


@pytest.mark.slow
@pytest.mark.skipif(not RESNET.exists(), reason="the real networks and images are not on this machine")
@pytest.mark.parametrize(("bits", "drop"), [(4, 1.5), (3, 8.0)])
def test_accuracy_drop_of_a_real_network_stays_within_its_limit(tmp_path, bits, drop):
    with tarfile.open(SHARED / "data/cifar10-test-jpeg.tar") as tar:
        tar.extractall(tmp_path / "images", filter="data")
    data = tmp_path / "images"
    while len(list(data.iterdir())) == 1:
        (data,) = data.iterdir()
    model = f"{RESNET}:resnet20_cifar10"
    run(
        "quantize",
        model,
        "--w",
        bits,
        "--a",
        bits,
        "--act-placement",
        "activations",
        "--out",
        tmp_path / "out",
        *CIFAR_INPUT,
    )
    found = run("evaluate", tmp_path / "out", "--data", data, "--model", model)
    assert found["n"] == 10_000
    assert found["float_top1"] - found["top1"] <= drop


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_bundled_model_on_cuda_keeps_its_accuracy_and_matches_the_cpu(tmp_path):
    run("quantize", "resnet20_digits", "--recipe", "fast", "--device", "cuda", "--out", tmp_path / "out")
    found = run("evaluate", tmp_path / "out", "--data", "digits", "--device", "cuda")
    assert found["float_top1"] - found["top1"] <= 1.0
    network, x = load(tmp_path / "out", device="cuda"), torch.randn(4, 1, 8, 8, device="cuda")
    assert torch.allclose(network(x).cpu(), load(tmp_path / "out", device="cpu")(x.cpu()), atol=0.5)
