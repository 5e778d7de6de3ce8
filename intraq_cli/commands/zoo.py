"""``intraq zoo list`` and ``intraq zoo show``."""

import json

import typer

from intraq_cli import zoo
from intraq_cli.commands import options
from intraq_cli.commands.printing import print_json, print_table
from intraq_cli.commands.results_table import RowFilter, print_results
from intraq_cli.errors import RecipeError, UsageError
from intraq_cli.words import did_you_mean

MEASURED = "measured"
"""The table that ``results`` stands for."""

app = typer.Typer(help="Recipes, bundled models and results.", no_args_is_help=True)


@app.command("list")
def list_(as_json: options.Json = False, quiet: options.QuietNames = False) -> None:
    """List the recipes, models and tables of results that come with the tool."""
    recipes = {name: zoo.load_recipe(name).description for name in zoo.recipe_names()}
    tables = {name: len(zoo.read_table(path)) for name, path in zoo.result_tables().items()}
    if as_json:
        print_json({"recipes": recipes, "models": zoo.model_names(), "results": tables})
    elif quiet:
        print("\n".join([*recipes, *zoo.model_names(), *tables]))
    else:
        print_table("recipes", list(recipes.items()))
        print_table("\nmodels", [(name, str(zoo.model_folder(name))) for name in zoo.model_names()])
        print_table("\nresults", [(name, f"{count} rows") for name, count in tables.items()])


@app.command()
def show(
    name: options.ZooName,
    model: options.OfModel = None,
    recipe: options.OfRecipe = None,
    w: options.OfWBits = None,
    a: options.OfABits = None,
    placement: options.OfPlacement = None,
    as_json: options.Json = False,
    as_csv: options.Csv = False,
) -> None:
    """Print a recipe, a model's README, or rows of a table of results; `results` is the table measured with this tool.

    intraq zoo show results --model resnet20 --w 4
    """
    if as_json and as_csv:
        raise UsageError("--csv prints CSV, --json a JSON object", "give only one of them")
    tables = zoo.result_tables()
    name = MEASURED if name == "results" else name
    chosen = RowFilter(model, recipe, w, a, placement)
    if name not in tables and (as_csv or chosen != RowFilter()):
        raise UsageError(f"{name} is not a table of results", f"--csv and filters only apply to {', '.join(tables)}")
    if name in tables:
        print_results(name, zoo.read_table(tables[name]), chosen, as_json, as_csv)
    elif name in zoo.model_names():
        config = json.loads((zoo.model_folder(name) / "config.json").read_text(encoding="utf-8"))
        if as_json:
            print_json({"name": name, "config": config})
        else:
            print((zoo.model_folder(name) / "README.md").read_text(encoding="utf-8").rstrip())
    elif name in zoo.recipe_names() or name.endswith(".toml"):
        found = zoo.load_recipe(name)
        if as_json:
            print_json({"name": found.name, **found.to_dict()})
        else:
            print(zoo.recipe_path(name).read_text(encoding="utf-8").rstrip())
    else:
        known = [*zoo.recipe_names(), *zoo.model_names(), *tables, "results"]
        raise RecipeError(
            f"nothing in the zoo is called {name!r}", did_you_mean(name, known) or "`intraq zoo list` lists all names"
        )
