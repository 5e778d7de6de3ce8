"""Several targets on the same images: results are as for each target alone, and a common teacher runs once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intraq_cli import evaluate, evaluate_many, quantize, quantize_seeds
from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.events import Noted, StageStarted, Warned
from tests.conftest import INPUT, SPEC, SmallNet, Stop, stopping, trained


class CountedNet(SmallNet):
    """Records the number of images in each of its forward passes."""

    runs: list[int] = []  # noqa: RUF012 - shared by all copies

    def forward(self, x):
        if not torch.compiler.is_compiling():  # also true in captures, where len(x) would fix the batch size
            self.runs.append(len(x))
        return super().forward(x)


FIRST, REST = 5, 4
"""Sizes of the two batches; a network whose answers are cached is still run on the first batch."""
AT_ONCE = {"batch_size": FIRST, "device": "cpu"}


@pytest.fixture
def labelled(labelled):
    for folder in Path(labelled).iterdir():
        for name in ("again.png", "more.png"):
            shutil.copy(folder / "plain.png", folder / name)
    return labelled


@pytest.fixture
def network():
    return trained(CountedNet(classes=3))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for w in (2, 8):
        network = trained(CountedNet(classes=3))
        quantize(network, w=w, a=w, out=folder / f"w{w}", recipe="instant", device="cpu", **SPEC)
    return folder


@pytest.fixture
def checkpoints(made, tmp_path):
    return [str(shutil.copytree(made / name, tmp_path / name)) for name in ("w2", "w8")]


def timeless(results):
    return [replace(one, seconds=0) for one in results]


def test_targets_get_the_same_results_as_alone_and_the_teacher_runs_once(checkpoints, network, labelled):
    options = {"model": network, "cache": False, **AT_ONCE}
    alone = [evaluate(one, labelled, **options) for one in checkpoints]
    assert CountedNet.runs.count(REST) == 2
    CountedNet.runs.clear()
    found = evaluate_many(checkpoints, labelled, **options)
    assert CountedNet.runs.count(REST) == 1  # batches of other sizes only inspect the network
    assert (timeless(found.results), found.failed) == (timeless(alone), [])


def test_teacher_runs_again_for_targets_with_other_weights_or_inputs(checkpoints, network, labelled, tmp_path):
    other = trained(CountedNet(classes=3), seed=1)
    otherwise = quantize(network, out=tmp_path / "else", recipe="instant", **{**SPEC, "std": (0.5,) * 3}).path
    given = [network, other, otherwise]
    CountedNet.runs.clear()
    with pytest.raises(UsageError):  # a checkpoint has its own input
        evaluate(otherwise, labelled, model=network, device="cpu", **SPEC)
    found = evaluate_many(given[:2], labelled, cache=False, **AT_ONCE, **SPEC)
    assert CountedNet.runs.count(REST) == 2
    assert [one.agreement for one in found.results] == [100, 100]
    CountedNet.runs.clear()
    options = {"model": network, "cache": False, **AT_ONCE}
    found = evaluate_many([*checkpoints[:1], otherwise], labelled, **options)
    assert CountedNet.runs.count(REST) == 2
    alone = [evaluate(one, labelled, **options) for one in (checkpoints[0], otherwise)]
    assert timeless(found.results) == timeless(alone)


def test_teacher_predictions_are_cached_until_an_image_changes(checkpoints, network, labelled):
    told = []
    options = {"model": network, "report": told.append, **AT_ONCE}
    first = evaluate(checkpoints[0], labelled, **options)
    CountedNet.runs.clear()
    assert timeless([evaluate(checkpoints[0], labelled, **options)]) == timeless([first])
    assert CountedNet.runs.count(REST) == 0
    assert [event.message for event in told if isinstance(event, Noted)] == [
        f"reusing the float model's stored predictions for {REST} images; --no-cache repeats them"
    ]
    evaluate(checkpoints[0], labelled, cache=False, **options)
    assert CountedNet.runs.count(REST) == 1
    image = next(Path(labelled).rglob("more.png"))
    image.write_bytes(image.read_bytes() + b" ")
    evaluate(checkpoints[0], labelled, **options)
    assert CountedNet.runs.count(REST) == 2


def test_failing_target_does_not_lose_the_results_of_the_others(checkpoints, network, labelled):
    told = []
    found = evaluate_many(["nowhere", *checkpoints[:1]], labelled, model=network, device="cpu", report=told.append)
    assert [one.target for one in found.results] == checkpoints[:1]
    (failed,) = found.failed
    assert (failed.name, failed.code) == ("nowhere", "model")
    assert [event.message for event in told if isinstance(event, Warned)] == [f"nowhere failed: {failed.message}"]
    with pytest.raises(IntraqError, match="nowhere"):
        evaluate_many(["nowhere", "no.onnx"], labelled)
    with pytest.raises(UsageError, match="no target is given"):
        evaluate_many([], labelled)
    with pytest.raises(UsageError, match="targets is 'x'"):
        evaluate_many("x", labelled)


@pytest.mark.slow
def test_results_of_several_targets_are_a_table_or_one_json_object(intraq, tmp_path, monkeypatch, small_digits):
    monkeypatch.chdir(tmp_path)
    for w in (4, 8):
        assert intraq("quantize", small_digits, "--w", w, "--recipe", "instant", "--out", f"w{w}", "-q").code == 0
    few = ("--data", "digits", "--limit", "60")
    alone = [json.loads(intraq("evaluate", name, *few, "--json").out) for name in ("w4", "w8")]
    made = intraq("evaluate", "w4", "w8", *few)
    title, header, *rows = made.out.splitlines()
    assert (made.code, title) == (0, "digits, 60 images, in percent, on cpu")
    assert header.split()[:4] == ["target", "top-1", "float", "drop"]
    assert [row.split()[:3] for row in rows] == [
        [one["target"], f"{one['top1']:.2f}", f"{one['float_top1']:.2f}"] for one in alone
    ]
    assert intraq("evaluate", "w4", "w8", *few, "-q").out.splitlines() == [f"{one['top1']:.2f}" for one in alone]
    made = intraq("evaluate", "w4", "none", "w8", *few, "-q")
    assert made.out.splitlines() == [f"{alone[0]['top1']:.2f}", "failed", f"{alone[1]['top1']:.2f}"]
    made = intraq("evaluate", "w4", "none", "w8", *few, "--json")
    found = json.loads(made.out)
    assert made.code == 1
    assert [one["target"] for one in found["results"]] == ["w4", "w8"]
    assert [set(one) for one in found["results"]] == [set(one) for one in alone]
    assert [one["name"] for one in found["failed"]] == ["none"]
    made = intraq("evaluate", "none", "nothing", *few, "--json")
    assert (made.code, json.loads(made.out)["error"]["code"]) == (1, "model")


SEEDS = {"recipe": "instant", "device": "cpu", **SPEC}


def test_each_of_several_seeds_gives_the_same_result_as_alone(network, tmp_path):
    settings = ["synthesis.num_images=8", "synthesis.batch_size=8", "synthesis.steps=2", "tuning.steps=0"]
    given = {"set": settings, **SEEDS}
    made = quantize_seeds(network, seeds=(1, 4), out=tmp_path / "out", **given)
    assert [(run.seed, run.path) for run in made.runs] == [(k, str(tmp_path / f"out-seed{k}")) for k in (1, 4)]
    alone = [quantize(network, seed=k, out=tmp_path / f"alone{k}", **given) for k in (1, 4)]
    for run, one in zip(made.runs, alone, strict=True):
        files = [Path(made.path, "model.safetensors").read_bytes() for made in (run, one)]
        assert files[0] == files[1]
    for name in ("agreement", "kl"):
        low, high = sorted(getattr(one, name) for one in alone)
        assert made.range[name] == (low, high)
        assert made.mean[name] == pytest.approx((low + high) / 2)


def test_failing_seed_does_not_lose_the_results_of_the_others(network, tmp_path):
    (tmp_path / "out-seed1").mkdir()
    made = quantize_seeds(network, out=tmp_path / "out", **SEEDS)
    assert [run.seed for run in made.runs] == [0, 2]
    assert [(one.name, one.code) for one in made.failed] == [("seed 1", "output")]


def test_finished_seeds_are_reused_when_the_job_is_repeated(network, tmp_path):
    settings = ["synthesis.num_images=8", "synthesis.batch_size=8", "synthesis.steps=2", "tuning.steps=0"]
    given = {"set": settings, **SEEDS}
    quantize_seeds(network, seeds=(0,), out=tmp_path / "out", **given)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out-seed0").iterdir()}
    with pytest.raises(Stop):
        quantize_seeds(network, seeds=(0, 1), out=tmp_path / "out", report=stopping("synthesis", 1), **given)
    made = quantize_seeds(network, seeds=(0, 1), out=tmp_path / "out", **given)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "out-seed0").iterdir()}
    alone = quantize_seeds(network, seeds=(0, 1), out=tmp_path / "alone", **given)
    assert (made.failed, made.mean, made.range) == ([], alone.mean, alone.range)
    one, other = (replace(run, path="", seconds=0.0, stages={}) for run in (made.runs[0], alone.runs[0]))
    assert repr(one) == repr(other)  # repr, as some values are NaN
    with pytest.raises(IntraqError, match="exists"):  # from another job
        quantize_seeds(network, w=3, seeds=(0,), out=tmp_path / "out", **given)


@pytest.mark.slow
def test_finished_seeds_are_exported_when_the_repeated_job_asks_for_it(network, tmp_path):
    given = {"seeds": (0,), "out": tmp_path / "out", **SEEDS}
    quantize_seeds(network, **given)
    file, told = tmp_path / "out-seed0/model.onnx", []
    made = quantize_seeds(network, export="onnx", **given).runs[0].export
    assert (made.path, made.bytes) == (str(file), file.stat().st_size)
    again = quantize_seeds(network, export="onnx", report=told.append, **given).runs[0].export
    assert again == made
    assert "export" not in {event.stage for event in told if isinstance(event, StageStarted)}
    file.write_bytes(b"another file")
    assert quantize_seeds(network, export="onnx", **given).runs[0].export.bytes == file.stat().st_size == made.bytes


def test_seeds_without_images_are_compared_by_logits_error(intraq, tmp_path, factory):
    given = ("quantize", f"{factory}:net", *INPUT, "--seeds", "0,1", "--recipe", "instant", "--out", tmp_path / "out")
    given = (*given, "--force")
    found = json.loads(intraq(*given, "--json").out)
    errors = [run["logits_error"] for run in found["runs"]]
    assert found["range"] == {"logits_error": [min(errors), max(errors)]}
    assert found["mean"] == {"logits_error": pytest.approx(sum(errors) / 2)}
    made = intraq(*given)
    assert "nan" not in made.out
    header, *_, last = made.out.splitlines()
    assert header.split() == ["seed", "folder", "logits", "off", "by", "time"]
    assert last == f"logits off by  {sum(errors) / 2:.3f} on average, {min(errors):.3f} to {max(errors):.3f}"


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_missing_repeated_or_negative_seeds_are_usage_errors(network, seeds):
    with pytest.raises(UsageError, match="seeds"):
        quantize_seeds(network, seeds=seeds, **SEEDS)


def test_seeds_option_reports_results_means_and_failures(intraq, tmp_path, monkeypatch, small_digits):
    monkeypatch.chdir(tmp_path)
    few = ("--set", "synthesis.num_images=8", "--set", "synthesis.batch_size=8", "--set", "synthesis.steps=1",
           "--set", "tuning.steps=0")  # fmt: skip
    refused = intraq("quantize", small_digits, "--seeds", "0,1", "--seed", "0", *few)
    assert (refused.code, refused.out) == (2, "")
    (tmp_path / "resnet8_digits-w4a4-seed3").mkdir()
    made = intraq("quantize", small_digits, "--seeds", "2,3", *few, "--json")
    found = json.loads(made.out)
    assert made.code == 1
    assert [run["path"] for run in found["runs"]] == ["resnet8_digits-w4a4-seed2"]
    assert found["mean"]["agreement"] == found["runs"][0]["agreement"]
    assert found["range"]["kl"] == [found["runs"][0]["kl"]] * 2
    assert found["failed"][0]["name"] == "seed 3"
    made = intraq("quantize", small_digits, "--seeds", "2,4", *few, "--force")
    assert made.code == 0
    rows = made.out.split("\n\n")[0].splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [[str(k), f"resnet8_digits-w4a4-seed{k}"] for k in (2, 4)]
    assert "on average" in made.out.splitlines()[-1]
