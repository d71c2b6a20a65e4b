"""Tables as Markdown, LaTeX and CSV."""

import csv

from utils.report.formatting import Table, mean_variance, number, write_records

TABLE = Table(
    "one",
    "Title",
    [{"a": 1 / 3, "b": "x|y_z", "c": ""}, {"a": float("nan"), "b": "50 %", "c": ""}],
    {"A": lambda r: number(r["a"]), "B": lambda r: r["b"], "empty": lambda r: r["c"]},
    "Note.",
)


def test_markdown():
    assert TABLE.markdown() == "## Title\n\nNote.\n\n| A | B |\n|---|---|\n| 0.333 | x\\|y_z |\n|  | 50 % |"


def test_latex_escapes_and_has_the_right_number_of_columns():
    lines = TABLE.latex().splitlines()
    assert lines[1] == r"\begin{tabular}{ll}"
    assert r"0.333 & x|y\_z \\" in lines
    assert r" & 50 \% \\" in lines


def test_csv_holds_the_records_whole(tmp_path):
    TABLE.write(tmp_path)
    assert (tmp_path / "one.tex").read_text() == TABLE.latex()
    with open(tmp_path / "one.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "0.33333333", "b": "x|y_z", "c": ""}, {"a": "", "b": "50 %", "c": ""}]


def test_csv_with_fields_that_only_some_records_have(tmp_path):
    write_records([{"n": 2, "a": 1.23456789012}, {"n": 0, "b": "x"}], tmp_path / "some.csv")
    assert (tmp_path / "some.csv").read_text() == "n,a,b\n2,1.2345679,\n0,,x\n"


def test_numbers():
    assert (number(float("nan")), number(2, 1), mean_variance(42.2648, 8.1432)) == ("", "2.0", "42.265 (8.143)")
