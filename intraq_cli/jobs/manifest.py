"""What ``run.json`` and image files record of a run."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intraq_cli import __version__
from intraq_cli.graph.fingerprint import fingerprint
from intraq_cli.jobs.pipeline import Job
from intraq_cli.jobs.recipes import code_of
from intraq_cli.models.source import Source, needs_code
from intraq_cli.models.teacher import Captured, Teacher
from intraq_cli.recipe import Recipe
from intraq_cli.results import QuantizationResult
from intraq_cli.runtime.device import describe_device
from intraq_cli.runtime.provenance import code_commit
from intraq_cli.synthesis.tuning_images import TuningImages


def manifest(
    job: Job,
    source: Source,
    result: QuantizationResult,
    made: TuningImages | None,
    command: str,
    images: Sequence[str | Path],
) -> dict[str, Any]:
    """Return the content of ``run.json``, without the size and the time."""
    teacher, settings = job.teacher, job.recipe
    measured: dict[str, Any] = {"bytes_float": result.bytes_float}
    if made:
        measured["heterogeneity"] = result.heterogeneity
        measured["teacher_accuracy_synthetic"] = 100 * made.teacher_accuracy
        measured |= {"images": len(made.images), "pictures": made.pictures, "tuning_undone": result.tuning_undone}
        if result.held_out:
            measured |= {key: getattr(result, key) for key in ("agreement", "kl", "sqnr", "held_out")}
    else:
        measured |= {"logits_error": result.logits_error, "random_images": result.random_images}
    return {
        "name": teacher.name,
        "command": command,
        "recipe": {"name": settings.name, **settings.to_dict()},
        "code": code_of(settings),
        "images": [*map(str, images)],
        "images_from": made.learned_from if made else None,
        "seed": job.context.seed,
        "teacher": _teacher(teacher, source),
        "needs_factory": needs_code(teacher.architecture),
        "device": describe_device(job.context.device),
        "processes": job.context.ranks.size,
        "versions": versions(),
        "commit": code_commit(),
        "losses": result.losses,
        "frontier": [asdict(point) for point in result.frontier],
        "measured": measured,
        "stages": result.stages,
    }


def _teacher(teacher: Teacher, source: Source) -> dict[str, str | None]:
    """Return where the float weights come from; a folder gets a prefix, so that its name is not read as a model's."""
    name, revision = teacher.source, teacher.revision
    if source.kind == "folder":
        name, revision = f"local-dir:{source.name}", None
    return {"source": name, "weights": teacher.weights, "revision": revision, "sha256": teacher.sha256}


def origin_of(teacher: Teacher, captured: Captured, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what images are made from: an interrupted run is only resumed if all of it is unchanged."""
    return {
        "model": teacher.source,
        "revision": teacher.revision,
        "sha256": teacher.sha256,
        "network": fingerprint(captured.graph),
        "recipe": recipe.to_dict()["synthesis"],
        "code": code_of(recipe),
        "seed": seed,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on, without importing libraries that a run does not need."""
    installed = {name: version(name) for name in ("torchvision", "timm")}
    return {"intraq": __version__, "python": platform.python_version(), "torch": str(torch.__version__), **installed}


def call(verb: Callable[..., Any], given: dict[str, Any]) -> str:
    """Format a call as a user would write it: the model, and all arguments that differ from their defaults."""
    words = ["network" if isinstance(given["model"], nn.Module) else repr(str(given["model"]))]
    for name, parameter in signature(verb).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in ("command", "report"):
            continue
        value = str(given[name]) if isinstance(given[name], Path) else given[name]
        if value != parameter.default:
            words.append(f"{name}={value!r}")
    return f"{verb.__name__}({', '.join(words)})"
