"""Networks from timm's registry, with timm's pretrained weights or those of a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from intraq_cli.errors import ModelError
from intraq_cli.models.hub import cached_commit, downloading
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.models.meta_build import check_floats, info_of, untrained
from intraq_cli.models.state_dict import read_state_dict
from intraq_cli.models.teacher import Teacher
from intraq_cli.words import did_you_mean
from intraq_cli.zoo import model_names


def load_timm(model: str, pretrained: bool, weights: Path | None = None) -> Teacher:
    """Load the timm network ``ARCHITECTURE[.TAG]``; the tag determines its input.

    Args:
        model: timm's name.
        pretrained: False: without weights, on the meta device if possible.
        weights: a weights file to use instead of timm's weights.

    Raises:
        ModelError: no such name or tag, no weights, or a file that does not match the network.
    """
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        here = [config.parent.name for config in Path().glob("*/config.json")]
        hint = "give a timm name, a folder, ORG/NAME on the Hub, path/to/file.py:factory, ..."
        close = did_you_mean(model, [*here, *model_names(), *timm.list_models()])
        raise ModelError(f"there is no model or folder {model!r}", close or hint)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        hint = " ".join(filter(None, (did_you_mean(tag, tags), "known: " + (", ".join(tags) or "none"))))
        raise ModelError(f"timm has no weights {tag!r} for {architecture}", hint)
    if weights is not None:
        # the revision in the Hub's cache is that of timm's own weights, not of these
        teacher = timm_teacher(_with_weights(model, weights), model, name=architecture)
        return replace(teacher, weights=str(weights), revision=None)
    if not pretrained:
        network = untrained(lambda: timm.create_model(model, pretrained=False))
        return timm_teacher(network, model, name=architecture)
    if not tags and not timm.models.is_model_pretrained(architecture):
        raise ModelError(
            f"timm has no pretrained weights for {architecture}",
            "add --weights FILE, or give hf-hub:ORG/NAME or a folder",
        )
    with downloading(model):
        network = timm.create_model(model, pretrained=True)
    return timm_teacher(network, model, name=architecture)


def _with_weights(model: str, path: Path) -> nn.Module:
    """Build a timm network with the weights of a file; the file's classifier sets the number of classes."""
    import timm

    network = timm.create_model(model, pretrained=False)
    own = network.state_dict()
    state = read_state_dict(path, own.keys())
    check_floats(network, {key: info_of(tensor) for key, tensor in state.items()}, str(path))
    classifier = network.pretrained_cfg.get("classifier")
    key = f"{classifier}.weight" if isinstance(classifier, str) else None
    if key in own and key in state and state[key].shape[1:] == own[key].shape[1:]:
        network = timm.create_model(model, pretrained=False, num_classes=len(state[key]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise ModelError(f"{path} does not match {model}: {reason}", "give the architecture that it is from") from error
    return network


def timm_teacher(network: nn.Module, source: str, name: str, label_names: list[str] | None = None) -> Teacher:
    """Wrap a network built by timm as a teacher, with the input and the architecture that timm states."""
    from timm.data import resolve_model_data_config
    from timm.models._input import get_model_args

    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    data = resolve_model_data_config(network)
    lists: dict[str, Any] = {key: tuple(data[key]) for key in ("input_size", "mean", "std")}
    spec = InputSpec(**lists, **{key: data[key] for key in ("interpolation", "crop_pct", "crop_mode")})
    hub_id = cfg.get("hf_hub_id")
    keep = ("architecture", "tag", "num_classes", "license", "origin_url", "paper_ids", "hf_hub_id")
    return Teacher(
        network,
        spec,
        source,
        name,
        str(cfg["architecture"]),
        get_model_args(network),
        {k: cfg[k] for k in keep if cfg.get(k) is not None},
        label_names,
        cached_commit(hub_id) if hub_id else None,
    )
