"""The files that the fuzzer mutates: small and valid."""

import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from intraq_cli.checkpoint.config import checkpoint_config
from intraq_cli.checkpoint.write import checkpoint_tensors, write_weights
from intraq_cli.graph.capture import capture
from intraq_cli.io.json_files import write_json
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.quantization.plan import plan_quantization
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.recipe import Quantization
from intraq_cli.synthesis.image_set import ImageSet, save_images
from intraq_cli.synthesis.tuning_images import TuningImages
from intraq_cli.zoo import zoo_root

SPEC = InputSpec((1, 8, 8), (0.5,), (0.25,), "bilinear", 1.0)
RGB = InputSpec((3, 16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", 0.875)


def _spread(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.1 + 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def write_checkpoint(folder: Path, architecture: str, args: dict[str, Any], spec: InputSpec, placement: Any) -> None:
    """A checkpoint as ``quantize`` writes it, with arbitrary activation grids."""
    network = _spread(build_architecture(architecture, 10, args))
    labels = [str(k) for k in range(10)]
    teacher = Teacher(network, spec, "resnet20_digits", "tiny", architecture, args, {"license": "mit"}, labels)
    graph = capture(network, torch.randn(2, *spec.input_size, generator=torch.Generator().manual_seed(0)))
    plan = plan_quantization(graph, 4, 4, placement)
    student = QuantizedNetwork(graph, plan)
    config = Quantization(weight_rounding="nearest", weight_range="minmax")
    for name, weight in student.weights.items():
        student.set_weight(name, WeightQuantizer(weight(), 4, config))
    for site in student.activation_quantizers.values():
        site.set_grid(torch.tensor(0.1), torch.tensor(3.0))
    folder.mkdir(parents=True)
    write_weights(folder, checkpoint_tensors(student, student.freeze()))
    write_json(folder / "config.json", checkpoint_config(teacher, Captured(graph, 10), plan, 4, 4))
    write_json(folder / "run.json", {"teacher": {"source": "resnet20_digits", "sha256": None, "weights": None}})


def write_float(folder: Path, architecture: str, args: dict[str, Any], spec: InputSpec) -> None:
    """Write a float model's folder as timm does."""
    network = _spread(build_architecture(architecture, 10, args))
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors", {"format": "pt"})
    cfg = {**vars(spec), "num_classes": 10, "classifier": "fc", "first_conv": "conv1", "tag": "x", "license": "mit"}
    cfg["hf_hub_id"] = "org/tiny"
    config = {"architecture": architecture, "num_classes": 10, "model_args": args, "pretrained_cfg": cfg}
    write_json(folder / "config.json", config)


def write_seeds(root: Path) -> None:
    """Write the files that are mutated."""
    write_checkpoint(root / "own", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC, "inputs")
    write_checkpoint(root / "own-activations", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC, "activations")
    write_checkpoint(root / "timm", "test_resnet", {"in_chans": 3}, RGB, "inputs")
    write_checkpoint(root / "computed", "test_nfnet", {}, RGB, "inputs")  # standardises its weights in forward
    write_float(root / "float-own", "cifar_resnet", {"blocks": 1, "in_chans": 1}, SPEC)
    write_float(root / "float-timm", "test_resnet", {"in_chans": 3}, RGB)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=generator).half()
    made = TuningImages(images, torch.arange(6), {"bns": 0.1, "total": 0.2}, 1.0, 0.5)
    (root / "set").mkdir()
    save_images(root / "set" / "images.safetensors", ImageSet(made, {"model": "x", "sha256": "0"}, SPEC))
    (root / "weights").mkdir()
    torch.save(build_architecture("test_resnet", 10, {}).state_dict(), root / "weights" / "weights.pth")
    (root / "recipe").mkdir()
    shutil.copy(zoo_root() / "recipes" / "paper-cifar10.toml", root / "recipe" / "recipe.toml")
    _write_images(root / "images")


def _write_images(folder: Path) -> None:
    folder.mkdir()
    noise = Image.effect_noise((24, 16), 90)
    colour = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    for suffix in ("jpg", "png", "bmp", "webp", "ppm", "tif"):
        colour.save(folder / f"rgb.{suffix}")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.save(folder / "progressive.jpg", progressive=True)
    colour.quantize(16).save(folder / "palette.png")
    colour.quantize(16).save(folder / "gif.png", format="GIF", save_all=True, append_images=[colour.quantize(16)])
    colour.save(folder / "lzw.tif", compression="tiff_lzw")
    colour.save(folder / "jpeg.tif", compression="jpeg")
    colour.convert("LA").save(folder / "alpha.png")
    noise.save(folder / "grey.pgm")
    Image.fromarray((torch.rand(16, 24) * 65535).int().numpy().astype("uint16")).save(folder / "deep.png")
    noise.convert("1").save(folder / "bits.tif", compression="group4")
