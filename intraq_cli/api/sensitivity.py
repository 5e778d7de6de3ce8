"""``sensitivity``: how much each layer minds few bits, without data."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from intraq_cli.api.arguments import Model, Numbers, Size, Text, Texts, verb
from intraq_cli.api.pipeline import Job, out_of_memory
from intraq_cli.api.teachers import examined, learnable
from intraq_cli.errors import UsageError
from intraq_cli.events import Report, StageDone, StageStarted, StepDone, silent
from intraq_cli.models.preprocessing import InputOverride
from intraq_cli.models.source import Source
from intraq_cli.quantization.plan import form_of, plan_quantization
from intraq_cli.quantization.sensitivity import layer_sensitivities
from intraq_cli.recipe import Placement
from intraq_cli.results import SensitivityResult
from intraq_cli.runtime.context import RunContext
from intraq_cli.runtime.device import choose_device
from intraq_cli.synthesis.image_set import load_images
from intraq_cli.zoo import load_recipe

WIDTHS = (2, 3, 4, 6, 8)


@verb
def sensitivity(
    model: Model,
    *,
    widths: Sequence[int] = WIDTHS,
    n: int = 64,
    images: str | Path | None = None,
    act_placement: Placement = "inputs",
    recipe: Text = "default",
    set: Texts = (),  # noqa: A002 - the option's own name
    device: Text = "auto",
    seed: int = 0,
    input_size: Size | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    weights: str | Path | None = None,
    report: Report = silent,
) -> SensitivityResult:
    """Say how far the network's answers move when one layer alone goes to few bits, on synthetic images.

    Args:
        model: the teacher, as the README spells it, or the ``nn.Module`` itself.
        widths: bits to try, 2 to 8 each.
        n: images; they are made unless ``images`` names some.
        images: what ``synthesize`` wrote; the first ``n`` of them are used.
        act_placement: as for ``quantize``.
        recipe: of the images.
        set: overrides, ``section.key=value`` each.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: of every random draw.
        input_size: (C, H, W), where the model does not say it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        crop_pct: side of the centre crop by the shorter side of the resized image, where the model does not say it.
        interpolation: ``bicubic``, ``bilinear``, ..., where the model does not say it.
        weights: a safetensors or ``.pth`` file, in place of timm's weights.
        report: told of every step.

    Raises:
        IntraqError: anything that the caller can mend.
    """
    started = time.perf_counter()
    chosen = tuple(sorted({*widths}))
    if not chosen or not all(2 <= bits <= 8 for bits in chosen):
        raise UsageError(f"widths {', '.join(map(str, widths)) or 'none'}: bits must be 2 to 8", "e.g. --widths 2,4,8")
    if n < 2:
        raise UsageError(f"-n {n}: at least two images", "64 tell layers apart")
    settings = load_recipe(recipe).override([*set, f"synthesis.num_images={n}"])
    where = choose_device(device)
    override = InputOverride(input_size, mean, std, crop_pct, interpolation)
    source = Source.parse(model, override, weights=weights)
    teacher = learnable(source)
    anatomy = examined(teacher, where, report)
    graph = form_of(anatomy.graph, act_placement)
    count = 2 * len(chosen) * len(plan_quantization(graph, chosen[0], chosen[0], act_placement).weights)
    if images is not None:
        made, _ = load_images(Path(images), teacher.spec, anatomy.num_classes)
    else:
        made = Job(teacher, anatomy, settings, RunContext(seed, where, report)).synthesize()
    shown = made.images[:n].to(where).float()
    begun = time.perf_counter()
    report(StageStarted("sensitivity", count, f"{len(shown)} images"))
    with out_of_memory():
        step = lambda done: report(StepDone("sensitivity", done, done * len(shown)))  # noqa: E731
        layers = layer_sensitivities(graph, act_placement, shown, chosen, step)
    report(StageDone("sensitivity", time.perf_counter() - begun))
    result = SensitivityResult(source.spelled, act_placement, len(shown), list(chosen), layers, seed, str(where), 0.0)
    return replace(result, seconds=time.perf_counter() - started)
