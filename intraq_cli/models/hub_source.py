"""Models in repositories on the Hugging Face Hub: float models in timm's format, and intraq's checkpoints."""

from dataclasses import replace
from pathlib import Path

from intraq_cli.errors import ModelError
from intraq_cli.io.untrusted import read_json
from intraq_cli.models.folder import read_float_config, teacher_of_config
from intraq_cli.models.hub import cached_commit, downloading, hub_file, split_revision
from intraq_cli.models.nets import ARCHITECTURES
from intraq_cli.models.teacher import Teacher


def load_hub(repository: str, pretrained: bool) -> Teacher:
    """Load the network of ``ORG/NAME[@REVISION]``; without weights, on the meta device if possible.

    Raises:
        ModelError: the repository cannot be downloaded, or does not hold a float model.
    """
    with downloading(repository):
        folder = Path(hub_file(repository, "config.json")).parent
        config = read_float_config(folder, repository)
        if pretrained:
            hub_file(repository, "model.safetensors")
    repo_id, _ = split_revision(repository)
    name, own = repo_id.rpartition("/")[2], config.architecture in ARCHITECTURES
    teacher = teacher_of_config(
        config, folder, f"hf-hub:{repository}", name if own else name.partition(".")[0], pretrained
    )
    cfg = teacher.pretrained_cfg if own else {**teacher.pretrained_cfg, "hf_hub_id": repo_id}
    return replace(teacher, revision=cached_commit(repository), pretrained_cfg=cfg)


def fetch_checkpoint(repository: str) -> Path | None:
    """Return the local folder of the quantized checkpoint ``ORG/NAME[@REVISION]``; None if it is a float model.

    Raises:
        ModelError: the repository cannot be downloaded.
    """
    with downloading(repository):
        folder = Path(hub_file(repository, "config.json")).parent
        if "quantization_config" not in read_json(folder / "config.json", ModelError):
            return None
        # from the same commit as the configuration: a branch may move on meanwhile
        for filename in ("model.safetensors", "run.json"):
            hub_file(f"{split_revision(repository)[0]}@{folder.name}", filename)
    return folder
