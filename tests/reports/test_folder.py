"""What a report reads from a checkpoint folder: wrong types, impossible figures, damaged metrics, large images."""

import io
import json

import pytest
from PIL import Image

from intraq_cli.errors import CheckpointError
from intraq_cli.models.input_spec import InputSpec
from intraq_cli.publish.recording import check_record
from intraq_cli.reports.folder import read_record
from intraq_cli.reports.page import html_page
from intraq_cli.synthesis.rendering import write_sheet
from tests.reports.runs import folder_of, images_of, run_of


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ranges", [{"site": "a"}]),
        ("ranges", "many"),
        ("samples", [{"label": "cat", "confidence": 1.0, "first": 1}]),
        ("frontier", [{"bytes": "small", "divergence": 1.0}]),
        ("sensitivity", {"conv": 1}),
        ("measured", {"bytes_float": 1}),
        ("inspection", {"layers": [1]}),
        ("losses", {"tuning": 3}),
        ("command", 7),
    ],
)
def test_manifest_with_wrong_types_is_rejected_without_a_traceback(tmp_path, intraq, key, value):
    bad = folder_of(tmp_path / "bad", **{key: value})
    ran = intraq("report", bad)
    assert ran.code == 1
    assert f"{key}" in ran.err
    assert "Traceback" not in ran.err
    with pytest.raises(CheckpointError):  # raised before hours of measuring
        check_record(bad)


@pytest.mark.parametrize("value", [10**400, 10**60, -(10**60), -1, 0])
@pytest.mark.parametrize("key", ["bytes_float", "bytes_quantized", "held_out"])
def test_impossible_counts_cause_no_traceback(tmp_path, intraq, key, value):
    bad = folder_of(tmp_path / "bad", measured={**run_of()["measured"], key: value})
    for verb in ("report", "inspect"):
        ran = intraq(verb, bad)
        assert (ran.code, "Traceback" in ran.err) == (1 if verb == "inspect" or value else 0, False)
        assert len(ran.err.splitlines()) <= 2


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 1e-310, 1e98, 0.0])
def test_extreme_figures_are_shown_or_rejected(tmp_path, value):
    """Figures beyond all that can be measured are rejected; all others have a place on every axis."""
    run = run_of()
    for key, more in {
        "frontier": [{**point, "divergence": value} for point in run["frontier"]],
        "sensitivity": [{**run["sensitivity"][0], "weights": {"2": value, "4": value}}],
        "ranges": [{**run["ranges"][0], "low": value, "high": value, "grid_low": value, "grid_high": value}],
        "measured": {**run["measured"], "kl": value, "agreement": value, "sqnr": {"a": value, "b": 1.0}},
        "export": {**run["export"], "ms_float": value, "ms_quantized": value},
        "losses": {"tuning": {"total": value}},
    }.items():
        folder = folder_of(tmp_path / key, **{key: more})
        line = {"stage": "tuning", "step": 1, "images": 1, "seconds": 0.1, "total": value}
        if abs(value) <= 1e98:
            (folder / "metrics.jsonl").write_text("".join(json.dumps({**line, "step": k}) + "\n" for k in (1, 11)))
            record = read_record(folder)
            assert "</html>" in html_page(record)
            assert "</html>" in html_page(record, record)
            continue
        with pytest.raises(CheckpointError, match=key):
            read_record(folder)
        (folder / "run.json").write_text(json.dumps(run))
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
            read_record(folder)


@pytest.mark.parametrize(
    "line",
    [
        '{"stage": "tuning", "step": 1%s, "images": 1, "seconds": 1}' % ("0" * 400),
        "{",
        "[]",
        '{"stage": "tuning"}',
        '{"stage": "other", "step": 1, "images": 1, "seconds": 1}',
        '{"stage": "tuning", "step": 1, "images": 1, "seconds": 1, "kl": "/home/me/x"}',
        '{"stage": "tuning", "step": 1, "images": 1, "seconds": 1, "kl": NaN}',
    ],
)
def test_damaged_metrics_are_rejected(folder, intraq, line):
    (folder / "metrics.jsonl").write_text(f"{line}\n")
    ran = intraq("report", folder)
    assert ran.code == 1
    assert "metrics.jsonl is damaged" in ran.err


def test_metrics_that_link_out_of_the_folder_are_not_read(folder, tmp_path, intraq):
    (folder / "metrics.jsonl").rename(tmp_path / "elsewhere")
    (folder / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    assert "points outside its folder" in intraq("report", folder).err


def test_large_images_become_thumbnails(tmp_path):
    spec = InputSpec((3, 160, 160), (0.5,) * 3, (0.25,) * 3)
    large = folder_of(tmp_path / "large")
    config = json.loads((large / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 160, 160]
    (large / "config.json").write_text(json.dumps(config))
    write_sheet(large / "samples.png", images_of(30, spec), spec, None)
    pictures = [Image.open(io.BytesIO(content)) for content in read_record(large).thumbnails]
    assert [(one.format, one.size) for one in pictures] == [("JPEG", (112, 112))] * 24
    small = [Image.open(io.BytesIO(content)) for content in read_record(folder_of(tmp_path / "small")).thumbnails]
    assert [(one.format, one.size) for one in small] == [("PNG", (8, 8))] * 8
