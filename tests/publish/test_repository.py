"""The files of a checkpoint that are uploaded, and manifests from which they cannot be made."""

import json
import shutil

import pytest
import yaml

from intraq_cli.checkpoint.read import read_checkpoint
from intraq_cli.errors import CheckpointError
from intraq_cli.publish.repository import checkpoint_files


def test_incomplete_manifest_is_a_one_line_error(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "w4", tmp_path / "w4")
    (tmp_path / "w4/README.md").unlink()
    run = json.loads((tmp_path / "w4/run.json").read_text())
    (tmp_path / "w4/run.json").write_text(json.dumps({**run, "measured": {}}))
    with pytest.raises(CheckpointError, match="lacks what the card needs") as caught:
        checkpoint_files(tmp_path / "w4", "me/w4")
    assert "\n" not in caught.value.message


def test_benchmark_results_are_published_and_damaged_ones_rejected(checkpoints, tmp_path):
    folder = tmp_path / "w4"
    shutil.copytree(checkpoints / "w4", folder)
    run = json.loads((folder / "run.json").read_text())
    figures = {"data": "hfds:org/bench", "split": "test", "n": 10000, "date": "2026-01-01"}
    figures |= {"top1": 79.95, "float_top1": 81.03, "top5": 98.0, "float_top5": 98.5, "agreement": 92.0}
    task = {"id": "org/bench", "task_id": "whole", "revision": "abc"}
    run["evaluations"] = [{**figures, "benchmark": task}, {**figures, "benchmark": None}]
    (folder / "run.json").write_text(json.dumps(run))
    sent = checkpoint_files(folder, "me/w4")
    (result,) = yaml.safe_load(sent[".eval_results/intraq.yaml"])
    assert result["dataset"] == task
    assert (result["value"], result["date"]) == (79.95, "2026-01-01")
    assert "81.03" in result["notes"]
    for damaged in (5, [5], [{**figures, "top1": "high"}], [{**figures, "benchmark": {"id": "org/bench"}}]):
        (folder / "run.json").write_text(json.dumps({**run, "evaluations": damaged}))
        with pytest.raises(CheckpointError, match="is damaged: evaluations"):
            checkpoint_files(folder, "me/w4")
        with pytest.raises(CheckpointError, match="is damaged: evaluations"):
            read_checkpoint(folder)
    own = tmp_path / "own"  # from a Python file, whose network is not built when it is sent
    shutil.copytree(checkpoints / "own", own)
    (own / "run.json").write_text(json.dumps({**json.loads((own / "run.json").read_text()), "evaluations": 5}))
    with pytest.raises(CheckpointError, match="is damaged: evaluations"):
        checkpoint_files(own, "me/own")
