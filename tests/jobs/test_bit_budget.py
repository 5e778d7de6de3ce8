"""``quantize`` under a budget."""

import json

import pytest
import torch

from intraq_cli import inspect, load, quantize, sensitivity, synthesize
from intraq_cli.app import main
from intraq_cli.errors import BudgetError, DataError, IntraqError, UsageError
from intraq_cli.events import StageStarted, StepDone
from intraq_cli.graph.layers import quantizable
from intraq_cli.jobs.asked_bits import asked_bits
from intraq_cli.jobs.bit_budget import BitChoice
from intraq_cli.models.source import Source
from intraq_cli.quantization import sensitivity as measuring
from intraq_cli.quantization.budget import Budget
from intraq_cli.quantization.inspection import mean_bits
from intraq_cli.results import LayerSensitivity
from tests.conftest import SPEC, SmallNet, Stop, graph_of, stopping, trained

GIVEN = {**SPEC, "device": "cpu"}
QUICK = ("synthesis.steps=2", "synthesis.batch_size=8")
ALL = (2, 3, 4, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def wide():
    return trained(SmallNet(24, 6))


@pytest.fixture(scope="module")
def measured(wide, tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "sensitivity.json"
    sensitivity(wide, widths=ALL, n=8, set=QUICK, out=path, **GIVEN)
    return path


def budgeted(network, measured, out, **given):
    return quantize(network, **{"recipe": "instant", "sensitivity": measured, "out": out, **given, **GIVEN})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_checkpoint_is_at_most_the_target_size_and_hardly_smaller(wide, measured, tmp_path, share):
    low, high = (
        inspect(wide, w=w, a=8, **{k: v for k, v in GIVEN.items() if k != "device"}).bytes_quantized for w in (2, 8)
    )
    limit = round(low + share * (high - low))
    made = budgeted(wide, measured, tmp_path / "made", target_size=limit)
    size = (tmp_path / "made" / "model.safetensors").stat().st_size
    assert 0.97 * limit < size <= limit
    assert made.bytes_quantized == size == next(point.bytes for point in made.frontier if point.chosen)
    assert load(tmp_path / "made", model=wide) is not None


def test_size_budget_between_narrowest_and_widest_choice_is_nearly_used_up():
    network = Source.parse("resnet20_digits").load().network
    graph, draws = graph_of(network, (1, 16, 16)), torch.Generator().manual_seed(0)
    found = [
        LayerSensitivity(
            layer.name, layer.kind, {b: (float(torch.rand((), generator=draws)) + 0.5) * 4.0**-b for b in ALL}, {8: 0.0}
        )
        for layer in quantizable(graph)
    ]
    for limit in (142_465, 149_187, 155_909, 165_992, 216_407):  # possible are 98,772 to 300,432
        choice = BitChoice(graph, "inputs", asked_bits(ALL, 8, Budget("bytes", limit, "")))
        (made,) = (point for point in choice.chosen(found).frontier if point.chosen)
        assert 0.97 * limit < made.bytes <= limit


def test_divergence_falls_with_size_along_the_frontier(wide, measured, tmp_path):
    made = budgeted(wide, measured, tmp_path / "made", avg_bits=4.0, dry_run=True)
    assert not (tmp_path / "made").exists()
    assert len(made.frontier) == 5
    assert [point.chosen for point in made.frontier].count(True) == 1
    pairs = list(zip(made.frontier, made.frontier[1:], strict=False))
    assert all(a.bytes < b.bytes and a.divergence >= b.divergence for a, b in pairs)
    assert 3.5 < made.avg_bits <= 4.0


def test_budget_of_bit_operations_also_chooses_activation_bits(wide, measured, tmp_path):
    limit = 0.3 * inspect(wide, w=8, a=8, **SPEC).bit_operations
    made = budgeted(wide, measured, tmp_path / "made", bops=limit)
    found = inspect(str(tmp_path / "made"))
    assert found.bit_operations <= limit
    assert found.bit_operations == next(point.bit_operations for point in made.frontier if point.chosen)
    assert made.avg_bits == mean_bits(found.layers)
    assert len({layer.a_bits for layer in found.layers}) > 1


def test_bit_rules_and_first_last_bits_are_kept_under_a_budget(wide, measured, tmp_path):
    rules = tmp_path / "bits.toml"
    rules.write_text('[weights]\n"conv2" = 7\n')
    budgeted(wide, measured, tmp_path / "made", avg_bits=6.5, first_last_bits=8, bits=rules)
    bits = {layer.name: layer.w_bits for layer in inspect(str(tmp_path / "made")).layers}
    assert (bits["conv1"], bits["conv2"], bits["fc"]) == (8, 7, 8)


def test_sensitivities_are_measured_if_no_file_is_given(wide, tmp_path):
    made = quantize(wide, avg_bits=3.0, w=(2, 4), recipe="instant", set=QUICK, out=tmp_path / "made", **GIVEN)
    assert set(made.stages) == {"synthesis", "sensitivity", "calibration"}
    run = json.loads((tmp_path / "made" / "run.json").read_text())
    assert [set(one["weights"]) for one in run["sensitivity"]] == [{"2", "4"}] * 4
    assert {layer.w_bits for layer in inspect(str(tmp_path / "made")).layers} == {2, 4}


def test_resumed_run_reuses_sensitivities_and_reports_times_of_all_stages(wide, tmp_path):
    given = {"avg_bits": 3.0, "w": (2, 4), "recipe": "instant", "set": QUICK, "out": tmp_path / "made", **GIVEN}

    def stop(event):
        if isinstance(event, StageStarted) and event.stage == "calibration":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(wide, report=stop, **given)
    told = []
    made = quantize(wide, report=told.append, **given)
    assert not [event for event in told if isinstance(event, StepDone) and event.stage == "sensitivity"]
    assert list(made.stages) == ["synthesis", "sensitivity", "calibration"]
    assert made.stages["sensitivity"] > 0.05


@pytest.fixture(scope="module")
def on_images(wide, tmp_path_factory):
    """Arguments of measurements on the images of a file, so that they differ in nothing else."""
    path = tmp_path_factory.mktemp("budget") / "images.safetensors"
    synthesize(wide, n=8, set=QUICK, out=path, **GIVEN)
    return {"widths": (2, 4, 8), "images": path, **GIVEN}


@pytest.fixture(scope="module")
def uninterrupted(wide, on_images):
    return sensitivity(wide, **on_images)


@pytest.mark.parametrize("last", [3, 15, 30])
def test_interrupted_measurement_continues_where_it_stopped(
    wide, on_images, uninterrupted, tmp_path, monkeypatch, saved_at_every_step, last
):
    """``last`` is a step of the single layers' weights, of their inputs, and of all but one layer."""
    given = {**on_images, "out": tmp_path / "s.json"}
    with pytest.raises(Stop):
        sensitivity(wide, report=stopping("sensitivity", last), **given)
    real, count = measuring.divergence, 0

    def counted(*logits):
        nonlocal count
        count += 1
        return real(*logits)

    monkeypatch.setattr(measuring, "divergence", counted)
    again = sensitivity(wide, **given)
    assert (again.layers, again.everything) == (uninterrupted.layers, uninterrupted.everything)
    in_all = 3 * 4 * 3 + len(uninterrupted.everything)
    assert count <= in_all - (last - 1)
    assert not (tmp_path / "s.json.unfinished").exists()


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"target_size": 500}, BudgetError, "cannot be met"),
        ({"bops": 1e4}, BudgetError, "cannot be met"),
        ({"avg_bits": 2.5, "first_last_bits": 8, "w": (4, 8)}, BudgetError, "cannot be met"),
        ({"target_size": "1MB", "avg_bits": 3.0}, UsageError, "one budget"),
        ({"target_size": "1MB", "a": (4, 8)}, UsageError, "only a budget in bit operations limits activations"),
        ({"w": (2, 4), "sensitivity": None}, UsageError, "budget"),
        ({}, UsageError, "sensitivity"),
        ({"avg_bits": 3.0, "act_placement": "activations"}, DataError, "placement"),
    ],
)
def test_impossible_or_contradictory_budgets_are_refused_before_any_work(wide, measured, tmp_path, given, error, says):
    with pytest.raises(error, match=says):
        budgeted(wide, measured, tmp_path / "made", **given)
    assert not list(tmp_path.iterdir())


def test_sensitivities_of_other_weights_or_too_few_widths_are_refused(wide, measured, tmp_path):
    other = trained(SmallNet(24, 6), seed=1)
    with pytest.raises(DataError, match="other weights"):
        budgeted(other, measured, tmp_path / "made", avg_bits=3.0)
    few = json.loads(measured.read_text())
    few["widths"] = [2, 8]
    (tmp_path / "few.json").write_text(json.dumps(few))
    with pytest.raises(DataError, match="the sensitivity file lacks widths 4"):
        budgeted(wide, tmp_path / "few.json", tmp_path / "made", avg_bits=3.0, w=(2, 4))
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(IntraqError, match="is not a sensitivity file"):
        budgeted(wide, tmp_path / "none.json", tmp_path / "made", avg_bits=3.0)


def test_dry_run_prints_the_frontier_and_accepts_a_range_of_widths(capsys, tmp_path, monkeypatch, small_digits):
    monkeypatch.chdir(tmp_path)
    few = ["--set", "synthesis.steps=1", "--set", "synthesis.batch_size=8"]
    command = ["quantize", small_digits, "--target-size", "38kB", "--w", "2-3", "--recipe", "instant", *few]
    assert main([*command, "--dry-run"]) == 0
    first, _, head, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith(f"would write {small_digits} at 2.")
    assert "resnet8_digits-38kB-a8" in first
    assert head.split()[0] == "size"
    assert len([row for row in rows if row.startswith("*")]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--bits", "fc.toml"), "mostly W4A4"),
        (("--first-last-bits", "8"), "mostly W4A4"),
        ((), "W4A4"),
        (("--avg-bits", "4", "--w", "4"), "4.00 bits per weight, W4A8, 0.02 G bit operations per image"),
    ],
)
def test_dry_run_says_whether_layers_differ_in_bits(capsys, tmp_path, monkeypatch, small_digits, more, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fc.toml").write_text("[weights]\nfc = 8\n")
    few = ("--set", "synthesis.steps=1", "--recipe", "instant")
    assert main(["quantize", small_digits, *more, *few, "--dry-run"]) == 0
    assert f" at {expected} (instant, " in capsys.readouterr().out


@pytest.mark.parametrize("bits", ["x", "2-", "1-4", "4-2", "", "2,,4"])
def test_invalid_widths_are_a_usage_error(capsys, bits):
    assert main(["quantize", "resnet20_digits", "--avg-bits", "3", "--w", bits, "--dry-run"]) == 2
    assert "--w" in capsys.readouterr().err
