"""The cost of a whole ``quantize`` run, and the accuracy that it loses.

    python -m tests.benchmarks.whole_run resnet20_digits --data digits --w 4 --a 4

Further options are those of ``intraq quantize``. Prints one JSON object: image-steps (images, times the forward and
backward passes they took part in), seconds of each stage, peak memory, and the accuracies if ``--data`` is given.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def command(*args: str) -> dict:
    """The JSON object that an ``intraq`` command prints."""
    made = subprocess.run([sys.executable, "-m", "intraq_cli", *args, "--json"], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        sys.exit(made.returncode)
    return json.loads(made.stdout)


def main() -> None:
    """Quantize and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        made = command("quantize", args.model, "--out", str(out), *options)
        # of the largest child so far, in kilobytes (bytes on macOS)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        recipe = json.loads((out / "run.json").read_text())["recipe"]
        factory = ["--model", args.model] if ".py:" in args.model else []
        found = command("evaluate", str(out), "--data", args.data, *factory) if args.data else {}
    synthesis, tuning = recipe["synthesis"], recipe["tuning"]
    stage1 = 0 if "--images" in options else synthesis["num_images"] * synthesis["steps"]
    report = {
        "model": args.model,
        "bits": [made["w_bits"], made["a_bits"]],
        "image_steps": {"synthesis": stage1, "tuning": tuning["steps"] * tuning["batch_size"]},
        "seconds": made["seconds"],
        "stages": made["stages"],
        "peak_memory_mb": round(memory / 1024),
        "device": made["device"],
        **{key: found[key] for key in ("n", "top1", "float_top1", "agreement") if found},
    }
    if found:
        report["drop"] = found["float_top1"] - found["top1"]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
