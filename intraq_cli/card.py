"""The model card: ``README.md`` of a checkpoint, ready for the Hub."""

from typing import Any

BITS_TODAY = """\
The weights are stored at this width. Common GPUs and CPUs have no arithmetic for such codes in convolutions today: the
network runs on floats that hold exactly the quantized values, so that its accuracy is real and its speed is the float
model's."""


WITH_IMAGES = """\
[IntraQ](https://arxiv.org/abs/2111.09136) learned the images below from the network itself, and the quantized network
was tuned on them.

![synthetic images](samples.png)"""

WITHOUT_IMAGES = "Its ranges, its rounding and its corrections come from the network's own batch-norm statistics alone."


def model_card(config: dict[str, Any], run: dict[str, Any]) -> str:
    """Markdown with the Hub's metadata; ``config`` and ``run`` are the checkpoint's config and manifest."""
    quantization = config["quantization_config"]
    w_bits, a_bits = quantization["weights"]["bits"], quantization["activations"]["bits"]
    teacher = run["teacher"]
    placement = quantization["activations"]["placement"]
    licence = config["pretrained_cfg"].get("license")
    base = config["pretrained_cfg"].get("hf_hub_id") or teacher["source"].removeprefix("hf-hub:").partition("@")[0]
    on_hub = "hf_hub_id" in config["pretrained_cfg"] or teacher["source"].startswith("hf-hub:")
    front = [
        "---",
        *([f"base_model: {base}", "base_model_relation: quantized"] if on_hub else []),
        "library_name: intraq",
        "pipeline_tag: image-classification",
        *([f"license: {licence}"] if licence else ["license: other", "license_name: unknown"]),
        "tags:",
        *(f"- {tag}" for tag in ("intraq", "quantized", "zero-shot-quantization", "data-free", f"w{w_bits}a{a_bits}")),
        "---",
    ]
    where = {
        "inputs": "what enters every convolution and linear layer; the image itself at 8 bits",
        "activations": "what leaves every ReLU-like activation (the placement of the IntraQ paper)",
    }[placement]
    other = sorted({bits for bits in quantization["modules"].values() if bits != w_bits})
    ends = f", the first and the last at {other[0]}" if other else ", the first and the last included"
    measured = run["measured"]
    licensed = f"of the base model: {licence}" if licence else "unknown: the base model states none"
    how = WITH_IMAGES if "agreement" in measured else WITHOUT_IMAGES
    agreement = (
        f"| agreement | {measured['agreement']:.2f} % of first choices equal the float model's, on "
        f"{measured['held_out']} synthetic images held out from tuning |\n"
        if "agreement" in measured
        else ""
    )
    factory = ", model='file.py:factory'" if run["needs_factory"] else ""
    cfg = config["pretrained_cfg"]
    return f"""{chr(10).join(front)}

# {run["name"]}, W{w_bits}A{a_bits}

`{teacher["source"]}`, quantized to {w_bits}-bit weights and {a_bits}-bit activations with **no training data**:
{how}

| | |
| --- | --- |
| weights | {w_bits} bits, per output channel, asymmetric, in {len(quantization["modules"])} layers{ends} |
| activations | {a_bits} bits, per tensor, asymmetric: {where} |
| float | batch norm, biases, sums of residual branches |
| size | {measured["bytes_quantized"]:,} bytes; float {measured["bytes_float"]:,} |
{agreement}| licence | {licensed} |

Accuracy on real images has not been measured by this run: that needs labelled images, and `quantize` uses none.

## Use

```python
from intraq_cli import load

network = load("PATH OF THIS FOLDER"{factory})
logits = network(images)  # (B, {", ".join(map(str, cfg["input_size"]))}), normalised
```

Normalise pixels in [0, 1] with mean {_numbers(cfg["mean"])} and standard deviation {_numbers(cfg["std"])}.

## What this width means

{BITS_TODAY}

## Made by

```sh
{run["command"]}
```

with recipe `{run["recipe"]["name"]}`, seed {run["seed"]}, intraq {run["versions"]["intraq"]}. Every setting is in
`run.json`.
"""


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
