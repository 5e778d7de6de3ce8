"""The recipe of a verb, with the user-defined functions that it names."""

from collections.abc import Sequence
from pathlib import Path

from intraq_cli.errors import RecipeError, UsageError
from intraq_cli.events import Report, Warned
from intraq_cli.io.digests import file_digest
from intraq_cli.models.python_file import load_function
from intraq_cli.recipe import ROUNDINGS, Recipe
from intraq_cli.runtime.extensions import BESIDE_LOSSES, BUILT_IN_LOSSES, IMAGE_LOSSES, WEIGHT_ROUNDINGS, Extension
from intraq_cli.runtime.launch import launched
from intraq_cli.words import did_you_mean
from intraq_cli.zoo import load_recipe


def chosen_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """Load a recipe by name or path, apply ``section.key=value`` overrides, and import the user code that it names.

    Raises:
        RecipeError: the recipe does not exist or is not valid, or its code is missing or fails.
    """
    recipe = load_recipe(name).override([*overrides])
    titles = [*BUILT_IN_LOSSES]
    for loss in recipe.synthesis.losses:
        titles.append(_loaded(loss, "image loss", "image_loss", IMAGE_LOSSES).title)
        if titles[-1] in BESIDE_LOSSES:
            raise RecipeError(f"{loss}: {titles[-1]} is the name of a built-in metric", "rename the function")
        if titles.count(titles[-1]) > 1:
            raise RecipeError(f"two losses have the name {titles[-1]}", "rename one of the functions")
    rounding = recipe.quantization.weight_rounding
    if rounding not in ROUNDINGS:
        _loaded(rounding, "weight rounding", "weight_rounding", WEIGHT_ROUNDINGS)
    return recipe


def check_stages(
    recipe: Recipe, overrides: Sequence[str], images: Sequence[str | Path], measures: bool, report: Report
) -> None:
    """Check that the stages of a recipe have the images that they need; warn about overrides without effect.

    Args:
        recipe: the chosen recipe, with its overrides.
        overrides: ``section.key=value``, as the user gave them.
        images: files and folders that the user gives instead of the images of stage 1.
        measures: whether sensitivities are measured, for which a recipe without images learns some.
        report: receives the warnings.

    Raises:
        RecipeError: a stage needs images, and there are none.
        UsageError: there are more processes than images in a tuning batch.
    """
    without = f"recipe {recipe.name} makes no images (synthesis.num_images = 0), but"
    other = "--images, or another --recipe"
    if not images and not recipe.synthesis.num_images:
        if recipe.tuning.steps:
            raise RecipeError(
                f"{without} tuning.steps = {recipe.tuning.steps} needs some", f"use --set tuning.steps=0, {other}"
            )
        if recipe.quantization.activation_range == "ema":
            hint = f"use --set quantization.activation_range=mse, {other}"
            raise RecipeError(f"{without} quantization.activation_range = ema needs some", hint)
    processes, batch = launched().size, recipe.tuning.batch_size
    if recipe.tuning.steps and processes > batch:
        what = f"{processes} processes cannot share a tuning batch of {batch} images"
        raise UsageError(what, f"start at most {batch} processes, or use --set tuning.batch_size={processes}")
    for text in overrides:
        section, _, key = text.partition("=")[0].strip().partition(".")
        why = {
            "synthesis": "" if measures and not images else _why_not_learned(recipe, key, images),
            "tuning": _why_not_tuned(recipe, key, bool(images)),
        }.get(section)
        if why:
            report(Warned(f"{text} has no effect: {why}"))


def _why_not_learned(recipe: Recipe, key: str, images: Sequence[str | Path]) -> str:
    """Say why a setting of ``[synthesis]`` has no effect; an empty text if it has one."""
    if images:
        counts = key == "num_images" and any(Path(one).is_dir() for one in images)  # pictures to choose from a folder
        return "" if counts else "--images replaces the images that would be learned"
    return "" if recipe.synthesis.num_images or key == "num_images" else f"recipe {recipe.name} makes no images"


def _why_not_tuned(recipe: Recipe, key: str, has_images: bool) -> str:
    """Say why a setting of ``[tuning]`` has no effect; an empty text if it has one."""
    used = ["steps"]
    if has_images or recipe.synthesis.num_images:
        used.append("holdout")
        if recipe.quantization.activation_range == "ema":  # it is set on tuning batches
            used += ["batch_size", "crop_eta"]
    return "" if recipe.tuning.steps or key in used else "tuning.steps is 0"


def _loaded(name: str, what: str, decorator: str, table: dict[str, Extension]) -> Extension:
    file = name.rpartition(":")[0]
    if file:
        function = load_function(name)
        table[name] = Extension(name, function, file, file_digest(Path(file)))
    if name not in table:
        hint = f"give path/to/file.py:function, or decorate the function with intraq_cli.{decorator}"
        raise RecipeError(f"there is no {what} called {name}", did_you_mean(name, [*table]) or hint)
    return table[name]


def code_of(recipe: Recipe) -> list[dict[str, str | None]]:
    """Return the user-defined functions of a recipe for a manifest, each with the SHA-256 of its file."""
    losses = [IMAGE_LOSSES[name] for name in recipe.synthesis.losses]
    rounding = recipe.quantization.weight_rounding
    found = [*losses, *([WEIGHT_ROUNDINGS[rounding]] if rounding not in ROUNDINGS else [])]
    return [{"name": one.name, "sha256": one.sha256} for one in found]


def tell_unused(overrides: Sequence[str], report: Report) -> None:
    """Warn about recipe overrides that have no effect on a command that only learns images."""
    for text in overrides:
        section = text.strip().partition(".")[0]
        if section != "synthesis":
            report(Warned(f"{text} has no effect: this command does not use the recipe's table [{section}]"))
