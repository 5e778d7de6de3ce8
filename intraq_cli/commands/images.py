"""``intraq images``."""

from typing import TYPE_CHECKING, Any

from intraq_cli.commands import calls, options
from intraq_cli.commands.printing import heterogeneity, print_json, print_table
from intraq_cli.words import file_size, one_line

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
    """Describe a file of synthetic images, and write them as PNG or JPEG files.

    intraq images images.safetensors --png pictures
    """
    given = calls.passed_on(locals())
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
    of_all = "" if result.n == result.n_file else f", of all {result.n_file} images in the file"
    size = f"{result.n} of {'x'.join(map(str, result.image_shape))}"
    losses = "  ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    confident = (
        None if result.confidence is None else f"{100 * result.confidence:.1f} % on average for the intended class"
    )
    rows = [
        ("images", f"{size}, chosen out of {result.n_file}" if of_all else size),
        ("classes", _classes(result)),
        ("confidence", confident),
        ("model", f"{result.model}, seed {result.seed}"),
        ("recipe", _recipe(result.recipe)),
        ("losses", f"{losses}{of_all}"),
        ("teacher", f"assigns {result.teacher_accuracy:.1f} % to the class they were made for{of_all}"),
        ("heterogeneity", f"{heterogeneity(result.heterogeneity)}{of_all}"),
        ("file", file_size(result.bytes)),
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
    """Return the bundled recipe nearest to the file's settings, and the settings that differ from it."""
    from intraq_cli.zoo import load_recipe, recipe_names

    if not recipe:
        return ""
    other = {}
    for name in sorted(recipe_names(), key=lambda name: name != "default"):  # default wins ties
        bundled = load_recipe(name).to_dict()["synthesis"]
        other[name] = [f"{key}={value}" for key, value in recipe.items() if bundled.get(key) != value]
    nearest = min(other, key=lambda name: len(other[name]))
    return nearest + (f" with {', '.join(other[nearest])}" if other[nearest] else "")
