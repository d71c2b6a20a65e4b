"""A table of records as Markdown, LaTeX and CSV, and how its numbers are printed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utils.files.text import printable
from utils.report.statistics import NOT_FINITE
from utils.tabular import markdown_table

Record = Mapping[str, Any]
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # a spreadsheet's formula begins so; also in full width
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "#$%&_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
)


@dataclass(frozen=True)
class Table:
    """Records, and the columns in which they are printed. The CSV file holds all values of the records.

    columns: heading -> the function that gives a record's text in that column.
    """

    name: str
    title: str
    records: Sequence[Record]
    columns: Mapping[str, Callable[[Record], str]]
    note: str = ""

    def rows(self) -> list[list[str]]:
        """The headings, then a row per record. A column without any text is omitted."""
        columns = {head: [text(record) for record in self.records] for head, text in self.columns.items()}
        filled = {head: texts for head, texts in columns.items() if any(texts)}
        return [list(filled), *map(list, zip(*filled.values(), strict=True))]

    def markdown(self) -> str:
        """Title, note and rows."""
        return "\n\n".join(part for part in (f"## {self.title}", self.note, markdown_table(*self.rows())) if part)

    def latex(self) -> str:
        r"""A tabular environment that needs no LaTeX package; its rules are \hline. (pandas' to_latex needs booktabs.)"""
        head, *body = [" & ".join(printable(field).translate(LATEX) for field in row) + r" \\" for row in self.rows()]
        begin = rf"\begin{{tabular}}{{{'l' * len(self.rows()[0])}}}"
        return "\n".join([f"% {self.title}", begin, r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}", ""])

    def write(self, folder: Path) -> None:
        """Writes <name>.csv and <name>.tex into the folder."""
        write_records(self.records, folder / f"{self.name}.csv")
        (folder / f"{self.name}.tex").write_text(self.latex(), encoding="utf-8")


def write_records(records: Sequence[Record], path: Path) -> None:
    """Writes a CSV file with a row per record, texts by `plain_field`, numbers with 8 significant digits, NaN as an empty one."""
    plain = [{name: plain_field(v) if isinstance(v, str) else v for name, v in record.items()} for record in records]
    pd.DataFrame(plain).to_csv(path, index=False, float_format="%.8g", lineterminator="\n")


def plain_field(text: str) -> str:
    """A text for a field of a CSV file: printable, and with an apostrophe before what a spreadsheet would run as a formula."""
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits after the point; "" for NaN, which stands for what is not known."""
    return "" if value != value else f"{value:.{digits}f}"


def mean_variance(mean: float, variance: float) -> str:
    """A mean and a variance as the paper prints them, "42.265 (8.143)"; "" for NaN, which stands for what is not known."""
    return f"{mean:.3f} ({variance:.3f})" if mean == mean else ""


def measured(value: float, text: str) -> str:
    """The text of a number that was measured: "not finite" in its place where it is NaN or infinite."""
    return text if math.isfinite(value) else NOT_FINITE
