"""``intraq images``."""

from typing import TYPE_CHECKING, Any

from intraq_cli.commands import options
from intraq_cli.commands.printing import heterogeneity, print_json, print_table
from intraq_cli.errors import one_line
from intraq_cli.words import file_size

if TYPE_CHECKING:
    from intraq_cli.results import ImagesResult


def images(
    file: options.ImagesFile,
    png: options.Png = None,
    sheet: options.Sheet = None,
    classes: options.Classes = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what a file of synthetic images holds, and write them as pictures.

    intraq images images.safetensors --png pictures
    """
    given = options.passed_on(locals())
    from intraq_cli.api import images as api

    result = api.images(**given)
    written = [path for path in (result.png, result.sheet) if path]
    if as_json:
        print_json(result)
    elif quiet:
        print("\n".join(written or [result.path]))
    else:
        _print(result)


def _print(result: "ImagesResult") -> None:
    confidence = "" if result.confidence is None else f", with a confidence of {result.confidence:.3f} on average"
    rows = [
        ("images", f"{result.n} of {'x'.join(map(str, result.image_shape))}, {file_size(result.bytes)}"),
        ("classes", _classes(result)),
        ("model", f"{result.model}, seed {result.seed}"),
        ("recipe", _recipe(result.recipe)),
        ("losses", "  ".join(f"{name} {value:.4f}" for name, value in result.losses.items())),
        ("teacher", f"puts {result.teacher_accuracy:.1f} % into the class they were made for{confidence}"),
        ("heterogeneity", heterogeneity(result.heterogeneity)),
        ("written", ", ".join(path for path in (result.png, result.sheet) if path)),
    ]
    print_table(result.path, [(name, one_line(value)) for name, value in rows if value])


def _classes(result: "ImagesResult") -> str:
    counts = [one.n for one in result.classes]
    least, most = min(counts), max(counts)
    each = f"{least} each" if least == most else f"{least} to {most} each"
    some = ", ".join(one.name for one in result.classes[:4]) + (", ..." if len(counts) > 4 else "")
    return f"{len(counts)}, {each}: {some}"


def _recipe(recipe: dict[str, Any]) -> str:
    """What it says otherwise than the default one."""
    from intraq_cli.recipe import Recipe

    default = Recipe().to_dict()["synthesis"]
    other = [f"{key}={value}" for key, value in recipe.items() if default.get(key) != value]
    return "default" + (f", but {', '.join(other)}" if other else "")
