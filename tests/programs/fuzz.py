"""A mutation fuzzer for untrusted files: checkpoints, configs, model folders, image sets, recipes, image files.

``python -m tests.programs.fuzz --checkpoints 10000 --images 2000 --seed 0`` prints counts;
``test_fuzz.py`` runs a small budget.
A case passes if it succeeds or raises an IntraqError, within five seconds of CPU time (thirty if it inspects), and
touches nothing outside its folder.
"""

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from intraq_cli.errors import IntraqError
from tests.programs.fuzz_cases import run_checkpoint_case, run_image_case, use_seeds
from tests.programs.fuzz_seeds import write_seeds
from tests.programs.fuzz_watch import HangError, time_limit, watched

LIMIT = 5
"""Seconds of CPU time for one case, however busy the machine is."""
MEMORY = 1024
"""MiB above the baseline."""


@dataclass
class Report:
    """The outcomes of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Tracebacks, hangs and forbidden actions, each with its case's number."""
    peak: float = 0.0
    """MiB above the baseline."""
    slowest: float = 0.0

    def line(self, name: str) -> str:
        """The counts as a line of text."""
        counts = ", ".join(f"{key} {count}" for key, count in sorted(self.outcomes.items()))
        return f"{name}: {self.outcomes.total()} cases: {counts}; +{self.peak:.0f} MiB, slowest {self.slowest:.1f} s"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def fuzz(
    make: Callable[[Path, Path, random.Random], Callable[[], str]], count: int, seed: int, seeds: Path, first: int = 0
) -> Report:
    """Run ``count`` cases of one kind; case ``k`` depends on ``seed`` and ``k`` alone."""
    found = Report()
    baseline = _peak()
    for k in range(first, first + count):
        case = seeds.parent / "case"
        use = make(seeds, case, random.Random(f"{seed} {k}"))
        started = time.monotonic()
        outcome = _run(use, case, found, k)
        found.slowest = max(found.slowest, time.monotonic() - started)
        found.outcomes[outcome] += 1
        if _peak() - baseline > MEMORY and found.peak <= MEMORY:
            found.failures.append(f"case {k}: more than {MEMORY} MiB")
        found.peak = _peak() - baseline
        shutil.rmtree(case)
    return found


def _run(use: Callable[[], str], case: Path, found: Report, k: int) -> str:
    with warnings.catch_warnings(), watched(case) as seen:
        warnings.simplefilter("ignore")
        try:
            with time_limit(LIMIT):
                outcome = use()
        except IntraqError as error:
            outcome = f"refused ({error.code})"
            if "\n" in error.message + error.hint or not error.message.isprintable():
                outcome = "not one line"
                found.failures.append(f"case {k}: {error.message!r}")
        except HangError:
            outcome = "hang"
            found.failures.append(f"case {k}: longer than {LIMIT} s\n{traceback.format_exc()}")
        except Exception:
            outcome = "traceback"
            found.failures.append(f"case {k}: {traceback.format_exc()}")
        if seen:
            found.outcomes["outside"] += 1
            found.failures.append(f"case {k}: outside its folder: {seen}")
    return outcome


def main() -> None:
    """Run as many cases as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        seeds = Path(scratch) / "seeds"
        seeds.mkdir()
        write_seeds(seeds)
        use_seeds(seeds)
        for name, make, count in (
            ("checkpoints", run_checkpoint_case, args.checkpoints),
            ("images", run_image_case, args.images),
        ):
            found = fuzz(make, count, args.seed, seeds, args.first)
            print(found.line(name), flush=True)
            for failure in found.failures[:20]:
                print(failure, file=sys.stderr)
            failed = failed or bool(found.failures)
    raise SystemExit(failed)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
