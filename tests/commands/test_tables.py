"""Tables are fitted to a terminal, and printed in full elsewhere."""

import os

import pytest
from rich.cells import cell_len

from intraq_cli.commands import tables
from intraq_cli.commands.tables import Column, fitted, print_rows, shortened_cell

COLUMNS = (
    Column("layer", shrinks=True),
    Column("kind", rank=2),
    Column("bytes", right=True, rank=1),
    Column("share", right=True),
)
ROWS = [["features.0.very_long_name.of_a_block.conv1", "conv2d", "1,280,000", "99.5"], ["fc", "linear", "4", "0.5"]]


def lines(capsys: pytest.CaptureFixture[str], width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    if width:
        monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(tables.shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    monkeypatch.setenv("TERM", "dumb")
    print_rows(COLUMNS, ROWS)
    return capsys.readouterr().out.splitlines()


def test_table_is_printed_in_full_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    header, first, second = lines(capsys, None, monkeypatch)
    assert header.split() == ["layer", "kind", "bytes", "share"]
    assert first.split() == ROWS[0]
    assert second == f"{'fc':<{len(ROWS[0][0])}}  linear          4    0.5"


@pytest.mark.parametrize(
    ("width", "header"),
    [
        (80, ["layer", "kind", "bytes", "share"]),
        (48, ["layer", "kind", "bytes", "share"]),
        (36, ["layer", "bytes", "share"]),
        (24, ["layer", "share"]),
    ],
)
def test_narrow_terminal_gets_shorter_names_and_then_fewer_columns(capsys, monkeypatch, width, header):
    shown = lines(capsys, width, monkeypatch)
    assert shown[0].split() == header
    assert all(cell_len(line) <= width for line in shown[:3])
    name = shown[1].split()[0]
    assert name == ROWS[0][0] or (name.startswith("featur") and name.endswith("conv1"))
    assert shown[1].split()[-1] == "99.5"
    missing = [column.name for column in COLUMNS if column.name not in header]
    assert shown[3:] == ([f"not shown, as the terminal is too narrow: {', '.join(missing)}"] if missing else [])


@pytest.mark.parametrize("width", range(1, 200, 7))
def test_as_many_columns_are_kept_as_fit_the_width(width):
    """Compared with all choices of columns: none with more of them fits at their minimum widths."""
    kept, widths = fitted(COLUMNS, ROWS, width)
    full = [max(len(column.name), *(len(row[k]) for row in ROWS)) for k, column in enumerate(COLUMNS)]
    least = [min(size, tables.SHORTEST) if column.shrinks else size for column, size in zip(COLUMNS, full, strict=True)]
    chains = [[0, 1, 2, 3], [0, 2, 3], [0, 3]]  # by rank
    room = [chain for chain in chains if sum(least[k] for k in chain) + 2 * (len(chain) - 1) <= width]
    assert kept == (room or chains[-1:])[0]
    assert not room or sum(widths) + 2 * (len(kept) - 1) <= width


@pytest.mark.parametrize("text", ["", "a", "stages.2.1.conv1", "第一层.卷积.权重", "x" * 300])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 16])
def test_shortened_text_fits_and_keeps_both_ends(text, width):
    found = shortened_cell(text, width)
    assert cell_len(found) <= width
    if cell_len(text) <= width:
        assert found == text
    else:
        head, tail = found.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_control_characters_in_cells_do_not_reach_the_terminal(capsys):
    print_rows(COLUMNS[:1], [["\x1b[31mred\nline"]])
    assert capsys.readouterr().out == "layer\n[31mred line\n"
