"""Options that several commands share, each written once."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from intraq_cli.choices import Placement
from intraq_cli.errors import UsageError

MODEL_HELP = (
    "timm name, hf-hub:ORG/NAME@REV, torchvision:NAME, pytorchcv:NAME, a folder, path/to/file.py:factory, "
    "or a bundled model."
)


def _models(incomplete: str) -> list[str]:
    from intraq_cli.zoo import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


def _recipes(incomplete: str) -> list[str]:
    from intraq_cli.zoo import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False, autocompletion=_models)]
Recipe = Annotated[str, typer.Option("--recipe", help="Recipe from the zoo, or a TOML file.", autocompletion=_recipes)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe, e.g. tuning.steps=200."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random draw.", min=0)]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on from what an interrupted run of this job has kept.")
]
BatchSize = Annotated[
    str, typer.Option("--batch-size", metavar="N|auto", help="Images per pass, which does not change the result.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path that was made; no progress.")]
QuietName = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the repository's name; no progress.")]
QuietNames = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names.")]
QuietShare = Annotated[bool, typer.Option("--quiet", "-q", help="Print only top-1, in percent; no progress.")]
InputSize = Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help="Size of the model's input.")]
Mean = Annotated[str | None, typer.Option("--mean", metavar="M,...", help="Mean per channel, for pixels in [0, 1].")]
Std = Annotated[str | None, typer.Option("--std", metavar="S,...", help="Standard deviation per channel.")]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help="A safetensors or .pth file, with a timm name."),
]
WBits = Annotated[int, typer.Option("--w", help="Bits of the weights, 2 to 8.", min=2, max=8)]
ABits = Annotated[int, typer.Option("--a", help="Bits of the activations, 2 to 8.", min=2, max=8)]
ActPlacement = Annotated[
    Placement,
    typer.Option("--act-placement", help="Quantize the input of every layer, or what leaves every ReLU (the paper's)."),
]
FirstLastBits = Annotated[
    int | None, typer.Option(help="Other bits for the first and last layer.", min=2, max=8, show_default=False)
]


def batch_size(text: str) -> int | None:
    """Parse ``N`` or ``auto``.

    Raises:
        UsageError: it is neither.
    """
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text}: must be auto or a whole number from 1")
    return int(text)


def numbers(text: str | None, option: str, kind: type = float, count: int | None = None) -> tuple | None:
    """Parse ``1,2,3``.

    Raises:
        typer.BadParameter: it is not that.
    """
    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or (count is not None and len(values) != count):
        raise typer.BadParameter(f"{text!r}: numbers with commas between, e.g. 3,224,224", param_hint=option)
    return values


def input_options(
    input_size: str | None, mean: str | None, std: str | None
) -> tuple[tuple[int, int, int] | None, tuple[float, ...] | None, tuple[float, ...] | None]:
    """Parse ``--input-size``, ``--mean`` and ``--std``."""
    size = numbers(input_size, "--input-size", int, 3)
    return size, numbers(mean, "--mean"), numbers(std, "--std")


def data_for(model: str) -> str:
    """What to suggest to measure a model on."""
    return "digits" if model == "resnet20_digits" else "FOLDER"


def typed(*options: tuple[str, str | Path | None]) -> str:
    """Options as one would type them, those that were not given left out; an argument has the name ``""``."""
    return shlex.join(word for name, value in options if value is not None for word in (name, str(value)) if word)
