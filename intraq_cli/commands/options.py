"""Type and help of every option and argument, each defined once; a command lists those that it uses."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from intraq_cli.choices import LARGEST_SEED, Placement
from intraq_cli.commands.parsing import bits, numbers
from intraq_cli.models.input_options import MAX_CROP_PCT, MIN_CROP_PCT
from intraq_cli.models.input_options import Interpolation as _Interpolation
from intraq_cli.zoo import model_names, recipe_names

MODEL_HELP = (
    "timm name, hf-hub:ORG/NAME@REV, torchvision:NAME, pytorchcv:NAME, a folder, path/to/file.py:factory, "
    "or a bundled model."
)

PANELS = {
    "Bits by layer": ("--target-size", "--avg-bits", "--bops", "--sensitivity", "--first-last-bits", "--bits"),
    "Model": ("--model", "--weights", "--revision", "--input-size", "--mean", "--std", "--crop-pct", "--interpolation"),
    "Run": ("--device", "--seed", "--seeds", "--batch-size", "--deterministic", "--resume", "--dry-run", "--cache"),
    "Output": ("--force", "--export", "--tensorboard", "--save", "--json", "--csv", "--quiet"),
}
"""Panels of ``--help`` and the options in them; all other options are in the first one."""


def _argument(name: str, text: str, **settings: Any) -> Any:
    return typer.Argument(metavar=name, help=text, show_default=False, **settings)


def _option(*names: str, **settings: Any) -> Any:
    """Return an option in its panel of ``--help``; options of no panel come first."""
    name = names[0].partition("/")[0]
    panel = next((panel for panel, members in PANELS.items() if name in members), None)
    return typer.Option(*names, rich_help_panel=panel, **settings)


def _unset(*names: str, **settings: Any) -> Any:
    """Return an option whose default None is not shown in the help."""
    return _option(*names, show_default=False, **settings)


def _set(example: str) -> Any:
    return _option("--set", metavar="KEY=VALUE", help=f"Override a setting of the recipe, e.g. {example}.")


def _several(example: str, kind: type, metavar: str, text: str, count: int | None = None) -> Any:
    """Return an option that takes comma-separated numbers."""
    return _unset(example.split()[0], metavar=metavar, help=text, parser=numbers(example, kind, count))


PLACEMENTS = (
    "the input of every layer, the output of every ReLU-like activation (the paper's), or all that an integer runtime "
    "needs"
)

Model = Annotated[str, _argument("MODEL", MODEL_HELP, autocompletion=model_names)]
Inspected = Annotated[str, _argument("TARGET", f"A checkpoint folder or Hub id, or a model: {MODEL_HELP}")]
Target = Annotated[str, _argument("TARGET", "Checkpoint folder or its Hub id, exported .onnx file, or float model.")]
Targets = Annotated[
    list[str], _argument("TARGET...", "Checkpoint folders or their Hub ids, exported .onnx files, or float models.")
]
ImageFiles = Annotated[list[str], _argument("IMAGE...", "Image files, or folders of them.")]
Folder = Annotated[Path, _argument("FOLDER", "Checkpoint folder that `quantize` wrote.")]
Folders = Annotated[
    list[str], _argument("FOLDER...", "Checkpoint folders that `quantize` wrote; several are compared on one page.")
]
Checkpoints = Annotated[list[str], _argument("TARGET...", "Checkpoint folders, or Hub ids of checkpoints.")]
Repository = Annotated[str, _argument("ORG/NAME", "Repository on the Hub; created if it does not exist.")]
ZooName = Annotated[str, _argument("NAME", "A recipe, a bundled model, a table of results, or `results`.")]

InputSize = Annotated[Any, _several("--input-size 3,224,224", int, "C,H,W", "Input size; default: the model's.", 3)]
Mean = Annotated[
    Any,
    _several(
        "--mean 0.485,0.456,0.406", float, "M,...", "Mean per channel, for pixels in [0, 1]; default: the model's."
    ),
]
Std = Annotated[
    Any,
    _several(
        "--std 0.229,0.224,0.225",
        float,
        "S,...",
        "Standard deviation per channel, for pixels in [0, 1]; default: the model's.",
    ),
]
CROP_HELP = "Crop size as a fraction of the resized image's shorter side; default: the model's."
CropPct = Annotated[float | None, _unset("--crop-pct", help=CROP_HELP, min=MIN_CROP_PCT, max=MAX_CROP_PCT)]
Interpolation = Annotated[
    _Interpolation | None, _unset("--interpolation", help="Resizing method; default: the model's.")
]
Weights = Annotated[
    str | None,
    _unset(
        "--weights", metavar="FILE", help="Load these weights into the timm architecture MODEL (.safetensors or .pth)."
    ),
]
FloatModel = Annotated[
    str | None, _unset("--model", help="The float model, if the checkpoint cannot name it: file.py:factory.")
]

WBits = Annotated[int | None, _unset("--w", help="Bits of the weights, 2 to 8; default 4.", min=2, max=8)]
ABits = Annotated[int | None, _unset("--a", help="Bits of the activations, 2 to 8; default 4.", min=2, max=8)]
WWidths = Annotated[
    Any,
    _unset(
        "--w",
        metavar="BITS",
        help="Bits of the weights, 2 to 8; default 4. With a budget: widths to choose from, e.g. 2,4,8; default 2-8.",
        parser=bits("--w"),
    ),
]
AWidths = Annotated[
    Any,
    _unset(
        "--a",
        metavar="BITS",
        help="Bits of the activations, 2 to 8; default 4; 8 with --target-size or --avg-bits, 2-8 with --bops.",
        parser=bits("--a"),
    ),
]
TargetSize = Annotated[
    str | None,
    _unset("--target-size", metavar="SIZE", help="Budget for model.safetensors, e.g. 2MB; chooses bits per layer."),
]
AvgBits = Annotated[
    float | None,
    _unset(
        "--avg-bits", metavar="X", help="Budget in mean bits per quantized weight, e.g. 3.5; chooses bits per layer."
    ),
]
Bops = Annotated[
    str | None,
    _unset("--bops", metavar="N", help="Budget in bit operations per image, e.g. 5G; chooses bits per layer."),
]
Sensitivities = Annotated[
    Path | None,
    _unset("--sensitivity", metavar="FILE", help="File that `sensitivity --out` wrote; nothing is measured again."),
]
SensitivityFile = Annotated[Path | None, _unset("--out", help="Also write a file for `quantize --sensitivity`.")]
ModelPlacement = Annotated[Placement | None, _unset("--act-placement", help=f"Quantize {PLACEMENTS}; default: inputs.")]
RecipePlacement = Annotated[
    Placement | None, _unset("--act-placement", help=f"Quantize {PLACEMENTS}; default: the recipe's.")
]
FirstLastBits = Annotated[
    int | None,
    _unset(
        "--first-last-bits",
        metavar="N",
        help="Bits of the first and last layer's weights, and of the last layer's input unless the placement is "
        "activations; default: as --w and --a. The image has 8 bits.",
        min=2,
        max=8,
    ),
]
Bits = Annotated[
    Path | None,
    _unset("--bits", metavar="FILE", help="TOML file with bits for single layers, see `inspect --bits-template`."),
]
BitsTemplate = Annotated[
    bool, _option("--bits-template", help="Print the bits of all layers as a TOML file for --bits.")
]
OfModel = Annotated[str | None, _unset("--model", help="Only rows of networks with this in their name.")]
OfRecipe = Annotated[str | None, _unset("--recipe", help="Only rows of this recipe.")]
OfWBits = Annotated[int | None, _unset("--w", help="Only rows with this number of weight bits.")]
OfABits = Annotated[int | None, _unset("--a", help="Only rows with this number of activation bits.")]
OfPlacement = Annotated[str | None, _unset("--placement", help="Only rows of this placement of activation quantizers.")]
SortLayers = Annotated[
    Literal["name", "kind", "w", "a", "parameters", "multiply-adds", "bytes"] | None,
    _unset("--sort", help="Sort the table; default: the order in which layers run."),
]
Recipe = Annotated[str, _option("--recipe", help="Recipe from the zoo, or a TOML file.", autocompletion=recipe_names)]
Set = Annotated[list[str] | None, _set("tuning.steps=200")]
SynthesisSet = Annotated[list[str] | None, _set("synthesis.steps=200")]
NumImages = Annotated[int | None, _option("-n", "--num-images", min=1, help="Images; default: the recipe's.")]
Images = Annotated[
    list[Path] | None,
    _option(
        "--images",
        metavar="PATH",
        help="Instead of making images: a file that `synthesize` wrote, a folder of pictures, or (given twice) both.",
        show_default=False,
    ),
]

ImagesFile = Annotated[Path, _argument("FILE", "File that `synthesize` wrote.")]
Png = Annotated[
    Path | None, _unset("--png", metavar="FOLDER", help="Write all images as PNG files into class folders here.")
]
Sheet = Annotated[Path | None, _unset("--sheet", metavar="FILE", help="Write some images into one PNG or JPEG file.")]
Classes = Annotated[Any, _several("--classes 0,3", int, "I,...", "Only these classes, by index; default: all.")]

FewImages = Annotated[int | None, _unset("-n", "--num-images", min=2, help="Images; default 64 to 256, by their size.")]
Widths = Annotated[Any, _several("--widths 2,4,8", int, "B,...", "Bits to try; default 2,3,4,6,8.")]

OutFolder = Annotated[Path | None, _unset("--out", help="Folder; default NAME-wWaA, with a budget NAME-BUDGET-aA.")]
OutFile = Annotated[Path | None, _unset("--out", help="File; default NAME-images.safetensors.")]
PageFile = Annotated[
    Path | None, _unset("--out", help="File; default FOLDER/report.html, of several report.html in the working folder.")
]
Force = Annotated[bool, _option("--force", help="Replace an existing output.")]
ForceFolder = Annotated[
    bool, _option("--force", help="Replace an earlier checkpoint of that name (the whole folder is deleted).")
]
Resume = Annotated[
    bool, _option("--resume/--no-resume", help="Resume from what an interrupted run of this job has saved.")
]
DryRun = Annotated[bool, _option("--dry-run", help="Check everything, print what would be done and the time it takes.")]
Device = Annotated[str, _option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, _option("--seed", metavar="N", help="Seed of every random draw.", min=0, max=LARGEST_SEED)]
SampleSeed = Annotated[
    int, _option("--seed", metavar="N", help="Seed of the sample that --limit draws.", min=0, max=LARGEST_SEED)
]
OneSeed = Annotated[
    int | None, _unset("--seed", metavar="N", help="Seed of every random draw; default 0.", min=0, max=LARGEST_SEED)
]
SEEDS_HELP = "One checkpoint per seed: OUT-seed0, OUT-seed1, ...; prints mean and range."
Seeds = Annotated[Any, _several("--seeds 0,1,2", int, "N,...", SEEDS_HELP)]
MICRO_BATCH_HELP = "Images per pass (micro-batch); default: what fits. Gradients add up, so the result is the same."
MicroBatch = Annotated[int | None, _unset("--batch-size", metavar="N", min=1, help=MICRO_BATCH_HELP)]

Tensorboard = Annotated[
    Path | None, _unset("--tensorboard", metavar="DIR", help="Write losses for TensorBoard, which must be installed.")
]

Format = Annotated[Literal["onnx"], _option("--to", help="Format of the file.")]
Export = Annotated[Literal["onnx"] | None, _unset("--export", help="Also write model.onnx, see `intraq export`.")]
OnnxFile = Annotated[Path | None, _unset("--out", help="File; default FOLDER/model.onnx.")]
StorageOption = Annotated[
    Literal["int8", "int4"], _option("--storage", help="int4: store weights of up to 4 bits in 4 bits.")
]
Pictures = Annotated[
    Path | None,
    _unset("--images", help="Folder of pictures to compare on; default: the synthetic ones, else random ones."),
]
Batch = Annotated[int, _option("--batch", min=1, help="Images per batch when time is measured.")]
AllowFloat = Annotated[
    bool, _option("--allow-float", help="With placement integer: write the file even if layers stay float.")
]

Data = Annotated[str, _unset("--data", help="Folder of class folders, digits, cifar10, cifar100 or hfds:ORG/NAME.")]
DataDir = Annotated[Path | None, _unset("--data-dir", help="Folder that contains cifar10 or cifar100.")]
Split = Annotated[str | None, _unset("--split", help="Split of a data set on the Hub.")]
Limit = Annotated[int | None, _unset("--limit", min=1, help="Measure on a random sample of this many images.")]
Deterministic = Annotated[
    bool,
    _option(
        "--deterministic", help="Bit-identical results in every run on a GPU too; slower. On a CPU they always are."
    ),
]
BatchSize = Annotated[int, _option("--batch-size", metavar="N", min=1, help="Images per batch.")]
Cache = Annotated[
    bool, _option("--cache/--no-cache", help="Reuse the float model's predictions that an earlier run stored.")
]
Save = Annotated[bool, _option("--save", help="Write the results into the checkpoint folder and its model card.")]

Revision = Annotated[str | None, _unset("--revision", help="Branch, tag or commit on the Hub; default: main.")]
Branch = Annotated[str | None, _unset("--revision", help="Branch to push to; default: main.")]
Private = Annotated[bool, _option("--private", help="Make the repository private.")]
CreatePr = Annotated[bool, _option("--create-pr", help="Open a pull request instead.")]
Message = Annotated[str | None, _unset("--message", "-m", help="Commit message; default: Upload NAME with intraq.")]
Token = Annotated[str | None, _unset("--token", help="With write access; default: HF_TOKEN, or `hf auth login`'s.")]
Timm = Annotated[bool, _option("--timm", help="Make a plain timm repository: dequantized weights, float activations.")]

Json = Annotated[bool, _option("--json", help="Print exactly one JSON object on stdout.")]
Csv = Annotated[bool, _option("--csv", help="Print a table of results as CSV, every column.")]
Quiet = Annotated[bool, _option("--quiet", "-q", help="Print only the path that was made; no progress.")]
QuietName = Annotated[bool, _option("--quiet", "-q", help="Print only the repository's name; no progress.")]
QuietNames = Annotated[bool, _option("--quiet", "-q", help="Print only the names.")]
QuietTable = Annotated[bool, _option("--quiet", "-q", help="Print only the table; no hints.")]
QuietShare = Annotated[bool, _option("--quiet", "-q", help="Print only top-1, in percent; no progress.")]
