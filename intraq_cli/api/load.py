"""``load``: the network of a checkpoint; and the float teacher that it was made from."""

from functools import partial

from intraq_cli.api.arguments import Model, Text, verb
from intraq_cli.errors import NO_CHECKPOINT, CheckpointError
from intraq_cli.evaluation.data import picture_transform
from intraq_cli.jobs.targets import find_checkpoint
from intraq_cli.models.source import Source
from intraq_cli.quantization.network import QuantizedNetwork
from intraq_cli.runtime.device import choose_device


@verb
def load(
    target: Text, *, model: Model | None = None, device: Text = "cpu", revision: str | None = None
) -> QuantizedNetwork:
    """The network of a checkpoint folder, or of one on the Hub: the very logits that it had when ``quantize`` ended.

    One of placement ``integer`` computes on integers, code for code what its exported file does in onnxruntime.

    Its ``transform`` turns a PIL image of any mode into what it takes, ``(C, H, W)``, as ``evaluate`` does: upright by
    its EXIF orientation, in the network's channels. ``label_names`` are its classes, if known.

    Args:
        target: a folder, or ``ORG/NAME``.
        model: for a checkpoint made from code, which it does not hold: the ``file.py:factory`` or the module again.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        revision: of a repository on the Hub.

    Raises:
        IntraqError: no such checkpoint, or a damaged one.
    """
    code = None if model is None else Source.parse(model)
    checkpoint = find_checkpoint(target, code, choose_device(device), revision)
    if checkpoint is None:
        raise CheckpointError(f"{target} is no intraq checkpoint", NO_CHECKPOINT)
    network = checkpoint.network
    network.make_transform, network.label_names = partial(picture_transform, checkpoint.spec), checkpoint.label_names
    return network
