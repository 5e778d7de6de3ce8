"""The model card: ``README.md`` of a checkpoint, ready for the Hub."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from intraq_cli.errors import MAKE_AGAIN, CheckpointError
from intraq_cli.models.hub import split_revision
from intraq_cli.publish.privacy import local_names
from intraq_cli.quantization.plan import VALUE_BITS
from intraq_cli.reports.record import Run
from intraq_cli.words import counted, data_of, images_of, logits_differ, sample_of

TEMPLATE = Path(__file__).with_name("card.md.jinja")

FOLDER = "PATH OF THIS FOLDER"
"""Placeholder in the card's example, until it is known where the checkpoint will be published."""

LICENCES = """
apache-2.0 mit bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear isc mpl-2.0 unlicense wtfpl zlib afl-3.0 openrail gemma
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
""".split()  # noqa: SIM905 - forty lines as a list
"""Identifiers that the Hub accepts as ``license``; every other licence must be ``other``, with a name."""

DATA_SETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Names of data sets on the Hub, for the metadata."""

PLACEMENTS = {
    "inputs": "the input of every convolution and linear layer; the image itself at {image} bits",
    "integer": "all that an integer runtime needs (inputs of layers, and at 8 bits those of other operations)",
    "activations": "the output of every ReLU-like activation in front of a layer (as in the IntraQ paper)",
}


def model_card(config: dict[str, Any], run: dict[str, Any], timm_repo: str = "") -> str:
    """Return the model card: Markdown with the Hub's metadata, and without paths of this machine.

    Args:
        config: the checkpoint's config.
        run: its manifest.
        timm_repo: name of a plain timm repository with the dequantized weights, if the card is for one.

    Raises:
        KeyError, ValueError: the config or the manifest lacks what the card shows.
    """
    from huggingface_hub import ModelCard

    Run.model_validate(run)
    quantization, public = config["quantization_config"], local_names(run)
    # a timm repository has no results: they were measured with quantized activations too
    evaluations = [] if timm_repo else public.get("evaluations", [])
    pictures, modules = run["measured"].get("pictures", 0), quantization["modules"]
    w_bits = quantization["weights"]["bits"]
    card = ModelCard.from_template(
        _metadata(config, run, "timm" if timm_repo else "intraq", evaluations),
        template_path=str(TEMPLATE),
        timm_repo=timm_repo,
        folder=FOLDER,
        run=public,
        version=run["versions"]["intraq"],
        evaluations=evaluations,
        quantization=quantization,
        w_bits=w_bits,
        a_bits=quantization["activations"]["bits"],
        activations="" if timm_repo else _activations(quantization),
        layers=counted(len(modules), "layer"),
        ends=_exceptions(modules, w_bits),
        data=data_of(pictures),
        images_of=images_of(pictures),
        logits_differ=logits_differ,
        narrowest=min(modules.values()),
        widest=max(modules.values()),
        cfg=config["pretrained_cfg"],
        numbers=lambda values: "(" + ", ".join(f"{value:g}" for value in values) + ")",
        licence=_licence(config, run),
    )
    return f"{card}\n"


def folder_card(folder: Path, config: dict[str, Any], run: dict[str, Any], timm_repo: str = "") -> str:
    """Return the card of a checkpoint folder, or of the timm repository that is made from it.

    Raises:
        CheckpointError: the manifest lacks what the card shows.
    """
    try:
        return model_card(config, run, timm_repo)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}/run.json lacks what the card needs: {error}", MAKE_AGAIN) from error


def card_digest(card: str) -> str:
    """Return the SHA-256 of a card; ``cards`` in a manifest lists those of the cards that intraq wrote with it."""
    return hashlib.sha256(card.encode()).hexdigest()


def is_own_card(card: str, run: dict[str, Any]) -> bool:
    """Return whether a card is unchanged since intraq wrote it with the manifest ``run``."""
    return card_digest(card) in run.get("cards", [])


def _exceptions(modules: dict[str, int], w_bits: int) -> str:
    """Say which layers have other bits than most."""
    bits = [*modules.values()]
    counts = Counter(b for b in bits if b != w_bits)
    if not counts:
        return "including the first and the last"
    if len(counts) == 1 and counts.total() == 2 and w_bits not in (bits[0], bits[-1]):
        return f"the first and the last at {bits[0]}"
    return "of which " + ", ".join(f"{count} at {b}" for b, count in sorted(counts.items()))


def benchmark_results(run: dict[str, Any]) -> str | None:
    """Return accuracies on whole benchmarks for ``.eval_results`` of the Hub; None if there are none."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    entries = [
        EvalResultEntry(
            one["benchmark"]["id"],
            one["benchmark"]["task_id"],
            round(one["top1"], 4),
            dataset_revision=one["benchmark"]["revision"],
            date=one["date"],
            notes=f"top-1 accuracy in percent, {one['n']:,} images; float model: {one['float_top1']:.2f}",
        )
        for one in run.get("evaluations", [])
        if one.get("benchmark")
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries)) if entries else None


def card_loading_from(card: str, repo_id: str, revision: str | None = None) -> str:
    """Return the card with an example that loads the checkpoint from the Hub."""
    where = f'load("{repo_id}"' + (f', revision="{revision}"' if revision not in (None, "main") else "")
    return card.replace(f'load("{FOLDER}"', where)


def _activations(quantization: dict[str, Any]) -> str:
    """Say which activations are quantized, and which have other bits than most."""
    placement, bits = quantization["activations"]["placement"], [*quantization["sites"].values()]
    # without what a placement sets to 8 bits: the image, or values between operations other than layers
    chosen = {"inputs": bits[1:] or bits, "integer": [b for b in bits if b != VALUE_BITS]}.get(placement, bits)
    counts = Counter(b for b in chosen if b != quantization["activations"]["bits"])
    text = PLACEMENTS[placement].format(image=bits[0])
    if placement != "integer" and counts.total() == 1 and counts[bits[-1]]:
        return f"{text}, the input of the last layer at {bits[-1]}"
    return text + "".join(f", {count} of them at {b}" for b, count in sorted(counts.items()))


def _metadata(config: dict[str, Any], run: dict[str, Any], library: str, evaluations: list[dict[str, Any]]) -> Any:
    from huggingface_hub import ModelCardData

    quantization = config["quantization_config"]
    bits = f"w{quantization['weights']['bits']}a{quantization['activations']['bits']}"
    base, licence = base_model(config, run), _licence(config, run)
    known = licence in LICENCES or licence == "unknown"
    free = [] if run["measured"].get("pictures") else ["zero-shot-quantization", "data-free"]
    return ModelCardData(
        base_model=base,
        base_model_relation="quantized" if base else None,
        library_name=library,
        pipeline_tag="image-classification",
        license=licence if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-"),
        datasets=[],
        tags=["intraq", "quantized", *free, *([bits] if library == "intraq" else [])],
        model_name=run["name"] if evaluations else None,
        eval_results=_results(evaluations) or None,
    )


def _results(evaluations: list[dict[str, Any]]) -> list[Any]:
    """Return the Hub's ``model-index``: accuracies in percent of this model, not of the float model."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=_data_set(measured["data"]),
            dataset_name=f"{measured['data']}, {measured['n']:,} images{sample_of(measured)}",
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


def base_model(config: dict[str, Any], run: dict[str, Any]) -> str | None:
    """Return the float model's name on the Hub; None if its weights are not from there."""
    source, cfg = run["teacher"]["source"], config["pretrained_cfg"]
    if source.startswith("hf-hub:"):
        return split_revision(source.removeprefix("hf-hub:"))[0]
    # for weights from a file or a folder, timm's config tells the architecture, not their origin
    from_timm = source.partition(".")[0] == config["architecture"] and not run["teacher"].get("weights")
    return cfg.get("hf_hub_id") if from_timm else None


def _licence(config: dict[str, Any], run: dict[str, Any]) -> str:
    licence = config["pretrained_cfg"].get("license")
    # with weights from a file, the config still has the licence of timm's own weights
    stated = isinstance(licence, str) and licence.strip() and not run["teacher"].get("weights")
    return licence if stated else "unknown"
