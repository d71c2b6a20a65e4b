"""A table of records: its fields, and itself as LaTeX and CSV; how its numbers are printed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.files.text import printable
from utils.report.statistics import NOT_FINITE
from utils.tables.cells import Cell

Record = Mapping[str, Any]
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # a spreadsheet's formula begins so; also in full width
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "#$%&_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
)


class Field(NamedTuple):
    """A field of a table: its text, and what the page makes of it.

    verdict: a word of verdicts.py, which gives the field its colour. target: the id of the element of the page that the field
    links to; where the page has no such element there is no link.
    """

    text: str
    verdict: str = ""
    target: str = ""


@dataclass(frozen=True)
class Table:
    """Records, and the columns in which they are printed. The CSV file holds all values of the records.

    columns: heading -> the function that gives a record's field in that column, or the field's text.
    """

    name: str
    title: str
    records: Sequence[Record]
    columns: Mapping[str, Callable[[Record], str | Field]]
    note: str = ""

    def fields(self) -> dict[str, list[Field]]:
        """Heading -> the fields below it, one per record. A column without any text is omitted."""
        columns = {head: [_as_field(field(record)) for record in self.records] for head, field in self.columns.items()}
        return {head: fields for head, fields in columns.items() if any(field.text for field in fields)}

    def rows(self) -> list[list[str]]:
        """The texts: the headings, then a row per record."""
        columns = self.fields()
        return [list(columns), *([field.text for field in row] for row in zip(*columns.values(), strict=True))]

    def latex(self) -> str:
        r"""A tabular environment that needs no LaTeX package; its rules are \hline. (pandas' to_latex needs booktabs.)"""
        rows = self.rows()
        head, *body = [" & ".join(printable(text).translate(LATEX) for text in row) + r" \\" for row in rows]
        begin = rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
        return "\n".join([f"% {self.title}", begin, r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}", ""])

    def write(self, folder: Path) -> None:
        """Writes <name>.csv and <name>.tex into the folder."""
        write_records(self.records, folder / f"{self.name}.csv")
        (folder / f"{self.name}.tex").write_text(self.latex(), encoding="utf-8")


def _as_field(field: str | Field) -> Field:
    return field if isinstance(field, Field) else Field(field)


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


def cell_of(record: Record) -> Cell:
    """The cell whose fields a record has."""
    return Cell(*(record[name] for name in Cell._fields))


def net_of(record: Record) -> str:
    """Net and data set of a record with a cell's fields."""
    return cell_of(record).net


def with_settings(name: str, settings: str) -> str:
    """A name with the settings that set it apart, in brackets where there are any."""
    return f"{name} ({settings})" if settings else name


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits after the point; "" for NaN, which stands for what is not known."""
    return "" if value != value else f"{value:.{digits}f}"


def mean_variance(mean: float, variance: float) -> str:
    """A mean and a variance as the paper prints them, "42.265 (8.143)"; "" for NaN, which stands for what is not known."""
    return f"{mean:.3f} ({variance:.3f})" if mean == mean else ""


def difference_and_p(record: Record, digits: int, prefix: str = "") -> str:
    """A record's difference with its sign, and p where there is one; "" where there is no difference. prefix: of both names."""
    difference, p = (record.get(f"{prefix}{name}", math.nan) for name in ("difference", "p"))
    if difference != difference:
        return ""
    return f"{difference:+.{digits}f}" + (f", p = {p:.2g}" if p == p else "")


def measured(value: float, text: str) -> str:
    """The text of a number that was measured: "not finite" in its place where it is NaN or infinite."""
    return text if math.isfinite(value) else NOT_FINITE
