"""``load``: the quantized network of a checkpoint."""

from functools import partial

from intraq_cli.api.arguments import Model, Text, verb
from intraq_cli.errors import NO_CHECKPOINT, CheckpointError
from intraq_cli.evaluation.image_files import picture_transform
from intraq_cli.jobs.targets import find_checkpoint
from intraq_cli.models.source import Source
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.runtime.device import choose_device


@verb
def load(
    target: Text, *, model: Model | None = None, device: Text = "cpu", revision: str | None = None
) -> QuantizedNetwork:
    """Load the network of a checkpoint; its logits are exactly those that it had when ``quantize`` ended.

    A network of placement ``integer`` computes on integers, with the same codes as its exported file in onnxruntime.

    The network's ``transform`` turns a PIL image of any mode into its input ``(C, H, W)``, as ``evaluate`` does: turned
    upright by its EXIF orientation, and in the network's channels. ``label_names`` are the classes, if known.

    Args:
        target: a checkpoint folder, or ``ORG/NAME`` on the Hub.
        model: for a checkpoint made from code, which it does not contain: the ``file.py:factory`` or module again.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        revision: branch, tag or commit of a repository on the Hub.

    Raises:
        IntraqError: there is no such checkpoint, or it is damaged.
    """
    code = None if model is None else Source.parse(model)
    checkpoint = find_checkpoint(target, code, choose_device(device), revision)
    if checkpoint is None:
        raise CheckpointError(f"{target} is not an intraq checkpoint", NO_CHECKPOINT)
    network = checkpoint.network
    network.make_transform, network.label_names = partial(picture_transform, checkpoint.spec), checkpoint.label_names
    return network
