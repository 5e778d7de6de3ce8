import json

import pytest

from intraq_cli.checkpoint.run_manifest import read_run
from intraq_cli.errors import CheckpointError

FIGURES = {"n": 10, "top1": 80, "top5": 99.5, "float_top1": 81.0, "float_top5": 99.0, "agreement": 95.0}
EVALUATION = {**FIGURES, "data": "digits", "date": "2026-01-01", "split": None, "more": [1]}


def test_run_json_is_returned_unchanged_including_unknown_fields(tmp_path):
    assert read_run(tmp_path) == {}
    task = {"id": "org/bench", "task_id": "whole", "revision": "abc"}
    for run in ({}, {"seed": 3, "teacher": {"source": "resnet18", "weights": None}, "evaluations": [EVALUATION]},
                {"evaluations": [{**EVALUATION, "benchmark": task}]}):  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps(run))
        assert read_run(tmp_path) == run


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"teacher": 3}, "is damaged: teacher"),
        ({"teacher": {"source": ["resnet18"]}}, "is damaged: teacher.source"),
        ({"teacher": {"sha256": "x" * 1001}}, "is damaged: teacher.sha256"),
        ({"evaluations": 5}, "is damaged: evaluations"),
        ({"evaluations": [5]}, "is damaged: evaluations.0"),
        ({"evaluations": [{**EVALUATION, "top1": "high"}]}, "is damaged: evaluations.0.top1"),
        ({"evaluations": [{**EVALUATION, "top1": True}]}, "is damaged: evaluations.0.top1"),
        (
            {"evaluations": [EVALUATION, {**EVALUATION, "benchmark": {"id": "x"}}]},
            "is damaged: evaluations.1.benchmark",
        ),
        ({"evaluations": [FIGURES]}, "is damaged: evaluations.0.data"),
    ],
)
def test_error_for_a_damaged_run_json_names_the_field(tmp_path, run, says):
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError) as caught:
        read_run(tmp_path)
    assert says in caught.value.message
