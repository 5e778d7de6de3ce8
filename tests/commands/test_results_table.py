"""``zoo show`` for tables of results: the rows that were asked for, and no others."""

import csv
import io
import json

import pytest

from intraq_cli import zoo


@pytest.fixture
def measured():
    return zoo.read_table(zoo.result_tables()["measured"])


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ((), lambda row: True),
        (("--model", "MobileNet"), lambda row: "mobilenet" in row["network"]),
        (("--recipe", "fast"), lambda row: row["recipe"] == "fast"),
        (("--w", "3"), lambda row: row["bits"].startswith("W3A")),
        (
            ("--w", "4", "--a", "4", "--placement", "inputs"),
            lambda r: (r["bits"], r["placement"]) == ("W4A4", "inputs"),
        ),
        (("--model", "no such network"), lambda row: False),
    ],
)
def test_filters_select_the_same_rows_in_every_output_format(intraq, measured, args, wanted):
    expected = [row for row in measured if wanted(row)]
    assert json.loads(intraq("zoo", "show", "results", *args, "--json").out) == {"name": "measured", "rows": expected}
    assert list(csv.DictReader(io.StringIO(intraq("zoo", "show", "results", *args, "--csv").out))) == expected
    header, *lines = intraq("zoo", "show", "measured", *args).out.splitlines()
    assert header.split() == list(measured[0])
    assert [line.split()[0] for line in lines] == [row["network"] for row in expected]


@pytest.mark.parametrize("name", zoo.result_tables())
def test_csv_holds_every_row_of_the_file(intraq, name):
    made = io.StringIO(intraq("zoo", "show", name, "--csv").out)
    assert list(csv.DictReader(made)) == zoo.read_table(zoo.result_tables()[name])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("coverage", "--w", "4"), "no column bits"),
        (("published", "--recipe", "fast"), "no column recipe"),
        (("default", "--csv"), "not a table of results"),
        (("resnet20_digits", "--model", "x"), "not a table of results"),
    ],
)
def test_filters_on_missing_columns_or_without_a_table_are_usage_errors(intraq, args, says):
    made = intraq("zoo", "show", *args)
    assert (made.code, made.out) == (2, "")
    assert says in made.err
