"""Predicted file sizes, compared with actual files."""

import pytest
import torch
from safetensors.torch import save_file

from intraq_cli import inspect, quantize
from intraq_cli.checkpoint.layout import METADATA, file_bytes
from intraq_cli.models.meta_build import DTYPES, info_of
from tests.conftest import SPEC


@pytest.mark.parametrize("count", [1, 3, 40])
def test_predicted_size_of_a_safetensors_file_equals_the_written_size(tmp_path, count):
    shapes = [(), (1,), (3, 5), (2, 0, 7), (1000, 3)]
    tensors = {
        f'layer.{k}.{str(dtype)[6:]}-é"\\': torch.zeros(shapes[(k + j) % len(shapes)], dtype=dtype)
        for k in range(count)
        for j, dtype in enumerate(DTYPES)
    }
    save_file(tensors, tmp_path / "file", METADATA)
    assert file_bytes({name: info_of(tensor) for name, tensor in tensors.items()}) == (tmp_path / "file").stat().st_size


@pytest.mark.parametrize("placement", ["inputs", "activations", "integer"])
def test_inspect_predicts_the_size_of_a_checkpoint_to_the_byte(tmp_path, network, placement):
    bits = {"w": 3, "a": 5, "first_last_bits": 8, "act_placement": placement}
    made = quantize(network, out=tmp_path / "made", recipe="instant", device="cpu", **bits, **SPEC)
    expected = inspect(network, **bits, **SPEC).bytes_quantized
    assert expected == made.bytes_quantized == (tmp_path / "made" / "model.safetensors").stat().st_size
