"""Tables: their fields, LaTeX and CSV."""

import csv

from utils.report.formatting import Field, Table, mean_variance, number, write_records

TABLE = Table(
    "one",
    "Title",
    [{"a": 1 / 3, "b": "x|y_z", "c": ""}, {"a": float("nan"), "b": "50 %", "c": ""}],
    {
        "A": lambda r: number(r["a"]),
        "B": lambda r: Field(r["b"], "within", "here") if "x" in r["b"] else r["b"],
        "empty": lambda r: r["c"],
    },
    "Note.",
)


def test_a_column_without_any_text_is_left_out():
    assert TABLE.rows() == [["A", "B"], ["0.333", "x|y_z"], ["", "50 %"]]
    assert TABLE.fields()["B"] == [Field("x|y_z", "within", "here"), Field("50 %")]


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


def test_csv_texts_are_no_formulas_and_numbers_stay_numbers(tmp_path):
    texts = ["=1+1", "+a", "-a", "@a", " =1", "-1.5", "+1e3", "a=b", "'", "a\x1b"]
    write_records([{"text": text, "number": -2.5} for text in texts], tmp_path / "some.csv")
    with open(tmp_path / "some.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["'=1+1", "'+a", "'-a", "'@a", "' =1", "-1.5", "+1e3", "a=b", "'", r"a\x1b"]
    assert {row["number"] for row in rows} == {"-2.5"}
