import json

import pytest

from intraq_cli import compare
from intraq_cli.errors import UsageError
from intraq_cli.reports.comparison import table_of
from intraq_cli.reports.folder import read_record
from intraq_cli.reports.page import html_page
from tests.reports.runs import EVALUATION, folder_of, run_of

SQNR = {"bn1": 30.0, "layer.bn1": 21.0, "other": 9.0}


@pytest.fixture
def pair(tmp_path):
    """A W4A4 checkpoint, and a W8A8 one of the same float weights that was measured on more data."""
    measured = {**run_of()["measured"], "bytes_quantized": 300_000, "kl": 0.0002, "sqnr": SQNR}
    inspection = {**run_of()["inspection"], "w_bits": 8, "a_bits": 8}
    more = [{**EVALUATION, "top1": 99.25}, {**EVALUATION, "data": "cifar10", "limit": 100, "seed": 3, "n": 100}]
    a = folder_of(tmp_path / "a")
    b = folder_of(tmp_path / "b", measured=measured, inspection=inspection, evaluations=more, export=None)
    return a, b


def test_comparison_lists_the_figures_of_all_checkpoints(pair):
    found = compare(pair)
    assert [(one.name, one.w_bits, one.bytes_quantized, one.kl, one.agreement) for one in found.checkpoints] == [
        ("a", 4, 160_000, 0.0125, 96.9),
        ("b", 8, 300_000, 0.0002, 96.9),
    ]
    assert found.same_model
    assert [(row.name, row.values, row.spread) for row in found.noise] == [
        ("bn1", [26.0, 30.0], 4.0),
        ("layer.bn1", [20.5, 21.0], 0.5),  # batch norms that only one of them has are not compared
    ]
    names, rows = table_of(found)
    table = {row[0]: row[1:] for row in rows}
    assert names == ["a", "b"]
    assert table["bits"] == ["W4A4", "W8A8"]
    assert table["size"] == ["160.0 kB", "300.0 kB"]
    assert table["divergence, nats"] == ["0.0125", "0.0002"]
    assert table["top-1 on digits (600 images), %"] == ["98.50", "99.25"]
    assert table["top-1 on cifar10 (100 images, seed 3), %"] == ["-", "98.50"]
    assert table["export, ms a batch"] == ["1.000", "-"]


def test_compare_command_prints_a_table_or_one_json_object(pair, intraq):
    ran = intraq("compare", *pair)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["a", "b"]
    assert len({len(line) for line in lines[: lines.index("")]}) == 1  # columns are aligned
    noise = lines[lines.index("signal to noise in dB, where it differs most") :]
    assert [line.split() for line in noise[2:]] == [
        ["bn1", "26.0", "30.0", "4.0"],
        ["layer.bn1", "20.5", "21.0", "0.5"],
    ]
    made = json.loads(intraq("compare", *pair, "--json").out)
    assert set(made) == {"checkpoints", "same_model", "noise"}
    assert made["checkpoints"][1]["evaluations"][1]["seed"] == 3


def test_folders_of_the_same_name_are_numbered_and_other_weights_reported(tmp_path, intraq):
    (tmp_path / "x").mkdir()
    a = folder_of(tmp_path / "net")
    b = folder_of(tmp_path / "x" / "net", teacher={"source": "net", "sha256": "cd" * 32})
    found = compare([a, b])
    assert [one.name for one in found.checkpoints] == ["net", "net (2)"]
    assert not found.same_model
    assert "the float weights differ, so agreement and divergence are not comparable" in intraq("compare", a, b).err
    assert "the float weights differ, so agreement and divergence are not comparable" in html_page(
        read_record(a), read_record(b)
    )


def test_comparison_page_ranks_by_what_all_were_measured_on(pair, tmp_path):
    text = html_page(*(read_record(folder) for folder in pair))
    assert "The smallest is a with 160.0 kB; the best top-1 on digits (600 images) is that of b, 99.25 %." in text
    assert "Size against accuracy" in text
    unmeasured = folder_of(tmp_path / "c", evaluations=[])
    text = html_page(*(read_record(folder) for folder in (*pair, unmeasured)))
    assert "the closest to its float network is b, at a divergence of 0.0002 nats." in text
    assert "Size against divergence" in text


def _page_of(tmp_path, **by_folder):
    """The comparison page of folders with the given measurements."""
    folders = []
    tmp_path.mkdir(exist_ok=True)
    for name, measured in by_folder.items():
        evaluations = [{**EVALUATION, "top1": measured.pop("top1")}] if "top1" in measured else []
        measured = {**run_of()["measured"], **measured}
        folders.append(folder_of(tmp_path / name, measured=measured, evaluations=evaluations, export=None))
    return html_page(*(read_record(folder) for folder in folders))


def test_comparison_page_names_ties(tmp_path):
    size, other = {"bytes_quantized": 160_000}, {"bytes_quantized": 300_000}
    text = _page_of(tmp_path / "1", a={**size, "kl": 0.1}, b={**size, "kl": 0.2}, c={**other, "kl": 0.1})
    assert "The smallest are a and b with 160.0 kB; the closest to their float networks are a and c, at" in text
    text = _page_of(tmp_path / "2", a={**size, "top1": 98.0}, b={**size, "top1": 98.0})
    assert "All have the same size, 160.0 kB; a and b have the same top-1 on digits (600 images), 98.00 %." in text
    text = _page_of(tmp_path / "3", a={**size, "kl": 0.1}, b={**size, "kl": 0.1})
    assert "a and b are equally close to their float networks, at a divergence of 0.1 nats." in text


def test_comparison_page_does_not_rank_a_single_figure(tmp_path):
    text = _page_of(tmp_path, a={"bytes_quantized": 160_000, "kl": 0.1}, b={"bytes_quantized": 300_000, "kl": None})
    assert "The smallest is a with 160.0 kB." in text
    assert "closest" not in text


def test_quiet_compare_omits_the_next_command(pair, intraq):
    assert "next:" in intraq("compare", *pair).err
    quiet = intraq("compare", *pair, "-q")
    assert (quiet.out, quiet.err) == (intraq("compare", *pair).out, "")


def test_compare_requires_at_least_two_checkpoints(pair, tmp_path, intraq):
    with pytest.raises(UsageError, match="only one checkpoint is given"):
        compare([pair[0]])
    ran = intraq("compare", pair[0], tmp_path)
    assert (ran.code, "is not a checkpoint" in ran.err) == (1, True)


def test_noise_is_not_compared_if_only_one_batch_norm_name_is_shared(tmp_path):
    other = {**run_of()["measured"], "sqnr": {"bn1": 30.0, "stem": 21.0, "blocks.0": 9.0}}
    assert compare([folder_of(tmp_path / "a"), folder_of(tmp_path / "b", measured=other)]).noise == []
