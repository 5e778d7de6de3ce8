"""The model card: ``README.md`` of a checkpoint, ready for the Hub."""

import re
from pathlib import PurePath
from typing import Any

FOLDER = "PATH OF THIS FOLDER"
"""What the card loads until it is known where it will be published."""

LICENCES = """
apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc mpl-2.0 unlicense wtfpl zlib afl-3.0 openrail gemma
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
""".split()  # noqa: SIM905 - forty lines as a list
"""Identifiers that the Hub takes as ``license``; every other one has to be ``other``, with a name."""

DATA_SETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Their names on the Hub, for the metadata."""

SIMULATED = """\
The arithmetic is simulated: the network runs on floats that hold exactly the quantized values. So the accuracy is real
and the file is small, and the speed and the memory at run time are the float model's."""

INTEGERS = """\
Integer units for 8-bit convolutions are in nearly every processor; to use them, the grids in this file have to be
exported to a runtime that does."""

NARROW = """\
Common processors have no arithmetic this narrow for convolutions: they would unpack the codes to 8 bits or to floats.
What is gained today is the size, on the disk and on the wire."""

WITH_IMAGES = """\
[IntraQ](https://arxiv.org/abs/2111.09136) learned the images below from the network itself, and the quantized network
was {use} on them.

![synthetic images](samples.png)"""

WITHOUT_IMAGES = "ranges, rounding and corrections come from the network's own batch-norm statistics alone."

PLACEMENTS = {
    "inputs": "what enters every convolution and linear layer; the image itself at 8 bits",
    "activations": "what leaves every ReLU-like activation (the placement of the IntraQ paper)",
}


def model_card(config: dict[str, Any], run: dict[str, Any]) -> str:
    """Markdown with the Hub's metadata; ``config`` and ``run`` are the checkpoint's config and manifest."""
    quantization = config["quantization_config"]
    w_bits, a_bits = quantization["weights"]["bits"], quantization["activations"]["bits"]
    measured, cfg = run["measured"], config["pretrained_cfg"]
    other = sorted({bits for bits in quantization["modules"].values() if bits != w_bits})
    ends = f", the first and the last at {other[0]}" if other else ", the first and the last included"
    agreement = (
        f"| agreement | {measured['agreement']:.2f} % of first choices equal the float model's, on "
        f"{measured['held_out']} synthetic images held out from tuning |\n"
        if "agreement" in measured
        else ""
    )
    factory = ", model='file.py:factory'" if run["needs_factory"] else ""
    return f"""{_front(config, run, "intraq", run.get("evaluations", []))}

# {run["name"]}, W{w_bits}A{a_bits}

`{run["teacher"]["source"]}`, quantized to {w_bits}-bit weights and {a_bits}-bit activations with **no training data**:
{_images(run)}

| | |
| --- | --- |
| weights | {w_bits} bits, per output channel, asymmetric, in {len(quantization["modules"])} layers{ends} |
| activations | {a_bits} bits, per tensor, asymmetric: {_activations(quantization)} |
| float | batch norm, biases, sums of residual branches, and what `config.json` does not list as quantized |
| size | {measured["bytes_quantized"]:,} bytes; float {measured["bytes_float"]:,} |
{agreement}| licence | {_licensed(config, run)} |

## Accuracy

{_accuracy(run.get("evaluations", []))}

## Use

```python
from intraq_cli import load

network = load("{FOLDER}"{factory})
logits = network(images)  # (B, {", ".join(map(str, cfg["input_size"]))}), normalised
```

{_normalise(cfg)}

## What this width means

{_width(w_bits, a_bits)}

## Made by

{_made_by(run)} Every setting is in `run.json`.
"""


def timm_card(config: dict[str, Any], run: dict[str, Any], repo_id: str) -> str:
    """The card of the dequantized weights as a plain timm repository; the arguments as above, and its name."""
    quantization = config["quantization_config"]
    w_bits, cfg = quantization["weights"]["bits"], config["pretrained_cfg"]
    # no results: they were measured with quantized activations
    return f"""{_front(config, run, "timm", [])}

# {run["name"]}, weights on a {w_bits}-bit grid

`{run["teacher"]["source"]}`, with the weights of {len(quantization["modules"])} layers quantized to {w_bits} bits with
**no training data**, and stored as floats under timm's own names:
{_images(run)}

Only the weights are quantized here: activations, batch norm and biases are float. The file is as large as the float
model's; each output channel of a weight takes at most {2**w_bits} values.

| | |
| --- | --- |
| licence | {_licensed(config, run)} |

## Use

```python
import timm

network = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
```

{_normalise(cfg)}

## Made by

{_made_by(run)}
"""


def benchmark_results(run: dict[str, Any]) -> str | None:
    """``.eval_results`` of the Hub: what was measured on whole benchmarks; None if nothing was."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    entries = [
        EvalResultEntry(
            one["benchmark"]["id"],
            one["benchmark"]["task_id"],
            round(one["top1"], 4),
            dataset_revision=one["benchmark"]["revision"],
            date=one["date"],
            notes=f"top-1 accuracy in percent, {one['n']:,} images; the float model: {one['float_top1']:.2f}",
        )
        for one in run.get("evaluations", [])
        if one.get("benchmark")
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries)) if entries else None


def placed(card: str, repo_id: str, revision: str | None = None) -> str:
    """A card whose example loads it from the Hub."""
    where = f'load("{repo_id}"' + (f', revision="{revision}"' if revision not in (None, "main") else "")
    return card.replace(f'load("{FOLDER}"', where)


def _activations(quantization: dict[str, Any]) -> str:
    placement, sites = quantization["activations"]["placement"], quantization["sites"]
    last = list(sites.values())[-1]
    by_itself = placement == "inputs" and last != quantization["activations"]["bits"]
    return PLACEMENTS[placement] + (f", what enters the last layer at {last}" if by_itself else "")


def _front(config: dict[str, Any], run: dict[str, Any], library: str, evaluations: list[dict[str, Any]]) -> str:
    from huggingface_hub import ModelCardData

    quantization = config["quantization_config"]
    bits = f"w{quantization['weights']['bits']}a{quantization['activations']['bits']}"
    base, licence = base_model(config, run), _licence(config, run)
    known = licence in LICENCES or licence == "unknown"
    data = ModelCardData(
        base_model=base,
        base_model_relation="quantized" if base else None,
        library_name=library,
        pipeline_tag="image-classification",
        license=licence if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-"),
        datasets=[],
        tags=["intraq", "quantized", "zero-shot-quantization", "data-free", *([bits] if library == "intraq" else [])],
        model_name=run["name"] if evaluations else None,
        eval_results=_results(evaluations) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(evaluations: list[dict[str, Any]]) -> list[Any]:
    """The Hub's ``model-index``, in percent: of this model, the float one has its own page."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=_data_set(measured["data"]),
            dataset_name=f"{_data_name(measured['data'])}, {measured['n']:,} images",
            dataset_split=measured["split"],
            metric_type="accuracy",
            metric_name=f"{name} accuracy, %",
            metric_value=round(measured[key], 4),
        )
        for measured in evaluations
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
    ]


def _data_set(data: str) -> str:
    if data.startswith("hfds:"):
        return data.removeprefix("hfds:")
    return DATA_SETS.get(data, "imagefolder")


def _data_name(data: str) -> str:
    """For others to read: an absolute path tells more of its owner than of the images, so its end alone."""
    path = PurePath(data)
    return "/".join(path.parts[-2:]) if path.is_absolute() else data


def _accuracy(evaluations: list[dict[str, Any]]) -> str:
    if not evaluations:
        return (
            "Not measured on real images yet: that needs labelled ones, and `quantize` uses none. "
            "`intraq evaluate FOLDER --data DATA --save` does it."
        )
    figures = ("top1", "float_top1", "top5", "float_top5", "agreement")
    rows = [
        f"| {_data_name(one['data'])}{', ' + one['split'] if one['split'] else ''} | {one['n']:,} | "
        f"{' | '.join(f'{one[key]:.2f}' for key in figures)} |"
        for one in evaluations
    ]
    return "\n".join(
        [
            "In percent, this model and the float one on the same real images; agreement: equal first choices.",
            "",
            "| data | images | top-1 | float top-1 | top-5 | float top-5 | agreement |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def base_model(config: dict[str, Any], run: dict[str, Any]) -> str | None:
    """Name on the Hub of the float model; None if its weights are not from there."""
    source, cfg = run["teacher"]["source"], config["pretrained_cfg"]
    if source.startswith("hf-hub:"):
        return source.removeprefix("hf-hub:").partition("@")[0]
    # weights of a file or a folder may say whose architecture they have, not where they are from
    from_timm = source.partition(".")[0] == config["architecture"] and not run["teacher"].get("weights")
    return cfg.get("hf_hub_id") if from_timm else None


def _licence(config: dict[str, Any], run: dict[str, Any]) -> str:
    licence = config["pretrained_cfg"].get("license")
    # beside weights of a file it is that of timm's own weights
    stated = isinstance(licence, str) and licence.strip() and not run["teacher"].get("weights")
    return licence if stated else "unknown"


def _licensed(config: dict[str, Any], run: dict[str, Any]) -> str:
    licence = _licence(config, run)
    return "unknown: the base model states none" if licence == "unknown" else f"of the base model: {licence}"


def _width(w_bits: int, a_bits: int) -> str:
    return f"{SIMULATED}\n\n{INTEGERS if w_bits == a_bits == 8 else NARROW}"


def _images(run: dict[str, Any]) -> str:
    if "agreement" not in run["measured"]:
        return WITHOUT_IMAGES
    return WITH_IMAGES.format(use="tuned" if run["recipe"]["tuning"]["steps"] else "calibrated")


def _normalise(cfg: dict[str, Any]) -> str:
    return (
        f"Normalise pixels in [0, 1] with mean {_numbers(cfg['mean'])} and standard deviation {_numbers(cfg['std'])}."
    )


def _made_by(run: dict[str, Any]) -> str:
    shell = "sh" if run["command"].startswith("intraq ") else "python"
    return f"""```{shell}
{run["command"]}
```

with recipe `{run["recipe"]["name"]}`, seed {run["seed"]}, intraq {run["versions"]["intraq"]}."""


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
