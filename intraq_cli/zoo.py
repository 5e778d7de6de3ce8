"""What ships with the tool: recipes, models, results. Only this file knows where they are."""

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from intraq_cli.errors import RecipeError
from intraq_cli.io.untrusted import read_text
from intraq_cli.words import did_you_mean

if TYPE_CHECKING:
    from intraq_cli.recipe import Recipe

MAX_RECIPE = 2**20
"""Largest size of a recipe file, in bytes."""


def zoo_root() -> Path:
    """Return the zoo's folder: inside the package when installed from a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "_zoo"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[1] / "zoo"


def recipe_names() -> list[str]:
    """Return the names of all recipes in the zoo."""
    return sorted(path.stem for path in (zoo_root() / "recipes").glob("*.toml"))


def model_names() -> list[str]:
    """Return the names of all bundled models."""
    return sorted(path.parent.name for path in (zoo_root() / "models").glob("*/config.json"))


def model_folder(name: str) -> Path:
    """Return the folder of a bundled model: ``config.json`` and ``model.safetensors``, as timm's ``local-dir``."""
    return zoo_root() / "models" / name


def recipe_path(name: str) -> Path:
    """Return the file of a recipe given by name, or by the path of a TOML file.

    Raises:
        RecipeError: there is no such recipe.
    """
    if name.endswith(".toml"):
        if not os.path.isfile(name):
            raise RecipeError(
                f"there is no recipe file {name}", "give an existing TOML file, or a name from `intraq zoo list`"
            )
        return Path(name)
    if name not in recipe_names():
        raise RecipeError(
            f"there is no recipe {name!r}", did_you_mean(name, recipe_names()) or "`intraq zoo list` lists them"
        )
    return zoo_root() / "recipes" / f"{name}.toml"


def load_recipe(name: str) -> "Recipe":
    """Load a recipe by name, or by the path of a TOML file.

    Raises:
        RecipeError: there is no such recipe, or it is not valid.
    """
    import tomllib  # here, for a quick start

    from intraq_cli.recipe import Recipe

    path = recipe_path(name)
    text = read_text(path, MAX_RECIPE, RecipeError)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    return _with_code_beside(Recipe.from_dict(data, path.stem), path.parent)


def _with_code_beside(recipe: "Recipe", folder: Path) -> "Recipe":
    """Resolve the user functions that a recipe in ``folder`` names: their files must be in the folder or below it.

    Raises:
        RecipeError: it names code outside the folder; only the user may name such code.
    """

    def placed(name: str) -> str:
        file, _, function = name.rpartition(":")
        hint = (
            "name the code yourself: --set synthesis.losses.FILE.py:FUNCTION=WEIGHT or quantization.weight_rounding=..."
        )
        if file and not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise RecipeError(f"recipe {recipe.name} names code outside its own folder: {name}", hint)
        if file and (folder / "config.json").exists():  # recipe and code may both be from a stranger
            raise RecipeError(f"recipe {recipe.name} names code in a model's folder, which is not run: {name}", hint)
        return f"{folder / file}:{function}" if file else name

    losses = {placed(name): weight for name, weight in recipe.synthesis.losses.items()}
    synthesis = replace(recipe.synthesis, losses=losses)
    rounding = placed(recipe.quantization.weight_rounding)
    quantization = replace(recipe.quantization, weight_rounding=rounding)
    return replace(recipe, synthesis=synthesis, quantization=quantization)


def result_tables() -> dict[str, Path]:
    """Return the CSV files of the result tables, by name."""
    return {path.stem: path for path in sorted((zoo_root() / "results").glob("*.csv"))}


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a result table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
