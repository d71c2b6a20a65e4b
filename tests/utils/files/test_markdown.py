"""Markdown tables."""

from utils.files.markdown import markdown_table


def test_a_bar_is_escaped_and_a_row_is_one_line():
    assert markdown_table(("A", "B"), ("x|y", "1\n2")) == "| A | B |\n|---|---|\n| x\\|y | 1 2 |"


def test_headings_alone():
    assert markdown_table(("A", "B", "C")) == "| A | B | C |\n|---|---|---|"
