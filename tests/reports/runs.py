"""Made-up checkpoint folders for reports, in which every section has something to show."""

import json
from pathlib import Path
from typing import Any

import torch

from intraq_cli.models.input_spec import InputSpec
from intraq_cli.synthesis.rendering import write_sheet
from intraq_cli.synthesis.tuning_images import TuningImages

SPEC = InputSpec((3, 8, 8), (0.5,) * 3, (0.25,) * 3)
EVALUATION = {
    "data": "digits", "n": 600, "top1": 98.5, "top5": 100.0, "float_top1": 99.5, "float_top5": 100.0,
    "agreement": 98.0, "date": "2026-01-02",
}  # fmt: skip


def layer(name: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    bits = {"w_bits": None, "a_bits": None} if reason else {"w_bits": 4, "a_bits": 4}
    shape = {"weight_shape": [8, 3, 3, 3], "parameters": 216, "multiply_adds": 1000, "bytes": 120}
    return {"name": name, "kind": "conv2d", **shape, **bits, "float_reason": reason, **more}


def run_of(**more: Any) -> dict[str, Any]:
    """The content of ``run.json``."""
    ranges = {"low": 0.0, "high": 8.0, "grid_low": 0.0, "grid_high": 6.0, "clipped": 1.25, "counts": [90, 0, 5, 5]}
    return {
        "name": "net",
        "command": "intraq quantize net --w 4 --a 4",
        "seed": 0,
        "recipe": {"name": "fast", "tuning": {"steps": 150}},
        "teacher": {"source": "net", "sha256": "ab" * 32},
        "device": "cpu (1 thread)",
        "seconds": 34.5,
        "stages": {"synthesis": 7.0, "tuning": 22.0},
        "versions": {"intraq": "0.1.0", "torch": "2.15.0"},
        "measured": {
            "bytes_float": 1_000_000, "bytes_quantized": 160_000, "agreement": 96.9, "kl": 0.0125, "held_out": 32,
            "sqnr": {"bn1": 26.0, "layer.bn1": 20.5, "layer.bn2": 15.25}, "teacher_accuracy_synthetic": 90.0,
        },
        "inspection": {
            "w_bits": 4, "a_bits": 4, "act_placement": "inputs", "low_bit_share": 99.0,
            "layers": [layer("conv1"), layer("fixed", "computed from the input")],
        },
        "losses": {"tuning": {"kl": 0.02, "total": 0.35}},
        "ranges": [{"site": f"layer.{k}", "bits": 4, "sqnr": 15.0 + k, **ranges} for k in range(6)],
        "samples": [{"label": k % 2, "confidence": 90.5, "first": 0} for k in range(8)],
        "frontier": [
            {"bytes": 150_000, "divergence": 0.05, "chosen": False},
            {"bytes": 160_000, "divergence": 0.0125, "chosen": True},
            {"bytes": 250_000, "divergence": 0.001, "chosen": False},
        ],
        "sensitivity": [
            {"name": "conv1", "kind": "conv2d", "weights": {"2": 0.5, "4": 0.02}, "inputs": {"2": 0.3, "4": 0.01}},
            {"name": "fc", "kind": "linear", "weights": {"2": 0.9, "4": 0.04}, "inputs": {}},
        ],
        "evaluations": [EVALUATION],
        "export": {
            "opset": 20, "bytes": 325_000, "sha256": "0" * 64, "layers_integer": ["conv1"], "images": 64,
            "first_choices_equal": True, "layers_float": [{"name": "fixed", "reason": "computed"}],
            "logits_difference": 0.02, "ms_float": 2.0, "ms_quantized": 1.0, "batch": 1, "threads": 2,
            "processor": "some CPU",
        },
        **more,
    }  # fmt: skip


def steps_of(stage: str, steps: int, **losses: float) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``."""
    rows = [{"stage": stage, "step": k, "images": 8 * k, "seconds": k / 10} for k in range(1, steps, 10)]
    return [{**row, **{name: value / row["step"] for name, value in losses.items()}} for row in rows]


def folder_of(path: Path, labels: tuple[str, ...] = ("cat", "dog"), **more: Any) -> Path:
    """A folder that a report can be made from; it holds no weights."""
    path.mkdir()
    run = run_of(**more)
    cfg = {"input_size": list(SPEC.input_size), "mean": list(SPEC.mean), "std": list(SPEC.std)}
    config = {"architecture": "net", "num_classes": 2, "label_names": list(labels), "pretrained_cfg": cfg}
    config["quantization_config"] = {"quant_method": "intraq"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "run.json").write_text(json.dumps(run))
    lines = steps_of("synthesis", 120, bns=0.4, total=2.0) + steps_of("tuning", 150, kl=0.02, ce=0.0, total=0.4)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_sheet(path / "samples.png", images_of(8, SPEC), SPEC, list(labels))
    return path


def images_of(count: int, spec: InputSpec) -> TuningImages:
    """Noise of two classes."""
    images = torch.randn(count, *spec.input_size, generator=torch.Generator().manual_seed(0))
    return TuningImages(images, torch.arange(count) % 2, {}, 1.0, 0.3)
