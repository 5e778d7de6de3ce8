"""Several targets on the same images: each figure is that of the target alone, and one teacher answers once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from intraq_cli import evaluate, evaluate_many, quantize
from intraq_cli.errors import IntraqError, UsageError
from intraq_cli.events import Warned
from tests.conftest import SmallNet, trained

INPUT = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}


class CountedNet(SmallNet):
    """Notes how many images each of its runs is of."""

    runs: list[int] = []  # noqa: RUF012 - of all copies

    def forward(self, x):
        self.runs.append(len(x))
        return super().forward(x)


ALL = 6
"""Images."""


@pytest.fixture
def labelled(labelled):
    for folder in Path(labelled).iterdir():
        shutil.copy(folder / "plain.png", folder / "again.png")
    return labelled


@pytest.fixture
def network():
    return trained(CountedNet(classes=3))


@pytest.fixture
def checkpoints(network, tmp_path):
    return [
        quantize(network, w=w, a=w, out=tmp_path / f"w{w}", recipe="instant", device="cpu", **INPUT).path
        for w in (2, 8)
    ]


def timeless(results):
    return [replace(one, seconds=0) for one in results]


def test_each_is_measured_as_if_alone_and_the_teacher_once(checkpoints, network, labelled):
    alone = [evaluate(one, labelled, model=network, device="cpu") for one in checkpoints]
    CountedNet.runs.clear()
    found = evaluate_many(checkpoints, labelled, model=network, device="cpu")
    assert CountedNet.runs.count(ALL) == 1  # batches of other sizes are looks at its form
    assert (timeless(found.results), found.failed) == (timeless(alone), [])


def test_another_batch_for_the_teacher_where_weights_or_input_differ(checkpoints, network, labelled, tmp_path):
    other = trained(CountedNet(classes=3), seed=1)
    otherwise = quantize(network, out=tmp_path / "else", recipe="instant", **{**INPUT, "std": (0.5,) * 3}).path
    given = [network, other, otherwise]
    CountedNet.runs.clear()
    with pytest.raises(UsageError):  # a checkpoint knows its own input
        evaluate(otherwise, labelled, model=network, device="cpu", **INPUT)
    found = evaluate_many(given[:2], labelled, device="cpu", **INPUT)
    assert CountedNet.runs.count(ALL) == 2
    assert [one.agreement for one in found.results] == [100, 100]
    CountedNet.runs.clear()
    found = evaluate_many([*checkpoints[:1], otherwise], labelled, model=network, device="cpu")
    assert CountedNet.runs.count(ALL) == 2
    alone = [evaluate(one, labelled, model=network, device="cpu") for one in (checkpoints[0], otherwise)]
    assert timeless(found.results) == timeless(alone)


def test_one_that_fails_does_not_lose_the_others(checkpoints, network, labelled):
    told = []
    found = evaluate_many(["nowhere", *checkpoints[:1]], labelled, model=network, device="cpu", report=told.append)
    assert [one.target for one in found.results] == checkpoints[:1]
    (failed,) = found.failed
    assert (failed.name, failed.code) == ("nowhere", "model")
    assert [event.message for event in told if isinstance(event, Warned)] == [f"nowhere failed: {failed.message}"]
    with pytest.raises(IntraqError, match="nowhere"):
        evaluate_many(["nowhere", "no.onnx"], labelled)
    with pytest.raises(UsageError, match="no target"):
        evaluate_many([], labelled)
    with pytest.raises(UsageError, match="targets is 'x'"):
        evaluate_many("x", labelled)


def test_a_table_for_people_one_object_for_machines(intraq, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for w in (4, 8):
        assert intraq("quantize", "resnet20_digits", "--w", w, "--recipe", "instant", "--out", f"w{w}", "-q").code == 0
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
    made = intraq("evaluate", "w4", "none", "w8", *few, "--json")
    found = json.loads(made.out)
    assert made.code == 1
    assert [one["target"] for one in found["results"]] == ["w4", "w8"]
    assert [set(one) for one in found["results"]] == [set(one) for one in alone]
    assert [one["name"] for one in found["failed"]] == ["none"]
    made = intraq("evaluate", "none", "nothing", *few, "--json")
    assert (made.code, json.loads(made.out)["error"]["code"]) == (1, "model")
