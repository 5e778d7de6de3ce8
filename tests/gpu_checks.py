"""Checks of everything that depends on a GPU; ``gpu_first_look.py`` runs them."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import intraq_cli
from intraq_cli.errors import DeviceError
from intraq_cli.events import Event, Report, StepDone, Warned, silent
from intraq_cli.jobs.preparation import capture_on_device
from intraq_cli.models.source import Source
from intraq_cli.quantization.affine import fake_quantize, mse_grid
from intraq_cli.quantization.rounding import round_by_gptq, round_by_squant
from intraq_cli.synthesis.lor import crop_resize_flip, draw_crops
from tests.benchmarks.step_cost import RAMP, step_costs

BUNDLED = "resnet20_digits"
FEW = ("synthesis.num_images=128", "synthesis.batch_size=64", "synthesis.steps=30", "tuning.batch_size=32")
COUNTED = 12
"""Steps of each stage whose synchronisations are counted."""

Check = Callable[[torch.device], str]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Register a check, which returns what it found, and raises an error if that is wrong."""
    CHECKS.append(function)
    return function


def seeded(*shape: int) -> Tensor:
    """Normal noise, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@check
def fake_quantize_agrees_with_the_cpu(device: torch.device) -> str:
    """Also for bfloat16 values, which a GPU quantizes in float32.

    Values halfway between two codes may round either way if a division differs in its last bit: a few in a million.
    """
    if device.type == "cpu":
        return "needs a GPU: a CPU divides them in bfloat16 where the grid is coarse"
    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        for top in (3, 15, 255):
            x = seeded(64, 16, 9, 9).to(dtype)
            scale, zero = (one[0] for one in mse_grid(x.float().reshape(1, -1)[:, : 2**14], top))
            here = fake_quantize(x.float(), scale, zero, top)
            there = fake_quantize(x.to(device), scale.to(device), zero.to(device, dtype), top).cpu()
            worst = max(worst, ((here - there.float()).abs() > scale / 4).float().mean().item())
    assert worst < 1e-4, f"{worst:.2%} of the values differ by more than a quarter of a step"
    return f"{worst:.1e} of the values differ"


@check
def weight_rounding_agrees_with_the_cpu(device: torch.device) -> str:
    """SQuant and GPTQ."""
    rows, low, high = 5 * seeded(32, 144), torch.full((32,), -8.0), torch.full((32,), 7.0)
    squant = [round_by_squant(rows.view(32, 16, 3, 3).to(d), low.to(d), high.to(d)).cpu() for d in ("cpu", device)]
    x = seeded(1, 500, 144)
    moments = x.transpose(1, 2) @ x / 500 + 0.01 * torch.eye(144)
    args = rows[None], moments, low[None], high[None]
    gptq = [round_by_gptq(*(one.to(d) for one in args)).cpu() for d in ("cpu", device)]
    differ = [(a != b).float().mean().item() for a, b in (squant, gptq)]
    assert max(differ) < 0.01, f"{differ[0]:.2%} and {differ[1]:.2%} of the codes differ"
    return f"{differ[0]:.2%} (SQuant) and {differ[1]:.2%} (GPTQ) of the codes differ"


@check
def crops_agree_with_the_cpu(device: torch.device) -> str:
    """Resized bilinearly."""
    images, flips = seeded(32, 3, 40, 40), torch.arange(32) % 2 == 0
    crops = draw_crops(32, 40, 40, 0.5, torch.Generator().manual_seed(0))
    here, there = crop_resize_flip(images, crops, flips), crop_resize_flip(images.to(device), crops, flips).cpu()
    assert torch.allclose(here, there, atol=1e-4), f"off by {(here - there).abs().max():.2g}"
    return f"off by at most {(here - there).abs().max():.1e}"


def quantized(device: torch.device, folder: Path, *settings: str, report: Any = None, **options: Any) -> Any:
    """Quantize the bundled network."""
    told = {} if report is None else {"report": report}
    return intraq_cli.quantize(BUNDLED, device=str(device), out=folder, set=[*FEW, *settings], **told, **options)


def warnings_into(warned: list[str]) -> Report:
    """Collect the messages of warnings."""

    def told(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(event.message)

    return told


@check
def instant_quantization_agrees_with_the_float_network(device: torch.device) -> str:
    """Quantize without images on the device, and evaluate there and on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for placement in ("inputs", "activations", "integer"):
            quantized(device, out, recipe="instant", w=8, a=8, act_placement=placement, force=True)
            found = [intraq_cli.evaluate(out, data="digits", device=str(d)) for d in (device, "cpu")]
            assert min(one.agreement for one in found) > 97, f"{placement}: agreement {found[0].agreement:.1f} %"
            assert abs(found[0].top1 - found[1].top1) < 0.5, f"{placement}: {found[0].top1} there, {found[1].top1} here"
    return f"agreement {found[0].agreement:.1f} % there, {found[1].agreement:.1f} % on the CPU"


CODE = """
import torch

class Strided(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = (torch.nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8))
        self.norm, self.linear = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.one(x)).relu()
        x = torch.nn.functional.pad(x[:, 2:, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return self.linear(self.two(x).relu().mean((2, 3)))

def net():
    torch.manual_seed(0)
    return Strided().eval()
"""
"""Indexing, for which torch.export records other operations on a GPU than on a CPU."""


@check
def checkpoint_of_a_python_file_loads_on_gpu_and_cpu(device: torch.device) -> str:
    """Also with slices; the graph is captured on the CPU for every device."""
    with tempfile.TemporaryDirectory() as folder:
        (code := Path(folder) / "code.py").write_text(CODE)
        out, half = Path(folder) / "out", (0.5,) * 3
        options: dict[str, Any] = {"input_size": (3, 16, 16), "mean": half, "std": half, "device": str(device)}
        made = intraq_cli.quantize(f"{code}:net", recipe="instant", w=8, a=8, out=out, **options)
        there, here = (intraq_cli.load(out, model=f"{code}:net", device=str(d)) for d in (device, "cpu"))
        x = seeded(8, 3, 16, 16)
        worst = (there(x.to(device)).cpu() - here(x)).abs().max()
    assert made.logits_error is not None
    assert worst < 1e-3, f"logits differ by {worst:.1e}"
    return f"logits off by {made.logits_error:.3f} of their spread, there and on the CPU alike"


@check
def synthesis_and_tuning_keep_the_accuracy(device: torch.device) -> str:
    """W4A4, few steps."""
    warned: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        made = quantized(device, out, "tuning.steps=60", w=4, a=4, report=warnings_into(warned))
        found = intraq_cli.evaluate(out, data="digits", device=str(device))
    assert found.float_top1 - found.top1 < 8, f"{found.top1:.1f} % of {found.float_top1:.1f} %"
    return f"{found.top1:.1f} % of {found.float_top1:.1f} %, agreement {made.agreement:.1f} %; warned: {warned or 'no'}"


@check
def same_seed_gives_an_identical_checkpoint(device: torch.device) -> str:
    """With ``--deterministic``."""
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(2):
            out = Path(folder) / str(k)
            quantized(device, out, "tuning.steps=20", w=4, a=4, deterministic=True)
            files.append((out / "model.safetensors").read_bytes())
    same = sum(a == b for a, b in zip(*files, strict=True)) / len(files[0])
    assert files[0] == files[1], f"{same:.1%} of the bytes are the same"
    return "bit for bit"


@check
def cuda_graphs_give_the_same_checkpoint(device: torch.device) -> str:
    """CUDA graphs run the same kernels."""
    if device.type != "cuda":
        return "needs a GPU"
    files: list[bytes] = []
    warned: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for setting in ("false", "auto"):
            out = Path(folder) / setting
            how = [f"{stage}.compile={setting}" for stage in ("synthesis", "tuning")]
            quantized(device, out, "tuning.steps=20", *how, w=4, a=4, deterministic=True, report=warnings_into(warned))
            files.append((out / "model.safetensors").read_bytes())
    failed = [message for message in warned if "CUDA graph" in message]
    assert not failed, failed[0]
    same = sum(a == b for a, b in zip(*files, strict=True)) / len(files[0])
    assert same > 0.99, f"{same:.1%} of the bytes of the checkpoint are the same"
    return f"{same:.2%} of the bytes of the checkpoint are the same"


@check
def interrupted_run_is_resumed(device: torch.device) -> str:
    """From a state that was saved during tuning."""
    from intraq_cli.runtime import resume

    before, resume.PACE = resume.PACE, 0.0

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == "tuning" and event.step > 20:
            raise KeyboardInterrupt

    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            with contextlib.suppress(KeyboardInterrupt):
                quantized(device, out, "tuning.steps=40", w=4, a=4, report=stop)
            first: list[int] = []
            note = lambda event: (  # noqa: E731
                first.append(event.step) if isinstance(event, StepDone) and event.stage == "tuning" else None
            )
            made = quantized(device, out, "tuning.steps=40", w=4, a=4, report=note)
    finally:
        resume.PACE = before
    assert first, "no step was reported"
    assert first[0] > 1, "it began again at the first step"
    return f"from step {first[0]} on, agreement {made.agreement:.1f} %"


@check
def out_of_memory_makes_smaller_batches(device: torch.device) -> str:
    """Steps get 60 % of the memory that they need."""
    if device.type != "cuda":
        return "needs a GPU"
    with tempfile.TemporaryDirectory() as folder:
        torch.cuda.reset_peak_memory_stats(device)
        quantized(device, Path(folder) / "a", "tuning.steps=3", w=4, a=4)
        needed = torch.cuda.max_memory_allocated(device)
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        warned: list[str] = []
        torch.cuda.set_per_process_memory_fraction(0.6 * needed / total, device)
        try:
            quantized(device, Path(folder) / "b", "tuning.steps=3", w=4, a=4, report=warnings_into(warned))
        except DeviceError as error:
            return f"needs {needed / 2**20:.0f} MiB; too little even for one image: {error}"
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert any("out of memory" in one for one in warned), f"no word of it; {warned}"
    return f"needs {needed / 2**20:.0f} MiB: {warned[0]}"


@check
def synchronisations_are_counted(device: torch.device) -> str:
    """Synchronisations with the device in all steps, their reports, setup and calibration."""
    if device.type != "cuda":
        return "needs a GPU"
    import warnings

    found: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            teacher = Source.parse(BUNDLED).load()
            list(step_costs(teacher, capture_on_device(teacher, device, silent), 64, COUNTED, device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found = [f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchroniz" in str(one.message)]
    places, steps = {place: found.count(place) for place in found}, COUNTED + RAMP[device.type]
    return f"{len(found)} in all of 2 x {steps} steps, their reports, setting up and calibration: {places}"
