"""What a checkpoint folder tells others: accuracies measured later, its card, and the files that ``push`` sends."""

import datetime
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from intraq_cli import __version__
from intraq_cli.checkpoint.read import Checkpoint, read_checkpoint
from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.checkpoint.write import write_json
from intraq_cli.errors import CheckpointError, ModelError, OutputError
from intraq_cli.events import Report, Warned
from intraq_cli.io.atomic import atomic_file, plain
from intraq_cli.io.untrusted import read_json, tensor_header
from intraq_cli.models.architectures import build_architecture
from intraq_cli.models.hub import benchmark
from intraq_cli.models.nets import ARCHITECTURES
from intraq_cli.models.source import needs_code
from intraq_cli.publish.card import base_model, benchmark_results, model_card, placed, timm_card
from intraq_cli.publish.privacy import card_without_paths, local_names, without_paths
from intraq_cli.reports.folder import REPORT, read_record, read_steps, record_of
from intraq_cli.reports.page import page_of_one
from intraq_cli.runtime.metrics import METRICS

FILES = (
    *("README.md", "config.json", METRICS, "model.onnx", "model.safetensors"),
    *(REPORT, "run.json", "samples.png"),
)
"""All that belongs to a checkpoint; nothing else is read, whatever the folder holds."""
RESULTS = ".eval_results/intraq.yaml"
"""Sent beside them: figures in the form in which the Hub's benchmarks collect them."""
OPTIONAL = ("README.md", METRICS, "model.onnx", REPORT, "samples.png")
PNG = b"\x89PNG\r\n\x1a\n"
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")


# --- accuracies ---


def check_record(folder: Path) -> None:
    """Refuse, before any work, a folder in which :func:`record` could not write.

    Raises:
        OutputError: there is no manifest, or no right to replace it.
        CheckpointError: what the folder says cannot be told in its report.
    """
    if not (folder / "run.json").is_file() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot record in {folder}/run.json", "--save needs a checkpoint folder of your own")
    read_record(folder)


def record(folder: Path, checkpoint: Checkpoint, measured: dict[str, Any], report: Report) -> None:
    """Note a measurement in ``run.json``, in place of an earlier one on the same data; render card and report anew.

    Args:
        folder: of the checkpoint.
        checkpoint: as it was read from there.
        measured: ``data``, ``split``, ``limit``, ``seed``, and the figures.
        report: told if the card was edited by hand, which leaves it as it is.

    Raises:
        OutputError: a file cannot be written.
    """
    run = checkpoint.run
    same = ("data", "split", "limit", "seed")
    others = [one for one in run.get("evaluations", []) if any(one.get(key) != measured[key] for key in same)]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry = {**measured, "benchmark": _benchmark(measured), "date": date, "intraq": __version__}
    _note(folder, checkpoint, {**run, "evaluations": [*others, entry]}, report)


def record_export(folder: Path, checkpoint: Checkpoint, proof: dict[str, Any], report: Report) -> None:
    """Note in ``run.json`` what the proof of the folder's ``model.onnx`` found; render card and report anew.

    Args:
        folder: of the checkpoint.
        checkpoint: as it was read from there.
        proof: the fields of :class:`intraq_cli.results.ExportResult`, but for the path.
        report: told if the card was edited by hand, which leaves it as it is.

    Raises:
        OutputError: a file cannot be written.
    """
    _note(folder, checkpoint, {**checkpoint.run, "export": {**proof, "intraq": __version__}}, report)


def _note(folder: Path, checkpoint: Checkpoint, noted: dict[str, Any], report: Report) -> None:
    """Write another ``run.json`` and its report, and its card where that is ours."""
    run = checkpoint.run
    card = folder / "README.md"
    ours = not card.is_file() or card.read_text(encoding="utf-8") == _card(folder, checkpoint.config, run)
    page = page_of_one(record_of(folder, checkpoint.config, plain(noted)))
    with atomic_file(folder / "run.json", force=True) as scratch:
        write_json(scratch, noted)
    with atomic_file(folder / REPORT, force=True) as scratch:
        scratch.write_text(page, encoding="utf-8")
    if not ours:
        report(Warned(f"{card} is not as intraq {__version__} writes it and was left alone; remove it to have it made"))
        return
    with atomic_file(card, force=True) as scratch:
        scratch.write_text(_card(folder, checkpoint.config, noted), encoding="utf-8")


def _card(folder: Path, config: dict[str, Any], run: dict[str, Any], timm_repo: str | None = None) -> str:
    try:
        return timm_card(config, run, timm_repo) if timm_repo else model_card(config, run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}/run.json lacks what the card needs: {error}", "make it again") from error


def _benchmark(measured: dict[str, Any]) -> dict[str, str] | None:
    on_hub = measured["data"].startswith("hfds:") and measured["limit"] is None
    return benchmark(measured["data"].removeprefix("hfds:"), measured["split"]) if on_hub else None


# --- what push sends ---


def checkpoint_files(folder: Path, repo_id: str, revision: str | None = None) -> dict[str, bytes]:
    """The files of a checkpoint, read and checked, by name; the card tells how to load it from ``repo_id``.

    Raises:
        CheckpointError: it is none, is damaged, or holds what must not be published.
        ModelError: its network cannot be built.
    """
    files, config, run = _read(folder, repo_id)
    if needs_code(str(config.get("architecture"))):
        _check_without_network(folder, config)
    else:
        read_checkpoint(folder)
    card = files["README.md"].decode() if "README.md" in files else _card(folder, config, run)
    files["README.md"] = placed(card_without_paths(card, [config, run]), repo_id, revision).encode()
    public = local_names(run)
    files["config.json"], files["run.json"] = _json(without_paths(config)), _json(public)
    if REPORT in files:  # never as it lies there: of the manifest that is published
        files[REPORT] = page_of_one(record_of(folder, config, public)).encode()
    read_steps(folder)
    if results := benchmark_results(run):
        files[RESULTS] = results.encode()
    _refuse_tokens(folder, files)
    return dict(sorted(files.items()))


def timm_files(folder: Path, repo_id: str) -> dict[str, bytes]:
    """A plain timm repository of the same network: dequantized weights under timm's names, and float activations.

    Raises:
        CheckpointError: it is no checkpoint, or a damaged one.
        ModelError: its architecture is not one of timm's.
    """
    from safetensors.torch import save

    files, config, run = _read(folder, repo_id)
    _check_timm_has(config)
    quantized = read_checkpoint(folder).network
    network = build_architecture(config["architecture"], config["num_classes"], config.get("model_args") or {})
    absent, _ = network.load_state_dict(quantized.state, strict=False)
    tensors = {key: tensor.detach().contiguous().clone() for key, tensor in network.state_dict().items()}
    # how many batches a batch norm has seen does not matter to anybody who runs it
    if quantized.computed or [key for key in absent if not key.endswith(".num_batches_tracked")]:
        raise ModelError(
            f"timm would run other weights of {config['architecture']} than the quantized ones",
            "push it without --timm",
        )
    made = {
        "README.md": _card(folder, config, run, repo_id).encode(),
        "config.json": _timm_config(network, config, run),
        "model.safetensors": save(tensors, {"format": "pt"}),
    }
    if "samples.png" in files:
        made["samples.png"] = files["samples.png"]
    _refuse_tokens(folder, made)
    return made


def left_out(folder: Path) -> list[str]:
    """Names in the folder that are not part of a checkpoint."""
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def _read(folder: Path, repo_id: str) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """Content by name, the config and the manifest; the weights are for :func:`read_checkpoint` to check."""
    hint = "a checkpoint folder is what `intraq quantize` writes"
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", hint)
    files = {}
    for name in FILES:
        path = folder / name
        if not path.is_file():
            if name in OPTIONAL and not path.is_symlink():
                continue
            raise CheckpointError(f"{folder} is no whole checkpoint: {name} is missing", hint)
        if path.resolve().parent != folder.resolve():
            raise CheckpointError(f"{path} is a link out of the folder", "put the file itself there")
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not files.get("samples.png", PNG).startswith(PNG):
        raise CheckpointError(f"{folder}/samples.png is no PNG image", "remove it")
    try:
        files.get("README.md", b"").decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder}/README.md is not UTF-8", "remove it: it will be made again") from error
    config, run = read_json(folder / "config.json", CheckpointError), read_run(folder)
    try:
        base = base_model(config, run)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/run.json does not say what it was made from", "make it again") from error
    if base == repo_id:
        raise CheckpointError(f"{repo_id} is the float model that {folder} was made from", "choose another name")
    return files, config, run


def _check_without_network(folder: Path, config: dict[str, Any]) -> None:
    """Of a checkpoint whose architecture is a Python file: its weights are whole and packed."""
    header = tensor_header(folder / "model.safetensors", CheckpointError)
    packed = [key for key in header if key.endswith("_packed")]
    quantization = config.get("quantization_config")
    modules = quantization.get("modules") if isinstance(quantization, dict) else None
    if not isinstance(modules, dict) or len(packed) != len(modules):
        raise CheckpointError(f"{folder}: model.safetensors does not fit config.json", "make it again")


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _check_timm_has(config: dict[str, Any]) -> None:
    import timm

    architecture = str(config.get("architecture"))
    if architecture in ARCHITECTURES or not timm.is_model(architecture):
        raise ModelError(f"timm has no architecture {architecture}", "push it without --timm")


def _timm_config(network: Any, config: dict[str, Any], run: dict[str, Any]) -> bytes:
    """``config.json`` as timm itself writes it, with what the checkpoint knows of the weights' origin."""
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
        # of timm's own weights for this architecture, which these need not be
        if key not in cfg or run["teacher"].get("weights"):
            made["pretrained_cfg"].pop(key, None)
    return _json(made)


def _refuse_tokens(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith((".json", ".md", ".yaml")) and TOKEN.search(content):
            raise CheckpointError(f"{folder}/{name} holds what looks like a token of the Hub", "take it out first")
