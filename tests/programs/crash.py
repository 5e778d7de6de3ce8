"""Kill a short job at random moments, resume it, and compare its result with that of an undisturbed run.

    python -m tests.programs.crash --kills 200 --seed 0

One process imports torch; every run is a fork of it. Prints one JSON object with the counts.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import timm  # noqa: F401 - imported once here, not in every fork
import torch

from intraq_cli import quantize
from intraq_cli.io.atomic import unfinished_folder
from intraq_cli.runtime import resume
from tests.conftest import FACTORY
from tests.fakes.process import renew_thread_pool

SETTINGS = (
    "synthesis.num_images=24",
    "synthesis.batch_size=8",
    "synthesis.steps=30",
    "tuning.steps=50",
    "tuning.batch_size=8",
)


def job(folder: Path, pace: float) -> None:
    resume.PACE = pace
    quantize(
        f"{folder.parent}/nets.py:net",
        out=folder,
        set=SETTINGS,
        device="cpu",
        input_size=(3, 8, 8),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        report=lambda event: None,
    )


def forked(folder: Path, pace: float, seconds: float | None = None) -> bool:
    """Run the job in a child process, killed after ``seconds``; returns whether it finished."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            renew_thread_pool()
            job(folder, pace)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in ([0] if seconds is None else [0, -signal.SIGKILL]):
        raise SystemExit(f"the job failed with exit code {code}")
    return code == 0


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def place(folder: Path) -> str:
    """The stage that a killed job had reached, judged by the files it kept."""
    kept = {path.stem for path in folder.with_name(f"{folder.name}.unfinished").glob("*.pt")}
    if "tuning" in kept:
        return "tuning"
    if "batch-2" in kept:
        return "calibration"
    return "synthesis" if kept else "start or end"


def kill_and_resume(kills: int, seed: int) -> dict[str, object]:
    """Kill and resume the job at random moments until it finishes; start new jobs until there were ``kills`` kills."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    places: Counter[str] = Counter()
    runs = same = left = 0
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "nets.py").write_text(FACTORY)
        started = time.perf_counter()
        forked(Path(root) / "peace", 5.0)
        whole = time.perf_counter() - started
        wanted = digest(Path(root) / "peace")
        known = set(Path(root).iterdir())
        folder = Path(root) / "killed"
        known.add(folder)
        while places.total() < kills:
            pace = draw.choice([0.0, 0.0, 0.02])  # save at every step, or so rarely that steps are lost
            finished = False
            while not finished:
                finished = forked(folder, pace, draw.uniform(0, whole) if draw.random() < 0.7 else None)
                if not finished:
                    places[place(folder)] += 1
                    if folder.exists():  # killed after it finished, before it could clean up
                        finished = True
                        shutil.rmtree(unfinished_folder(folder), ignore_errors=True)
            runs += 1
            same += digest(folder) == wanted
            left += len(set(Path(root).iterdir()) - known)
            shutil.rmtree(folder)
    return {"kills": places.total(), "runs": runs, "identical": same, "left_behind": left, "killed_in": dict(places)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(kill_and_resume(args.kills, args.seed)))


if __name__ == "__main__":
    main()
