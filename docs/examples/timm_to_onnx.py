"""A network of timm's as an ONNX file that runs on integers, without any data.

python docs/examples/timm_to_onnx.py resnet18.a1_in1k --out resnet18.onnx
python docs/examples/timm_to_onnx.py resnet18 --weights my-training.safetensors --out resnet18.onnx
"""

import argparse
from pathlib import Path

from intraq_cli import export, quantize


def main() -> None:
    """Quantize to 8 bits, all that an integer runtime needs, and export with the proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights")
    parser.add_argument("--out", type=Path, default=Path("model.onnx"))
    parser.add_argument("--recipe", default="instant")
    given = parser.parse_args()
    checkpoint = given.out.with_suffix("")
    made = quantize(
        given.model, w=8, a=8, out=checkpoint, recipe=given.recipe, act_placement="integer", weights=given.weights,
        force=True,
    )  # fmt: skip
    proof = export(made.path, out=given.out, force=True)
    print(f"{proof.path}: {proof.bytes} bytes, {len(proof.layers_integer)} layers on integers")
    print(f"{proof.ms_quantized:.2f} ms an image, float32 {proof.ms_float:.2f} ms")


if __name__ == "__main__":
    main()
