"""Collect the files of a checkpoint that ``push`` uploads."""

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from intraq_cli.checkpoint.keys import PACKED
from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import MAKE_AGAIN, NO_CHECKPOINT, CheckpointError, ModelError
from intraq_cli.events import Noted, Report, Warned, silent
from intraq_cli.io.json_files import json_text
from intraq_cli.io.untrusted import read_json, tensor_header
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.nets import ARCHITECTURES
from intraq_cli.models.source import needs_code
from intraq_cli.publish.card import base_model, benchmark_results, card_loading_from, folder_card, is_own_card
from intraq_cli.publish.privacy import card_without_paths, local_names, without_paths
from intraq_cli.reports.folder import REPORT, read_steps, record_of
from intraq_cli.reports.page import html_page
from intraq_cli.runtime.metrics import METRICS
from intraq_cli.words import some_of

FILES = (
    "README.md", "config.json", METRICS, "model.onnx", "model.safetensors",
    REPORT, "run.json", "samples.png",
)  # fmt: skip
"""All files of a checkpoint; any other file in the folder is ignored."""
RESULTS = ".eval_results/intraq.yaml"
"""Uploaded in addition: accuracies in the format that the Hub's benchmarks collect."""
OPTIONAL = ("README.md", METRICS, "model.onnx", REPORT, "samples.png")
PNG = b"\x89PNG\r\n\x1a\n"
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")


def checkpoint_files(
    folder: Path, repo_id: str, revision: str | None = None, report: Report = silent
) -> dict[str, bytes]:
    """Read and check the files of a checkpoint, by name; the card says how to load it from ``repo_id``.

    Args:
        folder: folder of the checkpoint.
        repo_id: repository to upload to.
        revision: branch to name in the card.
        report: function that receives a message if the card is updated, or lacks results of the manifest.

    Raises:
        CheckpointError: the folder is not a checkpoint, is damaged, or contains what must not be published.
        ModelError: the network cannot be built.
    """
    files, config, run = _read(folder, repo_id)
    if needs_code(str(config.get("architecture"))):
        _check_without_network(folder, config)
    else:
        read_checkpoint(folder)
    _check_export(folder, files, run, report)
    files["README.md"] = card_loading_from(_sent_card(folder, files, config, run, report), repo_id, revision).encode()
    public = {key: value for key, value in local_names(run).items() if key != "cards"}  # digests of the local card
    files["config.json"], files["run.json"] = json_text(without_paths(config)).encode(), json_text(public).encode()
    if REPORT in files:  # made from the published manifest, never copied
        files[REPORT] = html_page(record_of(folder, config, public)).encode()
    read_steps(folder)
    if results := benchmark_results(run):
        files[RESULTS] = results.encode()
    return dict(sorted(files.items()))


def _sent_card(
    folder: Path, files: dict[str, bytes], config: dict[str, Any], run: dict[str, Any], report: Report
) -> str:
    """Return the card made from the manifest, or the existing one without paths if it was edited by hand."""
    card = files["README.md"].decode() if "README.md" in files else None
    if card is None or is_own_card(card, run):
        made = folder_card(folder, config, run)
        if card not in (None, made):
            report(Noted(f"{folder}/README.md is older than run.json: writing the card again"))
        return made
    untold = [one["data"] for one in run.get("evaluations", []) if f"{one['top1']:.2f}" not in card]
    untold += ["model.onnx"] if run.get("export") and "model.onnx" not in card else []
    if untold:
        what = f"these results in run.json: {some_of(untold)}"
        report(Warned(f"{folder}/README.md does not mention {what}; delete it to have it written again"))
    return card_without_paths(card, [config, run])


def timm_files(folder: Path, repo_id: str) -> dict[str, bytes]:
    """Return a plain timm repository of the network: dequantized weights under timm's names, and float activations.

    Raises:
        CheckpointError: the folder is not a checkpoint, or is damaged.
        ModelError: timm does not have the architecture, or would run other weights than the quantized ones.
    """
    from safetensors.torch import save

    files, config, run = _read(folder, repo_id)
    _check_timm_has(config)
    quantized = read_checkpoint(folder).network
    network = build_architecture(config["architecture"], config["num_classes"], config.get("model_args") or {})
    absent, _ = network.load_state_dict(quantized.state, strict=False)
    tensors = {key: tensor.detach().contiguous().clone() for key, tensor in network.state_dict().items()}
    # num_batches_tracked of a batch norm does not matter for inference
    if quantized.computed or [key for key in absent if not key.endswith(".num_batches_tracked")]:
        raise ModelError(
            f"timm would run {config['architecture']} with other weights than the quantized ones", "push without --timm"
        )
    made = {
        "README.md": folder_card(folder, config, run, repo_id).encode(),
        "config.json": _timm_config(network, config, run),
        "model.safetensors": save(tensors, {"format": "pt"}),
    }
    if "samples.png" in files:
        made["samples.png"] = files["samples.png"]
    return made


def left_out(folder: Path) -> list[str]:
    """Return the names in the folder that are not part of a checkpoint."""
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def _read(folder: Path, repo_id: str) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Read the files by name, config and manifest; :func:`read_checkpoint` checks the weights later."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", NO_CHECKPOINT)
    files = {}
    for name in FILES:
        path = folder / name
        if not path.is_file():
            if name in OPTIONAL and not path.is_symlink():
                continue
            raise CheckpointError(f"{folder} is not a complete checkpoint: {name} is missing", NO_CHECKPOINT)
        if path.resolve().parent != folder.resolve():
            raise CheckpointError(f"{path} is a link that leads out of the folder", "put the file itself there")
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not files.get("samples.png", PNG).startswith(PNG):
        raise CheckpointError(f"{folder}/samples.png is not a PNG image", "delete it")
    try:
        files.get("README.md", b"").decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder}/README.md is not UTF-8 text", "delete it: it is written again") from error
    config, run = read_json(folder / "config.json", CheckpointError), read_run(folder)
    try:
        base = base_model(config, run)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/run.json does not say which model it was made from", MAKE_AGAIN) from error
    _refuse_tokens(folder, files)
    if base == repo_id:
        raise CheckpointError(
            f"{repo_id} is the float model that {folder} was made from", "choose another repository name"
        )
    return files, config, run


def _check_without_network(folder: Path, config: dict[str, Any]) -> None:
    """Check that the weights are complete and packed, if the architecture is a Python file."""
    header = tensor_header(folder / "model.safetensors", CheckpointError)
    packed = [key for key in header if key.endswith(PACKED)]
    quantization = config.get("quantization_config")
    modules = quantization.get("modules") if isinstance(quantization, dict) else None
    if not isinstance(modules, dict) or len(packed) != len(modules):
        raise CheckpointError(f"{folder}: model.safetensors does not match config.json", MAKE_AGAIN)


def _check_export(folder: Path, files: dict[str, bytes], run: dict[str, Any], report: Report) -> None:
    """Check that ``model.onnx`` is the file that the manifest, and therefore the card, describes.

    Raises:
        CheckpointError: it is another file, or is missing.
    """
    file, proof = files.get("model.onnx"), run.get("export")
    hint = f"write it again with `intraq export {folder} --force`"
    if proof is None:
        if file is not None:
            report(Warned(f"{folder}/model.onnx is uploaded unchecked: run.json does not describe it"))
    elif file is None:
        raise CheckpointError(f"{folder}/model.onnx is missing, but run.json and the card describe it", hint)
    elif len(file) != proof["bytes"] or proof["sha256"] != hashlib.sha256(file).hexdigest():
        raise CheckpointError(f"{folder}/model.onnx is not the file that run.json and the card describe", hint)


def _check_timm_has(config: dict[str, Any]) -> None:
    import timm

    architecture = str(config.get("architecture"))
    if architecture in ARCHITECTURES or not timm.is_model(architecture):
        raise ModelError(f"timm has no architecture {architecture}", "push without --timm")


def _timm_config(network: Any, config: dict[str, Any], run: dict[str, Any]) -> bytes:
    """Return ``config.json`` as timm writes it, with the origin of the weights that the checkpoint records."""
    from timm.models._hub import save_config_for_hf

    cfg = dict(config["pretrained_cfg"])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.json"
        labels = {"label_names": config["label_names"]} if config.get("label_names") else {}
        save_config_for_hf(
            network, str(path), {"pretrained_cfg": cfg, **labels}, model_args=config.get("model_args") or None
        )
        made = json.loads(path.read_text(encoding="utf-8"))
    for key in ("license", "origin_url", "paper_ids", "tag", "hf_hub_id"):
        # timm fills these in for its own weights, which may not be the checkpoint's
        if key not in cfg or run["teacher"].get("weights"):
            made["pretrained_cfg"].pop(key, None)
    return json_text(made).encode()


def _refuse_tokens(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith((".json", ".md")) and TOKEN.search(content):
            raise CheckpointError(f"{folder}/{name} contains what looks like a Hub token", "remove the token first")
