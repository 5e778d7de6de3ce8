"""A short run of the fuzzer, and checks that it detects failures."""

import time

import pytest

from tests.programs import fuzz


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    folder.mkdir()
    fuzz.write_seeds(folder)
    return folder


@pytest.mark.parametrize(("kind", "count"), [("checkpoint", 25), ("image", 100)])
def test_mutated_files_load_or_fail_with_a_one_line_error(seeds, monkeypatch, kind, count):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make = {"checkpoint": fuzz.run_checkpoint_case, "image": fuzz.run_image_case}[kind]
    found = fuzz.fuzz(make, count, 1, seeds)
    assert not found.failures, "\n".join(found.failures)
    assert found.outcomes.total() == count
    assert found.outcomes["accepted"] < count
    assert found.peak < fuzz.MEMORY


def test_unmutated_seeds_load_without_errors(seeds):
    fuzz.use_seeds(seeds)


def outside(case):
    (case.parent / "outside").write_text("x")


def hang(case):
    while True:
        pass


def wait(case):
    time.sleep(60)


def trace(case):
    raise KeyError("x")


def program(case):
    import subprocess

    subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    ("deed", "outcome"),
    [
        (outside, "outside"),
        (hang, "hang"),
        pytest.param(wait, "hang", marks=pytest.mark.slow),
        (trace, "traceback"),
        (program, "outside"),
    ],
)
def test_fuzzer_detects_hangs_tracebacks_and_actions_outside_the_folder(tmp_path, monkeypatch, deed, outcome):
    monkeypatch.setattr(fuzz, "LIMIT", 1)

    def make(seeds, case, rng):
        case.mkdir()
        return lambda: deed(case) or "accepted"

    found = fuzz.fuzz(make, 1, 0, tmp_path / "seeds")
    assert found.outcomes[outcome] == 1
    assert len(found.failures) == 1


def test_fuzzer_detects_excessive_memory(tmp_path, monkeypatch):
    peaks = iter([100.0, 100.0 + fuzz.MEMORY + 1, 100.0 + fuzz.MEMORY + 1])
    monkeypatch.setattr(fuzz, "_peak", lambda: next(peaks))

    def make(seeds, case, rng):
        case.mkdir()
        return lambda: "accepted"

    assert "MiB" in fuzz.fuzz(make, 1, 0, tmp_path / "seeds").failures[0]
